"""The k best of many scores: exact, ties by the lower id, kept up while the scores come in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["RunningTopK", "TopK", "mask_excluded", "require_k"]

# A place that no item has taken: its score is below all others, its id is no item's.
NO_SCORE, NO_ID = float("-inf"), -1
# Scores whose maximum is compared with the threshold as one.
GROUP = 32


class TopK(NamedTuple):
    """What a search found for B queries.

    Args:
        scores: (B, k) float32, descending; equal scores stand in the order of their ids.
        ids: (B, k) int64.
        rescored: (B,) int64, how many items the full similarity scored for each query.
    """

    scores: Tensor
    ids: Tensor
    rescored: Tensor


class RunningTopK:
    """The k best scores and ids so far of B queries, while blocks of scores are added.

    Most blocks of a long search hold few scores that reach the k-th best so far. Those are picked
    out by one comparison, so that keeping the top k costs little beside making the scores.

    Args:
        num_queries: B.
        k: at least 1.
        device: of the scores.
    """

    def __init__(self, num_queries: int, k: int, device: torch.device | str = "cpu") -> None:
        self.k, self._untouched = k, True
        self.scores = torch.full((num_queries, k), NO_SCORE, device=device)
        self.ids = torch.full((num_queries, k), NO_ID, dtype=torch.int64, device=device)

    @property
    def threshold(self) -> Tensor:
        """(B,) the k-th best score so far; -inf before there are k."""
        return self.scores[:, -1]

    def add(self, scores: Tensor, ids: Tensor) -> None:
        """Takes in one block of scores; the order of blocks does not matter.

        Args:
            scores: (B, n) float32; -inf for an item that is not to be found.
            ids: (n,) or (B, n) int64, no id twice for a query.
        Raises:
            ValueError: if a score is NaN; names query and item. Nothing of the block is taken in.
        """
        if not scores.numel():
            return
        maxima = _group_maxima(scores)
        if bool(maxima.amax(1).isnan().any()):  # a maximum hands NaN on
            query, item = scores.isnan().nonzero()[0].tolist()
            item = int(ids[item] if ids.ndim == 1 else ids[query, item])
            raise ValueError(
                f"the score of query {query} and item {item} is NaN: look for NaN or inf in the "
                "embeddings and in the similarity's weights"
            )
        if bool((self.threshold > NO_SCORE).all()):
            scores, ids = _at_least(scores, ids, maxima, self.threshold)
        ids = ids.expand(len(scores), -1)
        if self._untouched and scores.shape[1] > self.k:  # the usual first block: nothing to join
            self.scores, self.ids = _best(scores, ids, self.k)
        elif scores.shape[1]:
            self.scores, self.ids = _best(
                torch.cat([self.scores, scores], 1), torch.cat([self.ids, ids], 1), self.k
            )
        self._untouched = False


def require_k(found: TopK, k: int) -> TopK:
    """`found` itself, if it holds `k` items for each query.

    Raises:
        ValueError: if fewer than `k` were left to choose from; names the query and their number.
    """
    missing = (found.ids == NO_ID).sum(1) + (k - found.ids.shape[1])
    if bool((missing > 0).any()):
        query = int(missing.argmax())
        raise ValueError(
            f"k is {k}, but only {k - int(missing[query])} items are left to choose from for "
            f"query {query}, the excluded ones taken out: lower k, or exclude fewer"
        )
    return found


def mask_excluded(scores: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Sets `scores` (B, n) to -inf in place at `rows`, `columns` (E,); column -1 is no item."""
    inside = columns >= 0
    scores[rows[inside], columns[inside]] = NO_SCORE


def _group_maxima(scores: Tensor) -> Tensor:
    """(B, w + n % GROUP) the largest of each GROUP scores w places apart, then those left over."""
    width = scores.shape[1] // GROUP
    groups = scores[:, : GROUP * width].unflatten(1, (GROUP, width))
    return torch.cat([groups.amax(1), scores[:, GROUP * width :]], 1)


def _at_least(
    scores: Tensor, ids: Tensor, maxima: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor]:
    """The scores (B, m) of each row that reach its threshold, filled up with -inf, and ids.

    Only groups of scores whose largest reaches the threshold are looked at one by one: maxima are
    made several times faster than comparisons are turned into places. An equal score counts, for
    the item may have the lower id.
    """
    width = scores.shape[1] // GROUP
    rows, group = (maxima >= threshold[:, None]).nonzero(as_tuple=True)
    members = torch.arange(GROUP, device=rows.device) * width
    columns = group[:, None] + members  # (m, GROUP)
    alone = group >= width  # left over, a group of one
    columns[alone] = (group[alone] + (GROUP - 1) * width)[:, None]
    reached = scores[rows[:, None], columns] >= threshold[rows, None]
    reached[alone, 1:] = False
    hit, member = reached.nonzero(as_tuple=True)
    rows, columns = rows[hit], columns[hit, member]  # rows ascending
    counts = rows.bincount(minlength=len(scores))
    slots = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    kept = scores.new_full((len(scores), int(counts.max())), NO_SCORE)
    kept_ids = torch.full_like(kept, NO_ID, dtype=torch.int64)
    kept[rows, slots] = scores[rows, columns]
    kept_ids[rows, slots] = ids[columns] if ids.ndim == 1 else ids[rows, columns]
    return kept, kept_ids


def _best(scores: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of (B, m > k) scores, descending, ties by the lower id, and their ids."""
    values, places = scores.topk(k + 1)
    # Torch takes any of equal scores: where the last one in has equals outside, choose by id.
    cut = (values[:, k - 1] == values[:, k]) & (values[:, k] > NO_SCORE)
    values, places = values[:, :k], places[:, :k].clone()
    for row in cut.nonzero().flatten().tolist():
        last = values[row, -1]
        tied = (scores[row] == last).nonzero().flatten()
        above = int((values[row] > last).sum())
        places[row, above:] = tied[ids[row, tied].argsort()[: k - above]]
    chosen = ids.gather(1, places)
    if bool((values[:, 1:] == values[:, :-1]).any()):
        by_id = chosen.argsort(1)
        values, chosen = values.gather(1, by_id), chosen.gather(1, by_id)
        values, order = values.sort(stable=True, dim=1, descending=True)
        chosen = chosen.gather(1, order)
    return values.contiguous(), chosen.masked_fill(values == NO_SCORE, NO_ID)
