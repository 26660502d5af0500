"""Run folders: complete, repeatable, and refused where they do not fit."""

import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch

from genrec_lite.notebook.record import write_record
from genrec_lite.recipes import (
    course,
    evaluate_run,
    folders,
    half_interval,
    run_recipe,
    summary_of,
)
from genrec_lite.recipes import recipe as recipe_module


@pytest.mark.parametrize("name", ["tiny", "tiny-published"])
def test_a_run_folder_is_complete_and_its_weights_measure_the_same_again(tmp_path, name):
    found = run_recipe(name, tmp_path / "run", progress=False)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoint.safetensors",
        "config.json",
        "metrics.jsonl",
        "test.json",
        "weights.safetensors",
    ]
    assert json.loads((tmp_path / "run" / "test.json").read_text()) == found
    assert found["parameters"] == 30 * 8 + 6 * 8 + 6 * 8 * 8 + 6 * 8
    assert {"hr@10", "ndcg@10", "mrr", "popularity hr@10", "item-knn ndcg@10"} <= set(found)
    again = evaluate_run(tmp_path / "run")
    assert again == {metric: found[metric] for metric in again}
    assert set(again) == {*(f"{m}@{k}" for m in ("hr", "ndcg") for k in (10, 50, 200)), "mrr"}


def test_a_finished_run_is_measured_and_not_trained_again(tmp_path):
    first = run_recipe("tiny", tmp_path, progress=False)
    assert run_recipe("tiny", tmp_path, progress=False) == first  # its CPU seconds, too


