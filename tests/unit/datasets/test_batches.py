"""Training batches: each event is asked to predict the one after it, never itself."""

from dataclasses import replace

import polars as pl
import pytest
import torch

from genrec_lite.datasets.batches import NextItemBatch, NextItemBatches
from genrec_lite.datasets.splits import Sequences
from genrec_lite.jagged import JaggedTensor

ROWS = [[1, 2, 3], [4], [], list(range(10, 20)), [5, 6]]


def sequences(rows=ROWS) -> Sequences:
    ids = pl.Series(range(20))
    items = JaggedTensor.from_lists(rows, dtype=torch.int64)
    return Sequences(items, None, None, pl.Series(range(len(rows))), ids)


def pairs(batches) -> list[tuple[list[int], list[int]]]:
    found = []
    for batch in batches:
        targets = batch.inputs.with_values(batch.targets).to_lists()
        found += zip(batch.inputs.to_lists(), targets, strict=True)
    return sorted(found)


def test_every_user_with_two_events_is_met_once_with_targets_shifted_by_one():
    epoch = NextItemBatches(sequences(), batch_size=2, max_length=4)(0)
    assert [len(b.inputs) for b in epoch] == [2, 1]
    assert pairs(epoch) == [
        ([1, 2], [2, 3]),
        ([5], [6]),
        ([15, 16, 17, 18], [16, 17, 18, 19]),
    ]


def test_a_stretch_drawn_anew_reaches_old_events_and_stays_in_order():
    batches = NextItemBatches(sequences(), batch_size=8, max_length=4, window="any")
    starts = set()
    for epoch in range(60):
        (inputs, targets) = pairs(batches(epoch))[-1]
        assert inputs == list(range(inputs[0], inputs[0] + 4))
        assert targets == [i + 1 for i in inputs]
        starts.add(inputs[0])
    assert starts == set(range(10, 16))


@pytest.mark.parametrize("window", ["last", "any"])
def test_times_go_with_their_events_and_the_last_targets_comes_last(window):
    log = sequences()
    at = log.items.with_values(log.items.values * 100)
    batches = NextItemBatches(
        replace(log, timestamps=at), batch_size=2, max_length=4, window=window, seed=3
    )
    for batch in batches(0):
        targets = batch.inputs.with_values(batch.targets)
        for inputs, to, times in zip(batch.inputs, targets, batch.times, strict=True):
            assert times.tolist() == [100 * int(inputs[0]), *(100 * to).tolist()]
    assert NextItemBatches(log)(0)[0].times is None
    with pytest.raises(ValueError, match="times are not one more in each row than its events"):
        NextItemBatch(batch.inputs, batch.targets, times=batch.inputs)


def test_the_epoch_number_alone_decides_the_batches():
    batches = NextItemBatches(sequences([[i, i + 1] for i in range(9)]), batch_size=3, seed=1)
    again = NextItemBatches(sequences([[i, i + 1] for i in range(9)]), batch_size=3, seed=1)
    batches(0)
    order = [b.inputs.values.tolist() for b in batches(3)]
    assert order == [b.inputs.values.tolist() for b in again(3)]
    assert order != [b.inputs.values.tolist() for b in again(4)]


def test_the_seed_decides_the_order_of_users_and_the_stretches():
    rows = [list(range(10)), list(range(10, 20))] * 8
    for window in ("last", "any"):
        first, again, other = (
            NextItemBatches(sequences(rows), max_length=3, seed=seed, window=window)(0)[0]
            for seed in (1, 1, 2)
        )
        assert first.inputs.values.tolist() == again.inputs.values.tolist()
        assert first.inputs.values.tolist() != other.inputs.values.tolist()


def test_a_batch_has_one_target_for_each_event():
    with pytest.raises(ValueError, match=r"targets \(1,\) for 2 events"):
        NextItemBatch(JaggedTensor.from_lists([[1, 2]]), torch.tensor([2]))


def test_nothing_to_learn_from_is_an_error():
    with pytest.raises(ValueError, match="no user has two events"):
        NextItemBatches(sequences([[1], []]))
    with pytest.raises(ValueError, match='window is "first"'):
        NextItemBatches(sequences(), window="first")
    with pytest.raises(ValueError, match="at least 1 each"):
        NextItemBatches(sequences(), batch_size=0)


@pytest.mark.parametrize("window", ["last", "any"])
def test_a_batch_says_whose_rows_it_holds(window):
    rows = sequences()
    for batch in NextItemBatches(rows, batch_size=2, max_length=30, window=window)(1):
        for user, inputs in zip(batch.users.tolist(), batch.inputs, strict=True):
            assert inputs.tolist() == rows.items[user].tolist()[:-1]
