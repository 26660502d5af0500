"""Checks for the exercises of chapter 5."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from genrec_lite.notebook.check import Case, exercise, later

__all__ = ["averages", "best_part", "exact_ids", "may_be_better", "speed_up", "top_1_found"]

# One query: two component logits of six items, and the scores that a gate makes of them.
LOGITS = [[8.0, 2.0], [7.0, 1.0], [1.0, 7.0], [2.0, 6.0], [6.5, 5.5], [3.0, 4.0]]
SCORES = [5.0, 3.4, 6.4, 4.0, 6.2, 3.5]


@exercise
def may_be_better(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(logits, threshold)`: ids of items that the bound does not rule out."""
    for rows, threshold, expected, hint in [
        (LOGITS, 5.0, [0, 1, 2, 3, 4], "One component at the threshold is enough"),
        (LOGITS, 6.4, [0, 1, 2, 4], "Item 4 has 6.5 in one component"),
        ([[1.0, 3.0], [2.0, 2.0]], 3.0, [0], "An item exactly at the threshold may tie: keep it"),
        ([[1.0, 1.0], [2.0, 2.0]], 2.5, [], "The bound is the largest logit, not their sum"),
    ]:
        yield Case(
            f"may_be_better(tensor({rows}), {threshold})",
            later(answer, torch.tensor(rows), threshold),
            expected,
            hint=hint,
        )


@exercise
def exact_ids(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(logits, score, k)`: the best k ids, by two passes, few items scored."""
    true, asked = torch.tensor(SCORES), set[int]()

    def score(ids: Any) -> Tensor:
        asked.update(torch.as_tensor(ids).flatten().tolist())
        return true[torch.as_tensor(ids)]

    def scored(*arguments: Any) -> Callable[[], Any]:
        def ask() -> Any:
            asked.clear()
            return None if answer(*arguments) is None else sorted(asked)

        return ask

    logits = torch.tensor(LOGITS)
    for k, expected, rescored, hint in [
        (2, [2, 4], [0, 1, 2, 3, 4], "Item 4 leads in no component: only pass 2 can find it"),
        (1, [2], [0, 1, 2, 4], "After pass 1 the best score is 6.4: item 4 may still beat it"),
    ]:
        call = f"exact_ids(logits, score, {k})"
        yield Case(call, later(answer, logits, score, k), expected, hint=hint)
        yield Case(
            f"items scored by {call}", scored(logits, score, k), rescored,
            hint="Score the leaders of each component, then whatever reaches the threshold",
        )  # fmt: skip


@exercise
def averages(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(f, g)`: (B, D) and (N, D) whose dot products are the mean of all pairs'."""
    f = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # (1, 2, 2)
    g = torch.tensor([[[0.6, 0.8]], [[-1.0, 0.0]]])  # (2, 1, 2)
    uneven = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])  # (1, 2 + 1, 2)

    def product(f: Tensor, g: Tensor) -> Callable[[], Any]:
        def ask() -> Any:
            found = answer(f, g)
            return None if found is None else found[0] @ found[1].T

        return ask

    for name, given, expected in [
        ("two queries' components", f, [[0.7, -0.5]]),
        ("three queries' components", uneven, [[2.2 / 3, -1 / 3]]),
    ]:
        yield Case(
            f"q @ x.T of averages(f, g), {name}", product(given, g), expected,
            hint="The mean over pairs of <f_p, g_p'> is <mean of f, mean of g>",
        )  # fmt: skip
    four = torch.stack([g[0, 0], -g[0, 0], g[0, 0], g[0, 0]])[None]  # (1, 4, 2)
    yield Case(
        "q @ x.T of averages(f, g), four item components", product(f, four), [[0.35]],
        hint="Divide by the number of item components, too",
    )  # fmt: skip


@exercise
def speed_up(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(rescored, num_items, pairs, dim, gate)`: FLOP of brute force over two-pass."""
    for arguments, expected, hint in [
        ((1000, 1000, 32, 64, 128), 1.0, "All rescored: as much work as brute force"),
        ((0, 1000, 32, 64, 128), 5.0, "Nothing rescored: only the logits are left"),
        ((100, 1000, 32, 64, 128), 3.5714286, "A tenth rescored"),
        ((100, 1000, 8, 32, 16), 1.8181818, "With other sizes: D and 2 G share the work"),
    ]:
        yield Case(
            f"speed_up{arguments}", later(answer, *arguments), expected, tolerance=1e-5, hint=hint
        )


@exercise
def top_1_found(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(found, exact)`: share of queries whose exact best item is among the found."""
    for found, exact, expected, hint in [
        ([[3, 1, 2]], [[2, 9, 8]], 1.0, "The best item's place among the found does not matter"),
        ([[3, 1, 2]], [[9, 1, 2]], 0.0, "Only the exact first counts, not the others"),
        ([[1, 2], [3, 4], [5, 6], [7, 8]], [[1, 2], [4, 9], [6, 5], [9, 7]], 0.75,
         "The mean over the queries"),
    ]:  # fmt: skip
        yield Case(
            f"top_1_found(tensor({found}), tensor({exact}))",
            later(answer, torch.tensor(found), torch.tensor(exact)),
            expected,
            hint=hint,
        )


@exercise
def best_part(answer: Callable[..., Any]) -> Iterator[Case]:
    """Checks `answer(question, passages)`: each passage's best vector, and its cosine."""
    passages = [[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [-1.0, 0.0]]]
    for question, parts, cosines, hint in [
        ([1.0, 0.0], [0, 0], [1.0, 0.0], "The number of the vector first, then its cosine"),
        ([0.0, 1.0], [1, 0], [0.8, 1.0], "Compare within a passage: max over dimension 1"),
        ([0.0, -1.0], [0, 1], [0.0, 0.0], "The largest cosine, not the largest in size"),
    ]:
        yield Case(
            f"best_part(tensor({question}), tensor({passages}))",
            later(answer, torch.tensor(question), torch.tensor(passages)),
            (parts, cosines),
            hint=hint,
        )
