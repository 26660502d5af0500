"""The data sets that have a name, and where their files are looked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pooch

import genrec_lite
from genrec_lite.datasets import movielens
from genrec_lite.datasets.columns import InteractionsError
from genrec_lite.datasets.files import read_parquet
from genrec_lite.datasets.interactions import Interactions

__all__ = ["CATALOGUE", "Entry", "default_cache_dir", "entry", "load", "load_titles", "locate"]

# Of a checkout; an installed copy of the package has no such folder.
REPOSITORY_DATA = Path(genrec_lite.__file__).parents[1] / "data"


@dataclass(frozen=True)
class Entry:
    """A named data set.

    Args:
        name: what `load` takes.
        about: one line for a list.
        file: the main file, relative to a folder that is searched.
        read: makes the log of that file.
        titles: makes the table of the items' titles of that file; None if there are none.
        obtain: what to do where the file is not found.
    """

    name: str
    about: str
    file: str
    read: Callable[[Path], Interactions]
    titles: Callable[[Path], pl.DataFrame] | None
    obtain: str


def load(name: str) -> Interactions:
    """The log of a named data set, from the repository, GENREC_LITE_DATA or the cache.

    Raises:
        InteractionsError: if the name is unknown, or the files are nowhere (says what to run).
    """
    found = entry(name)
    return found.read(locate(name))


def load_titles(name: str) -> pl.DataFrame:
    """The items' titles: item_id, title, and where known year (of a film) and genres ("A|B").

    Raises:
        InteractionsError: as `load`, and if the data set has no titles.
    """
    found = entry(name)
    if found.titles is None:
        raise InteractionsError(f"{name} has no titles: only ids are published")
    return found.titles(locate(name))


def entry(name: str) -> Entry:
    """The catalogue's entry of that name.

    Raises:
        InteractionsError: if there is none; lists the names there are.
    """
    if name not in CATALOGUE:
        raise InteractionsError(
            f"no data set is called {name!r}: choose from {', '.join(CATALOGUE)}"
        )
    return CATALOGUE[name]


def locate(name: str) -> Path:
    """The main file of a named data set, in the first folder that has it.

    Raises:
        InteractionsError: if the name is unknown, or no folder has the file.
    """
    found = entry(name)
    folders = [REPOSITORY_DATA]
    if os.environ.get("GENREC_LITE_DATA"):
        folders.append(Path(os.environ["GENREC_LITE_DATA"]))
    folders.append(default_cache_dir())
    for folder in folders:
        if (folder / found.file).is_file():
            return folder / found.file
    looked = ", ".join(str(folder) for folder in folders)
    raise InteractionsError(
        f"{name}: no file {found.file} in {looked}. {found.obtain}, or set GENREC_LITE_DATA to the "
        "folder that holds it"
    )


def default_cache_dir() -> Path:
    """The user's cache folder for fetched data sets."""
    return Path(pooch.os_cache("genrec-lite"))


def _ordered(path: Path, name: str, columns: dict[str, str]) -> Interactions:
    """The log of a table that gives each user's order in a column `pos`, and no time."""
    frame = _table_with(path, "pos").sort("pos", maintain_order=True).drop("pos")
    return Interactions.from_frame(frame, name=name, source=str(path), columns=columns)


def _table_with(path: Path, column: str) -> pl.DataFrame:
    """The table of a Parquet file that must have `column`."""
    frame = read_parquet(path)
    if column not in frame.columns:
        raise InteractionsError(
            f"{path} has no column {column!r}; columns found: {', '.join(frame.columns)}"
        )
    return frame


def _small_titles(path: Path) -> pl.DataFrame:
    titles = read_parquet(path.with_name("movielens_small_titles.parquet"))
    return titles.with_columns(pl.col("item_id", "year").cast(pl.Int64))


def _with_year(films: pl.DataFrame) -> pl.DataFrame:
    """Films with the year taken out of a title such as "Heat (1995)"."""
    pattern = r"^(.*?)\s*\((\d{4})\)\s*$"
    title, year = (pl.col("title").str.extract(pattern, group) for group in (1, 2))
    return films.select(
        pl.col("item_id").cast(pl.Int64),
        pl.coalesce(title, "title").alias("title"),
        year.cast(pl.Int64).alias("year"),
        "genres",
    )


def _movielens(name: str, about: str, file: str) -> Entry:
    return Entry(
        name,
        about,
        f"{name}/{file}",
        read=lambda path: movielens.read_ratings(path, name=name),
        titles=lambda path: _with_year(movielens.read_titles(path.parent)),
        obtain=f"Run `genrec-lite data fetch {name}`",
    )


