"""The benchmarks of the h-indexer on small corpora: right results first; nothing is timed."""

import pytest
import torch

from genrec_lite.bench import BENCHMARKS, h_indexer
from genrec_lite.bench.mol_top_k import extended
from genrec_lite.encoders.sasrec import SASRec
from genrec_lite.jagged import JaggedTensor
from genrec_lite.notebook.record import write_record
from genrec_lite.retrieval.brute_force import BruteForce
from genrec_lite.retrieval.h_indexer import sample_size
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.similarity.mixture_of_logits import MixtureOfLogits
from genrec_lite.similarity.projected_dot_product import ProjectedDotProduct

FILMS, USERS = 300, 32


class Split:
    """Histories of USERS users."""

    class test:  # noqa: N801
        history = JaggedTensor.from_lists([[user, user + 1, 2 * user] for user in range(USERS)])


@pytest.fixture
def model(monkeypatch):
    """A small untrained model, given in place of the trained one."""
    mixture = MixtureOfLogits(
        12, query_components=2, item_components=2, component_dim=8, gate_dim=8, query_hidden=16
    )
    encoder = SASRec(FILMS, dim=12, max_length=8)
    model = NextItemModel(encoder, mixture, coarse=ProjectedDotProduct(12, 64)).eval()
    monkeypatch.setattr(h_indexer, "load_trained", lambda name: (model, Split))
    monkeypatch.setattr(h_indexer, "LISTS", 8)
    return model


def test_the_extended_index_holds_the_trained_items_first_and_copies_chunk_by_chunk(
    model, monkeypatch
):
    monkeypatch.setattr(h_indexer, "CHUNK", 2 * FILMS + 1)
    index = h_indexer.extended_index(model, 1_000)
    table = model.encoder.item_embedding.weight.detach()
    chunks = [
        table,
        extended(table, 3 * FILMS, seed=0)[FILMS:],
        extended(table, FILMS + 100, seed=1)[FILMS:],
    ]
    expected = model.similarity.items(torch.cat(chunks)).to(torch.bfloat16)
    places = torch.arange(1_000)
    items, ids = index.corpus.take(places)
    assert torch.equal(ids, places)
    assert torch.equal(items.components, expected.components)
    with pytest.raises(ValueError, match="num_items is 299: at least the 300"):
        h_indexer.extended_index(model, 299)
    model.coarse = None
    with pytest.raises(ValueError, match="no first stage"):
        h_indexer.extended_index(model, 300)


def test_every_way_can_be_called_and_the_setting_says_how_good_the_results_are(model, tmp_path):
    comparison = h_indexer.compare(6_000, candidates=900, k=20)
    setting = comparison.setting
    assert (setting["items"], setting["queries"], setting["k"]) == (6_000, USERS, 20)
    assert setting["sampled"] == sample_size(6_000, 900)
    assert setting["least_kept"] <= setting["most_kept"] < 1_800
    for name in ("recall", "faiss_flat_recall", "faiss_ivf_recall"):
        assert 0 < setting[name] <= 1
    assert list(comparison.peers)[0] == "stage one with a full top-k'"
    assert len(comparison.ours()) == USERS
    for way in comparison.peers.values():
        way()
    write_record("bench", dict(setting), seed=0, command="bench", folder=tmp_path)


def test_the_recall_is_that_of_the_first_queries_against_brute_force(model):
    index = h_indexer.extended_index(model, 2_000, candidates=400)
    queries = h_indexer.staged_queries(model, USERS)
    setting, exact = h_indexer._checked(index, queries, 30)
    items = index.corpus.take(torch.arange(2_000))[0]
    truth = BruteForce(model.similarity, items).search(queries.fine[: h_indexer.FEW], 30)
    assert torch.equal(exact.ids, truth.ids)
    found = index.search(queries, 30).ids[: h_indexer.FEW]
    shared = [len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.ids.tolist(), strict=True)]
    assert setting["recall"] == pytest.approx(sum(shared) / (30 * h_indexer.FEW))


def test_the_large_corpus_reports_its_peak_memory(model):
    comparison = h_indexer.compare_large(3_000, candidates=500, k=10)
    assert comparison.setting["peak_bytes"] > comparison.setting["index_bytes"] > 3_000 * 72
    assert len(comparison.ours()) == USERS
    assert len(comparison.peers["both stages"]().ids) == USERS


def test_both_are_in_the_registry():
    assert {"h-indexer", "h-indexer-10m"} <= set(BENCHMARKS)
