"""The training loop: it learns, stops, and a killed run ends where an unbroken one does."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from genrec_lite.training import fit, seeded

X = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
Y = X @ torch.arange(1.0, 6.0)


def batches(epoch: int) -> list[torch.Tensor]:
    order = torch.randperm(60, generator=torch.Generator().manual_seed(epoch))
    return list(order.split(13))


def regression() -> tuple[nn.Module, torch.optim.Optimizer]:
    with seeded(3):
        model = nn.Sequential(nn.Dropout(0.1), nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=0.02)


def squared_error(model):
    return lambda rows: (model(X[rows]).squeeze(1) - Y[rows]).square().mean()


def run(epochs=6, seed=0, **options):
    model, optimizer = regression()
    course = fit(
        model, squared_error(model), batches, optimizer, epochs=epochs, seed=seed,
        progress=False, **options,
    )  # fmt: skip
    return model, course


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_loss_falls_and_is_the_mean_over_items():
    model, course = run(epochs=40)
    assert course.epochs[-1].loss < 0.1 * course.epochs[0].loss
    assert course.steps == 40 * 5 and course.best_epoch == 39
    still = fit(model, lambda rows: (model[1](X[rows]) * 0).mean() + len(rows), batches,
                torch.optim.SGD(model.parameters(), lr=0), epochs=1, progress=False)  # fmt: skip
    assert still.epochs[0].loss == pytest.approx((4 * 13**2 + 8**2) / 60)


def test_a_seed_repeats_a_run_and_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, second, other = (weights(run(seed=s)[0]) for s in (4, 4, 5))
    assert torch.rand(1) == expected
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_the_best_epochs_weights_come_back_and_patience_ends_the_run():
    values = [0.1, 0.5, 0.3, 0.2, 0.9]
    seen = []

    def evaluate(epoch: int) -> dict[str, float]:
        seen.append(weights(model))
        return {"quality": values[epoch]}

    model, optimizer = regression()
    course = fit(model, squared_error(model), batches, optimizer, epochs=5, evaluate=evaluate,
                 select="quality", patience=2, progress=False)  # fmt: skip
    assert course.stopped_early and len(course.epochs) == 4
    assert course.best_epoch == 1 and course.best_value == 0.5
    assert torch.equal(weights(model), seen[1])
    assert [e.metrics["quality"] for e in course.epochs] == values[:4]


def chosen(values: list[dict[str, float]], **options):
    """A training whose epochs measure `values`, with its weights after each epoch."""
    model, optimizer = regression()
    seen = []

    def evaluate(epoch: int) -> dict[str, float]:
        assert not model.training
        seen.append(weights(model))
        return values[epoch]

    course = fit(model, squared_error(model), batches, optimizer, epochs=len(values),
                 evaluate=evaluate, progress=False, **options)  # fmt: skip
    assert torch.equal(weights(model), seen[course.best_epoch]) and not model.training
    return course


def test_of_equally_good_epochs_the_first_is_kept():
    course = chosen([{"q": 0.1}, {"q": 0.5}, {"q": 0.5}], select="q")
    assert course.best_epoch == 1


def test_patience_asks_only_epochs_that_were_measured():
    measured = {3: 0.2, 7: 0.1}
    values = [{"q": measured[e]} if e in measured else {} for e in range(10)]
    course = chosen(values, select="q", patience=2)
    assert (course.best_epoch, len(course.epochs), course.stopped_early) == (3, 8, True)


@pytest.mark.parametrize("options", [{"select": "q"}, {"patience": 2}])
def test_a_choice_without_anything_to_choose_by_is_refused_before_the_first_step(options):
    with pytest.raises(ValueError, match="patience needs select, select needs evaluate"):
        run(epochs=1, **options)


@pytest.mark.parametrize("value, given", [({"hr@10": 0.1}, "hr@10"), ({}, "none")])
def test_a_name_that_no_epoch_has_measured_is_named_with_what_there_is(value, given):
    with pytest.raises(ValueError, match=f"select='hr': evaluate gave {given}$"):
        chosen([value, value], select="hr")


def test_each_epoch_gets_the_batches_of_its_own_number():
    asked = []
    model, optimizer = regression()
    fit(model, squared_error(model), lambda epoch: asked.append(epoch) or batches(epoch),
        optimizer, epochs=3, progress=False)  # fmt: skip
    assert asked == [0, 1, 2]


def test_a_loss_that_is_not_finite_names_its_step():
    model, optimizer = regression()
    with pytest.raises(FloatingPointError, match="nan at epoch 1, step 1"):
        fit(model, lambda rows: model(X[rows]).sum() * float("nan"), batches, optimizer,
            epochs=1, progress=False)  # fmt: skip


@pytest.mark.parametrize("minutes, step", [(0, 1), (5, 5)])
def test_a_gradient_that_is_not_finite_is_named_before_a_checkpoint_is_written(
    tmp_path, minutes, step
):
    file = tmp_path / "checkpoint.safetensors"
    run(epochs=1, checkpoint=file)
    before = file.read_bytes()
    model, optimizer = regression()
    steps = []

    def loss(rows):
        steps.append(rows)
        root = (model(X[rows]) * 0).abs().sqrt().mean()  # 0, but its slope is infinite
        return root if len(steps) == step else squared_error(model)(rows)

    with pytest.raises(FloatingPointError, match=f"1.weight are not .* epoch 2, step {step}:"):
        fit(model, loss, batches, optimizer, epochs=2, checkpoint=file,
            checkpoint_minutes=minutes, progress=False)  # fmt: skip
    assert file.read_bytes() == before


def test_tied_weights_can_be_saved_and_resumed(tmp_path):
    file = tmp_path / "checkpoint.safetensors"

    def train(epochs: int, **options) -> nn.Module:
        with seeded(0):
            model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 1))
        model[1].weight = model[0].weight
        fit(model, squared_error(model), batches, torch.optim.Adam(model.parameters()),
            epochs=epochs, progress=False, **options)  # fmt: skip
        return model

    train(1, checkpoint=file)
    assert torch.equal(weights(train(2, checkpoint=file)), weights(train(2)))


def test_a_finished_run_is_not_trained_again_and_more_epochs_go_on(tmp_path):
    file = tmp_path / "run" / "checkpoint.safetensors"
    whole, _ = run(epochs=6)
    run(epochs=3, checkpoint=file)
    model, course = run(epochs=6, checkpoint=file)
    assert torch.equal(weights(model), weights(whole)) and course.steps == 30
    again, course = run(epochs=6, checkpoint=file)
    assert torch.equal(weights(again), weights(whole)) and course.steps == 30


def test_another_seed_model_or_file_is_refused(tmp_path):
    file = tmp_path / "checkpoint.safetensors"
    run(epochs=1, checkpoint=file)
    with pytest.raises(ValueError, match="written with seed 0 and AdamW, this run has seed 1"):
        run(epochs=2, seed=1, checkpoint=file)
    model = nn.Linear(5, 1)
    with pytest.raises(ValueError, match="another model"):
        fit(model, squared_error(model), batches, torch.optim.AdamW(model.parameters(), lr=0.02),
            epochs=2, checkpoint=file, progress=False)  # fmt: skip
    model, _ = regression()
    other = torch.optim.AdamW(model.parameters(), lr=0.02, betas=(0.9, 0.98))
    told = r"with betas=\[0.9, 0.999\], this run has betas=\[0.9, 0.98\]"
    with pytest.raises(ValueError, match=told):
        fit(model, squared_error(model), batches, other, epochs=2, checkpoint=file)
    model, optimizer = regression()
    with pytest.raises(ValueError, match="with 5 batches in epoch 1, this run has 3"):
        fit(model, squared_error(model), lambda epoch: batches(epoch)[:3], optimizer, epochs=2,
            checkpoint=file)  # fmt: skip
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match="is no checkpoint"):
        run(epochs=2, checkpoint=file)


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch):
    file = tmp_path / "checkpoint.safetensors"
    run(epochs=1, checkpoint=file)
    before = file.read_bytes()

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        run(epochs=2, checkpoint=file)
    assert file.read_bytes() == before and os.listdir(tmp_path) == [file.name]


def test_a_page_of_the_book_gets_one_line_instead_of_a_bar(monkeypatch, capsys):
    monkeypatch.setenv("GENREC_BOOK", "1")
    model, optimizer = regression()
    options = {"epochs": 2, "progress": True}
    fit(model, squared_error(model), batches, optimizer, **options)
    shown = capsys.readouterr()
    assert re.fullmatch(r"trained 2 epochs, 10 steps in \d+ s, loss \d+\.\d\d\n", shown.out)
    assert shown.err == ""
    run(epochs=2)  # progress=False
    assert capsys.readouterr() == ("", "")
    monkeypatch.delenv("GENREC_BOOK")
    fit(model, squared_error(model), batches, optimizer, **options)
    shown = capsys.readouterr()
    assert shown.out == "" and "epoch 2/2" in shown.err


def test_the_seconds_and_the_loss_of_an_epoch_count_those_before_the_resume(tmp_path, monkeypatch):
    file = tmp_path / "checkpoint.safetensors"
    now = [0.0]
    monkeypatch.setattr("genrec_lite.training.time.process_time", lambda: now[0])

    def interrupted(left):
        def loss(rows):
            now[0] += 1
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return squared_error(model)(rows)

        model, optimizer = regression()
        return fit(model, loss, batches, optimizer, epochs=1, checkpoint=file,
                   checkpoint_minutes=0, progress=False)  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        interrupted([3])
    now[0] = 1000.0  # another process: its clock starts elsewhere
    course = interrupted([9])
    assert course.cpu_seconds == 5  # one for each of the five batches
    assert course.epochs[0].loss == run(epochs=1)[1].epochs[0].loss


VICTIM = """
import sys, time
sys.path.insert(0, {here!r})
import torch
torch.set_num_threads(1)
import test_training as t
import safetensors.torch
from genrec_lite.training import fit
model, optimizer = t.regression()
def batches(epoch):
    time.sleep(0.002)
    return t.batches(epoch)
