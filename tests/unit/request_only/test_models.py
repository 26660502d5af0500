"""A batch of requests against its impressions one by one: logits, loss, all gradients, leaks."""

from dataclasses import replace

import pytest
import torch
from ranker_references import ASKED, NUM_ACTIONS, NUM_ITEMS, log, ranker, row_of, token_by_token
from torch import Tensor, tensor

from genrec_lite.datasets.actions import Events
from genrec_lite.jagged import JaggedTensor
from genrec_lite.ranking.tasks import action_loss
from genrec_lite.request_only.batches import RequestBatch, fan_out
from genrec_lite.request_only.models import (
    LinearCompressedEmbedding,
    RequestHSTU,
    RequestModel,
    TwoTower,
)

HISTORIES = [5, 0, 8, 1, 3]
COUNTS = [1, 4, 3, 1, 7]  # candidates: one alone, and four after an empty history
MAX_EVENTS = 8


def request_batch() -> RequestBatch:
    generator = torch.Generator().manual_seed(3)
    total = sum(COUNTS)
    return RequestBatch(
        log(HISTORIES),
        torch.full((len(HISTORIES),), ASKED),
        JaggedTensor.from_lengths(
            torch.randint(NUM_ITEMS, (total,), generator=generator), tensor(COUNTS)
        ),
        torch.rand(total, NUM_ACTIONS, generator=generator) < 0.5,
    )


def hstu(dtype: torch.dtype) -> RequestHSTU:
    model = RequestHSTU(
        NUM_ITEMS, NUM_ACTIONS, dim=6, num_blocks=3, num_heads=2, head_dim=3,
        max_events=MAX_EVENTS, dropout=0.0,
    )  # fmt: skip
    with torch.no_grad():
        for weights, loud in zip(model.ranker.parameters(), ranker().parameters(), strict=True):
            weights.copy_(0.5 * loud)  # louder ones amplify float32 rounding
    return model.to(dtype)


def two_tower(dtype: torch.dtype) -> TwoTower:
    model = TwoTower(
        NUM_ITEMS, NUM_ACTIONS, dim=6, num_compressed=3, max_events=MAX_EVENTS,
        request_hidden=5, item_hidden=4,
    ).to(dtype)  # fmt: skip
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weights in model.parameters():
            drawn = torch.randn(weights.shape, generator=generator, dtype=torch.float64)
            weights.copy_(0.4 * drawn)
    return model


MODELS = {"hstu": hstu, "two-tower": two_tower}


def loss_and_gradients(model: RequestModel, batch: RequestBatch) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    loss = model.loss(batch)
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) == len(list(model.parameters()))
    return loss.detach(), [g.clone() for g in gradients]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("name", MODELS)
def test_logits_loss_and_all_gradients_equal_those_of_the_exploded_batch(name, dtype, bound):
    model, batch = MODELS[name](dtype), request_batch()
    apart = batch.exploded()
    logits, expected = model(batch).detach(), model(apart).detach()
    assert float(expected.abs().max()) > 0.1  # else the bound would say little
    assert float((logits - expected).abs().max()) <= bound * float(expected.abs().max())
    loss, gradients = loss_and_gradients(model, batch)
    expected_loss, expected_gradients = loss_and_gradients(model, apart)
    assert abs(float(loss - expected_loss)) <= bound * float(expected_loss)
    largest = max(float(wanted.abs().max()) for wanted in expected_gradients)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        assert float(wanted.abs().max()) > 1e-3 * largest
        assert float((found - wanted).abs().max()) <= bound * largest