def test_an_interrupted_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    whole = run_recipe("tiny", tmp_path / "whole", progress=False)
    real, evaluations = course.metrics_of, []

    def interrupted_in_the_second_epoch(ranks):
        evaluations.append(len(ranks))
        if len(evaluations) == 2:
            raise KeyboardInterrupt
        return real(ranks)

    fit = course.fit
    monkeypatch.setattr(course, "fit", lambda *a, **k: fit(*a, **k, checkpoint_minutes=0))
    for module in (course, folders):
        monkeypatch.setattr(module, "metrics_of", interrupted_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        run_recipe("tiny", tmp_path / "cut", progress=False)
    assert not (tmp_path / "cut" / "weights.safetensors").exists()
    with pytest.raises(ValueError, match=r"unfinished.*--recipe tiny --seed 0 --out"):
        evaluate_run(tmp_path / "cut")
    resumed = run_recipe("tiny", tmp_path / "cut", progress=False)
    assert len(evaluations) == 2 + 2 + 3  # the second epoch's, the third's, and the test's three
    ours, theirs = (
        safetensors.torch.load_file(tmp_path / name / "weights.safetensors")
        for name in ("cut", "whole")
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert resumed["hr@10"] == whole["hr@10"]


def test_the_folder_of_another_run_is_refused(tmp_path):
    run_recipe("tiny", tmp_path, progress=False)
    with pytest.raises(
        ValueError, match=r"holds another run \(seed 0, not 1\): choose another folder"
    ):
        run_recipe("tiny", tmp_path, seed=1, progress=False)


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"recipe": "tiny", "seed": 0}'])
def test_the_folder_of_a_damaged_run_is_refused_with_the_mend(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config.json describes no run.*: remove it, or train"):
        run_recipe("tiny", tmp_path, progress=False)
    assert (tmp_path / "config.json").read_text() == content


def test_data_that_cannot_be_read_leaves_no_folder(tmp_path, monkeypatch):
    def missing(name):
        raise ValueError(f"{name} is not here")

    monkeypatch.setattr(recipe_module, "load", missing)
    with pytest.raises(ValueError, match="tiny-log is not here"):
        run_recipe("tiny", tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_an_unknown_recipe_is_told_the_names(tmp_path):
    with pytest.raises(ValueError, match="'huge'.*movielens-small-sasrec, .*ml-1m-sasrec"):
        run_recipe("huge", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_interval_is_students_t():
    assert half_interval([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5)
    assert half_interval([0.0, 2.0]) == pytest.approx(12.706)
    for count in range(2, 11):  # against the integral of the distribution's density
        half = count * half_interval([0.0] * (count - 1) + [1.0])  # in standard errors of 1 / count
        df = count - 1
        x = torch.linspace(0, half, 100_001, dtype=torch.float64)
        scale = math.gamma((df + 1) / 2) / (math.sqrt(df * math.pi) * math.gamma(df / 2))
        density = scale * (1 + x.square() / df) ** (-(df + 1) / 2)
        assert 2 * float(torch.trapezoid(density, x)) == pytest.approx(0.95, abs=1e-4)
    for wrong in ([1.0], [1.0] * 11):
        with pytest.raises(ValueError, match="given for 2 to 10"):
            half_interval(wrong)


def test_a_summary_of_seeds_gives_means_intervals_and_a_short_curve(tmp_path):
    folders = [tmp_path / str(seed) for seed in range(3)]
    found = [run_recipe("tiny", f, seed=s, progress=False) for s, f in enumerate(folders)]
    lines = [
        json.dumps({"epoch": e, "metrics": {"validation hr@10": e / 100} if e != 1 else {}})
        for e in range(100)
    ]
    (folders[0] / "metrics.jsonl").write_text("\n".join(lines))
    summary = summary_of(folders)
    losses = [run["cpu_seconds"] for run in found]
    assert summary["cpu_seconds"] == pytest.approx(sum(losses) / 3)
    assert summary["cpu_seconds by seed"] == losses
    assert summary["cpu_seconds interval"] == pytest.approx(half_interval(losses))
    assert summary["parameters"] == found[0]["parameters"]
    assert "popularity hr@10 interval" not in summary  # the same for every seed
    assert summary["seeds"] == 3 and "validation" not in summary["protocol"][:14]
    epochs, curve = summary["curve epochs"], summary["curve hr@10"]
    assert len(epochs) <= 30 and epochs[-1] == 100 and curve == [(e - 1) / 100 for e in epochs]
    write_record("tiny", summary, seed=0, command="genrec-lite train", folder=tmp_path)


def test_a_summary_is_over_the_seeds_of_one_recipe(tmp_path):
    for name in ("tiny", "tiny-published"):
        run_recipe(name, tmp_path / name, progress=False)
    with pytest.raises(ValueError, match="tiny-published holds a run of tiny-published, .*/tiny"):
        summary_of([tmp_path / "tiny", tmp_path / "tiny-published"])


def test_the_curve_of_a_published_run_is_measured_on_the_test_questions(tmp_path):
    found = run_recipe("tiny-published", tmp_path, progress=False)
    summary = summary_of([tmp_path])
    assert summary["curve queries"] == "test" and summary["curve epochs"] == [2, 3]
    assert summary["curve hr@10"][-1] == found["hr@10"] == summary["hr@10"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "config.json",
            None,
            "holds no run .no config.json.: give a folder of `genrec-lite train`",
        ),
        ("config.json", "{", "describes no run of this version"),
        ("config.json", '{"recipe": "tiny", "seed": 0, "wings": 2}', "wings"),
        ("weights.safetensors", "cut", "weights.safetensors does not fit tiny-log and config.json"),
    ],
)
def test_a_damaged_run_folder_is_named(tmp_path: Path, name, content, told):
    run_recipe("tiny", tmp_path, progress=False)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=told):
        evaluate_run(tmp_path)


def test_a_full_disk_leaves_no_half_written_file(tmp_path, monkeypatch):
    run_recipe("tiny", tmp_path, progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(path: Path, content: bytes) -> int:
        with open(path, "wb") as file:
            file.write(content[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        run_recipe("tiny", tmp_path, progress=False)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(after) == set(before) and after["config.json"] == before["config.json"]
