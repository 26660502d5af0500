"""Figures: colours that can be seen, text for those who cannot see them, equal output."""

import itertools
import json
import re
import subprocess
import sys

import plotly.graph_objects as go
import plotly.io as pio
import pytest

from genrec_lite.notebook import figures
from genrec_lite.notebook.renderer import BookRenderer

# --paper in book/_static/genrec.css
BACKGROUNDS = {"light": "#fdfcf9", "dark": "#15181d"}


@pytest.fixture(autouse=True)
def book_theme(monkeypatch):
    monkeypatch.setenv("GENREC_BOOK", "1")
    figures.use_book_theme()
    yield
    pio.templates.default, pio.renderers.default = "plotly", "json"


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = [
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    ]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("colour", "theme"), list(itertools.product(figures.PALETTE, BACKGROUNDS)), ids="-".join
)
def test_every_colour_has_three_to_one_contrast_on_both_backgrounds(colour, theme):
    assert contrast(colour, BACKGROUNDS[theme]) >= 3


def test_the_alt_text_reaches_the_page_escaped():
    fig = figures.describe(go.Figure(go.Bar(y=[1, 2])), alt='Two bars: 1 < 2,\n  "rising"')
    page = BookRenderer().to_mimebundle(fig.to_dict())["text/html"]
    assert 'role="img" aria-label="Two bars: 1 &lt; 2, &quot;rising&quot;"' in page


def test_a_figure_without_alt_text_is_refused_in_the_book_only(monkeypatch):
    fig = go.Figure(go.Bar(y=[1, 2]))
    with pytest.raises(figures.FigureError, match="no alt text"):
        BookRenderer().to_mimebundle(fig.to_dict())
    monkeypatch.delenv("GENREC_BOOK")
    assert "text/html" in BookRenderer().to_mimebundle(fig.to_dict())


def test_blank_alt_text_is_refused():
    with pytest.raises(figures.FigureError, match="blank"):
        figures.describe(go.Figure(), alt="  ")


def test_equal_figures_give_equal_pages_and_unique_ids():
    fig = figures.describe(go.Figure(go.Bar(y=[1, 2])), alt="two bars")
    one, other = BookRenderer(), BookRenderer()
    first = one.to_mimebundle(fig.to_dict())["text/html"]
    assert first == other.to_mimebundle(fig.to_dict())["text/html"]
    again = one.to_mimebundle(fig.to_dict())["text/html"]
    names = [re.search(r'id="(figure-[^"]+)"', page).group(1) for page in (first, again)]
    assert names[0] != names[1]


def test_the_page_needs_no_address_and_survives_a_closing_script_tag():
    text = "</script><b>x"
    fig = figures.describe(go.Figure(go.Bar(y=[1], text=[text])), alt="one bar")
    page = BookRenderer().to_mimebundle(fig.to_dict())["text/html"]
    assert "http" not in page
    assert page.count("</script>") == 1
    drawn = json.loads(re.search(r"const figure = (.*);", page).group(1))
    assert drawn["data"][0]["text"] == [text]


def test_the_notebook_package_imports_without_plotly_widgets_or_ipython():
    code = (
        "import sys\n"
        "for name in ('plotly', 'ipywidgets', 'IPython'): sys.modules[name] = None\n"
        "from genrec_lite.notebook import explore, figures, record, show_source, load_record\n"
        "from genrec_lite.notebook.check import interactions\n"
        "assert callable(record) and callable(explore) and figures.__name__.endswith('figures')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
