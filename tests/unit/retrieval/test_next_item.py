"""A trained next-item model finds what follows; an untrained one does not."""

from dataclasses import replace

import polars as pl
import pytest
import torch
from torch.nn import functional as F

from genrec_lite.datasets.batches import NextItemBatch, NextItemBatches
from genrec_lite.datasets.splits import Sequences, leave_last_out
from genrec_lite.encoders.hstu import HSTU
from genrec_lite.encoders.sasrec import SASRec
from genrec_lite.jagged import JaggedTensor
from genrec_lite.losses import load_balancing_loss
from genrec_lite.metrics import hit_rate_at_k, target_ranks
from genrec_lite.recipes.course import gate_of
from genrec_lite.retrieval import next_item as next_item_module
from genrec_lite.retrieval import scoring
from genrec_lite.retrieval.baselines import Popularity
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.similarity.dot_product import DotProduct
from genrec_lite.similarity.mixture_of_logits import MixtureOfLogits
from genrec_lite.similarity.projected_dot_product import ProjectedDotProduct
from genrec_lite.training import fit

NUM_ITEMS = 60


def cyclic_users(count: int = 150) -> Sequences:
    """Users who walk along a fixed circle of items from a random start: order is everything."""
    generator = torch.Generator().manual_seed(0)
    circle = torch.randperm(NUM_ITEMS, generator=generator)
    starts = torch.randint(NUM_ITEMS, (count,), generator=generator)
    lengths = torch.randint(4, 12, (count,), generator=generator)
    rows = [
        circle[(s + torch.arange(n)) % NUM_ITEMS]
        for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)
    ]
    return Sequences(
        JaggedTensor.from_lists(rows), None, None, pl.Series(range(count)), pl.Series(range(60))
    )


def model(num_negatives: int | None) -> NextItemModel:
    encoder = SASRec(NUM_ITEMS, dim=16, max_length=8, dropout=0.0)
    return NextItemModel(encoder, DotProduct(), num_negatives=num_negatives)


@pytest.mark.parametrize("num_negatives", [None, 16])
def test_it_learns_an_order_that_popularity_cannot_see(num_negatives):
    split = leave_last_out(cyclic_users())
    next_item = model(num_negatives)
    untrained = hit_rate_at_k(next_item.ranks(split.test), 1)
    optimizer = torch.optim.AdamW(next_item.parameters(), lr=5e-3)
    batches = NextItemBatches(split.train, batch_size=32)
    fit(next_item, next_item.loss, batches, optimizer, epochs=25, progress=False)
    popular = Popularity().fit(split.train).scores(split.test.history)
    of_popularity = target_ranks(popular, split.test.targets, split.test.history)
    assert hit_rate_at_k(next_item.ranks(split.test), 1) > 0.8
    assert untrained < 0.1 and hit_rate_at_k(of_popularity, 1) < 0.2


def waiting_users(num_items: int = 24, count: int = 300) -> Sequences:
    """On a circle of items, soon goes one step on, after a long wait two: the time decides."""
    generator = torch.Generator().manual_seed(0)
    waits = torch.randint(2, (count, 9), generator=generator)
    start = torch.randint(num_items, (count, 1), generator=generator)
    steps = torch.cat([start, 1 + waits[:, 1:]], 1)
    items = steps.cumsum(1) % num_items
    times = (10 + waits * 10**6).cumsum(1)
    lengths = torch.full((count,), 9)
    return Sequences(
        JaggedTensor.from_lengths(items.flatten(), lengths),
        JaggedTensor.from_lengths(times.flatten(), lengths),
        None,
        pl.Series(range(count)),
        pl.Series(range(num_items)),
    )


def test_hstu_learns_what_only_the_time_of_asking_tells():
    split = leave_last_out(waiting_users())
    found = {}
    for bias in ("both", "position"):
        encoder = HSTU(24, dim=16, head_dim=16, num_blocks=1, max_length=6, dropout=0.0, bias=bias)
        next_item = NextItemModel(encoder, DotProduct())
        optimizer = torch.optim.AdamW(next_item.parameters(), lr=1e-2)
        batches = NextItemBatches(split.train, batch_size=64, max_length=6)
        fit(next_item, next_item.loss, batches, optimizer, epochs=30, progress=False)
        found[bias] = float(hit_rate_at_k(next_item.ranks(split.test), 1))
    assert found["both"] > 0.9, found
    assert 0.3 < found["position"] < 0.65, found  # one of two


