"""The h-indexer against loops in float64, where its sample is right and where it misjudges."""

import math

import pytest
import torch
from torch.nn import functional as F

from genrec_lite.jagged import JaggedTensor
from genrec_lite.retrieval import corpus, h_indexer
from genrec_lite.retrieval.brute_force import BruteForce
from genrec_lite.retrieval.h_indexer import (
    HIndexer,
    StagedQueries,
    places_at_least,
    sample_size,
)
from genrec_lite.similarity.dot_product import DotProduct
from genrec_lite.similarity.mixture_of_logits import MixtureOfLogits
from genrec_lite.similarity.sides import MixtureSide

DIM = 16


def unit(n, *, seed, dim=DIM):
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.fixture(scope="module")
def mol():
    return MixtureOfLogits(
        DIM, query_components=2, item_components=2, component_dim=8, gate_dim=8, query_hidden=16
    ).eval()


@torch.no_grad()
def items_of(mol, vectors):
    return mol.items(vectors)


@torch.no_grad()
def queries_of(mol, vectors):
    return StagedQueries(vectors, mol.queries(vectors))


def reference(mol, queries, items, coarse, candidates, k, excluded=()):
    """Ids by float64: the best k' by stage one, then the best k by stage two; ties by lower id."""
    found = []
    fine = mol.score(queries.fine, items).double()
    for row in range(len(queries)):
        left_out = set(excluded[row]) if excluded else set()
        first = (coarse.double() @ queries.coarse[row].double()).tolist()
        left = [i for i in range(len(first)) if i not in left_out]
        kept = sorted(left, key=lambda i: (-first[i], i))[:candidates]
        found.append(sorted(kept, key=lambda i: (-fine[row, i].item(), i))[:k])
    return found


# -- the sample ------------------------------------------------------------------------------


def test_the_sample_size_is_the_one_worked_out_by_hand():
    # m0 = 2.576^2 * 0.99 / 0.01 = 656.945; m = m0 / (1 + m0 / 10,000) = 616.446; S = 100 m
    assert sample_size(1_000_000, 10_000, 0.1) == 61_645
    assert sample_size(1_000_000, 1_000_000, 0.1) == sample_size(1_000_000, 2_000_000) == 1_000_000
    # A tenth of the tolerance asks for more than k' = 1,000 can give: nearly every item.
    assert 980_000 < sample_size(1_000_000, 1_000, 0.01) < 1_000_000


