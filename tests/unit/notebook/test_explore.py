"""The one control in its two homes."""

import pytest

go = pytest.importorskip("plotly.graph_objects", reason="the book extra is not installed")

from genrec_lite.notebook import explore, figures  # noqa: E402
from genrec_lite.notebook.explore import framed  # noqa: E402


def draw(rows: int) -> go.Figure:
    layout = dict(title=f"{rows} rows", xaxis=dict(title="row"), yaxis=dict(range=[0, 9]))
    fig = go.Figure(go.Bar(y=list(range(rows))), layout=layout)
    return figures.describe(fig, alt="bars that rise from row to row")


def test_frames_carry_data_and_title_only():
    fig = framed(draw, "rows", [2, 3, 5])
    assert [frame.name for frame in fig.frames] == ["2", "3", "5"]
    for frame, rows in zip(fig.frames, [2, 3, 5], strict=True):
        assert frame.layout.to_plotly_json() == {"title": {"text": f"{rows} rows"}}
        assert len(frame.data[0].y) == rows
    (slider,) = fig.layout.sliders
    assert [step.args[0][0] for step in slider.steps] == ["2", "3", "5"]
    assert fig.layout.meta["alt"] == "bars that rise from row to row"


def test_the_book_shows_the_framed_figure(monkeypatch):
    shown = []
    monkeypatch.setenv("GENREC_BOOK", "1")
    monkeypatch.setattr(go.Figure, "show", lambda self: shown.append(self))
    explore(draw, rows=range(1, 13))
    assert [len(fig.frames) for fig in shown] == [12]


def test_a_live_kernel_gets_a_widget_over_the_values(monkeypatch):
    import ipywidgets

    calls = []
    monkeypatch.delenv("GENREC_BOOK", raising=False)
    monkeypatch.setattr(ipywidgets, "interact", lambda f, **kw: calls.append((f, kw)))
    explore(draw, rows=[2, 3])
    ((function, controls),) = calls
    assert function is draw
    assert list(controls["rows"].options) == [2, 3]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({}, "0 choices"),
        ({"rows": [1, 2], "columns": [1, 2]}, r"2 choices \['columns', 'rows'\]"),
        ({"rows": [1]}, "rows has 1 values: give 2 to 12"),
        ({"rows": range(13)}, "rows has 13 values"),
    ],
)
@pytest.mark.parametrize("home", ["1", "0"])
def test_both_homes_refuse_what_one_of_them_cannot_show(monkeypatch, home, choices, message):
    monkeypatch.setenv("GENREC_BOOK", home)
    with pytest.raises(figures.FigureError, match=message):
        explore(draw, **choices)
