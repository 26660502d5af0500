"""Benchmarks: our way and its peers, asserted equal, then timed in turns in one process."""

from genrec_lite.bench import (
    full_rank,
    h_indexer,
    hstu_attention,
    hstu_step,
    mol_brute_force,
    mol_top_k,
    sasrec_step,
)
from genrec_lite.bench.timing import Benchmark, measure, record_values

__all__ = ["BENCHMARKS", "measure", "record_values"]

BENCHMARKS: dict[str, Benchmark] = {
    one.name: one
    for one in (
        sasrec_step.BENCHMARK,
        hstu_attention.BENCHMARK,
        hstu_step.BENCHMARK,
        hstu_step.BENCHMARK_LARGE,
        full_rank.BENCHMARK,
        mol_brute_force.BENCHMARK,
        mol_top_k.BENCHMARK,
        h_indexer.BENCHMARK,
        h_indexer.BENCHMARK_10M,
    )
}
