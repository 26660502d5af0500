"""Tables of impressions and of requests against plain loops, in DuckDB and on Spark."""

import random

import ibis
import polars as pl
import pytest

from genrec_lite.datasets import Interactions
from genrec_lite.request_only.tables import (
    RequestsError,
    check_impressions,
    requests_from_gaps,
    requests_of,
    to_impressions,
    to_requests,
    with_histories,
)

FEATURES = ("item_id", "rating")


def made_log(seed: int = 0, users: int = 5, rows: int = 120) -> pl.DataFrame:
    """A log without requests: some rows share a second, some come hours apart."""
    draw = random.Random(seed)
    log, times = [], dict.fromkeys(range(users), 1000)
    for row in range(rows):
        user = draw.randrange(users)
        times[user] += draw.choice([0, 0, 1, 30, 60, 61, 5000])
        log.append((row, user, times[user], draw.randrange(1000), float(draw.randrange(1, 6))))
    names = ["row", "user_id", "timestamp", "item_id", "rating"]
    return pl.DataFrame(log, orient="row", schema=names)


def gaps_by_loop(log: pl.DataFrame, gap: int, most: int) -> list[tuple[int, int, int, int]]:
    """(row, request, position, request's time) of each row."""
    found, state = [], {}
    for row, user, time, *_ in sorted(log.rows(), key=lambda r: (r[1], r[2], r[0])):
        request, position, begun, last = state.get(user, (row, -1, time, time))
        if position < 0 or time - last > gap or position + 1 == most:
            # A request that is full does not end its run: the next may be full as well.
            request, position, begun = row, -1, time
        state[user] = (request, position + 1, begun, time)
        found.append((row, request, position + 1, begun))
    return sorted(found)


def impressions(seed: int = 0) -> pl.DataFrame:
    """Requests of a made log, rows shuffled, with a column that describes the request."""
    log = made_log(seed)
    found = pl.DataFrame(
        gaps_by_loop(log, 60, 4), orient="row", schema=["row", "request_id", "position", "time"]
    )
    frame = log.join(found, on="row").drop("timestamp", "row").rename({"time": "timestamp"})
    lists = frame.with_columns(taste=pl.concat_list("user_id", "timestamp"))
    return lists.sample(fraction=1, shuffle=True, seed=seed)


def by_request(frame: pl.DataFrame) -> dict[int, list[dict]]:
    found: dict[int, list[dict]] = {}
    for row in frame.sort("request_id", "position").rows(named=True):
        found.setdefault(row["request_id"], []).append(row)
    return found


@pytest.mark.parametrize(("gap", "most"), [(60, 4), (0, 16), (10**6, 3)])
def test_requests_of_gaps_are_those_of_a_loop(engine, gap, most):
    log = made_log()
    found = requests_from_gaps(engine(log), gap=gap, max_candidates=most).to_polars()
    names = ["row", "request_id", "position", "timestamp"]
    assert found.select(names).sort("row").rows() == gaps_by_loop(log, gap, most)
    same = ["row", "user_id", "item_id", "rating"]
    assert found.select(same).sort("row").equals(log.select(same))


def test_a_request_row_holds_its_features_once_and_its_impressions_in_order(engine):
    frame = impressions()
    rows = to_requests(engine(frame), features=FEATURES).to_polars()
    expected = by_request(frame)
    assert set(rows.columns) == {
        "request_id", "user_id", "timestamp", "taste", "item_id", "rating", "num_candidates",
    }  # fmt: skip
    assert len(rows) == len(expected)
    for row in rows.rows(named=True):
        of = expected[row["request_id"]]
        assert row["num_candidates"] == len(of)
        for name in FEATURES:
            assert row[name] == [one[name] for one in of]
        for name in ("user_id", "timestamp", "taste"):
            assert row[name] == of[0][name]


def test_the_way_back_gives_the_impressions(engine):
    frame = impressions(seed=1)
    there = to_requests(engine(frame), features=FEATURES)
    back = to_impressions(there, features=FEATURES).to_polars()
    assert (
        back.select(frame.columns)
        .sort("request_id", "position")
        .equals(frame.sort("request_id", "position"))
    )


