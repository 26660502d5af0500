"""Checks for the exercises of chapter 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from genrec_lite.notebook.check import Case, exercise, later

__all__ = ["rank_of", "row_lengths", "sampled_hit_probability", "stable_order"]


@exercise
def row_lengths(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(offsets)`: how many values each row holds, empty rows included."""
    for offsets, expected in [([0, 3, 10, 10, 11], [3, 7, 0, 1]), ([0], []), ([0, 0], [0])]:
        yield Case(
            f"row_lengths(tensor({offsets}))",
            later(answer, torch.tensor(offsets)),
            expected,
            hint="Row i runs from offsets[i] to offsets[i + 1]",
        )


@exercise
def stable_order(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(users, times)`: places of the events by user, then time, then file order."""
    users, times = [7, 3, 7, 3, 7], [105, 101, 100, 100, 105]
    yield Case(
        f"stable_order(tensor({users}), tensor({times}))",
        later(answer, torch.tensor(users), torch.tensor(times)),
        [3, 1, 2, 0, 4],
        hint="User 3 first; within a user by time; events 0 and 4 share a time and stay in order",
    )
    # Long enough for an unstable sort to show itself; every event ties with many others.
    generator = torch.Generator().manual_seed(0)
    many = torch.randint(3, (2, 3000), generator=generator)
    triples = sorted(zip(*many.tolist(), range(3000), strict=True))
    yield Case(
        "stable_order(3,000 events of 3 users in 3 seconds)",
        later(answer, many[0], many[1]),
        [place for _, _, place in triples],
        hint="Ties stay in the order of the file: pass stable=True to every sort",
    )


@exercise
def rank_of(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(scores, target, seen)`: the 1-based rank, ties to the lower index."""
    scores = [0.9, 0.1, 0.5, 0.7, 0.5]
    for target, seen, expected, hint in [
        (3, [], 2, "One item scores more than 0.7"),
        (3, [0], 1, "Item 0 is seen: it does not stand ahead of anybody"),
        (4, [], 4, "Item 2 has the same score and a lower index: it stands ahead"),
        (2, [], 3, "Item 4 has the same score but a higher index: it stands behind"),
        (1, [0, 2, 3, 4], 1, "All others are seen"),
    ]:
        yield Case(
            f"rank_of(tensor({scores}), {target}, {seen})",
            later(answer, torch.tensor(scores), target, seen),
            expected,
            hint=hint,
        )


@exercise
def sampled_hit_probability(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(rank, num_items, negatives, k)`: chance that fewer than k rivals lead."""
    for arguments, expected, hint in [
        ((1, 1001, 100, 10), 1.0, "Nobody stands ahead of rank 1"),
        ((501, 1001, 1, 1), 0.5, "With one rival it is the chance that the rival is behind"),
        ((501, 1001, 2, 2), 0.75, "Fewer than 2 of 2 rivals ahead: 1 - p squared"),
        # Sum over j < 10 of C(100, j) 0.1^j 0.9^(100 - j), worked out with exact fractions.
        ((101, 1001, 100, 10), 0.4512901654, "Sum over j = 0 ... k - 1, k itself not included"),
    ]:
        yield Case(
            f"sampled_hit_probability{arguments}",
            later(answer, *arguments),
            expected,
            tolerance=1e-6,
            hint=hint,
        )
