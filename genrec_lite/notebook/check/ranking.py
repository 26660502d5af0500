"""Checks for the exercises of the chapter on ranking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from genrec_lite.notebook.check import Case, exercise, later

__all__ = ["first_lines", "flop_ratio", "normalised_entropy", "visible_tokens"]


@exercise
def visible_tokens(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(events, candidates)`: tokens that the last candidate looks at."""
    for events, candidates, expected, hint in [
        (2, 1, 5, "Two events are four tokens; the candidate also sees itself"),
        (2, 3, 5, "The last of three candidates does not see the other two"),
        (0, 7, 1, "Without a history a candidate sees itself alone"),
        (100, 1024, 201, "Items and actions are both tokens"),
    ]:
        yield Case(
            f"visible_tokens({events}, {candidates})",
            later(answer, events, candidates),
            expected,
            hint=hint,
        )


@exercise
def normalised_entropy(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(p, y)`: cross-entropy of p over that of the mean of y."""
    for p, y, expected, hint in [
        ([0.5, 0.5], [1.0, 0.0], 1.0, "The mean of y is one half, and p says just that"),
        ([0.5, 0.5, 0.5, 0.5], [1.0, 0.0, 0.0, 0.0], 1.232619, "ln 2 over 0.5623"),
        ([0.9, 0.2], [1.0, 0.0], 0.236965, "Mean of -ln 0.9 and -ln 0.8, over ln 2"),
        ([0.1, 0.8], [1.0, 0.0], 2.821928, "A model may be worse than the mean: above 1"),
    ]:
        yield Case(
            f"normalised_entropy(tensor({p}), tensor({y}))",
            later(answer, torch.tensor(p), torch.tensor(y)),
            expected,
            hint=hint,
        )


@exercise
def flop_ratio(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(n, d, c)`: operations one by one over those of M-FALCON."""
    for n, d, c, expected, hint in [
        (1, 1, 1, 6 / 13, "One token, one candidate: 6 over 6 + 7"),
        (100, 10, 1, 150_000 / 152_500, "One candidate: the ratio is a little below 1"),
        (1024, 64, 1024, 370.7621, "A candidate looks at 1,024 tokens: 2 n d, not n d"),
        (10, 1000, 50, 2505 / 301.1, "With a large d it is tokens that count: 10 and 50"),
    ]:
        yield Case(f"flop_ratio({n}, {d}, {c})", later(answer, n, d, c), expected, hint=hint)


@exercise
def first_lines(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(users, times)`: where a user's event does not share the last one's second."""
    for users, times, expected, hint in [
        ([1], [7], [True], "The very first event is a first line"),
        ([1, 1, 1], [7, 7, 8], [True, False, True], "The second event shares its second"),
        ([1, 2, 2], [7, 7, 7], [True, True, False], "Another user's second is another request"),
        ([1, 1, 2, 1], [7, 9, 9, 9], [True, True, True, True], "A user may come again"),
    ]:
        yield Case(
            f"first_lines(tensor({users}), tensor({times}))",
            later(answer, torch.tensor(users), torch.tensor(times)),
            expected,
            hint=hint,
        )
