"""What a log takes on disk: formulas by hand, and the orders that compression is given."""

import random

import polars as pl
import pytest

from genrec_lite.request_only.storage import storage
from genrec_lite.request_only.tables import RequestsError


def both(requests: int = 400, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Requests of 20 users, each with a history of 60 random items and 1 to 9 candidates."""
    draw = random.Random(seed)
    rows = [
        (r, draw.randrange(20), 1000 + r, [draw.randrange(30_000) for _ in range(60)],
         [draw.randrange(30_000) for _ in range(1 + r % 9)])
        for r in range(requests)
    ]  # fmt: skip
    names = ["request_id", "user_id", "timestamp", "history", "item_id"]
    table = pl.DataFrame(rows, orient="row", schema=names).with_columns(
        liked=pl.col("item_id").list.eval(pl.element() % 2 == 0),
        num_candidates=pl.col("item_id").list.len().cast(pl.Int64),
        history=pl.col("history").cast(pl.List(pl.Int32)),
    )
    position = pl.int_ranges("num_candidates").alias("position")
    exploded = table.with_columns(position).drop("num_candidates")
    return exploded.explode("item_id", "liked", "position"), table


def test_raw_bytes_are_those_of_the_formula():
    impressions, requests = both()
    found = storage(impressions, requests)
    one_request, one_impression = 3 * 8 + 60 * 4, 8 + 1
    total = [0, 0]
    for m in requests["num_candidates"]:
        total[0] += m * (one_request + one_impression)
        total[1] += one_request + m * one_impression
    assert [found["raw impressions"], found["raw requests"]] == total


def test_texts_count_their_bytes_and_cells_without_a_value_their_width():
    frame = pl.DataFrame(
        {
            "request_id": [1, 1, 2], "position": [0, 1, 0], "user_id": ["é", "é", "ab"],
            "timestamp": [5, 5, 6], "history": [[1, None], [1, None], []],
        },
        schema_overrides={"history": pl.List(pl.Int64)},
    )  # fmt: skip
    requests = frame.unique("request_id", maintain_order=True).drop("position")
    found = storage(frame, requests.with_columns(num_candidates=pl.Series([2, 1])))
    assert found["raw impressions"] == 3 * 16 + 6 + 4 * 8
    assert found["raw requests"] == 2 * 16 + 4 + 2 * 8


def test_packing_alone_keeps_the_ratio_and_compression_takes_it_where_rows_are_clustered():
    impressions, requests = both(6000)  # more than a page or a window of zstd
    found = storage(impressions, requests)
    raw = found["raw impressions"] / found["raw requests"]
    assert raw > 4.3

    def ratio(way, order):
        return found[f"{way} impressions, {order}"] / found[f"{way} requests, {order}"]

    for order in ("by user", "by time"):
        assert abs(ratio("columnar", order) / raw - 1) < 0.15
        assert 1 < ratio("zstd", order) < 1.5
    assert ratio("zstd", "shuffled") > 2.5


def test_the_same_seed_shuffles_alike_and_another_log_is_refused():
    impressions, requests = both(50)
    assert storage(impressions, requests, seed=1) == storage(impressions, requests, seed=1)
    with pytest.raises(RequestsError, match="candidates: give the same log twice"):
        storage(impressions[1:], requests)
