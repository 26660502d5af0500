"""The comparison of ranking models: its data, its arms, its record."""

import json
from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest
import torch

from genrec_lite.bench import ranking
from genrec_lite.bench.ranking import ARMS, compare, main, ranking_data, train_arm
from genrec_lite.datasets.interactions import Interactions
from genrec_lite.ranking.pointwise import PointwiseRanker
from genrec_lite.ranking.target_aware import GenerativeRanker

# Minutes and quantities of two customers' lines; item = place in this list. By the minute: 16 lines
# before 80, of these 13 before 65.
LINES = [
    [(0, 12), (0, 1), (20, 3), (20, 24), (20, -1), (40, -2), (40, 12), (60, 11), (60, 12),
     (80, 12), (80, 12), (95, 1)],
    [(10, 1), (30, 40), (30, 2), (50, -12), (65, 1), (65, 12), (70, 3), (90, -1), (90, 12)],
]  # fmt: skip
LEARNED, VALIDATED, TESTED = [0, 2, 5, 7, 12, 13, 15], [16, 18], [9, 11, 19]  # first lines


@pytest.fixture
def few(monkeypatch):
    """MovieLens small with its first 120 users, short histories, two epochs."""
    whole = ranking.load("movielens-small")
    users = whole.table["user_id"].unique().sort()[:120]
    table = whole.table.filter(whole.table["user_id"].is_in(users.to_list()))
    monkeypatch.setattr(ranking, "load", lambda name: replace(whole, table=table))
    monkeypatch.setattr(ranking, "MAX_EVENTS", 32)
    monkeypatch.setattr(ranking, "EPOCHS", 2)


@pytest.fixture
def shop(monkeypatch):
    """The shop's log is `LINES`."""
    rows = [(user, *line) for user, lines in enumerate(LINES) for line in lines]
    columns = ("user_id", "timestamp", "rating")
    frame = pl.DataFrame(rows, schema=columns, orient="row").with_row_index("item_id")
    made = Interactions.from_frame(frame, name="made")
    monkeypatch.setattr(ranking, "load", lambda name: made)


@pytest.fixture
def fits(monkeypatch):
    """The calls of `fit`, which trains nothing; each is as good as any."""
    calls = []

    def fit(model, loss, batches, optimizer, *, seed, evaluate, **_):
        calls.append(SimpleNamespace(model=model, batches=batches, seed=seed))
        evaluate(0)
        return SimpleNamespace(best_epoch=0)

    monkeypatch.setattr(ranking, "fit", fit)
    monkeypatch.setattr(ranking, "_measured", lambda *_: {"ne": 1.0})
    return calls


def test_learned_validated_and_tested_events_follow_each_other_in_time():
    data = ranking_data("movielens-small")
    learned, validated = data.validation.train.times, data.validation.all.times
    tested = data.test.all.times[data.test.asked]
    assert len(learned) == pytest.approx(70_003, abs=50) and len(tested) == 20_001
    assert learned.max() < data.validation.time <= validated[data.validation.asked].min()
    assert validated.max() < data.test.time <= tested.min()
    assert bool(data.learned.all())


def test_of_an_invoice_only_the_first_line_is_asked_and_all_are_history(shop):
    data = ranking_data("online-retail-lines")
    train, validation, test = data.validation.train, data.validation, data.test
    assert (data.validation.time, data.test.time) == (65, 80)
    assert train.items.values[data.learned].tolist() == LEARNED
    assert validation.all.items.values[validation.asked].tolist() == VALIDATED
    assert test.all.items.values[test.asked].tolist() == TESTED
    assert train.items.to_lists() == [list(range(9)), list(range(12, 16))]
    assert validation.all.items.to_lists() == [list(range(9)), list(range(12, 19))]
    assert test.all.items.to_lists() == [list(range(12)), list(range(12, 21))]
    assert data.num_items == 21 and data.names == ("large", "cancel")
    quantities = torch.tensor([quantity for lines in LINES for _, quantity in lines])
    bits = torch.stack([quantities >= 12, quantities < 0], 1)
    assert torch.equal(test.all.actions, bits)


