from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_lite.datasets import Interactions, InteractionsError

GOOD = "user_id,item_id,rating,timestamp\n1,10,4.0,100\n1,11,3.5,90\n2,10,5.0,80\n"


def csv(folder: Path, text: str) -> Path:
    path = folder / "log.csv"
    path.write_text(text)
    return path


def test_a_csv_file_is_read_typed_and_sorted_by_user_and_time(tmp_path: Path) -> None:
    log = Interactions.from_csv(csv(tmp_path, GOOD))
    assert log.table.schema == {
        "user_id": pl.Int64,
        "item_id": pl.Int64,
        "timestamp": pl.Int64,
        "rating": pl.Float32,
    }
    assert log.table["item_id"].to_list() == [11, 10, 10]
    assert (log.name, log.num_users, log.num_items, len(log)) == ("log", 2, 2, 3)
    assert log.has_timestamps


def test_a_parquet_file_gives_the_same_log_as_the_csv_file(tmp_path: Path) -> None:
    path = csv(tmp_path, GOOD)
    pl.read_csv(path).write_parquet(tmp_path / "log.parquet")
    assert Interactions.from_parquet(tmp_path / "log.parquet").table.equals(
        Interactions.from_csv(path).table
    )


def test_other_column_names_are_mapped(tmp_path: Path) -> None:
    path = csv(tmp_path, "customer,sku,when\n1,2,3\n")
    columns = {"user_id": "customer", "item_id": "sku", "timestamp": "when"}
    assert Interactions.from_csv(path, columns=columns).table.row(0) == (1, 2, 3)


def test_text_ids_are_kept_as_text_and_numbered_in_their_order(tmp_path: Path) -> None:
    path = csv(tmp_path, "user_id,item_id\nbo,tea\nal,milk\nbo,milk\n")
    sequences = Interactions.from_csv(path, text_ids=True).sequences()
    assert sequences.user_ids.to_list() == ["al", "bo"]
    assert sequences.item_ids.to_list() == ["milk", "tea"]
    assert sequences.items.to_lists() == [[0], [1, 0]]


def test_float_ids_of_a_table_with_gaps_become_whole_numbers() -> None:
    frame = pl.DataFrame({"user_id": [17850.0], "item_id": ["85123A"]})
    log = Interactions.from_frame(frame, name="shop", text_ids=True)
    assert log.table.row(0) == ("17850", "85123A")


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_datetime_columns_become_seconds_since_1970_in_utc(zone: str | None) -> None:
    moment = datetime(2010, 12, 1, 8, 26, tzinfo=UTC)
    column = pl.Series([moment]).dt.convert_time_zone(zone or "UTC")
    if zone is None:
        column = column.dt.replace_time_zone(None)
    frame = pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": column})
    log = Interactions.from_frame(frame, name="shop")
    assert log.table["timestamp"].to_list() == [int(moment.timestamp())]


def test_sequences_carry_times_and_ratings_in_the_same_rows(tmp_path: Path) -> None:
    sequences = Interactions.from_csv(csv(tmp_path, GOOD)).sequences()
    assert sequences.items.to_lists() == [[1, 0], [0]]
    assert sequences.timestamps is not None and sequences.ratings is not None
    assert sequences.timestamps.to_lists() == [[90, 100], [80]]
    assert sequences.ratings.to_lists() == [[3.5, 4.0], [5.0]]
    assert (len(sequences), sequences.num_items) == (2, 2)


def test_without_timestamps_the_order_of_the_file_is_kept() -> None:
    frame = pl.DataFrame({"user_id": [2, 1, 2, 1], "item_id": [9, 8, 7, 9]})
    log = Interactions.from_frame(frame, name="plain")
    assert not log.has_timestamps
    assert log.sequences().timestamps is None
    assert log.table["item_id"].to_list() == [8, 9, 9, 7]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=80))
