"""Scores of few queries and many items, or of each query and its own candidates, chunk by chunk.

Chunks are as large as the cache, and an item's score is the same to the last bit whatever is
scored beside it: what two indexes find can be compared, ties included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from genrec_lite.retrieval.corpus import Corpus, device_of
from genrec_lite.retrieval.top_k import NO_ID, NO_SCORE, RunningTopK, TopK
from genrec_lite.similarity.interface import Similarity
from genrec_lite.similarity.sides import MixtureSide, Side

__all__ = ["chunk_of_items", "filled_up", "rescored", "score_block"]

S = TypeVar("S", Tensor, MixtureSide, Tensor | MixtureSide)

# Bytes of what is made for one chunk of pairs: a part of the level-3 cache. Smaller chunks lose
# more in calls than they gain in the level-2 cache.
CHUNK_BYTES = 3 * 2**20
# Items a chunk, a multiple of this: more than the tiles that matrix libraries cut rows into.
TILE = 16
# Candidates of one query gathered and rescored together: 19 MB of item sides at the paper's sizes.
RESCORED_AT_ONCE = 2**14


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


@torch.no_grad()
def rescored(
    similarity: Similarity, corpus: Corpus, queries: Side, candidates: Sequence[Tensor], k: int
) -> TopK:
    """The k best of each query's own candidates; `rescored` counts the candidates.

    Args:
        similarity: scores queries against the items of `corpus`.
        corpus: N items.
        queries: B query sides.
        candidates: B times places (h,) int64 in the corpus, ascending.
        k: at least 1; a row with fewer candidates ends in scores of -inf and ids of -1.
    """
    counts = torch.tensor([len(places) for places in candidates], device=corpus.device)
    scores = torch.full((len(queries), int(counts.max())), NO_SCORE, device=corpus.device)
    ids = torch.full_like(scores, NO_ID, dtype=torch.int64)
    for row, places in enumerate(candidates):
        for at in range(0, len(places), RESCORED_AT_ONCE):
            some = places[at : at + RESCORED_AT_ONCE]
            cells = slice(at, at + len(some))
            items, found = corpus.take(filled_up(some))
            made = score_block(similarity, queries[row : row + 1], items)
            scores[row, cells], ids[row, cells] = made[0, : len(some)], found[: len(some)]
    best = RunningTopK(len(queries), k, corpus.device)
    best.add(scores, ids)
    return TopK(best.scores, best.ids, counts)


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