def test_every_way_to_ask_hands_on_the_times():
    split = leave_last_out(waiting_users(count=20))
    encoder = HSTU(24, dim=8, head_dim=8, num_blocks=1, max_length=6)
    with torch.no_grad():  # a table of 0.02 would move the scores too little to see
        encoder.blocks[0].bias.time_weights.normal_(std=3)
    mixture = MixtureOfLogits(8, query_components=2, item_components=2, component_dim=4, gate_dim=4)
    next_item = NextItemModel(encoder, mixture, coarse=ProjectedDotProduct(8, 4))
    test = split.test
    later = test.times.with_values(test.times.values.clone())
    later.values[later.offsets[1:] - 1] += 10**7
    for ask in (
        lambda times: next_item.scores(test.history, None, times),
        lambda times: next_item.queries(test.history, None, times).components,
        lambda times: next_item.coarse_queries(test.history, times),
        lambda times: gate_of(next_item, replace(test, times=times))["gate entropy"],
    ):
        at_once, in_months = torch.as_tensor(ask(test.times)), torch.as_tensor(ask(later))
        assert not torch.equal(at_once, in_months)
    with pytest.raises(ValueError, match="this encoder has a time bias: give the times"):
        next_item.scores(test.history)


def test_no_history_gets_no_scores():
    nobody = JaggedTensor.from_lists([], torch.int64)
    assert model(None).scores(nobody).shape == (0, NUM_ITEMS)


def test_ranks_do_not_depend_on_the_batch_size_and_respect_what_is_excluded():
    split, next_item = leave_last_out(cyclic_users(30)), model(None)
    ranks = next_item.ranks(split.test)
    assert ranks.tolist() == next_item.ranks(split.test, batch_size=7).tolist()
    scores = next_item.scores(split.test.history)
    assert ranks.tolist() == target_ranks(scores, split.test.targets, split.test.history).tolist()
    nothing = JaggedTensor.from_lists([[]] * len(split.test), dtype=torch.int64)
    assert (next_item.ranks(split.test, exclude=nothing) >= ranks).all()


def test_scoring_leaves_the_training_mode_as_it_was():
    next_item = model(None).train()
    next_item.scores(JaggedTensor.from_lists([[1, 2]]))
    assert next_item.training
    with pytest.raises(ValueError, match="history 0 is empty"):
        next_item.scores(JaggedTensor.from_lists([[]], dtype=torch.int64))
    assert next_item.training


def test_scoring_drops_nothing_even_in_training():
    next_item = NextItemModel(SASRec(NUM_ITEMS, dim=16, dropout=0.5), DotProduct()).train()
    history = JaggedTensor.from_lists([[1, 2, 3]])
    assert torch.equal(next_item.scores(history), next_item.scores(history))