def test_rows_of_one_user_and_second_stay_in_the_order_of_the_file(
    rows: list[tuple[int, int]],
) -> None:
    frame = pl.DataFrame(
        {
            "user_id": [user for user, _ in rows],
            "timestamp": [second for _, second in rows],
            "item_id": range(len(rows)),  # tells the row's place in the file
        }
    )
    found = Interactions.from_frame(frame, name="made").table.select(
        "user_id", "timestamp", "item_id"
    )
    assert found.rows() == sorted(found.rows())


def test_exact_duplicates_are_dropped_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    frame = pl.DataFrame(
        {
            "user_id": [1, 1, 1, 1, 1, 2],
            "item_id": [5, 6, 5, 5, 5, 5],
            "rating": [3.0, 3.0, 3.0, 4.0, 3.0, 3.0],
            "timestamp": [7, 7, 7, 7, 8, 7],
        }
    )
    with caplog.at_level(logging.WARNING):
        log = Interactions.from_frame(frame, name="shop")
    kept = log.table.select("user_id", "item_id", "rating", "timestamp").rows()
    assert kept == [(1, 5, 3, 7), (1, 6, 3, 7), (1, 5, 4, 7), (1, 5, 3, 8), (2, 5, 3, 7)]
    assert log.duplicates_dropped == log.report()["duplicate rows dropped"] == 1
    assert "shop: 1 duplicate rows dropped" in caplog.text


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60
    )
)
def test_duplicates_are_found_among_all_rows_of_a_user_and_second(
    rows: list[tuple[int, int, int]],
) -> None:
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    log = Interactions.from_frame(frame, name="made")
    expected = sorted(dict.fromkeys(rows), key=lambda row: (row[0], row[2]))
    assert log.table.rows() == expected
    assert log.duplicates_dropped == len(rows) - len(set(rows))


def test_without_timestamps_repeated_rows_stay_as_second_visits() -> None:
    frame = pl.DataFrame({"user_id": [1, 1], "item_id": [5, 5]})
    assert len(Interactions.from_frame(frame, name="plain")) == 2


def test_without_repeats_keeps_each_users_first_event_with_an_item() -> None:
    frame = pl.DataFrame(
        {"user_id": [1, 1, 1, 2], "item_id": [5, 6, 5, 5], "timestamp": [1, 2, 3, 4]}
    )
    log = Interactions.from_frame(frame, name="shop").without_repeats()
    assert log.table.rows() == [(1, 5, 1), (1, 6, 2), (2, 5, 4)]


def test_the_report_counts_users_items_lengths_and_the_span_of_time() -> None:
    frame = pl.DataFrame(
        {"user_id": [1, 1, 1, 2], "item_id": [5, 6, 7, 5], "timestamp": [0, 60, 3600, 30]}
    )
    report = Interactions.from_frame(frame, name="shop").report()
    assert report["interactions"] == 4
    assert (report["users"], report["items"], report["users with one event"]) == (2, 3, 1)
    assert (report["events per user"]["min"], report["events per user"]["max"]) == (1, 3)
    assert report["first event"] == "1970-01-01 00:00:00+00:00"
    assert report["last event"] == "1970-01-01 01:00:00+00:00"


