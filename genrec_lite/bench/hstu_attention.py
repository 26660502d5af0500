"""One layer's attention of HSTU, forward and backward: sequence by sequence, padded, compiled.

genrec-lite bench hstu-attention [--record]                     MovieLens 1M's lengths
genrec-lite bench hstu-attention --device cpu|cuda [--record]   up to 1,024 events and more
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec_lite.bench.hstu_step import timed_training_part
from genrec_lite.bench.textbook import movielens_1m_like
from genrec_lite.bench.timing import Benchmark, Comparison
from genrec_lite.datasets import Sequences
from genrec_lite.datasets.batches import NextItemBatches
from genrec_lite.jagged import JaggedTensor, length_buckets
from genrec_lite.kernels.hstu_attention import hstu_attention
from genrec_lite.kernels.time_buckets import TIME_BUCKETS, PairTimes

__all__ = ["BENCHMARK", "compare", "compare_rows"]

TOLERANCE = 1e-4  # relative, of the output and of each gradient


def compare(
    sequences: Sequences, data: str, *, batch_size: int = 128, max_length: int = 200, dim: int = 50
) -> Comparison:
    """Ways to the same output and gradients; the time buckets, made once a step, are given.

    Args:
        sequences: all users' items; where they have no times, times are made.
        data: what they are, for the output.
        batch_size: users.
        max_length: events a user.
        dim: width of the one head.
    Raises:
        AssertionError: if a way's output or gradient differs by more than `TOLERANCE`.
    """
    train, data = timed_training_part(sequences, data)
    batch = NextItemBatches(train, batch_size=batch_size, max_length=max_length)(0)[0]
    assert batch.times is not None
    compiler = shutil.which("c++")
    setting = {"data": data, "users": len(batch.inputs), "events": len(batch), "dim": dim,
               "compiler": compiler or "none"}  # fmt: skip
    compiled = compiler is not None
    return compare_rows(batch.inputs, PairTimes(batch.times), dim, setting, compiled=compiled)


def compare_rows(
    rows: JaggedTensor,
    times: PairTimes,
    dim: int,
    setting: Mapping[str, Any],
    *,
    compiled: bool,
) -> Comparison:
    """The same for any rows of events; `compiled` adds a compiled way.

    Args:
        rows: only their lengths count.
        times: of the same rows.
        dim: width of the one head.
        setting: what is said of it; the difference found is added.
        compiled: whether there is a compiler to use.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    q, k, v = (drawn(len(rows.values), 1, dim) for _ in range(3))
    position, time = drawn(rows.max_length), drawn(TIME_BUCKETS)
    inputs = (q, k, v, position, time)

    def ours() -> Tensor:
        return hstu_attention(
            q, k, v, rows.offsets,
            position_weights=position, time_weights=time, times=times,
        ).flatten(1)  # fmt: skip

    def cut(groups: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """For each group of rows its time buckets (b, L, L), and which places are events (b, L)."""
        found = []
        for group in groups:
            longest = int(rows.lengths[group].max())
            padded = torch.zeros(len(group), longest, longest, dtype=torch.int64)
            for place, row in enumerate(group.tolist()):
                n = int(rows.lengths[row])
                padded[place, :n, :n] = times.buckets[row].view(n, n)
            found.append((padded, torch.arange(longest) < rows.lengths[group][:, None]))
        return found

    def padded_way(groups: list[Tensor], attend: Callable[..., Tensor]) -> Callable[[], Tensor]:
        given = cut(groups)
        places = torch.cat([rows.offsets[g].repeat_interleave(rows.lengths[g])
                            + rows.select(g).positions() for g in groups])  # fmt: skip

        def way() -> Tensor:
            found = []
            for group, (bucket, inside) in zip(groups, given, strict=True):
                x = (rows.with_values(t).select(group).to_padded().squeeze(2) for t in (q, k, v))
                found.append(attend(*x, position, time, bucket)[inside])
            return torch.zeros_like(q.flatten(1)).index_copy(0, places, torch.cat(found))

        return way

    every = [torch.arange(len(rows))]
    buckets_of_rows = length_buckets(rows.lengths)
    ways = {
        "length buckets, padded": padded_way(buckets_of_rows, _attend),
        "padded to the longest": padded_way(every, _attend),
    }
    if compiled:
        faster = torch.compile(_attend, dynamic=True)
        ways["length buckets, compiled"] = padded_way(buckets_of_rows, faster)
    towards = drawn(len(rows.values), dim).detach()
    steps = {name: _step(way, inputs, towards) for name, way in {"ours": ours, **ways}.items()}
    expected, difference = steps["ours"](), 0.0
    for name in ways:
        for mine, theirs in zip(expected, steps[name](), strict=True):
            apart = float((mine - theirs).norm() / mine.norm())
            if not apart <= TOLERANCE:
                raise AssertionError(f"{name} differs by {apart:.2g}, more than {TOLERANCE}")
            difference = max(difference, apart)
    peers = {name: steps[name] for name in ways}
    return Comparison(steps["ours"], peers, {**setting, "difference": difference})


def _attend(
    q: Tensor, k: Tensor, v: Tensor, position: Tensor, time: Tensor, bucket: Tensor
) -> Tensor:
    """(b, L, d) of padded rows, as commonly written."""
    places = torch.arange(q.shape[1])
    apart = places[:, None] - places
    scores = q @ k.transpose(1, 2) + position[apart.clamp(min=0)] + time[bucket]
    return (F.silu(scores) * (apart >= 0)) @ v


def _step(
    way: Callable[[], Tensor], inputs: tuple[Tensor, ...], towards: Tensor
) -> Callable[[], list[Tensor]]:
    """Output and gradients of a way."""

    def step() -> list[Tensor]:
        out = way()
        return [out.detach(), *torch.autograd.grad(out, inputs, towards)]

    return step


BENCHMARK = Benchmark(
    "hstu-attention",
    "MovieLens 1M: one layer's attention of HSTU with both biases, forward and backward",
    lambda: compare(*movielens_1m_like()),
    repeats=5,
)
