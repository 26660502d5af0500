"""The ranker against sums over single tokens, and who sees whom, by perturbation."""

from dataclasses import replace

import pytest
import torch
from ranker_references import (
    ASKED,
    LENGTHS,
    MAX_EVENTS,
    NUM_ACTIONS,
    NUM_ITEMS,
    log,
    ranker,
    row_of,
    token_by_token,
)

from genrec_lite.datasets.actions import EventBatch
from genrec_lite.jagged import JaggedTensor
from genrec_lite.kernels.hstu_attention import hstu_attention
from genrec_lite.ranking.target_aware import GenerativeRanker, target_aware_mask
from genrec_lite.training import seeded

CANDIDATES = [3, 16, 3, 0]


def candidates_of(rows: int, items: list[int] = CANDIDATES) -> tuple[JaggedTensor, torch.Tensor]:
    return JaggedTensor.from_lists([items] * rows, torch.int64), torch.full((rows,), ASKED)


def test_training_logits_and_gradients_equal_the_loop():
    model, events = ranker(), log()
    logits = model(events)
    expected = []
    for row in range(len(LENGTHS)):
        one = row_of(events, row)
        asked = int(one.times[-1]) if len(one.times) else 0
        expected += token_by_token(model, one, [], asked)
    torch.testing.assert_close(logits, torch.stack(expected), rtol=1e-10, atol=1e-10)
    _same_gradients(model, logits, torch.stack(expected))


def test_scores_and_gradients_of_candidates_equal_the_loop():
    model, events = ranker(), log()
    scores = model.score(events, *candidates_of(len(LENGTHS)))
    expected = [
        logits
        for row in range(len(LENGTHS))
        for logits in token_by_token(model, row_of(events, row), CANDIDATES, ASKED)[LENGTHS[row] :]
    ]
    torch.testing.assert_close(scores, torch.stack(expected), rtol=1e-10, atol=1e-10)
    _same_gradients(model, scores, torch.stack(expected))


def test_scores_of_all_candidates_equal_one_by_one_in_float32():
    model, events = ranker(torch.float32), log()
    together = model.score(events, *candidates_of(len(LENGTHS))).unflatten(0, (-1, 4))
    for place, item in enumerate(CANDIDATES):
        alone = model.score(events, *candidates_of(len(LENGTHS), [item]))
        torch.testing.assert_close(together[:, place], alone, rtol=1e-5, atol=1e-5)


def test_a_candidate_is_the_item_that_training_would_see_next():
    model, events = ranker(), log([4, 3])
    trained = model(events)[[3, 6]]
    before = events.stretches(torch.tensor([0, 1]), torch.zeros(2).long(), torch.tensor([3, 2]))
    nexts = JaggedTensor.from_lists([events.items.values[3:4], events.items.values[6:7]])
    scored = model.score(before, nexts, events.times[[3, 6]])
    torch.testing.assert_close(scored, trained, rtol=1e-12, atol=1e-12)


def test_an_events_own_action_and_later_events_change_nothing_before():
    model, events = ranker(), log([8])
    before = model(events)
    for place in range(8):
        acted = events.actions.clone()
        acted[place:] = ~acted[place:]
        items = events.items.values.clone()
        items[place + 1 :] = (items[place + 1 :] + 1) % NUM_ITEMS
        times = events.times.clone()
        times[place + 1 :] += 10**6
        after = model(replace(events, items=events.items.with_values(items), actions=acted,
                              times=times))  # fmt: skip
        assert torch.equal(after[: place + 1], before[: place + 1])
        if place < 7:
            assert not torch.allclose(after[place + 1 :], before[place + 1 :])


def test_another_candidate_changes_nothing():
    model, events = ranker(), log()
    first = model.score(events, *candidates_of(4)).unflatten(0, (-1, 4))
    other = model.score(events, *candidates_of(4, [3, 9, 3, 1])).unflatten(0, (-1, 4))
    torch.testing.assert_close(first[:, [0, 2]], other[:, [0, 2]], rtol=0, atol=1e-14)
    assert not torch.allclose(first[:, [1, 3]], other[:, [1, 3]])
    torch.testing.assert_close(first[:, 0], first[:, 2], rtol=1e-12, atol=1e-14)


