"""Checks for the exercises of chapter 6."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from genrec_lite.notebook.check import Case, exercise, later

__all__ = ["asked_gaps", "padding_factor", "pointwise_attention", "time_bucket"]


@exercise
def time_bucket(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(seconds)`: the bucket of a time span, a whole number."""
    for seconds, expected, hint in [
        (1, 0, "ln 1 = 0"),
        (0, 0, "Two events of the same second count as 1 second apart"),
        (60, 13, "ln 60 / 0.301 = 13.6, rounded down"),
        (86_400, 37, "ln 86400 / 0.301 = 37.8: a natural logarithm, not one of base 10"),
        (10**18, 128, "There are 129 buckets: the last one takes all that is longer"),
    ]:
        yield Case(f"time_bucket({seconds})", later(answer, seconds), expected, hint=hint)


@exercise
def asked_gaps(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(times)`: (n, n), t[i + 1] - t[j] up to the diagonal, 0 above it."""
    for times, expected, hint in [
        ([0, 60], [[60]], "One event, asked a minute later"),
        ([0, 60, 3660], [[60, 0], [3660, 3600]], "Row i asks at times[i + 1]"),
        (
            [5, 5, 6, 10],
            [[0, 0, 0], [1, 1, 0], [5, 5, 4]],
            "Above the diagonal: 0",
        ),
    ]:
        yield Case(f"asked_gaps(tensor({times}))", later(answer, torch.tensor(times)), expected,
                   hint=hint)  # fmt: skip


@exercise
def pointwise_attention(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(q, k, v)`: causal attention with SiLU over n, no bias."""
    for q, k, v, expected, hint in [
        ([[1.0]], [[2.0]], [[3.0]], [[5.284783]], "SiLU(2) = 1.7616, times 3"),
        ([[1.0], [1.0]], [[2.0], [-1.0]], [[1.0], [10.0]], [[0.880797], [-0.463910]],
         "The first event does not see the second; both are divided by n = 2; a weight may be "
         "negative"),
        ([[0.0], [3.0]], [[1.0], [1.0]], [[1.0], [1.0]], [[0.0], [2.857722]],
         "The scores are not divided by sqrt(d), the weights not normalised"),
        ([[1.0, 1.0]], [[1.0, 1.0]], [[1.0, 2.0]], [[1.761594, 3.523188]], "<q, k> = 2"),
    ]:  # fmt: skip
        yield Case(
            f"pointwise_attention(tensor({q}), tensor({k}), tensor({v}))",
            later(answer, *(torch.tensor(x) for x in (q, k, v))),
            expected,
            hint=hint,
        )


@exercise
def padding_factor(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(lengths)`: pairs of a padded batch over pairs of its histories."""
    for lengths, expected, hint in [
        ([5, 5], 1.0, "Nothing to pad"),
        (
            [200, 100, 0],
            2.4,
            "3 x 200 x 200 over 200 x 200 + 100 x 100",
        ),
        ([10, 1, 1, 1], 400 / 103, "4 x 100 over 103: pairs, not events"),
    ]:
        yield Case(f"padding_factor({lengths})", later(answer, lengths), expected, hint=hint)
