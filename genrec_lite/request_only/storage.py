"""What a log takes on disk, by impressions and by requests, plain and compressed."""

from __future__ import annotations

import io

import polars as pl

from genrec_lite.request_only.tables import RequestsError

__all__ = ["storage"]

GLUE = ("position", "num_candidates")


def storage(impressions: pl.DataFrame, requests: pl.DataFrame, *, seed: int = 0) -> dict[str, int]:
    """Bytes of the same log in both forms, by how it is written and in which order.

    "raw" counts values times their width, text by its bytes: sum m_r (|U_r| + |I|) for
    impressions, and for requests sum |U_r| + m_r |I|, with m_r candidates and |U_r| and |I| bytes
    of a request's and an impression's columns; what ties the two, position or num_candidates, is
    not counted. "columnar" is Parquet without compression (values are still packed by
    dictionaries and runs), "zstd" with it. Of the orders, "by user" lays a user's impressions in
    the order of time, the best that compression can be given (clustered, as RecD does,
    2211.05239); "by time" is that of a log; "shuffled" is that of training data for a model of
    impressions.

    Args:
        impressions: one row each, with request_id, position, user_id, timestamp.
        requests: the same as `to_requests` gives them.
        seed: of the shuffle.
    Returns:
        "raw impressions", "raw requests", and "columnar" and "zstd" with "impressions, ORDER" and
        "requests, ORDER".
    Raises:
        RequestsError: if the two tables do not hold the same number of impressions.
    """
    if impressions.height != requests["num_candidates"].sum():
        raise RequestsError(
            f"{impressions.height} impressions, but the requests have "
            f"{requests['num_candidates'].sum()} candidates: give the same log twice"
        )
    found = {"raw impressions": _raw(impressions), "raw requests": _raw(requests)}
    places = ["request_id", "position"]
    orders = {
        "by user": lambda x, last: x.sort("user_id", "timestamp", *last),
        "by time": lambda x, last: x.sort("timestamp", *last),
        "shuffled": lambda x, last: x.sort(*last).sample(fraction=1, shuffle=True, seed=seed),
    }
    for order, laid in orders.items():
        for name, table in (
            ("impressions", laid(impressions, places)), ("requests", laid(requests, places[:1])),
        ):  # fmt: skip
            for way, compression in (("columnar", "uncompressed"), ("zstd", "zstd")):
                file = io.BytesIO()
                table.write_parquet(file, compression=compression)
                found[f"{way} {name}, {order}"] = file.tell()
    return found


def _raw(table: pl.DataFrame) -> int:
    """Bytes of all values at the width of their types, those in lists included."""
    return sum(_width(column) for column in table.drop(GLUE, strict=False))


def _width(column: pl.Series) -> int:
    if isinstance(column.dtype, pl.List):
        return _width(column.filter(column.list.len() > 0).explode())
    if column.dtype == pl.String:
        return int(column.str.len_bytes().sum())
    return len(column) * column.head(0).to_numpy().dtype.itemsize
