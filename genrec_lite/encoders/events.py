"""What every encoder asks of the histories it is given."""

from __future__ import annotations

import torch

from genrec_lite.jagged import JaggedTensor

__all__ = ["recent_events", "recent_times", "require_events"]


def recent_events(items: JaggedTensor, num_items: int, max_length: int) -> JaggedTensor:
    """The last `max_length` items of each row, all of them in a table of `num_items`.

    Raises:
        ValueError: if an index is outside the table.
    """
    values = items.values
    if len(values) and (int(values.min()) < 0 or int(values.max()) >= num_items):
        raise ValueError(
            f"item indices run from {int(values.min())} to {int(values.max())}, "
            f"but the table holds items 0 to {num_items - 1}"
        )
    return items.last(max_length)


def recent_times(times: JaggedTensor | None, items: JaggedTensor, max_length: int) -> JaggedTensor:
    """The times of the last `max_length` items of each row, and when its prediction is asked for.

    Args:
        times: whole seconds, one more in each row than `items` has, oldest first; equal times are
            allowed.
        items: B rows.
        max_length: events that are looked at.
    Raises:
        ValueError: if the times are missing or no whole seconds, are not one more than the
            events, or fall within a row.
    """
    if times is None:
        raise ValueError(
            "this encoder has a time bias: give the times of the events and of the question, or "
            'take bias="position"'
        )
    seconds = times.values
    if seconds.is_floating_point():
        raise ValueError(f"times have dtype {seconds.dtype}: give whole seconds, torch.int64")
    if len(times) != len(items):
        raise ValueError(f"{len(times)} rows of times for {len(items)} rows of items")
    wrong = (times.lengths != items.lengths + 1).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"row {row} has {int(items.lengths[row])} items and {int(times.lengths[row])} times: "
            "give one for each item, and one for when the next is asked for"
        )
    falls = seconds.diff() < 0
    falls[times.offsets[1:-1] - 1] = False  # from one row to the next they may
    if bool(falls.any()):
        place = int(falls.nonzero()[0])
        row = int(torch.searchsorted(times.offsets, place, right=True)) - 1
        raise ValueError(
            f"times of row {row} fall from {int(seconds[place])} to {int(seconds[place + 1])}: "
            "sort each history, oldest first, and ask after its last event"
        )
    return times.last(max_length + 1)


def require_events(items: JaggedTensor) -> None:
    """Raises a ValueError if a row is empty: there is nothing to predict from."""
    empty = (items.lengths == 0).nonzero()
    if len(empty):
        raise ValueError(f"history {int(empty[0])} is empty: recommend popular items to a new user")
