"""One control with two homes: a live kernel, and the built book, which has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from genrec_lite.notebook.figures import FigureError, in_book

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["explore", "framed"]

MAX_VALUES = 12  # each value is a whole drawing inside the page


def explore(draw: Callable[..., Figure], **choices: Iterable[Any]) -> None:
    """Display `draw(name=value)` under a slider over the values.

    A live kernel draws anew at each move. The built book holds every drawing as a frame, so the
    slider works there too. Frames hold data and title only: give all drawings the same axes.

    Args:
        draw: takes one keyword and returns a described figure (see `figures.describe`).
        choices: exactly one, `name=values`, of 2 to 12 values.
    Raises:
        FigureError: if there is not exactly one choice, or too few or too many values.
    """
    if len(choices) != 1:
        raise FigureError(f"explore has {len(choices)} choices {sorted(choices)}: give exactly one")
    ((name, given),) = choices.items()
    values = list(given)
    if not 2 <= len(values) <= MAX_VALUES:
        raise FigureError(f"{name} has {len(values)} values: give 2 to {MAX_VALUES}")
    if in_book():
        framed(draw, name, values).show()
        return
    import ipywidgets

    label = name.replace("_", " ")
    slider = ipywidgets.SelectionSlider(options=values, description=label)
    ipywidgets.interact(draw, **{name: slider})


def framed(draw: Callable[..., Figure], name: str, values: list[Any]) -> Figure:
    """One figure with a frame and a slider step for each value.

    Args:
        draw: takes `name` as a keyword and returns a figure.
        name: the keyword.
        values: what the slider stops at, in order.
    """
    import plotly.graph_objects as go

    drawings = [draw(**{name: value}) for value in values]
    labels = [str(value) for value in values]
    fig = go.Figure(drawings[0])
    fig.frames = [
        go.Frame(name=label, data=d.data, layout=dict(title=dict(text=d.layout.title.text)))
        for label, d in zip(labels, drawings, strict=True)
    ]
    now = dict(mode="immediate", frame=dict(duration=0, redraw=True), transition=dict(duration=0))
    steps = [dict(label=label, method="animate", args=[[label], now]) for label in labels]
    prefix = f"{name.replace('_', ' ')} = "
    fig.update_layout(sliders=[dict(steps=steps, currentvalue=dict(prefix=prefix), pad=dict(t=48))])
    return fig
