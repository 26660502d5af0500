"""One training step of HSTU: ours beside the textbook's."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from genrec_lite.bench.textbook import movielens_1m_like
from genrec_lite.bench.textbook_hstu import TextbookHSTU
from genrec_lite.bench.timing import Benchmark, Comparison, peak_bytes
from genrec_lite.bench.training_step import compare_steps
from genrec_lite.datasets import Sequences, leave_last_out
from genrec_lite.datasets.batches import NextItemBatches
from genrec_lite.encoders.hstu import HSTU
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.similarity.dot_product import DotProduct

__all__ = ["BENCHMARK", "BENCHMARK_LARGE", "CONFIGS", "compare", "step_flop", "timed_training_part"]

# Sizes of the public runs on MovieLens 1M.
CONFIGS: dict[str, dict[str, Any]] = {
    "small": {"dim": 50, "num_blocks": 2, "num_heads": 1, "head_dim": 50},
    "large": {"dim": 50, "num_blocks": 8, "num_heads": 2, "head_dim": 25},
}


def compare(
    sequences: Sequences,
    data: str,
    config: str,
    *,
    batch_size: int = 128,
    num_negatives: int = 128,
    max_length: int = 200,
) -> Comparison:
    """The steps with sampled negatives; ours with the full softmax is a further peer.

    "peak_bytes" in the setting is that of the process after our first step: libraries and data,
    too, but nothing of the textbook's.

    Args:
        sequences: all users' items; where they have no times, times are made.
        data: what they are, for the output.
        config: of `CONFIGS`.
        batch_size: users.
        num_negatives: a position.
        max_length: events a user, and what the textbook pads to.
    Raises:
        AssertionError: if loss or a gradient differs, see `compare_steps`.
    """
    train, data = timed_training_part(sequences, data)
    batch = NextItemBatches(train, batch_size=batch_size, max_length=max_length)(0)[0]
    encoder = HSTU(train.num_items, max_length=max_length, **CONFIGS[config])
    ours = NextItemModel(encoder, DotProduct(0.05), num_negatives=num_negatives)
    ours.loss(batch).backward()  # before the textbook's step takes its own memory
    ours.zero_grad()
    setting = {
        "data": data,
        "config": config,
        "peak_bytes": peak_bytes(),
        "peak_flop_per_s": _peak_flop_per_s(),
    }
    found = compare_steps(ours, TextbookHSTU(encoder), batch, setting)
    flop = step_flop(batch.inputs.lengths, num_negatives, **CONFIGS[config])
    full = NextItemModel(encoder, DotProduct(0.05))
    optimizer = torch.optim.AdamW(full.parameters(), betas=(0.9, 0.98), weight_decay=0)

    def full_step() -> None:
        optimizer.zero_grad(set_to_none=True)
        full.loss(batch).backward()
        optimizer.step()

    return Comparison(
        found.ours,
        {**found.peers, "ours, full softmax": full_step},
        found.setting,
        work={"events": len(batch), "flop": flop},
    )


def step_flop(
    lengths: torch.Tensor,
    negatives: int,
    *,
    dim: int,
    num_blocks: int,
    num_heads: int,
    head_dim: int,
) -> float:
    """Multiplications and additions of a step's matrix products, forward and backward.

    Those that the task needs: no padding, no later event (of n x n pairs the n (n + 1) / 2 that
    are looked at), and one dot product a negative.

    Args:
        lengths: (B,) events of each user.
        negatives: a position.
        dim, num_blocks, num_heads, head_dim: of the encoder.
    """
    events, pairs = int(lengths.sum()), int((lengths * (lengths + 1)).sum()) / 2
    width = num_heads * head_dim
    layer = events * dim * 5 * width + pairs * 2 * width  # u, v, q, k and out; scores and values
    loss = events * (1 + negatives) * dim
    return 2 * 3 * float(num_blocks * layer + loss)  # backward: twice the products


def timed_training_part(sequences: Sequences, data: str) -> tuple[Sequences, str]:
    """What there is to learn from, and what it is; with made times where it has none.

    Between two events made times leave 1 to 10 million seconds, as evenly spread as the buckets.
    """
    train = leave_last_out(sequences, validation=False).train
    if train.timestamps is not None:
        return train, data
    generator = torch.Generator().manual_seed(0)
    gaps = 10 ** (7 * torch.rand(len(train.items.values), generator=generator))
    made = train.items.with_values(gaps.long().cumsum(0))
    return replace(train, timestamps=made), f"{data}, times made"


def _peak_flop_per_s(size: int = 1024, repeats: int = 5) -> float:
    """What this machine's matrix product reaches on one thread, in its own process time."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    spent = []
    for _ in range(repeats):
        begin = time.process_time()
        a @ b
        spent.append(time.process_time() - begin)
    return 2 * size**3 / min(spent)


def _prepared(config: str) -> Any:
    return lambda: compare(*movielens_1m_like(), config)


BENCHMARK = Benchmark(
    "hstu-step",
    "MovieLens 1M: a training step of HSTU, 2 blocks, 128 users, 128 sampled negatives a position",
    _prepared("small"),
    repeats=5,
)
BENCHMARK_LARGE = Benchmark(
    "hstu-step-large",
    "the same of HSTU-large, 8 blocks",
    _prepared("large"),
    repeats=3,
)
