"""Two recommenders without training: what is popular, and what was met together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_lite.datasets.splits import Sequences
from genrec_lite.jagged import JaggedTensor

__all__ = ["ItemKNN", "Popularity"]

# Items whose columns of the user-item matrix are held dense at a time while fitting.
BLOCK_ITEMS = 512


class Popularity:
    """Scores each item by its number of events in the training part, for everyone the same."""

    _counts: Tensor | None = None

    def fit(self, train: Sequences) -> Popularity:
        """Itself, having counted the items of `train`."""
        self._counts = torch.bincount(train.items.values, minlength=train.num_items).float()
        return self

    def scores(self, history: JaggedTensor) -> Tensor:
        """(Q, num_items) float32, the counts, once for each of the Q rows of `history`.

        Raises:
            RuntimeError: if `fit` was not called.
        """
        return _fitted(self._counts, self).expand(len(history), -1)


class ItemKNN:
    """Scores an item by how often users met it together with the last items of a history.

    The similarity of items i and j is the cosine of their columns in the binary user-item matrix,
    shrunk where few users support it: c_ij / (sqrt(n_i n_j) + shrinkage), with c_ij users of both
    and n_i users of i. A score is the sum over the history's last items. Holds 4 num_items^2
    bytes: 0.3 GB for 9,000 items.

    Args:
        last: how many items of a history count, at least 1.
        shrinkage: in users, at least 0.
    Raises:
        ValueError: if `last` or `shrinkage` is below that.
    """

    def __init__(self, last: int = 10, shrinkage: float = 20.0) -> None:
        if last < 1 or shrinkage < 0:
            raise ValueError(
                f"last is {last}, shrinkage {shrinkage}: last is at least 1, shrinkage at least 0"
            )
        self.last = last
        self.shrinkage = shrinkage
        self._similarity: Tensor | None = None

    def fit(self, train: Sequences) -> ItemKNN:
        """Itself, knowing the similarity of all pairs of items of `train`."""
        num_users, num_items = len(train), train.num_items
        pairs = (train.items.values * num_users + train.items.row_ids()).unique()  # by item, user
        items, users = pairs // num_users, pairs % num_users
        counts = torch.bincount(items, minlength=num_items)  # (N,) users of each item
        starts = F.pad(counts.cumsum(0), (1, 0))  # (N + 1,) where each item's pairs start
        root = counts.float().sqrt()
        similarity = torch.empty(num_items, num_items)
        for first in range(0, num_items, BLOCK_ITEMS):
            past = min(first + BLOCK_ITEMS, num_items)
            inside = slice(int(starts[first]), int(starts[past]))
            met = torch.zeros(num_users, past - first)  # (U, block) 0 or 1
            met[users[inside], items[inside] - first] = 1
            # Row i of the co-occurrence is the sum of `met` over the users of item i: work in
            # proportion to the events, where a dense product would multiply mostly zeros.
            together = F.embedding_bag(users, met, starts[:-1], mode="sum")  # (N, block)
            # Below 1 only where an item has no user: there the numerator is 0.
            scale = torch.outer(root, root[first:past]).add_(self.shrinkage).clamp_(min=1)
            torch.div(together, scale, out=similarity[:, first:past])
        self._similarity = similarity
        return self

    def scores(self, history: JaggedTensor) -> Tensor:
        """(Q, num_items) float32, the summed similarity to the last items of each of the Q rows.

        An empty row scores 0 everywhere.

        Raises:
            RuntimeError: if `fit` was not called.
        """
        recent = history.last(self.last)
        similarity = _fitted(self._similarity, self)
        return F.embedding_bag(recent.values, similarity, recent.offsets[:-1], mode="sum")


def _fitted(state: Tensor | None, model: object) -> Tensor:
    if state is None:
        raise RuntimeError(f"{type(model).__name__} has seen no data: call .fit(train) first")
    return state
