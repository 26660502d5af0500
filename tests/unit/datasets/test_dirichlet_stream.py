"""The made stream: its sizes, its arrivals, and the Dirichlet process of its categories."""

import pytest
import torch

from genrec_lite.datasets import dirichlet_stream as module
from genrec_lite.datasets.dirichlet_stream import dirichlet_stream

SIZES = dict(length=16, num_items=203, num_categories=10, max_categories=3)


def of_alpha(alpha, monkeypatch, records=20_000, **sizes):
    """(R, L) the categories of events where every record has one alpha."""
    monkeypatch.setattr(module, "ALPHA_RANGE", (alpha, alpha))
    stream = dirichlet_stream(records, seed=4, **sizes)
    return stream.categories[stream.items.to_padded()]


def test_a_seed_gives_the_same_stream_again_and_another_seed_another():
    one, again, other = (dirichlet_stream(50, seed=seed, **SIZES) for seed in (1, 1, 2))
    for name in ("categories", "arrivals", "alphas"):
        assert torch.equal(getattr(one, name), getattr(again, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))
    assert torch.equal(one.items.values, again.items.values)
    assert not torch.equal(one.items.values, other.items.values)


def test_the_sizes_are_those_asked_for():
    stream = dirichlet_stream(300, seed=0, **SIZES)
    assert len(stream) == 300 and stream.num_items == 203
    assert stream.items.lengths.tolist() == [16] * 300
    assert stream.categories.bincount().sort().values.tolist() == [20] * 7 + [21] * 3
    found = stream.categories[stream.items.to_padded()]
    distinct = [len(row.unique()) for row in found]
    assert set(distinct) == {1, 2, 3}
    assert float(stream.alphas.min()) >= 1 and float(stream.alphas.max()) <= 500
    assert float(stream.alphas.mean()) == pytest.approx(250.5, abs=25)


def test_no_item_comes_before_it_arrives_and_all_come_in_time():
    stream = dirichlet_stream(4_000, seed=1, **SIZES)
    assert bool((stream.items.row_ids() >= stream.arrivals[stream.items.values]).all())
    first_seen = torch.full((203,), 4_000).scatter_reduce(
        0, stream.items.values, stream.items.row_ids(), "amin"
    )
    # 64,000 events over 203 items: about 250 records between two events of an item, at worst.
    assert bool((first_seen - stream.arrivals < 400).all())


def test_each_category_starts_with_its_share_and_the_rest_arrive_at_equal_intervals():
    stream = dirichlet_stream(4_000, at_start=0.4, seed=1, **SIZES)
    there = stream.arrivals == 0
    for category in range(10):
        of_category = stream.categories == category
        assert int((there & of_category).sum()) == (9 if int(of_category.sum()) == 21 else 8)
    late = stream.arrivals[~there].sort().values
    assert len(late) == 203 - 83
    intervals = torch.cat([torch.tensor([0]), late, torch.tensor([4_000])]).diff()
    assert set(intervals.tolist()) <= {33, 34}  # 4,000 / 121
    assert not torch.equal(stream.arrivals[~there], late)  # in a random order
    whole = dirichlet_stream(10, at_start=1.0, seed=1, **SIZES)
    assert not bool(whole.arrivals.any())


def test_items_of_a_category_that_have_arrived_come_equally_often():
    stream = dirichlet_stream(20_000, at_start=0.5, **{**SIZES, "num_items": 40})
    counts = stream.items[18_000:].values.bincount(minlength=40).double()
    for category in range(10):
        there = counts[(stream.categories == category) & (stream.arrivals < 18_000)]
        assert len(there) >= 2
        # About 800 each, which scatter by 28.
        assert bool(((there / there.mean() - 1).abs() < 0.14).all())


@pytest.mark.parametrize("alpha", [1.0, 4.0, 300.0])
def test_two_events_share_a_category_as_often_as_in_a_dirichlet_process(alpha, monkeypatch):
    found = of_alpha(alpha, monkeypatch, **SIZES)
    # A prior uniform on the simplex of k categories has squares that sum to 2 / (k + 1).
    squares = sum(2 / (k + 1) for k in (1, 2, 3)) / 3
    share = 1 / (alpha + 1) + alpha / (alpha + 1) * squares
    for m, n in ((0, 1), (3, 9), (0, 15)):  # all pairs alike: the process is exchangeable
        same = float((found[:, m] == found[:, n]).double().mean())
        assert same == pytest.approx(share, abs=0.011)  # three standard errors


def test_new_categories_come_as_often_as_in_the_chinese_restaurant_process(monkeypatch):
    sizes = dict(length=64, num_items=2_000, num_categories=2_000, max_categories=2_000)
    found = of_alpha(2.0, monkeypatch, records=400, **sizes)
    for n in (4, 16, 64):
        distinct = sum(len(row[:n].unique()) for row in found) / len(found)
        tables = sum(2 / (2 + before) for before in range(n))
        # Two draws of 2,000 categories or fewer are of one category in less than 1% of the cases.
        assert tables - 0.45 < distinct < tables + 0.2


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (dict(num_records=0), "num_records is 0: at least 1"),
        (dict(length=0), "length is 0: at least 1"),
        (dict(num_items=9), "9 items for 10 categories: each category needs an item"),
        (dict(max_categories=11), "a record of up to 11 categories, but there are 10"),
        (dict(at_start=0.0), "at_start is 0.0: above 0, or a category is empty; at most 1"),
        (dict(at_start=1.5), "at_start is 1.5"),
    ],
)
def test_sizes_that_make_no_stream_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        dirichlet_stream(**{"num_records": 5, **SIZES, **wrong})
