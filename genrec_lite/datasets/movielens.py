"""The file formats of MovieLens: ratings.csv (small, 20M), ratings.dat (1M), u.data (100K)."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from genrec_lite.datasets.columns import InteractionsError, Place, whole_ids
from genrec_lite.datasets.files import read_csv
from genrec_lite.datasets.interactions import Interactions

__all__ = ["read_ratings", "read_titles"]

# u.item ends in one 0/1 cell for each of these, in this order (u.genre of ml-100k).
GENRES_100K = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|"
    "Film-Noir|Horror|Musical|Mystery|Romance|Sci-Fi|Thriller|War|Western"
).split("|")


def read_ratings(path: Path, *, name: str) -> Interactions:
    """The log in a MovieLens ratings file, whose format follows from the file's name.

    Args:
        path: .../ratings.csv, .../ratings.dat or .../u.data
        name: what to call the log.
    Raises:
        InteractionsError: if the file's name is another, or its content is unusable.
    """
    if path.name == "ratings.csv":
        columns = {"user_id": "userId", "item_id": "movieId"}
        log = Interactions.from_csv(path, name=name, columns=columns)
        if not log.has_timestamps:
            raise InteractionsError(
                f"{path} has no column 'timestamp', which MovieLens files have: fetch it again"
            )
        return log
    header = ["user_id", "item_id", "rating", "timestamp"]
    if path.name == "u.data":
        return Interactions.from_csv(path, name=name, separator="\t", header=header)
    if path.name == "ratings.dat":
        # Cells are parted by "::"; read with ":", every second cell is empty.
        header = ["user_id", "", "item_id", " ", "rating", "  ", "timestamp"]
        return Interactions.from_csv(path, name=name, separator=":", header=header)
    raise InteractionsError(f"{path} is no MovieLens file: give ratings.csv, ratings.dat or u.data")


def read_titles(folder: Path) -> pl.DataFrame:
    """The films of a MovieLens folder: item_id, title (with its year), genres parted by "|".

    Raises:
        FileNotFoundError: if the folder holds none of movies.csv, movies.dat, u.item.
        InteractionsError: if the file's content is unusable.
    """
    if (folder / "movies.csv").is_file():
        films, place = read_csv(folder / "movies.csv")
        names = ["movieId", "title", "genres"]
        if not set(names) <= set(films.columns):
            raise InteractionsError(
                f"{place.source} has not all of the columns {', '.join(names)}; columns found: "
                f"{', '.join(films.columns)}: fetch it again"
            )
        films = films.select(names).rename({"movieId": "item_id"})
    elif (folder / "movies.dat").is_file():
        rows, place = _cells(folder / "movies.dat", "::", count=3)
        films = _films([(item, title, genres) for item, title, genres in rows])
    elif (folder / "u.item").is_file():
        rows, place = _cells(folder / "u.item", "|", count=5 + len(GENRES_100K))
        films = _films([(row[0], row[1], _genres(row[5:])) for row in rows])
    else:
        raise FileNotFoundError(f"{folder} holds none of movies.csv, movies.dat, u.item")
    return films.with_columns(whole_ids(films["item_id"], place))


def _cells(path: Path, separator: str, *, count: int) -> tuple[list[list[str]], Place]:
    """The `count` cells of each line of a file without a header line, and its place."""
    # The old files are written in Latin-1, in which splitlines() would cut at the byte 0x85.
    lines = [line.rstrip("\r") for line in path.read_text("latin-1").split("\n")]
    numbers = [number for number, line in enumerate(lines) if line]
    rows = [lines[number].split(separator) for number in numbers]
    for number, row in zip(numbers, rows, strict=True):
        if len(row) != count:
            raise InteractionsError(
                f"{path}, line {number + 1} has {len(row)} cells parted by {separator!r}, not "
                f"{count}: fetch the file again"
            )
    return rows, Place(str(path), unit="line", number=lambda row: numbers[row] + 1)


def _genres(flags: list[str]) -> str:
    return "|".join(genre for genre, on in zip(GENRES_100K, flags, strict=True) if on == "1")


def _films(rows: list[tuple[str, str, str]]) -> pl.DataFrame:
    schema = dict.fromkeys(["item_id", "title", "genres"], pl.String)
    return pl.DataFrame(rows, schema=schema, orient="row")
