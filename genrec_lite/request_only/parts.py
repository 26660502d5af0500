"""Impressions on disk to requests on disk: more than memory holds, part by part, and resumable."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import ibis
import polars as pl
from ibis import Table
from tqdm.auto import tqdm

from genrec_lite.request_only.tables import (
    RequestsError,
    check_features,
    check_impressions,
    to_requests,
)

__all__ = ["write_requests"]

ROW_GROUP = 50_000  # requests; a reader skips a group by the times it holds


def write_requests(
    source: Path | str,
    folder: Path | str,
    *,
    features: Sequence[str],
    parts: int = 16,
    memory: str = "2GB",
    max_candidates: int = 1000,
    progress: bool = True,
) -> list[Path]:
    """The files of request rows that were written, in the order of time.

    A part holds the requests of a stretch of time, sorted by time and id, so that none is split
    and a reader of some days skips the rest. It appears under its name when it is whole; a run
    that was stopped is gone on with by the same call.

    Args:
        source: a Parquet file of impressions, or a folder of them; see `check_impressions`.
        folder: of the parts; made if it is not there.
        features: as of `to_requests`.
        parts: about how many; more of them need less memory at a time.
        memory: what DuckDB may take; beyond it, it uses the folder's disk.
        max_candidates: see `check_impressions`.
        progress: show a bar with impressions per second.
    Raises:
        ValueError: if `parts` is below 1.
        RequestsError: if a file is no whole Parquet file, if the impressions make no requests, or
            if the folder was begun with other impressions or settings.
    """
    folder, source = Path(folder).resolve(), Path(source).resolve()
    if parts < 1:
        raise ValueError(f"parts is {parts}: at least 1")
    files = _parquet_files(source)
    if files[0].parent == folder:
        raise RequestsError(f"{folder} holds the impressions: name another folder for the requests")
    folder.mkdir(parents=True, exist_ok=True)
    spill = folder / "spill.tmp"
    engine = ibis.duckdb.connect(
        memory_limit=memory, temp_directory=str(spill), preserve_insertion_order=False
    )
    try:
        impressions = engine.read_parquet([str(file) for file in files])
        settings = {
            "sources": [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files],
            "features": list(features),
            "parts": parts,
            "max_candidates": max_candidates,
        }
        borders = _begun(folder, settings)
        if borders is None:
            _check_columns(impressions, features)
            check_impressions(impressions, features=features, max_candidates=max_candidates)
            borders = _borders(impressions, parts)
            _write_whole(folder / "plan.json", json.dumps({**settings, "borders": borders}))
        return _write_parts(engine, impressions, folder, features, borders, progress)
    finally:
        engine.disconnect()
        shutil.rmtree(spill, ignore_errors=True)


def _check_columns(impressions: Table, features: Sequence[str]) -> None:
    """Raises before there is a plan: a plan with a wrong feature would refuse the right one."""
    for name in features:
        if name not in impressions.columns:
            raise RequestsError(
                f"there is no column {name!r}; columns found: {', '.join(impressions.columns)}: "
                "name features that are there"
            )
    check_features(features)
    if "timestamp" in impressions.columns and not impressions.timestamp.type().is_integer():
        raise RequestsError(
            f"timestamp is of type {impressions.timestamp.type()}: give whole seconds since 1970"
        )


def _write_parts(
    engine: Any,
    impressions: Table,
    folder: Path,
    features: Sequence[str],
    borders: list[list[int]],
    progress: bool,
) -> list[Path]:
    """One file for each stretch of time; `borders` are (first second, last second, rows)."""
    paths = [folder / f"part-{k:05}-of-{len(borders):05}.parquet" for k in range(len(borders))]
    began, done = time.monotonic(), 0
    total = sum(rows for *_, rows in borders)
    with tqdm(total=total, unit="impression", unit_scale=True, disable=not progress) as bar:
        for path, (first, last, rows) in zip(paths, borders, strict=True):
            if not _is_whole(path, rows):
                inside = impressions.filter(impressions.timestamp.between(first, last))
                requests = to_requests(inside, features=features)
                unfinished = path.with_suffix(".tmp")
                engine.to_parquet(
                    requests.order_by("timestamp", "request_id"),
                    unfinished,
                    compression="zstd",
                    row_group_size=ROW_GROUP,
                )
                os.replace(unfinished, path)
                done += rows
                rate = done / (time.monotonic() - began)
                bar.set_postfix_str(f"{rate:,.0f} impressions/s", refresh=False)
            bar.update(rows)
    return paths


def _is_whole(part: Path, rows: int) -> bool:
    """Whether the part is there and holds the requests of so many impressions."""
    try:
        found = pl.scan_parquet(part, glob=False).select(pl.col("num_candidates").sum()).collect()
    except (OSError, pl.exceptions.PolarsError):
        return False
    return bool(found.item() == rows)


def _borders(impressions: Table, parts: int) -> list[list[int]]:
    """[first second, last second, rows] of each stretch of time, none without rows."""
    # Counted, not estimated: an approximate quantile gives other parts in another run.
    seconds = impressions.group_by("timestamp").agg(rows=impressions.count())
    so_far = seconds.rows.sum().over(ibis.cumulative_window(order_by="timestamp"))
    total = seconds.rows.sum().over(ibis.window())
    timed = seconds.mutate(part=(so_far - seconds.rows) * parts // total)
    found = timed.group_by("part").agg(
        first=timed.timestamp.min(), last=timed.timestamp.max(), rows=timed.rows.sum()
    )
    rows = found.order_by("first").drop("part").to_polars().rows()
    return [[int(one) for one in row] for row in rows]


def _begun(folder: Path, settings: dict[str, Any]) -> list[list[int]] | None:
    """The borders of a run that began in the folder; None if none did."""
    plan = folder / "plan.json"
    if not plan.exists():
        if any(folder.glob("part-*.parquet")):
            raise RequestsError(f"{folder} holds parts without a plan: name an empty folder")
        return None
    try:
        begun = json.loads(plan.read_text())
        if not isinstance(begun, dict) or "borders" not in begun:
            raise ValueError("no borders")
    except ValueError as error:
        raise RequestsError(
            f"{plan} is no plan of parts ({error}): remove {folder}, or name another"
        ) from error
    for name, value in settings.items():
        if begun.get(name) != value:
            raise RequestsError(
                f"{folder} was begun with other {name}, {begun.get(name)}, not {value}: remove the "
                "folder, or name another"
            )
    return list(begun["borders"])


def _parquet_files(source: Path) -> list[Path]:
    """The files of the source, each a whole Parquet file."""
    files = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if not files or not files[0].exists():
        raise RequestsError(f"{source} is no Parquet file and no folder with any: check the path")
    first: dict[str, str] = {}
    for file in files:
        if set("*?[") & set(str(file)):
            raise RequestsError(
                f"{file}: a path with *, ? or [ is a pattern to DuckDB, which may read others: "
                "rename it"
            )
        try:
            with duckdb.connect() as engine:
                found = engine.execute("DESCRIBE FROM read_parquet(?)", [str(file)]).fetchall()
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise RequestsError(
                f"{file} cannot be read as Parquet, it may be cut or be no Parquet file "
                f"({reason}): copy or write it again"
            ) from error
        columns = {name: kind for name, kind, *_ in found}
        first = first or columns
        for name in first | columns:
            if first.get(name) != columns.get(name):
                raise RequestsError(
                    f"column {name!r} is {columns.get(name, 'missing')} in {file} and "
                    f"{first.get(name, 'missing')} in {files[0]}: write the files alike"
                )
    return files


def _write_whole(path: Path, text: str) -> None:
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(text)
    os.replace(unfinished, path)
