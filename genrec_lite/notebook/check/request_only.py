"""Checks for the exercises of the chapter on requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from genrec_lite.notebook.check import Case, exercise, later

__all__ = ["fan_in", "late_ratio", "request_numbers", "token_ratio"]


@exercise
def token_ratio(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(n, counts)`: tokens of the impressions over those of the requests."""
    for n, counts, expected, hint in [
        (128, [1], 1.0, "One candidate: the same sequence"),
        (128, [16], 16 * 129 / 144, "16 sequences of 129 tokens, against one of 144"),
        (100, [1, 9], 1010 / 210, "Ten sequences of 101, against one of 101 and one of 109"),
        (0, [3, 5], 1.0, "Without a history nothing is said twice"),
    ]:
        yield Case(f"token_ratio({n}, {counts})", later(answer, n, counts), expected, hint=hint)


@exercise
def late_ratio(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(m, request, item)`: cost of impressions over requests, two towers."""
    for m, request, item, expected, hint in [
        (1, 7.0, 3.0, 1.0, "One candidate: each tower runs once"),
        (4, 9.0, 1.0, 40 / 13, "Early: 4 times 10; late: 9 and 4 times 1"),
        (1000, 1.0, 1.0, 2000 / 1001, "The ceiling is 1 + 1/1"),
        (8, 0.0, 5.0, 1.0, "A request's tower that costs nothing saves nothing"),
    ]:
        yield Case(
            f"late_ratio({m}, {request:g}, {item:g})",
            later(answer, m, request, item),
            expected,
            hint=hint,
        )


@exercise
def request_numbers(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(users, times, gap)`: 0 for the first request's events, 1 for the next."""
    for users, times, gap, expected, hint in [
        (
            [1, 1, 1],
            [0, 60, 121],
            60,
            [0, 0, 1],
            "60 s later is still the same; 61 is not",
        ),
        ([1, 2, 2], [5, 5, 6], 60, [0, 1, 1], "Another user is another request"),
        ([1, 1, 1], [0, 50, 100], 60, [0, 0, 0], "The gap counts from the event before"),
        ([3, 1], [100, 0], 60, [0, 1], "Another user may come earlier: the gap is below 0"),
    ]:
        yield Case(
            f"request_numbers(tensor({users}), tensor({times}), {gap})",
            later(answer, torch.tensor(users), torch.tensor(times), gap),
            expected,
            hint=hint,
        )


@exercise
def fan_in(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(gradients, counts)`: what a request hears from its candidates."""
    for gradients, counts, expected, hint in [
        ([[1.0], [2.0], [5.0]], [2, 1], [[3.0], [5.0]], "Rows 0 and 1 are of request 0: a sum"),
        ([[1.0, 2.0], [3.0, 4.0]], [2], [[4.0, 6.0]], "Each column by itself"),
        ([[4.0]], [0, 1, 0], [[0.0], [4.0], [0.0]], "A request without candidates hears 0"),
    ]:
        yield Case(
            f"fan_in(tensor({gradients}), tensor({counts}))",
            later(answer, torch.tensor(gradients), torch.tensor(counts)),
            expected,
            hint=hint,
        )
