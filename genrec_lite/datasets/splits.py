"""Sequences of item indices, and the leave-last-out split into training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import polars as pl
from torch import Tensor

from genrec_lite.jagged import JaggedTensor

__all__ = ["Queries", "Sequences", "Split", "leave_last_out"]


@dataclass(frozen=True)
class Sequences:
    """Every user's items, oldest first.

    Args:
        items: B users' rows, values (T,) int64 in [0, num_items), indices into `item_ids`.
        timestamps: same rows, (T,) int64 seconds since 1970; None for a log with an order only.
        ratings: same rows, (T,) float32; None for a log without.
        user_ids: (B,) the log's id of each row, ascending.
        item_ids: (num_items,) the log's id of each index, ascending.
        requests: same rows, (T,) int64, which request an event belongs to (the rank of its id);
            None for a log without.
    """

    items: JaggedTensor
    timestamps: JaggedTensor | None
    ratings: JaggedTensor | None
    user_ids: pl.Series
    item_ids: pl.Series
    requests: JaggedTensor | None = None

    @property
    def num_items(self) -> int:
        """Size of the corpus: items of the whole log, also those that a split's part lacks."""
        return len(self.item_ids)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Queries:
    """One question per user: which item comes next?

    Args:
        rows: (Q,) int64, the user's row in the `Sequences`.
        history: Q rows, items before the target, oldest first; also what a ranking excludes.
        targets: (Q,) int64, the item that came.
        times: Q rows, int64 seconds of the history and, last, of the target; None without
            timestamps.
    """

    rows: Tensor
    history: JaggedTensor
    targets: Tensor
    times: JaggedTensor | None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def target_timestamps(self) -> Tensor | None:
        """(Q,) int64 seconds; None without timestamps."""
        return None if self.times is None else self.times.last_values()


class Split(NamedTuple):
    """What to learn from, what to stop by (None in the published protocol), what to report."""

    train: Sequences
    validation: Queries | None
    test: Queries


def leave_last_out(sequences: Sequences, *, validation: bool = True) -> Split:
    """The split that tests on each user's last item.

    With `validation` the last item is the test's target, the one before it validation's, and the
    rest is for training; the test's history includes validation's item. Without, the last item is
    the test's target and all before it is for training (the published protocol).
    The training part has a row for every user. Users with fewer than 3 items (2 without
    `validation`) ask no question and stay in the training part whole: dropping them would change
    the corpus, and a question with no history to answer from would measure only popularity.

    Args:
        sequences: all users' items, oldest first.
        validation: whether to hold out the item before the last, too.
    """
    held_out = 2 if validation else 1
    lengths = sequences.items.lengths
    asked = lengths > held_out
    cut = held_out * asked  # (B,) how many items each row gives away
    times, ratings, requests = sequences.timestamps, sequences.ratings, sequences.requests
    train = Sequences(
        items=sequences.items.drop_last(cut),
        timestamps=times.drop_last(cut) if times is not None else None,
        ratings=ratings.drop_last(cut) if ratings is not None else None,
        requests=requests.drop_last(cut) if requests is not None else None,
        user_ids=sequences.user_ids,
        item_ids=sequences.item_ids,
    )
    rows = asked.nonzero().squeeze(1)
    return Split(
        train=train,
        validation=_queries(sequences, rows, back=1) if validation else None,
        test=_queries(sequences, rows, back=0),
    )


def _queries(sequences: Sequences, rows: Tensor, *, back: int) -> Queries:
    """The questions whose answers lie `back` items before the last one of `rows` (Q,)."""
    items = sequences.items.select(rows).drop_last(back)
    times = None
    if sequences.timestamps is not None:
        times = sequences.timestamps.select(rows).drop_last(back)
    return Queries(
        rows=rows,
        history=items.drop_last(1),
        targets=items.last_values(),
        times=times,
    )
