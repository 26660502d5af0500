"""A training step on requests and on their impressions, by candidates a request."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from genrec_lite.bench.m_falcon import counted_flop, needed_flop
from genrec_lite.bench.memory import peak_tensor_bytes
from genrec_lite.bench.timing import Benchmark, Comparison, measure
from genrec_lite.datasets.actions import Events
from genrec_lite.jagged import JaggedTensor
from genrec_lite.request_only.batches import RequestBatch, deduplicated
from genrec_lite.request_only.models import RequestHSTU, RequestModel, TwoTower

__all__ = ["MODELS", "WAYS", "batch_bytes", "made_batch", "predicted", "step_ways", "table"]

EVENTS, NUM_ITEMS, NUM_ACTIONS = 64, 2000, 3
CANDIDATES = (1, 2, 4, 8, 16, 32)
# A batch; a two-tower model's weights are read once a batch, which must not be most of the work.
REQUESTS = {"HSTU": 16, "two-tower": 128, "two-tower, item-heavy": 128}
WAYS = (
    "requests",
    "impressions in microbatches",
    "impressions at once",
    "impressions, hashed",
)
MODELS: dict[str, Callable[[], RequestModel]] = {
    "HSTU": lambda: RequestHSTU(NUM_ITEMS, NUM_ACTIONS, max_events=EVENTS, dropout=0.0),
    "two-tower": lambda: TwoTower(
        NUM_ITEMS, NUM_ACTIONS, max_events=EVENTS, num_compressed=16, request_hidden=2048,
        item_hidden=256,
    ),
    "two-tower, item-heavy": lambda: TwoTower(
        NUM_ITEMS, NUM_ACTIONS, max_events=EVENTS, num_compressed=8, request_hidden=1024,
        item_hidden=8192,
    ),
}  # fmt: skip


def made_batch(num_requests: int, num_candidates: int) -> RequestBatch:
    """Requests with histories of 64 events and so many candidates each, all drawn uniformly."""
    generator = torch.Generator().manual_seed(0)
    total, shown = num_requests * EVENTS, num_requests * num_candidates
    rows = JaggedTensor.from_lengths(
        torch.randint(NUM_ITEMS, (total,), generator=generator), torch.full((num_requests,), EVENTS)
    )
    seconds = torch.randint(10_000, (num_requests, EVENTS), generator=generator).cumsum(1).flatten()
    history = Events(rows, torch.rand(total, NUM_ACTIONS, generator=generator) < 0.3, seconds)
    candidates = JaggedTensor.from_lengths(
        torch.randint(NUM_ITEMS, (shown,), generator=generator),
        torch.full((num_requests,), num_candidates),
    )
    actions = torch.rand(shown, NUM_ACTIONS, generator=generator) < 0.3
    return RequestBatch(history, seconds[EVENTS - 1 :: EVENTS] + 60, candidates, actions)


def step_ways(model: RequestModel, batch: RequestBatch) -> dict[str, Callable[[], None]]:
    """Loss and gradients of the batch by each of `WAYS`, gradients added to those there are.

    The impressions are exploded beforehand, as a log of impressions comes; hashing is part of the
    way that hashes. Microbatches hold as many impressions as there are requests, and so as much
    memory as a step on requests: at once, HSTU leaves the caches, which makes the request look
    better than it is. A fair comparison is with the cheaper of the two.
    """
    apart = batch.exploded()
    parts = [apart.select(some) for some in torch.arange(len(apart)).split(len(batch.asked))]

    def in_parts() -> None:
        for part in parts:
            (model.loss(part) * (len(part) / len(apart))).backward()

    return dict(
        zip(
            WAYS,
            (
                lambda: model.loss(batch).backward(),
                in_parts,
                lambda: model.loss(apart).backward(),
                lambda: model.loss(deduplicated(apart)).backward(),
            ),
            strict=True,
        )
    )


def predicted(model: RequestModel, num_candidates: int) -> float:
    """How many times the operations of a request's step its impressions need.

    Operations of matrix products for one request with a full history. In HSTU a token pays its
    projections and a pair of tokens its score: near m (n + 1) / (n + m) for n tokens and m
    candidates. In a two-tower model it is m (c_f + c_g) / (c_f + m c_g), with c_f operations a
    request and c_g a candidate.
    """
    m = num_candidates
    if isinstance(model, RequestHSTU):
        ranker = model.ranker
        n = 2 * ranker.max_events
        seen = n * (n + 1) // 2
        alone = needed_flop(ranker, n + 1, seen + n + 1)
        return m * alone / needed_flop(ranker, n + m, seen + m * (n + 1))
    assert isinstance(model, TwoTower)
    request, item = two_tower_flop(model)
    return m * (request + item) / (request + m * item)


def two_tower_flop(model: TwoTower) -> tuple[int, int]:
    """c_f and c_g: operations of matrix products a request and a candidate."""
    compressed, events = model.compress.weight.shape
    dim = model.item_logits.in_features
    request = 2 * (compressed * events * dim + _weights(model.request_tower))
    products = compressed * dim
    return request, 2 * (
        _weights(model.item_tower) + products + _weights(model.item_logits) + _weights(model.head)
    )


def _weights(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.ndim == 2)


def batch_bytes(batch: RequestBatch) -> int:
    """What the batch's tensors hold."""
    history = batch.history
    parts: tuple[Tensor, ...] = (
        history.items.values, history.items.offsets, history.actions, history.times, batch.asked,
        batch.candidates.values, batch.candidates.offsets, batch.actions,
    )  # fmt: skip
    return sum(part.numel() * part.element_size() for part in parts)


