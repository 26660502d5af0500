"""What users did with the items they met: events with action bits, split by time, in batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from genrec_lite.datasets.columns import InteractionsError
from genrec_lite.datasets.splits import Sequences
from genrec_lite.jagged import JaggedTensor

__all__ = [
    "EventBatch",
    "EventBatches",
    "Events",
    "RatedActions",
    "TimeSplit",
    "first_of_requests",
    "questions",
    "split_by_time",
]


@dataclass(frozen=True, eq=False)
class Events:
    """B users' events, oldest first: which item, what was done with it, and when.

    Args:
        items: B rows of item indices (T,) int64.
        actions: (T, A) bool, one bit an action, aligned with `items.values`.
        times: (T,) int64 seconds, aligned too; equal ones are allowed, falling ones are not.
    Raises:
        ValueError: if the three are not aligned, or times fall within a row.
    """

    items: JaggedTensor
    actions: Tensor
    times: Tensor

    def __post_init__(self) -> None:
        count = len(self.items.values)
        shape = tuple(self.actions.shape)
        if len(shape) != 2 or shape[0] != count or self.actions.dtype != torch.bool:
            raise ValueError(
                f"actions {shape} of {self.actions.dtype} for {count} events: expected "
                f"({count}, A) torch.bool"
            )
        if self.times.shape != (count,) or self.times.is_floating_point():
            raise ValueError(
                f"times {tuple(self.times.shape)} of {self.times.dtype} for {count} events: "
                f"expected ({count},) whole seconds"
            )
        falls = self.times.diff() < 0
        inside = self.items.row_ids().diff() == 0
        wrong = (falls & inside).nonzero()
        if len(wrong):
            place = int(wrong[0])
            raise ValueError(
                f"times of row {int(self.items.row_ids()[place])} fall from "
                f"{int(self.times[place])} to {int(self.times[place + 1])}: "
                "sort each user's events, oldest first"
            )

    def __len__(self) -> int:
        return len(self.items)

    def stretches(self, rows: Tensor, starts: Tensor, lengths: Tensor) -> Events:
        """One row for each of the S stretches `starts` to `starts + lengths` of `rows`, (S,).

        Raises:
            ValueError: if a stretch reaches beyond its row.
        """
        outside = (starts < 0) | (lengths < 0) | (starts + lengths > self.items.lengths[rows])
        if bool(outside.any()):
            wrong = int(outside.nonzero()[0])
            raise ValueError(
                f"stretch {wrong} is events {int(starts[wrong])} to "
                f"{int(starts[wrong] + lengths[wrong])} of row {int(rows[wrong])}, which has "
                f"{int(self.items.lengths[rows[wrong]])}"
            )
        first = self.items.offsets[:-1][rows] + starts
        places = JaggedTensor.from_lengths(
            torch.arange(int(lengths.sum()), device=first.device), lengths
        )
        chosen = first.repeat_interleave(lengths) + places.positions()
        items = places.with_values(self.items.values[chosen])
        return Events(items, self.actions[chosen], self.times[chosen])

    def last(self, n: int) -> Events:
        """The last `n` events of each row.

        Raises:
            ValueError: if `n` is negative.
        """
        if n < 0:
            raise ValueError(f"the last {n} events: a number of events is at least 0")
        lengths = self.items.lengths.clamp(max=n)
        rows = torch.arange(len(self), device=lengths.device)
        return self.stretches(rows, self.items.lengths - lengths, lengths)


@dataclass(frozen=True)
class RatedActions:
    """Action bits made of ratings.

    Args:
        names: of the actions, A of them.
        bounds: for each, the least and the greatest rating that counts as it.
    Raises:
        ValueError: if there are more of the one than of the other.
    """

    names: tuple[str, ...] = ("like", "love", "dislike")
    bounds: tuple[tuple[float, float], ...] = ((4.0, 5.0), (5.0, 5.0), (0.0, 2.0))

    def __post_init__(self) -> None:
        if len(self.names) != len(self.bounds):
            raise ValueError(f"{len(self.names)} names for {len(self.bounds)} bounds")

    def events(self, sequences: Sequences) -> Events:
        """The users' events with these actions.

        Raises:
            InteractionsError: if the log has no ratings or no times.
        """
        if sequences.ratings is None or sequences.timestamps is None:
            raise InteractionsError(
                "actions are made of ratings, and split by time: give a log with both columns"
            )
        ratings = sequences.ratings.values
        bits = [(ratings >= low) & (ratings <= high) for low, high in self.bounds]
        return Events(sequences.items, torch.stack(bits, 1), sequences.timestamps.values)


class TimeSplit(NamedTuple):
    """Events to learn from, all events, and which of them are asked about.

    Args:
        train: B rows, the events before `time`.
        all: B rows, a question's history included.
        asked: (T,) bool, the events of `all` at or after `time`.
        time: seconds.
    """

    train: Events
    all: Events
    asked: Tensor
    time: int


def split_by_time(events: Events, share: float = 0.8) -> TimeSplit:
    """The split at the moment before which `share` of all users' events happened.

    One moment for everybody: nothing is learned from a time after a question. A question's history
    is everything its user did before, also after that moment, as in a service that goes on.

    Args:
        events: all users' events.
        share: of the events that are for training, between 0 and 1.
    Raises:
        ValueError: if nothing would be learned from, or nothing asked.
    """
    times = events.times
    if not 0 < share < 1 or not len(times):
        raise ValueError(f"share {share} of {len(times)} events: expected a part of at least one")
    moment = int(times.sort().values[min(len(times) - 1, int(share * len(times)))])
    asked = times >= moment
    if not bool((~asked).any()):
        raise ValueError("all events happened in one second: there is no time to split by")
    kept = torch.zeros(len(events), dtype=torch.int64).index_add(
        0, events.items.row_ids(), (~asked).long()
    )
    everyone = torch.arange(len(events))
    train = events.stretches(everyone, torch.zeros_like(kept), kept)
    return TimeSplit(train, events, asked, moment)


class EventBatches:
    """One epoch's batches of stretches by its number: the same seed and epoch give the same.

    A user's events beyond `max_events` are cut into stretches, from another place in each epoch, so
    that every event is learned from once an epoch, with other histories before it.

    Args:
        events: the training part.
        asked: (T,) bool, the events whose actions are learned, the others being history only; all
            if left out.
        batch_size: stretches a batch.
        max_events: of a stretch.
        seed: of the cuts and of the order.
    """

    def __init__(
        self,
        events: Events,
        *,
        asked: Tensor | None = None,
        batch_size: int = 32,
        max_events: int = 256,
        seed: int = 0,
    ) -> None:
        if batch_size < 1 or max_events < 1:
            raise ValueError(f"batch_size {batch_size}, max_events {max_events}: at least 1 each")
        asked = torch.ones_like(events.times, dtype=torch.bool) if asked is None else asked
        if asked.shape != events.times.shape or not bool(asked.any()):
            raise ValueError(
                f"{int(asked.sum())} of {len(events.times)} events are asked about, by a mask "
                f"{tuple(asked.shape)}: there must be one to learn from"
            )
        self.events, self.asked, self.batch_size = events, asked, batch_size
        self.max_events, self.seed = max_events, seed

    def __call__(self, epoch: int) -> list[EventBatch]:
        """The batches of epoch `epoch`, counted from 0."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        ends = torch.randint(1, self.max_events + 1, (len(self.events),), generator=generator)
        cuts = []  # (row, start, length) of each stretch
        for row, (count, end) in enumerate(
            zip(self.events.items.lengths.tolist(), ends.tolist(), strict=True)
        ):
            begin, end = 0, self.max_events if count <= self.max_events else end
            while begin < count:
                cuts.append((row, begin, min(end, count) - begin))
                begin, end = end, end + self.max_events
        rows, starts, lengths = torch.tensor(cuts).T
        before = torch.cat([torch.zeros(1, dtype=torch.int64), self.asked.cumsum(0)])
        first = self.events.items.offsets[rows] + starts
        useful = (before[first + lengths] > before[first]).nonzero().flatten()
        order = useful[torch.randperm(len(useful), generator=generator)]
        return [
            self._batch(rows[some], starts[some], lengths[some])
            for some in order.split(self.batch_size)
        ]

    def _batch(self, rows: Tensor, starts: Tensor, lengths: Tensor) -> EventBatch:
        events = self.events.stretches(rows, starts, lengths)
        first = self.events.items.offsets[rows] + starts
        places = first.repeat_interleave(lengths) + events.items.positions()
        return EventBatch(events, self.asked[places])


