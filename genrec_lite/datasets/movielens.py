"""The file formats of MovieLens: ratings.csv (small, 20M), ratings.dat (1M), u.data (100K)."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from genrec_lite.datasets.columns import InteractionsError
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
        return Interactions.from_csv(path, name=name, columns=columns)
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
    """
    if (folder / "movies.csv").is_file():
        films = pl.read_csv(folder / "movies.csv")
        return films.rename({"movieId": "item_id"})
    if (folder / "movies.dat").is_file():
        cells = _lines(folder / "movies.dat").str.split("::")
        genres = cells.list.get(2)
    elif (folder / "u.item").is_file():
        cells = _lines(folder / "u.item").str.split("|")
        flags = cells.list.tail(len(GENRES_100K)).to_list()
        genres = pl.Series(
            [
                "|".join(g for g, on in zip(GENRES_100K, row, strict=True) if on == "1")
                for row in flags
            ]
        )
    else:
        raise FileNotFoundError(f"{folder} holds none of movies.csv, movies.dat, u.item")
    return pl.DataFrame(
        {"item_id": cells.list.get(0).cast(pl.Int64), "title": cells.list.get(1), "genres": genres}
    )


def _lines(path: Path) -> pl.Series:
    # The old files are written in Latin-1, which polars does not read.
    return pl.Series(path.read_text("latin-1").splitlines())
