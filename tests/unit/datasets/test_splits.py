from __future__ import annotations

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_lite.datasets import Interactions, Sequences, leave_last_out

ROWS = st.lists(st.integers(1, 7), min_size=1, max_size=12)


def made(lengths: list[int], *, timed: bool = True) -> Sequences:
    """Sequences of the given lengths in which every event has its own item and second."""
    total = sum(lengths)
    frame = pl.DataFrame(
        {
            "user_id": [user for user, length in enumerate(lengths) for _ in range(length)],
            "item_id": range(total),
            "timestamp": range(100, 100 + total),
            "rating": [float(event % 5) for event in range(total)],
        }
    )
    return Interactions.from_frame(
        frame if timed else frame.drop("timestamp", "rating"), name="made"
    ).sequences()


def test_the_last_item_tests_the_one_before_validates_and_the_rest_trains() -> None:
    split = leave_last_out(made([4, 3]))
    assert split.validation is not None
    assert split.train.items.to_lists() == [[0, 1], [4]]
    assert split.validation.history.to_lists() == [[0, 1], [4]]
    assert split.validation.targets.tolist() == [2, 5]
    assert split.test.history.to_lists() == [[0, 1, 2], [4, 5]]
    assert split.test.targets.tolist() == [3, 6]
    assert split.test.target_timestamps is not None
    assert split.test.target_timestamps.tolist() == [103, 106]


def test_without_validation_all_but_the_last_item_trains() -> None:
    split = leave_last_out(made([4, 3]), validation=False)
    assert split.validation is None
    assert split.train.items.to_lists() == [[0, 1, 2], [4, 5]]
    assert split.test.targets.tolist() == [3, 6]


@pytest.mark.parametrize(("validation", "whole"), [(True, [0, 1]), (False, [0])])
def test_users_with_too_few_items_stay_in_training_whole(
    validation: bool, whole: list[int]
) -> None:
    sequences = made([1, 2, 3])
    split = leave_last_out(sequences, validation=validation)
    assert split.test.rows.tolist() == [row for row in range(3) if row not in whole]
    for row in whole:
        assert torch.equal(split.train.items[row], sequences.items[row])


def test_nobody_left_to_ask_gives_no_query_and_everything_to_training() -> None:
    split = leave_last_out(made([1, 1]))
    assert len(split.test) == 0
    assert split.train.items.to_lists() == [[0], [1]]


def test_the_corpus_keeps_items_that_training_lacks() -> None:
    assert leave_last_out(made([3])).train.num_items == 3


def test_a_log_without_times_is_split_into_queries_without_times() -> None:
    split = leave_last_out(made([4], timed=False))
    assert split.train.timestamps is None and split.train.ratings is None
    assert split.test.times is None and split.test.target_timestamps is None


@given(ROWS, st.booleans())
def test_each_event_is_in_exactly_one_part(lengths: list[int], validation: bool) -> None:
    split = leave_last_out(made(lengths), validation=validation)
    parts = [split.train.items.values, split.test.targets]
    if split.validation is not None:
        parts.append(split.validation.targets)
    assert torch.cat(parts).sort().values.tolist() == list(range(sum(lengths)))


@given(ROWS, st.booleans())
def test_no_history_and_no_training_row_reaches_its_targets_time(
    lengths: list[int], validation: bool
) -> None:
    split = leave_last_out(made(lengths), validation=validation)
    assert split.train.timestamps is not None
    for queries in filter(None, [split.validation, split.test]):
        assert queries.times is not None and queries.target_timestamps is not None
        for row, target, before in zip(
            queries.rows.tolist(),
            queries.target_timestamps,
            queries.times.drop_last(1),
            strict=True,
        ):
            assert len(before) and before.max() < target
            assert split.train.timestamps[row].max() < target


@given(ROWS)
def test_items_times_and_ratings_stay_together(lengths: list[int]) -> None:
    split = leave_last_out(made(lengths))
    train = split.train
    assert train.timestamps is not None and train.ratings is not None
    assert torch.equal(train.timestamps.values, train.items.values + 100)
    assert torch.equal(train.ratings.values, (train.items.values % 5).float())
    assert split.test.times is not None
    history = split.test.times.drop_last(1)
    assert torch.equal(history.values, split.test.history.values + 100)
