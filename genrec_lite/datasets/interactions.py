"""A log of who met which item, when: read from own files, checked, and in a stable order."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import torch
from polars.exceptions import PolarsError
from torch import Tensor

from genrec_lite.datasets.columns import InteractionsError, Place, checked
from genrec_lite.datasets.splits import Sequences
from genrec_lite.jagged import JaggedTensor

__all__ = ["Interactions", "read_parquet"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Interactions:
    """A checked log, sorted by user, then time, then the row's place in the file.

    Equal timestamps are common (a shop writes one for a whole invoice), so the order is stable:
    rows of one user and one second stay as the file has them. Without timestamps the file's order
    is the order in time. Rows equal in every column are one event written twice: the first stays,
    the number of others is in `duplicates_dropped`, and a warning is logged. Without timestamps
    such rows cannot be told from a second visit to the item, so all of them stay.

    Args:
        table: user_id, item_id (Int64, or String with text ids), optionally timestamp (Int64,
            seconds since 1970) and rating (Float32). Make one with a `from_` method: those check.
        name: what messages and pages call this log.
        duplicates_dropped: number of repeated rows that were left out.
    """

    table: pl.DataFrame
    name: str
    duplicates_dropped: int = 0

    @classmethod
    def from_frame(
        cls,
        frame: pl.DataFrame,
        *,
        name: str,
        source: str | Place | None = None,
        columns: Mapping[str, str] | None = None,
        text_ids: bool = False,
    ) -> Interactions:
        """The checked and sorted log of a table.

        Args:
            frame: one row an interaction; columns beyond the four are left out.
            name: what to call it.
            source: what error messages call the table; `name` unless given.
            columns: our column name to the table's, for those that differ.
            text_ids: ids are text, not whole numbers.
        Raises:
            InteractionsError: names source, row, column and mend; see `columns.checked`.
        """
        place = source if isinstance(source, Place) else Place(source or name)
        table = checked(frame, place, columns=columns, text_ids=text_ids)
        timed = "timestamp" in table.columns
        table = table.sort(["user_id", "timestamp"] if timed else "user_id", maintain_order=True)
        kept = _without_duplicates(table) if timed else table
        dropped = table.height - kept.height
        if dropped:
            logger.warning("%s: %d duplicate rows dropped, the first of each kept", name, dropped)
        return cls(kept, name, dropped)

    @classmethod
    def from_csv(
        cls,
        path: Path | str,
        *,
        columns: Mapping[str, str] | None = None,
        text_ids: bool = False,
        name: str | None = None,
        separator: str = ",",
        header: list[str] | None = None,
    ) -> Interactions:
        """The checked and sorted log of a CSV file.

        Args:
            path: the file; lines in messages are counted from 1, the header line included.
            columns, text_ids: as in `from_frame`.
            name: what to call it; the file's stem unless given.
            separator: one character between cells.
            header: names of the cells, for a file that has no header line.
        Raises:
            FileNotFoundError: if there is no such file.
            InteractionsError: if it cannot be read as CSV, or as in `from_frame`.
        """
        path = _existing(path)
        try:
            # Everything as text: a cell that is no number is then found and named, not guessed at.
            frame = pl.read_csv(
                path,
                separator=separator,
                has_header=header is None,
                new_columns=header,
                infer_schema=False,
            )
        except PolarsError as error:
            if path.stat().st_size == 0:
                raise InteractionsError(
                    f"{path} is empty: give a file with a header line and rows"
                ) from None
            raise InteractionsError(
                f"{path} cannot be read as CSV with separator {separator!r}: "
                f"{_first_line(error)}; save it anew as UTF-8 with as many cells in each line"
            ) from error
        place = Place(str(path), first=2 if header is None else 1, unit="line")
        return cls.from_frame(
            frame, name=name or path.stem, source=place, columns=columns, text_ids=text_ids
        )

    @classmethod
    def from_parquet(
        cls,
        path: Path | str,
        *,
        columns: Mapping[str, str] | None = None,
        text_ids: bool = False,
        name: str | None = None,
    ) -> Interactions:
        """The checked and sorted log of a Parquet file; arguments and errors as in `from_csv`."""
        return cls.from_frame(
            read_parquet(path),
            name=name or Path(path).stem,
            source=str(path),
            columns=columns,
            text_ids=text_ids,
        )

    @property
    def num_users(self) -> int:
        """Number of different users."""
        return self.table["user_id"].n_unique()

    @property
    def num_items(self) -> int:
        """Number of different items."""
        return self.table["item_id"].n_unique()

    @property
    def has_timestamps(self) -> bool:
        """Whether events carry a time, rather than only an order."""
        return "timestamp" in self.table.columns

    def __len__(self) -> int:
        return self.table.height

    def without_repeats(self) -> Interactions:
        """The log with each user's first event with an item only (what is the next *new* item?)."""
        table = self.table.unique(["user_id", "item_id"], keep="first", maintain_order=True)
        return Interactions(table, self.name, self.duplicates_dropped)

    def sequences(self) -> Sequences:
        """Each user's items, oldest first, as contiguous indices (the rank of the item's id)."""
        runs = self.table["user_id"].rle().struct.unnest()
        lengths = _tensor(runs["len"].cast(pl.Int64))
        items = _tensor(self.table["item_id"].rank("dense").cast(pl.Int64) - 1)
        optional = {
            name: JaggedTensor.from_lengths(_tensor(self.table[name]), lengths)
            for name in ("timestamp", "rating")
            if name in self.table.columns
        }
        return Sequences(
            items=JaggedTensor.from_lengths(items, lengths),
            timestamps=optional.get("timestamp"),
            ratings=optional.get("rating"),
            user_ids=runs["value"].rename("user_id"),
            item_ids=self.table["item_id"].unique().sort(),
        )

    def report(self) -> dict[str, Any]:
        """What is in the log: counts, quantiles of events per user, time span, what was dropped."""
        lengths = self.table["user_id"].rle().struct.field("len")
        levels = {"min": 0.0, "10%": 0.1, "50%": 0.5, "90%": 0.9, "99%": 0.99, "max": 1.0}
        found: dict[str, Any] = {
            "name": self.name,
            "interactions": len(self),
            "users": len(lengths),
            "items": self.num_items,
            "events per user": {
                level: round(lengths.quantile(q, "nearest") or 0) for level, q in levels.items()
            },
            "users with one event": int((lengths == 1).sum()),
            "duplicate rows dropped": self.duplicates_dropped,
        }
        if self.has_timestamps:
            time = pl.col("timestamp")
            ends = self.table.select(time.min().alias("first"), time.max().alias("last")).row(0)
            found["first event"], found["last event"] = (
                datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ") for seconds in ends
            )
        return found


def read_parquet(path: Path | str) -> pl.DataFrame:
    """The table of a Parquet file.

    Raises:
        FileNotFoundError: if there is no such file.
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


def _without_duplicates(table: pl.DataFrame) -> pl.DataFrame:
    """The rows of a sorted log that are not equal to an earlier one, in the same order."""
    same = pl.all_horizontal(
        pl.col("user_id", "timestamp") == pl.col("user_id", "timestamp").shift()
    )
    shared = table.select((same | same.shift(-1)).fill_null(False)).to_series()
    # Only rows that share user and second can be equal: comparing those alone is much cheaper.
    first = table.filter(shared).to_struct().is_first_distinct()
    keep = (~shared).to_numpy(writable=True)
    keep[shared.to_numpy()] = first.to_numpy()
    return table.filter(pl.Series(keep))


def _tensor(column: pl.Series) -> Tensor:
    """The column as a tensor that owns its memory."""
    return torch.from_numpy(column.to_numpy(writable=True))


def _existing(path: Path | str) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}: check the path")
    return Path(path)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
