"""Impressions on disk to requests on disk: whole or not at all, and resumable."""

import json

import polars as pl
import pyarrow.parquet as pq
import pytest

from genrec_lite.request_only import parts as room
from genrec_lite.request_only.parts import write_requests
from genrec_lite.request_only.tables import RequestsError

FEATURES = ("item_id", "liked")


def impressions(requests: int = 300) -> pl.DataFrame:
    """Requests of 1 to 4 items; some share a second. Rows are shuffled."""
    rows = [
        (r, place, r % 7, 1000 + r // 2, (3 * r + place) % 50, (r + place) % 3 == 0)
        for r in range(requests)
        for place in range(1 + r % 4)
    ]
    names = ["request_id", "position", "user_id", "timestamp", "item_id", "liked"]
    return pl.DataFrame(rows, orient="row", schema=names).sample(fraction=1, shuffle=True, seed=0)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "impressions"
    folder.mkdir()
    frame = impressions()
    for k, part in enumerate((frame[:300], frame[300:])):
        part.write_parquet(folder / f"{k}.parquet")
    return folder


def test_the_parts_hold_every_request_once_in_the_order_of_time(source, tmp_path):
    paths = write_requests(source, tmp_path / "out", features=FEATURES, parts=4, progress=False)
    assert [path.name for path in paths] == [f"part-{k:05}-of-00004.parquet" for k in range(4)]
    assert sorted(tmp_path.glob("out/*")) == sorted([*paths, tmp_path / "out" / "plan.json"])
    found = pl.concat([pl.read_parquet(path) for path in paths])
    expected = (
        impressions()
        .sort("timestamp", "request_id", "position")
        .group_by("request_id", "user_id", "timestamp", maintain_order=True)
        .agg(*FEATURES, num_candidates=pl.len().cast(pl.Int64))
    )
    assert found.select(expected.columns).equals(expected)
    heights = [pl.read_parquet(path).height for path in paths]
    assert min(heights) > 50


def test_times_in_the_file_let_a_reader_skip_row_groups(source, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "ROW_GROUP", 2048)  # the least that DuckDB writes
    many = impressions(9000)
    many.write_parquet(source / "0.parquet")
    (source / "1.parquet").unlink()
    (path,) = write_requests(source, tmp_path / "out", features=FEATURES, parts=1, progress=False)
    file = pq.ParquetFile(path)
    column = file.schema_arrow.names.index("timestamp")
    ranges = []
    for group in range(file.num_row_groups):
        statistics = file.metadata.row_group(group).column(column).statistics
        ranges.append((statistics.min, statistics.max))
    assert len(ranges) >= 4 and ranges == sorted(ranges)
    assert all(one[1] <= other[0] for one, other in zip(ranges, ranges[1:], strict=False))
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_a_stopped_run_leaves_whole_parts_and_is_gone_on_with(source, tmp_path, monkeypatch):
    whole = write_requests(source, tmp_path / "whole", features=FEATURES, parts=4, progress=False)
    right, calls = room.to_requests, []

    def stopped(table, *, features):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return right(table, features=features)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(room, "to_requests", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_requests(source, out, features=FEATURES, parts=4, progress=False)
    there = sorted(path.name for path in out.glob("part-*.parquet"))
    assert there == [path.name for path in whole[:2]]
    before = [path.stat().st_mtime_ns for path in sorted(out.glob("part-*.parquet"))]
    paths = write_requests(source, out, features=FEATURES, parts=4, progress=False)
    assert [path.stat().st_mtime_ns for path in paths[:2]] == before
    one, other = (pl.concat([pl.read_parquet(path) for path in run]) for run in (paths, whole))
    assert one.equals(other)


def test_nothing_half_written_has_a_parts_name(source, tmp_path, monkeypatch):
    def cut(old, new):
        if str(new).endswith(".parquet"):
            raise OSError("disk full")
        old.rename(new)

    monkeypatch.setattr(room.os, "replace", cut)
    with pytest.raises(OSError, match="disk full"):
        write_requests(source, tmp_path / "out", features=FEATURES, parts=2, progress=False)
    assert not list(tmp_path.glob("out/*.parquet"))
    monkeypatch.undo()
    paths = write_requests(source, tmp_path / "out", features=FEATURES, parts=2, progress=False)
    assert sum(pl.read_parquet(path).height for path in paths) == 300
    assert not list(tmp_path.glob("out/*.tmp"))


def test_a_folder_of_another_run_is_refused(source, tmp_path):
    out = tmp_path / "out"
    write_requests(source, out, features=FEATURES, parts=2, progress=False)
    with pytest.raises(RequestsError, match="begun with other parts, 2, not 3: remove the folder"):
        write_requests(source, out, features=FEATURES, parts=3, progress=False)
    with pytest.raises(RequestsError, match="begun with other features"):
        write_requests(source, out, features=("liked", "item_id"), parts=2, progress=False)
    with pytest.raises(RequestsError, match="begun with other max_candidates, 1000, not 9"):
        write_requests(source, out, features=FEATURES, parts=2, max_candidates=9, progress=False)
    impressions(20).write_parquet(source / "0.parquet")
    with pytest.raises(RequestsError, match="begun with other sources"):
        write_requests(source, out, features=FEATURES, parts=2, progress=False)
    (out / "plan.json").unlink()
    with pytest.raises(RequestsError, match="parts without a plan: name an empty folder"):
        write_requests(source, out, features=FEATURES, parts=2, progress=False)


@pytest.mark.parametrize("keep", [0, 100])
def test_a_cut_file_is_named_and_nothing_is_written(source, tmp_path, keep):
    bad = source / "1.parquet"
    bad.write_bytes(bad.read_bytes()[:keep])
    with pytest.raises(RequestsError, match=r"1\.parquet cannot be read as Parquet, it may be cut"):
        write_requests(source, tmp_path / "out", features=FEATURES, progress=False)
    assert not (tmp_path / "out").exists()


def test_a_file_unlike_the_first_is_named(source, tmp_path):
    second = pl.read_parquet(source / "1.parquet")
    second.drop("liked").write_parquet(source / "1.parquet")
    message = r"column 'liked' is missing in .*1\.parquet and BOOLEAN in .*0\.parquet: write the"
    with pytest.raises(RequestsError, match=message):
        write_requests(source, tmp_path / "out", features=FEATURES, progress=False)
    second.with_columns(pl.col("liked").cast(pl.String)).write_parquet(source / "1.parquet")
    with pytest.raises(RequestsError, match="column 'liked' is VARCHAR in"):
        write_requests(source, tmp_path / "out", features=FEATURES, progress=False)


def test_a_cut_plan_is_named(source, tmp_path):
    out = tmp_path / "out"
    write_requests(source, out, features=FEATURES, parts=2, progress=False)
    for text in ("", '{"parts": 2', "[]", '{"parts": 2}'):
        (out / "plan.json").write_text(text)
        with pytest.raises(RequestsError, match=r"plan\.json is no plan of parts"):
            write_requests(source, out, features=FEATURES, parts=2, progress=False)


def test_no_file_is_named(tmp_path):
    with pytest.raises(RequestsError, match="nowhere is no Parquet file and no folder with any"):
        write_requests(tmp_path / "nowhere", tmp_path / "out", features=FEATURES)


def test_impressions_that_make_no_requests_leave_no_plan(source, tmp_path):
    frame = impressions().with_columns(timestamp=pl.int_range(pl.len()))
    frame.write_parquet(source / "0.parquet")
    (source / "1.parquet").unlink()
    with pytest.raises(RequestsError, match="request 1 has in timestamp both"):
        write_requests(source, tmp_path / "out", features=FEATURES, progress=False)
    assert not list((tmp_path / "out").iterdir())


def test_more_parts_than_seconds_leave_out_the_empty_ones(source, tmp_path):
    out = tmp_path / "out"
    frame = impressions().with_columns(timestamp=pl.col("timestamp") // 1040)
    frame.write_parquet(source / "0.parquet")
    (source / "1.parquet").unlink()
    paths = write_requests(source, out, features=FEATURES, parts=8, progress=False)
    assert 1 <= len(paths) <= 2
    borders = json.loads((out / "plan.json").read_text())["borders"]
    assert sum(rows for *_, rows in borders) == len(frame)
    assert sum(pl.read_parquet(path)["num_candidates"].sum() for path in paths) == len(frame)


def test_two_runs_give_the_same_bytes(source, tmp_path):
    impressions(60_000).write_parquet(source / "0.parquet")
    (source / "1.parquet").unlink()
    one, other = (
        write_requests(source, tmp_path / name, features=FEATURES, parts=5, progress=False)
        for name in ("one", "other")
    )
    assert len(one) == 5
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_a_wrong_call_leaves_the_folder_to_the_right_one(source, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RequestsError, match="no column 'lked'"):
        write_requests(source, out, features=("item_id", "lked"), progress=False)
    with pytest.raises(RequestsError, match="do not hold item_id"):
        write_requests(source, out, features=("liked",), progress=False)
    with pytest.raises(RequestsError, match="has 4 impressions, more than 3"):
        write_requests(source, out, features=FEATURES, max_candidates=3, progress=False)
    with pytest.raises(ValueError, match="parts is 0: at least 1"):
        write_requests(source, out, features=FEATURES, parts=0, progress=False)
    with pytest.raises(RequestsError, match="holds the impressions: name another folder"):
        write_requests(source, source, features=FEATURES, progress=False)
    assert len(write_requests(source, out, features=FEATURES, parts=2, progress=False)) == 2


def test_times_that_are_no_seconds_are_named(source, tmp_path):
    frame = impressions().with_columns(pl.from_epoch("timestamp"))
    frame.write_parquet(source / "0.parquet")
    (source / "1.parquet").unlink()
    with pytest.raises(RequestsError, match="timestamp is of type timestamp.*whole seconds"):
        write_requests(source, tmp_path / "out", features=FEATURES, progress=False)


def test_a_path_that_duckdb_takes_for_a_pattern_is_refused(source, tmp_path):
    odd = source.rename(tmp_path / "data[1]")
    (tmp_path / "data1").mkdir()
    impressions(20).write_parquet(tmp_path / "data1" / "0.parquet")
    with pytest.raises(RequestsError, match="is a pattern to DuckDB.*rename it"):
        write_requests(odd, tmp_path / "out", features=FEATURES, progress=False)


@pytest.mark.parametrize("keep", [0, 100])
def test_a_part_that_was_cut_is_written_again(source, tmp_path, keep):
    paths = write_requests(source, tmp_path / "out", features=FEATURES, parts=3, progress=False)
    whole = [path.read_bytes() for path in paths]
    paths[1].write_bytes(whole[1][:keep])
    write_requests(source, tmp_path / "out", features=FEATURES, parts=3, progress=False)
    assert [path.read_bytes() for path in paths] == whole
