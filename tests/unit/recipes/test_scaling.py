"""Grids of sizes: counted operations, resumable runs, and laws through them."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_recipes import tiny_log
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from genrec_lite.encoders.hstu import HSTU
from genrec_lite.encoders.pooled import PooledHistory
from genrec_lite.encoders.sasrec import SASRec
from genrec_lite.jagged import JaggedTensor
from genrec_lite.recipes import scaling
from genrec_lite.recipes.scaling import GRIDS, Grid, Size, run_grid, step_flop
from genrec_lite.scaling.power_law import fit_power_law

SIZES = tuple(Size("hstu", dim, 1, steps) for dim, steps in ((4, 2), (8, 4), (8, 8))) + (
    Size("sasrec", 4, 1, 2),
    Size("sasrec", 8, 1, 4),
    Size("sasrec", 8, 2, 4),
    Size("pooled", 4, 1, 2),
    Size("pooled", 8, 1, 4),
    Size("pooled", 8, 2, 8),
)
STREAM = Grid("stream", SIZES, records=80, items=500, batch_size=8)
LOG = Grid("tiny-log", SIZES, max_length=6, batch_size=8, bias="position", dropout=0.1)


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch):
    monkeypatch.setattr(scaling, "load", tiny_log)


@pytest.mark.parametrize(
    "size", [Size("hstu", 16, 2, 1), Size("sasrec", 16, 3, 1), Size("pooled", 16, 2, 1)]
)
def test_the_counted_operations_are_those_that_torch_counts(size):
    lengths = torch.tensor([24, 24, 24])  # one bucket, so that no way pads
    items = JaggedTensor.from_lengths(torch.arange(72) % 50, lengths)
    if size.encoder == "hstu":
        encoder = HSTU(50, dim=16, num_blocks=2, head_dim=16, max_length=24, bias="none")
    elif size.encoder == "sasrec":
        encoder = SASRec(50, dim=16, num_blocks=3, max_length=24)
    else:
        encoder = PooledHistory(50, dim=16, num_blocks=2, max_length=24)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        encoder(items).values.sum().backward()
    flop = step_flop(size, lengths, 50)
    # Both ways compute all n^2 pairs of so short a row; needed are n (n + 1) / 2.
    whole = flop.blocks + flop.attention * 2 * 24 / 25
    assert counter.get_total_flops() == pytest.approx(whole, rel=1e-9)
    matrices = {"hstu": 2 * 5, "sasrec": 3 * 6, "pooled": 3 + 2 * 2}[size.encoder]
    assert size.parameters == matrices * 16**2 and flop.blocks == 6 * size.parameters * 72
    assert (flop.attention == 0) == (size.encoder == "pooled")
    assert flop.softmax == 6 * 72 * 50 * 16 and flop.encoder == flop.blocks + flop.attention


@pytest.mark.parametrize("grid", [STREAM, LOG])
def test_a_grid_gives_compute_and_quality_of_each_run_and_the_law_through_them(tmp_path, grid):
    said = []
    found = run_grid(grid, tmp_path, progress=False, say=said.append)
    assert len(said) == 1 and said[0].startswith("9 of 9 runs to do, about ")
    assert found["hstu runs"] == ["hstu-d4-b1-s2", "hstu-d8-b1-s4", "hstu-d8-b1-s8"]
    for encoder in ("hstu", "sasrec", "pooled"):
        flop = found[f"{encoder} flop"]
        assert flop == sorted(flop) and len(set(flop)) == 3
        law = fit_power_law(flop, found[f"{encoder} loss"])
        low, high = law.exponent_interval
        assert found[f"{encoder} loss exponent"] == law.exponent
        assert found[f"{encoder} loss exponent low"] == low < law.exponent
        assert found[f"{encoder} loss exponent high"] == high > law.exponent
        assert 10 ** found[f"{encoder} orders"] == pytest.approx(flop[-1] / flop[0])
        assert all(0 <= hit <= 1 for hit in found[f"{encoder} hr@10"])
    assert found["sasrec parameters"] == [6 * 16, 6 * 64, 12 * 64]
    assert found["pooled parameters"] == [5 * 16, 5 * 64, 7 * 64]
    assert ("reference loss" in found) == (grid is STREAM)
    assert json.dumps(found) and len(list(tmp_path.iterdir())) == 9
    again = run_grid(grid, tmp_path, progress=False, say=said.append)
    assert again == found and len(said) == 1  # CPU seconds, too: nothing was trained again


def test_a_law_of_hit_rates_is_left_out_where_a_run_has_no_hit():
    runs = {
        size: {"flop": 10.0**i, "loss": 5.0 - i, "hr@10": 0.1 * i}
        for i, size in enumerate(SIZES[:3])
    }
    found = scaling._summary(runs)
    assert "hstu loss exponent" in found and "hstu hr@10 exponent" not in found
    assert found["hstu hr@10"] == [0.0, 0.1, 0.2]


def test_an_interrupted_grid_goes_on_with_the_runs_left(tmp_path, monkeypatch):
    trained, real = [], scaling._Task.run

    def run(task, size):
        trained.append(size.name)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return real(task, size)

    monkeypatch.setattr(scaling._Task, "run", run)
    with pytest.raises(KeyboardInterrupt):
        run_grid(LOG, tmp_path, progress=False)
    assert len(list(tmp_path.iterdir())) == 2
    run_grid(LOG, tmp_path, progress=False)
    assert trained == [s.name for s in SIZES[:3]] + [s.name for s in SIZES[2:]]
    run_grid(LOG, tmp_path, seed=1, progress=False)  # another seed is other runs
    assert len(list(tmp_path.iterdir())) == 18


def test_the_runs_of_another_grid_or_a_damaged_file_are_refused(tmp_path):
    run_grid(LOG, tmp_path, progress=False)
    other = replace(LOG, learning_rate=0.1)
    with pytest.raises(ValueError, match=r"holds another run \(learning_rate 0.005, not 0.1\)"):
        run_grid(other, tmp_path, progress=False)
    (tmp_path / "hstu-d4-b1-s2-seed-0.json").write_text("{")
    with pytest.raises(ValueError, match="s2-seed-0.json describes no run .*: remove it"):
        run_grid(LOG, tmp_path, progress=False)


def test_steps_beyond_the_stream_are_refused_and_those_before_the_questions_taken():
    task = scaling._Task(STREAM, 0)
    assert len(task.pass_) == 9
    assert task.batches(2) == task.pass_[-2:]
    with pytest.raises(ValueError, match="10 steps, but the stream has 9 batches of 8 records"):
        task.batches(10)


def test_more_steps_than_an_epoch_go_on_with_the_next_one():
    task = scaling._Task(LOG, 0)
    an_epoch = len(task.epochs(0))
    batches = task.batches(an_epoch + 1)
    assert len(batches) == an_epoch + 1
    assert torch.equal(batches[-1].targets, task.epochs(1)[0].targets)


def test_the_grids_span_more_than_two_and_a_half_orders_with_enough_runs():
    for grid in GRIDS.values():
        for encoder, least in (("hstu", 10), ("sasrec", 5), ("pooled", 5)):
            own = [size for size in grid.sizes if size.encoder == encoder]
            assert len(own) >= least
            lengths = torch.full((grid.batch_size,), 127)
            flop = [size.steps * step_flop(size, lengths, 1).encoder for size in own]
            assert max(flop) / min(flop) > 10**2.5
    assert max(size.steps for size in GRIDS["scaling"].sizes) * 32 <= 0.9 * GRIDS["scaling"].records
