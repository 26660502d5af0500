"""Events with action bits: what is refused, how they are split, cut and asked about."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from genrec_lite.datasets.actions import (
    EventBatches,
    Events,
    RatedActions,
    first_of_requests,
    questions,
    split_by_time,
)
from genrec_lite.datasets.catalogue import load
from genrec_lite.datasets.columns import InteractionsError
from genrec_lite.jagged import JaggedTensor


def numbered(lengths: list[int], times: list[int] | None = None) -> Events:
    """Events whose items are their numbers, so that each can be told from the others."""
    total = sum(lengths)
    items = JaggedTensor.from_lengths(torch.arange(total), torch.tensor(lengths))
    moments = torch.tensor(times) if times else 10 * torch.arange(total)
    return Events(items, torch.arange(total)[:, None] % 2 == 0, moments)


def rows_of(batches: EventBatches, epoch: int) -> list[list[int]]:
    """The stretches of an epoch, in their order."""
    return [row for batch in batches(epoch) for row in batch.events.items.to_lists()]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises where the block does not end in time, so that an endless loop is a failure."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_misaligned_or_falling_events_are_named():
    events = numbered([2, 3])
    expected = r"for 5 events: expected \(5, A\) torch.bool"
    with pytest.raises(ValueError, match=rf"actions \(4, 1\) of torch.bool {expected}"):
        replace(events, actions=events.actions[:4])
    with pytest.raises(ValueError, match=rf"actions \(5, 1\) of torch.float32 {expected}"):
        replace(events, actions=events.actions.float())
    with pytest.raises(ValueError, match=rf"actions \(5,\) of torch.bool {expected}"):
        replace(events, actions=events.actions[:, 0])
    with pytest.raises(ValueError, match=r"times \(5,\) of torch.float32 for 5 events"):
        replace(events, times=events.times.float())
    with pytest.raises(ValueError, match="times of row 1 fall from 30 to 20: sort"):
        replace(events, times=torch.tensor([0, 10, 30, 20, 40]))
    assert len(replace(events, times=torch.tensor([50, 60, 0, 0, 10]))) == 2  # rows may


def test_ratings_become_bits():
    sequences = load("movielens-small").sequences()
    events = RatedActions().events(sequences)
    ratings = sequences.ratings.values
    assert torch.equal(events.actions[:, 0], ratings >= 4)
    assert torch.equal(events.actions[:, 1], ratings == 5)
    assert torch.equal(events.actions[:, 2], ratings <= 2)
    with pytest.raises(InteractionsError, match="ratings"):
        RatedActions().events(replace(sequences, ratings=None))


def test_names_and_bounds_of_actions_go_together():
    with pytest.raises(ValueError, match="2 names for 1 bounds"):
        RatedActions(("like", "love"), ((4.0, 5.0),))
    with pytest.raises(ValueError, match="1 names for 3 bounds"):
        RatedActions(("like",))


def test_one_moment_splits_all_users():
    events = numbered([4, 3, 3], [0, 50, 60, 90, 10, 20, 70, 30, 40, 80])
    split = split_by_time(events, 0.7)
    assert split.time == 70
    assert split.train.items.to_lists() == [[0, 1, 2], [4, 5], [7, 8]]
    assert split.all.items.values[split.asked].tolist() == [3, 6, 9]
    assert int(split.train.times.max()) < split.time <= int(events.times[split.asked].min())
    with pytest.raises(ValueError, match="share 1"):
        split_by_time(events, 1)
    with pytest.raises(ValueError, match="one second"):
        split_by_time(replace(events, times=torch.zeros(10).long()))


def test_every_event_is_learned_from_once_an_epoch():
    batches = EventBatches(numbered([23, 0, 4, 7]), batch_size=2, max_events=5)
    epochs = [batches(epoch) for epoch in (0, 1, 0)]
    for epoch in epochs:
        values = torch.cat([batch.events.items.values for batch in epoch])
        assert values.sort().values.tolist() == list(range(34))
        assert sum(map(len, epoch)) == 34
        for batch in epoch:
            assert len(batch.events) <= 2 and batch.events.items.max_length <= 5
            for row in batch.events.items:
                assert torch.equal(row, torch.arange(int(row[0]), int(row[0]) + len(row)))
    first, second, again = ([b.events.items.to_lists() for b in epoch] for epoch in epochs)
    assert first == again and first != second
    with pytest.raises(ValueError, match="batch_size 0"):
        EventBatches(numbered([3]), batch_size=0)
    with pytest.raises(ValueError, match="0 of 0 events are asked about"):
        EventBatches(numbered([0]))


def test_the_order_of_rows_comes_from_seed_and_epoch():
    events = numbered([3] * 40)  # none is long enough to be cut
    found = {
        (seed, epoch): rows_of(EventBatches(events, batch_size=1, max_events=3, seed=seed), epoch)
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    for rows in found.values():
        assert sorted(rows) == events.items.to_lists() != rows
    assert len({str(rows) for rows in found.values()}) == 4


def test_the_cuts_of_long_rows_come_from_seed_and_epoch():
    events = numbered([50] * 8)
    found = {
        (seed, epoch): sorted(rows_of(EventBatches(events, max_events=20, seed=seed), epoch))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len({str(cuts) for cuts in found.values()}) == 4
    for cuts in found.values():
        first = [len(row) for row in cuts if row[0] % 50 == 0]
        assert len(first) == 8 and len(set(first)) > 1  # each user has a cut of their own


def test_only_asked_events_are_learned_from():
    asked = torch.zeros(34, dtype=torch.bool)
    asked[[3, 11, 12, 33]] = True
    batches = EventBatches(numbered([23, 0, 4, 7]), asked=asked, batch_size=2, max_events=5)
    for epoch in range(3):
        found = [batch.events.items.values[batch.asked] for batch in batches(epoch)]
        assert torch.cat(found).sort().values.tolist() == [3, 11, 12, 33]
        for batch in batches(epoch):
            stretches = batch.events.items.with_values(batch.asked)
            assert all(bool(row.any()) for row in stretches)
            assert len(batch) == int(batch.asked.sum())
    with pytest.raises(ValueError, match="0 of 34 events"):
        EventBatches(numbered([34]), asked=~torch.ones(34, dtype=torch.bool))


def test_each_question_is_asked_once_with_half_a_window_before_it():
    events = numbered([30, 3, 5, 0])
    asked = torch.zeros(38, dtype=torch.bool)
    asked[[2, 11, 12, 25, 29, 30, 37]] = True
    split = split_by_time(events, 0.5)._replace(asked=asked)
    stretches, mask = questions(split, 8)
    assert stretches.items.values[mask].tolist() == [2, 11, 12, 25, 29, 30, 37]
    assert stretches.items.max_length <= 8
    rows = [stretches.items.with_values(mask)[row] for row in range(len(stretches))]
    for stretch, of_stretch in zip(stretches.items, rows, strict=True):
        first = int(of_stretch.nonzero()[0])  # of the stretch's places
        number = int(stretch[first])
        begin = max(edge for edge in (0, 30, 33) if edge <= number)  # of the user's events
        assert first >= min(4, number - begin)


def test_a_window_of_one_event_asks_each_question_once_and_ends():
    asked = torch.tensor([0, 1, 1, 1, 0, 1, 0, 0, 1]).bool()
    split = split_by_time(numbered([5, 0, 4]), 0.5)._replace(asked=asked)
    with within(5):
        stretches, mask = questions(split, 1)
    assert stretches.items.to_lists() == [[1], [2], [3], [5], [8]]
    assert bool(mask.all())


def test_a_window_of_no_events_is_refused():
    split = split_by_time(numbered([5]), 0.5)
    for most in (0, -1):
        with within(5), pytest.raises(ValueError, match=f"max_events is {most}: at least 1"):
            questions(split, most)


def test_no_question_is_no_stretch():
    split = split_by_time(numbered([5]), 0.5)
    stretches, mask = questions(split._replace(asked=torch.zeros(5, dtype=torch.bool)), 8)
    assert len(stretches) == 0 and mask.tolist() == []


def test_the_first_line_of_an_invoice_is_the_first_of_its_second():
    events = numbered([4, 3], [10, 10, 20, 20, 20, 20, 30])
    first = [True, False, True, False, True, False, True]
    assert first_of_requests(events).tolist() == first


def test_stretches_and_last_events_keep_actions_and_times_beside_their_items():
    events = numbered([5, 4])
    some = events.stretches(torch.tensor([1, 0]), torch.tensor([1, 2]), torch.tensor([2, 0]))
    assert some.items.to_lists() == [[6, 7], []]
    assert some.times.tolist() == [60, 70]
    assert some.actions[:, 0].tolist() == [True, False]
    assert events.last(2).items.to_lists() == [[3, 4], [7, 8]]
    assert events.last(9).items.to_lists() == events.items.to_lists()


@pytest.mark.parametrize(
    ("start", "length", "said"),
    [(3, 2, "3 to 5"), (-1, 2, "-1 to 1"), (3, -1, "3 to 2"), (5, 0, "5 to 5")],
)
def test_a_stretch_beyond_its_row_is_named(start: int, length: int, said: str):
    events, rows = numbered([5, 4, 5]), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=f"stretch 1 is events {said} of row 1, which has 4"):
        events.stretches(rows, torch.tensor([0, start]), torch.tensor([5, length]))


def test_fewer_than_no_last_events_are_refused():
    events = numbered([5, 4])
    with pytest.raises(ValueError, match="the last -1 events: a number of events is at least 0"):
        events.last(-1)
    assert events.last(0).items.to_lists() == [[], []]
