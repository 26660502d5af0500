"""The steps on requests and on impressions: equal gradients, predictions, counted operations."""

import math

import pytest
import torch
from typer.testing import CliRunner

from genrec_lite.bench import request_only
from genrec_lite.bench.m_falcon import counted_flop
from genrec_lite.bench.request_only import (
    MODELS,
    WAYS,
    batch_bytes,
    compare,
    made_batch,
    predicted,
    step_ways,
    table,
    two_tower_flop,
)
from genrec_lite.cli import app
from genrec_lite.request_only.models import RequestHSTU, TwoTower


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(request_only, "EVENTS", 6)
    monkeypatch.setattr(request_only, "NUM_ITEMS", 20)
    monkeypatch.setattr(request_only, "REQUESTS", dict.fromkeys(MODELS, 4))
    monkeypatch.setattr(request_only, "CANDIDATES", (1, 3))


@pytest.mark.parametrize("name", MODELS)
def test_the_ways_agree_and_a_wrong_one_is_not_timed(small, monkeypatch, name):
    comparison = compare(name, 3)
    assert ("requests", *comparison.peers) == WAYS and comparison.setting["difference"] < 1e-5
    monkeypatch.setattr(request_only, "deduplicated", lambda batch: batch.select(torch.tensor([0])))
    with pytest.raises(ValueError, match="impressions, hashed give other gradients than requests"):
        compare(name, 3)


def test_the_prediction_for_hstu_is_near_the_tokens_and_below_them():
    model = RequestHSTU(50, 3, max_events=64)
    for m in (1, 4, 16):
        tokens = m * 129 / (128 + m)
        assert 0.96 * tokens < predicted(model, m) <= tokens


def test_the_prediction_for_two_towers_is_the_formula_and_has_a_ceiling():
    model = TwoTower(50, 3, dim=4, num_compressed=2, max_events=5, request_hidden=6, item_hidden=7)
    request, item = two_tower_flop(model)
    assert request == 2 * (2 * 5 * 4 + 8 * 6 + 6 * 8)
    assert item == 2 * (4 * 7 + 7 * 4 + 2 * 4 + 4 * 3 + 2 * 3)
    assert predicted(model, 1) == 1
    assert predicted(model, 3) == 3 * (request + item) / (request + 3 * item)
    assert math.isclose(predicted(model, 10**9), 1 + request / item, rel_tol=1e-6)


def test_counted_operations_of_the_two_tower_are_the_formulas():
    model = TwoTower(
        2000, 3, dim=8, num_compressed=2, max_events=64, request_hidden=6, item_hidden=7
    )
    request, item = two_tower_flop(model)
    batch = made_batch(4, 5)
    with torch.no_grad():
        counted = counted_flop(lambda: model(batch.select(torch.arange(4))))
    tokens = 4 * 64 * 2 * 3 * 8  # of the action bits
    assert counted == 4 * request + 20 * item + tokens


def test_a_step_adds_the_gradients_of_the_mean_over_impressions():
    model, batch = MODELS["two-tower"](), made_batch(3, 5)
    model.loss(batch).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    for step in step_ways(model, batch).values():
        model.zero_grad()
        step()
        for name, weights in model.named_parameters():
            torch.testing.assert_close(weights.grad, expected[name], rtol=1e-3, atol=1e-7)


def test_the_bytes_of_a_batch_hold_each_history_once():
    batch = made_batch(2, 3)
    history, shown = 2 * 64 * (8 + 3 + 8), 2 * 3 * (8 + 3)
    ends = 2 * (2 + 1) * 8 + 2 * 8
    assert batch_bytes(batch) == history + shown + ends
    assert batch_bytes(batch.exploded()) == 3 * history + shown + 2 * 7 * 8 + 6 * 8


def test_the_table_holds_each_way_and_the_command_prints_it(small):
    found = table("cpu", repeats=1)
    for name in MODELS:
        model = MODELS[name]()
        assert found[f"{name}, m 3: requests times ours"] == 1
        for way in WAYS:
            key = f"{name}, m 3: {way} "
            assert found[key + "seconds"] > 0 and found[key + "bytes"] > 0
            shared = way in ("requests", "impressions, hashed")
            assert found[key + "predicted"] == (1 if shared else predicted(model, 3))
        apart, whole = (found[f"{name}, m 3: {way} flop"] for way in (WAYS[2], WAYS[0]))
        assert 1.2 * whole < apart < 3.01 * whole
    said = CliRunner().invoke(app, ["bench", "request-only", "--repeats", "1"])
    assert said.exit_code == 0 and "HSTU, m 3: impressions, hashed" in said.output
    said = CliRunner().invoke(app, ["bench", "request-only", "--device", "cuda"])
    assert said.exit_code == 1 and "device is 'cuda': request-only runs on cpu" in said.output
