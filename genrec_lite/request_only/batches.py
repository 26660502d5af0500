"""Requests over users' events, in batches: request features once, candidates by their number.

"Request-Only Optimization" (2508.05640): what describes a request has one row a request, what
describes an impression one row a candidate, and `num_candidates` is all that ties the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

import torch
from torch import Tensor

from genrec_lite.datasets.actions import Events
from genrec_lite.jagged import JaggedTensor

__all__ = [
    "RequestBatch",
    "RequestBatches",
    "RequestSplit",
    "Requests",
    "deduplicated",
    "fan_out",
    "split_requests",
]

# Two odd numbers of 64 bits, so that a step of the hash loses nothing.
MIX, STEP = -7046029254386353131, -4417276706812531889


def fan_out(x: Tensor, num_candidates: Tensor) -> Tensor:
    """(B, ...) each request's row of `x` (R, ...), once for each of its `num_candidates` (R,).

    Backward it is a sum over each request's candidates.

    Raises:
        ValueError: if there are not as many numbers as rows.
    """
    if len(num_candidates) != len(x):
        raise ValueError(f"{len(num_candidates)} numbers of candidates for {len(x)} requests")
    return x.repeat_interleave(num_candidates, 0, output_size=int(num_candidates.sum()))


@dataclass(frozen=True, eq=False)
class RequestBatch:
    """R requests with B candidates in all. A batch of impressions is one with B requests of one.

    Args:
        history: R rows of events before the request.
        asked: (R,) int64 seconds, when.
        candidates: R rows of item indices (B,).
        actions: (B, A) bool, what was done with each.
    Raises:
        ValueError: if they are not aligned.
    """

    history: Events
    asked: Tensor
    candidates: JaggedTensor
    actions: Tensor

    def __post_init__(self) -> None:
        rows = (len(self.history), len(self.asked), len(self.candidates))
        if len(set(rows)) > 1:
            raise ValueError(
                f"{rows[0]} histories, {rows[1]} times and candidates of {rows[2]} requests: "
                "expected one of each a request"
            )
        if len(self.actions) != len(self):
            raise ValueError(f"actions of {len(self.actions)} for {len(self)} candidates")

    def __len__(self) -> int:
        """B, the number of impressions, over which a loss is a mean."""
        return len(self.candidates.values)

    @property
    def num_candidates(self) -> Tensor:
        """(R,) int64, of each request."""
        return self.candidates.lengths

    def exploded(self) -> RequestBatch:
        """The same impressions, each a request of its own: early fan-out."""
        rows = self.candidates.row_ids()
        lengths = self.history.items.lengths[rows]
        return RequestBatch(
            self.history.stretches(rows, torch.zeros_like(rows), lengths),
            self.asked[rows],
            JaggedTensor.from_lengths(self.candidates.values, torch.ones_like(rows)),
            self.actions,
        )

    def select(self, rows: Tensor) -> RequestBatch:
        """The requests numbered `rows`, in that order."""
        lengths = self.history.items.lengths[rows]
        places = self.candidates.with_values(torch.arange(len(self))).select(rows)
        return RequestBatch(
            self.history.stretches(rows, torch.zeros_like(rows), lengths),
            self.asked[rows],
            places.with_values(self.candidates.values[places.values]),
            self.actions[places.values],
        )


@dataclass(frozen=True, eq=False)
class Requests:
    """R requests as places in users' events. Nothing is copied until a batch is made.

    Args:
        events: B users' events.
        rows: (R,) int64, the user's row.
        begins: (R,) int64, the place in the row where the request begins: what is before it is its
            history.
        firsts: (R,) int64, the place of the first candidate; of whole requests that is `begins`.
        num_candidates: (R,) int64, candidates from there on.
        asked: (R,) int64, seconds.
    """

    events: Events
    rows: Tensor
    begins: Tensor
    firsts: Tensor
    num_candidates: Tensor
    asked: Tensor

    @classmethod
    def of(cls, events: Events, request_ids: JaggedTensor) -> Requests:
        """The requests of a log, each asked at the time of its first event.

        Args:
            events: B users' events.
            request_ids: the same rows, (T,) int64.
        Raises:
            ValueError: if the rows are not those of the events; if a request's events are parted
                by others', or belong to two users; if it holds an item twice.
        """
        ids, users = request_ids.values, events.items.row_ids()
        if not torch.equal(request_ids.offsets, events.items.offsets):
            raise ValueError("the request ids have other rows than the events")
        fresh = torch.ones(len(ids), dtype=torch.bool)
        fresh[1:] = (ids.diff() != 0) | (users.diff() != 0)
        starts = fresh.nonzero().flatten()
        seen, times_seen = ids[starts].unique(return_counts=True)
        if bool((times_seen > 1).any()):
            again = int(seen[times_seen > 1][0])
            rows = users[starts][ids[starts] == again]
            between = "of rows {} and {}".format(*rows[:2].tolist())
            raise ValueError(
                f"request {again} comes twice, in the events {between}, others between: sort a "
                "user's events by time and request, and give each request an id of its own"
            )
        counts = torch.cat([starts, torch.tensor([len(ids)])]).diff()
        _refuse_doubles(events.items.values, ids)
        begins = events.items.positions()[starts]
        return cls(events, users[starts], begins, begins, counts, events.times[starts])

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, chosen: Tensor) -> Requests:
        """The requests that `chosen` says, (n,) numbers or (R,) bool."""
        kept = (self.rows, self.begins, self.firsts, self.num_candidates, self.asked)
        return Requests(self.events, *(x[chosen] for x in kept))

    def exploded(self) -> Requests:
        """One request an impression, with the history of its own request, and no more."""
        of = torch.arange(len(self)).repeat_interleave(self.num_candidates)
        each = self.select(of)
        place = JaggedTensor.from_lengths(of, self.num_candidates).positions()
        return Requests(
            self.events, each.rows, each.begins, each.firsts + place, torch.ones_like(of),
            each.asked,
        )  # fmt: skip

    def batch(self, max_events: int) -> RequestBatch:
        """All of them, with the last `max_events` events before each."""
        lengths = self.begins.clamp(max=max_events)
        history = self.events.stretches(self.rows, self.begins - lengths, lengths)
        shown = self.events.stretches(self.rows, self.firsts, self.num_candidates)
        return RequestBatch(history, self.asked, shown.items, shown.actions)


def _refuse_doubles(items: Tensor, ids: Tensor) -> None:
    """Raises a ValueError if a request holds an item twice; (T,) both."""
    pairs, counts = torch.stack([ids, items]).unique(dim=1, return_counts=True)
    if bool((counts > 1).any()):
        request, item = pairs[:, counts > 1][:, 0].tolist()
        raise ValueError(
            f"request {request} holds item {item} twice: keep one row for each item shown"
        )


class RequestSplit(NamedTuple):
    """Requests to learn from and to test, and the moment that parts them, in seconds."""

    train: Requests
    test: Requests
    time: int


def split_requests(requests: Requests, share: float = 0.85) -> RequestSplit:
    """The split at the moment before which `share` of all impressions were asked for.

    A request has one time, so none is split.

    Raises:
        ValueError: if nothing would be learned from, or nothing tested.
    """
    if not 0 < share < 1 or not len(requests):
        raise ValueError(f"share {share} of {len(requests)} requests: expected a part of some")
    times = fan_out(requests.asked, requests.num_candidates).sort().values
    moment = int(times[min(len(times) - 1, int(share * len(times)))])
    early = requests.asked < moment
    if not bool(early.any()):
        raise ValueError("all requests came in one second: there is no time to split by")
    return RequestSplit(requests.select(early), requests.select(~early), moment)


class RequestBatches:
    """One epoch's batches of requests by its number: the same seed and epoch give the same.

    Args:
        requests: what is learned from.
        batch_size: requests a batch.
        max_events: of a history.
        seed: of the order.
    """

    def __init__(
        self, requests: Requests, *, batch_size: int = 32, max_events: int = 64, seed: int = 0
    ) -> None:
        if batch_size < 1 or max_events < 0 or not len(requests):
            raise ValueError(
                f"batches of {batch_size} of {len(requests)} requests with up to {max_events} "
                "events: expected at least one request, of at least none"
            )
        self.requests, self.batch_size = requests, batch_size
        self.max_events, self.seed = max_events, seed

    def __call__(self, epoch: int) -> Sequence[RequestBatch]:
        """The batches of epoch `epoch`, counted from 0, each made when it is asked for."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.requests), generator=generator)
        return _Epoch(self.requests, order.split(self.batch_size), self.max_events)