def test_users_do_not_see_each_other():
    model, events = ranker(), log()
    broken = events.actions.clone()
    with torch.no_grad():
        model.tokens.item_embedding.weight[16] = torch.nan
    items = torch.where(events.items.values == 16, 0, events.items.values)
    items[5] = 16  # the only event of the third user
    found = model(replace(events, items=events.items.with_values(items), actions=broken))
    assert found[5].isnan().all()
    assert not found[[0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13]].isnan().any()


def test_the_last_events_of_a_long_history_are_looked_at():
    model, events = ranker(), log([MAX_EVENTS + 5])
    scores = model.score(events, *candidates_of(1))
    recent = model.score(events.last(MAX_EVENTS), *candidates_of(1))
    assert torch.equal(scores, recent)
    with pytest.raises(ValueError, match=f"13 events, the model looks at {MAX_EVENTS}: cut it"):
        model(events)


def test_the_mask_is_that_of_clamped_places():
    assert target_aware_mask(4, 2).int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 0, 1],
    ]
    assert torch.equal(target_aware_mask(5, 0), torch.ones(5, 5).tril().bool())
    assert torch.equal(target_aware_mask(3, 3), torch.eye(3).bool())
    with pytest.raises(ValueError, match="4 targets among 3 tokens"):
        target_aware_mask(3, 4)


def test_the_mask_is_what_the_attention_keeps_to():
    lengths, targets = torch.tensor([7, 4, 0, 3]), torch.tensor([3, 0, 0, 3])
    q, k, v = torch.randn(3, 14, 1, 2, generator=torch.Generator().manual_seed(0)).double()
    rows = JaggedTensor.from_lengths(torch.arange(14), lengths)

    def of_values(v):
        return hstu_attention(q, k, v, rows.offsets, targets=targets, divide_by=7).sum((1, 2))

    seen = torch.autograd.functional.jacobian(of_values, v).sum((2, 3)) != 0  # (query, key)
    masks = [target_aware_mask(int(n), int(m)) for n, m in zip(lengths, targets, strict=True)]
    assert torch.equal(seen, torch.block_diag(*masks).bool())


def test_the_loss_is_the_asked_events_mean_cross_entropy_over_all_actions():
    model, events = ranker(), log()
    asked = torch.arange(14) % 3 == 0
    p, y = model(events)[asked].sigmoid(), events.actions[asked].double()
    expected = -(y * p.log() + (1 - y) * (1 - p).log()).sum() / 5
    torch.testing.assert_close(model.loss(EventBatch(events, asked)), expected)


def test_a_request_before_the_last_event_is_named():
    candidates, asked = candidates_of(4)
    asked[3] = 5
    with pytest.raises(ValueError, match="row 3 is asked at 5, before its last event at"):
        ranker().score(log(), candidates, asked)


@pytest.mark.parametrize("dropping", ["everywhere", "tokens", 0, 1, 2, "nowhere"])
def test_tokens_and_each_block_are_dropped_in_training_only(dropping: str | int):
    model, events = ranker(dropout=0.5), log()
    if dropping not in ("everywhere", "tokens"):
        model.dropout = 0.0
    for number, block in enumerate(model.layers()):
        if dropping not in ("everywhere", number):
            block.dropout = 0.0
    kept = model(events)
    assert torch.equal(model(events), kept)
    model.train()
    ways = {
        "forward": lambda: model(events),
        "score": lambda: model.score(events, *candidates_of(len(LENGTHS))),
    }
    for name, way in ways.items():
        with seeded(0):
            first, second = way(), way()
        assert torch.equal(first, second) == (dropping == "nowhere"), name


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="num_blocks 0, max_events 8: at least 1"):
        ranker(num_blocks=0)
    first, other = (
        GenerativeRanker(NUM_ITEMS, NUM_ACTIONS, dim=4, head_dim=2, seed=seed).head.hidden.weight
        for seed in (0, 1)
    )
    assert not torch.equal(first, other)


def _same_gradients(model: GenerativeRanker, found: torch.Tensor, expected: torch.Tensor) -> None:
    weights = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view_as(found)
    ours, loops = (
        torch.autograd.grad((x * weights).sum(), tuple(model.parameters()))
        for x in (found, expected)
    )
    for (name, _), one, other in zip(model.named_parameters(), ours, loops, strict=True):
        assert bool(other.any()), name
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: n + m)
