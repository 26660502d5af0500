"""Every query against every item: exact, for any similarity, in chunks that stay in the cache."""

from __future__ import annotations

import torch

from genrec_lite.jagged import JaggedTensor
from genrec_lite.retrieval.index import Index
from genrec_lite.retrieval.scoring import score_block
from genrec_lite.retrieval.top_k import GROUP, RunningTopK, TopK, mask_excluded
from genrec_lite.similarity.sides import Side

__all__ = ["BruteForce"]

# Queries searched together.
QUERIES_AT_ONCE = 64
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
