"""genrec-lite train, evaluate and bench: what they print, write, and say when it goes wrong."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_recipes import TINY, tiny_log
from typer.testing import CliRunner, Result

from genrec_lite import bench, cli
from genrec_lite.bench.timing import Benchmark, Comparison
from genrec_lite.notebook.record import load_record
from genrec_lite.recipes import RECIPES
from genrec_lite.recipes import recipe as recipe_module
from genrec_lite.recipes.scaling import GRIDS, Grid, Size


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipe_module, "load", tiny_log)
    monkeypatch.setitem(RECIPES, "tiny", replace(TINY, epochs=2))
    monkeypatch.setattr(cli, "RESULTS", tmp_path / "results")
    comparison = Comparison(
        lambda: sum(range(9_999)), {"peer": lambda: None}, {"users": 3}, work={"events": 6}
    )
    toy = Benchmark("toy", "a toy", lambda: comparison, repeats=1)
    monkeypatch.setitem(bench.BENCHMARKS, "toy", toy)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [*map(str, arguments)])


def printed(result: Result) -> dict[str, str]:
    """The metrics that a command printed."""
    lines = [line.rsplit("  ", 1) for line in result.stdout.splitlines() if "  " in line]
    return {key.strip(): value.strip() for key, value in lines}


def assert_one_clean_line(result: Result, *told: str) -> None:
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    for words in told:
        assert words in result.stderr


def test_train_prints_test_metrics_and_evaluate_prints_the_same_again(tmp_path):
    trained = run("train", "--recipe", "tiny", "--out", "here")
    assert trained.exit_code == 0, trained.stderr
    assert "epoch 2/2" in trained.stderr and "epoch" not in trained.stdout.split("epochs")[0]
    stored = json.loads((tmp_path / "here" / "test.json").read_text())
    assert printed(trained)["hr@10"] == f"{stored['hr@10']:.4f}"
    assert printed(trained)["item-knn hr@10"] == f"{stored['item-knn hr@10']:.4f}"
    again = run("evaluate", "here")
    assert again.exit_code == 0
    assert printed(again).items() <= printed(trained).items() and "mrr" in printed(again)


def test_seeds_go_to_sub_folders_and_their_mean_and_interval_to_the_record(tmp_path):
    result = run("train", "--recipe", "tiny", "--seed", 3, "--seeds", 2, "--record")
    assert result.exit_code == 0, result.stderr
    stored = [
        json.loads((tmp_path / "runs" / "tiny" / f"seed-{seed}" / "test.json").read_text())
        for seed in (3, 4)
    ]
    record = load_record("tiny", tmp_path / "results")
    values = record["values"]
    assert values["hr@10 by seed"] == [one["hr@10"] for one in stored]
    assert values["hr@10"] == pytest.approx(sum(values["hr@10 by seed"]) / 2)
    assert f"{values['hr@10']:.4f} ± {values['hr@10 interval']:.4f}" == printed(result)["hr@10"]
    assert (record["seed"], values["seeds"], values["curve epochs"]) == (3, 2, [1, 2])
    assert record["command"] == "genrec-lite train --recipe tiny --seed 3 --seeds 2 --record"
    assert {"popularity hr@10", "item-knn hr@10", "parameters", "cpu_seconds", "protocol"} <= set(
        values
    )


def test_ctrl_c_says_how_to_go_on(monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_recipe", interrupted)
    result = run("train", "--recipe", "tiny", "--out", "here", "--seed", 2, "--record")
    assert result.exit_code == 130 and result.stdout == ""
    command = "genrec-lite train --recipe tiny --seed 2 --out here --record"
    assert (
        result.stderr
        == f"interrupted; to go on from the last of the five-minute checkpoints: {command}\n"
    )


def test_train_without_a_name_or_with_an_unknown_one_lists_the_names():
    assert_one_clean_line(run("train"), "--recipe: movielens-small-sasrec, ", "ml-1m-sasrec")
    assert_one_clean_line(run("train", "--recipe", "no"), "'no'", "movielens-small-sasrec")
    listed = run("train", "--list")
    assert listed.exit_code == 0 and listed.stdout.startswith("movielens-small-sasrec ")


def test_a_loss_that_is_not_finite_is_one_clean_line(monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise FloatingPointError("the loss is nan at epoch 1, step 1: lower the learning rate")

    monkeypatch.setattr(cli, "run_recipe", broken)
    assert_one_clean_line(run("train", "--recipe", "tiny"), "the loss is nan")


def test_evaluate_of_a_folder_without_a_run_is_one_clean_line(tmp_path):
    assert_one_clean_line(run("evaluate", tmp_path), str(tmp_path), "no config.json")
    (tmp_path / "file").touch()
    assert_one_clean_line(run("evaluate", tmp_path / "file"), "no config.json")


def test_the_last_line_of_bench_json_is_the_object_and_a_record_can_be_kept(tmp_path):
    result = run("bench", "toy", "--json", "--record", "--repeats", 2)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["bench"] == "toy" and len(found["ours"]["cpu_s_all"]) == 2
    stored = load_record("bench-toy", tmp_path / "results")
    assert stored["values"]["ratio"] == found["ratio"]
    assert stored["command"] == "genrec-lite bench toy --repeats 2 --record"


def test_bench_for_people_is_a_table_that_says_when_the_machine_is_busy(monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 0.0, 0.0))
    lines = run("bench", "toy").stdout.splitlines()
    assert lines[0].split() == ["users", "3"]
    assert lines[2].startswith("ours ") and lines[3].startswith("peer ")
    assert lines[4].startswith("ours: ") and lines[4].endswith(" events per CPU second")
    assert "busy (load 99.0" in lines[5]
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    assert "busy" not in run("bench", "toy").stdout


def test_bench_without_a_known_name_lists_the_names():
    assert_one_clean_line(run("bench", "no"), "'no'", "sasrec-step, hstu-attention")
    assert_one_clean_line(run("bench"), "sasrec-step, hstu-attention")
    listed = run("bench", "--list").stdout
    assert "sasrec-step" in listed and "full-rank" in listed


def test_bench_takes_a_config_where_there_are_two_sizes_and_nowhere_else(monkeypatch):
    toy = bench.BENCHMARKS["toy"]
    monkeypatch.setitem(bench.BENCHMARKS, "toy-large", replace(toy, name="toy-large"))
    for words, name in ((["--config", "large"], "toy-large"), (["--config", "small"], "toy")):
        found = json.loads(run("bench", "toy", *words, "--json").stdout.splitlines()[-1])
        assert found["bench"] == name
    assert_one_clean_line(run("bench", "toy", "--config", "huge"), "'huge'", "small or large")
    for words in (["toy-large", "--config", "small"], ["full-rank", "--config", "large"]):
        assert_one_clean_line(run("bench", *words), f"{words[0]} has one size: leave out --config")
    assert_one_clean_line(run("bench", "--config", "large"), "no benchmark is called None")


def test_a_grid_is_trained_into_one_folder_and_can_be_recorded(tmp_path, monkeypatch):
    sizes = tuple(Size("hstu", dim, 1, 2) for dim in (2, 4, 8))
    monkeypatch.setitem(GRIDS, "scaling", Grid("stream", sizes, records=80, items=500))
    result = run("train", "--recipe", "scaling", "--seed", 3, "--record")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith("3 of 3 runs to do, about ")
    values = load_record("scaling", tmp_path / "results")["values"]
    assert printed(result)["hstu loss exponent"] == f"{values['hstu loss exponent']:.4f}"
    names = sorted(path.stem for path in (tmp_path / "runs" / "scaling").iterdir())
    assert names == [f"{name}-seed-3" for name in values["hstu runs"]]
    assert "a grid of 3 sizes" in run("train", "--list").stdout
    assert_one_clean_line(run("train", "--recipe", "scaling", "--seeds", 2), "leave out --seeds")


def test_ctrl_c_in_a_grid_says_how_to_go_on(monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_grid", interrupted)
    result = run("train", "--recipe", "scaling", "--out", "here", "--record")
    assert result.exit_code == 130
    assert result.stderr == (
        "interrupted; to go on with the runs left: "
        "genrec-lite train --recipe scaling --out here --record\n"
    )
