"""Stochastic Length: train on a few events of a long history, now and then on all of them.

Zhai et al. 2024, "Actions Speak Louder than Words" (2402.17152), section 3.2. Attention's cost
grows with the square of a history's length n; of the long ones only a share N^alpha / n^2 stays
whole, so that none of them looks at more than 2 N^alpha pairs in the mean.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from genrec_lite.datasets.batches import NextItemBatch, NextItemBatches
from genrec_lite.datasets.splits import Sequences
from genrec_lite.jagged import JaggedTensor

__all__ = [
    "CHOICES",
    "Choice",
    "Kept",
    "Sparsity",
    "StochasticLengthBatches",
    "expected_sparsity",
    "kept_length",
    "stochastic_length",
]

Choice = Literal["greedy", "random", "recency"]
CHOICES: tuple[Choice, ...] = get_args(Choice)

# 1024^0.8 is 256, and a power computed in floating point may fall short of it by a rounding.
ROUNDING = 1e-9


class Kept(NamedTuple):
    """What is left of the rows.

    Args:
        places: (K,) int64, ascending: where the kept values lie among all.
        rows: those values in their rows, oldest first.
    """

    places: Tensor
    rows: JaggedTensor


class Sparsity(NamedTuple):
    """What the rule saves in the mean, as shares of 1.

    Args:
        events: 1 - E[kept] / E[n].
        pairs: the same of the n (n + 1) / 2 pairs that causal attention looks at.
        of_longest: 1 - E[kept] / N, of a batch that is padded to N events.
    """

    events: float
    pairs: float
    of_longest: float


def kept_length(longest: int, alpha: float) -> int:
    """N^(alpha / 2) rounded down: how many events a subsequence has.

    Args:
        longest: N, at least 1.
        alpha: above 0, at most 2; at 2 every history stays whole.
    Raises:
        ValueError: if one of them is outside its range.
    """
    if longest < 1:
        raise ValueError(f"longest is {longest}: the longest history has at least 1 event")
    if not 0 < alpha <= 2:
        raise ValueError(f"alpha is {alpha}: above 0, at most 2, where every history stays whole")
    return int(longest ** (alpha / 2) + ROUNDING)


def stochastic_length(
    rows: JaggedTensor,
    *,
    alpha: float,
    longest: int,
    choice: Choice = "recency",
    generator: torch.Generator,
) -> Kept:
    """Each row whole if it has at most N^(alpha / 2) values; else, mostly, a part of it.

    A longer row of n values stays whole with probability N^alpha / n^2, and otherwise keeps
    N^(alpha / 2) of them, rounded down, in their order: the last ones ("greedy"), as many drawn
    without replacement with equal weights ("random"), or with weights 1 for the oldest to n for
    the newest ("recency"). These weights are ours; rows without times can be drawn by them, too.

    Args:
        rows: B rows, oldest value first, none longer than N; cut them with `.last(N)`.
        alpha, longest: see `kept_length`.
        choice: of `CHOICES`.
        generator: of the draws, on the CPU.
    Raises:
        ValueError: if a row is longer than N, there is no such choice, or as `kept_length`.
    """
    if choice not in CHOICES:
        raise ValueError(f"choice is {choice!r}: choose from {', '.join(CHOICES)}")
    part, lengths = kept_length(longest, alpha), rows.lengths
    whole = _stays_whole(lengths, alpha, longest)
    drawn = torch.rand(len(lengths), dtype=torch.float64, generator=generator)
    kept_lengths = torch.where(drawn.to(whole.device) < whole, lengths, lengths.clamp(max=part))
    position, row = rows.positions(), rows.row_ids()
    if choice == "greedy":
        key = position.double()
    else:
        key = torch.rand(len(position), dtype=torch.float64, generator=generator)
        key = key.to(position.device)
        if choice == "recency":
            # Largest of log(uniform) / weight: a weighted draw without replacement (Efraimidis
            # and Spirakis, 2006).
            key = key.log() / (position + 1)
    order = key.argsort(descending=True, stable=True)
    order = order[row[order].argsort(stable=True)]  # best first, row by row
    chosen = position < kept_lengths[row]  # the i-th place of a row now holds its i-th best
    places = order[chosen].sort().values
    return Kept(places, JaggedTensor.from_lengths(rows.values[places], kept_lengths))


def expected_sparsity(lengths: Tensor, *, alpha: float, longest: int) -> Sparsity:
    """What `stochastic_length` saves in the mean over its draws, whatever its choice.

    The paper's table of sparsity (71.5% at alpha 1.6 and N = 1,024, ...) is of users whose lengths
    are not public. It says 3.1% to 64.1% at alpha 2, too, where the rule keeps all, so it is read
    here as `of_longest`. By this formula a population of four lengths comes within 3.2 points of
    its twelve values for alpha 1.6, 1.8 and 2.0: 6% of the users with 5 events, 7% with 1,020, 42%
    with 2,040 and 45% with 4,900. Such a population has few short histories; a log with many has
    a far lower `events` at the same alpha.

    Args:
        lengths: (B,) int64, 0 to N.
        alpha, longest: see `kept_length`.
    Raises:
        ValueError: if there is no event, a length is above N, or as `kept_length`.
    """
    part = kept_length(longest, alpha)
    whole = _stays_whole(lengths, alpha, longest)
    n = lengths.double()
    if not float(n.sum()):
        raise ValueError(f"{len(lengths)} histories hold no event: there is nothing to save")
    short = n.clamp(max=part)
    kept = float((whole * n + (1 - whole) * short).sum())
    pairs = whole * n * (n + 1) + (1 - whole) * short * (short + 1)
    return Sparsity(
        events=1 - kept / float(n.sum()),
        pairs=1 - float(pairs.sum()) / float((n * (n + 1)).sum()),
        of_longest=1 - kept / (len(lengths) * longest),
    )


class StochasticLengthBatches:
    """One epoch's batches by its number, of the histories' subsequences drawn anew each epoch.

    The item that comes next is the next one kept.

    Args:
        sequences: the training part.
        alpha, choice: see `stochastic_length`.
        batch_size: users a batch.
        max_length: events a user contributes at most; with the item to be predicted after the last
            of them that is N = max_length + 1.
        seed: of the draws and of the order of the users.
    Raises:
        ValueError: as `stochastic_length` and `NextItemBatches`, when an epoch is asked for.
    """

    def __init__(
        self,
        sequences: Sequences,
        *,
        alpha: float,
        choice: Choice = "recency",
        batch_size: int = 128,
        max_length: int = 200,
        seed: int = 0,
    ) -> None:
        self.alpha, self.choice, self.longest = alpha, choice, max_length + 1
        self.batch_size, self.seed = batch_size, seed
        times = sequences.timestamps
        self.sequences = replace(
            sequences,
            items=sequences.items.last(self.longest),
            timestamps=None if times is None else times.last(self.longest),
            ratings=None,  # next-item prediction does not look at them
        )

    def __call__(self, epoch: int) -> list[NextItemBatch]:
        """The batches of epoch `epoch`, counted from 0."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        places, items = stochastic_length(
            self.sequences.items,
            alpha=self.alpha,
            longest=self.longest,
            choice=self.choice,
            generator=generator,
        )
        times = self.sequences.timestamps
        shorter = replace(
            self.sequences,
            items=items,
            timestamps=None if times is None else items.with_values(times.values[places]),
        )
        batches = NextItemBatches(
            shorter, batch_size=self.batch_size, max_length=self.longest - 1, seed=self.seed
        )
        return batches(epoch)


def _stays_whole(lengths: Tensor, alpha: float, longest: int) -> Tensor:
    """(B,) float64, the probability that a row of each length is kept whole.

    Raises:
        ValueError: if a length is negative or above `longest`.
    """
    outside = (lengths < 0) | (lengths > longest)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"row {row} has {int(lengths[row])} events, not 0 to longest = {longest}: cut the rows "
            f"with .last({longest}), or give their greatest length as longest"
        )
    share = longest**alpha / lengths.double().clamp(min=1).square()
    short = lengths <= kept_length(longest, alpha)
    return torch.where(short, 1.0, share.clamp(max=1.0))