def _online_retail(path: Path) -> Interactions:
    frame = _table_with(path, "cancel").filter(~pl.col("cancel")).drop("cancel")
    columns = {"user_id": "CustomerID", "item_id": "StockCode", "timestamp": "InvoiceDate"}
    return Interactions.from_frame(
        frame, name="online-retail", source=str(path), columns=columns, text_ids=True
    )


def _online_retail_lines(path: Path) -> Interactions:
    columns = {
        "user_id": "CustomerID",
        "item_id": "StockCode",
        "timestamp": "InvoiceDate",
        "rating": "Quantity",
    }
    return Interactions.from_frame(
        _table_with(path, "Quantity"),
        name="online-retail-lines",
        source=str(path),
        columns=columns,
        text_ids=True,
    )


def _online_retail_invoices(path: Path) -> Interactions:
    """An invoice is a request, at its first minute; lines of one product are taken together."""
    lines = _table_with(path, "InvoiceNo")
    first = pl.col("InvoiceDate").min().over("InvoiceNo")
    frame = (
        lines.with_columns(first)
        .group_by("InvoiceNo", "StockCode", maintain_order=True)
        .agg(pl.first("CustomerID", "InvoiceDate"), pl.sum("Quantity"))
    )
    columns = {
        "request_id": "InvoiceNo",
        "user_id": "CustomerID",
        "item_id": "StockCode",
        "timestamp": "InvoiceDate",
        "rating": "Quantity",
    }
    return Interactions.from_frame(
        frame, name="online-retail-invoices", source=str(path), columns=columns, text_ids=True
    )


def _online_retail_titles(path: Path) -> pl.DataFrame:
    lines = (
        _table_with(path, "Description")
        .select("StockCode", "Description")
        .rename({"StockCode": "item_id", "Description": "title"})
    )
    return lines.unique("item_id", keep="first", maintain_order=True).sort("item_id")


_ENTRIES = [
    Entry(
        "movielens-small",
        "100,004 ratings by 671 users of 9,066 films, 1995-2016 (in the repository)",
        "movielens_small.parquet",
        read=lambda path: Interactions.from_parquet(path, name="movielens-small"),
        titles=_small_titles,
        obtain="Run `python data/make_movielens_small.py` in a checkout of the repository",
    ),
    _movielens("ml-100k", "100,000 ratings by 943 users of 1,682 films, 1997-1998", "u.data"),
    _movielens(
        "ml-1m", "1,000,209 ratings by 6,040 users of 3,706 films, 2000-2003", "ratings.dat"
    ),
    _movielens("ml-20m", "20,000,263 ratings by 138,493 users of 26,744 films", "ratings.csv"),
    Entry(
        "ml-1m-ordered",
        "ml-1m in each user's order, without timestamps",
        "ml-1m-ordered.parquet",
        read=lambda path: _ordered(
            path, "ml-1m-ordered", {"user_id": "userId", "item_id": "movieId"}
        ),
        titles=lambda path: _with_year(
            read_parquet(path.with_name("ml-1m-movies.parquet")).rename({"movieId": "item_id"})
        ),
        obtain="It is not published as a file: make it with columns userId, movieId, pos, rating",
    ),
    Entry(
        "amazon-beauty-ordered",
        "198,502 reviews by 22,363 users of 12,101 products, order only",
        "amazon-beauty-ordered.parquet",
        read=lambda path: _ordered(path, "amazon-beauty-ordered", {}),
        titles=None,
        obtain="It is not published as a file: make it with columns user_id, item_id, pos",
    ),
    Entry(
        "online-retail",
        "lines of a shop's invoices 2010-2011, cancellations left out; minute timestamps",
        "online-retail.parquet",
        read=_online_retail,
        titles=_online_retail_titles,
        obtain="Save the UCI data set Online Retail as Parquet, with a boolean column `cancel`",
    ),
    Entry(
        "online-retail-lines",
        "the same with cancellations; the rating is the quantity, below 0 where cancelled",
        "online-retail.parquet",
        read=_online_retail_lines,
        titles=_online_retail_titles,
        obtain="Save the UCI data set Online Retail as Parquet",
    ),
    Entry(
        "online-retail-invoices",
        "the same, each invoice a request with its products once",
        "online-retail.parquet",
        read=_online_retail_invoices,
        titles=_online_retail_titles,
        obtain="Save the UCI data set Online Retail as Parquet",
    ),
]
CATALOGUE: dict[str, Entry] = {one.name: one for one in _ENTRIES}