HEADER = "user_id,item_id,rating,timestamp\n"
BAD_CELLS = {
    "text for a number": ("1,10,4.0,100\n1,ten,4.0,101\n", ["line 3", "'item_id'", "'ten'"]),
    "microseconds": ("1,10,4,1260759144000000\n", ["'timestamp'", "microseconds", "1000000"]),
    "nanoseconds": ("1,10,4,1260759144000000000\n", ["nanoseconds", "1000000000"]),
    "a decimal comma": ('1,10,"3,5",100\n', ["line 2", "'rating'", "'3,5'", "decimal point"]),
    "a fraction as id": ("1.5,10,4.0,100\n", ["line 2", "'user_id'", "'1.5'", "--text-ids"]),
    "a negative id": ("1,10,4.0,100\n-3,10,4,100\n", ["line 3", "'user_id'", "'-3'"]),
    "an empty id": (
        "1,10,4.0,100\n1,,4.0,100\n",
        ["line 3", "'item_id'", "an empty cell: fill it, or drop"],
    ),
    "a text time": ("1,10,4.0,yesterday\n", ["line 2", "'timestamp'", "'yesterday'", "seconds"]),
    "milliseconds": ("1,10,4,1260759144000\n", ["line 2", "'1260759144000'", "divide by 1000"]),
    "a time before 1970": ("1,10,4.0,-1\n", ["line 2", "'timestamp'", "'-1'"]),
    "NaN": ("1,10,4.0,100\n1,11,NaN,101\n", ["line 3", "'rating'", "'NaN'", "drop the row"]),
    "an infinite rating": ("1,10,inf,100\n", ["line 2", "'rating'", "'inf'"]),
    "a rating in words": ("1,10,good,100\n", ["line 2", "'rating'", "'good'"]),
    "an empty rating": ("1,10,,100\n", ["line 2", "'rating'", "empty cell"]),
    "a cut last line": ("1,10,4.0,100\n1,11\n", ["line 3", "'timestamp'", "empty cell"]),
    "an empty line": ("1,10,4.0,100\n\n1,x,4.0,101\n", ["line 3", "empty cell"]),
    "too many cells": ("1,10,4,100\n1,10,4,100,7\n", ["line 3 has 5 cells, not 4", "as many"]),
}


@pytest.mark.parametrize(("rows", "told"), BAD_CELLS.values(), ids=list(BAD_CELLS))
def test_a_bad_cell_is_named_with_file_line_column_and_mend(
    tmp_path: Path, rows: str, told: list[str]
) -> None:
    path = csv(tmp_path, HEADER + rows)
    with pytest.raises(InteractionsError) as caught:
        Interactions.from_csv(path)
    for words in [str(path), *told]:
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_number_of_bad_cells_is_told(tmp_path: Path) -> None:
    with pytest.raises(InteractionsError, match="2 such cells"):
        Interactions.from_csv(csv(tmp_path, HEADER + "a,1,1,1\nb,1,1,1\n"))


@pytest.mark.parametrize("value", [None, float("nan"), 1.5, float("inf"), -1.0])
def test_a_bad_id_in_a_table_is_named_by_row_and_column(value: float | None) -> None:
    frame = pl.DataFrame({"user_id": [1.0, value], "item_id": [1, 2]})
    with pytest.raises(InteractionsError, match="shop, row 2, column 'user_id'"):
        Interactions.from_frame(frame, name="shop")


@pytest.mark.parametrize("column", ["user_id", "timestamp", "rating"])
def test_a_column_of_another_type_is_refused(column: str) -> None:
    frame = pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": [1], "rating": [1.0]})
    with pytest.raises(InteractionsError, match=f"column '{column}' is of type Boolean"):
        Interactions.from_frame(frame.with_columns(pl.lit(True).alias(column)), name="shop")


@pytest.mark.parametrize("text_ids", [False, True])
@pytest.mark.parametrize(
    "column",
    [
        pl.Series([[1]]),
        pl.Series([b"\xff"]),
        pl.Series([{"a": 1}]),
        pl.Series([datetime(2010, 12, 1)]),
    ],
    ids=lambda column: str(column.dtype),
)
def test_ids_of_a_type_that_holds_no_id_are_refused(column: pl.Series, text_ids: bool) -> None:
    frame = pl.DataFrame({"user_id": column, "item_id": ["1"]})
    with pytest.raises(InteractionsError, match="shop, column 'user_id' is of type "):
        Interactions.from_frame(frame, name="shop", text_ids=text_ids)


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["3", "4"])])
def test_ids_of_a_categorical_column_are_read_as_text(dtype: pl.DataType) -> None:
    ids = pl.Series(["4", "3"], dtype=dtype)
    frame = pl.DataFrame({"user_id": ids, "item_id": ids})
    numbers = Interactions.from_frame(frame, name="shop")
    assert numbers.table.rows() == [(3, 3), (4, 4)]
    text = Interactions.from_frame(frame, name="shop", text_ids=True)
    assert text.table.rows() == [("3", "3"), ("4", "4")]


