"""Requests as places in a log, exploded and found again, against plain loops over lists."""

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from genrec_lite.datasets import Interactions
from genrec_lite.datasets.actions import Events, RatedActions
from genrec_lite.jagged import JaggedTensor
from genrec_lite.request_only.batches import (
    RequestBatch,
    RequestBatches,
    Requests,
    deduplicated,
    fan_out,
    split_requests,
)

# user, time, request, item, liked; user 8's requests share a second
LOG = [
    (7, 100, 5, 1, 1), (7, 100, 5, 2, 0), (7, 100, 5, 3, 1), (7, 200, 6, 1, 0), (7, 300, 9, 2, 1),
    (7, 300, 9, 4, 0), (8, 150, 2, 1, 0), (8, 150, 3, 3, 1), (8, 150, 3, 1, 1), (9, 50, 1, 4, 1),
]  # fmt: skip


def requests_of(log: list[tuple[int, ...]] = LOG) -> Requests:
    frame = pl.DataFrame(
        log, orient="row", schema=["user_id", "timestamp", "request_id", "item_id", "rating"]
    )
    sequences = Interactions.from_frame(frame, name="log").sequences()
    assert sequences.requests is not None
    events = RatedActions(("like",), ((1.0, 1.0),)).events(sequences)
    return Requests.of(events, sequences.requests)


def as_lists(batch: RequestBatch) -> list[tuple]:
    """Each request: history's items, actions, times, when asked, candidates, their actions."""
    found = []
    history = batch.history
    actions = history.items.with_values(history.actions[:, 0].long()).to_lists()
    times = history.items.with_values(history.times).to_lists()
    answers = batch.candidates.with_values(batch.actions[:, 0].long()).to_lists()
    for row, asked in enumerate(batch.asked.tolist()):
        found.append(
            (
                tuple(history.items[row].tolist()), tuple(actions[row]), tuple(times[row]), asked,
                tuple(batch.candidates[row].tolist()), tuple(answers[row]),
            )
        )  # fmt: skip
    return found


def test_a_batch_holds_each_request_with_what_was_before_it_and_never_its_own_items():
    batch = requests_of().batch(max_events=3)
    assert as_lists(batch) == [
        ((), (), (), 100, (0, 1, 2), (1, 0, 1)),
        ((0, 1, 2), (1, 0, 1), (100,) * 3, 200, (0,), (0,)),
        ((1, 2, 0), (0, 1, 0), (100, 100, 200), 300, (1, 3), (1, 0)),
        ((), (), (), 150, (0,), (0,)),
        ((0,), (0,), (150,), 150, (2, 0), (1, 1)),
        ((), (), (), 50, (3,), (1,)),
    ]
    assert batch.num_candidates.tolist() == [3, 1, 2, 1, 2, 1]
    assert len(batch) == 10


def test_exploded_requests_make_the_batch_that_an_exploded_batch_is():
    requests = requests_of()
    whole = requests.batch(max_events=2)
    early = requests.exploded().batch(max_events=2)
    assert as_lists(whole.exploded()) == as_lists(early)
    expected = []
    for history, actions, times, asked, items, answers in as_lists(whole):
        expected += [
            (history, actions, times, asked, (i,), (y,))
            for i, y in zip(items, answers, strict=True)
        ]
    assert as_lists(early) == expected


def test_chosen_requests_of_a_batch_are_those_rows():
    batch = requests_of().batch(max_events=3)
    everyone = as_lists(batch)
    assert as_lists(batch.select(tensor([4, 0, 4]))) == [everyone[4], everyone[0], everyone[4]]


def test_text_request_ids_and_a_log_without_any():
    frame = pl.DataFrame(
        {"user_id": [1, 1], "item_id": [3, 4], "request_id": [" b ", "a"], "timestamp": [1, 1]}
    )
    log = Interactions.from_frame(frame, name="log")
    assert log.table["request_id"].to_list() == ["b", "a"]
    requests = log.sequences().requests
    assert requests is not None and requests.to_lists() == [[1, 0]]
    assert Interactions.from_frame(frame.drop("request_id"), name="x").sequences().requests is None


def test_a_request_without_an_id_names_the_row():
    frame = pl.DataFrame({"user_id": [1, 1], "item_id": [3, 4], "request_id": [1, None]})
    with pytest.raises(ValueError, match="row 2, column 'request_id': an empty cell.*drop the row"):
        Interactions.from_frame(frame, name="log")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(1, 10, 4, 1, 0), (1, 10, 5, 2, 0), (1, 10, 4, 3, 0)], "request 0 comes twice, in the"),
        ([(1, 10, 4, 1, 0), (2, 10, 4, 2, 0)], "request 0 comes twice.* of rows 0 and 1"),
        ([(1, 10, 4, 1, 0), (1, 11, 4, 1, 0)], "request 0 holds item 0 twice: keep one row"),
    ],
)
def test_a_request_that_is_none_is_named(rows, message):
    with pytest.raises(ValueError, match=message):
        requests_of(rows)


def test_rows_of_another_log_are_refused():
    requests = requests_of()
    with pytest.raises(ValueError, match="other rows than the events"):
        Requests.of(requests.events, JaggedTensor.from_lists([[1], [2]]))


def test_a_batch_that_is_not_aligned_is_refused():
    batch = requests_of().batch(2)
    with pytest.raises(ValueError, match="6 histories, 5 times and candidates of 6 requests"):
        RequestBatch(batch.history, batch.asked[1:], batch.candidates, batch.actions)
    with pytest.raises(ValueError, match="actions of 9 for 10 candidates"):
        RequestBatch(batch.history, batch.asked, batch.candidates, batch.actions[1:])


