"""Benchmarks: our way and its peers, asserted equal, then timed in turns in one process."""

from collections.abc import Callable
from typing import Any

from genrec_lite.bench import (
    full_rank,
    h_indexer,
    hstu_attention,
    hstu_lengths,
    hstu_step,
    jagged_attention,
    m_falcon,
    mol_brute_force,
    mol_top_k,
    request_only,
    sasrec_step,
    stochastic_length,
)
from genrec_lite.bench.timing import Benchmark, measure, record_values

__all__ = ["BENCHMARKS", "TABLES", "measure", "record_values"]

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
        stochastic_length.BENCHMARK,
        m_falcon.BENCHMARK,
    )
}


def _request_tables(device: str, repeats: int) -> dict[str, Any]:
    from genrec_lite.bench import request_tables  # needs DuckDB, which nothing else here does

    return request_tables.table(device, repeats)


# Benchmarks of many settings, on a CPU or a GPU: device, repeats -> a flat record.
TABLES: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "jagged-attention": jagged_attention.table,
    "hstu-attention": hstu_lengths.table,
    "request-only": request_only.table,
    "request-tables": _request_tables,
}
