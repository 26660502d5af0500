"""Stochastic Length: the paper's rule, its closed form, and the three ways to choose."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_recipes import tiny_log

from genrec_lite.datasets import load
from genrec_lite.jagged import JaggedTensor
from genrec_lite.scaling.stochastic_length import (
    CHOICES,
    StochasticLengthBatches,
    expected_sparsity,
    kept_length,
    stochastic_length,
)


def rows_of(lengths):
    """Rows of those lengths whose values are their own places."""
    return JaggedTensor.from_lengths(torch.arange(sum(lengths)), torch.tensor(lengths))


def drawn(lengths, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    return stochastic_length(rows_of(lengths), generator=generator, **settings)


@pytest.mark.parametrize(
    ("longest", "alpha", "length"),
    [(1024, 1.6, 256), (4096, 1.6, 776), (4096, 2.0, 4096), (1000, 1.0, 31), (1, 0.3, 1)],
)
def test_a_subsequence_has_the_power_rounded_down(longest, alpha, length):
    assert kept_length(longest, alpha) == length


@given(
    st.lists(st.integers(0, 64), max_size=12),
    st.floats(0.2, 2.0),
    st.sampled_from(CHOICES),
    st.integers(0, 99),
)
def test_a_row_is_whole_or_a_part_of_the_one_length_in_its_order(lengths, alpha, choice, seed):
    places, rows = drawn(lengths, seed, alpha=alpha, longest=64, choice=choice)
    part = kept_length(64, alpha)
    whole = rows_of(lengths)
    assert torch.equal(rows.values, whole.values[places])
    assert torch.equal(whole.row_ids()[places], rows.row_ids())
    assert bool((places.diff() > 0).all())
    for before, after in zip(lengths, rows.lengths.tolist(), strict=True):
        assert after in ({before, part} if before > part else {before})


def test_the_share_of_whole_rows_is_that_of_the_rule():
    # N^alpha = 64^1.5 = 512: of 30 events 512 / 900 stay whole, of 64 one in eight, of 22 all.
    for length, share in ((22, 1.0), (30, 512 / 900), (64, 1 / 8)):
        _, rows = drawn([length] * 20_000, alpha=1.5, longest=64)
        whole = float((rows.lengths == length).double().mean())
        assert whole == pytest.approx(share, abs=0.012)  # over 3 standard errors of 0.0035


def test_greedy_keeps_the_most_recent_events():
    places, _ = drawn([64, 3, 64], seed=1, alpha=1.0, longest=64, choice="greedy")
    assert places.tolist() == [*range(56, 64), *range(64, 67), *range(123, 131)]


@pytest.mark.parametrize("choice", ["random", "recency"])
def test_each_event_is_kept_as_often_as_its_weight_says(choice):
    # Two of four: of 10,000 rows that are cut, all but the one in four that stays whole.
    _, rows = drawn([4] * 40_000, alpha=1.0, longest=4, choice=choice)
    cut = rows.select((rows.lengths == 2).nonzero().squeeze(1))
    assert len(cut) == pytest.approx(30_000, abs=300)
    weights = [1.0, 1.0, 1.0, 1.0] if choice == "random" else [1.0, 2.0, 3.0, 4.0]
    total = sum(weights)
    for place, weight in enumerate(weights):
        # First, or second after another one.
        second = sum(
            other / total * weight / (total - other)
            for at, other in enumerate(weights)
            if at != place
        )
        kept = float((cut.values % 4 == place).double().sum()) / len(cut)
        assert kept == pytest.approx(weight / total + second, abs=0.01)


def test_the_generator_decides_and_global_seeds_do_not():
    settings = dict(alpha=1.2, longest=64, choice="random")
    torch.manual_seed(1)
    first = drawn([64] * 9, 5, **settings)
    torch.manual_seed(2)
    again, other = drawn([64] * 9, 5, **settings), drawn([64] * 9, 6, **settings)
    assert torch.equal(first.places, again.places)
    assert not torch.equal(first.places, other.places)


@pytest.mark.parametrize("alpha", [1.2, 1.6, 2.0])
def test_the_closed_form_is_the_mean_over_many_draws(alpha):
    lengths = [1, 3, 10, 17, 40, 64, 64, 0, 25]
    times = 2_000
    _, rows = drawn(lengths * times, alpha=alpha, longest=64)
    kept = rows.lengths.double()
    before = torch.tensor(lengths).double()
    expected = expected_sparsity(torch.tensor(lengths), alpha=alpha, longest=64)
    measured = 1 - float(kept.sum()) / (times * float(before.sum()))
    assert measured == pytest.approx(expected.events, abs=0.006)
    pairs = float((kept * (kept + 1)).sum()) / (times * float((before * (before + 1)).sum()))
    assert 1 - pairs == pytest.approx(expected.pairs, abs=0.012)
    padded = float(kept.sum()) / (len(kept) * 64)
    assert 1 - padded == pytest.approx(expected.of_longest, abs=0.003)
    assert (expected.events == 0) == (alpha == 2.0)


def lengths_like(kind, users=4_000, longest=256):
    """Lengths of histories: as many of each, many short and few long, or a real log's."""
    if kind == "uniform":
        return torch.arange(users) % longest + 1
    if kind == "movielens-small":
        own = load("movielens-small").sequences().items.lengths
        return own.repeat(-(-users // len(own)))[:users].clamp(max=longest)
    normal = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(users) + 0.5) / users)
    return (4 + normal).exp().ceil().clamp(1, longest).long()


