"""Counting as a baseline, and what predictions are worth."""

import math

import pytest
import torch
from ranker_references import NUM_ITEMS, log, ranker

from genrec_lite.datasets.actions import Events
from genrec_lite.jagged import JaggedTensor
from genrec_lite.ranking.evaluation import predicted, task_metrics
from genrec_lite.ranking.rates import ITEM_PRIOR, USER_PRIOR, Rates


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_rates_are_counts_drawn_towards_the_mean():
    items = JaggedTensor.from_lists([[0, 0, 1], [1]])
    likes = torch.tensor([[True], [True], [False], [True]])
    train = Events(items, likes, torch.tensor([0, 1, 2, 0]))
    rates = Rates(train, num_items=3)
    of_items = [(2 + ITEM_PRIOR * 0.75) / (2 + ITEM_PRIOR),
                (1 + ITEM_PRIOR * 0.75) / (2 + ITEM_PRIOR), 0.75]  # fmt: skip
    asked = Events(JaggedTensor.from_lists([[1, 2, 0], [0]]), likes[[2, 0, 0, 0]],
                   torch.tensor([0, 1, 2, 0]))  # fmt: skip
    so_far = [0.75, (0 + USER_PRIOR * 0.75) / (1 + USER_PRIOR),
              (1 + USER_PRIOR * 0.75) / (2 + USER_PRIOR), 0.75]  # fmt: skip
    expected = [
        logit(of_items[item]) + logit(user) - logit(0.75)
        for item, user in zip([1, 2, 0, 0], so_far, strict=True)
    ]
    torch.testing.assert_close(rates(asked)[:, 0], torch.tensor(expected))


def test_counted_events_make_the_items_rates_and_all_events_the_users():
    items = JaggedTensor.from_lists([[0, 0, 1, 1]])
    likes = torch.tensor([[True], [False], [True], [False]])
    events = Events(items, likes, torch.arange(4))
    every = Rates(events, num_items=2)
    some = Rates(events, num_items=2, counted=torch.tensor([True, False, False, True]))
    assert float(some.mean) == float(every.mean) == 0.5
    assert every.of_items.flatten().tolist() == [0.5, 0.5]
    prior = ITEM_PRIOR * 0.5
    of_items = [(1 + prior) / (1 + ITEM_PRIOR), prior / (1 + ITEM_PRIOR)]
    assert some.of_items.flatten().tolist() == pytest.approx(of_items)
    # half of what the user did before counts for the items, all of it for the user
    so_far = [(done + USER_PRIOR * 0.5) / (n + USER_PRIOR) for n, done in enumerate([0, 1, 1, 2])]
    expected = [
        logit(of_items[item]) + logit(p) for item, p in zip([0, 0, 1, 1], so_far, strict=True)
    ]
    torch.testing.assert_close(some(events)[:, 0], torch.tensor(expected))


@pytest.mark.parametrize(("counted", "share"), [([0, 2], "0%"), ([1, 3], "100%")])
def test_an_action_of_one_kind_among_the_counted_events_has_no_rate(counted: list[int], share: str):
    actions = torch.tensor([[1, 0], [0, 1], [0, 0], [1, 1]]).bool()  # of both kinds in all
    events = Events(JaggedTensor.from_lists([[0, 1, 0, 1]]), actions, torch.arange(4))
    which = torch.zeros(4, dtype=torch.bool)
    which[counted] = True
    with pytest.raises(ValueError, match=f"action 1 was done at {share} of 2 events"):
        Rates(events, num_items=2, counted=which)
    Rates(events, num_items=2)


def test_rates_do_not_see_their_own_answer():
    events = log()
    rates = Rates(events, NUM_ITEMS)
    flipped = events.actions.clone()
    flipped[4] = ~flipped[4]  # the last one of the first user
    again = rates(Events(events.items, flipped, events.times))
    assert torch.equal(again, rates(events))


def test_only_asked_events_are_predicted_in_their_order():
    model, events = ranker(torch.float32), log([3] * 70)
    asked = torch.arange(210) % 4 == 1
    with torch.no_grad():
        expected = model(events).sigmoid()[asked]
    torch.testing.assert_close(predicted(model.train(), events, asked), expected)
    assert model.training


def test_a_model_in_training_predicts_without_dropout_and_goes_on_training():
    model, events = ranker(torch.float32, dropout=0.5), log([3] * 70)
    asked = torch.arange(210) % 4 == 1
    expected = predicted(model, events, asked)
    assert not model.training
    found = predicted(model.train(), events, asked)
    assert torch.equal(found, expected) and not found.requires_grad
    assert model.training and all(block.training for block in model.layers())


def test_each_task_has_its_own_metrics():
    actions = torch.tensor([[1, 0], [0, 0], [1, 1], [0, 0]]).bool()
    good, level = actions.float() * 0.8 + 0.1, actions.float().mean(0).expand(4, 2)
    found = task_metrics(good, actions, ("like", "love"))
    assert found["like auc"] == found["love auc"] == 1
    assert found["like ne"] == pytest.approx(-math.log(0.9) / math.log(2))
    found = task_metrics(level, actions, ("like", "love"))
    assert found["like ne"] == found["love ne"] == pytest.approx(1)
    assert found["love auc"] == 0.5