@pytest.mark.parametrize(("candidates", "tolerance"), [(500, 0.1), (2_000, 0.1), (500, 0.2)])
def test_k_is_met_within_the_tolerance_in_99_of_100_draws_and_no_smaller_sample_would_do(
    candidates, tolerance
):
    num_items, draws = 20_000, 1_000
    generator = torch.Generator().manual_seed(0)

    def share_within(size):
        # The r-th of S sampled places out of N, in order of score, is how many items are kept.
        hits = round(size * candidates / num_items)
        within = 0
        for _ in range(draws):
            mask = torch.rand(num_items, generator=generator) < size / num_items
            kept = int(mask.nonzero()[hits - 1]) + 1
            within += abs(kept / candidates - 1) <= tolerance
        return within / draws

    size = sample_size(num_items, candidates, tolerance)
    assert 0.97 < share_within(size)
    assert share_within(size // 3) < 0.97


def test_the_sampled_threshold_keeps_nine_to_eleven_tenths_of_the_target():
    coarse, queries = unit(120_000, seed=1), unit(64, seed=2)
    errors = []
    for seed in range(4):
        index = HIndexer(DotProduct(), coarse, coarse, candidates=6_000, seed=seed)
        kept = index.candidates_of(queries, index.thresholds(queries))
        errors += [abs(len(places) / 6_000 - 1) for places in kept]
    assert sum(error <= 0.1 for error in errors) / len(errors) >= 0.98
    assert max(errors) > 0.005  # a sample, not a sort


def test_every_item_is_sampled_equally_often_and_a_seed_repeats_the_sample():
    coarse = unit(1_000, seed=0)
    index = HIndexer(DotProduct(), coarse, coarse, coarse_dtype=torch.float32)
    counts, (first, order) = torch.zeros(1_000), coarse[:, 0].sort()
    for index.seed in range(400):
        sampled = index._sample(300)
        places = order[torch.searchsorted(first, sampled[:, 0].contiguous())]
        counts += places.bincount(minlength=1_000)
    # Binomial: 400 draws at 0.3 have mean 120 and deviation 9.2.
    assert counts.min() > 120 - 45 and counts.max() < 120 + 45
    assert torch.equal(sampled, index._sample(300))
    index.seed = 0
    assert not torch.equal(sampled, index._sample(300))


# -- stage one -------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [8, 24, 31])
def test_the_places_that_reach_a_threshold_are_those_of_a_loop_ties_included(width):
    scores = torch.randint(5, (3, width), generator=torch.Generator().manual_seed(0)).float()
    thresholds = torch.tensor([3.0, -math.inf, math.inf])
    expected = [(b, n) for b in range(3) for n in range(width) if scores[b, n] >= thresholds[b]]
    rows, columns = places_at_least(scores, thresholds)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == expected


def test_the_survivors_are_all_items_that_reach_the_threshold(monkeypatch):
    monkeypatch.setattr("genrec_lite.retrieval.corpus.BLOCK_ITEMS", 300)
    monkeypatch.setattr(h_indexer, "CHUNK_ITEMS", 128)
    coarse, queries = unit(1_000, seed=1), unit(5, seed=2)
    index = HIndexer(DotProduct(), coarse, coarse, candidates=900, coarse_dtype=torch.float32)
    scores = queries.double() @ coarse.double().t()
    thresholds = scores.sort(1).values[:, [-1, -10, -100, -800, 0]].diag().float() - 1e-6
    kept = index.candidates_of(queries, thresholds)
    assert [len(places) for places in kept] == [1, 10, 100, 800, 1_000]
    for row, places in enumerate(kept):
        assert places.tolist() == (scores[row] >= thresholds[row]).nonzero().flatten().tolist()


def test_a_query_that_has_seen_enough_gathers_no_more_places(mol, monkeypatch):
    monkeypatch.setattr(corpus, "BLOCK_ITEMS", 50)
    vectors = unit(400, seed=0)
    index = HIndexer(mol, items_of(mol, vectors), vectors, candidates=30)
    everything, nothing = index.candidates_of(vectors[:2], torch.tensor([-math.inf, math.inf]))
    assert everything.tolist() == list(range(100))  # two blocks: the first is not above 2 x 30
    assert not len(nothing)


def test_the_score_matrix_is_never_written(mol, monkeypatch):
    coarse, queries = unit(40_000, seed=1), queries_of(mol, unit(8, seed=2))
    index = HIndexer(mol, items_of(mol, coarse), coarse, candidates=4_000)
    largest = []
    right = h_indexer._coarse_scores

    def watched(*sides):
        scores = right(*sides)
        largest.append(scores.numel())
        return scores

    monkeypatch.setattr(h_indexer, "_coarse_scores", watched)
    index.search(queries, 10)
    sampled = sample_size(40_000, 4_000)
    assert max(largest) == 8 * max(sampled, h_indexer.CHUNK_ITEMS) < 8 * 40_000 / 6


def test_int8_is_off_by_no_more_than_half_a_step_an_entry():
    coarse, queries = unit(500, seed=1), unit(7, seed=2)
    kept = h_indexer._kept(coarse, torch.int8)
    scores = h_indexer._coarse_scores(queries, kept).double() / 127
    error = (scores - queries.double() @ coarse.double().t()).abs()
    assert kept.dtype == torch.int8 and error.max() > 1e-4
    assert (error <= (queries.abs().sum(1, keepdim=True) * 0.5 / 127) + 1e-6).all()


# -- both stages -----------------------------------------------------------------------------


def test_with_room_for_every_item_it_is_brute_force_ties_included(mol):
    vectors = unit(60, seed=1).repeat(3, 1)  # each item three times
    items, queries = items_of(mol, vectors), queries_of(mol, unit(33, seed=2))
    exclude = JaggedTensor.from_lists([[row, 5] for row in range(33)])
    exact = BruteForce(mol, items).search(queries.fine, 20, exclude)
    found = HIndexer(mol, items, vectors, candidates=180).search(queries, 20, exclude)
    assert torch.equal(found.ids, exact.ids)
    assert torch.allclose(found.scores, exact.scores, atol=1e-5)
    assert found.rescored.tolist() == [179 if row == 5 else 178 for row in range(33)]


def test_what_stage_one_keeps_stage_two_ranks_as_in_float64(mol, monkeypatch):
    coarse, fine = unit(2_000, seed=1), items_of(mol, unit(2_000, seed=3))
    queries = queries_of(mol, unit(6, seed=2))
    index = HIndexer(mol, fine, coarse, candidates=50, coarse_dtype=torch.float32)
    exact = (queries.coarse @ coarse.t()).topk(50).values[:, -1]
    monkeypatch.setattr(index, "thresholds", lambda coarse: exact)
    found = index.search(queries, 10)
    assert found.ids.tolist() == reference(mol, queries, fine, coarse, 50, 10)
    assert found.rescored.tolist() == [50] * 6
    everything = BruteForce(mol, fine).search(queries.fine, 10)
    assert not torch.equal(found.ids, everything.ids)  # stage one did leave items out


@pytest.mark.parametrize("judged", [math.inf, -math.inf])
def test_a_threshold_far_off_gives_way_to_the_exact_top_k_of_stage_one(mol, monkeypatch, judged):
    coarse, fine = unit(900, seed=1), items_of(mol, unit(900, seed=3))
    queries = queries_of(mol, unit(5, seed=2))
    excluded = [[row, 100, 5_000] for row in range(5)]
    index = HIndexer(mol, fine, coarse, candidates=40, coarse_dtype=torch.float32)
    right = index.thresholds(queries.coarse)

    def misjudged(coarse):
        return torch.cat([right[:1], torch.full((4,), judged)])

    monkeypatch.setattr(index, "thresholds", misjudged)
    found = index.search(queries, 40, JaggedTensor.from_lists(excluded))
    expected = reference(mol, queries, fine, coarse, 40, 40, excluded)
    assert found.ids[1:].tolist() == expected[1:]
    assert found.rescored[1:].tolist() == [40] * 4


def test_items_that_all_score_alike_are_cut_by_the_lower_id(mol):
    coarse, fine = unit(1, seed=1).expand(700, -1), items_of(mol, unit(700, seed=3))
    queries, ids = queries_of(mol, unit(2, seed=2)), torch.arange(700).flip(0) * 2
    index = HIndexer(mol, fine, coarse, ids, candidates=50)
    found = index.search(queries, 50, JaggedTensor.from_lists([[0, 2, 3], []], torch.int64))
    assert found.rescored.tolist() == [50, 50]
    assert found.ids[0].sort().values.tolist() == list(range(4, 104, 2))
    assert found.ids[1].sort().values.tolist() == list(range(0, 100, 2))


def test_excluded_items_are_never_found_and_k_are_left_to_the_last(mol):
    coarse = unit(300, seed=1)
    queries = queries_of(mol, unit(2, seed=2))
    index = HIndexer(mol, items_of(mol, coarse), coarse, candidates=20)
    exclude = JaggedTensor.from_lists([list(range(10, 300)), list(range(0, 290))])
    found = index.search(queries, 10, exclude)
    assert found.ids.sort(1).values.tolist() == [list(range(10)), list(range(290, 300))]
    with pytest.raises(ValueError, match="k is 11, but only 10 items are left"):
        index.search(queries, 11, exclude)
    with pytest.raises(ValueError, match="only 0 items are left"):
        index.search(queries, 1, JaggedTensor.from_lists([list(range(300)), [0]]))


def test_co_trained_coarse_vectors_find_what_the_fine_ones_rank_first():
    vectors, queries = unit(20_000, seed=1), unit(8, seed=2)
    index = HIndexer(DotProduct(), vectors, vectors, candidates=1_000)
    exact = BruteForce(DotProduct(), vectors).search(queries, 100)
    found = index.search(StagedQueries(queries, queries), 100)
    assert torch.equal(found.ids, exact.ids)
    assert (found.rescored < 1_400).all()


# -- adding, removing, files -----------------------------------------------------------------


@pytest.fixture
def made(mol, monkeypatch):
    monkeypatch.setattr("genrec_lite.retrieval.corpus.BLOCK_ITEMS", 100)
    vectors = unit(400, seed=1)
    return vectors, items_of(mol, vectors), queries_of(mol, unit(4, seed=2))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float32])
