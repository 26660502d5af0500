"""Stage one of the h-indexer over 1M and 10M items: a sampled threshold beside a full top-k'."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from genrec_lite.bench.mol_top_k import extended
from genrec_lite.bench.timing import Benchmark, Comparison, peak_bytes
from genrec_lite.metrics import recall_at_k
from genrec_lite.recipes import load_trained
from genrec_lite.retrieval.brute_force import BruteForce
from genrec_lite.retrieval.h_indexer import HIndexer, StagedQueries, places_at_least, sample_size
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.retrieval.top_k import TopK
from genrec_lite.similarity.sides import Side

__all__ = [
    "BENCHMARK",
    "BENCHMARK_10M",
    "by_brute_force",
    "compare",
    "compare_large",
    "extended_index",
    "staged_queries",
]

MODEL = "movielens-small-mol"
DATA = f"{MODEL}: its items, and copies of them with noise"
BATCH, K = 32, 100
CHUNK = 65_536
LISTS, PROBES = 512, 16  # of faiss IVF
FEW = 4  # queries whose exact answer is computed, at half a second of CPU each and million items


@torch.no_grad()
def extended_index(model: NextItemModel, num_items: int, **options: Any) -> HIndexer:
    """The h-indexer of a trained model's items and noisy copies of them, in bfloat16 and int8.

    Made by additions, so that of the sides in float32 only a chunk ever exists.

    Args:
        model: with a coarse similarity.
        num_items: how many; the trained ones come first, see `extended`.
        options: further ones of `HIndexer`.
    Raises:
        ValueError: if `num_items` is below the number of trained items, or the model has no
            coarse similarity.
    """
    table = model.encoder.item_embedding.weight
    if num_items < len(table):
        raise ValueError(f"num_items is {num_items}: at least the {len(table)} of the model")

    if model.coarse is None:
        raise ValueError("this model has no first stage: give NextItemModel(coarse=...)")
    coarse = model.coarse

    def sides(chunk: Tensor) -> tuple[Side, Tensor]:
        fine = model.similarity.items(chunk).to(torch.bfloat16)
        return fine, coarse.items(chunk)

    index = HIndexer(model.similarity, *sides(table), **options)
    step = CHUNK // len(table) * len(table) or CHUNK  # whole copies of the table
    for number, at in enumerate(range(len(table), num_items, step)):
        copies = min(step, num_items - at)
        chunk = extended(table, len(table) + copies, seed=number)[len(table) :]
        index.add(*sides(chunk), torch.arange(at, at + copies))
    return index


def by_brute_force(index: HIndexer) -> BruteForce:
    """The exact search of the same items, which are not copied."""
    exact = BruteForce(index.similarity, index.corpus.template.items)
    exact.corpus = index.corpus
    return exact


def staged_queries(model: NextItemModel, batch: int) -> StagedQueries:
    """The histories of the first `batch` users who are tested."""
    history = load_trained(MODEL)[1].test.history[:batch]
    return StagedQueries(model.coarse_queries(history), model.queries(history))


def _first_stage(index: HIndexer, coarse: Tensor) -> list[Tensor]:
    return index.candidates_of(coarse, index.thresholds(coarse))


def _checked(index: HIndexer, queries: StagedQueries, k: int) -> tuple[dict[str, Any], TopK]:
    """What stage one kept and both stages found, beside the exact answers of some queries."""
    kept = torch.tensor([len(places) for places in _first_stage(index, queries.coarse)])
    found = index.search(queries, k)
    few = queries[:FEW]
    exact = by_brute_force(index).search(few.fine, k)
    setting = {
        "items": len(index),
        "queries": len(queries),
        "k": k,
        "candidates": index.candidates,
        "sampled": sample_size(len(index), index.candidates, index.tolerance),
        "least_kept": int(kept.min()),
        "most_kept": int(kept.max()),
        "largest_error_of_candidates": float((kept / index.candidates - 1).abs().max()),
        "recall": float(recall_at_k(found.ids[:FEW], exact.ids)),
        "queries_of_recall": len(few),
        "index_bytes": index.memory_bytes,
    }
    return setting, exact


@torch.no_grad()
def compare(num_items: int = 1_000_000, *, candidates: int = 10_000, k: int = K) -> Comparison:
    """Stage one, then ours and others' ways to parts and to the whole of the search.

    Args:
        num_items: N; made of the trained items, see `extended`.
        candidates: k'.
        k: how many are to be found in the end.
    """
    import faiss

    faiss.omp_set_num_threads(1)  # the benchmark's way of counting, see `measure`
    model, _ = load_trained(MODEL)
    queries = staged_queries(model, BATCH)
    index = extended_index(model, num_items, candidates=candidates)
    setting, exact = _checked(index, queries, k)
    coarse = queries.coarse
    # The same vectors for all: what int8 holds, as float32.
    wide = torch.cat([block.beside["coarse"].float() for block in index.corpus.blocks])  # (N, d1)
    in_float = extended_index(model, num_items, candidates=candidates, coarse_dtype=torch.float32)
    flat = faiss.IndexFlatIP(wide.shape[1])
    flat.add(wide.numpy())
    lists = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(wide.shape[1]), wide.shape[1], LISTS, faiss.METRIC_INNER_PRODUCT
    )
    lists.cp.niter, lists.cp.max_points_per_centroid = 5, 64  # enough to cut the corpus into lists
    lists.train(wide.numpy())
    lists.add(wide.numpy())
    lists.nprobe = PROBES
    scores, thresholds = coarse @ wide.t(), index.thresholds(coarse)
    asked = coarse.numpy()

    def faiss_recall(by: Any) -> float:
        found = torch.from_numpy(by.search(asked, k)[1])
        return float(recall_at_k(found[: len(exact.ids)], exact.ids))

    setting |= {
        "faiss_flat_recall": faiss_recall(flat),
        "faiss_ivf_recall": faiss_recall(lists),
        "data": DATA,
    }

    def two_threads() -> None:
        with _threads(min(2, os.cpu_count() or 1)):
            _first_stage(index, coarse)

    def threshold_step() -> None:
        index.thresholds(coarse)
        places_at_least(scores, thresholds)

    def full_top(every: Tensor) -> None:
        every.topk(candidates, sorted=False)

    return Comparison(
        lambda: _first_stage(index, coarse),
        {
            "stage one with a full top-k'": lambda: (coarse @ wide.t()).topk(
                candidates, sorted=False
            ),
            "stage one, two threads": two_threads,
            "stage one in float32": lambda: _first_stage(in_float, coarse),
            "threshold step, scores given": threshold_step,
            "full top-k', scores given": lambda: full_top(scores),
            "both stages": lambda: index.search(queries, k),
            "dot product alone, faiss flat": lambda: flat.search(asked, k),
            f"dot product alone, faiss IVF {PROBES}/{LISTS}": lambda: lists.search(asked, k),
        },
        setting,
    )


@torch.no_grad()
def compare_large(
    num_items: int = 10_000_000, *, candidates: int = 100_000, k: int = K
) -> Comparison:
    """Stage one beside both stages on a corpus that is built by additions; see `compare`."""
    model, _ = load_trained(MODEL)
    queries = staged_queries(model, BATCH)
    index = extended_index(model, num_items, candidates=candidates)
    setting, _ = _checked(index, queries, k)
    setting |= {
        "peak_bytes": peak_bytes(),
        "data": DATA,
    }
    return Comparison(
        lambda: _first_stage(index, queries.coarse),
        {"both stages": lambda: index.search(queries, k)},
        setting,
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


BENCHMARK = Benchmark(
    "h-indexer",
    "1M items x 64, 32 queries: the best 10,000 or so by a sampled threshold, then MoL",
    compare,
    repeats=5,
)
BENCHMARK_10M = Benchmark(
    "h-indexer-10m",
    "the same on 10M items in int8 and bfloat16: time and peak memory",
    compare_large,
    repeats=3,
)