def test_fan_out_repeats_rows_and_its_gradient_is_a_sum_over_each_request():
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    m = tensor([2, 0, 3])
    out = fan_out(x, m)
    assert torch.equal(out, x[[0, 0, 2, 2, 2]])
    upstream = torch.randn(5, 2, dtype=torch.float64)
    out.backward(upstream)
    expected = torch.stack([upstream[:2].sum(0), torch.zeros(2).double(), upstream[2:].sum(0)])
    torch.testing.assert_close(x.grad, expected)
    with pytest.raises(ValueError, match="2 numbers of candidates for 3 requests"):
        fan_out(x, m[:2])


# -- the split ------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 30), st.integers(1, 5)), min_size=2, max_size=12
    ),
    st.floats(0.1, 0.9),
)
def test_no_request_is_split_and_training_is_before_the_test(found, share):
    rows = []
    for number, (user, time, count) in enumerate(found):
        rows += [(user, time, number, item, item % 2) for item in range(count)]
    rows.sort(key=lambda row: (row[0], row[1], row[2]))
    requests = requests_of(rows)
    if len(set(requests.asked.tolist())) == 1:
        with pytest.raises(ValueError, match="no time to split by"):
            split_requests(requests, share)
        return
    times = sorted(time for _, time, count in found for _ in range(count))
    moment = times[int(share * len(times))]
    if moment == times[0]:
        with pytest.raises(ValueError, match="no time to split by"):
            split_requests(requests, share)
        return
    train, test, found_moment = split_requests(requests, share)
    assert found_moment == moment
    assert bool((train.asked < moment).all()) and bool((test.asked >= moment).all())
    places = [(r, b) for part in (train, test) for r, b in zip(part.rows, part.begins, strict=True)]
    assert len({(int(r), int(b)) for r, b in places}) == len(requests)
    total = int(train.num_candidates.sum() + test.num_candidates.sum())
    assert total == len(rows)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_that_leaves_a_part_empty_is_refused(share):
    with pytest.raises(ValueError, match=f"share {share} of 6 requests"):
        split_requests(requests_of(), share)


# -- batches --------------------------------------------------------------------------------------


def test_an_epoch_holds_every_request_once_in_an_order_of_its_own():
    requests = requests_of()
    batches = RequestBatches(requests, batch_size=4, max_events=3, seed=1)
    first, again, second = batches(0), batches(0), batches(1)
    assert len(first) == 2
    everyone = sorted(as_lists(requests.batch(3)))
    for epoch in (first, second):
        assert sorted(one for batch in epoch for one in as_lists(batch)) == everyone
    assert [as_lists(b) for b in first] == [as_lists(b) for b in again]
    assert [as_lists(b) for b in first] != [as_lists(b) for b in second]
    assert as_lists(first[1:][0]) == as_lists(first[1])


def test_no_requests_or_no_size_is_refused():
    requests = requests_of()
    with pytest.raises(ValueError, match="batches of 0 of 6 requests"):
        RequestBatches(requests, batch_size=0)
    with pytest.raises(ValueError, match="of 0 requests"):
        RequestBatches(requests.select(tensor([], dtype=torch.int64)))


# -- found again by hashing -----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=14), st.integers(0, 3))
def test_hashing_finds_the_requests_of_shuffled_impressions(chosen, max_events):
    impressions = requests_of().exploded()
    batch = impressions.select(tensor(chosen, dtype=torch.int64)).batch(max_events)
    expected: dict[tuple, list] = {}
    for *request, items, answers in as_lists(batch):
        expected.setdefault(tuple(request), []).append((items[0], answers[0]))
    found = {}
    for *request, items, answers in as_lists(deduplicated(batch)):
        assert tuple(request) not in found
        found[tuple(request)] = list(zip(items, answers, strict=True))
    assert found == expected


@pytest.mark.parametrize("changed", ["items", "actions", "times", "asked", "order", "length"])
def test_requests_that_differ_in_one_thing_stay_apart(changed):
    items, actions = tensor([3, 4, 5, 6]), tensor([[True], [False], [True], [True]])
    times, asked = tensor([1, 2, 3, 4]), tensor([9, 9])
    lengths = tensor([2, 2])
    items[2:], actions[2:], times[2:] = items[:2], actions[:2], times[:2]
    if changed == "items":
        items[3] = 8
    elif changed == "actions":
        actions[3] = ~actions[3]
    elif changed == "times":
        times[3] += 1
    elif changed == "asked":
        asked[1] += 1
    elif changed == "order":
        items[2:], actions[2:] = items[:2].flip(0), actions[:2].flip(0)
        times[:] = 7
    else:
        items, actions, times = items[:3], actions[:3], times[:3]
        lengths = tensor([2, 1])
    history = Events(JaggedTensor.from_lengths(items, lengths), actions, times)
    candidates = JaggedTensor.from_lists([[1], [2]])
    batch = RequestBatch(history, asked, candidates, tensor([[True], [False]]))
    assert len(deduplicated(batch).asked) == 2


def test_a_hundred_thousand_histories_have_as_many_hashes():
    lengths = torch.full((100_000,), 3)
    items = torch.arange(300_000) // 3 % 50_000
    times = torch.arange(300_000) // 150_000
    history = Events(
        JaggedTensor.from_lengths(items, lengths), torch.zeros(300_000, 1).bool(), times
    )
    ones = torch.ones(100_000, dtype=torch.int64)
    batch = RequestBatch(
        history, 10 * ones, JaggedTensor.from_lengths(ones, ones), ones[:, None].bool()
    )
    assert len(deduplicated(batch).asked) == 100_000
