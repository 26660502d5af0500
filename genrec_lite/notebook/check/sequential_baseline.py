"""Checks for the exercises of chapter 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from genrec_lite.notebook.check import Case, exercise

__all__ = ["causal_mask"]


@exercise
def causal_mask(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(n)`: (n, n) bool, True where position i may look at position j <= i."""
    yield Case("causal_mask(1)", lambda: answer(1), [[True]], hint="A position sees itself")
    yield Case(
        "causal_mask(3)",
        lambda: answer(3),
        [[True, False, False], [True, True, False], [True, True, True]],
        hint="Row i is the position that looks, column j the one looked at",
    )
