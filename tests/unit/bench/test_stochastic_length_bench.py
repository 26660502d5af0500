"""The benchmark of Stochastic Length: the steps it times, and the sparsity it reports."""

import pytest

from genrec_lite.bench import BENCHMARKS, stochastic_length
from genrec_lite.bench.stochastic_length import compare, long_histories
from genrec_lite.scaling.stochastic_length import expected_sparsity

SMALL = dict(longest=64, batch_size=8, num_negatives=4, dim=8, head_dim=4, num_blocks=1)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(stochastic_length, "DRAWS", 150)


def test_the_measured_sparsity_is_reported_beside_that_of_the_closed_form():
    setting = compare(**SMALL).setting
    lengths = long_histories(64, 8).items.lengths
    expected = expected_sparsity(lengths, alpha=1.6, longest=65)
    assert setting["expected_sparsity"] == expected.events > 0.1
    assert setting["expected_pair_sparsity"] == expected.pairs > expected.events
    assert setting["sparsity"] == pytest.approx(expected.events, abs=0.03)
    assert setting["events"] == int(lengths.sum()) - 8 and int(lengths.max()) == 65


def test_ours_learns_from_new_subsequences_and_the_peer_from_all_events(monkeypatch):
    seen = []
    model = stochastic_length.NextItemModel
    real = model.loss
    monkeypatch.setattr(model, "loss", lambda self, batch: seen.append(batch) or real(self, batch))
    comparison = compare(**SMALL)
    for _ in range(4):
        comparison.ours()
    assert max(map(len, seen)) <= comparison.setting["events"]
    assert len({len(batch) for batch in seen}) > 1
    seen.clear()
    comparison.peers["all events"]()
    assert [len(batch) for batch in seen] == [comparison.setting["events"]]


def test_another_sparsity_than_the_rules_is_not_timed(monkeypatch):
    real = stochastic_length.expected_sparsity
    monkeypatch.setattr(
        stochastic_length, "expected_sparsity", lambda n, **k: real(n, alpha=1.2, longest=65)
    )
    with pytest.raises(AssertionError, match="of the events are left out, not .* closed form says"):
        compare(**SMALL)


def test_the_list_says_that_results_differ():
    assert "results differ by design" in BENCHMARKS["stochastic-length"].about
