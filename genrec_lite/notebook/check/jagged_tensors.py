"""Checks for the exercises of chapter 9."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from genrec_lite.notebook.check import Case, exercise, later

__all__ = ["bytes_saved", "empty_share", "row_largest", "row_means", "running_softmax"]

# What a kernel has not written yet, and memory that belongs to no row: nobody's numbers.
UNWRITTEN, NOBODYS = -123456.0, 1e6
SPARE = 32  # of the latter, so that a kernel without a mask reads memory that is there


@exercise
def empty_share(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(lengths, most)`: share of a padded batch's cells that hold nothing."""
    for lengths, most, expected, hint in [
        (
            [3, 7, 0, 1, 4],
            100,
            0.5714285714,
            "15 events in 5 times 7 cells: as wide as the longest",
        ),
        ([3, 7, 0, 1, 4], 4, 0.4, "Cut, they are 3, 4, 0, 1, 4: 12 events in 5 times 4 cells"),
        ([6, 9], 5, 0.0, "Cut, both are 5"),
        ([8, 0], 8, 0.5, "An empty row has cells, too"),
    ]:
        yield Case(
            f"empty_share({lengths}, {most})", later(answer, lengths, most), expected, hint=hint
        )


@exercise
def row_means(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(values, offsets)`: the mean of each row, 0 for an empty one."""
    for values, offsets, expected, hint in [
        ([[1.0, 0], [2, 3], [3, 0], [8, 1]], [0, 3, 4], [[2.0, 1.0], [8.0, 1.0]], "Row 0 has 3"),
        ([[4.0], [6.0]], [0, 0, 2, 2], [[0.0], [5.0], [0.0]], "Rows 0 and 2 are empty: 0"),
        ([[1.0], [2.0], [6.0]], [0, 1, 3], [[1.0], [4.0]], "Each row has its own length"),
    ]:
        yield Case(
            f"row_means(tensor({values}), tensor({offsets}))",
            later(answer, torch.tensor(values), torch.tensor(offsets)),
            expected,
            hint=hint,
        )


@exercise
def running_softmax(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(blocks)`: largest score and sum of exponentials as seen from it."""
    nothing = [-math.inf, -math.inf]
    cases: list[tuple[list[list[float]], tuple[float, float], str]] = [
        ([[1.0, 3], [2, 5], [4]], (5.0, 1.5713174), "Shrink the old sum when a larger score comes"),
        ([[5.0, 4], [1]], (5.0, 1.3861951), "A smaller block leaves the largest as it is"),
        ([[1000.0], [1001]], (1001.0, 1.3678794), "e^1000 is too large: subtract the largest"),
        ([nothing, [1.0, 2]], (2.0, 1.3678794), "-inf - (-inf) is NaN: subtract 0 there"),
        ([nothing], (-math.inf, 0.0), "Without any score the sum is 0"),
    ]
    for blocks, expected, hint in cases:
        yield Case(
            f"running_softmax({blocks})",
            later(answer, [torch.tensor(block) for block in blocks]),
            expected,
            hint=hint,
        )


@exercise
def row_largest(answer: Any) -> Iterator[Case]:
    """Checks the kernel `answer(p_x, p_out, p_offsets, BLOCK)`: the largest number of each row."""
    for rows, block, expected, hint in [
        ([[1.0, 3, 2], [], [5, 4]], 4, [3.0, -math.inf, 5.0], "Mask what lies beyond the row"),
        ([[1.0, 2, 9, 3], [4]], 2, [9.0, 4.0], "A row may need more than one block"),
        ([[-3.0, -1, -2], [-5]], 4, [-1.0, -5.0], "A masked place must not read as 0"),
        ([[7.0], [8, 1]], 1, [7.0, 8.0], "A block may be a single number"),
    ]:
        yield Case(
            f"the kernel on rows {rows} with BLOCK={block}",
            later(_run, answer, rows, block),
            expected,
            hint=hint,
        )


def _run(kernel: Any, rows: list[list[float]], block: int) -> Tensor | None:
    """What the kernel writes, one number a row; None if it writes nothing."""
    offsets = torch.tensor([0, *[len(row) for row in rows]]).cumsum(0)
    values = torch.tensor([number for row in rows for number in row])
    memory = torch.cat([values, torch.full((SPARE,), NOBODYS)])
    out = torch.full((len(rows),), UNWRITTEN)
    kernel[(len(rows),)](memory[: len(values)], out, offsets, BLOCK=block)
    return None if bool((out == UNWRITTEN).all()) else out


@exercise
def bytes_saved(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(lengths, width, number_bytes)`: bytes of padded rows less those of jagged."""
    for arguments, expected, hint in [
        (([3, 7, 0, 1, 4], 64, 4), 5072, "20 empty cells, 64 numbers of 4 bytes; 6 offsets"),
        (([10, 10], 8, 2), -24, "No empty cell: the offsets come on top"),
        (([1, 1001], 1, 2), 1976, "1,000 empty cells of 2 bytes; 3 offsets of 8"),
    ]:
        yield Case(f"bytes_saved{arguments}", later(answer, *arguments), expected, hint=hint)
