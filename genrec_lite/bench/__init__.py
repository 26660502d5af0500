"""Benchmarks: our way and its peers, asserted equal, then timed in turns in one process."""

from genrec_lite.bench import full_rank, sasrec_step
from genrec_lite.bench.timing import Benchmark, measure, record_values

__all__ = ["BENCHMARKS", "measure", "record_values"]

BENCHMARKS: dict[str, Benchmark] = {
    one.name: one for one in (sasrec_step.BENCHMARK, full_rank.BENCHMARK)
}
