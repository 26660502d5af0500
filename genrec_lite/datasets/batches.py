"""Training batches of next-item prediction: what a user did, and what came next."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genrec_lite.datasets.splits import Sequences
from genrec_lite.jagged import JaggedTensor

__all__ = ["NextItemBatch", "NextItemBatches"]


@dataclass(frozen=True)
class NextItemBatch:
    """B histories and, for each of their T events, the item that came next.

    Args:
        inputs: B rows of item indices.
        targets: (T,) int64, aligned with `inputs.values`.
        users: (B,) int64, the rows' numbers in the sequences, or None where nobody asks.
        times: B rows, int64 seconds of each row's events and, last, of its last target; None
            without timestamps.
    Raises:
        ValueError: if there is not one target for each event, or one time more than events.
    """

    inputs: JaggedTensor
    targets: Tensor
    users: Tensor | None = None
    times: JaggedTensor | None = None

    def __post_init__(self) -> None:
        if self.targets.shape != (len(self.inputs.values),):
            raise ValueError(
                f"targets {tuple(self.targets.shape)} for {len(self.inputs.values)} events: "
                "expected one for each"
            )
        if self.times is not None and not torch.equal(self.times.lengths, self.inputs.lengths + 1):
            raise ValueError("times are not one more in each row than its events")

    def __len__(self) -> int:
        return len(self.targets)


class NextItemBatches:
    """One epoch's batches by its number: the same seed and epoch give the same batches.

    A history longer than `max_length + 1` is represented by its most recent events, or, with
    `window="any"`, by a stretch drawn anew each epoch, so that old events are learned from too.

    Args:
        sequences: the training part; users with fewer than two items have nothing to predict
            and are left out.
        batch_size: users a batch; the last batch of an epoch may be smaller.
        max_length: events a user contributes at most.
        seed: of the order of the users and of the stretches.
        window: "last" (the published protocol) or "any".
    """

    def __init__(
        self,
        sequences: Sequences,
        *,
        batch_size: int = 128,
        max_length: int = 200,
        seed: int = 0,
        window: str = "last",
    ) -> None:
        if window not in ("last", "any"):
            raise ValueError(f'window is "{window}": choose "last" or "any"')
        if batch_size < 1 or max_length < 1:
            raise ValueError(
                f"batch_size {batch_size} and max_length {max_length}: at least 1 each"
            )
        self.users = (sequences.items.lengths >= 2).nonzero().squeeze(1)
        self.items = sequences.items.select(self.users)
        stamps = sequences.timestamps
        self.times = None if stamps is None else stamps.select(self.users)
        if len(self.items) == 0:
            raise ValueError("no user has two events or more: there is no next item to learn from")
        self.batch_size, self.max_length, self.seed, self.window = (
            batch_size,
            max_length,
            seed,
            window,
        )

    def __call__(self, epoch: int) -> list[NextItemBatch]:
        """The batches of epoch `epoch`, counted from 0."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.items), generator=generator)
        items = self.items.select(order)
        times = None if self.times is None else self.times.select(order)
        if self.window == "any":
            spare = (items.lengths - (self.max_length + 1)).clamp(min=0)
            cut = (torch.rand(len(items), generator=generator) * (spare + 1)).long()
            items = items.drop_last(cut)
            times = None if times is None else times.drop_last(cut)
        items = items.last(self.max_length + 1)
        times = None if times is None else times.last(self.max_length + 1)
        batches = []
        for start in range(0, len(items), self.batch_size):
            some = slice(start, start + self.batch_size)
            rows = items[some]
            batches.append(
                NextItemBatch(
                    rows.drop_last(),
                    rows.drop_first().values,
                    self.users[order[some]],
                    None if times is None else times[some],
                )
            )
        return batches
