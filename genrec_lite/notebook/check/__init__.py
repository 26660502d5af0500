"""Instant answers to exercises: `check.name(answer)` prints what is right or what was expected.

Each chapter has its module here; a chapter imports it as `check`. A check compares the reader's
answer with results worked out beforehand, never with anything computed from the answer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Case", "exercise", "later"]


@dataclass(frozen=True)
class Case:
    """One question put to the reader's answer.

    Args:
        call: the question as the reader would type it, such as "row_lengths([0, 3, 3])".
        ask: gives what the answer says; anything it raises is reported, not passed on.
        expected: the right result: a number, a text, a tensor, or nested lists of these.
        tolerance: the largest difference that still counts as equal, relative and absolute.
        hint: what to think of when the result is wrong.
    """

    call: str
    ask: Callable[[], Any]
    expected: Any
    tolerance: float = 1e-4
    hint: str = ""


def exercise(cases: Callable[[Any], Iterable[Case]]) -> Callable[[Any], bool]:
    """A check made of `cases(answer)`: prints one line and returns whether all cases hold."""

    @functools.wraps(cases)
    def check(answer: Any) -> bool:
        problem = _first_problem(cases, answer)
        print(f"✗ {problem}" if problem else f"✓ {cases.__name__.replace('_', ' ')}: right")
        return problem is None

    return check


def later(answer: Any, *arguments: Any) -> Callable[[], Any]:
    """`answer(*arguments)`, called only when asked, so that whatever it raises is reported."""
    return lambda: answer(*arguments)


def _first_problem(cases: Callable[[Any], Iterable[Case]], answer: Any) -> str | None:
    """What is wrong with the answer, in words; None if nothing is."""
    unfinished = "not done yet: put your answer where the dots (...) are"
    if answer is None or answer is ...:
        return unfinished
    for case in cases(answer):
        expected = f"expected {_show(case.expected)}"
        try:
            got = case.ask()
            if got is None or got is ...:
                return f"{unfinished}. {case.call}: {expected}"
            right = _equal(got, case.expected, case.tolerance)
        except Exception as error:
            return f"{case.call} raised {type(error).__name__}: {error}; {expected}"
        if not right:
            hint = f". {case.hint}" if case.hint else ""
            return f"{case.call} gave {_show(got)}; {expected}{hint}"
    return None


def _plain(value: Any) -> Any:
    """Tensors, arrays, series and jagged tensors as nested lists; all else as it is."""
    for method in ("to_lists", "tolist", "to_list"):
        if hasattr(value, method):
            return getattr(value, method)()
    return value


def _equal(got: Any, expected: Any, tolerance: float) -> bool:
    """Whether two results are the same within the tolerance; NaN equals nothing."""
    got, expected = _plain(got), _plain(expected)
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(got, (list, tuple))
            and len(got) == len(expected)
            and all(_equal(g, e, tolerance) for g, e in zip(got, expected, strict=True))
        )
    if isinstance(expected, dict):
        return (
            isinstance(got, dict)
            and got.keys() == expected.keys()
            and all(_equal(got[key], expected[key], tolerance) for key in expected)
        )
    if isinstance(expected, (int, float)) and isinstance(got, (int, float)):
        return math.isclose(got, expected, rel_tol=tolerance, abs_tol=tolerance)
    return bool(got == expected)


def _show(value: Any) -> str:
    """A result on one line, cut where it gets long."""
    plain = _plain(value)
    text = f"{plain:.6g}" if isinstance(plain, float) else repr(plain)
    return text if len(text) <= 160 else f"{text[:157]}..."
