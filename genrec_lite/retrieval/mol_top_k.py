"""Top-k of a mixture of logits without scoring every item: one exact way, three approximate ones.

Dot products of components are cheap beside the gate, so they choose a few candidates, and only
those are scored in full ("rescored"; MoL paper, 2407.15462, section 4). Exact are the scores of
all candidates; what an approximate way may miss is an item.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from genrec_lite.jagged import JaggedTensor
from genrec_lite.retrieval.corpus import Block
from genrec_lite.retrieval.index import Index, describe
from genrec_lite.retrieval.scoring import chunk_of_items, filled_up, rescored
from genrec_lite.retrieval.top_k import GROUP, NO_ID, NO_SCORE, RunningTopK, TopK, mask_excluded
from genrec_lite.similarity.mixture_of_logits import MixtureOfLogits
from genrec_lite.similarity.sides import MixtureSide, Side

__all__ = ["Average", "Combined", "ExactTwoPass", "MolTopK", "PerComponent"]

# Queries whose candidates are found together: their products with all items share one reading.
QUERIES_AT_ONCE = 32
# Dot products made before the best of them are taken: 8 MB, in the level-3 cache.
PRODUCTS_AT_ONCE = 2**21


class MolTopK(Index):
    """What the four ways share: candidates of each query, rescored by the whole similarity.

    If there are fewer candidates than k, and the corpus holds more, the choice is widened: a
    search gives k items whenever brute force does.

    Args:
        similarity: a mixture of logits.
        items: item sides of N items.
        ids: (N,) int64, distinct and at least 0; 0 to N - 1 unless given.
    Raises:
        ValueError: as `Index`.
    """

    similarity: MixtureOfLogits

    def __init__(
        self, similarity: MixtureOfLogits, items: MixtureSide, ids: Tensor | None = None
    ) -> None:
        super().__init__(similarity, items, ids)
        self.corpus = self.corpus.beside_of(self._tables)

    def add(self, items: Side, ids: Tensor) -> None:
        """Takes in items; see `Corpus.add`."""
        items = items.to(self.corpus.precision)  # or the tables would have that of the new items
        self.corpus.add(items, ids, self._tables(items))

    def save(self, path: Path | str) -> None:
        """Writes the items alone, as `BruteForce` does: either index loads the other's file."""
        self.corpus.beside_of(lambda _: {}).save(path, describe(self.similarity))

    @classmethod
    def load(cls, path: Path | str, similarity: Any, **options: Any) -> Self:
        """The index of a file that `save` wrote; see `Index.load`."""
        index = super().load(path, similarity, **options)
        index.corpus = index.corpus.beside_of(index._tables)
        return index

    def _tables(self, items: Side) -> Mapping[str, Tensor]:
        """What is kept beside the item sides, by name."""
        return {}

    def _search(self, queries: Side, k: int, exclude: JaggedTensor | None) -> TopK:
        assert isinstance(queries, MixtureSide)  # as the items are, which is checked
        found = []
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            rows = slice(start, start + QUERIES_AT_ONCE)
            left_out = exclude[rows] if exclude is not None else None
            found.append(self._search_few(queries[rows], k, left_out))
        return TopK(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _search_few(self, queries: MixtureSide, k: int, exclude: JaggedTensor | None) -> TopK:
        """What is found for a few queries."""
        candidates = self._candidates(queries, k, exclude)
        return rescored(self.similarity, self.corpus, queries, candidates, k)

    @abstractmethod
    def _candidates(
        self, queries: MixtureSide, k: int, exclude: JaggedTensor | None
    ) -> list[Tensor]:
        """For each query the places in the corpus to rescore, ascending, k or more if there are."""

    def _pieces(
        self, scores_each: int, exclude: JaggedTensor | None
    ) -> Iterator[tuple[Tensor, Block, tuple[Tensor, Tensor]]]:
        """All items, few at a time: their places, their block, (query, column) of those left out.

        Args:
            scores_each: scores that will be made of one item.
            exclude: rows of ids.
        """
        first, device = 0, self.corpus.device
        left_out = (torch.empty(0, dtype=torch.int64, device=device),) * 2
        for block in self.corpus.pieces(max(GROUP, PRODUCTS_AT_ONCE // scores_each)):
            if exclude is not None:
                left_out = exclude.row_ids(), block.places_of(exclude.values)
            yield torch.arange(first, first + len(block), device=device), block, left_out
            first += len(block)

    def _best_by_mean(
        self, queries: MixtureSide, k: int, exclude: JaggedTensor | None
    ) -> list[Tensor]:
        """Places of the k best of each query by the dot product of the mean components."""
        mean = queries.components.mean(1)  # (B, D)
        best = RunningTopK(len(queries), k, mean.device)
        for places, block, left_out in self._pieces(len(queries), exclude):
            products = mean @ block.beside["mean"].to(mean.dtype).t()
            mask_excluded(products, *left_out)
            best.add(products, places)
        return [_distinct(places) for places in best.ids]

    def _best_by_component(
        self, queries: MixtureSide, k_each: int, k: int, exclude: JaggedTensor | None
    ) -> list[Tensor]:
        """Places of the k_each best of each query by any component; more, if they are below k."""
        num_queries, of_query = queries.components.shape[:2]
        of_item = self.similarity.item_components
        device = self.corpus.device
        best = [RunningTopK(num_queries * of_query, k_each, device) for _ in range(of_item)]
        for places, block, left_out in self._pieces(queries.gate.numel(), exclude):
            for kept, products in zip(best, _products(queries, block, left_out), strict=True):
                kept.add(products.flatten(0, 1), places)
        each = torch.cat([kept.ids.view(num_queries, -1) for kept in best], 1)
        union = [_distinct(places) for places in each]
        short = [row for row, places in enumerate(union) if len(places) < k]
        if short and k_each < k:  # many components like the same items
            rows = torch.tensor(short, device=device)
            few = exclude.select(rows) if exclude is not None else None
            wider = self._best_by_component(queries[rows], min(2 * k_each, k), k, few)
            for row, places in zip(short, wider, strict=True):
                union[row] = places
        return union


class Average(MolTopK):
    """TopKAvg: candidates by one dot product, of the mean components of query and item.

    It is the mean of all component logits, so the cheapest of the choices, but it does not see
    a component that stands out. `memory_bytes` counts the items' means, (N, D), too.

    Args:
        similarity, items, ids: as `MolTopK`.
        k_candidates: items rescored for each query; k if that is more.
    """

    def __init__(
        self,
        similarity: MixtureOfLogits,
        items: MixtureSide,
        ids: Tensor | None = None,
        *,
        k_candidates: int = 2000,
    ) -> None:
        super().__init__(similarity, items, ids)
        self.k_candidates = _at_least_one("k_candidates", k_candidates)

    def _tables(self, items: Side) -> Mapping[str, Tensor]:
        return _means(items)

    def _candidates(
        self, queries: MixtureSide, k: int, exclude: JaggedTensor | None
    ) -> list[Tensor]:
        return self._best_by_mean(queries, max(k, self.k_candidates), exclude)


class PerComponent(MolTopK):
    """TopKPerEmbd: candidates are the union of the best items by each of the P dot products.

    Args:
        similarity, items, ids: as `MolTopK`.
        k_each: items by each dot product, so at most P times as many are rescored.
    """

    def __init__(
        self,
        similarity: MixtureOfLogits,
        items: MixtureSide,
        ids: Tensor | None = None,
        *,
        k_each: int = 50,
    ) -> None:
        super().__init__(similarity, items, ids)
        self.k_each = _at_least_one("k_each", k_each)

    def _candidates(
        self, queries: MixtureSide, k: int, exclude: JaggedTensor | None
    ) -> list[Tensor]:
        return self._best_by_component(queries, self.k_each, k, exclude)


class Combined(MolTopK):
    """CombTopK: the candidates of `PerComponent` and of `Average` together.

    Args:
        similarity, items, ids: as `MolTopK`.
        k_each: as `PerComponent`.
        k_candidates: as `Average`.
    """

    def __init__(
        self,
        similarity: MixtureOfLogits,
        items: MixtureSide,
        ids: Tensor | None = None,
        *,
        k_each: int = 5,
        k_candidates: int = 200,
    ) -> None:
        super().__init__(similarity, items, ids)
        self.k_each = _at_least_one("k_each", k_each)
        self.k_candidates = _at_least_one("k_candidates", k_candidates)

    def _tables(self, items: Side) -> Mapping[str, Tensor]:
        return _means(items)

    def _candidates(
        self, queries: MixtureSide, k: int, exclude: JaggedTensor | None
    ) -> list[Tensor]:
        by_mean = self._best_by_mean(queries, max(k, self.k_candidates), exclude)
        by_each = self._best_by_component(queries, self.k_each, 1, exclude)
        return [torch.cat(both).unique() for both in zip(by_mean, by_each, strict=True)]


class ExactTwoPass(Average):
    """The exact top-k: no item is left out that could be in it.

    A score is a weighted mean of component logits, so it is at most the largest of them. Pass 1
    rescores some good candidates; their k-th best score s is a lower bound of what is sought.
    Pass 2 rescores every other item that has a component logit of s or more. Any candidates
    serve pass 1, the better the fewer are left for pass 2: those of `Average` cost least, and
    bring s closer to its final value than the best of each component.
    How few items pass 2 rescores depends on the components: untrained, they have nothing to do
    with each other, so an item's mean logit is small, its largest is not, and hardly any item is
    left out.

    Args:
        similarity, items, ids: as `MolTopK`.
        k_candidates: items rescored in pass 1; k if that is more.
    """

    def __init__(
        self,
        similarity: MixtureOfLogits,
        items: MixtureSide,
        ids: Tensor | None = None,
        *,
        k_candidates: int = 200,
    ) -> None:
        super().__init__(similarity, items, ids, k_candidates=k_candidates)

    def _search_few(self, queries: MixtureSide, k: int, exclude: JaggedTensor | None) -> TopK:
        candidates = self._candidates(queries, k, exclude)
        first = rescored(self.similarity, self.corpus, queries, candidates, k)
        best = RunningTopK(len(queries), k, self.corpus.device)
        best.add(first.scores, first.ids)
        least = best.threshold - self._rounding  # (B,), -inf where fewer than k can be found
        seen = JaggedTensor.from_lists(candidates, torch.int64)
        seen_rows, looked_at = seen.row_ids(), first.rescored
        for places, block, (rows, columns) in self._pieces(queries.gate.numel(), exclude):
            possible = torch.ones(len(queries), len(block), dtype=torch.bool, device=places.device)
            inside = columns >= 0
            possible[rows[inside], columns[inside]] = False
            here = (seen.values >= places[0]) & (seen.values <= places[-1])
            possible[seen_rows[here], seen.values[here] - places[0]] = False
            assert isinstance(block.items, MixtureSide)
            scores = self._score_possible(queries, block.items, possible, least)
            best.add(scores, block.ids)
            looked_at = looked_at + possible.sum(1)
        return TopK(best.scores, best.ids, looked_at)

    def _score_possible(
        self, queries: MixtureSide, items: MixtureSide, possible: Tensor, least: Tensor
    ) -> Tensor:
        """(B, n) scores of the pairs whose largest logit is `least` (B,) or more, else -inf.

        The component logits are made for all pairs, the gate, four times the work at
        the paper's sizes, only for those; `possible` (B, n) says which may be looked at, and
        afterwards which were.
        """
        scores = torch.full(possible.shape, NO_SCORE, device=possible.device)
        step = chunk_of_items(queries, items)
        for at in range(0, len(items), step):
            chunk, some = items[at : at + step], possible[:, at : at + step]
            logits = self.similarity.component_logits(queries, filled_up(chunk))[:, : len(chunk)]
            some &= logits.amax(-1) >= least[:, None]
            pairs = some.nonzero()
            if not len(pairs):
                continue
            rows, columns = filled_up(pairs).unbind(1)
            picked = logits[rows, columns]  # (m, P)
            weights = self.similarity.gate_weights(picked, queries.gate[rows], chunk.gate[columns])
            # Repeated pairs write the same score twice.
            scores[rows, columns + at] = (weights * picked).sum(-1)
        return scores

    @property
    def _rounding(self) -> float:
        """By how much a float32 score may exceed its float32 bound.

        Sums of D products and of P weighted logits, each at most 1 / temperature, may be off by
        half a unit in the last place for each term; twice that, as both sides are.
        """
        terms = self.similarity.component_dim + self.similarity.pair_gate.contract.out_features
        return 2 * terms * torch.finfo(torch.float32).eps / self.similarity.temperature


def _products(
    queries: MixtureSide, block: Block, left_out: tuple[Tensor, Tensor]
) -> Iterator[Tensor]:
    """For each of the P_X item components (B, P_Q, n) dot products; -inf for those left out."""
    assert isinstance(block.items, MixtureSide)
    f = queries.components.flatten(0, 1)  # (B P_Q, D)
    g = block.items.components.to(f.dtype)
    rows, columns = left_out
    inside = columns >= 0
    for component in range(g.shape[1]):
        products = (f @ g[:, component].t()).view(len(queries), -1, len(g))
        products[rows[inside], :, columns[inside]] = NO_SCORE
        yield products


def _means(items: Side) -> Mapping[str, Tensor]:
    """The mean component of each item, (N, D), in the items' precision."""
    return {"mean": items.components.mean(1)} if isinstance(items, MixtureSide) else {}


def _distinct(places: Tensor) -> Tensor:
    """The places of items among `places` (m,), ascending, each once."""
    return places[places != NO_ID].unique()


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} is {value}: at least 1")
    return value
