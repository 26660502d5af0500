"""How a plotly figure becomes a cell output; imported only where plotly is installed."""

from __future__ import annotations

import hashlib
import html
import json
from collections import Counter
from typing import Any

import plotly.io as pio
from plotly.io.base_renderers import MimetypeRenderer

from genrec_lite.notebook.figures import FigureError, in_book

__all__ = ["BookRenderer", "figure_html"]

HEIGHT = 400  # px, unless the figure sets its own
CONFIG = {"responsive": True, "displayModeBar": False}

# Deferred: plotly.min.js may still be loading when the parser reaches this script.
_HTML = """\
<div class="genrec-figure" role="{role}" aria-label="{alt}">
<div id="{name}" class="plotly-graph-div" style="width:100%;height:{height}px"></div>
<script>
(() => {{
  const figure = {figure};
  const draw = () => window.Plotly.newPlot("{name}", figure);
  if (window.Plotly) draw(); else document.addEventListener("DOMContentLoaded", draw);
}})();
</script>
</div>"""


class BookRenderer(MimetypeRenderer):
    """JSON for Jupyter's front ends, and HTML that needs nothing but `window.Plotly`."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def to_mimebundle(self, fig_dict: dict[str, Any]) -> dict[str, Any]:
        """Both forms of one figure.

        Raises:
            FigureError: in the built book, if the figure has no alt text.
        """
        meta = fig_dict.get("layout", {}).get("meta") or {}
        if in_book() and not meta.get("alt"):
            raise FigureError(
                "this figure has no alt text: end the cell with "
                'figures.describe(fig, alt="what it shows, in a sentence")'
            )
        bundle = dict(pio.renderers["plotly_mimetype"].to_mimebundle(dict(fig_dict)))
        bundle["text/html"] = figure_html(fig_dict, self._seen)
        return bundle


def figure_html(fig_dict: dict[str, Any], seen: Counter[str]) -> str:
    """An HTML element that draws the figure; equal figures give equal HTML from run to run.

    Args:
        fig_dict: the figure as a dict; `layout.meta.alt` is its text for screen readers.
        seen: how often each id was given out on this page; updated, so that ids are unique.
    """
    layout = fig_dict.get("layout", {})
    figure = json.loads(pio.to_json(fig_dict, validate=False))
    content = json.dumps({**figure, "config": CONFIG}, separators=(",", ":"), sort_keys=True)
    key = hashlib.sha256(content.encode()).hexdigest()[:12]
    seen[key] += 1
    # "img" would hide the controls inside from assistive technology.
    interactive = bool(layout.get("sliders") or layout.get("updatemenus"))
    return _HTML.format(
        role="group" if interactive else "img",
        alt=html.escape((layout.get("meta") or {}).get("alt", "figure"), quote=True),
        name=f"figure-{key}-{seen[key]}",
        height=layout.get("height") or HEIGHT,
        # "</script>" inside a string would end the element.
        figure=content.replace("<", "\\u003c"),
    )
