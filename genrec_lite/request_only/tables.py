"""From a log of impressions to a table of requests and back, as ibis expressions.

"Request-Only Optimization" (2508.05640): a table with one row an impression says a request's
features again for each of its candidates; with one row a request it says them once. The
expressions run where their table lives: in DuckDB, or unchanged on Spark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ibis
import polars as pl
from ibis import Table

from genrec_lite.datasets.interactions import Interactions

__all__ = [
    "RequestsError",
    "check_features",
    "check_impressions",
    "requests_from_gaps",
    "requests_of",
    "to_impressions",
    "to_requests",
    "with_histories",
]


RESERVED = ("request_id", "position", "num_candidates")  # no features: they tie the two levels


class RequestsError(ValueError):
    """Impressions that make no requests: the message names request, value and mend."""


def requests_from_gaps(log: Table, *, gap: int = 60, max_candidates: int = 16) -> Table:
    """The rows of a log that has no requests, each as an impression of one.

    A user's row begins a request if it comes more than `gap` seconds after the one before, or if
    the request has `max_candidates` rows.

    Args:
        log: row (int64, its place in the log), user_id, timestamp (s), and what else it has.
        gap: seconds.
        max_candidates: at least 1.
    Returns:
        The log's columns, request_id (int64, the first of its rows), position in the request from
        0, and as timestamp the request's, which is its first row's.
    Raises:
        ValueError: if `gap` is negative, or `max_candidates` below 1.
    """
    if gap < 0 or max_candidates < 1:
        raise ValueError(f"gap {gap} s, max_candidates {max_candidates}: at least 0 and 1")
    order = ["timestamp", "row"]
    of_user = ibis.window(group_by="user_id", order_by=order)
    so_far = ibis.cumulative_window(group_by="user_id", order_by=order)
    before = log.timestamp.lag().over(of_user)
    fresh = (log.timestamp - before > gap).fill_null(True)
    runs = log.mutate(_fresh=fresh.cast("int64"))
    runs = runs.mutate(_run=runs._fresh.sum().over(so_far))
    of_run = ibis.window(group_by=["user_id", "_run"], order_by=order)
    parts = runs.mutate(_place=ibis.row_number().over(of_run))
    parts = parts.mutate(
        _part=(parts._place // max_candidates).cast("int64"),
        position=(parts._place % max_candidates).cast("int64"),
    )
    whole = ibis.window(group_by=["user_id", "_run", "_part"])
    return parts.mutate(
        request_id=parts.row.min().over(whole), timestamp=parts.timestamp.min().over(whole)
    ).drop("_fresh", "_run", "_place", "_part")


def requests_of(log: Interactions, *, gap: int = 60, max_candidates: int = 16) -> Interactions:
    """The log with request ids made of gaps, and each row at its request's time.

    Raises:
        RequestsError: if the log has no timestamps.
    """
    if not log.has_timestamps:
        raise RequestsError(f"{log.name} has no timestamps: requests are made of gaps in time")
    rows = log.table.drop("request_id", strict=False).with_row_index("row")
    table = ibis.memtable(rows.with_columns(pl.col("row").cast(pl.Int64)).to_arrow())
    found = requests_from_gaps(table, gap=gap, max_candidates=max_candidates)
    made = found.order_by("row").to_polars()
    # The log's own rows again: read anew, an item's two rows in one request would become one.
    return replace(log, table=log.table.with_columns(made["timestamp"], made["request_id"]))


def to_requests(impressions: Table, *, features: Sequence[str]) -> Table:
    """One row a request: its own columns once, its impressions' as lists, and how many.

    Args:
        impressions: request_id, position in the request, and any columns; see `check_impressions`.
        features: the columns that describe an impression, item_id among them; all others
            describe the request, and its impressions must agree in them.
    Returns:
        request_id, the request's columns, a list by position of each of `features`, and
        num_candidates.
    Raises:
        RequestsError: if a column is missing, or the features are not those of an impression.
    """
    _require(impressions, ["request_id", "position", *features])
    check_features(features)
    own = [c for c in impressions.columns if c not in {"request_id", "position", *features}]
    # Both engines sort structs by their first field; only one collects in an order.
    line = ibis.struct({name: impressions[name] for name in ("position", *features)})
    rows = impressions.group_by("request_id").agg(
        **{name: impressions[name].arbitrary() for name in own}, _lines=line.collect()
    )
    lines = rows._lines.sort()
    return rows.select(
        "request_id",
        *own,
        **{name: lines.map(lambda one, name=name: one[name]) for name in features},
        num_candidates=lines.length().cast("int64"),
    )


def to_impressions(requests: Table, *, features: Sequence[str]) -> Table:
    """The way back: one row an impression, with its position in the request.

    Args:
        requests: as `to_requests` gives them.
        features: as given to it.
    Raises:
        RequestsError: if a column is missing.
    """
    _require(requests, ["request_id", "num_candidates", *features])
    check_features(features)
    first, *others = features
    rows = requests.drop("num_candidates").unnest(first, offset="position")
    return rows.mutate(
        position=rows.position.cast("int64"),
        **{name: rows[name][rows.position] for name in others},
    )


def with_histories(impressions: Table, *, length: int, features: Sequence[str]) -> Table:
    """The impressions, each with its user's last events before the *request*, oldest first.

    Args:
        impressions: with request_id, position, user_id, timestamp.
        length: events at most.
        features: columns of an event; each comes as a list, history_<name>, which is empty where
            nothing was before.
    Raises:
        ValueError: if `length` is below 1.
        RequestsError: if a column is missing.
    """
    if length < 1:
        raise ValueError(f"a history of {length} events: at least 1")
    _require(impressions, ["request_id", "position", "user_id", "timestamp", *features])
    before = ibis.window(
        group_by="user_id",
        order_by=["timestamp", "request_id", "position"],
        preceding=(length, 1),
    )
    of_request = ibis.window(group_by="request_id", order_by="position")
    # Whole events: a list of one feature alone would leave out its nulls, and lose step.
    event = ibis.struct({name: impressions[name] for name in features})
    begins = impressions.mutate(
        _events=event.collect().over(before), _place=ibis.row_number().over(of_request)
    )
    begins = begins.filter(begins._place == 0).select("request_id", "_events")
    found = impressions.join(begins, "request_id")
    lists = {name: found._events.map(lambda one, name=name: one[name]) for name in features}
    # An empty window's list is null in DuckDB, and empty in Spark.
    return found.mutate(
        **{
            f"history_{name}": one.fill_null(ibis.literal([], type=one.type()))
            for name, one in lists.items()
        }
    ).drop("_events")


def check_features(features: Sequence[str]) -> None:
    """Raises a RequestsError unless these can be the columns that describe an impression."""
    if "item_id" not in features:
        raise RequestsError(
            f"features {list(features)} do not hold item_id: a request's items would be lost, name "
            "it among them"
        )
    for number, name in enumerate(features):
        if name in RESERVED:
            raise RequestsError(f"{name!r} ties requests and impressions: take it off the features")
        if name in features[:number]:
            raise RequestsError(f"{name!r} is twice among the features: name it once")


def check_impressions(
    impressions: Table, *, features: Sequence[str] | None = None, max_candidates: int = 1000
) -> None:
    """Raises a RequestsError unless the impressions make requests. Their order is of no matter.

    Args:
        impressions: request_id, position, user_id, timestamp, item_id, and more.
        features: as of `to_requests`; then every other column is checked to be one for a request,
            and not only its user and time.
        max_candidates: of a request; more is taken for a fault of the log.
    Raises:
        RequestsError: if a column or a cell of one is missing; if there is no row; if a request
            has two users, two times, two values of another of its own columns or two rows of an
            item or position, or too many candidates.
    """
    needed = ("request_id", "position", "user_id", "timestamp", "item_id")
    _require(impressions, needed)
    t = impressions
    nulls = {name: t[name].isnull().sum() for name in needed}
    counts = t.aggregate(rows=t.count(), **nulls).to_polars().row(0, named=True)
    rows = counts.pop("rows")
    if rows == 0:
        raise RequestsError("the log of impressions holds no row: give one with impressions")
    for name, without in counts.items():
        if without:
            mend = "fill it, or drop the rows"
            if name == "request_id":
                mend = "join the log with its requests, or make some with requests_from_gaps"
            raise RequestsError(f"{without} of {rows} impressions have no {name}: {mend}")
    own = ["user_id", "timestamp"]
    if features is not None:
        own += [name for name in t.columns if name not in {*needed, *features}]
    ends: dict[str, Any] = {}
    for name in own:
        ends |= {f"least {name}": t[name].min(), f"most {name}": t[name].max()}
        if name not in needed:
            ends[f"known {name}"] = t[name].count()
    of = t.group_by("request_id").agg(
        rows=t.count(), first=t.position.min(), last=t.position.max(), **ends
    )
    apart = ibis.or_(
        *(of[f"least {name}"] != of[f"most {name}"] for name in own),
        *(~of[f"known {name}"].isin([0, of.rows]) for name in own if name not in needed),
    )
    for one in _first(of.filter((of.rows > max_candidates) | apart.fill_null(False))):
        raise RequestsError(f"request {one['request_id']} {_fault(one, own, max_candidates)}")
    for name, mend in (
        ("item_id", "keep one row for each item shown"),
        ("position", "number its impressions from 0 on"),
    ):
        pairs = t.group_by("request_id", name).agg(rows=t.count())
        for one in _first(pairs.filter(pairs.rows > 1)):
            raise RequestsError(
                f"request {one['request_id']} holds {name} {one[name]} twice: {mend}"
            )
    for one in _first(of.filter((of.first != 0) | (of.last != of.rows - 1))):
        raise RequestsError(
            f"request {one['request_id']} has {one['rows']} impressions at the positions "
            f"{one['first']} to {one['last']}: number them from 0 on"
        )


def _fault(one: dict[str, Any], own: Sequence[str], max_candidates: int) -> str:
    """What is wrong with a request, of which `one` has the ends of each of its `own` columns."""
    for name in own:
        least, most = one[f"least {name}"], one[f"most {name}"]
        if least != most:
            mend = {
                "user_id": "give each its own id",
                "timestamp": "give each impression the time of its request",
            }.get(name, f"name it among the features if it describes impressions ({name})")
            return f"has in {name} both {least} and {most}: {mend}"
        if one.get(f"known {name}", one["rows"]) not in (0, one["rows"]):
            return f"has {name} in some of its impressions and none in others: fill it"
    return (
        f"has {one['rows']:,} impressions, more than {max_candidates:,}: look for what shares "
        "an id, or raise max_candidates"
    )


def _first(wrong: Table) -> list[dict[str, Any]]:
    """The row with the least request_id, if there is any."""
    return wrong.order_by("request_id").limit(1).to_polars().to_dicts()


def _require(table: Table, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in table.columns]
    if missing:
        mend = "name the column so"
        if missing[0] == "request_id":
            mend = "join the log with its requests, or make some with requests_from_gaps"
        elif missing[0] == "position":
            mend = "number the impressions of each request from 0 on, in the order of showing"
        raise RequestsError(
            f"there is no column {missing[0]!r}; columns found: {', '.join(table.columns)}: {mend}"
        )
