"""The comparison of ranking models: its data, its arms, its record."""

import json
from dataclasses import replace

import pytest
import torch

from genrec_lite.bench import ranking
from genrec_lite.bench.ranking import ARMS, compare, main, ranking_data, train_arm


@pytest.fixture
def few(monkeypatch):
    """MovieLens small with its first 120 users, short histories, two epochs."""
    whole = ranking.load("movielens-small")
    users = whole.table["user_id"].unique().sort()[:120]
    table = whole.table.filter(whole.table["user_id"].is_in(users.to_list()))
    monkeypatch.setattr(ranking, "load", lambda name: replace(whole, table=table))
    monkeypatch.setattr(ranking, "MAX_EVENTS", 32)
    monkeypatch.setattr(ranking, "EPOCHS", 2)


def test_learned_validated_and_tested_events_follow_each_other_in_time():
    data = ranking_data("movielens-small")
    learned, validated = data.validation.train.times, data.validation.all.times
    tested = data.test.all.times[data.test.asked]
    assert len(learned) == pytest.approx(70_003, abs=50) and len(tested) == 20_001
    assert learned.max() < data.validation.time <= validated[data.validation.asked].min()
    assert validated.max() < data.test.time <= tested.min()
    assert bool(data.learned.all())


def test_both_arms_beat_the_prior_by_order_and_have_a_curve(few):
    data = ranking_data("movielens-small")
    for arm in ARMS:
        found = train_arm(arm, data, seed=0)
        assert found["like auc"] > 0.6
        assert len(found["curve ne"]) == len(found["curve cpu_s"]) == 2
        assert 0 < found["curve cpu_s"][0] < found["curve cpu_s"][1]
        assert found["ne"] == pytest.approx(found["curve ne"][found["epochs"] - 1])
        assert found["ne"] == pytest.approx(
            sum(found[f"{task} ne"] for task in data.names) / len(data.names)
        )
    with pytest.raises(ValueError, match="no arm is called 'both': choose from pointwise"):
        train_arm("both", data, seed=0)


def test_a_comparison_goes_on_where_it_stopped(few, tmp_path, monkeypatch):
    finished = tmp_path / "done.json"
    trained = []

    def counted(arm, data, seed):
        trained.append((arm, seed))
        base = 0.8 if arm == "generative" else 0.9
        metrics = {"like ne": base + 0.01 * seed, "like auc": 0.7, "ne": base, "parameters": 5}
        return {**metrics, "curve ne": [1.0], "curve cpu_s": [2.0], "epochs": 1}

    monkeypatch.setattr(ranking, "train_arm", counted)
    found = compare("movielens-small", 2, finished=finished, progress=False)
    assert trained == [(arm, seed) for seed in (0, 1) for arm in ARMS]
    assert found["generative step like ne"] == pytest.approx(-0.1)
    assert found["generative step like ne interval"] == pytest.approx(0, abs=1e-9)
    assert found["generative like ne interval"] == pytest.approx(12.706 * 0.005)
    assert found["generative curve ne"] == [1.0] and found["pointwise parameters"] == 5
    # the sceptic's: counting beats the mean of the training part
    assert found["rates like ne"] < found["prior like ne"]
    again = compare("movielens-small", 2, finished=finished, progress=False)
    assert again == found and len(trained) == 4


def test_the_command_prints_its_values(few, monkeypatch, capsys):
    monkeypatch.setattr(ranking, "compare", lambda *_, **__: {"seeds": 2})
    threads = torch.get_num_threads()
    main(["--seeds", "2"])
    torch.set_num_threads(threads)
    assert json.loads(capsys.readouterr().out) == {"seeds": 2}
