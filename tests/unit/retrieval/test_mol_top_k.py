"""Top-k of a mixture of logits: the exact way equals brute force, the others find nearly all."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_lite.jagged import JaggedTensor
from genrec_lite.retrieval import mol_top_k, scoring
from genrec_lite.retrieval.brute_force import BruteForce
from genrec_lite.retrieval.mol_top_k import Average, Combined, ExactTwoPass, PerComponent
from genrec_lite.similarity.mixture_of_logits import MixtureOfLogits
from genrec_lite.similarity.sides import MixtureSide, concatenate
from genrec_lite.training import seeded

WAYS = [ExactTwoPass, PerComponent, Average, Combined]
SIZES = dict(query_components=4, item_components=2, component_dim=16, gate_dim=32, query_hidden=32)
N, B, DIM = 700, 40, 16
every_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(scope="module")
def trained() -> tuple[MixtureOfLogits, MixtureSide, MixtureSide]:
    """A mixture that has learned to tell a noisy image of an item from images of others."""
    with seeded(0):
        items = torch.randn(35, DIM).repeat_interleave(N // 35, 0) + 0.5 * torch.randn(N, DIM)
        image = torch.randn(DIM, DIM) / DIM**0.5
        similarity = MixtureOfLogits(DIM, **SIZES)
        optimizer = torch.optim.AdamW(similarity.parameters(), lr=8e-3)
        for _ in range(120):
            some = items[torch.randperm(N)[:32]]
            x = (some + 0.3 * torch.randn(32, DIM)) @ image
            scores = similarity.score(similarity.queries(x), similarity.items(some))
            loss = torch.nn.functional.cross_entropy(scores, torch.arange(32))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        x = (items[torch.randperm(N)[:B]] + 0.3 * torch.randn(B, DIM)) @ image
    similarity.eval()
    with torch.no_grad():
        return similarity, similarity.queries(x), similarity.items(items)


@torch.no_grad()
def untrained(queries: int, items: int, seed: int) -> tuple:
    with seeded(seed):
        similarity = MixtureOfLogits(DIM, **SIZES, seed=seed).eval()
        x = torch.randn(queries + items, DIM)
        return similarity, similarity.queries(x[:queries]), similarity.items(x[queries:])


def assert_equal(found, expected):
    assert torch.equal(found.ids, expected.ids) and torch.equal(found.scores, expected.scores)


def exclusions(data_seed: int, rows: int, n: int) -> JaggedTensor:
    generator = torch.Generator().manual_seed(data_seed)
    return JaggedTensor.from_lists(
        [torch.randint(n + 5, (i % 7 * 9,), generator=generator) for i in range(rows)], torch.int64
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("excluding", [False, True])
@pytest.mark.parametrize("k, k_candidates", [(1, 1), (10, 30), (120, 200)])
def test_two_passes_on_trained_weights_equal_brute_force_and_rescore_a_part(
    trained, k, k_candidates, excluding, dtype
):
    similarity, queries, items = trained
    ids = torch.randperm(5 * N, generator=torch.Generator().manual_seed(1))[:N]
    exclude = None
    if excluding:
        exclude = exclusions(2, B, N)
        exclude = exclude.with_values(ids[exclude.values.clamp(max=N - 1)])
    expected = BruteForce(similarity, items.to(dtype), ids).search(queries, k, exclude)
    index = ExactTwoPass(similarity, items.to(dtype), ids, k_candidates=k_candidates)
    found = index.search(queries, k, exclude)
    assert_equal(found, expected)
    assert (found.rescored >= k).all() and (found.rescored <= N).all()
    if k < 100:
        assert found.rescored.float().mean() < 0.7 * N


def test_pass_two_finds_items_that_pass_one_misses(trained):
    similarity, queries, items = trained
    exact = BruteForce(similarity, items).search(queries, 10)
    first = Average(similarity, items, k_candidates=10).search(queries, 10)
    assert not torch.equal(first.ids, exact.ids)  # or the test above shows nothing of pass 2
    assert_equal(ExactTwoPass(similarity, items, k_candidates=10).search(queries, 10), exact)


def test_a_bound_that_is_rounded_down_leaves_no_item_out(monkeypatch):
    class RoundedDown(MixtureOfLogits):  # in pass 2, which looks at both queries together
        def component_logits(self, queries, items):
            logits = super().component_logits(queries, items)
            return logits - 4e-5 if len(queries) > 1 else logits  # 20 units in the last place

    one = RoundedDown(DIM, **SIZES | dict(query_components=1, item_components=1)).eval()
    x = torch.randn(3, DIM, generator=torch.Generator().manual_seed(0))
    alike = concatenate([one.items(x[:1])] * 20)  # of one logit: each score is its own bound
    found = ExactTwoPass(one, alike, k_candidates=1).search(one.queries(x[1:]), 1)
    assert found.rescored.tolist() == [20, 20]


def test_untrained_weights_leave_hardly_an_item_out():
    similarity, queries, items = untrained(8, 300, 0)
    found = ExactTwoPass(similarity, items).search(queries, 50)
    assert found.rescored.float().mean() > 0.8 * 300


@settings(max_examples=15)
@given(st.data())
def test_two_passes_equal_brute_force_for_any_sizes_ties_and_exclusions(data):
    n, kinds = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    seed = data.draw(st.integers(0, 1000))
    similarity, queries, items = untrained(3, kinds, seed)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randperm(4 * n, generator=generator)[:n]
    same = items[torch.randint(kinds, (n,), generator=generator)]  # copies under different ids
    exclude = exclusions(seed, 3, 4 * n)
    k = data.draw(st.integers(1, 100))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mol_top_k, "PRODUCTS_AT_ONCE", data.draw(st.sampled_from([0, 2**21])))
        patch.setattr(scoring, "RESCORED_AT_ONCE", data.draw(st.sampled_from([16, 2**14])))
        index = ExactTwoPass(similarity, same, ids, k_candidates=data.draw(st.integers(1, 20)))
        found = index.search_up_to(queries, k, exclude)
    assert_equal(found, BruteForce(similarity, same, ids).search_up_to(queries, k, exclude))


def test_copies_of_an_item_stand_in_the_order_of_their_ids(trained):
    similarity, queries, items = trained
    ids = torch.randperm(4 * N, generator=torch.Generator().manual_seed(0))
    copies = concatenate([items] * 4)
    expected = BruteForce(similarity, copies, ids).search(queries, 60)
    assert (expected.scores.diff() == 0).sum() > 20 * B  # ties are there
    assert_equal(ExactTwoPass(similarity, copies, ids).search(queries, 60), expected)


def recall(found, expected) -> float:
    hits = (found.ids[:, :, None] == expected.ids[:, None]).any(2)
    return float(hits.float().mean())


@pytest.mark.parametrize(
    "way, options, floor",
    [
        (PerComponent, dict(k_each=30), 0.8),
        (Average, dict(k_candidates=200), 0.8),
        (Combined, dict(k_each=30, k_candidates=200), 0.9),
    ],
)
def test_approximate_ways_find_nearly_all_of_a_trained_top_k(trained, way, options, floor):
    similarity, queries, items = trained
    expected = BruteForce(similarity, items).search(queries, 20)
    found = way(similarity, items, **options).search(queries, 20)
    assert recall(found, expected) > floor
    assert (found.rescored < 0.6 * N).all() and (found.rescored >= 20).all()
    scores = similarity.score(queries, items).detach()
    torch.testing.assert_close(found.scores, scores.gather(1, found.ids), atol=1e-4, rtol=1e-5)


def test_candidates_are_those_of_a_loop_over_the_components(trained):
    similarity, queries, items = trained
    logits = similarity.component_logits(queries, items).detach().double()  # (B, N, P)
    found = PerComponent(similarity, items, k_each=7).search_up_to(queries, 1)
    by_mean = Average(similarity, items, k_candidates=33).search_up_to(queries, 33)
    both = Combined(similarity, items, k_each=7, k_candidates=33).search_up_to(queries, 33)
    for b in range(B):
        each = {int(i) for p in range(8) for i in logits[b, :, p].topk(7).indices}
        mean = {int(i) for i in logits[b].mean(1).topk(33).indices}
        assert found.rescored[b] == len(each) and int(found.ids[b, 0]) in each
        assert {*by_mean.ids[b].tolist()} == mean
        assert both.rescored[b] == len(each | mean)


@every_way
def test_never_fewer_than_k_are_found_while_there_are_k(trained, way):
    similarity, queries, items = trained
    few = {"k_each": 1, "k_candidates": 1}
    names = way.__init__.__kwdefaults__
    index = way(similarity, items, **{name: few[name] for name in names})
    exclude = JaggedTensor.from_lists([torch.arange(i * 10) for i in range(B)], torch.int64)
    expected = BruteForce(similarity, items)
    for k in (1, 150, N - 390):
        found = index.search(queries, k, exclude)
        assert (found.ids >= 10 * torch.arange(B)[:, None]).all()
        assert all(len({*row}) == k for row in found.ids.tolist())
        assert (found.scores.diff() <= 0).all()
    assert_equal(index.search(queries, N), expected.search(queries, N))


@every_way
def test_bad_questions_are_named_as_brute_force_names_them(trained, way):
    similarity, queries, items = trained
    index = way(similarity, items)
    with pytest.raises(ValueError, match=f"k is {N + 1}, but the index holds {N} items"):
        index.search(queries, N + 1)
    with pytest.raises(ValueError, match="there is no query"):
        index.search(queries[:0], 1)
    broken = MixtureSide(queries.components.clone(), queries.gate)
    broken.components[3, 1, 2] = math.nan
    with pytest.raises(ValueError, match="components of query 3 hold NaN"):
        index.search(broken, 1)
    all_but_two = JaggedTensor.from_lists([[], list(range(2, N)), list(range(N))], torch.int64)
    with pytest.raises(ValueError, match="k is 1, but only 0 items .* query 2"):
        index.search(queries[:3], 1, all_but_two)
    found = index.search(queries[:2], 2, all_but_two[:2])
    assert sorted(found.ids[1].tolist()) == [0, 1]
    with pytest.raises(ValueError, match="items are a Tensor, but a MixtureOfLogits scores a M"):
        way(similarity, torch.zeros(3, DIM))
    for name in way.__init__.__kwdefaults__:
        with pytest.raises(ValueError, match=f"{name} is 0: at least 1"):
            way(similarity, items, **{name: 0})


@every_way
def test_changes_and_files_leave_what_a_fresh_index_would_find(trained, way, tmp_path):
    similarity, queries, items = trained
    index = way(similarity, items[:500].to(torch.bfloat16))
    index.add(items[500:], torch.arange(500, N))
    index.remove(torch.arange(0, N, 3))
    kept = torch.tensor([i for i in range(N) if i % 3])
    expected = way(similarity, items[kept].to(torch.bfloat16), kept).search(queries, 20)
    assert_equal(index.search(queries, 20), expected)
    for name, row in index.corpus.template.tensors().items():  # the tables beside them, too
        assert all(block.tensors()[name].dtype == row.dtype for block in index.corpus.blocks)
    with pytest.raises(ValueError, match=r"items.components .* rows of \(2, 5\)"):
        index.add(MixtureSide(torch.zeros(1, 2, 5), torch.zeros(1, 8)), torch.tensor([9999]))
    with pytest.raises(ValueError, match="items.components of id 9999 hold NaN"):
        index.add(MixtureSide(torch.full((1, 2, 16), torch.nan), torch.zeros(1, 8)),
                  torch.tensor([9999]))  # fmt: skip
    index.save(tmp_path / "index.safetensors")
    back = way.load(tmp_path / "index.safetensors", similarity)
    assert_equal(back.search(queries, 20), expected)
    assert back.memory_bytes == index.memory_bytes
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for block in index.corpus.blocks
        for tensor in block.tensors().values()
    }
    assert index.memory_bytes == pytest.approx(sum(storages.values()), rel=0.1)
    plain = BruteForce.load(tmp_path / "index.safetensors", similarity)
    plain.add(items[:1], torch.tensor([0]))
    assert len(plain) == len(kept) + 1
