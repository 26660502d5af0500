"""The columns of an interaction log, each checked by whole-column operations and typed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

import polars as pl

__all__ = ["InteractionsError", "Place", "checked", "whole_ids"]

# Names under which other people's logs hold our columns (lower case, no underscores).
ALIASES: dict[str, set[str]] = {
    "user_id": {"userid", "user", "uid", "customerid", "customer", "visitorid", "sessionid"},
    "item_id": {"itemid", "item", "iid", "movieid", "movie", "productid", "product", "articleid"}
    | {"sku", "asin", "stockcode", "contentid"},
    "timestamp": {"timestamp", "time", "ts", "unixtime", "unixreviewtime", "datetime", "eventtime"}
    | {"invoicedate", "date"},
    "rating": {"rating", "stars", "score", "overall"},
    "request_id": {"requestid"},
}
REQUIRED = ("user_id", "item_id")
TEXT = (pl.String, pl.Categorical, pl.Enum)

# What numbers from a size on look like, and how many make a second: seconds reach 1e11 in the year
# 5138, milliseconds passed it in 1973; so do the next units with 1e14 and 1e17.
FINER = (
    (10**17, "nanoseconds", 1_000_000_000),
    (10**14, "microseconds", 1_000_000),
    (10**11, "milliseconds", 1000),
)


class InteractionsError(ValueError):
    """An interaction log that cannot be used: the message names file, row, column and mend."""


@dataclass(frozen=True)
class Place:
    """Where a table came from, so that a message can point at a cell.

    Args:
        source: file name or other name of the table.
        unit: "line" of a text file or "row" of a table.
        number: number, in that unit, of the row with an index counted from 0.
    """

    source: str
    unit: str = "row"
    number: Callable[[int], int] = lambda row: row + 1

    def cell(self, index: int, column: str) -> str:
        """The words for one cell: file, row and column."""
        return f"{self.source}, {self.unit} {self.number(index)}, column {column!r}"


def checked(
    frame: pl.DataFrame, place: Place, *, columns: Mapping[str, str] | None, text_ids: bool
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """The log's own columns, typed, in the frame's row order; and the names of those not used.

    Args:
        frame: any table; the log's own columns are user_id, item_id, timestamp, rating and
            request_id.
        place: where it came from, for messages.
        columns: our name to the table's name, for those that differ.
        text_ids: ids are text, not whole numbers.
    Raises:
        InteractionsError: if a column is missing, a cell is unusable, or there is no row.
    """
    names = _names(frame.columns, place, columns or {})
    if frame.height == 0:
        raise InteractionsError(
            f"{place.source} holds no row of data: give a log with interactions"
        )
    typed = {}
    for ours, theirs in names.items():
        column = frame[theirs]
        if ours == "rating":
            typed[ours] = _ratings(column, place)
        elif ours == "timestamp":
            typed[ours] = _timestamps(column, place)
        elif text_ids or (ours == "request_id" and column.dtype in TEXT):
            typed[ours] = _text_ids(column, place)
        else:
            typed[ours] = whole_ids(column, place)
    taken = names.values()
    # Columns without a name are a table's row numbers or what lies between two separators.
    unused = tuple(name for name in frame.columns if name not in taken and name.strip())
    return pl.DataFrame(typed), unused


def _names(found: list[str], place: Place, columns: Mapping[str, str]) -> dict[str, str]:
    """Our column names to the table's, for those that the table has."""
    listing = ", ".join(repr(name) for name in found) or "none"
    for ours, theirs in columns.items():
        if ours not in ALIASES:
            raise InteractionsError(
                f"columns maps {ours!r}, which is no column of a log: map {', '.join(ALIASES)}"
            )
        if theirs not in found:
            raise InteractionsError(
                f"{place.source} has no column {theirs!r}, which columns maps to {ours!r}; "
                f"columns found: {listing}"
            )
    names = {}
    for ours, aliases in ALIASES.items():
        theirs = columns.get(ours, ours)
        if theirs in found:
            names[ours] = theirs
            continue
        taken = set(columns.values()) | set(ALIASES)
        free = [name for name in found if name not in taken]
        similar = [name for name in free if name.lower().replace("_", "") in aliases]
        if similar:
            # A time column overlooked would silently leave the rows in file order.
            raise InteractionsError(
                f"{place.source} has no column {ours!r}; columns found: {listing}. "
                f"If {similar[0]!r} is it, map it with columns={{{ours!r}: {similar[0]!r}}} "
                f"(--column {ours}={similar[0]}); if not, drop that column"
            )
        if ours in REQUIRED:
            data = place.unit == "line" and any(_is_number(name) for name in found)
            raise InteractionsError(
                f"{place.source} has no column {ours!r}; columns found: {listing}. "
                + "If these are data, put a header line above them. " * data
                + f"Map the one that holds it with columns={{{ours!r}: ...}} (--column {ours}=...)"
            )
    for ours, theirs in names.items():
        others = [other for other in names if other != ours and names[other] == theirs]
        if others:
            raise InteractionsError(
                f"{place.source}: column {theirs!r} is taken both as {ours!r} and as "
                f"{others[0]!r}: map each to a column of its own"
            )
    return names