def test_loss_and_scores_are_divided_by_the_similaritys_temperature(monkeypatch):
    next_item = model(None)
    next_item.similarity = DotProduct(temperature=0.5)
    rows, targets = JaggedTensor.from_lists([[1, 2], [3]]), torch.tensor([2, 9, 4])
    batch = NextItemBatch(rows, targets)
    items = F.normalize(next_item.encoder.item_embedding.weight, dim=1)
    logits = F.normalize(next_item.encoder(rows).values, dim=1) @ items.t() / 0.5
    torch.testing.assert_close(next_item.loss(batch), F.cross_entropy(logits, targets))
    torch.testing.assert_close(next_item.scores(rows), logits[[1, 2]])
    next_item.num_negatives = 2
    monkeypatch.setattr(torch, "randint", lambda high, size, **_: torch.tensor([[5, 6]] * 3))
    own = logits.gather(1, targets[:, None])
    sampled = torch.cat([own, logits[:, 5:7]], 1)
    expected = F.cross_entropy(sampled, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(next_item.loss(batch), expected)


def test_a_batch_longer_than_the_encoder_looks_is_refused_with_the_mend():
    batch = NextItemBatch(JaggedTensor.from_lists([[1] * 9]), torch.ones(9, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"9 events, .* looks at 8: .*max_length=8\)"):
        model(None).loss(batch)


def test_scores_are_cosines_over_the_temperature():
    scores = model(None).scores(JaggedTensor.from_lists([[1, 2], [3]]))
    assert scores.shape == (2, NUM_ITEMS)
    assert scores.abs().max() <= 20 + 1e-4
    with pytest.raises(ValueError, match="temperature is 0"):
        DotProduct(temperature=0)


def mixture_model(**options) -> NextItemModel:
    encoder = SASRec(NUM_ITEMS, dim=16, max_length=8, dropout=0.0)
    similarity = MixtureOfLogits(
        16, query_components=3, item_components=2, component_dim=8, gate_dim=8, query_hidden=16,
        user_buckets=options.pop("user_buckets", None),
    )  # fmt: skip
    return NextItemModel(encoder, similarity, **options)


@pytest.mark.parametrize(
    "options",
    [{"num_negatives": None}, {"num_negatives": 16, "user_buckets": 50, "num_positions": 100}],
    ids=["all items", "shared negatives, users, some positions"],
)
def test_a_mixture_learns_the_order_too_and_its_first_stage_beside_it(options):
    split = leave_last_out(cyclic_users())
    coarse = ProjectedDotProduct(16, 8)
    next_item = mixture_model(**options, coarse=coarse)
    optimizer = torch.optim.AdamW(next_item.parameters(), lr=2e-2)
    batches = NextItemBatches(split.train, batch_size=32)
    fit(next_item, next_item.loss, batches, optimizer, epochs=40, progress=False)
    assert hit_rate_at_k(next_item.ranks(split.test), 1) > 0.8
    found = coarse.score(next_item.coarse_queries(split.test.history), next_item.coarse_items())
    ranks = target_ranks(found, split.test.targets, split.test.history)
    assert hit_rate_at_k(ranks, 3) > 0.8


def test_a_mixtures_scores_are_those_of_its_sides_however_they_are_cut(monkeypatch):
    split, next_item = leave_last_out(cyclic_users(30)), mixture_model(user_buckets=7)
    history, users = split.test.history, split.test.rows
    whole = next_item.similarity.score(next_item.queries(history, users), next_item.items())
    assert next_item.training  # scoring leaves the mode as it was
    items = next_item.items()
    assert not items.gate.requires_grad
    assert torch.equal(items.components, next_item.items().components)  # no dropout
    whole_in_eval = next_item.eval().scores(history, users)
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 0)
    monkeypatch.setattr(next_item_module, "GROUP", 4)
    torch.testing.assert_close(next_item.train().scores(history, users), whole_in_eval)
    assert not torch.equal(whole, whole_in_eval)  # the first one dropped weights


def test_the_loss_of_some_positions_is_on_average_the_loss_of_all():
    batch = NextItemBatches(leave_last_out(cyclic_users()).train, batch_size=150)(0)[0]
    whole, some = model(None).eval(), model(None).eval()
    some.num_positions = len(batch) // 4
    torch.manual_seed(0)
    drawn = torch.stack([some.loss(batch) for _ in range(200)]).detach()
    standard_error = drawn.std() / len(drawn) ** 0.5
    assert drawn.std() > 0
    assert abs(drawn.mean() - whole.loss(batch)) < 4 * standard_error


def test_the_users_of_drawn_positions_are_drawn_with_them(monkeypatch):
    batch = NextItemBatches(leave_last_out(cyclic_users(30)).train, batch_size=30)(0)[0]
    next_item = mixture_model(user_buckets=50, num_negatives=5, num_positions=10).eval()
    seen, queries = [], next_item.similarity.queries
    monkeypatch.setattr(
        next_item.similarity, "queries", lambda *both: seen.append(both) or queries(*both)
    )
    next_item.loss(batch)
    drawn, users = seen[0]
    every = next_item.encoder(batch.inputs).values
    same_position = (drawn[:, None] - every).abs().amax(2) < 1e-5  # (10, T)
    same_user = users[:, None] == batch.users[batch.inputs.row_ids()]
    assert (same_position & same_user).any(1).all()
    assert len(users.unique()) > 1


def test_a_balanced_gate_is_part_of_a_mixtures_loss_and_so_is_the_users_length():
    batch = NextItemBatches(leave_last_out(cyclic_users()).train, batch_size=150)(0)[0]
    losses = {}
    for weight in (0.0, 10.0):
        next_item = mixture_model(user_buckets=200, balance_weight=weight, num_negatives=5).eval()
        torch.manual_seed(0)
        losses[weight] = next_item.loss(batch).item()
    torch.manual_seed(0)
    queries = next_item.similarity.queries(
        next_item.encoder(batch.inputs).values, batch.users[batch.inputs.row_ids()]
    )
    pairs = next_item.similarity.score_pairs(queries, next_item.items()[batch.targets])
    expected = 10 * load_balancing_loss(pairs.weights).item()
    assert losses[10.0] - losses[0.0] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    with torch.no_grad():
        next_item.similarity.user_embedding.weight.fill_(0)
        torch.manual_seed(0)
        without = next_item.loss(batch).item()
        next_item.similarity.user_embedding.weight[200 - 1] = 1e-3  # asked by no row of the batch
        torch.manual_seed(0)
        assert next_item.loss(batch).item() == pytest.approx(without, abs=1e-6)


def test_a_model_without_a_first_stage_says_so():
    with pytest.raises(ValueError, match=r"no first stage: give NextItemModel\(coarse="):
        model(None).coarse_items()
