"""Two ways to one result, timed in turns, with what the machine was doing meanwhile."""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from genrec_lite.notebook.record import describe_machine

__all__ = ["Benchmark", "Comparison", "measure", "peak_bytes", "record_values"]

# The load average counts what waits for a moment, too: half a core is no neighbour.
LOAD_TOLERANCE = 0.5


@dataclass(frozen=True)
class Comparison:
    """Our way and others' ways to the same result, ready to be called again and again.

    Args:
        ours: what is timed.
        peers: the same for others' ways by name; the first is what `ratio` compares with.
        setting: sizes, data, and how equal the results were found to be.
        work: how much of what one call of ours does, for rates: {"events": 13_087}.
    """

    ours: Callable[[], object]
    peers: Mapping[str, Callable[[], object]]
    setting: Mapping[str, Any]
    work: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """A named comparison.

    Args:
        name: what `genrec-lite bench` takes.
        about: one line for a list.
        prepare: makes the data and the ways, and raises unless they give equal results.
        repeats: how often each is timed unless told otherwise.
    """

    name: str
    about: str
    prepare: Callable[[], Comparison]
    repeats: int


def measure(benchmark: Benchmark, repeats: int | None = None) -> dict[str, Any]:
    """What each way cost, as JSON: bench, ratio, unit, ours, peers, setting, machine.

    One thread does the work, so that CPU seconds hold no waiting of one thread for another, and
    the ways take turns, so that a neighbour's work slows all of them. Each is called once before
    the clock runs: a first call makes buffers and an optimizer's state. Rates of ours, such as
    "events_per_s", are per CPU second.

    Args:
        benchmark: prepared here.
        repeats: how often each way is timed, at least 1.
    """
    with _one_thread():
        machine = _describe_machine()
        comparison = benchmark.prepare()
        ways = {"ours": comparison.ours, **comparison.peers}
        cpu: dict[str, list[float]] = {name: [] for name in ways}
        wall: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way()
        for _ in range(benchmark.repeats if repeats is None else repeats):
            for name, way in ways.items():
                cpu_start, wall_start = time.process_time(), time.perf_counter()
                way()
                cpu[name].append(time.process_time() - cpu_start)
                wall[name].append(time.perf_counter() - wall_start)
    median = {name: statistics.median(seconds) for name, seconds in cpu.items()}
    costs = {
        name: {
            "cpu_s": median[name],
            "wall_s": statistics.median(wall[name]),
            "cpu_s_all": [round(seconds, 4) for seconds in cpu[name]],
        }
        for name in ways
    }
    rates = {f"{unit}_per_s": amount / median["ours"] for unit, amount in comparison.work.items()}
    return {
        "bench": benchmark.name,
        "ratio": median[next(iter(comparison.peers))] / median["ours"],
        "unit": "cpu_s",
        "ours": costs["ours"] | rates,
        "peers": {name: costs[name] for name in comparison.peers},
        "setting": dict(comparison.setting),
        "machine": machine,
    }


def record_values(measured: Mapping[str, Any]) -> dict[str, Any]:
    """What `measure` gave as one flat dict: "ratio", "ours cpu_s", "textbook cpu_s", ..."""
    ways = {"ours": measured["ours"], **measured["peers"]}
    machine = measured["machine"]
    return {
        "ratio": measured["ratio"],
        **{f"{way} {key}": value for way, cost in ways.items() for key, value in cost.items()},
        **measured["setting"],
        **{key: machine[key] for key in ("threads", "load", "busy")},
    }


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux hands ru_maxrss on to a child that is started, as if its parent's peak were its own.
    with open("/proc/self/status") as file:
        peak = next(line for line in file if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024  # in kB


def _describe_machine() -> dict[str, Any]:
    """The machine, and whether others are at work on it: is the load above the free cores?"""
    machine, threads = describe_machine(), torch.get_num_threads()
    load = os.getloadavg()[0]  # of the last minute, so mostly before our own work
    busy = load > machine["cores"] - threads + LOAD_TOLERANCE
    return {**machine, "threads": threads, "load": round(load, 2), "busy": busy}


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
