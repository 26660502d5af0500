"""Which weight of HSTU's time bias a pair of events gets, found once for all layers of a batch.

Zhai et al. 2024 (2402.17152), section 3.2, "relative attention bias"; buckets as in its code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from genrec_lite.jagged import JaggedTensor

__all__ = ["TIME_BUCKETS", "PairTimes", "edges_of_buckets", "time_buckets"]

# Buckets of the time bias, and the width of one: a factor of e^0.301 = 1.35 in time. (The paper's
# code divides a natural logarithm by log10(2).)
TIME_BUCKETS, BUCKET_WIDTH = 129, 0.301


@dataclass(frozen=True, eq=False)
class PairTimes:
    """When a batch's events happened, and what attention makes of that once for all its layers.

    Args:
        times: B rows of whole seconds, one more than the sequence has events, the last of them
            when the prediction is asked for.
    Raises:
        ValueError: if the times are no whole seconds, or a row has none.
    """

    times: JaggedTensor

    def __post_init__(self) -> None:
        values = self.times.values
        if values.is_floating_point():
            raise ValueError(f"times have dtype {values.dtype}: give whole seconds, torch.int64")
        short = (self.times.lengths == 0).nonzero()
        if len(short):
            raise ValueError(
                f"row {int(short[0])} of the times is empty: give at least when it asks"
            )

    @cached_property
    def buckets(self) -> JaggedTensor:
        """B rows, int32: n x n of a sequence with n events, query by query; see `time_buckets`."""
        edges = edges_of_buckets().to(self.times.values.device)
        found = [torch.empty(0, dtype=torch.int32, device=edges.device)]
        with torch.inference_mode(False):  # kept for other calls, which may be training
            for row in self.times:
                apart = row[1:, None] - row[:-1]  # (n, n), t[i + 1] - t[j]
                found.append(torch.bucketize(apart, edges, right=True, out_int32=True).flatten())
            return JaggedTensor.from_lengths(torch.cat(found), (self.times.lengths - 1).square())

    @cached_property
    def seconds(self) -> Tensor:
        """(T + B,) int32, seconds since the first event of the row.

        Raises:
            ValueError: if a row spans more than 2^31 - 2 seconds, 68 years, or a time lies before
                the first of its row.
        """
        with torch.inference_mode(False):  # kept for other calls, which may be training
            values = self.times.values.long()
            first = values[self.times.offsets[:-1]]
            since = values - first.repeat_interleave(self.times.lengths)
            if len(since) and not 0 <= int(since.min()) <= int(since.max()) < 2**31 - 1:
                raise ValueError(
                    f"times lie {int(since.min())} to {int(since.max())} seconds after the first "
                    "of their row: expected 0 to 2^31 - 2, 68 years (are these milliseconds?)"
                )
            return since.to(torch.int32)


def time_buckets(times: JaggedTensor) -> JaggedTensor:
    """Which weight of the time bias each pair of events gets.

    For query i and event j of a sequence it is floor(ln(max(1, t)) / 0.301), at most
    TIME_BUCKETS - 1, where t is the time from event j to the event *after* i: when a prediction
    is asked for, the time of asking is known.

    Args:
        times: see `PairTimes`, which keeps the buckets for all layers; also for the errors.
    Returns:
        B rows, int32: n x n of a sequence with n events, query by query; where j is later than i
        it is 0.
    """
    return PairTimes(times).buckets


def edges_of_buckets() -> Tensor:
    """(TIME_BUCKETS - 1,) the whole seconds from which on each later bucket is reached.

    With these no logarithm is rounded: pairs at a bucket's edge are where they should be.
    """
    return torch.tensor([math.ceil(math.exp(BUCKET_WIDTH * b)) for b in range(1, TIME_BUCKETS)])