def compare(name: str, num_candidates: int) -> Comparison:
    """The ways of one model, their gradients equal to 1e-5 of the largest.

    Raises:
        ValueError: if a way gives other gradients.
    """
    model, batch = MODELS[name](), made_batch(REQUESTS[name], num_candidates)
    ways = step_ways(model, batch)
    gradients = {}
    for way, step in ways.items():
        model.zero_grad()
        step()
        gradients[way] = torch.cat(
            [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        )
    expected = gradients["requests"]
    difference = 0.0
    for way, found in gradients.items():
        apart = float((found - expected).abs().max() / expected.abs().max())
        difference = max(difference, apart)
        if not apart <= 1e-5:
            raise ValueError(f"{name}: {way} give other gradients than requests, by {apart:.2g}")
    ours = ways.pop("requests")
    return Comparison(ours, ways, {"difference": difference})


def table(device: str, repeats: int = 5) -> dict[str, Any]:
    """What a step costs by model, candidates a request and way, and what arithmetic predicts.

    Returns:
        "HSTU, m 4: " and so on, followed by "WAY " and "seconds" (of CPU), "times ours" (over
        requests), "predicted" (the same of the operations), "flop" (counted), "bytes" (held at the
        peak) or "input bytes"; "busy", "device".
    Raises:
        ValueError: if the device is not "cpu".
    """
    if device != "cpu":
        raise ValueError(f"device is {device!r}: request-only runs on cpu")
    found: dict[str, Any] = {"device": device, "busy": False, "difference": 0.0}
    settings = [(name, m) for name in MODELS for m in CANDIDATES]
    for name, m in tqdm(settings, unit="setting"):
        one = measure(Benchmark("request-only", "", partial(compare, name, m), repeats))
        found["busy"] = found["busy"] or one["machine"]["busy"]
        found["difference"] = max(found["difference"], one["setting"]["difference"])
        costs = {"requests": one["ours"], **one["peers"]}
        model, batch = MODELS[name](), made_batch(REQUESTS[name], m)
        ratio = predicted(model, m)
        for way, step in step_ways(model, batch).items():
            key = f"{name}, m {m}: {way} "
            shared = way in ("requests", "impressions, hashed")
            found[key + "seconds"] = costs[way]["cpu_s"]
            found[key + "times ours"] = costs[way]["cpu_s"] / costs["requests"]["cpu_s"]
            found[key + "predicted"] = 1.0 if shared else ratio
            found[key + "flop"] = counted_flop(step)
            found[key + "bytes"] = peak_tensor_bytes(step)
            found[key + "input bytes"] = batch_bytes(
                batch if way == "requests" else batch.exploded()
            )
    return found