def test_adding_and_removing_gives_what_a_new_index_finds(mol, made, dtype):
    vectors, items, queries = made
    index = HIndexer(mol, items[:300], vectors[:300], candidates=400, coarse_dtype=dtype)
    index.remove(torch.arange(50, 120))
    index.add(items[300:], vectors[300:], torch.arange(1_000, 1_100).flip(0))
    index.add(items[50:120], vectors[50:120], torch.arange(50, 120))
    ids = torch.cat([torch.arange(300), torch.arange(1_000, 1_100).flip(0)])
    anew = HIndexer(mol, items, vectors, ids, candidates=400, coarse_dtype=dtype)
    assert torch.equal(index.search(queries, 30).ids, anew.search(queries, 30).ids)
    assert index.memory_bytes == anew.memory_bytes and len(index) == 400


@pytest.mark.parametrize("dtype", [torch.int8, torch.float32])
def test_a_file_gives_back_the_same_index(mol, made, tmp_path, dtype):
    vectors, items, queries = made
    index = HIndexer(mol, items, vectors, candidates=90, coarse_dtype=dtype)
    index.save(tmp_path / "index")
    again = HIndexer.load(tmp_path / "index", mol, candidates=90)
    assert again.coarse_dtype == dtype and again.memory_bytes == index.memory_bytes
    for one, other in zip(index.search(queries, 20), again.search(queries, 20), strict=True):
        assert torch.equal(one, other)


