"""Listings that cannot drift: a page shows the package's own lines."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["show_source", "source_listing"]

_ROOT = Path(__file__).resolve().parents[2]


def show_source(thing: type | Callable[..., Any]) -> None:
    """Display the source of a class or function of the package, highlighted, with its place."""
    from IPython.display import Markdown, display

    display(Markdown(source_listing(thing)))


def source_listing(thing: type | Callable[..., Any]) -> str:
    """The source of `thing` as a fenced Markdown block under a line that says where it stands."""
    thing = getattr(thing, "fn", thing)  # what Triton's decorator was given
    source, first = inspect.getsourcelines(thing)
    path = Path(inspect.getfile(thing)).resolve()
    place = path.relative_to(_ROOT) if path.is_relative_to(_ROOT) else path.name
    lines = f"lines {first} to {first + len(source) - 1}"
    fence = "```"
    while any(fence in line for line in source):
        fence += "`"
    return f"`{place}`, {lines}:\n\n{fence}python\n{''.join(source).rstrip()}\n{fence}\n"
