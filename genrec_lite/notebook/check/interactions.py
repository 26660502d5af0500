"""Checks for the exercises of chapter 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from genrec_lite.notebook.check import Case, exercise

__all__ = ["row_lengths"]


@exercise
def row_lengths(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(offsets)`: how many values each row holds, empty rows included."""
    for offsets, expected in [([0, 3, 10, 10, 11], [3, 7, 0, 1]), ([0], []), ([0, 0], [0])]:
        yield Case(
            f"row_lengths(torch.tensor({offsets}))",
            lambda offsets=offsets: answer(torch.tensor(offsets)),  # type: ignore[misc]
            expected,
            hint="Row i runs from offsets[i] to offsets[i + 1]",
        )
