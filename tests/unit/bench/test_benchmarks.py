"""The benchmarks: equal results before any timing, and one JSON object out. Nothing is timed."""

import json
from dataclasses import replace

import polars as pl
import pytest
import torch
from torch.nn import functional as F

from genrec_lite.bench import (
    BENCHMARKS,
    full_rank,
    hstu_attention,
    hstu_step,
    measure,
    record_values,
    sasrec_step,
    textbook,
    training_step,
)
from genrec_lite.bench.timing import Benchmark, Comparison
from genrec_lite.datasets import InteractionsError, Sequences, catalogue
from genrec_lite.jagged import JaggedTensor
from genrec_lite.notebook.record import load_record, write_record


@pytest.fixture
def sequences() -> Sequences:
    """Thirty users over fifty items, without repeats, some longer than the tests' windows."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 25, (30,), generator=generator).tolist()
    rows = [torch.randperm(50, generator=generator)[:length] for length in lengths]
    items = JaggedTensor.from_lists(rows)
    return Sequences(items, None, None, pl.Series(range(30)), pl.Series(range(50)))


def small_step(sequences: Sequences) -> Comparison:
    return sasrec_step.compare(
        sequences, "toy", batch_size=8, num_negatives=6, max_length=12, dim=8
    )


def test_the_steps_agree_in_loss_and_gradients_and_both_can_be_taken(sequences):
    comparison = small_step(sequences)
    assert comparison.setting["loss_difference"] <= 1e-5
    assert 0 < comparison.setting["gradient_difference"] <= 1e-5
    comparison.ours()
    assert list(comparison.peers) == ["textbook", "textbook, loss of the padding, too"]
    for step in comparison.peers.values():
        step()


def test_the_timed_steps_draw_as_many_negatives_and_lead_to_equal_weights(sequences, monkeypatch):
    # Plain descent by whole gradients, as AdamW's first steps divide a gradient of 0 by itself.
    monkeypatch.setattr(
        torch.optim, "AdamW", lambda parameters, **_: torch.optim.SGD(parameters, lr=0.01)
    )
    monkeypatch.setattr(F, "dropout", lambda x, *_: x)
    drawn, made = [], []

    def the_same_for_every_position(high, size, **_):
        drawn.append(tuple(size))
        return torch.arange(size[-1]).expand(size)

    monkeypatch.setattr(torch, "randint", the_same_for_every_position)
    for name in ("NextItemModel", "TextbookSASRec"):
        kind = getattr(sasrec_step, name)
        monkeypatch.setattr(
            sasrec_step, name, lambda *a, kind=kind, **k: made.append(kind(*a, **k)) or made[-1]
        )
    comparison = small_step(sequences)
    ours, peer = made
    events, users = comparison.setting["events"], comparison.setting["users"]
    shapes = {"textbook": (events, 6), "textbook, loss of the padding, too": (users, 12, 6)}
    for name, shape in shapes.items():
        before = {key: p.detach().clone() for key, p in ours.named_parameters()}
        drawn.clear()
        comparison.ours()
        comparison.peers[name]()
        assert drawn == [(events, 6), shape]
        assert all(not torch.equal(p, before[key]) for key, p in ours.named_parameters())
        reached = textbook.TextbookSASRec(ours.encoder).state_dict()
        for key, weights in peer.state_dict().items():
            assert (weights - reached[key]).norm() <= 1e-5 * reached[key].norm(), (name, key)


@pytest.mark.parametrize("config", ["small", "large"])
def test_hstus_steps_agree_with_times_and_with_made_ones(sequences, config):
    at = torch.arange(len(sequences.items.values)) ** 3
    for log in (sequences, replace(sequences, timestamps=sequences.items.with_values(at))):
        comparison = hstu_step.compare(
            log, "toy", config, batch_size=8, num_negatives=6, max_length=12
        )
        assert ("times made" in comparison.setting["data"]) == (log is sequences)
        assert 0 < comparison.setting["gradient_difference"] <= 1e-5
        assert comparison.work["events"] == comparison.setting["events"] > 0
        assert comparison.work["flop"] > 2 * 3 * comparison.work["events"] * 50 * 7
        assert comparison.setting["peak_bytes"] > 2**26
        for step in (comparison.ours, *comparison.peers.values()):
            step()


def test_the_ways_to_hstus_attention_agree_and_a_wrong_one_is_not_timed(sequences, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda way, **_: way)
    monkeypatch.setattr(hstu_attention.shutil, "which", lambda _: "here")
    comparison = hstu_attention.compare(sequences, "toy", batch_size=8, max_length=12, dim=6)
    assert list(comparison.peers)[-1] == "length buckets, compiled"
    assert 0 < comparison.setting["difference"] <= 1e-5
    monkeypatch.setattr(hstu_attention.shutil, "which", lambda _: None)
    without = hstu_attention.compare(sequences, "toy", batch_size=8, max_length=12, dim=6)
    assert list(without.peers) == ["length buckets, padded", "padded to the longest"]
    right = hstu_attention._attend
    monkeypatch.setattr(hstu_attention, "_attend", lambda *a: right(*a) * 1.001)
    with pytest.raises(AssertionError, match="length buckets, padded differs by"):
        hstu_attention.compare(sequences, "toy", batch_size=8, max_length=12, dim=6)


def test_the_count_of_operations_is_that_of_the_products_a_sequence_needs():
    sizes = dict(dim=3, num_blocks=1, num_heads=1, head_dim=2)
    # 2 events: 4 projections of 3 x 2 and one of 2 x 3 each; 3 pairs, 2 products of 2 each;
    # 5 negatives and the target, 3 each. Twice for + and *, three times for the backward pass.
    by_hand = 6 * (2 * 5 * 6 + 3 * 2 * 2 + 2 * 6 * 3)
    assert hstu_step.step_flop(torch.tensor([2]), 5, **sizes) == by_hand
    two_heads = sizes | dict(num_heads=2, head_dim=1)
    assert hstu_step.step_flop(torch.tensor([2]), 5, **two_heads) == by_hand


def test_a_textbook_with_another_loss_is_not_timed(sequences, monkeypatch):
    right = training_step._TextbookStep.loss
    monkeypatch.setattr(training_step._TextbookStep, "loss", lambda *a: right(*a) * 1.001)
    with pytest.raises(AssertionError, match="relative differences .* 1e-05.*the loss"):
        small_step(sequences)


def test_a_textbook_with_another_gradient_is_not_timed(sequences, monkeypatch):
    right = textbook.TextbookSASRec.gradients

    def one_wrong(model):
        found = right(model)
        return found | {"blocks.1.query.bias": found["blocks.1.query.bias"] * 1.001}

    monkeypatch.setattr(textbook.TextbookSASRec, "gradients", one_wrong)
    with pytest.raises(AssertionError, match="blocks.1.query.bias"):
        small_step(sequences)


def test_the_evaluations_agree_in_every_rank(sequences):
    comparison = full_rank.compare(sequences, "toy", max_length=12, dim=8)
    assert comparison.setting["equal_ranks"] == 1
    assert list(comparison.peers) == ["textbook", "textbook, one user at a time, argsort"]
    for way in comparison.peers.values():
        assert torch.equal(comparison.ours(), way())


def test_an_evaluation_with_other_ranks_is_not_timed(sequences, monkeypatch):
    right = full_rank.textbook_ranks
    monkeypatch.setattr(full_rank, "textbook_ranks", lambda *a: right(*a) + 1)
    with pytest.raises(AssertionError, match=r"only 0.00% of 30 ranks are equal.* is 1"):
        full_rank.compare(sequences, "toy", max_length=12, dim=8)


def counted() -> tuple[Benchmark, list[str]]:
    calls: list[str] = []
    comparison = Comparison(
        lambda: calls.append("ours"),
        {"peer": lambda: [calls.append("peer"), sum(range(200_000))], "other": lambda: None},
        {"users": 3},
        work={"events": 6},
    )
    return Benchmark("toy", "a toy", lambda: comparison, repeats=2), calls


def test_the_ways_take_turns_and_one_json_object_tells_what_they_cost():
    benchmark, calls = counted()
    found = json.loads(json.dumps(measure(benchmark, 3)))
    assert calls == ["ours", "peer"] * (1 + 3)  # once before the clock
    assert list(found) == ["bench", "ratio", "unit", "ours", "peers", "setting", "machine"]
    assert (found["bench"], found["unit"], found["setting"]) == ("toy", "cpu_s", {"users": 3})
    assert found["ratio"] == found["peers"]["peer"]["cpu_s"] / found["ours"]["cpu_s"]
    assert found["ours"].pop("events_per_s") == 6 / found["ours"]["cpu_s"]
    for cost in (found["ours"], *found["peers"].values()):
        assert set(cost) == {"cpu_s", "wall_s", "cpu_s_all"} and len(cost["cpu_s_all"]) == 3
    assert {"cpu", "cores", "torch", "threads", "load", "busy"} <= set(found["machine"])


def test_the_benchmarks_own_number_of_repeats_holds_unless_another_is_given():
    benchmark, calls = counted()
    threads = torch.get_num_threads()
    assert measure(benchmark)["machine"]["threads"] == 1
    assert calls == ["ours", "peer"] * (1 + 2) and torch.get_num_threads() == threads


def test_the_cost_is_the_median_and_the_first_call_is_not_counted(monkeypatch):
    now = [0.0]

    def way(*seconds):
        left = list(seconds)
        return lambda: now.__setitem__(0, now[0] + left.pop(0))

    monkeypatch.setattr("genrec_lite.bench.timing.time.process_time", lambda: now[0])
    comparison = Comparison(
        way(99, 5, 1, 2), {"first": way(99, 6, 9, 4), "next": way(9, 9, 9, 9)}, {}
    )
    found = measure(Benchmark("toy", "a toy", lambda: comparison, repeats=3))
    assert found["ours"]["cpu_s"] == 2 and found["ours"]["cpu_s_all"] == [5, 1, 2]
    assert found["peers"]["first"]["cpu_s"] == 6 and found["ratio"] == 3


@pytest.mark.parametrize(("load", "busy"), [(0.2, False), (3.4, False), (3.6, True)])
def test_a_load_above_the_free_cores_is_said(monkeypatch, load, busy):
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("genrec_lite.bench.timing.describe_machine", lambda: {"cores": 4})
    machine = measure(counted()[0])["machine"]
    assert (machine["load"], machine["busy"]) == (load, busy)


def test_a_record_of_a_benchmark_can_be_written_and_read(tmp_path):
    values = record_values(measure(counted()[0]))
    write_record("bench-toy", values, seed=0, command="genrec-lite bench toy", folder=tmp_path)
    stored = load_record("bench-toy", tmp_path)["values"]
    assert stored == values and {"ratio", "ours cpu_s", "peer wall_s", "users", "busy"} <= set(
        stored
    )


def test_without_movielens_1m_the_histories_are_made_and_called_so(monkeypatch):
    def nowhere(name):
        raise InteractionsError(f"{name} is not here")

    monkeypatch.setattr(textbook, "locate", nowhere)
    monkeypatch.setattr(textbook, "NUM_USERS", 200)
    sequences, data = textbook.movielens_1m_like()
    assert "made" in data and "movielens-small" in data
    assert (len(sequences), sequences.num_items) == (200, 3706)
    assert int(sequences.items.lengths.min()) >= 20
    assert all(len(row.unique()) == len(row) for row in sequences.items)


def test_a_damaged_movielens_1m_is_not_passed_over(tmp_path, monkeypatch):
    monkeypatch.setenv("GENREC_LITE_DATA", str(tmp_path))
    file = tmp_path / catalogue.entry("ml-1m").file
    file.parent.mkdir()
    file.write_text("no ratings\n")
    with pytest.raises(InteractionsError, match=r"ratings\.dat"):
        textbook.movielens_1m_like()


def test_the_registry_holds_every_benchmark_under_its_name():
    assert list(BENCHMARKS)[:2] == ["sasrec-step", "hstu-attention"]
    assert all(one.name == name for name, one in BENCHMARKS.items())
