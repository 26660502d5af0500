"""Whole trainings on requests and on impressions, on a small log: fair arms, kept numbers."""

import json

import pytest
import torch

from genrec_lite.bench import request_training
from genrec_lite.bench.request_training import compare, main, rated_requests, train_arm
from genrec_lite.datasets.actions import Events
from genrec_lite.jagged import JaggedTensor
from genrec_lite.request_only.batches import Requests, split_requests


@pytest.fixture(scope="module")
def requests() -> Requests:
    """A log whose users like the even items, in requests of three."""
    generator = torch.Generator().manual_seed(0)
    users, length = 40, 12
    items = torch.stack([torch.randperm(20, generator=generator)[:length] for _ in range(users)])
    rows = JaggedTensor.from_lengths(items.flatten(), torch.full((users,), length))
    number = torch.arange(users * length) // 3
    times = 100 * (number % 4) + torch.arange(users).repeat_interleave(length)
    events = Events(rows, (items % 2 == 0).flatten()[:, None], times)
    return Requests.of(events, rows.with_values(number))


@pytest.fixture
def small(monkeypatch, requests):
    monkeypatch.setattr(request_training, "rated_requests", lambda name: (requests, 20))
    monkeypatch.setattr(request_training, "MAX_EVENTS", 12)
    monkeypatch.setattr(request_training, "BATCH_SIZE", 8)


def test_both_arms_learn_what_is_liked_at_as_many_impressions_a_step(small, monkeypatch, requests):
    monkeypatch.setattr(request_training, "EPOCHS", 6)
    monkeypatch.setattr(request_training, "LEARNING_RATE", 2e-2)
    train, test, _ = split_requests(requests, 0.7)
    found = {arm: train_arm(arm, train, test, 20, seed=0) for arm in request_training.ARMS}
    for one in found.values():
        assert one["ne"] < 0.5 and one["auc"] > 0.9  # guessing: 1 and .5
        assert len(one["curve ne"]) == 6 and one["curve ne"][-1] == one["ne"]
    steps = [one["steps"] for one in found.values()]
    assert steps[0] == steps[1] == 6 * -(-len(train) // 8)
    with pytest.raises(ValueError, match="no arm is called 'x': choose from requests, impress"):
        train_arm("x", train, test, 20, seed=0)


def test_the_comparison_holds_ratios_and_gains_seed_by_seed(small, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(request_training, "EPOCHS", 1)
    main(["--seeds", "2", "--out", str(tmp_path / "kept.json")])
    found = json.loads(capsys.readouterr().out)
    spent = [found[f"{arm} cpu_s by seed"] for arm in ("requests", "impressions")]
    assert found["cpu ratio by seed"] == [two / one for one, two in zip(*spent, strict=True)]
    ne = [found[f"{arm} ne by seed"] for arm in ("requests", "impressions")]
    gains = [two - one for one, two in zip(*ne, strict=True)]
    assert found["ne gain by seed"] == pytest.approx(gains)
    assert found["train impressions"] + found["test impressions"] == 480
    assert 0.9 < found["prior ne"] < 1.1
    assert compare("movielens-small", 2, progress=False)["requests ne"] == found["requests ne"]


def test_a_model_is_tested_on_every_impression_once(requests):
    answers = requests.batch(0).actions[:, 0].float()

    class Known(torch.nn.Module):
        def forward(self, batch):
            return torch.where(batch.actions, 3.0, -3.0)

    found = request_training.tested(Known(), requests, 12)
    assert found["auc"] == 1
    loss = torch.log1p(torch.tensor(-3.0).exp())
    mean = answers.mean()
    entropy = -(mean * mean.log() + (1 - mean) * (1 - mean).log())
    assert found["ne"] == pytest.approx(float(loss / entropy), rel=1e-5)


def test_ratings_within_a_minute_are_one_request():
    requests, num_items = rated_requests("movielens-small")
    assert num_items == 9066 and int(requests.num_candidates.sum()) == 100_004
    assert int(requests.num_candidates.max()) == 16 and 4 < 100_004 / len(requests) < 6
