from __future__ import annotations

import re
from pathlib import Path

import pytest

from genrec_lite.datasets import Interactions, InteractionsError

HEADER = "user_id,item_id\n"


def csv(folder: Path, content: str | bytes) -> Path:
    path = folder / "log.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


BAD_FILES = {
    "nothing": ("", "is empty"),
    "line ends only": ("\n\r\n\n", "is empty"),
    "a header only": (HEADER, "holds no row of data"),
    "Latin-1": (HEADER.encode() + b"1,2\n1,\xe9t\xe9\n", "line 3 is not UTF-8: save"),
    "UTF-16": (HEADER.encode("utf-16"), "line 1 is not UTF-8"),
    "too many cells": ("\n" + HEADER + "1,2\n1,2,3\n", "line 4 has 3 cells, not 2: write as many"),
    "an open quote": (HEADER + '1,2\n1,"2\n3,4\n', "line 3: unexpected end of data: close each"),
    "a quote in a cell": (HEADER + '1,2"3\n1,2\n', "write each quotation mark inside a cell twice"),
    "a bare carriage return": ("user_id,item_id\r1,2\r", "line 1: new-line.*end lines with"),
    "a repeated column": (
        "user_id,item_id,user_id\n1,2,3\n",
        "line 1 holds 'user_id' twice: rename",
    ),
    "semicolons": ("user_id;item_id;rating\n1;2;3,5\n", r"separator=';' \(--separator ';'\)"),
    "tabs": ("user_id\titem_id\n1\t2\n", r"--separator '\\t'"),
    "data for a header": ("1,10,4.0\n1,11,3.0\n", "these are data, put a header line above"),
    "equal data for a header": ("1,1,4\n1,2,3\n", "if that line is data, put a header line above"),
}


@pytest.mark.parametrize(("content", "told"), BAD_FILES.values(), ids=list(BAD_FILES))
def test_what_is_wrong_with_a_csv_file_is_told_in_one_line(
    tmp_path: Path, content: str | bytes, told: str
) -> None:
    path = csv(tmp_path, content)
    with pytest.raises(InteractionsError, match=f"^{re.escape(str(path))}.*{told}") as caught:
        Interactions.from_csv(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n\nuser_id,item_id\n1,2\n1,bad\n", 5),
        ("\r\nuser_id,item_id\r\n1,2\r\n1,bad\r\n", 4),
        ('user_id,item_id,text\n1,2,"a\n\nb"\n1,bad,""\n', 5),
        ('user_id,item_id,text\n1,bad,"a\n\nb"\n', 2),
        (f"user_id,item_id,text\n1,2,{'a' * 200_000}\n1,bad,b\n", 3),  # longer than csv reads
    ],
    ids=["blank first lines", "blank, CRLF", "after a cell of lines", "at one", "a long cell"],
)
def test_a_bad_cell_is_named_with_the_line_an_editor_shows(
    tmp_path: Path, text: str, line: int
) -> None:
    with pytest.raises(InteractionsError, match=f", line {line}, column 'item_id': 'bad'"):
        Interactions.from_csv(csv(tmp_path, text))


@pytest.mark.parametrize("before", ["", "\n\n", "\ufeff"], ids=["at once", "blank", "mark"])
def test_a_file_without_a_header_line_is_read_from_its_first_row(
    tmp_path: Path, before: str
) -> None:
    path = csv(tmp_path, before + "1,2\n3,4\n")
    log = Interactions.from_csv(path, header=["user_id", "item_id"])
    assert log.table.rows() == [(1, 2), (3, 4)]


@pytest.mark.parametrize("separator", ["", "::", "\n", '"', "§"])
def test_a_separator_that_cannot_part_cells_is_refused(tmp_path: Path, separator: str) -> None:
    with pytest.raises(InteractionsError, match="give one character"):
        Interactions.from_csv(csv(tmp_path, HEADER), separator=separator)
