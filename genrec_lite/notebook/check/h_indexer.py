"""Checks for the exercises of chapter 4."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from genrec_lite.notebook.check import Case, exercise, later

__all__ = ["error_of", "index_bytes", "sampled_threshold", "streamed"]

SCORES = [0.90, 0.10, 0.40, 0.80, 0.30, 0.20, 0.70, 0.05, 0.60, 0.35, 0.15, 0.50]


@exercise
def sampled_threshold(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(scores, sample, candidates)`: the score that about `candidates` reach."""
    for sample, candidates, expected, hint in [
        ([0, 2, 4, 6, 8, 10], 4, 0.70, "6 of 12 asked: the second best of the sample"),
        ([1, 3, 5, 7, 9, 11], 4, 0.50, "The best of this sample are 0.80 and 0.50"),
        ([2, 5, 8], 4, 0.60, "3 of 12 asked, 4 wanted: the best of the sample"),
        ([7, 10], 1, 0.15, "A sixth of a hit is none: take at least one"),
        (list(range(12)), 5, 0.50, "All asked: the fifth best of all"),
    ]:
        yield Case(
            f"sampled_threshold(scores, tensor({sample}), {candidates})",
            later(answer, torch.tensor(SCORES), torch.tensor(sample), candidates),
            expected,
            hint=f"{hint}; scores are {SCORES}",
        )


@exercise
def error_of(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(num_items, candidates, sampled)`: the relative deviation of k'."""
    for arguments, expected, hint in [
        ((1_000, 500, 200), 0.0632455532, "sqrt(1/2 * 4/5 / 100)"),
        ((1_000, 10, 100), 0.9439279634, "Only one hit is expected: m = 1"),
        ((1_000, 10, 1_000), 0.0, "A sample of everything makes no error"),
        ((1_000, 1_000, 50), 0.0, "If all are kept, all are kept"),
    ]:
        yield Case(
            f"error_of{arguments}", later(answer, *arguments), expected, tolerance=1e-6, hint=hint
        )


@exercise
def index_bytes(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(num_items, coarse_dim, item_components, component_dim, pairs)`: bytes."""
    for arguments, expected, hint in [
        ((1, 64, 4, 64, 32), 648, "8 + 64 + 2 (4 * 64 + 32)"),
        ((10, 0, 1, 1, 1), 120, "An id is 8 bytes, a bfloat16 number 2"),
        ((1_000_000, 32, 8, 32, 64), 680_000_000, "The item's part of the gate has P numbers"),
    ]:
        yield Case(f"index_bytes{arguments}", later(answer, *arguments), expected, hint=hint)


@exercise
def streamed(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(queries, items, thresholds, chunk)`: numbers of the items that reach them."""
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    items = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.5, 0.9], [0.4, 0.0]])
    for thresholds, chunk, expected, hint in [
        ([0.6, 0.8], 5, [[0], [1, 3]], "0.8 reaches a threshold of 0.8"),
        ([0.5, 0.0], 2, [[0, 2, 3], [0, 1, 2, 3, 4]], "Add the items of the pieces before"),
        ([0.45, 0.95], 3, [[0, 2, 3], []], "A query may keep nothing"),
    ]:
        yield Case(
            f"streamed(queries, items, tensor({thresholds}), {chunk})",
            later(answer, queries, items, torch.tensor(thresholds), chunk),
            expected,
            hint=hint,
        )
