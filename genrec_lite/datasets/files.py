"""Tables from files: read fast, and a CSV file once more where something is wrong, for the line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from genrec_lite.datasets.columns import InteractionsError, Place

__all__ = ["read_csv", "read_parquet"]


def read_csv(
    path: Path | str, *, separator: str = ",", header: list[str] | None = None
) -> tuple[pl.DataFrame, Place]:
    """The cells of a CSV file as text, and its place, which knows the line of each row.

    Args:
        path: the file; lines in messages are counted from 1, the header line included.
        separator: one character between cells.
        header: names of the cells, for a file that has no header line.
    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if it is a folder.
        InteractionsError: if it cannot be read as CSV: names the line and the mend.
    """
    path = _existing(path)
    if len(separator.encode()) != 1 or separator in '"\r\n':
        raise InteractionsError(
            f"the separator {separator!r} does not part cells: give one character, as ';'"
        )
    first = next(_rows(path, separator), None)
    if first is None:
        raise InteractionsError(f"{path} is empty: give a file with a header line and rows")
    line, names = first
    if header is None:
        _check_header(path, line, names, separator)
    try:
        # Everything as text: a cell that is no number is then found and named, not guessed at.
        frame = pl.read_csv(
            path,
            separator=separator,
            has_header=header is None,
            new_columns=header,
            infer_schema=False,
            skip_lines=line - 1,
        )
    except PolarsError as error:
        fault = _fault(path, separator, len(header or names)) or (
            f"{path} cannot be read as CSV with separator {separator!r} ({_first_line(error)}): "
            "write each quotation mark inside a cell twice, and quotes around that cell"
        )
        raise InteractionsError(fault) from error
    skipped = 1 if header is None else 0

    def line_of(row: int) -> int:
        try:
            return next(islice(_rows(path, separator), row + skipped, None))[0]
        except (StopIteration, InteractionsError):  # polars is more lenient with odd quotes
            return line + row + skipped

    return frame, Place(str(path), unit="line", number=line_of)


def read_parquet(path: Path | str) -> pl.DataFrame:
    """The table of a Parquet file.

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if it is a folder.
        InteractionsError: if it is cut, or no Parquet file.
    """
    path = _existing(path)
    try:
        return pl.read_parquet(path)
    except PolarsError as error:
        raise InteractionsError(
            f"{path} cannot be read as Parquet, it may be cut or be no Parquet file "
            f"({_first_line(error)}): copy or fetch it again"
        ) from error


def _rows(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row behind the number of its first line; blank first lines left out."""
    line, begun = 1, False
    with path.open("rb") as file:
        # Decoded line by line, so that a line that cannot be decoded is known.
        reader = csv.reader(
            (text.decode("utf-8-sig") for text in file), delimiter=separator, strict=True
        )
        try:
            for cells in reader:
                begun = begun or bool(cells)
                if begun:
                    yield line, cells
                line = reader.line_num + 1
        except UnicodeDecodeError:
            raise InteractionsError(
                f"{path}, line {reader.line_num + 1} is not UTF-8: save the file anew as UTF-8"
            ) from None
        except csv.Error as error:
            raise InteractionsError(
                f"{path}, line {line}: {error}: close each quotation mark, and end lines with \\n"
            ) from None


def _check_header(path: Path, line: int, names: list[str], separator: str) -> None:
    if len(names) == 1:
        others = [other for other in ",;\t|" if other != separator and other in names[0]]
        if others:
            raise InteractionsError(
                f"{path}, line {line} is a single cell, {names[0]!r}: if cells are parted by "
                f"{others[0]!r}, give separator={others[0]!r} (--separator {others[0]!r})"
            )
    for name in names:
        if name and names.count(name) > 1:
            raise InteractionsError(
                f"{path}, line {line} holds {name!r} twice: rename one of the columns, or, if "
                "that line is data, put a header line above it"
            )


def _fault(path: Path, separator: str, width: int) -> str | None:
    """What is wrong with the first row that has not `width` cells; None if all have."""
    for line, cells in _rows(path, separator):
        if cells and len(cells) != width:
            return (
                f"{path}, line {line} has {len(cells)} cells, not {width}: write as many cells in "
                f"each line, and quotes around a cell that holds {separator!r}"
            )
    return None


def _existing(path: Path | str) -> Path:
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it")
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}: check the path")
    return Path(path)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
