"""The tables of attention by length: lengths, equal ways, what arithmetic predicts, memory."""

import json
import sys

import pytest
import torch
from typer.testing import CliRunner

from genrec_lite.bench import attention_ways, hstu_lengths, jagged_attention
from genrec_lite.bench.attention_ways import DISTRIBUTIONS, Setting, lengths_of
from genrec_lite.bench.jagged_attention import compare, peak_memory, predicted, table
from genrec_lite.cli import app


@pytest.fixture(autouse=True)
def without_a_compiler(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def test_lengths_are_the_quantiles_of_their_distribution():
    for name in DISTRIBUTIONS:
        lengths = lengths_of(name, 1000, 400)
        assert lengths.shape == (400,) and int(lengths.min()) >= 1 and int(lengths.max()) == 1000
        assert torch.equal(lengths, lengths_of(name, 1000, 400))
    uniform = lengths_of("uniform", 1000, 400).double()
    assert abs(uniform.mean() - 500) < 2 and abs(uniform.square().mean() / 1e6 - 1 / 3) < 0.003
    assert abs(lengths_of("lognormal", 1000, 401).median() - 100) <= 1
    ones = (lengths_of("zipf", 1000, 4000) == 1).double().mean()
    assert abs(ones - 1 / (torch.arange(1, 1001).double() ** -1.2).sum()) < 0.001
    assert set(lengths_of("full", 1000, 400).tolist()) == {1000}


def test_the_prediction_counts_pairs():
    lengths = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8])
    assert predicted(lengths, "padded SDPA") == predicted(lengths, "dense") == 8 * 64 / 204
    assert predicted(lengths, "4 buckets") == 2 * (4 + 16 + 36 + 64) / 204
    assert predicted(lengths, "FlexAttention") == predicted(lengths, "ours") == 1


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_ways_agree_and_a_wrong_one_is_not_timed(monkeypatch, backward, causal):
    setting = Setting("uniform", 40, 8, heads=2, width=8, backward=backward, causal=causal)
    comparison = compare(setting)
    names = ["padded SDPA", "4 buckets", "dense"] + ["FlexAttention"] * (not backward)
    assert list(comparison.peers) == names and 0 < comparison.setting["difference"] < 1e-5
    right = attention_ways._dense
    monkeypatch.setattr(attention_ways, "_dense", lambda *x, **o: right(*x, **o) * 1.001)
    with pytest.raises(AssertionError, match="dense differs by 0.001"):
        compare(setting)


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's peak from /proc")
def test_the_peak_is_that_of_the_scores_where_they_are_stored():
    setting = Setting("full", 512, 8, heads=2, width=64)
    scores, output = 8 * 2 * 512 * 512 * 4, 8 * 512 * 2 * 64 * 4
    assert 1.9 * scores < peak_memory(setting, "dense") < 4 * scores
    assert 0.9 * output < peak_memory(setting, "ours") < output + scores / 4


def test_the_tables_hold_each_way_and_the_command_prints_them(monkeypatch):
    small = [Setting("uniform", 24, 8, heads=1, width=8, backward=b) for b in (False, True)]
    monkeypatch.setattr(jagged_attention, "settings", lambda device: small)
    monkeypatch.setattr(jagged_attention, "peak_memory", lambda setting, way: 2**20)
    monkeypatch.setattr(attention_ways, "_flex", lambda rows, causal: lambda q, k, v: q)
    monkeypatch.setattr(jagged_attention, "TOLERANCE", 1e9)
    found = table("cpu", repeats=1)
    lengths = lengths_of("uniform", 24, 8)
    for passes in ("forward", "forward and backward"):
        key = f"uniform 24 x 8 {passes}: "
        assert found[f"{key}ours times ours"] == 1 and found[f"{key}dense seconds"] > 0
        assert found[f"{key}padded SDPA predicted"] == predicted(lengths, "padded SDPA")
    assert "uniform 24 x 8 forward and backward: FlexAttention seconds" not in found
    said = CliRunner().invoke(app, ["bench", "jagged-attention", "--repeats", "1"])
    assert said.exit_code == 0 and "times ours" in said.output and "1.0 MiB" in said.output
    said = CliRunner().invoke(
        app, ["bench", "jagged-attention", "--device", "cpu", "--repeats", "1", "--json"]
    )
    assert json.loads(said.stdout.splitlines()[-1])["device"] == "cpu"


def test_hstus_table_compares_padded_ways_on_equal_results(monkeypatch):
    cases = hstu_lengths._on_cpu()
    assert list(cases) == [f"{name} 1024 x 64" for name in DISTRIBUTIONS]
    rows, times = hstu_lengths._rows("lognormal", 60, 8)
    assert times.times.lengths.tolist() == [n + 1 for n in rows.lengths.tolist()]

    def prepare():
        return hstu_lengths.compare_rows(rows, times, 8, {}, compiled=False)

    monkeypatch.setattr(hstu_lengths, "_on_cpu", lambda: {"small": (prepare, 0.0)})
    found = hstu_lengths.table("cpu", repeats=1)
    assert found["small: padded to the longest times ours"] > 0
    assert found["small: ours times ours"] == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_device_that_is_not_there_is_named():
    for ask in (table, hstu_lengths.table):
        with pytest.raises(ValueError, match="device is 'tpu': choose cpu or cuda"):
            ask("tpu")
        with pytest.raises(ValueError, match="this machine has no GPU that torch can use"):
            ask("cuda")
    with pytest.raises(ValueError, match="'normal': choose from uniform, lognormal, zipf, full"):
        Setting("normal")
    said = CliRunner().invoke(app, ["bench", "sasrec-step", "--device", "cpu"])
    assert said.exit_code != 0 and "runs on a CPU only: leave out --device" in said.output