def test_the_order_of_the_rows_is_of_no_matter(duckdb):
    frame = impressions(seed=2)
    one, other = (
        to_requests(duckdb(x), features=FEATURES).to_polars().sort("request_id")
        for x in (frame, frame.reverse())
    )
    assert one.equals(other)


def test_histories_hold_what_was_before_the_request_and_nothing_of_it(engine):
    frame = impressions(seed=3)
    found = with_histories(engine(frame), length=5, features=FEATURES).to_polars()
    assert (
        found.select(frame.columns)
        .sort("request_id", "position")
        .equals(frame.sort("request_id", "position"))
    )
    rows = frame.sort("timestamp", "request_id", "position").rows(named=True)
    empty = 0
    for one in found.rows(named=True):
        when = (one["timestamp"], one["request_id"])
        before = [
            row for row in rows
            if row["user_id"] == one["user_id"] and (row["timestamp"], row["request_id"]) < when
        ][-5:]  # fmt: skip
        empty += not before
        for name in FEATURES:
            assert one[f"history_{name}"] == [row[name] for row in before]
    assert empty


def test_a_log_gets_its_requests_and_keeps_its_rows():
    log = Interactions.from_frame(made_log().drop("row"), name="made")
    found = requests_of(log, gap=60, max_candidates=4)
    rows = log.table.with_row_index("row").select("row", "user_id", "timestamp")
    expected = gaps_by_loop(rows, 60, 4)
    assert found.table["request_id"].to_list() == [one[1] for one in expected]
    assert found.table["timestamp"].to_list() == [one[3] for one in expected]
    assert found.table["item_id"].equals(log.table["item_id"])
    text = Interactions.from_frame(made_log().drop("row"), name="made", text_ids=True)
    assert requests_of(text).table["user_id"].dtype == pl.String
    with pytest.raises(RequestsError, match="made has no timestamps"):
        requests_of(Interactions.from_frame(log.table.drop("timestamp"), name="made"))


def good() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "request_id": [1, 1, 2], "position": [0, 1, 0], "user_id": [7, 7, 8],
            "timestamp": [10, 10, 20], "item_id": [3, 4, 3],
        }
    )  # fmt: skip


def test_impressions_that_make_requests_are_let_through(engine):
    check_impressions(engine(good()))
    check_impressions(engine(impressions()))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("request_id", [1, None, None], "2 of 3 impressions have no request_id: join the log"),
        ("timestamp", [10, 10, None], "1 of 3 impressions have no timestamp: fill it, or drop"),
        ("user_id", [7, 9, 8], "request 1 has in user_id both 7 and 9: give each its own id"),
        ("timestamp", [10, 12, 20], "request 1 has in timestamp both 10 and 12: give each"),
        ("item_id", [3, 3, 3], "request 1 holds item_id 3 twice: keep one row for each item"),
        ("position", [0, 0, 0], "request 1 holds position 0 twice: number its impressions"),
    ],
)
def test_a_fault_is_named_with_its_mend(engine, column, values, message):
    frame = good().with_columns(pl.Series(column, values))
    with pytest.raises(RequestsError, match=message):
        check_impressions(engine(frame))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            ["tv", "car", "tv"],
            "request 1 has in device both car and tv: name it among the features",
        ),
        (["tv", None, "tv"], "request 1 has device in some of its impressions and none in others"),
    ],
)
def test_a_column_that_should_be_one_for_a_request_is_checked(engine, values, message):
    frame = good().with_columns(device=pl.Series(values), liked=pl.Series([True, None, False]))
    with pytest.raises(RequestsError, match=message):
        check_impressions(engine(frame), features=["item_id", "liked"])
    check_impressions(engine(frame), features=["item_id", "liked", "device"])
    check_impressions(engine(frame))
    empty = frame.with_columns(device=pl.Series(["tv", "tv", None]))
    check_impressions(engine(empty), features=["item_id", "liked"])


