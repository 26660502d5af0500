"""Checks for the exercises of the chapter on scaling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from genrec_lite.notebook.check import Case, exercise, later

__all__ = ["expected_pairs", "exponent", "factor_for", "parts"]


@exercise
def parts(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(lengths, longest, alpha)`: how many events each cut history keeps."""
    for lengths, longest, alpha, expected, hint in [
        ([5, 64, 20], 64, 1.0, [5, 8, 8], "64 ** 0.5 is 8; a history of 5 stays whole"),
        ([64, 0], 64, 2.0, [64, 0], "At alpha 2 nothing is cut"),
        ([8, 9], 64, 1.0, [8, 8], "A history of exactly L^(alpha / 2) events stays whole"),
        ([900], 1000, 1.0, [31], "31.6 is rounded down"),
        ([776, 4096], 4096, 1.6, [776, 776], "4,096 ** 0.8 is 776.04"),
        ([500], 1000, 4 / 3, [100], "1000 ** (2 / 3) falls a rounding short of 100"),
    ]:
        yield Case(
            f"parts({lengths}, {longest}, {alpha:.4g})",
            later(answer, lengths, longest, alpha),
            expected,
            hint=hint,
        )


@exercise
def expected_pairs(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(n, longest, alpha)`: expected pairs n (n + 1) / 2 of one history."""
    for n, longest, alpha, expected, hint in [
        (4, 16, 1.0, 10.0, "As long as L^(alpha / 2): whole for certain"),
        (8, 16, 1.0, 16.5, "16 / 64 of 36 pairs and 48 / 64 of 10"),
        (16, 16, 1.0, 17.875, "16 / 256 of 136 pairs and the rest of 10"),
        (3, 16, 1.0, 6.0, "Short histories stay whole"),
        (16, 16, 2.0, 136.0, "At alpha 2 nothing is cut"),
        (900, 1000, 1.0, 995.9432, "A part has whole events: 31, not 31.6"),
    ]:
        yield Case(
            f"expected_pairs({n}, {longest}, {alpha})",
            later(answer, n, longest, alpha),
            expected,
            hint=hint,
        )


@exercise
def exponent(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(compute, quality, floor)`: eta of the line through the logarithms."""
    for compute, quality, floor, expected, hint in [
        ([1.0, 10.0, 100.0], [8.0, 4.0, 2.0], 0.0, 0.30103, "Ten times the compute, half the loss"),
        ([1.0, 10.0, 100.0], [9.0, 5.0, 3.0], 1.0, 0.30103, "Take the floor off first"),
        ([1.0, 100.0, 1e6], [4.0, 2.0, 3.0], 0.0, 0.0115594, "Least squares, not the two ends"),
        ([1.0, 2.0, 4.0], [5.0, 5.0, 5.0], 0.0, 0.0, "A level line has no exponent to speak of"),
    ]:
        yield Case(
            f"exponent({compute}, {quality}, {floor:g})",
            later(answer, compute, quality, floor),
            expected,
            hint=hint,
        )


@exercise
def factor_for(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(eta, share)`: times the compute for a loss of `share` of what it was."""
    for eta, share, expected, hint in [
        (0.5, 0.5, 4.0, "F^-0.5 halves when F is four times as large"),
        (1.0, 0.9, 1.111111, "One over the share, to the power of one over eta"),
        (0.1, 0.5, 1024.0, "A small exponent makes progress dear: 2 to the tenth"),
        (0.3, 1.0, 1.0, "Nothing to gain, nothing to pay"),
    ]:
        yield Case(f"factor_for({eta}, {share})", later(answer, eta, share), expected, hint=hint)
