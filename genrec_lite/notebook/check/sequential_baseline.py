"""Checks for the exercises of chapter 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from genrec_lite.notebook.check import Case, exercise, later

__all__ = ["causal_mask", "cosine_loss", "next_item_pairs", "rival_felt"]


@exercise
def causal_mask(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(n)`: (n, n) bool, True where position i may look at position j <= i."""
    yield Case("causal_mask(1)", later(answer, 1), [[True]], hint="A position sees itself")
    yield Case(
        "causal_mask(3)",
        later(answer, 3),
        [[True, False, False], [True, True, False], [True, True, True]],
        hint="Row i is the position that looks, column j the one looked at",
    )
    yield Case(
        "causal_mask(2).dtype", lambda: str(answer(2).dtype), "torch.bool", hint="Add .bool()"
    )


@exercise
def next_item_pairs(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(rows)`: all (input, target) pairs of neighbours within a row."""
    for rows, expected, hint in [
        ([[3, 1, 4]], [(3, 1), (1, 4)], "Each event but the last asks for the one after it"),
        ([[1, 2], [5], [], [7, 8]], [(1, 2), (7, 8)], "No pair crosses from one user to the next"),
    ]:
        yield Case(f"next_item_pairs({rows})", later(answer, rows), expected, hint=hint)


@exercise
def cosine_loss(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(q, x, target, temperature)`: mean softmax cross-entropy of cosines."""
    q = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    x = torch.tensor([[5.0, 0.0], [0.0, 0.5], [-1.0, 0.0]])
    # Cosines are (1, 0, -1) and (0, 1, 0): worked out with exp and log by hand.
    for target, temperature, expected, hint in [
        ([0, 1], 1.0, 0.4795253, "Scale q and x to length 1 before the product"),
        ([1, 1], 1.0, 0.9795253, "The target's own score is subtracted from the log of the sum"),
        ([0, 1], 0.5, 0.1912382, "Divide the cosine by the temperature"),
        ([0, 1], 0.001, 0.0, "exp(1000) overflows: subtract the largest logit first"),
    ]:
        yield Case(
            f"cosine_loss(tensor({q.tolist()}), tensor({x.tolist()}), tensor({target}), "
            f"{temperature})",
            later(answer, q, x, torch.tensor(target), temperature),
            expected,
            hint=hint,
        )


@exercise
def rival_felt(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(num_items, num_negatives)`: chance that a given item is drawn at all."""
    for arguments, expected, hint in [
        ((2, 1), 0.5, "One draw of two items"),
        ((2, 2), 0.75, "Two draws with replacement: missed twice with probability a quarter"),
        ((10, 0), 0.0, "No draw, no meeting"),
        ((10, 10), 0.6513215599, "1 - 0.9 to the power 10; not 10 times 1 / 10"),
    ]:
        yield Case(
            f"rival_felt{arguments}", later(answer, *arguments), expected, tolerance=1e-6,
            hint=hint,
        )  # fmt: skip
