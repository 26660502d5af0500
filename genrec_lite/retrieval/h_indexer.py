"""The h-indexer: a cheap dot product over all items, a sampled threshold, MoL on the survivors.

Zhai et al. 2023 (2306.04039). Stage one compares low-dimensional vectors that were trained
together with the similarity of stage two. It keeps what reaches a threshold, one comparison an
item, where a top-k' would have to select; the threshold is read off a random sample of the items.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from genrec_lite.jagged import JaggedTensor
from genrec_lite.retrieval.corpus import BLOCK_ITEMS, Corpus
from genrec_lite.retrieval.index import Index, check_queries, describe, require_side
from genrec_lite.retrieval.scoring import rescored
from genrec_lite.retrieval.top_k import NO_ID, RunningTopK, TopK, mask_excluded
from genrec_lite.similarity.interface import Similarity
from genrec_lite.similarity.sides import Side

__all__ = ["HIndexer", "StagedQueries", "places_at_least", "sample_size"]

# 4,096 items for 32 queries are 512 kB of scores and 1 MB of widened vectors: the level-2 cache.
# Measured at 1M items: 2,048 to 8,192 cost the same, 65,536 nearly twice as much.
CHUNK_ITEMS = 4096
QUERIES_AT_ONCE = 32
# The threshold may let through this many times the target before it is given up for a top-k'.
MOST_SURVIVORS = 2
# Share of a normal distribution within this many standard deviations of its mean: 99%.
Z99 = 2.576
# Unit vectors have no entry beyond 1, so one scale holds for all, those added later included.
INT8_SCALE = 127
# What rounding to bfloat16 may do to the length of a unit vector.
UNIT_TOLERANCE = 0.01
COARSE = "coarse"


@dataclass(frozen=True)
class StagedQueries:
    """Both sides of B queries.

    Args:
        coarse: (B, d1) unit vectors, for stage one.
        fine: query sides, for stage two.
    Raises:
        ValueError: if they are not as many.
    """

    coarse: Tensor
    fine: Side

    def __post_init__(self) -> None:
        if len(self.coarse) != len(self.fine):
            raise ValueError(
                f"{len(self.coarse)} coarse and {len(self.fine)} fine queries: both of each query"
            )

    def __len__(self) -> int:
        return len(self.coarse)

    def __getitem__(self, rows: slice | Tensor) -> StagedQueries:
        """The queries of some rows."""
        return StagedQueries(self.coarse[rows], self.fine[rows])

    def to(self, target: torch.dtype | torch.device | str) -> StagedQueries:
        """The same queries in another precision or on another device."""
        return StagedQueries(self.coarse.to(target), self.fine.to(target))


def sample_size(num_items: int, candidates: int, tolerance: float = 0.1) -> int:
    """How many items to sample so that k' is met within `tolerance` for 99% of the queries.

    Of S sampled items about m = S k'/N belong to the best k'. Their number, drawn without
    replacement, has the relative deviation sqrt((1 - k'/N) (1 - S/N) / m), and so has the number
    of items above a threshold at the m-th best sampled score. Z99 times that is the tolerance:
    m = m0 / (1 + m0 / k') with m0 = Z99^2 (1 - k'/N) / tolerance^2, and S = m N / k'.

    Args:
        num_items: N.
        candidates: k', at least 1; from N on, every item is sampled.
        tolerance: largest relative error of k', above 0.
    Raises:
        ValueError: if a number is outside these bounds.
    """
    if candidates < 1 or not tolerance > 0:
        raise ValueError(
            f"candidates is {candidates}, tolerance {tolerance}: at least 1 and above 0"
        )
    if candidates >= num_items:
        return num_items
    hits = Z99**2 * (1 - candidates / num_items) / tolerance**2
    hits /= 1 + hits / candidates
    return min(num_items, math.ceil(max(hits, 1) * num_items / candidates))


def places_at_least(scores: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column (h,) of every score (B, n) that reaches its row's threshold (B,).

    On a CPU numpy does it: torch's `nonzero` takes as long as making the scores.
    """
    if scores.device.type != "cpu":
        rows, columns = (scores >= thresholds[:, None]).nonzero(as_tuple=True)
        return rows, columns
    reached = np.flatnonzero(scores.numpy() >= thresholds.numpy()[:, None])
    numbers, places = np.divmod(reached, scores.shape[1])
    return torch.from_numpy(numbers), torch.from_numpy(places)


class HIndexer(Index):
    """Two stages: a coarse dot product and a threshold choose about k' items, the fine one ranks.

    Approximate: it finds an item of the exact top k if stage one has it among its best k'. A
    query whose threshold kept fewer than k items (the excluded ones taken out), or more than
    `MOST_SURVIVORS` k', gets the exact top k' of stage one instead, equal scores cut by the lower
    id; so k items are found wherever k are left to choose from.

    Args:
        similarity: of stage two.
        items: item sides of N items, in the precision to be kept.
        coarse_items: (N, d1) unit vectors, such as `ProjectedDotProduct.items` gives.
        ids: (N,) int64, distinct and at least 0; 0 to N - 1 unless given.
        candidates: k', how many items stage two is to score; may be set between searches.
        tolerance: largest relative error of k' in 99% of the queries; see `sample_size`.
        coarse_dtype: how the coarse vectors are kept: torch.int8, or a floating-point type.
        seed: of the sample.
    Raises:
        ValueError: as `Corpus`; also if coarse vectors hold NaN or are no unit vectors, or
            `coarse_dtype` is neither.
    """

    def __init__(
        self,
        similarity: Similarity,
        items: Side,
        coarse_items: Tensor,
        ids: Tensor | None = None,
        *,
        candidates: int = 10_000,
        tolerance: float = 0.1,
        coarse_dtype: torch.dtype = torch.int8,
        seed: int = 0,
    ) -> None:
        require_side(similarity, items)
        sample_size(len(items), candidates, tolerance)  # checks both
        if coarse_dtype != torch.int8 and not coarse_dtype.is_floating_point:
            raise ValueError(
                f"coarse_dtype is {coarse_dtype}: choose torch.int8 or a floating-point type"
            )
        self.similarity, self.candidates, self.tolerance = similarity, candidates, tolerance
        self.coarse_dtype, self.seed = coarse_dtype, seed
        self.corpus = Corpus(items, ids, {COARSE: _kept(coarse_items, coarse_dtype)})

    def add(self, items: Side, coarse_items: Tensor, ids: Tensor) -> None:  # type: ignore[override]
        """Takes in items with their coarse vectors; see `Corpus.add`."""
        self.corpus.add(items, ids, {COARSE: _kept(coarse_items, self.coarse_dtype)})

    @classmethod
    def load(cls, path: Path | str, similarity: Similarity, **options: Any) -> Self:
        """The index of a file that `save` wrote; see `Index.load`, and the class for options.

        Raises:
            ValueError: as `Index.load`; also if the file holds an index of another kind.
        """
        corpus = Corpus.load(path, describe(similarity))
        coarse = corpus.template.beside.get(COARSE)
        if coarse is None:
            raise ValueError(f"{path} is an index of another kind: it holds no coarse vectors")
        options["coarse_dtype"] = coarse.dtype
        index = cls(similarity, corpus.template.items, coarse.float(), **options)
        index.corpus = corpus
        return index

    def search(  # type: ignore[override]
        self, queries: StagedQueries, k: int, exclude: JaggedTensor | None = None
    ) -> TopK:
        """The k best of about `candidates` items for each query; see `Index.search`.

        Raises:
            ValueError: as `Index.search`; also if `k` is above `candidates`.
        """
        return super().search(queries, k, exclude)  # type: ignore[arg-type]

    def _check_queries(self, queries: StagedQueries) -> None:  # type: ignore[override]
        check_queries(queries.coarse, self.corpus.template.beside[COARSE])
        check_queries(queries.fine, self.corpus.template.items)

    def _search(  # type: ignore[override]
        self, queries: StagedQueries, k: int, exclude: JaggedTensor | None
    ) -> TopK:
        if k > self.candidates:
            raise ValueError(
                f"k is {k}, candidates {self.candidates}: stage two has to see at least k items"
            )
        found = []
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            rows = slice(start, start + QUERIES_AT_ONCE)
            left_out = exclude[rows] if exclude is not None else None
            survivors = self._survivors(queries.coarse[rows], k, left_out)
            found.append(rescored(self.similarity, self.corpus, queries.fine[rows], survivors, k))
        return TopK(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    # -- stage one ----------------------------------------------------------------------------

    def thresholds(self, coarse: Tensor) -> Tensor:
        """(B,) what a coarse score must reach; about `candidates` items of each query do.

        Args:
            coarse: (B, d1) coarse queries.
        """
        size = sample_size(len(self), self.candidates, self.tolerance)
        if size >= len(self):
            return coarse.new_full((len(coarse),), -math.inf)
        scores = _coarse_scores(coarse, self._sample(size))  # (B, S)
        hits = max(1, round(size * self.candidates / len(self)))
        return _nth_best(scores, hits)

    def candidates_of(self, coarse: Tensor, thresholds: Tensor) -> list[Tensor]:
        """For each query the places (h,) int64 in the corpus, ascending, that reach its threshold.

        Of a query with more than `MOST_SURVIVORS` k' such items the first ones only: at least one
        more than that.

        Args:
            coarse: (B, d1) coarse queries.
            thresholds: (B,).
        """
        limit, thresholds = MOST_SURVIVORS * self.candidates, thresholds.clone()
        counts = torch.zeros(len(coarse), dtype=torch.int64, device=coarse.device)
        all_rows, all_places = [counts[:0]], [counts[:0]]
        width = self.corpus.template.beside[COARSE].shape[1] + len(coarse)
        scratch = torch.empty(CHUNK_ITEMS * width, device=coarse.device)
        for start, block in zip(self.corpus.starts(), self.corpus.blocks, strict=True):
            first = len(all_rows)
            for at in range(0, len(block), CHUNK_ITEMS):
                chunk = block.beside[COARSE][at : at + CHUNK_ITEMS]
                scores = _coarse_scores(coarse, chunk, scratch)
                rows, columns = places_at_least(scores, thresholds)
                all_rows.append(rows)
                all_places.append(columns + (start + at))
            counts += torch.cat(all_rows[first:]).bincount(minlength=len(coarse))
            thresholds[counts > limit] = math.inf  # seen enough: it will get a top-k'
        order = torch.cat(all_rows).argsort(stable=True)
        return list(torch.cat(all_places)[order].split(counts.tolist()))

    def exact_candidates(self, coarse: Tensor, exclude: JaggedTensor | None = None) -> list[Tensor]:
        """For each query the places (k',), ascending, of its exact top k' by stage one.

        What the threshold stands in for. Of equal scores the lower ids are taken.

        Args:
            coarse: (B, d1) coarse queries.
            exclude: B rows of ids that are left out.
        """
        best = RunningTopK(len(coarse), self.candidates, coarse.device)
        for block in self.corpus.blocks:
            scores = _coarse_scores(coarse, block.beside[COARSE])
            if exclude is not None:
                mask_excluded(scores, exclude.row_ids(), block.places_of(exclude.values))
            best.add(scores, block.ids)
        return [self._places_of(ids[ids != NO_ID]).sort().values for ids in best.ids]

    def _survivors(self, coarse: Tensor, k: int, exclude: JaggedTensor | None) -> list[Tensor]:
        """For each query the places that stage two ranks, at least k if so many are left."""
        survivors = self.candidates_of(coarse, self.thresholds(coarse))
        too_many = [len(places) > MOST_SURVIVORS * self.candidates for places in survivors]
        if exclude is not None:
            left_out = self._places_of(exclude.values).split(exclude.lengths.tolist())
            survivors = [
                places[~torch.isin(places, out)]
                for places, out in zip(survivors, left_out, strict=True)
            ]
        missed = [many or len(s) < k for many, s in zip(too_many, survivors, strict=True)]
        rows = torch.tensor(missed, device=coarse.device).nonzero().flatten()
        if len(rows) and self.candidates < len(self):
            again = self.exact_candidates(
                coarse[rows], exclude.select(rows) if exclude is not None else None
            )
            for row, places in zip(rows.tolist(), again, strict=True):
                survivors[row] = places
        return survivors

    def _sample(self, size: int) -> Tensor:
        """(size, d1) coarse vectors of one random item in each of `size` equal stretches.

        So every item has the same chance, none is drawn twice but at the seams, and the vectors
        are read in the order of memory. A seed, a size and a number of items fix the sample; it
        is drawn anew once items have come or gone.
        """
        generator = torch.Generator().manual_seed(self.seed)
        spread = torch.arange(size) + torch.rand(size, generator=generator, dtype=torch.float64)
        places = (spread * (len(self) / size)).long().clamp(max=len(self) - 1)
        places = places.to(self.corpus.device)
        starts = self.corpus.starts()
        ends = torch.tensor([*starts, len(self)], device=places.device)
        edges = torch.searchsorted(places, ends).tolist()
        return torch.cat(
            [
                block.beside[COARSE].index_select(0, places[begin:end] - start)
                for block, start, begin, end in zip(
                    self.corpus.blocks, starts, edges[:-1], edges[1:], strict=True
                )
            ]
        )

    def _places_of(self, ids: Tensor) -> Tensor:
        """(E,) the place in the corpus of each id (E,); -1 for ids of no item."""
        places = torch.full_like(ids, -1)
        for start, block in zip(self.corpus.starts(), self.corpus.blocks, strict=True):
            inside = block.places_of(ids)
            places = torch.where(inside >= 0, inside + start, places)
        return places


def _kept(coarse: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, d1) coarse vectors in the precision to be kept, checked and converted in pieces.

    int8 keeps 127 times each entry, rounded.

    Raises:
        ValueError: if a row is no unit vector; a NaN makes it none.
    """
    if coarse.ndim != 2:
        raise ValueError(f"coarse vectors have shape {tuple(coarse.shape)}: expected (N, d1)")
    kept = torch.empty(coarse.shape, dtype=dtype, device=coarse.device)
    for at in range(0, len(coarse), BLOCK_ITEMS):
        some = coarse[at : at + BLOCK_ITEMS].detach().float()
        wrong = ~((some.norm(dim=1) - 1).abs() <= UNIT_TOLERANCE)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"row {at + row} of the coarse vectors has length {float(some[row].norm()):.3g}: "
                "expected unit vectors, such as F.normalize(vectors, dim=1) gives"
            )
        kept[at : at + BLOCK_ITEMS] = (some * INT8_SCALE).round() if dtype == torch.int8 else some
    return kept


def _coarse_scores(queries: Tensor, items: Tensor, scratch: Tensor | None = None) -> Tensor:
    """(B, n) float32 dot products of coarse vectors; those with int8 items are 127 times larger.

    int8 is what is stored and read, not what is multiplied: widening a chunk in the cache costs a
    tenth of its product, while torch's product of int8 matrices took 27 times as long as both
    (2 cores with AVX2, which has no instruction for it).

    Args:
        queries: (B, d1).
        items: (n, d1).
        scratch: at least n (d1 + B) float32 numbers to work in, where many chunks follow: fresh
            memory for each, between results that stay, made a first search half as slow again.
    """
    queries = queries.detach().float()
    if scratch is None:
        return queries @ items.float().t()
    used = 0
    if items.dtype != torch.float32:
        used = items.numel()
        items = scratch[:used].view(items.shape).copy_(items)
    scores = scratch[used : used + len(queries) * len(items)].view(len(queries), len(items))
    return torch.mm(queries, items.t(), out=scores)


def _nth_best(scores: Tensor, n: int) -> Tensor:
    """(B,) the n-th largest score of each row of (B, S)."""
    if scores.device.type == "cpu":  # numpy selects with vector instructions: a fourth of the time
        place = scores.shape[1] - n
        return torch.from_numpy(np.partition(scores.numpy(), place, axis=1)[:, place].copy())
    return scores.topk(n).values[:, -1]