@dataclass(frozen=True, eq=False)
class EventBatch:
    """Stretches of events, and which of them are learned from.

    Args:
        events: B rows, T events.
        asked: (T,) bool; the batch's length is how many there are, over which a loss is a mean.
    """

    events: Events
    asked: Tensor

    def __len__(self) -> int:
        return int(self.asked.sum())


def questions(split: TimeSplit, max_events: int) -> tuple[Events, Tensor]:
    """Stretches that hold each asked event once, and which of their events those are, (T',) bool.

    Before each asked event lie at least half of `max_events` events of its user (rounded down), or
    all there are.

    Raises:
        ValueError: if `max_events` is below 1.
    """
    if max_events < 1:
        raise ValueError(f"max_events is {max_events}: at least 1")
    rows, starts, lengths, firsts = [], [], [], []
    offsets = split.all.items.offsets.tolist()
    for row, (begin, end) in enumerate(zip(offsets, offsets[1:], strict=False)):
        left = split.asked[begin:end].nonzero().flatten()  # places of the row
        while len(left):
            at = int(left[0])
            start = max(0, at - max_events // 2)
            stop = min(end - begin, start + max_events)
            rows.append(row)
            starts.append(start)
            lengths.append(stop - start)
            firsts.append(at - start)  # what lies before it is history, or was asked already
            left = left[left >= stop]
    cuts = torch.tensor([rows, starts, lengths, firsts], dtype=torch.int64)
    found = split.all.stretches(*cuts[:3])
    whole = split.all.items.offsets[cuts[0]] + cuts[1]  # where each stretch begins in all events
    places = found.items.positions()
    asked = split.asked[whole.repeat_interleave(cuts[2]) + places]
    return found, asked & (places >= cuts[3].repeat_interleave(cuts[2]))


def first_of_requests(events: Events) -> Tensor:
    """(T,) bool, the events of a user that do not share their second with the one before.

    A shop's lines of one invoice do: what was done with the first tells most of the others.
    """
    fresh = torch.ones(len(events.times), dtype=torch.bool)
    fresh[1:] = (events.times.diff() != 0) | (events.items.row_ids().diff() != 0)
    return fresh
