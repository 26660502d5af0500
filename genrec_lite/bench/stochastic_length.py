"""A training step of HSTU on subsequences of long histories beside one on all events."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import polars as pl
import torch
from torch import Tensor

from genrec_lite.bench.attention_ways import lengths_of
from genrec_lite.bench.timing import Benchmark, Comparison
from genrec_lite.datasets import Sequences
from genrec_lite.datasets.batches import NextItemBatch, NextItemBatches
from genrec_lite.encoders.hstu import HSTU
from genrec_lite.jagged import JaggedTensor
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.scaling.stochastic_length import StochasticLengthBatches, expected_sparsity
from genrec_lite.similarity.dot_product import DotProduct

__all__ = ["BENCHMARK", "compare", "long_histories"]

NUM_ITEMS = 3_706  # of MovieLens 1M
DAY = 86_400  # seconds, the longest gap between two events
DRAWS = 200  # for the measured sparsity
TOLERANCE = 0.03  # between measured and expected sparsity, which are shares


def compare(
    *,
    longest: int = 1024,
    batch_size: int = 64,
    alpha: float = 1.6,
    num_negatives: int = 128,
    **sizes: int,
) -> Comparison:
    """The steps: ours draws new subsequences each time, and that is timed, too.

    Args:
        longest: events that a user has at most.
        batch_size: users.
        alpha: see `stochastic_length`.
        num_negatives: a position.
        sizes: of `HSTU`, where they are to differ from its own.
    Raises:
        AssertionError: if the mean sparsity of `DRAWS` batches is not that of the closed form.
    """
    histories = long_histories(longest, batch_size)
    drawn = StochasticLengthBatches(
        histories, alpha=alpha, batch_size=batch_size, max_length=longest
    )
    whole = NextItemBatches(histories, batch_size=batch_size, max_length=longest)(0)[0]
    expected = expected_sparsity(histories.items.lengths, alpha=alpha, longest=longest + 1)
    measured = _measured_sparsity(drawn, len(whole), batch_size)
    if abs(measured - expected.events) > TOLERANCE:
        raise AssertionError(
            f"{measured:.3f} of the events are left out, not {expected.events:.3f} as the closed "
            "form says"
        )
    epochs = count(DRAWS)
    step, all_events = (_step_of(num_negatives, longest, sizes) for _ in range(2))
    setting = {
        "lengths": "lognormal",
        "longest": longest,
        "users": batch_size,
        "events": len(whole),
        "items": NUM_ITEMS,
        "negatives": num_negatives,
        "alpha": alpha,
        "sparsity": measured,
        "expected_sparsity": expected.events,
        "expected_pair_sparsity": expected.pairs,
    }
    return Comparison(
        lambda: step(drawn(next(epochs))[0]),
        {"all events": lambda: all_events(whole)},
        setting,
    )


def long_histories(longest: int, users: int) -> Sequences:
    """Made histories, of lengths of `lengths_of` and one item more, which comes last."""
    lengths = lengths_of("lognormal", longest, users) + 1
    generator = torch.Generator().manual_seed(0)

    def rows(below: int) -> Tensor:
        return torch.randint(below, (int(lengths.sum()),), generator=generator)

    items = JaggedTensor.from_lengths(rows(NUM_ITEMS), lengths)
    times = items.with_values(rows(DAY).cumsum(0))  # a row goes on where the one before it ended
    ids = pl.Series(range(users)), pl.Series(range(NUM_ITEMS))
    return Sequences(items, times, None, *ids)


def _measured_sparsity(drawn: StochasticLengthBatches, events: int, users: int) -> float:
    """The share of the items that the mean batch lacks, those that come last counted in."""
    kept = sum(len(drawn(epoch)[0]) + users for epoch in range(DRAWS)) / DRAWS
    return 1 - kept / (events + users)


def _step_of(
    num_negatives: int, longest: int, sizes: dict[str, Any]
) -> Callable[[NextItemBatch], None]:
    """A training step of a new model."""
    encoder = HSTU(NUM_ITEMS, max_length=longest, **sizes)
    model = NextItemModel(encoder, DotProduct(), num_negatives=num_negatives).train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0)

    def step(batch: NextItemBatch) -> None:
        optimizer.zero_grad(set_to_none=True)
        model.loss(batch).backward()
        optimizer.step()

    return step


BENCHMARK = Benchmark(
    "stochastic-length",
    "a training step of HSTU on subsequences of histories of up to 1,024 events, alpha 1.6, and on "
    "all events: results differ by design",
    compare,
    repeats=7,
)
