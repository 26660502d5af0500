"""Every query against every item: exact, for any similarity, in chunks that stay in the cache."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from genrec_lite.jagged import JaggedTensor
from genrec_lite.retrieval.corpus import device_of
from genrec_lite.retrieval.index import Index
from genrec_lite.retrieval.top_k import GROUP, RunningTopK, TopK, mask_excluded
from genrec_lite.similarity.interface import Similarity
from genrec_lite.similarity.sides import MixtureSide, Side

__all__ = ["BruteForce", "chunk_of_items", "filled_up", "score_block"]

S = TypeVar("S", Tensor, MixtureSide, Tensor | MixtureSide)

# Queries searched together.
QUERIES_AT_ONCE = 64
# Bytes of what is made for one chunk of pairs: a part of the level-3 cache. Smaller chunks lose
# more in calls than they gain in the level-2 cache.
CHUNK_BYTES = 3 * 2**20
# Items a chunk, a multiple of this: more than the tiles that matrix libraries cut rows into.
TILE = 16
# Scores that are made before the best of them are taken: 2 MB, so that they are still in the
# level-3 cache, and so many that taking the best costs little for each.
SCORES_AT_ONCE = 2**19


class BruteForce(Index):
    """Scores every item for every query and keeps the k best; what other indexes are held to.

    Its `rescored` is the number of items, for each query.
    """

    def _search(self, queries: Side, k: int, exclude: JaggedTensor | None) -> TopK:
        found = []
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            rows = slice(start, start + QUERIES_AT_ONCE)
            few, left_out = queries[rows], exclude[rows] if exclude is not None else None
            best = RunningTopK(len(few), k, self.corpus.device)
            for block in self.corpus.pieces(max(GROUP, SCORES_AT_ONCE // len(few))):
                scores = score_block(self.similarity, few, block.items)
                if left_out is not None:
                    places = block.places_of(left_out.values)
                    mask_excluded(scores, left_out.row_ids(), places)
                best.add(scores, block.ids)
            found.append(best)
        return TopK(
            torch.cat([best.scores for best in found]),
            torch.cat([best.ids for best in found]),
            torch.full((len(queries),), len(self), device=self.corpus.device),
        )


@torch.no_grad()
def score_block(similarity: Similarity, queries: Side, items: Side) -> Tensor:
    """(B, n) float32 scores of B query sides and n item sides, made chunk by chunk."""
    n, step = len(items), chunk_of_items(queries, items)
    scores = torch.empty(len(queries), n, device=device_of(items))
    for at in range(0, n, step):
        chunk = items[at : at + step]
        width = len(chunk)
        scores[:, at : at + width] = similarity.score(queries, filled_up(chunk))[:, :width]
    return scores


def filled_up(rows: S) -> S:
    """The rows, the last one repeated until their number is a multiple of `TILE`.

    Matrix libraries treat what is left over at an edge in another order, and the last bit of an
    item's score, which decides ties, must not depend on the items scored beside it. (With MKL it
    then does not, if the sizes of the similarity are multiples of 8, too.)
    """
    n = len(rows)
    if n % TILE == 0:
        return rows
    return rows[torch.arange(-(-n // TILE) * TILE, device=device_of(rows)).clamp(max=n - 1)]


def chunk_of_items(queries: Side, items: Side) -> int:
    """Items to score at once, so that what is made for them stays in the cache.

    A mixture of logits makes about 6 P floats for each pair (P logits, the gate's hidden layer of
    4 P at the paper's sizes, P weights): 128 items for 32 queries and P = 32. A dot product makes
    1, and the larger the chunk the better.
    """
    floats = 6 * items.gate.shape[1] if isinstance(items, MixtureSide) else 1
    rows = CHUNK_BYTES // (4 * floats * len(queries) * TILE)
    return TILE * max(1, rows)
