"""The benchmarks of the mixture of logits: equal results before any timing. Nothing is timed."""

import pytest
import torch

from genrec_lite.bench import BENCHMARKS, mol_brute_force, mol_top_k
from genrec_lite.retrieval.mol_top_k import Average
from genrec_lite.similarity.mixture_of_logits import MixtureOfLogits


def small_scan():
    return mol_brute_force.compare((90, 40), k=12, batch=3)


def test_the_ways_of_scoring_all_items_agree_and_all_can_be_called():
    comparison = small_scan()
    assert comparison.setting["equal_ids"] >= 0.995 and comparison.setting["items"] == 90
    assert next(iter(comparison.peers)) == "published way, 90 items"
    assert {"ours, 40 items", "published way, 40 items", "dot product, faiss flat, 90 items"} <= (
        set(comparison.peers)
    )
    scores, ids = comparison.peers["published way, 90 items"]()
    found = comparison.ours()
    assert found.ids.shape == (3, 12) and torch.equal(found.ids, ids)
    assert torch.allclose(found.scores, scores, atol=1e-4)
    for way in comparison.peers.values():
        way()


def test_the_work_of_the_matrix_products_is_counted_by_hand():
    # 2 x 32 x 64 for the logits, 2 x 32 x 128 twice for the gate: 20,480 for each pair.
    assert small_scan().setting["gflop"] == pytest.approx(3 * 90 * 20_480 / 1e9)


def test_a_published_way_with_other_scores_is_not_timed(monkeypatch):
    right = mol_brute_force.published_top_k

    def shifted(*arguments):
        scores, ids = right(*arguments)
        return scores * 1.001, ids

    monkeypatch.setattr(mol_brute_force, "published_top_k", shifted)
    with pytest.raises(AssertionError, match="published way: scores differ by"):
        small_scan()


def test_equal_scores_of_other_items_are_told():
    scores, ids = torch.zeros(2, 100), torch.arange(200).view(2, 100)
    assert mol_brute_force.require_equal("same", scores, ids, scores, ids) == 1
    with pytest.raises(AssertionError, match=r"flipped: .* 0\.00% of the ids are equal"):
        mol_brute_force.require_equal("flipped", scores, ids, scores, ids.flip(1))
    with pytest.raises(AssertionError, match="scores differ by nan"):
        mol_brute_force.require_equal("broken", scores, ids, scores * torch.nan, ids)


def test_an_extended_table_begins_with_the_given_one_and_goes_on_with_noisy_copies():
    table = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) * 3
    more = mol_top_k.extended(table, 20_050, spread=0.5)
    assert torch.equal(more[:50], table)
    noise = (more[50:].view(-1, 50, 8) - table).flatten(0, 1)
    assert torch.allclose(noise.std(0), 0.5 * table.std(0), rtol=0.05)
    assert torch.equal(more, mol_top_k.extended(table, 20_050, spread=0.5))
    assert not torch.equal(more, mol_top_k.extended(table, 20_050, spread=0.5, seed=1))
    with pytest.raises(ValueError, match="num_items is 49: at least the 50 given"):
        mol_top_k.extended(table, 49)


@pytest.fixture
def searched(monkeypatch):
    """An untrained mixture with 400 items, and query sides to choose with and to report on."""
    monkeypatch.setattr(mol_top_k, "CELLS", 4)
    monkeypatch.setattr(mol_top_k, "PROBED", 4)
    generator = torch.Generator().manual_seed(0)
    mixture = MixtureOfLogits(
        8, query_components=2, item_components=2, component_dim=8, gate_dim=8, query_hidden=8
    ).eval()
    with torch.no_grad():
        items = mixture.items(torch.randn(400, 8, generator=generator))
        queries = mixture.queries(torch.randn(10, 8, generator=generator))
    return mixture, items, queries[:4], queries[4:]


def test_each_search_is_timed_with_enough_candidates(searched):
    comparison = mol_top_k.compare(*searched)
    assert list(comparison.peers) == [
        "brute force", "exact, two passes", "per component", "combined",
        "faiss flat, rescored", "faiss IVF, rescored", "faiss HNSW, rescored",
    ]  # fmt: skip
    setting = comparison.setting
    assert setting["items"] == 400 and setting["equal_ids"] >= 0.995
    exact = comparison.peers["brute force"]()
    assert torch.equal(exact, comparison.peers["exact, two passes"]())
    for name in ("average", "per component", "combined", *list(comparison.peers)[4:]):
        assert setting[f"{name} recall@100"] >= 0.99, name
        assert setting[f"{name} top-1 found"] >= 0.99, name
    assert setting["average k_candidates"] in mol_top_k.CANDIDATES
    ours = comparison.ours()
    assert ours.shape == (6, 100)
    assert torch.isin(ours[0], exact[0]).float().mean() > 0.95


def test_fewer_candidates_than_needed_are_not_settled_for(searched, monkeypatch):
    monkeypatch.setattr(mol_top_k, "CANDIDATES", (100,))
    with pytest.raises(
        AssertionError, match=r"average: recall@100 is 0\.\d+ at most, .* up to 100"
    ):
        mol_top_k.compare(*searched)


def test_a_two_pass_search_that_is_not_exact_is_not_timed(searched, monkeypatch):
    class Blind(Average):
        def __init__(self, similarity, items):
            super().__init__(similarity, items, k_candidates=100)

    monkeypatch.setattr(mol_top_k, "ExactTwoPass", Blind)
    with pytest.raises(AssertionError, match="two-pass: scores differ"):
        mol_top_k.compare(*searched)


def test_the_registry_holds_both_under_their_names():
    assert {"mol-brute-force", "mol-top-k"} <= set(BENCHMARKS)
