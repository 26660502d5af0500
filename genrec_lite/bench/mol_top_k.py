"""Top 100 by a mixture of logits among 100,000 items: exact, and approximate at equal recall.

The corpus is the trained item table of MovieLens small, extended: each further item is a trained
one with noise added to its embedding (`extended`). It stands in for a larger catalogue of the
same model, and has more near neighbours than a real one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from genrec_lite.bench.mol_brute_force import require_equal
from genrec_lite.bench.timing import Benchmark, Comparison
from genrec_lite.metrics import recall_at_k
from genrec_lite.recipes.trained import load_trained
from genrec_lite.retrieval.brute_force import BruteForce
from genrec_lite.retrieval.mol_top_k import Average, Combined, ExactTwoPass, PerComponent
from genrec_lite.similarity.mixture_of_logits import MixtureOfLogits
from genrec_lite.similarity.sides import MixtureSide

__all__ = ["BENCHMARK", "FaissThenMixture", "compare", "extended", "prepare"]

NUM_ITEMS, K, BATCH = 100_000, 100, 32
QUERIES = 64  # to choose the number of candidates with, and as many others to report recall on
ENOUGH = 0.99  # recall on the queries chosen with, and on those reported
CANDIDATES = (100, 150, 200, 250, 300, 400, 500, 700, 1_000, 1_500, 2_000, 3_000, 5_000, 10_000)
EACH = (20, 50, 100, 150, 200, 300, 400, 500, 700, 1_000, 2_000)
SPREAD = 0.5
CELLS, PROBED = 256, 160  # of faiss IVF: lists, and how many of them a search looks into
LINKS, LOOKED_AT = 32, 1024  # of faiss HNSW: neighbours of a node, and width of a search


def extended(
    embeddings: Tensor, num_items: int, *, spread: float = SPREAD, seed: int = 0
) -> Tensor:
    """(num_items, d): the given (N, d) first, then copies of them in turn with noise added.

    Args:
        embeddings: (N, d) trained item embeddings.
        num_items: at least N.
        spread: standard deviation of the noise in each dimension, in units of the table's own.
        seed: of the noise.
    Raises:
        ValueError: if `num_items` is below N.
    """
    if num_items < len(embeddings):
        raise ValueError(f"num_items is {num_items}: at least the {len(embeddings)} given")
    generator = torch.Generator().manual_seed(seed)
    copied = torch.arange(num_items - len(embeddings)) % len(embeddings)
    noise = torch.randn(len(copied), embeddings.shape[1], generator=generator)
    return torch.cat([embeddings, embeddings[copied] + spread * embeddings.std(0) * noise])


class FaissThenMixture:
    """Candidates by faiss on the averaged components, then scored by the mixture.

    Args:
        kind: "flat", "IVF" or "HNSW".
        mixture: scores the candidates.
        items: item sides of all items.
    """

    def __init__(self, kind: str, mixture: MixtureOfLogits, items: MixtureSide) -> None:
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        self.mixture, self.items, self.k_candidates = mixture, items, 0
        vectors = items.components.mean(1).numpy()
        dim, product = vectors.shape[1], faiss.METRIC_INNER_PRODUCT
        self.index: Any
        if kind == "IVF":
            self.index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, CELLS, product)
            self.index.train(vectors[:: max(1, len(vectors) // (64 * CELLS))])
            self.index.nprobe = PROBED
        elif kind == "HNSW":
            self.index = faiss.IndexHNSWFlat(dim, LINKS, product)
            self.index.hnsw.efSearch = LOOKED_AT
        else:
            self.index = faiss.IndexFlatIP(dim)
        self.index.add(vectors)

    def ids(self, queries: MixtureSide, k: int) -> Tensor:
        """(B, k) ids of the best of `k_candidates` items for each query."""
        _, found = self.index.search(queries.components.mean(1).numpy(), self.k_candidates)
        best = []
        for row, candidates in enumerate(torch.from_numpy(found)):
            candidates = candidates[candidates >= 0]  # where the cells held too few
            scores = self.mixture.score(queries[row : row + 1], self.items[candidates])[0]
            best.append(candidates[scores.topk(k).indices])
        return torch.stack(best)


def compare(
    mixture: MixtureOfLogits, items: MixtureSide, choosing: MixtureSide, queries: MixtureSide
) -> Comparison:
    """The searches, each with the fewest candidates that find enough of the exact top 100.

    Args:
        mixture: trained.
        items: item sides of the corpus.
        choosing: query sides that the number of candidates is chosen with.
        queries: others, to report recall on; the first `BATCH` are timed.
    Raises:
        AssertionError: if the two-pass search differs from brute force, or a way finds too few
            items.
    """
    brute, two_pass = BruteForce(mixture, items), ExactTwoPass(mixture, items)
    exact, exact_choosing = brute.search(queries, K), brute.search(choosing, K).ids
    by_two = two_pass.search(queries, K)
    equal = require_equal("two-pass", by_two.scores, by_two.ids, exact.scores, exact.ids)
    indexes: dict[str, tuple[Any, str, tuple[int, ...]]] = {
        "average": (Average(mixture, items), "k_candidates", CANDIDATES),
        "per component": (PerComponent(mixture, items), "k_each", EACH),
        "combined": (Combined(mixture, items, k_each=5), "k_candidates", CANDIDATES),
    }
    for kind in ("flat", "IVF", "HNSW"):
        way = FaissThenMixture(kind, mixture, items)
        indexes[f"faiss {kind}, rescored"] = (way, "k_candidates", CANDIDATES)
    setting: dict[str, Any] = {
        "data": "movielens-small, extended",
        "items": len(items),
        "queries": BATCH,
        "k": K,
        "equal_ids": equal,
        "exact rescored": float(by_two.rescored.float().mean()),
    }
    timed = queries[:BATCH]
    ways: dict[str, Callable[[], object]] = {}
    for name, (index, option, ladder) in indexes.items():
        chosen = _fewest(name, index, option, ladder, choosing, exact_choosing)
        found = _ids(index, queries)
        recall = float(recall_at_k(found, exact.ids))
        if recall < ENOUGH:
            raise AssertionError(f"{name}: recall@{K} is {recall:.3f}, below {ENOUGH}")
        setting |= {
            f"{name} {option}": chosen,
            f"{name} recall@100": recall,
            f"{name} top-1 found": float(recall_at_k(found, exact.ids[:, :1])),
        }
        ways[name] = partial(_ids, index, timed)
    peers = {
        "brute force": partial(_ids, brute, timed),
        "exact, two passes": partial(_ids, two_pass, timed),
    }
    return Comparison(ways.pop("average"), {**peers, **ways}, setting)


@torch.no_grad()
def _ids(index: Any, queries: MixtureSide) -> Tensor:
    """(B, 100) what an index of either kind finds."""
    if isinstance(index, FaissThenMixture):
        return index.ids(queries, K)
    ids: Tensor = index.search(queries, K).ids
    return ids


def _fewest(
    name: str,
    index: Any,
    option: str,
    ladder: tuple[int, ...],
    queries: MixtureSide,
    exact: Tensor,
) -> int:
    """The first step of the ladder with enough recall, which the index is left at."""
    best = 0.0
    for step in ladder:
        setattr(index, option, step)
        best = max(best, float(recall_at_k(_ids(index, queries), exact)))
        if best >= ENOUGH:
            return step
    raise AssertionError(
        f"{name}: recall@{K} is {best:.3f} at most, with {option} up to {ladder[-1]}; "
        f"{ENOUGH} is asked for"
    )


def prepare(num_items: int = NUM_ITEMS) -> Comparison:
    """The comparison on the trained weights that come with the repository."""
    model, split = load_trained("movielens-small-mol")
    assert isinstance(model.similarity, MixtureOfLogits) and split.validation is not None
    with torch.no_grad():
        items = model.similarity.items(extended(model.encoder.item_embedding.weight, num_items))
    choosing, queries = (
        model.queries(each.history[:QUERIES]) for each in (split.validation, split.test)
    )
    assert isinstance(choosing, MixtureSide) and isinstance(queries, MixtureSide)
    return compare(model.similarity, items, choosing, queries)


BENCHMARK = Benchmark(
    "mol-top-k",
    "mixture of logits: the best 100 of 100,000 items for 32 queries, at recall .99",
    prepare,
    repeats=7,
)
