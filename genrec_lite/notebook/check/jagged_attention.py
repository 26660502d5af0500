"""Checks for the exercises of chapter 10."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from genrec_lite.notebook.check import Case, exercise, later

__all__ = ["key_blocks", "merge", "speed_up"]


@exercise
def speed_up(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(lengths, groups)`: pairs of padded groups over pairs of the jagged batch."""
    for lengths, groups, expected, hint in [
        ([4, 4], 1, 1.0, "Nothing to save where all rows are as long"),
        ([1, 3], 1, 1.8, "2 x 3 x 3 pairs against 1 + 9"),
        ([6, 1, 3, 2], 2, 1.6, "Sorted 1, 2 | 3, 6: 2 x 4 + 2 x 36 pairs against 50"),
        ([6, 1, 3, 2], 4, 1.0, "A group of one row pads nothing"),
    ]:
        call = f"speed_up({lengths}, {groups})"
        yield Case(call, later(answer, lengths, groups), expected, hint=hint)


@exercise
def merge(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(first, second)`: the triple of two parts of a row."""
    nothing = (-math.inf, 0.0, 0.0)
    for first, second, expected, hint in [
        ((0.0, 1.0, 2.0), (0.0, 1.0, 4.0), (0.0, 2.0, 3.0), "Equal scores: the mean of both"),
        ((0.0, 3.0, 2.0), (0.0, 1.0, 6.0), (0.0, 4.0, 3.0), "A part weighs as much as its sum"),
        (
            (0.0, 1.0, 0.0),
            (1.0, 1.0, 1.0),
            (1.0, 1.3678794, 0.7310586),
            "The first sum shrinks by e^(0 - 1)",
        ),
        (nothing, (2.0, 1.5, 7.0), (2.0, 1.5, 7.0), "A part without keys changes nothing"),
        (nothing, nothing, nothing, "-inf - (-inf) is NaN: return before that"),
    ]:
        call = f"merge({first}, {second})"
        yield Case(call, later(answer, first, second), expected, hint=hint)


@exercise
def key_blocks(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(n, queries, keys)`: blocks of keys that a row's tiles meet, causal."""
    for n, queries, keys, expected, hint in [
        (64, 64, 64, 1, "One tile, one block"),
        (128, 64, 64, 3, "The first tile meets 1 block, the second 2"),
        (130, 64, 64, 6, "1 + 2 + 3: the last tile has two queries and still meets three blocks"),
        (90, 128, 32, 3, "No query is later than 89: keys up to there"),
        (0, 64, 64, 0, "No event, no tile"),
    ]:
        call = f"key_blocks({n}, {queries}, {keys})"
        yield Case(call, later(answer, n, queries, keys), expected, hint=hint)
