"""The timings page: in the order of the book, from the notebooks that were executed."""

import nbformat

from timings_page import write


def test_the_page_lists_executed_chapters_in_the_order_of_the_book(tmp_path):
    for stem, seconds, cells in [
        ("02_sequential_baseline", 60.4, [0.5, 50.0]),
        ("01_interactions", 10.04, [1.0, 2.5, 0.0]),
    ]:
        run = {"seconds": seconds, "cell_seconds": cells, "key": "k", "profile": "book"}
        nbformat.write(
            nbformat.v4.new_notebook(metadata={"genrec": run}), tmp_path / f"{stem}.ipynb"
        )
    gone = {"seconds": 1000.0, "cell_seconds": [1.0]}
    nbformat.write(nbformat.v4.new_notebook(metadata={"genrec": gone}), tmp_path / "01_old.ipynb")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "preface.ipynb")
    page = tmp_path / "timings.md"
    write(tmp_path, page)
    text = page.read_text(encoding="utf-8")
    first = "| {doc}`/chapters/01_interactions` | 10.0 | 3.5 | 2.5 | 3 |"
    second = "| {doc}`/chapters/02_sequential_baseline` | 60.4 | 50.5 | 50.0 | 2 |"
    assert 0 < text.index(first) < text.index(second)
    assert "in all 70\nseconds" in text
