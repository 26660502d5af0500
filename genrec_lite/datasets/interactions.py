"""A log of who met which item, when: read from own files, checked, and in a stable order."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from genrec_lite.datasets.columns import Place, checked
from genrec_lite.datasets.files import read_csv, read_parquet
from genrec_lite.datasets.splits import Sequences
from genrec_lite.jagged import JaggedTensor

__all__ = ["Interactions"]

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
            seconds since 1970), rating (Float32) and request_id (Int64 or String: which events
            answer one request). Make one with a `from_` method: those check.
        name: what messages and pages call this log.
        duplicates_dropped: number of repeated rows that were left out.
        columns_not_used: names of the source's columns that were left out.
    """

    table: pl.DataFrame
    name: str
    duplicates_dropped: int = 0
    columns_not_used: tuple[str, ...] = ()

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
            frame: one row an interaction; columns beyond the five are left out.
            name: what to call it.
            source: what error messages call the table; `name` unless given.
            columns: our column name to the table's, for those that differ.
            text_ids: ids are text, not whole numbers.
        Raises:
            InteractionsError: names source, row, column and mend; see `columns.checked`.
        """
        place = source if isinstance(source, Place) else Place(source or name)
        table, not_used = checked(frame, place, columns=columns, text_ids=text_ids)
        timed = "timestamp" in table.columns
        table = table.sort(["user_id", "timestamp"] if timed else "user_id", maintain_order=True)
        kept = _without_duplicates(table) if timed else table
        dropped = table.height - kept.height
        if dropped:
            logger.warning("%s: %d duplicate rows dropped, the first of each kept", name, dropped)
        return cls(kept, name, dropped, not_used)

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
            IsADirectoryError: if it is a folder.
            InteractionsError: if it cannot be read as CSV, or as in `from_frame`.
        """
        frame, place = read_csv(path, separator=separator, header=header)
        return cls.from_frame(
            frame, name=name or Path(path).stem, source=place, columns=columns, text_ids=text_ids
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
        return replace(self, table=table)

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
        requests = None
        if "request_id" in self.table.columns:
            numbers = _tensor(self.table["request_id"].rank("dense").cast(pl.Int64) - 1)
            requests = JaggedTensor.from_lengths(numbers, lengths)
        return Sequences(
            items=JaggedTensor.from_lengths(items, lengths),
            timestamps=optional.get("timestamp"),
            ratings=optional.get("rating"),
            requests=requests,
            user_ids=runs["value"].rename("user_id"),
            item_ids=self.table["item_id"].unique().sort(),
        )

    def report(self) -> dict[str, Any]:
        """What is in the log: counts, events per user, order, time span, what was left out."""
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
            "order": "by timestamp" if self.has_timestamps else "as the rows came (no timestamp)",
            "duplicate rows dropped": self.duplicates_dropped,
            "columns not used": list(self.columns_not_used),
        }
        if self.has_timestamps:
            time = pl.col("timestamp")
            ends = self.table.select(time.min().alias("first"), time.max().alias("last")).row(0)
            found["first event"], found["last event"] = (
                datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ") for seconds in ends
            )
        return found


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
