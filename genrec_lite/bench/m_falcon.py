"""1,024 candidates for one user: a cache of the history and microbatches, and slower ways."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from genrec_lite.bench.memory import peak_tensor_bytes
from genrec_lite.bench.timing import Benchmark, Comparison
from genrec_lite.datasets.actions import Events
from genrec_lite.encoders.hstu import HSTUBlock
from genrec_lite.jagged import JaggedTensor
from genrec_lite.ranking.m_falcon import MFalcon
from genrec_lite.ranking.target_aware import GenerativeRanker

__all__ = [
    "BENCHMARK",
    "compare",
    "kept_flop",
    "needed_flop",
    "one_by_one",
    "share_needed",
    "user_of",
]

TOGETHER = 32  # of "one by one": sequences, each the history and one candidate, in one batch
MICROBATCHES = (1, 16, 64, 256, 1024)


@torch.no_grad()
def compare(
    num_candidates: int = 1024, *, num_events: int = 512, num_items: int = 10_000
) -> Comparison:
    """The ways, their logits equal to 1e-4.

    Args:
        num_candidates: of a request.
        num_events: of the user's history; two tokens each.
        num_items: size of the corpus; the model is not trained.
    Raises:
        ValueError: if a way gives other logits.
    """
    ranker = GenerativeRanker(num_items, 3, max_events=num_events).eval()
    history, candidates, asked = user_of(num_events, num_candidates, num_items)
    falcon = MFalcon(ranker)
    cache = falcon.extend(falcon.start(), history)

    def ours() -> Tensor:
        return falcon.score(falcon.extend(falcon.start(), history), candidates, asked)

    alone = partial(one_by_one, ranker, history, candidates, asked)
    ways: dict[str, Callable[[], Tensor]] = {
        "one by one": alone,
        "all at once": partial(_all_at_once, ranker, history, candidates, asked),
    }
    for size in MICROBATCHES:
        small = MFalcon(ranker, microbatch=size)
        ways[f"cache given, microbatch {size}"] = partial(small.score, cache, candidates, asked)
    expected = ours()
    difference = 0.0
    for name, way in ways.items():
        apart = float((way() - expected).abs().max())
        difference = max(difference, apart)
        if not apart <= 1e-4:
            raise ValueError(f"{name} gives other logits than ours, by {apart:.2g}")
    setting: dict[str, Any] = {
        "candidates": num_candidates,
        "events": num_events,
        "difference": difference,
        "flop ratio": counted_flop(alone) / counted_flop(ours),
        "flop ratio needed": 1 / share_needed(ranker, num_events, num_candidates),
        "ours peak bytes": peak_tensor_bytes(ours),
        "all at once peak bytes": peak_tensor_bytes(ways["all at once"]),
    }
    for size in MICROBATCHES:
        run = ways[f"cache given, microbatch {size}"]
        setting[f"microbatch {size} peak bytes"] = peak_tensor_bytes(run)
    more = torch.randint(num_items, (16 * num_candidates,))
    setting["peak bytes of 16 times as many"] = peak_tensor_bytes(
        partial(falcon.score, cache, more, asked)
    )
    return Comparison(ours, ways, setting, {"candidates": num_candidates})


def user_of(num_events: int, num_candidates: int, num_items: int) -> tuple[Events, Tensor, int]:
    """A made user: history, candidates (m,), and when it is asked, in seconds."""
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(num_items, (num_events,), generator=generator)
    times = torch.randint(100_000, (num_events,), generator=generator).cumsum(0)
    bits = torch.rand(num_events, 3, generator=generator) < 0.5
    history = Events(JaggedTensor.from_lengths(items, torch.tensor([num_events])), bits, times)
    candidates = torch.randint(num_items, (num_candidates,), generator=generator)
    return history, candidates, int(times[-1]) + 60


@torch.no_grad()
def one_by_one(ranker: GenerativeRanker, history: Events, candidates: Tensor, asked: int) -> Tensor:
    """Logits (m, A), each candidate at the end of a history of its own, 32 of them a batch."""
    found = []
    for some in candidates.split(TOGETHER):
        rows, ones = torch.zeros_like(some), torch.ones_like(some)
        histories = history.stretches(rows, rows, ones * len(history.times))
        found.append(ranker.score(histories, JaggedTensor.from_lengths(some, ones), ones * asked))
    return torch.cat(found)


@torch.no_grad()
def _all_at_once(
    ranker: GenerativeRanker, history: Events, candidates: Tensor, asked: int
) -> Tensor:
    rows = JaggedTensor.from_lengths(candidates, torch.tensor([len(candidates)]))
    return ranker.score(history, rows, torch.tensor([asked]))


def counted_flop(run: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products of `run()`."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def needed_flop(ranker: GenerativeRanker, tokens: int, pairs: int) -> int:
    """Operations of all layers' matrix products for so many tokens and pairs of them.

    A token is projected to u, v, q, k and back; a pair costs a score and its share of the sum.
    """
    return sum(_block_flop(block, tokens, pairs) for block in ranker.layers())


def kept_flop(ranker: GenerativeRanker, tokens: int, pairs: int) -> int:
    """The same for a cache of so many tokens: of the last layer nothing but u, v, q, k."""
    *most, last = ranker.layers()
    total = sum(_block_flop(block, tokens, pairs) for block in most)
    return total + 2 * tokens * last.expand.numel()


def _block_flop(block: HSTUBlock, tokens: int, pairs: int) -> int:
    width = block.contract.in_features
    return 2 * tokens * (block.expand.numel() + block.contract.weight.numel()) + 4 * pairs * width


def share_needed(ranker: GenerativeRanker, num_events: int, num_candidates: int) -> float:
    """What M-FALCON needs of what one by one needs, heads left out."""
    n = 2 * num_events
    pairs, candidates = n * (n + 1) // 2, num_candidates
    kept = kept_flop(ranker, n, pairs) + candidates * needed_flop(ranker, 1, n + 1)
    return kept / (candidates * needed_flop(ranker, n + 1, pairs + n + 1))


BENCHMARK = Benchmark(
    "m-falcon",
    "1,024 candidates after 512 events: cached history and microbatches, one by one, all at once",
    compare,
    repeats=2,
)
