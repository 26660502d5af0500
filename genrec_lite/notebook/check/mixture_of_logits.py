"""Checks for the exercises of chapter 3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from genrec_lite.notebook.check import Case, exercise, later

__all__ = ["balance", "item_side_bytes", "mixture_score", "share_of_rank"]


@exercise
def share_of_rank(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(matrix, rank)`: share of the squares that the best factorisation holds."""
    diagonal = [[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]
    for matrix, rank, expected, hint in [
        (diagonal, 1, 9 / 14, "Singular values 3, 2, 1 hold 9, 4 and 1 of 14 squares"),
        (diagonal, 2, 13 / 14, "The two largest hold 9 + 4 of 14"),
        (diagonal, 3, 1.0, "Nothing is left over"),
        ([[2.0, 2.0], [2.0, 2.0], [2.0, 2.0]], 1, 1.0, "Equal rows are one direction: rank 1"),
    ]:
        yield Case(
            f"share_of_rank(tensor({matrix}), {rank})",
            later(answer, torch.tensor(matrix), rank),
            expected,
            hint=hint,
        )


@exercise
def mixture_score(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(logits, z)`: the component logits weighted by softmax(z sigmoid(z))."""
    # softmax of two numbers is the sigmoid of their difference: worked out by hand.
    for logits, z, expected, hint in [
        ([2.0, -1.0], [0.0, 0.0], 0.5, "Equal gates: the mean of the logits"),
        ([2.0, -1.0], [1.0, -1.0], 1.1931757, "z sigmoid(z) is 0.731 and -0.269, 1 apart"),
        ([[4.0, 0.0], [0.0, 4.0]], [[9.0, -9.0], [9.0, -9.0]], [3.99951, 0.00049],
         "Softmax and sum run over the last dimension"),
    ]:  # fmt: skip
        yield Case(
            f"mixture_score(tensor({logits}), tensor({z}))",
            later(answer, torch.tensor(logits), torch.tensor(z)),
            expected,
            tolerance=1e-5,
            hint=hint,
        )


@exercise
def balance(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(weights)`: mean entropy of the rows less the entropy of their mean."""
    for weights, expected, hint in [
        ([[0.5, 0.5], [0.5, 0.5]], 0.0, "The same weights everywhere: nothing gained"),
        ([[1.0, 0.0], [0.0, 1.0]], -0.6931472, "Sure and diverse: -log 2; and 0 log 0 is 0"),
        ([[1.0, 0.0], [1.0, 0.0]], 0.0, "All pairs use one component: collapsed, nothing gained"),
        ([[0.9, 0.1], [0.1, 0.9]], -0.3680642, "0.3250830, each row's, less log 2, the mean's"),
    ]:
        yield Case(
            f"balance(tensor({weights}))",
            later(answer, torch.tensor(weights)),
            expected,
            tolerance=1e-5,
            hint=hint,
        )


@exercise
def item_side_bytes(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(num_items, P_Q, P_X, D, bytes_per_number)`: memory of the cached item side."""
    for arguments, expected, hint in [
        ((1, 1, 1, 1, 1), 2, "One number of the component, one of the gate"),
        ((10, 1, 4, 8, 2), 720, "10 items, 4 x 8 numbers and 4 gates, 2 bytes each"),
        ((3706, 8, 4, 64, 2), 2_134_656, "The item's gate has a number for each of P_Q P_X pairs"),
    ]:
        yield Case(
            f"item_side_bytes{arguments}", later(answer, *arguments), expected, tolerance=1e-9,
            hint=hint,
        )  # fmt: skip