@pytest.mark.parametrize("kind", ["uniform", "lognormal", "movielens-small"])
@pytest.mark.parametrize("alpha", [1.4, 1.6, 1.8])
def test_the_closed_form_is_within_a_hundredth_on_three_distributions(kind, alpha):
    lengths = lengths_like(kind)
    rows = JaggedTensor.from_lengths(torch.zeros(int(lengths.sum()), dtype=torch.uint8), lengths)
    generator = torch.Generator().manual_seed(0)
    kept = torch.cat([
        stochastic_length(
            rows, alpha=alpha, longest=256, choice="greedy", generator=generator
        ).rows.lengths
        for _ in range(10)
    ])  # fmt: skip
    expected = expected_sparsity(lengths, alpha=alpha, longest=256)
    measured = 1 - float(kept.sum()) / (10 * float(lengths.sum()))
    assert measured == pytest.approx(expected.events, rel=0.01)
    assert 1 - float(kept.sum()) / (len(kept) * 256) == pytest.approx(expected.of_longest, rel=0.01)


def test_a_long_history_costs_at_most_twice_the_pairs_of_its_part():
    for length in range(257, 1025, 64):
        saved = expected_sparsity(torch.tensor([length]), alpha=1.6, longest=1024).pairs
        assert (1 - saved) * length * (length + 1) <= 2 * 1024**1.6 * (1 + 1 / 256)


def test_a_population_of_four_lengths_has_the_published_sparsity():
    users = torch.tensor([5] * 6 + [1020] * 7 + [2040] * 42 + [4900] * 45)
    published = {
        1.6: (0.715, 0.761, 0.805, 0.844),
        1.8: (0.402, 0.453, 0.541, 0.664),
        2.0: (0.031, 0.066, 0.291, 0.641),
    }
    for alpha, row in published.items():
        for longest, sparsity in zip((1024, 2048, 4096, 8192), row, strict=True):
            found = expected_sparsity(users.clamp(max=longest), alpha=alpha, longest=longest)
            assert found.of_longest == pytest.approx(sparsity, abs=0.0325)


def test_what_cannot_be_drawn_is_refused():
    for alpha in (0.0, 2.1, float("nan")):
        with pytest.raises(ValueError, match=f"alpha is {alpha}: above 0, at most 2"):
            drawn([3], alpha=alpha, longest=64)
    with pytest.raises(ValueError, match="longest is 0: the longest history has at least 1"):
        kept_length(0, 1.6)
    with pytest.raises(ValueError, match=r"row 1 has 65 events.*cut the rows with .last\(64\)"):
        drawn([3, 65], alpha=1.6, longest=64)
    with pytest.raises(ValueError, match="choice is 'best': choose from greedy, random, recency"):
        drawn([3], alpha=1.6, longest=64, choice="best")
    with pytest.raises(ValueError, match="2 histories hold no event"):
        expected_sparsity(torch.tensor([0, 0]), alpha=1.6, longest=64)
    with pytest.raises(ValueError, match="row 0 has -1 events"):
        expected_sparsity(torch.tensor([-1, 0]), alpha=1.6, longest=64)


def test_nothing_is_left_of_no_rows():
    places, rows = drawn([], alpha=1.6, longest=64)
    assert len(places) == 0 and len(rows) == 0


def test_batches_are_drawn_anew_each_epoch_and_the_same_again():
    log = tiny_log("tiny-log").sequences()  # a ring of 30 items, walked along
    batches = StochasticLengthBatches(log, alpha=1.0, batch_size=16, max_length=8, seed=3)
    first, second, again = batches(0), batches(1), batches(0)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.targets, b.targets) and torch.equal(a.inputs.values, b.inputs.values)
    assert any(len(a) != len(b) for a, b in zip(first, second, strict=True))
    users = torch.cat([batch.users for batch in first])
    assert users.sort().values.tolist() == list(range(40))
    lengths = torch.cat([batch.inputs.lengths for batch in first])
    whole = log.items.last(9).lengths[users] - 1
    assert bool(((lengths == whole) | (lengths == 2)).all()) and bool((lengths < whole).any())
    for batch in first:  # each target is the next item kept, later along the ring
        steps = (batch.targets - batch.inputs.values) % 30
        assert bool((steps >= 1).all()) and int(steps.sum()) > len(steps)


def test_the_kept_events_keep_their_times():
    log = tiny_log("tiny-log").sequences()
    timed = type(log)(
        log.items,
        log.items.with_values(1_000 * log.items.row_ids() + log.items.values),
        None,
        log.user_ids,
        log.item_ids,
    )
    for batch in StochasticLengthBatches(timed, alpha=1.0, batch_size=16, max_length=8)(0):
        assert batch.times is not None and batch.users is not None
        events = batch.inputs.values + 1_000 * batch.users[batch.inputs.row_ids()]
        assert torch.equal(batch.times.drop_last().values, events)
