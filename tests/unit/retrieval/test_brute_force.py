"""Brute force against loops in float64, for both kinds of similarity; what every index refuses."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec_lite.jagged import JaggedTensor
from genrec_lite.retrieval import brute_force, corpus, scoring
from genrec_lite.retrieval.brute_force import BruteForce
from genrec_lite.retrieval.scoring import score_block
from genrec_lite.retrieval.top_k import NO_ID
from genrec_lite.similarity.dot_product import DotProduct
from genrec_lite.similarity.mixture_of_logits import MixtureOfLogits
from genrec_lite.similarity.sides import MixtureSide, Side, concatenate

MIXTURE = MixtureOfLogits(
    6, query_components=4, item_components=2, component_dim=8, gate_dim=16, query_hidden=8, seed=1
).eval()
SIMILARITIES = {"dot product": DotProduct(), "mixture": MIXTURE}
both = pytest.mark.parametrize("similarity", SIMILARITIES.values(), ids=SIMILARITIES.keys())


@torch.no_grad()
def sides(similarity, queries: int, items: int, seed: int = 0) -> tuple[Side, Side]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(queries + items, 6, generator=generator)
    return similarity.queries(x[:queries]), similarity.items(x[queries:])


@torch.no_grad()
def score_by_hand(similarity, queries: Side, items: Side, b: int, i: int) -> float:
    """One score in float64, from the formulas of the papers."""
    if isinstance(queries, Tensor):
        assert isinstance(items, Tensor)
        return float(queries[b].double() @ items[i].double()) / similarity.temperature
    assert isinstance(items, MixtureSide)
    f, g = queries.components[b].double(), items.components[i].double()
    logits = torch.stack([f[p] @ g[x] for p in range(len(f)) for x in range(len(g))])
    logits /= similarity.temperature
    gate = similarity.pair_gate
    hidden = gate.expand.weight.double() @ logits + gate.expand.bias.double()
    z = gate.contract.weight.double() @ (hidden * torch.sigmoid(hidden))
    z = z + queries.gate[b].double() * items.gate[i].double()
    weights = torch.softmax(z * torch.sigmoid(z), 0)
    return float(weights @ logits)


def search_by_hand(similarity, queries, items, ids, k, exclude) -> list[list[tuple[float, int]]]:
    rows = []
    for b in range(len(queries)):
        found = [
            (score_by_hand(similarity, queries, items, b, i), int(item))
            for i, item in enumerate(ids)
            if int(item) not in exclude[b]
        ]
        rows.append(sorted(found, key=lambda pair: (-pair[0], pair[1]))[:k])
    return rows


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_and_ids_are_those_of_a_loop_in_float64(similarity, dtype, monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 0)  # chunks of 16 items
    monkeypatch.setattr(brute_force, "SCORES_AT_ONCE", 0)  # taken 32 at a time
    monkeypatch.setattr(brute_force, "QUERIES_AT_ONCE", 2)
    queries, items = sides(similarity, 5, 90)
    items = items.to(dtype)
    ids = torch.randperm(1000, generator=torch.Generator().manual_seed(3))[:90]
    exclude = [ids[:30].tolist(), [], [5000, *ids[40:43].tolist()], ids[80:].tolist(), []]
    index = BruteForce(similarity, items, ids)
    found = index.search(queries, 60, JaggedTensor.from_lists(exclude, torch.int64))
    expected = search_by_hand(similarity, queries, items, ids, 60, exclude)
    assert found.ids.tolist() == [[item for _, item in row] for row in expected]
    scores = torch.tensor([[score for score, _ in row] for row in expected])
    torch.testing.assert_close(found.scores, scores, atol=1e-4, rtol=1e-5)
    assert found.rescored.tolist() == [90] * 5


@both
def test_items_that_are_the_same_stand_in_the_order_of_their_ids(similarity):
    queries, items = sides(similarity, 4, 7)
    copies = concatenate([items] * 6)
    ids = torch.randperm(42, generator=torch.Generator().manual_seed(0))
    index = BruteForce(similarity, copies[:30], ids[:30])
    for at in range(30, 42):  # one by one, so that some copies stand in blocks of their own
        index.add(copies[at : at + 1], ids[at : at + 1])
    assert len(index.corpus.blocks) > 1
    found = index.search(queries, 42)
    for row in range(4):
        kinds = [int((ids == item).nonzero()) % 7 for item in found.ids[row]]
        assert len({*kinds[:6]}) == 1 and len({*kinds[36:]}) == 1
        for at in range(0, 42, 6):
            same = found.ids[row, at : at + 6].tolist()
            assert same == sorted(same) and len({*found.scores[row, at : at + 6].tolist()}) == 1


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 60), max_size=20)), max_size=4),
    st.sampled_from(list(SIMILARITIES)),
)
def test_an_index_after_changes_finds_what_a_fresh_one_finds(changes, name):
    similarity = SIMILARITIES[name]
    queries, items = sides(similarity, 3, 61)
    held = set(range(20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "BLOCK_ITEMS", 16)
        index = BruteForce(similarity, items[:20])
        for adding, asked in changes:
            touched = torch.tensor(sorted(asked - held if adding else asked & held)).long()
            if adding:
                index.add(items[touched], touched)
                held |= asked
            else:
                index.remove(touched)
                held -= asked
        ids = torch.tensor(sorted(held), dtype=torch.int64)
        k = max(1, len(held) // 2)
        found = index.search_up_to(queries, k)
    expected = BruteForce(similarity, items[ids], ids).search_up_to(queries, k)
    assert torch.equal(found.ids, expected.ids) and torch.equal(found.scores, expected.scores)
    assert len(index) == len(held)


@both
def test_a_score_does_not_depend_on_the_items_scored_beside_it(similarity, monkeypatch):
    queries, items = sides(similarity, 7, 300)
    whole = score_block(similarity, queries, items)
    for n in (1, 2, 15, 16, 17, 129):
        assert torch.equal(score_block(similarity, queries, items[-n:]), whole[:, -n:])
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 0)
    assert torch.equal(score_block(similarity, queries, items), whole)


@both
def test_k_of_the_whole_corpus_and_more(similarity):
    queries, items = sides(similarity, 2, 9)
    index = BruteForce(similarity, items)
    found = index.search(queries, 9)
    assert all(sorted(row) == list(range(9)) for row in found.ids.tolist())
    with pytest.raises(ValueError, match="k is 10, but the index holds 9 items"):
        index.search(queries, 10)
    partial = index.search_up_to(queries, 12)
    assert torch.equal(partial.ids[:, :9], found.ids)
    assert (partial.ids[:, 9:] == NO_ID).all() and (partial.scores[:, 9:] == -math.inf).all()
    for k in (0, -1):
        with pytest.raises(ValueError, match=f"k is {k}: search for at least 1"):
            index.search(queries, k)


@both
def test_exclusions_that_leave_too_few_are_named(similarity):
    queries, items = sides(similarity, 3, 9)
    index = BruteForce(similarity, items)
    some = JaggedTensor.from_lists([[], [0, 1, 1, 2], [5, 700]], torch.int64)
    with pytest.raises(ValueError, match="k is 7, but only 6 items .* query 1"):
        index.search(queries, 7, some)
    assert {*index.search(queries, 6, some).ids[1].tolist()} == {3, 4, 5, 6, 7, 8}
    every = JaggedTensor.from_lists([[], [], list(range(9))], torch.int64)
    with pytest.raises(ValueError, match="k is 1, but only 0 items .* query 2"):
        index.search(queries, 1, every)
    with pytest.raises(ValueError, match="exclude has 2 rows for 3 queries"):
        index.search(queries, 1, every[:2])


@both
def test_queries_that_cannot_be_answered_are_named(similarity):
    queries, items = sides(similarity, 3, 9)
    index = BruteForce(similarity, items)
    with pytest.raises(ValueError, match="there is no query"):
        index.search(queries[:0], 1)
    first = queries if isinstance(queries, Tensor) else queries.components
    first[1, -1] = math.nan
    with pytest.raises(ValueError, match="of query 1 hold NaN"):
        index.search(queries, 1)


def test_queries_of_another_similarity_or_size_are_named():
    queries, items = sides(MIXTURE, 2, 9)
    with pytest.raises(ValueError, match="query is made of vectors, an item of components and g"):
        BruteForce(MIXTURE, items).search(torch.zeros(2, 6), 1)
    with pytest.raises(ValueError, match="items are a Mix.*, but a DotProduct scores a Tensor"):
        BruteForce(DotProduct(), items)
    with pytest.raises(ValueError, match="vectors of a query are 5 wide, those of an item 6"):
        BruteForce(DotProduct(), torch.zeros(9, 6)).search(torch.zeros(2, 5), 1)
    assert isinstance(queries, MixtureSide)
    wide = MixtureSide(queries.components, torch.zeros(2, 6))
    with pytest.raises(ValueError, match="gate of a query are 6 wide, those of an item 8"):
        BruteForce(MIXTURE, items).search(wide, 1)
    few = MixtureSide(queries.components[:, :1], queries.gate)
    with pytest.raises(ValueError, match="a query has 1 components, an item .*, the gate 8 pairs"):
        BruteForce(MIXTURE, items).search(few, 1)
    with pytest.raises(ValueError, match=r"queries have shape \(6,\): expected 2 dim"):
        BruteForce(DotProduct(), torch.zeros(9, 6)).search(torch.zeros(6), 1)


def test_a_similarity_that_gives_nan_is_named_with_query_and_item():
    class Broken(DotProduct):
        def score(self, queries: Tensor, items: Tensor) -> Tensor:
            scores = super().score(queries, items)
            scores[1, items[:, 0] == 7] = math.nan
            return scores

    items = torch.arange(50.0)[:, None].expand(50, 6)
    index = BruteForce(Broken(), items, torch.arange(100, 150))
    with pytest.raises(ValueError, match="query 1 and item 107 is NaN"):
        index.search(torch.ones(2, 6), 3)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_index_finds_the_same(similarity, tmp_path, dtype):
    queries, items = sides(similarity, 3, 50)
    index = BruteForce(similarity, items.to(dtype), torch.arange(50) * 3)
    index.remove(torch.tensor([9, 12]))
    index.save(tmp_path / "index.safetensors")
    back = BruteForce.load(tmp_path / "index.safetensors", similarity)
    found, expected = back.search(queries, 20), index.search(queries, 20)
    assert torch.equal(found.scores, expected.scores) and torch.equal(found.ids, expected.ids)
    assert back.memory_bytes == index.memory_bytes
    other = DotProduct(0.1) if similarity is MIXTURE else MIXTURE
    with pytest.raises(ValueError, match="index.safetensors was written with similarity"):
        BruteForce.load(tmp_path / "index.safetensors", other)


def test_an_index_is_not_searched_with_other_weights_than_it_was_made_with(tmp_path):
    _, items = sides(MIXTURE, 3, 20)
    BruteForce(MIXTURE, items).save(tmp_path / "index.safetensors")
    trained_further = copy.deepcopy(MIXTURE)
    with torch.no_grad():
        next(trained_further.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(ValueError, match="index.safetensors was written with weights"):
        BruteForce.load(tmp_path / "index.safetensors", trained_further)


@both
def test_queries_in_half_precision_are_scored_in_float32(similarity):
    queries, items = sides(similarity, 3, 50)
    halved = queries.to(torch.bfloat16)
    found = BruteForce(similarity, items).search(halved, 20)
    expected = BruteForce(similarity, items).search(halved.to(torch.float32), 20)
    assert torch.equal(found.scores, expected.scores) and torch.equal(found.ids, expected.ids)


def test_a_search_between_training_steps_is_without_dropout():
    similarity = copy.deepcopy(MIXTURE)
    queries, items = sides(similarity, 3, 50)
    expected = BruteForce(similarity, items).search(queries, 20)
    found = BruteForce(similarity.train(), items).search(queries, 20)
    assert torch.equal(found.scores, expected.scores) and torch.equal(found.ids, expected.ids)
    assert similarity.training


def test_no_gradient_is_kept_by_an_index_or_a_search():
    queries = MIXTURE.queries(torch.randn(2, 6))
    index = BruteForce(MIXTURE, MIXTURE.items(torch.randn(9, 6)))
    assert not any(t.requires_grad for t in index.corpus.blocks[0].tensors().values())
    assert not index.search(queries, 3).scores.requires_grad