def test_space_around_a_text_id_is_no_part_of_it() -> None:
    frame = pl.DataFrame({"user_id": ["al ", "al"], "item_id": ["tea", " milk"]})
    log = Interactions.from_frame(frame, name="shop", text_ids=True)
    assert log.table.rows() == [("al", "tea"), ("al", "milk")]


@pytest.mark.parametrize("value", ["", " ", None])
def test_an_empty_text_id_is_refused(value: str | None) -> None:
    frame = pl.DataFrame({"user_id": ["al", value], "item_id": ["tea", "tea"]})
    with pytest.raises(InteractionsError, match="row 2, column 'user_id': an empty cell: fill it"):
        Interactions.from_frame(frame, name="shop", text_ids=True)


def test_a_missing_column_lists_those_found_and_proposes_a_mapping(tmp_path: Path) -> None:
    path = csv(tmp_path, "userId,item_id\n1,2\n")
    with pytest.raises(InteractionsError) as caught:
        Interactions.from_csv(path)
    assert "no column 'user_id'; columns found: 'userId', 'item_id'" in str(caught.value)
    assert "columns={'user_id': 'userId'}" in str(caught.value)


def test_a_missing_column_with_no_likely_name_says_how_to_map_one(tmp_path: Path) -> None:
    with pytest.raises(InteractionsError, match="no column 'item_id'.*columns={'item_id': ...}"):
        Interactions.from_csv(csv(tmp_path, "user_id,thing\n1,2\n"))


def test_a_time_column_of_another_name_is_not_overlooked(tmp_path: Path) -> None:
    path = csv(tmp_path, "user_id,item_id,time\n1,2,3\n")
    with pytest.raises(InteractionsError, match="no column 'timestamp'.*'timestamp': 'time'"):
        Interactions.from_csv(path)


def test_the_report_tells_which_order_holds_and_which_columns_are_not_used() -> None:
    frame = pl.DataFrame({"user_id": [1], "item_id": [2], "created_at": [3], "": [0]})
    report = Interactions.from_frame(frame, name="shop").without_repeats().report()
    assert report["order"] == "as the rows came (no timestamp)"
    assert report["columns not used"] == ["created_at"]
    columns = {"timestamp": "created_at"}
    report = Interactions.from_frame(frame, name="shop", columns=columns).report()
    assert (report["order"], report["columns not used"]) == ("by timestamp", [])


def test_a_column_is_not_taken_for_two_of_ours(tmp_path: Path) -> None:
    with pytest.raises(InteractionsError, match="'item_id' is taken both as 'user_id' and as"):
        Interactions.from_csv(csv(tmp_path, GOOD), columns={"user_id": "item_id"})


def test_a_mapping_to_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InteractionsError, match="no column 'when', which columns maps"):
        Interactions.from_csv(csv(tmp_path, GOOD), columns={"timestamp": "when"})


def test_a_mapping_of_an_unknown_column_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InteractionsError, match="maps 'user', which is no column of a log"):
        Interactions.from_csv(csv(tmp_path, GOOD), columns={"user": "user_id"})


def test_a_cut_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame({"user_id": range(999), "item_id": range(999)}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InteractionsError, match="log.parquet cannot be read as Parquet.*again"):
        Interactions.from_parquet(path)


@pytest.mark.parametrize("read", [Interactions.from_csv, Interactions.from_parquet])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, read) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("read", [Interactions.from_csv, Interactions.from_parquet])
def test_a_folder_is_named_as_such(tmp_path: Path, read) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(IsADirectoryError, match="is a folder: name a file"):
        read(tmp_path)