def test_counting_learns_from_what_the_arms_learn_from_and_answers_the_test(shop, monkeypatch):
    data, made = ranking_data("online-retail-lines"), []

    class Spied(ranking.Rates):
        def __init__(self, train, num_items, *, counted=None):
            super().__init__(train, num_items, counted=counted)
            made.append((train, num_items, counted))

    monkeypatch.setattr(ranking, "Rates", Spied)
    monkeypatch.setattr(ranking, "train_arm", lambda *_: {"ne": 1.0})
    found = compare("online-retail-lines", 2, progress=False)
    ((train, num_items, counted),) = made
    assert torch.equal(train.items.values, data.validation.train.items.values)
    assert counted is not None and train.items.values[counted].tolist() == LEARNED
    assert num_items == 21
    assert found["training events"] == len(LEARNED) and found["questions"] == len(TESTED)
    # 2 of the 7 learned are large, 1 of the 3 tested
    p, base = torch.tensor(2 / 7), torch.tensor(1 / 3)
    entropies = [-(base * q.log() + (1 - base) * (1 - q).log()) for q in (p, base)]
    assert found["prior large ne"] == pytest.approx(float(entropies[0] / entropies[1]))


def test_each_arm_is_a_model_of_its_own_kind_and_of_its_seed(shop, fits):
    data = ranking_data("online-retail-lines")
    for arm in ARMS:
        for seed in (3, 4):
            train_arm(arm, data, seed)
    kinds = [PointwiseRanker] * 2 + [GenerativeRanker] * 2
    assert ARMS == ("pointwise", "generative")
    assert [type(one.model) for one in fits] == kinds
    assert [one.seed for one in fits] == [one.batches.seed for one in fits] == [3, 4, 3, 4]
    for first, second in (fits[:2], fits[2:]):
        tables = [one.model.tokens.item_embedding.weight for one in (first, second)]
        assert not torch.equal(*tables)
    for one in fits:
        assert one.model.dropout == ranking.DROPOUT and one.model.max_events == ranking.MAX_EVENTS
    assert all(block.dropout == ranking.DROPOUT for block in fits[-1].model.layers())


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_learns_from_the_learned_events_before_validation_only(shop, fits, arm: str):
    data = ranking_data("online-retail-lines")
    train_arm(arm, data, seed=0)
    for epoch in (0, 1):
        batches = fits[0].batches(epoch)
        events = [batch.events for batch in batches]
        assert max(int(one.times.max()) for one in events) < data.validation.time
        items = torch.cat([one.items.values for one in events])
        asked = torch.cat([batch.asked for batch in batches])
        assert sorted(items.tolist()) == [*range(9), *range(12, 16)]
        assert sorted(items[asked].tolist()) == LEARNED


@pytest.mark.parametrize("arm", ARMS)
def test_the_epoch_is_chosen_by_validation_and_reported_by_test(shop, monkeypatch, arm: str):
    data = ranking_data("online-retail-lines")
    courses = {len(VALIDATED): [0.9, 0.8, 0.85], len(TESTED): [0.7, 0.75, 0.6]}  # by questions
    left = {count: iter(course) for count, course in courses.items()}
    monkeypatch.setattr(ranking, "EPOCHS", 3)
    monkeypatch.setattr(
        ranking,
        "_measured",
        lambda model, names, events, asked: {"ne": next(left[int(asked.sum())])},
    )
    found = train_arm(arm, data, seed=0)
    assert found["epochs"] == 2  # test alone would choose the third, the worst of both the first
    assert found["ne"] == 0.75
    assert found["curve ne"] == [0.7, 0.75, 0.6]


def test_only_training_costs_cpu_seconds(shop, monkeypatch):
    data, now = ranking_data("online-retail-lines"), [5.0]

    def took(seconds):
        now[0] += seconds

    def fit(model, loss, batches, optimizer, *, evaluate, **_):
        for epoch, seconds in enumerate((10, 20, 30)):
            took(seconds)
            evaluate(epoch)
        return SimpleNamespace(best_epoch=1)

    def measured(*_):
        took(1_000)
        return {"ne": 1.0}

    class Slow(ranking.EventBatches):
        def __call__(self, epoch):
            took(1_000_000)  # before the first epoch: what a process does once
            return super().__call__(epoch)

    monkeypatch.setattr(ranking, "time", SimpleNamespace(process_time=lambda: now[0]))
    monkeypatch.setattr(ranking, "fit", fit)
    monkeypatch.setattr(ranking, "_measured", measured)
    monkeypatch.setattr(ranking, "EventBatches", Slow)
    found = train_arm("pointwise", data, seed=0)
    assert now[0] == 1_006_065
    assert found["curve cpu_s"] == [10, 30, 60]
    assert found["cpu_s an epoch"] == 20


def test_both_arms_beat_the_prior_and_have_a_curve(few):
    data = ranking_data("movielens-small")
    prior = ranking._untrained(data)
    for arm in ARMS:
        found = train_arm(arm, data, seed=0)
        for task in data.names:
            assert prior[f"prior {task} ne"] >= 1
            assert found[f"{task} ne"] < 0.9 * prior[f"prior {task} ne"]
            assert found[f"{task} auc"] > 0.7
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
