import re

import nbformat
import pytest
from expectations import EXPECTATIONS

from genrec_lite.notebook import read_records
from layout import Book, toc_files
from run_chapters import run

BOOK = Book()
CHAPTERS = BOOK.chapters()
MAXIMUM_COLUMNS = 88  # what fits beside the page's margins without a scroll bar
MAXIMUM_LINES = 20


@pytest.fixture(scope="module", params=CHAPTERS, ids=lambda chapter: chapter.stem)
def chapter(request):
    return request.param


@pytest.fixture(scope="module")
def notebook(chapter):
    """The chapter executed at smoke size; from the cache if it is up to date."""
    run("smoke", only=[chapter.stem], jobs=1)
    return nbformat.read(BOOK.executed("smoke") / f"{chapter.stem}.ipynb", 4)


def test_no_cell_hides_a_failure_in_a_shell_command_or_a_magic(chapter):
    # The exit status of `!command` and of `%%bash` reaches nobody.
    lines = [line for source in chapter.code for line in source.splitlines()]
    assert [line for line in lines if re.match(r"\s*(!|%%?\w)", line)] == []


def test_the_records_are_within_the_bounds_that_a_broken_model_fails(chapter, notebook):
    assert chapter.stem in EXPECTATIONS, "add the chapter to tests/chapters/expectations.py"
    records = read_records(notebook)
    assert records, "the chapter records nothing"
    EXPECTATIONS[chapter.stem](records)


def test_the_source_declares_its_parameters_first_and_names_no_version(chapter):
    first = next(cell for cell in chapter.notebook().cells if cell.cell_type == "code")
    assert {"parameters", "remove-cell"} <= {*first.metadata.get("tags", [])}
    assert "jupytext_version" not in chapter.text


def test_code_cells_are_short_enough_to_read(chapter):
    cells = [cell for cell in chapter.notebook().cells if cell.cell_type == "code"]
    wide = [line for c in cells for line in c.source.splitlines() if len(line) > MAXIMUM_COLUMNS]
    assert wide == []
    shown = [
        c.source for c in cells if not {"hide-input", "remove-cell"} & {*c.metadata.get("tags", [])}
    ]
    assert [source for source in shown if source.count("\n") >= MAXIMUM_LINES] == []


def test_every_chapter_is_in_the_table_of_contents():
    pages = toc_files(BOOK.root / "_toc.yml")
    assert {c.path.relative_to(BOOK.root).with_suffix("").as_posix() for c in CHAPTERS} <= {*pages}
