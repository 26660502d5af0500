"""Impressions made and turned into requests by both ways, in processes of their own."""

import polars as pl
import pytest
from typer.testing import CliRunner

from genrec_lite.bench import request_tables
from genrec_lite.bench.request_tables import compare, make_impressions
from genrec_lite.cli import app


def test_made_impressions_are_requests_whose_rows_lie_apart(tmp_path):
    count = make_impressions(tmp_path, 6_000)
    frame = pl.read_parquet(tmp_path / "*.parquet")
    assert frame.height == count and 5_000 < count < 6_500
    lengths = frame.group_by("request_id").len()["len"]
    assert (lengths.min(), lengths.max()) == (1, 16) and len(lengths) == 1000
    assert not frame.select("request_id", "position").is_duplicated().any()
    together = (frame["request_id"].diff() == 0).mean()
    assert isinstance(together, float) and together < 0.05
    again = tmp_path / "again"
    again.mkdir()
    make_impressions(again, 6_000)
    assert pl.read_parquet(again / "*.parquet").equals(frame)


def test_both_ways_are_measured_and_one_that_gives_other_rows_is_found(monkeypatch):
    monkeypatch.setattr(request_tables, "IMPRESSIONS", 20_000)
    said = CliRunner().invoke(app, ["bench", "request-tables"])
    assert said.exit_code == 0 and "dataframe" in said.output and "times ours" in said.output
    found = compare(5_000)
    for way in ("duckdb", "dataframe"):
        assert found[f"{way} impressions_per_s"] == found["impressions"] / found[f"{way} seconds"]
        assert found[f"{way} peak_bytes"] > 2**26
    assert found["requests"] == round(5_000 / 6)
    sums = iter(([1, 2], [1, 3]))
    monkeypatch.setattr(request_tables, "_summed", lambda out: next(sums))
    with pytest.raises(RuntimeError, match="dataframe gives other rows"):
        compare(2_000)


def test_another_device_is_refused():
    said = CliRunner().invoke(app, ["bench", "request-tables", "--device", "cuda"])
    assert said.exit_code == 1 and "request-tables runs on cpu" in said.output
