"""Attention between jagged rows beside padded ways: time, memory, and what arithmetic predicts.

genrec-lite bench jagged-attention [--device cpu|cuda] [--record]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from genrec_lite.bench.attention_ways import (
    DISTRIBUTIONS,
    Setting,
    Way,
    four_buckets,
    lengths_of,
    ways_of,
)
from genrec_lite.bench.timing import Benchmark, Comparison, measure

__all__ = ["peak_memory", "predicted", "require_device", "table"]

# Makes the C library of Linux give back at once what is freed, so that a peak is a peak.
MEASURED = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
TOLERANCE = 1e-4  # relative; of half precision 2e-2


def predicted(lengths: Tensor, way: str) -> float:
    """How many times as many pairs of events as needed a way looks at, if all see all."""
    pairs = float(lengths.square().sum())
    if way == "4 buckets":
        groups = four_buckets(lengths)
        return sum(len(g) * int(lengths[g].max()) ** 2 for g in groups) / pairs
    if way in ("dense", "padded SDPA"):
        return len(lengths) * int(lengths.max()) ** 2 / pairs
    return 1.0  # FlexAttention and varlen_attn skip what is masked


def compare(setting: Setting) -> Comparison:
    """The ways of a setting, asserted equal, to be timed in turns.

    Raises:
        AssertionError: if a way's output or gradient differs from ours by too much.
    """
    ways = {name: make() for name, make in ways_of(setting).items()}
    bound, difference = TOLERANCE if setting.device == "cpu" else 2e-2, 0.0
    ours = ways.pop("ours")
    expected = [ours.rows(x) for x in ours.run()]
    for name, way in ways.items():
        for mine, theirs in zip(expected, map(way.rows, way.run()), strict=True):
            apart = float((mine.float() - theirs.float()).norm() / mine.float().norm())
            if not apart <= bound:
                raise AssertionError(f"{name} differs by {apart:.2g}, more than {bound}")
            difference = max(difference, apart)
    peers = {name: _waiting(way) for name, way in ways.items()}
    return Comparison(_waiting(ours), peers, asdict(setting) | {"difference": difference})


def _waiting(way: Way) -> Callable[[], object]:
    """On a GPU a call returns before the work is done."""

    def run() -> object:
        found = way.run()
        if found[0][0].is_cuda:
            torch.cuda.synchronize()
        return found

    return run


def peak_memory(setting: Setting, way: str) -> int:
    """Bytes that one call of a way takes at its peak, beyond its own inputs.

    In a process of its own on a CPU, where memory that was once used is not given back.
    """
    if setting.device == "cuda":
        run = ways_of(setting)[way]().run
        run()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    asked = json.dumps({"setting": asdict(setting), "way": way})
    done = subprocess.run(
        [sys.executable, "-m", __name__, asked],
        capture_output=True, text=True, check=True, env={**os.environ, **MEASURED},
    )  # fmt: skip
    return int(done.stdout.split()[-1])


def _peak_here(setting: Setting, way: str) -> int:
    """Linux only: it can forget the peak of a process so far."""
    run = ways_of(setting)[way]().run
    run()  # what is allocated once and kept
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = _status()["VmRSS"]
    run()
    return (_status()["VmHWM"] - before) * 1024


def _status() -> dict[str, int]:
    """What Linux says of this process, in kB."""
    with open("/proc/self/status") as file:
        lines = (line.split() for line in file)
        return {words[0].rstrip(":"): int(words[1]) for words in lines if words[-1] == "kB"}


def settings(device: str) -> list[Setting]:
    """The rows of the table: on a GPU more and longer sequences, two widths."""
    if device == "cpu":
        return [
            Setting(lengths, backward=backward)
            for lengths in DISTRIBUTIONS
            for backward in (False, True)
        ]
    return [
        Setting(lengths, longest, 128, width=width, backward=backward, device=device, causal=True)
        for width in (64, 128)
        for longest in (512, 2048, 8192)
        for lengths in ("full", "lognormal")
        for backward in (False, True)
    ]


def table(device: str, repeats: int = 5) -> dict[str, Any]:
    """What each way takes in each setting, beside ours and beside what arithmetic predicts.

    Returns:
        "uniform 1024 x 64 forward" and so on for each setting, followed by ": WAY " and "seconds"
        (of CPU, or on a GPU of the clock), "times ours", "predicted", "bytes" at the peak, or
        "tflop_per_s"; "busy", whether the machine had other work at any time; "device".
    Raises:
        ValueError: if there is no such device.
    """
    require_device(device)
    found: dict[str, Any] = {"device": device, "busy": False}
    for setting in tqdm(settings(device), unit="setting"):
        one = measure(Benchmark("jagged-attention", "", partial(compare, setting), repeats))
        found["busy"] = found["busy"] or one["machine"]["busy"]
        lengths = lengths_of(setting.lengths, setting.longest, setting.batch)
        costs = {"ours": one["ours"], **one["peers"]}
        unit = "cpu_s" if device == "cpu" else "wall_s"
        for way, cost in costs.items():
            key = f"{setting.name}: {way} "
            found[key + "seconds"] = cost[unit]
            found[key + "times ours"] = cost[unit] / costs["ours"][unit]
            found[key + "predicted"] = predicted(lengths, way)
            found[key + "bytes"] = peak_memory(setting, way)
            found[key + "tflop_per_s"] = _flop(setting, lengths) / cost[unit] / 1e12
    return found


def require_device(device: str) -> None:
    """Raises a ValueError unless `device` is "cpu", or "cuda" on a machine that has one."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}: choose cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but this machine has no GPU that torch can use")


def _flop(setting: Setting, lengths: Tensor) -> float:
    """Needed operations, whatever a way spends: 2 products forward, 5 more backward."""
    pairs = float(lengths.square().sum()) / (2 if setting.causal else 1)
    return 2 * pairs * setting.heads * setting.width * (7 if setting.backward else 2)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    print(_peak_here(Setting(**asked["setting"]), asked["way"]))