fit(model, t.squared_error(model), batches, optimizer, epochs=200,
    evaluate=lambda epoch: {{"quality": -float(t.squared_error(model)(torch.arange(60)))}},
    select="quality", checkpoint={file!r}, checkpoint_minutes={minutes}, progress=False)
safetensors.torch.save_file(model.state_dict(), {out!r})
"""


def test_a_run_killed_at_random_steps_ends_bit_equal_to_one_left_alone(tmp_path):
    def start(name: str, minutes: float = 5) -> subprocess.Popen[bytes]:
        code = VICTIM.format(
            here=str(Path(__file__).parent),
            file=str(tmp_path / f"{name}.checkpoint"),
            out=str(tmp_path / f"{name}.weights"),
            minutes=minutes,
        )
        return subprocess.Popen([sys.executable, "-c", code])

    def steps() -> int:
        file = tmp_path / "killed.checkpoint"
        if not file.exists():
            return 0
        content = file.read_bytes()  # of one version, though the victim may be replacing it
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return json.loads(header["__metadata__"]["training"])["run"]["steps"]

    assert start("whole").wait() == 0
    places = torch.randint(1, 50, (5,), generator=torch.Generator().manual_seed(int(time.time())))
    killed_at = []
    for extra in places.tolist():
        goal = (killed_at[-1] if killed_at else 0) + extra
        victim = start("killed", minutes=0)
        while steps() < goal and victim.poll() is None:
            time.sleep(0.001)
        assert victim.poll() is None, "the run ended before it could be killed"
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        killed_at.append(steps())
    assert start("killed").wait() == 0
    whole = safetensors.torch.load_file(tmp_path / "whole.weights")
    resumed = safetensors.torch.load_file(tmp_path / "killed.weights")
    assert len(set(killed_at)) == 5
    assert all(torch.equal(whole[name], resumed[name]) for name in whole), killed_at
