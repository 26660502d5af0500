"""Impressions on disk to request rows: DuckDB part by part beside a dataframe, in own processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from genrec_lite.bench.timing import LOAD_TOLERANCE, peak_bytes
from genrec_lite.request_only.parts import write_requests

__all__ = ["WAYS", "compare", "joined_by_dataframe", "make_impressions", "table"]

FEATURES = ("item_id", "liked")
FILES = 8
IMPRESSIONS = 52_000_000  # asked for; the clipped lengths make them 50 million
# Requests of 1 to 16 candidates, min(16, 1 + floor(-5.6 ln u)): some 6 in the mean, fifty a second.
MADE = """
    WITH requests AS (
        SELECT r, 1 + floor(-5.6 * ln((hash(r, 0) % 1_000_000 + 1) / 1_000_001.0)) AS m
        FROM range({first}, {last}) AS made(r)
    ), rows AS (
        SELECT r, unnest(range(least(16, m)::INT)) AS p FROM requests
    )
    SELECT r AS request_id, p AS position, hash(r, 1) % 1_000_000 AS user_id,
           1_700_000_000 + r // 50 AS timestamp, hash(r, p, 3) % 5 = 0 AS liked,
           hash(r, p, 2) % 1_000_000 + p * 1_000_000 AS item_id
    FROM rows ORDER BY r // 20_000, hash(r, p, 4)
"""


def make_impressions(folder: Path, impressions: int) -> int:
    """How many impressions were written: about as many as asked for, in 8 files.

    Requests come fifty a second; the rows of some minutes are shuffled, so that a request's lie
    apart, as in a log that many machines write. The same number gives the same rows.
    """
    requests = max(FILES, round(impressions / 6))
    with duckdb.connect() as engine:
        for k in range(FILES):
            first, last = k * requests // FILES, (k + 1) * requests // FILES
            path = folder / f"{k:05}.parquet"
            engine.execute(
                f"COPY ({MADE.format(first=first, last=last)}) TO '{path}' (COMPRESSION zstd)"
            )
        found = engine.execute(f"SELECT count(*) FROM '{folder}/*.parquet'").fetchone()
    assert found is not None
    return int(found[0])


def joined_by_dataframe(source: Path, out: Path) -> list[Path]:
    """The request rows the naive way, in memory: lists by request, joined with its own columns."""
    frame = pl.read_parquet(source / "*.parquet")
    lists = (
        frame.sort("position")
        .group_by("request_id")
        .agg(*FEATURES, num_candidates=pl.len().cast(pl.Int64))
    )
    own = frame.select("request_id", "user_id", "timestamp").unique("request_id")
    path = out / "requests.parquet"
    own.join(lists, on="request_id").sort("timestamp", "request_id").write_parquet(path)
    return [path]


WAYS = {
    "duckdb": lambda source, out: write_requests(source, out, features=FEATURES, progress=False),
    "dataframe": joined_by_dataframe,
}


def compare(impressions: int) -> dict[str, Any]:
    """Each way's rows per second and peak memory, in a process of its own, on the same files.

    Args:
        impressions: about so many; their files, a dozen bytes each, lie in the folder for temporary
            files meanwhile.
    Returns:
        "impressions", "requests", "impression bytes", "request bytes" (zstd); "WAY seconds", "WAY
        impressions_per_s", "WAY peak_bytes" (of the process).
    Raises:
        RuntimeError: if a way fails, or gives other rows than the first.
    """
    with tempfile.TemporaryDirectory() as made:
        source = Path(made, "impressions")
        source.mkdir()
        count = make_impressions(source, impressions)
        found: dict[str, Any] = {"impressions": count}
        for way in WAYS:
            out = Path(made, way)
            out.mkdir()
            asked = json.dumps([way, str(source), str(out)])
            done = subprocess.run(
                [sys.executable, "-m", __spec__.name, asked],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"{way} failed with {done.returncode}: {done.stderr[-500:]}")
            one = json.loads(done.stdout.splitlines()[-1])
            found[f"{way} seconds"] = one["seconds"]
            found[f"{way} impressions_per_s"] = count / one["seconds"]
            found[f"{way} peak_bytes"] = one["peak_bytes"]
            check = _summed(out)
            if found.setdefault("sum", check) != check:
                raise RuntimeError(f"{way} gives other rows")
            found["request bytes"] = sum(f.stat().st_size for f in out.glob("*.parquet"))
        found["impression bytes"] = sum(f.stat().st_size for f in source.glob("*.parquet"))
        found["requests"] = found["sum"][0]
        del found["sum"]
    return found


def _summed(out: Path) -> list[int]:
    """How many rows, and a sum over hashes of whole rows, whatever their order."""
    columns = "request_id, user_id, timestamp, item_id, liked, num_candidates"
    with duckdb.connect() as engine:
        row = engine.execute(
            f"SELECT count(*), sum(hash({columns}) % 1_000_000_007) FROM '{out}/*.parquet'"
        ).fetchone()
    assert row is not None
    return [int(one) for one in row]


def table(device: str, repeats: int = 1) -> dict[str, Any]:
    """`compare` of 50 million, once, with "WAY times ours" and "busy".

    Raises:
        ValueError: if the device is not "cpu".
    """
    if device != "cpu":
        raise ValueError(f"device is {device!r}: request-tables runs on cpu")
    busy = os.getloadavg()[0] > LOAD_TOLERANCE
    found = compare(IMPRESSIONS)
    for way in WAYS:
        found[f"{way} times ours"] = found[f"{way} seconds"] / found["duckdb seconds"]
    return {**found, "busy": busy, "device": device}


if __name__ == "__main__":
    asked_way, asked_source, asked_out = json.loads(sys.argv[1])
    began = time.perf_counter()
    WAYS[asked_way](Path(asked_source), Path(asked_out))
    spent = time.perf_counter() - began
    print(json.dumps({"seconds": spent, "peak_bytes": peak_bytes()}))