def test_its_file_gives_other_indexes_the_items_alone(mol, made, tmp_path):
    vectors, items, queries = made
    HIndexer(mol, items, vectors, candidates=60).save(tmp_path / "index.st")
    brute = BruteForce.load(tmp_path / "index.st", mol)
    assert brute.memory_bytes == BruteForce(mol, items).memory_bytes
    brute.add(items[:1], torch.tensor([900]))
    assert len(brute) == 401


def test_a_foreign_or_shortened_file_is_refused_by_name(mol, made, tmp_path):
    vectors, items, _ = made
    BruteForce(mol, items).save(tmp_path / "brute")
    with pytest.raises(ValueError, match=r"brute is an index of another kind"):
        HIndexer.load(tmp_path / "brute", mol)
    HIndexer(mol, items, vectors).save(tmp_path / "index")
    whole = (tmp_path / "index").read_bytes()
    (tmp_path / "index").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="index is cut short"):
        HIndexer.load(tmp_path / "index", mol)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32])
def test_the_memory_is_that_of_the_tensors_held(mol, made, dtype):
    vectors, items, _ = made
    index = HIndexer(mol, items.to(torch.bfloat16), vectors, coarse_dtype=dtype)
    held = sum(t.nbytes for block in index.corpus.blocks for t in block.tensors().values())
    # ids, coarse, components (2 x 8) and gate (4) in bfloat16
    by_hand = 400 * (8 + DIM * {torch.int8: 1, torch.bfloat16: 2, torch.float32: 4}[dtype] + 40)
    assert index.memory_bytes == held == by_hand