def test_hstu_gives_the_logits_of_a_loop_over_tokens():
    model, batch = hstu(torch.float64), request_batch()
    expected = []
    for row in range(len(HISTORIES)):
        candidates = batch.candidates[row].tolist()
        history = row_of(batch.history, row)
        expected += token_by_token(model.ranker, history, candidates, ASKED)[HISTORIES[row] :]
    torch.testing.assert_close(model(batch), torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_the_two_tower_gives_the_logits_of_a_loop_over_impressions():
    model, batch = two_tower(torch.float64), request_batch()
    table, scale = model.tokens.item_embedding.weight, 6**0.5
    expected = []
    for row, count in enumerate(COUNTS):
        history = row_of(batch.history, row)
        compressed = torch.zeros(3, 6, dtype=torch.float64)
        for place in range(HISTORIES[row]):
            action = model.tokens.any_action + sum(
                vector
                for bit, vector in zip(
                    history.actions[-1 - place], model.tokens.bit_vectors, strict=True
                )
                if bit
            )
            token = scale * (table[history.items.values[-1 - place]] + action)
            compressed = compressed + model.compress.weight[:, place, None] * token
        flat = compressed.flatten()
        normed = (flat - flat.mean()) / (flat.var(correction=0) + 1e-6).sqrt()
        request = model.request_tower(normed).view(3, 6)
        for number in range(count):
            item = model.item_tower(scale * table[batch.candidates[row][number]])
            expected.append(model.head(request @ item) + model.item_logits(item))
    torch.testing.assert_close(model(batch), torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_products_without_a_fan_out_are_those_behind_one():
    model, batch = two_tower(torch.float64), request_batch()
    requests = model.requests(batch.history)
    items = model.item_tower(model.tokens.of_items(batch.candidates.values))
    late = (fan_out(requests, batch.num_candidates) * items[:, None]).sum(-1)  # (B, k)
    expected = model.head(late) + model.item_logits(items)
    torch.testing.assert_close(model(batch), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_a_loss_is_the_mean_over_impressions_and_not_of_the_requests_means(name):
    model, batch = MODELS[name](torch.float64), request_batch()
    logits = model(batch).detach()
    losses = [action_loss(y[None], a[None]) for y, a in zip(logits, batch.actions, strict=True)]
    loss = model.loss(batch).detach()
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-12, atol=0)
    by_request = torch.stack(losses).split(COUNTS)
    of_requests = torch.stack([some.mean() for some in by_request]).mean()
    assert abs(float(of_requests - loss)) > 1e-3


# -- nothing leaks --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_candidate_is_scored_without_its_own_action_or_its_neighbours(name):
    model, batch = MODELS[name](torch.float64), request_batch()
    logits = model(batch).detach()
    assert torch.equal(model(replace(batch, actions=~batch.actions)), logits)
    for place in (1, 4, 9):  # the first of four, the last of them's neighbour, one of seven
        others = (batch.candidates.values + 5) % NUM_ITEMS
        others[place] = batch.candidates.values[place]
        changed = model(replace(batch, candidates=batch.candidates.with_values(others))).detach()
        torch.testing.assert_close(changed[place], logits[place], rtol=1e-12, atol=1e-12)
        assert float((changed - logits).abs().max()) > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_every_event_of_a_history_counts_for_its_request_alone(name):
    model, batch = MODELS[name](torch.float64), request_batch()
    logits, owners = model(batch), batch.candidates.row_ids()
    history = batch.history
    for event, row in enumerate(history.items.row_ids().tolist()):
        items = history.items.values.clone()
        items[event] = (items[event] + 5) % NUM_ITEMS
        other = Events(history.items.with_values(items), history.actions, history.times)
        moved = (model(replace(batch, history=other)) - logits).abs().amax(1)
        assert bool((moved[owners == row] > 1e-9).all())
        assert bool((moved[owners != row] == 0).all())


def test_events_before_the_last_that_are_looked_at_change_nothing():
    batch = request_batch()
    for model in (hstu(torch.float64), two_tower(torch.float64)):
        longer = log([h + 12 for h in HISTORIES], seed=9)
        cut = replace(batch, history=longer.last(MAX_EVENTS))
        assert torch.equal(model(replace(batch, history=longer)), model(cut))


def test_compressed_embeddings_are_the_weighted_sums_of_all():
    layer = LinearCompressedEmbedding(5, 2).double()
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    found = layer(x)
    for r in range(3):
        for k in range(2):
            expected = sum(layer.weight[k, n] * x[r, n] for n in range(5))
            torch.testing.assert_close(found[r, k], expected)


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_of_no_requests_has_no_logits(name):
    batch = request_batch().select(tensor([], dtype=torch.int64))
    assert MODELS[name](torch.float32)(batch).shape == (0, NUM_ACTIONS)