def _is_number(name: str) -> bool:
    return name.strip().replace(".", "", 1).isdecimal()


def _refuse(bad: pl.Series, column: pl.Series, place: Place, mend: str) -> None:
    """Raises at the first true entry of `bad`, naming the cell and how many there are."""
    first = bad.arg_max() if bad.any() else None
    if first is None:
        return
    count = int(bad.sum())
    value = column[first]
    empty = value is None or (isinstance(value, str) and not value.strip())
    shown, mend = ("an empty cell", "fill it, or drop the row") if empty else (repr(value), mend)
    others = f" ({count} such cells in this column)" if count > 1 else ""
    raise InteractionsError(f"{place.cell(first, column.name)}: {shown}{others}: {mend}")


def _refuse_type(column: pl.Series, place: Place, mend: str) -> NoReturn:
    raise InteractionsError(
        f"{place.source}, column {column.name!r} is of type {column.dtype}: {mend}"
    )


def _whole_numbers(column: pl.Series, place: Place, mend: str) -> pl.Series:
    """The column as Int64; text that holds whole numbers, and floats such as 3.0, are taken."""
    _refuse(column.is_null(), column, place, mend)
    if column.dtype in TEXT:
        numbers = column.cast(pl.String).str.strip_chars().cast(pl.Int64, strict=False)
    elif column.dtype.is_float():
        numbers = column.cast(pl.Int64, strict=False).set(column != column.floor(), None)
    elif column.dtype.is_integer():
        numbers = column.cast(pl.Int64, strict=False)
    else:
        _refuse_type(column, place, mend)
    _refuse(numbers.is_null(), column, place, mend)
    return numbers


def whole_ids(column: pl.Series, place: Place) -> pl.Series:
    """The column, of a table at `place`, as Int64 ids, none negative.

    Raises:
        InteractionsError: names the cell that holds no id.
    """
    mend = "ids are whole numbers from 0; ids that are text need text_ids=True (--text-ids)"
    ids = _whole_numbers(column, place, mend)
    _refuse(ids < 0, column, place, mend)
    return ids


def _text_ids(column: pl.Series, place: Place) -> pl.Series:
    """Ids as text without the space around it, none empty."""
    mend = "ids are text or whole numbers"
    if column.dtype.is_float():
        # A table with gaps turns whole numbers into floats: 17850.0 is meant as 17850.
        return _whole_numbers(column, place, mend).cast(pl.String)
    _refuse(column.is_null(), column, place, mend)
    if not (column.dtype in TEXT or column.dtype.is_integer()):
        _refuse_type(column, place, mend)
    ids = column.cast(pl.String).str.strip_chars()
    _refuse(ids == "", column, place, mend)
    return ids


def _timestamps(column: pl.Series, place: Place) -> pl.Series:
    """Times as Int64 seconds since 1970; date and datetime columns are converted (as UTC)."""
    mend = "a timestamp is a whole number of seconds since 1970 (UTC)"
    if column.dtype in (pl.Date, pl.Datetime):
        _refuse(column.is_null(), column, place, mend)
        seconds = column.cast(pl.Datetime("us")).dt.epoch("s")
    else:
        seconds = _whole_numbers(column, place, mend)
    for size, unit, per_second in FINER:
        finer = f"{mend}: this looks like {unit}, divide by {per_second}"
        _refuse(seconds >= size, column, place, finer)
    _refuse(seconds < 0, column, place, mend)
    return seconds


def _ratings(column: pl.Series, place: Place) -> pl.Series:
    """Ratings as Float32, all finite."""
    mend = "a rating is a finite number: drop the row, or the column"
    _refuse(column.is_null(), column, place, mend)
    text = column.dtype == pl.String
    if not (text or column.dtype.is_numeric()):
        _refuse_type(column, place, mend)
    if text:
        comma = column.str.contains(r"^\s*-?\d+,\d+\s*$")
        _refuse(comma, column, place, "write a decimal point for the decimal comma")
    ratings = (column.str.strip_chars() if text else column).cast(pl.Float32, strict=False)
    _refuse(ratings.is_null() | ~ratings.is_finite(), column, place, mend)
    return ratings
