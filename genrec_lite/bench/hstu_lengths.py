"""One layer's attention of HSTU over long rows of four distributions of length.

    genrec-lite bench hstu-attention --device cpu|cuda [--record]

On a CPU beside padded ways; on a GPU beside itself without biases, in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from genrec_lite.bench.attention_ways import DISTRIBUTIONS, lengths_of
from genrec_lite.bench.hstu_attention import compare_rows
from genrec_lite.bench.jagged_attention import require_device
from genrec_lite.bench.timing import Benchmark, Comparison, measure
from genrec_lite.jagged import JaggedTensor
from genrec_lite.kernels.hstu_attention import hstu_attention
from genrec_lite.kernels.time_buckets import TIME_BUCKETS, PairTimes

__all__ = ["table"]

DAY = 86_400  # seconds, the longest gap between two events of a row


def table(device: str, repeats: int = 5) -> dict[str, Any]:
    """What each way takes at each distribution of lengths, beside ours.

    Returns:
        "uniform 1024 x 64" and so on, followed by ": WAY " and "seconds" (of CPU, or on a GPU of
        the clock) or "times ours"; on a GPU also "tflop_per_s"; "busy"; "device".
    Raises:
        ValueError: if there is no such device.
    """
    require_device(device)
    found: dict[str, Any] = {"device": device, "busy": False}
    on_cpu = device == "cpu"
    cases = _on_cpu() if on_cpu else _on_gpu()
    for name, (prepare, flop) in tqdm(cases.items(), unit="setting"):
        one = measure(Benchmark("hstu-attention", "", prepare, repeats))
        found["busy"] = found["busy"] or one["machine"]["busy"]
        unit = "cpu_s" if on_cpu else "wall_s"
        for way, cost in {"ours": one["ours"], **one["peers"]}.items():
            key = f"{name}: {way} "
            found[key + "seconds"] = cost[unit]
            found[key + "times ours"] = cost[unit] / one["ours"][unit]
            if not on_cpu:
                found[key + "tflop_per_s"] = flop / cost[unit] / 1e12
    return found


def _rows(distribution: str, longest: int, batch: int) -> tuple[JaggedTensor, PairTimes]:
    """Rows of those lengths, and times of their events."""
    lengths = lengths_of(distribution, longest, batch)
    rows = JaggedTensor.from_lengths(torch.zeros(int(lengths.sum())), lengths)
    generator = torch.Generator().manual_seed(0)
    gaps = torch.randint(DAY, (int(lengths.sum()) + batch,), generator=generator)
    # Each row goes on where the one before it ended: only differences within rows count.
    return rows, PairTimes(JaggedTensor.from_lengths(gaps.cumsum(0), lengths + 1))


def _on_cpu() -> dict[str, tuple[Callable[[], Comparison], float]]:
    def prepare(distribution: str) -> Comparison:
        rows, times = _rows(distribution, 1024, 32)
        setting = {"events": len(rows.values), "rows": len(rows)}
        return compare_rows(rows, times, 64, setting, compiled=False)

    return {f"{one} 1024 x 64": (partial(prepare, one), 0.0) for one in DISTRIBUTIONS}


def _on_gpu() -> dict[str, tuple[Callable[[], Comparison], float]]:
    found: dict[str, tuple[Callable[[], Comparison], float]] = {}
    for width in (64, 128):
        for longest in (512, 2048, 8192):
            for distribution in ("full", "lognormal"):
                lengths = lengths_of(distribution, longest, 128)
                pairs = float(lengths.square().sum()) / 2  # causal
                for backward in (False, True):
                    passes = " forward and backward" if backward else " forward"
                    prepare = partial(_with_and_without, distribution, longest, width, backward)
                    flop = 2 * pairs * 4 * width * (7 if backward else 2)
                    found[f"{distribution} {longest} x {width}{passes}"] = (prepare, flop)
    return found


def _with_and_without(distribution: str, longest: int, width: int, backward: bool) -> Comparison:
    """Both biases, one, and none, of four heads; there is no way to assert equal to."""
    rows, times = _rows(distribution, longest, 128)
    offsets, times = rows.offsets.cuda(), PairTimes(times.times.to("cuda"))
    shape = (len(rows.values), 4, width)

    def drawn() -> Tensor:
        return torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=backward)

    q, k, v = drawn(), drawn(), drawn()
    position, time = (
        torch.randn(n, device="cuda", requires_grad=backward) for n in (longest, TIME_BUCKETS)
    )
    towards = drawn().detach()

    def way(**biases: Any) -> Callable[[], None]:
        tables = [x for name, x in biases.items() if name != "times"]

        def run() -> None:
            out = hstu_attention(q, k, v, offsets, divide_by=longest, **biases)
            if backward:
                torch.autograd.grad(out, (q, k, v, *tables), towards)
            torch.cuda.synchronize()

        return run

    peers = {"no bias": way(), "position only": way(position_weights=position)}
    ours = way(position_weights=position, time_weights=time, times=times)
    return Comparison(ours, peers, {"events": len(rows.values)})