# -- bad input -------------------------------------------------------------------------------


def test_bad_items_are_refused_and_nothing_is_lost(mol, made):
    vectors, items, queries = made
    index = HIndexer(mol, items, vectors, candidates=60)
    before = index.search(queries, 10)
    broken = vectors[:2].clone()
    broken[1, 3] = math.nan
    new = torch.tensor([900, 901])
    for coarse, ids, message in [
        (broken, new, "row 1 of the coarse vectors has length nan"),
        (vectors[:2] * 3, new, "row 0 of the coarse vectors has length 3: expected unit vectors"),
        (vectors[:2], torch.tensor([900, 7]), "id 7 is in the corpus already"),
        (vectors[:2], torch.tensor([900, 900]), "id 900 comes twice"),
        (vectors[:1], new, "2 ids for 1 rows of coarse"),
        (unit(2, seed=1, dim=5), new, "beside.coarse"),
    ]:
        with pytest.raises(ValueError, match=message):
            index.add(items[:2], coarse, ids)
    spoilt = MixtureSide(items.components[:2] * math.nan, items.gate[:2])
    with pytest.raises(ValueError, match="NaN"):
        index.add(spoilt, vectors[:2], new)
    with pytest.raises(ValueError, match="expected \\(N, d1\\)"):
        HIndexer(mol, items, vectors[0])
    assert all(torch.equal(*pair) for pair in zip(before, index.search(queries, 10), strict=True))


def test_bad_questions_are_refused(mol, made):
    vectors, items, queries = made
    index = HIndexer(mol, items, vectors, candidates=60)
    nowhere = StagedQueries(queries.coarse * math.nan, queries.fine)
    narrow = StagedQueries(queries.coarse[:, :5], queries.fine)
    for asked, k, message in [
        (queries, 61, "k is 61, candidates 60"),
        (queries, 401, "k is 401, but the index holds 400"),
        (queries, 0, "k is 0"),
        (queries[:0], 5, "there is no query"),
        (nowhere, 5, "query 0 hold NaN"),
        (narrow, 5, "5 wide"),
    ]:
        with pytest.raises(ValueError, match=message):
            index.search(asked, k)
    with pytest.raises(ValueError, match="items are a Tensor, but a MixtureOfLogits scores a M"):
        HIndexer(mol, vectors, vectors)
    with pytest.raises(ValueError, match="4 coarse and 3 fine queries"):
        StagedQueries(queries.coarse, queries.fine[:3])
    with pytest.raises(ValueError, match="exclude has 1 rows for 4"):
        index.search(queries, 5, JaggedTensor.from_lists([[1]]))
    for options in ({"candidates": 0}, {"tolerance": 0.0}, {"tolerance": math.nan}):
        with pytest.raises(ValueError, match="at least 1 and above 0"):
            HIndexer(mol, items, vectors, **options)
    with pytest.raises(ValueError, match="coarse_dtype is torch.uint8: choose torch.int8 or a fl"):
        HIndexer(mol, items, vectors, coarse_dtype=torch.uint8)


def test_an_index_emptied_finds_nothing_and_can_be_filled_again(mol, made):
    vectors, items, queries = made
    index = HIndexer(mol, items, vectors, candidates=60)
    index.remove(torch.arange(400))
    assert (index.search_up_to(queries, 3).ids == -1).all()
    index.add(items[:5], vectors[:5], torch.arange(5))
    assert index.search(queries, 5).ids.sort(1).values.tolist() == [[0, 1, 2, 3, 4]] * 4