def test_a_request_of_ten_thousand_items_is_named():
    many = pl.DataFrame(
        {
            "request_id": [5] * 10_000, "position": range(10_000), "user_id": [1] * 10_000,
            "timestamp": [1] * 10_000, "item_id": range(10_000),
        }
    )  # fmt: skip
    message = "request 5 has 10,000 impressions, more than 1,000.*raise max_candidates"
    with pytest.raises(RequestsError, match=message):
        check_impressions(ibis.memtable(many.to_arrow()))
    check_impressions(ibis.memtable(many.to_arrow()), max_candidates=10_000)


def test_an_empty_log_and_missing_columns_are_named():
    with pytest.raises(RequestsError, match="holds no row"):
        check_impressions(ibis.memtable(good().head(0).to_arrow()))
    for column, mend in [("request_id", "requests_from_gaps"), ("position", "from 0 on")]:
        less = ibis.memtable(good().drop(column).to_arrow())
        with pytest.raises(RequestsError, match=f"no column '{column}'.*columns found.*{mend}"):
            check_impressions(less)
        with pytest.raises(RequestsError, match=f"no column '{column}'"):
            to_requests(less, features=["item_id"])
    with pytest.raises(RequestsError, match="no column 'num_candidates'"):
        to_impressions(ibis.memtable(good().to_arrow()), features=["item_id"])


@pytest.mark.parametrize(("gap", "most"), [(-1, 16), (60, 0)])
def test_sizes_that_make_no_sense_are_refused(gap, most):
    table = ibis.memtable(made_log().to_arrow())
    with pytest.raises(ValueError, match=f"gap {gap} s, max_candidates {most}: at least 0 and 1"):
        requests_from_gaps(table, gap=gap, max_candidates=most)
    with pytest.raises(ValueError, match="a history of 0 events: at least 1"):
        with_histories(ibis.memtable(good().to_arrow()), length=0, features=["item_id"])


def test_events_with_an_empty_cell_stay_in_step_in_a_history(engine):
    frame = good().with_columns(user_id=pl.lit(7), liked=pl.Series([None, 1, None], dtype=pl.Int64))
    found = with_histories(engine(frame), length=5, features=["item_id", "liked"]).to_polars()
    last = found.filter(request_id=2).row(0, named=True)
    assert last["history_item_id"] == [3, 4] and last["history_liked"] == [None, 1]


def test_a_request_whose_first_impressions_were_dropped_keeps_its_history(engine):
    frame = impressions(seed=4)
    whole = with_histories(engine(frame), length=50, features=FEATURES).to_polars()
    less = frame.filter((pl.col("position") > 0) | (pl.col("request_id") % 2 == 0))
    found = with_histories(engine(less), length=50, features=FEATURES).to_polars()
    assert found.height == less.height < whole.height
    rows = less.sort("timestamp", "request_id", "position").rows(named=True)
    late = 0
    for one in found.rows(named=True):
        when = (one["timestamp"], one["request_id"])
        before = [
            row for row in rows
            if row["user_id"] == one["user_id"] and (row["timestamp"], row["request_id"]) < when
        ][-50:]  # fmt: skip
        assert one["history_item_id"] == [row["item_id"] for row in before]
        late += one["request_id"] % 2 == 1 and bool(before)
    assert late


def test_a_log_keeps_the_visits_that_come_again_within_a_request():
    rows = pl.DataFrame({"user_id": [1] * 4, "timestamp": [0, 20, 40, 50], "item_id": [5, 6, 5, 5]})
    found = requests_of(Interactions.from_frame(rows, name="again"))
    assert found.table["item_id"].to_list() == [5, 6, 5, 5]
    assert found.table["timestamp"].to_list() == [0] * 4


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (["rating"], "do not hold item_id: a request's items would be lost"),
        (["item_id", "position"], "'position' ties requests and impressions"),
        (["item_id", "rating", "rating"], "'rating' is twice among the features: name it once"),
    ],
)
def test_features_that_are_none_of_an_impression_are_refused(features, message):
    with pytest.raises(RequestsError, match=message):
        to_requests(ibis.memtable(impressions().to_arrow()), features=features)


def test_positions_that_do_not_count_from_0_are_named(engine):
    frame = good().with_columns(position=pl.Series([0, 5, 0]))
    with pytest.raises(RequestsError, match="request 1 has 2 impressions at the positions 0 to 5"):
        check_impressions(engine(frame))
