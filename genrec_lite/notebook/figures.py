"""Figures that work in a live kernel, in the built book, in the dark and on a phone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["PALETTE", "FigureError", "describe", "in_book", "use_book_theme"]

# After Okabe and Ito's colour-blind-safe set, each shade moved until its contrast with the page
# is at least 3:1 on white and on the dark theme's background alike.
PALETTE = ("#2a78b8", "#d1600f", "#129273", "#b3609b", "#a87b12", "#7b7f87")
BLUES = ((0.0, "#cfe3f2"), (0.5, "#4a90c8"), (1.0, "#0f3d66"))
NEUTRAL = "#747c88"  # legible on both backgrounds until site.js sets the theme's own ink
GRID = "rgba(128, 136, 148, 0.28)"


class FigureError(ValueError):
    """A figure that the book cannot show."""


def in_book() -> bool:
    """Whether this kernel runs for the built book, where no kernel answers later."""
    return os.environ.get("GENREC_BOOK") == "1"


def use_book_theme() -> None:
    """Make the book's looks the defaults of every plotly figure and polars table in this kernel."""
    import plotly.graph_objects as go
    import plotly.io as pio
    import polars as pl

    from genrec_lite.notebook.renderer import BookRenderer

    pl.Config(
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        float_precision=4,
        fmt_table_cell_list_len=12,
    )
    axis = dict(
        gridcolor=GRID,
        linecolor=GRID,
        zerolinecolor=GRID,
        ticks="outside",
        tickcolor=GRID,
        ticklen=4,
        automargin=True,
        minorloglabels="none",
        title=dict(standoff=10),
    )
    layout = dict(
        colorway=list(PALETTE),
        colorscale=dict(sequential=BLUES),
        font=dict(family="system-ui, -apple-system, Segoe UI, Roboto, sans-serif", size=13),
        font_color=NEUTRAL,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin=dict(l=8, r=12, t=36, b=8),
        title=dict(x=0, xref="paper", font=dict(size=15)),
        legend=dict(orientation="h", x=0, y=1.02, yanchor="bottom", bgcolor="rgba(0,0,0,0)"),
        xaxis=axis,
        yaxis=axis,
        hovermode="closest",
        bargap=0.12,
    )
    data = dict(
        heatmap=[dict(colorscale=BLUES, colorbar=dict(outlinewidth=0, thickness=12))],
        scatter=[dict(line=dict(width=2.5), marker=dict(size=8))],
    )
    pio.templates["genrec"] = go.layout.Template(layout=layout, data=data)
    pio.templates.default = "genrec"
    pio.renderers["genrec"] = BookRenderer()
    pio.renderers.default = "genrec"


def describe(fig: Figure, alt: str) -> Figure:
    """The same figure with a text for those who do not see it.

    Args:
        fig: any plotly figure.
        alt: what the figure shows, in a sentence: its axes and what to see in it.
    Raises:
        FigureError: if `alt` is blank.
    """
    if not alt.strip():
        raise FigureError("the figure's alt text is blank: say in a sentence what it shows")
    meta = dict(fig.layout.meta or {})
    fig.update_layout(meta={**meta, "alt": " ".join(alt.split())})
    return fig