@dataclass(frozen=True)
class _Epoch(Sequence[RequestBatch]):
    """Batches that are made when they are asked for: exploded, an epoch's histories are many."""

    requests: Requests
    parts: Sequence[Tensor]
    max_events: int

    def __len__(self) -> int:
        return len(self.parts)

    @overload
    def __getitem__(self, number: int) -> RequestBatch: ...
    @overload
    def __getitem__(self, number: slice) -> _Epoch: ...
    def __getitem__(self, number: int | slice) -> RequestBatch | _Epoch:
        if isinstance(number, slice):
            return _Epoch(self.requests, self.parts[number], self.max_events)
        return self.requests.select(self.parts[number]).batch(self.max_events)


def deduplicated(batch: RequestBatch) -> RequestBatch:
    """The batch with equal request features found by hashing and kept once.

    RecD (2211.05239) does so with batches of impressions: what one log row could have said is
    found again, batch by batch, and only as far as a request's impressions lie in one batch.
    Candidates of equal requests come to lie together. Two unequal requests of a million have an
    equal hash with a probability of 3e-8.
    """
    events, rows = batch.history, batch.history.items.row_ids()
    bits = 2 ** torch.arange(events.actions.shape[1])
    code = torch.zeros_like(rows)
    for part in (events.items.values, (events.actions * bits).sum(1), events.times):
        code = _mixed(code * STEP + part)
    place = events.items.lengths[rows] - events.items.positions()  # from the end, 1 on
    hashes = _mixed(batch.asked).index_add(0, rows, _mixed(code * STEP + place))
    _, which = hashes.unique(return_inverse=True)
    first = torch.full((int(which.max()) + 1 if len(which) else 0,), len(which))
    first.scatter_reduce_(0, which, torch.arange(len(which)), "amin")
    once = batch.select(first)
    owner = fan_out(which, batch.num_candidates)
    order = owner.argsort(stable=True)
    return RequestBatch(
        once.history,
        once.asked,
        JaggedTensor.from_lengths(
            batch.candidates.values[order], owner.bincount(minlength=len(first))
        ),
        batch.actions[order],
    )


def _mixed(x: Tensor) -> Tensor:
    """(n,) int64 -> (n,) int64 in which every bit depends on many; overflow is meant."""
    x = (x ^ (x >> 31)) * MIX
    x = (x ^ (x >> 29)) * STEP
    return x ^ (x >> 32)
