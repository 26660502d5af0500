"""The pointwise model against a loop over impressions, and what it must not see."""

import math
from dataclasses import replace

import pytest
import torch
from ranker_references import NUM_ACTIONS, NUM_ITEMS, log, row_of

from genrec_lite.datasets.actions import EventBatch, Events
from genrec_lite.ranking.pointwise import PointwiseRanker
from genrec_lite.training import seeded

MAX_EVENTS = 8


def pointwise(dropout: float = 0.2) -> PointwiseRanker:
    sizes = dict(dim=6, num_heads=2, head_dim=3, hidden=5, max_events=MAX_EVENTS)
    model = PointwiseRanker(NUM_ITEMS, NUM_ACTIONS, **sizes, dropout=dropout)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(0.6 * torch.randn(weights.shape, generator=generator))
    return model.double().eval()


def norm(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean()) / (x.var(unbiased=False) + 1e-6).sqrt()


def silu(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + torch.exp(-x))


def impression_by_impression(model: PointwiseRanker, user: Events) -> list[torch.Tensor]:
    items = [math.sqrt(6) * model.tokens.item_embedding.weight[i] for i in user.items.values]
    seen = [
        item + math.sqrt(6) * (model.tokens.any_action + bits.double() @ model.tokens.bit_vectors)
        for item, bits in zip(items, user.actions, strict=True)
    ]
    found = []
    for i, item in enumerate(items):
        q = silu(model.query(item))
        total = torch.zeros(6, dtype=torch.float64)
        # before all events stands an empty one, at the first one's time
        past = [(torch.zeros(6, dtype=torch.float64), user.times[0], i)]
        past += [(seen[j], user.times[j], i - 1 - j) for j in range(i)]
        for event, time, apart in past:
            k, v = model.key_value(event).chunk(2)
            gap = max(1, int(user.times[i] - time))
            bias = model.bias.position_weights[apart]
            bias = bias + model.bias.time_weights[min(128, math.floor(math.log(gap) / 0.301))]
            heads = [silu(q[s] @ k[s] + bias) * v[s] for s in (slice(0, 3), slice(3, 6))]
            total = total + torch.cat(heads)
        asked = model.project(norm(total / MAX_EVENTS))
        mixed = silu(model.mix(torch.cat([item, asked, item * asked])))
        found.append(model.head.logits(silu(model.head.hidden(norm(mixed)))))
    return found


def test_logits_and_gradients_equal_the_loop():
    model, events = pointwise(), log()
    logits = model(events)
    expected = torch.stack(
        [one for row in range(4) for one in impression_by_impression(model, row_of(events, row))]
    )
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    ours, loops = (torch.autograd.grad(x.sum(), tuple(model.parameters())) for x in
                   (logits, expected))  # fmt: skip
    for one, other in zip(ours, loops, strict=True):
        assert bool(other.any())
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


def test_own_action_and_later_events_change_nothing_before():
    model, events = pointwise(), log([8])
    before = model(events)
    for place in range(8):
        acted = events.actions.clone()
        acted[place:] = ~acted[place:]
        items = events.items.values.clone()
        items[place + 1 :] = (items[place + 1 :] + 1) % NUM_ITEMS
        after = model(replace(events, items=events.items.with_values(items), actions=acted))
        assert torch.equal(after[: place + 1], before[: place + 1])
        if place < 7:
            assert not torch.allclose(after[place + 1 :], before[place + 1 :])


def test_a_long_row_is_named():
    with pytest.raises(ValueError, match="9 events, the model looks at 8: cut it"):
        pointwise()(log([9]))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_training_drops_what_evaluation_keeps(dropout: float):
    model, events = pointwise(dropout), log()
    kept = model(events)
    assert torch.equal(model(events), kept)
    model.train()
    with seeded(0):
        first, second = model(events), model(events)
    assert torch.equal(first, second) == torch.equal(first, kept) == (dropout == 0)


@pytest.mark.parametrize("dropping", [0, 1, 2])
def test_items_actions_and_the_first_layer_are_dropped_each(monkeypatch, dropping: int):
    model, events = pointwise(0.5).train(), log()
    widths = []

    def dropped(x, *given):
        widths.append(x.shape[1])
        return real(x, *given) if (len(widths) - 1) % 3 == dropping else x

    real = torch.nn.functional.dropout
    monkeypatch.setattr(torch.nn.functional, "dropout", dropped)
    with seeded(0):
        first, second = model(events), model(events)
    assert widths == [6, 6, 5] * 2
    assert not torch.equal(first, second)


def test_the_loss_is_the_asked_events_mean_cross_entropy_over_all_actions():
    model, events = pointwise(), log()
    asked = torch.arange(14) % 3 == 0
    p, y = model(events)[asked].sigmoid(), events.actions[asked].double()
    expected = -(y * p.log() + (1 - y) * (1 - p).log()).sum() / 5
    torch.testing.assert_close(model.loss(EventBatch(events, asked)), expected)
