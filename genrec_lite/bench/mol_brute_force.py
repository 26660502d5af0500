"""A mixture of logits against a whole corpus: ours beside the published way, at the same top-k."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec_lite.bench.timing import Benchmark, Comparison
from genrec_lite.retrieval.brute_force import BruteForce
from genrec_lite.retrieval.scoring import chunk_of_items
from genrec_lite.similarity.dot_product import DotProduct
from genrec_lite.similarity.mixture_of_logits import MixtureOfLogits
from genrec_lite.similarity.sides import MixtureSide

__all__ = ["BENCHMARK", "compare", "matrix_products", "published_top_k", "require_equal"]

SIZES = (27_278, 3_883)  # items of MovieLens 20M and 1M
BATCH, K, DIM = 32, 120, 50  # batch and k are those of the published latencies
TOLERANCE = 1e-4  # relative, of scores
# Of all places: two ways of computing a score round differently, and neighbours may swap.
EQUAL_AT_LEAST = 0.995


def published_top_k(
    mixture: MixtureOfLogits, x: Tensor, embeddings: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """(B, k) scores and ids as the public code computes them: the item side anew for each batch.

    Args:
        mixture: the weights.
        x: (B, d) encoder outputs.
        embeddings: (N, d) item embeddings.
        k: how many.
    """
    pairs = mixture.query_components * mixture.item_components
    x = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    f = mixture.query_projection(x).view(len(x), -1, mixture.component_dim)
    g = mixture.item_projection(embeddings).view(len(embeddings), -1, mixture.component_dim)
    f, g = F.normalize(f, dim=-1, eps=1e-6), F.normalize(g, dim=-1, eps=1e-6)
    logits = torch.einsum("bpd,nqd->bnpq", f, g).reshape(len(x), len(g), pairs)
    logits = logits / mixture.temperature  # (B, N, P)

    def perceptron(network: Any, given: Tensor) -> Tensor:
        return network.contract(F.silu(network.expand(given)))

    gate = perceptron(mixture.query_gate, x)[:, None] * perceptron(mixture.item_gate, embeddings)
    gate = gate + perceptron(mixture.pair_gate, logits)  # (B, N, P)
    weights = torch.softmax(gate * torch.sigmoid(gate), -1)
    return (weights * logits).sum(-1).topk(k, dim=1)


def matrix_products(mixture: MixtureOfLogits, queries: MixtureSide, items: MixtureSide) -> None:
    """The matrix products of all scores and nothing else: what no way with these weights avoids."""
    step = chunk_of_items(queries, items)
    f = queries.components.flatten(0, 1)
    expand, contract = mixture.pair_gate.expand.weight, mixture.pair_gate.contract.weight
    for at in range(0, len(items), step):
        logits = f @ items.components[at : at + step].flatten(0, 1).t()  # (B P_Q, n P_X)
        logits.view(-1, contract.shape[0]) @ expand.t() @ contract.t()


def require_equal(
    name: str, scores: Tensor, ids: Tensor, peer_scores: Tensor, peer_ids: Tensor
) -> float:
    """Share of places that hold the same id, in two results (B, k) found equal.

    Raises:
        AssertionError: if a score differs by more than `TOLERANCE` relatively, or fewer than
            `EQUAL_AT_LEAST` of the places agree.
    """
    difference = float(((scores - peer_scores).abs() / peer_scores.abs().clamp(min=1)).max())
    equal = float((ids == peer_ids).float().mean())
    if not difference <= TOLERANCE or equal < EQUAL_AT_LEAST:
        raise AssertionError(
            f"{name}: scores differ by {difference:.1e} (at most {TOLERANCE}), "
            f"{equal:.2%} of the ids are equal (at least {EQUAL_AT_LEAST:.1%})"
        )
    return equal


@torch.no_grad()
def compare(sizes: tuple[int, ...] = SIZES, *, k: int = K, batch: int = BATCH) -> Comparison:
    """The searches at each corpus size, the first one's `ours` against all others.

    Untrained weights: the cost of a brute force does not depend on them.

    Args:
        sizes: items of each corpus.
        k: items to find.
        batch: queries searched together.
    Raises:
        AssertionError: if two ways find different items.
    """
    ways: dict[str, Callable[[], object]] = {}
    equal = 1.0
    for num_items in sizes:
        generator = torch.Generator().manual_seed(0)
        embeddings = torch.randn(num_items, DIM, generator=generator)
        x = torch.randn(batch, DIM, generator=generator)
        found, agreed = _ways(x, embeddings, k)
        equal = min(equal, agreed)
        ways |= {f"{name}, {num_items:,} items": way for name, way in found.items()}
    names = list(ways)
    ours = ways.pop(names[0])
    setting = {
        "items": sizes[0],
        "queries": batch,
        "k": k,
        "sizes": "8x4x64, gate 128, embeddings of 50",
        "equal_ids": equal,
        "gflop": _gflop(batch, sizes[0]),
    }
    return Comparison(ours, ways, setting)


def _ways(x: Tensor, embeddings: Tensor, k: int) -> tuple[dict[str, Callable[[], object]], float]:
    """The searches of one corpus by name, ours first, and the share of equal ids."""
    import faiss

    mixture, dot = MixtureOfLogits(DIM).eval(), DotProduct()
    sides = mixture.queries(x), mixture.items(embeddings)
    index = BruteForce(mixture, sides[1])
    dot_queries, dot_items = dot.queries(x), dot.items(embeddings)
    dot_index = BruteForce(dot, dot_items)
    faiss.omp_set_num_threads(1)
    flat = faiss.IndexFlatIP(DIM)
    flat.add(dot_items.numpy())

    published = _no_grad(partial(published_top_k, mixture, x, embeddings, k))
    by_faiss = partial(flat.search, dot_queries.numpy(), k)
    found, by_dot = index.search(sides[0], k), dot_index.search(dot_queries, k)
    equal = require_equal("published way", found.scores, found.ids, *published())
    scores, ids = (torch.from_numpy(array) for array in by_faiss())
    require_equal("faiss flat", by_dot.scores, by_dot.ids, scores / dot.temperature, ids)
    ways: dict[str, Callable[[], object]] = {
        # The query side is part of a search, as it is in the published way.
        "ours": _no_grad(lambda: index.search(mixture.queries(x), k)),
        "published way": published,
        "matrix products alone": _no_grad(partial(matrix_products, mixture, *sides)),
        "dot product": lambda: dot_index.search(dot_queries, k),
        "dot product, faiss flat": by_faiss,
    }
    return ways, equal


def _no_grad(way: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with torch.no_grad():
            return way()

    return run


def _gflop(batch: int, num_items: int, pairs: int = 32, dim: int = 64, gate: int = 128) -> float:
    """Billions of floating-point operations of the matrix products of all scores."""
    return batch * num_items * 2 * pairs * (dim + 2 * gate) / 1e9


BENCHMARK = Benchmark(
    "mol-brute-force",
    "mixture of logits 8x4x64: the best 120 of 27,278 and of 3,883 items for 32 queries",
    compare,
    repeats=7,
)
