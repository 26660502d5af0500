"""Small rankers and logs, and the ranker written as sums over single tokens, in float64."""

import math

import torch
from torch import Tensor

from genrec_lite.datasets.actions import Events
from genrec_lite.jagged import JaggedTensor
from genrec_lite.ranking.target_aware import GenerativeRanker

NUM_ITEMS, NUM_ACTIONS, MAX_EVENTS = 17, 3, 8
LENGTHS = [5, 0, 1, 8]
ASKED = 10**8


def ranker(dtype: torch.dtype = torch.float64, **changes) -> GenerativeRanker:
    """In eval mode, with weights so large that every part of it matters."""
    sizes = dict(dim=6, num_blocks=3, num_heads=2, head_dim=3, max_events=MAX_EVENTS, dropout=0.0)
    model = GenerativeRanker(NUM_ITEMS, NUM_ACTIONS, **(sizes | changes)).to(dtype).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weights in model.parameters():
            drawn = torch.randn(weights.shape, generator=generator, dtype=torch.float64)
            weights.copy_(0.6 * drawn)
    return model


def log(lengths: list[int] = LENGTHS, seed: int = 0) -> Events:
    """Events of users with so many each; some share a second."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    gaps = [(10 ** (6 * torch.rand(n, generator=generator))).long() - 1 for n in lengths]
    return Events(
        JaggedTensor.from_lengths(
            torch.randint(NUM_ITEMS, (total,), generator=generator), torch.tensor(lengths)
        ),
        torch.rand(total, NUM_ACTIONS, generator=generator) < 0.5,
        torch.cat([gap.cumsum(0) for gap in gaps]),
    )


def row_of(events: Events, row: int) -> Events:
    """One user's events."""
    count = events.items.lengths[row : row + 1]
    return events.stretches(torch.tensor([row]), torch.zeros(1, dtype=torch.int64), count)


def token_by_token(
    model: GenerativeRanker, history: Events, candidates: list[int], asked: int
) -> list[Tensor]:
    """Logits (A,) at each item token of one user's history, then at each candidate."""
    tokens, times, scale = [], [], math.sqrt(len(model.tokens.any_action))
    triples = zip(history.items.values, history.actions, history.times.tolist(), strict=True)
    for item, bits, time in triples:
        tokens.append(model.tokens.item_embedding.weight[item])
        action = model.tokens.any_action
        for bit, vector in zip(bits, model.tokens.bit_vectors, strict=True):
            action = action + vector if bit else action
        tokens.append(action)
        times += [time, time]
    known = len(tokens)
    tokens += [model.tokens.item_embedding.weight[item] for item in candidates]
    times += [asked] * (len(candidates) + 1)
    x = [scale * token for token in tokens]
    if not x:
        return []
    for block in model.blocks:
        x = _block(block, x, times, known)
    items = [*range(0, known, 2), *range(known, len(x))]
    head = model.head
    found = []
    for i in items:
        hidden = head.hidden.weight @ _norm(x[i]) + head.hidden.bias
        found.append(head.logits.weight @ _silu(hidden) + head.logits.bias)
    return found


def _block(block, x: list[Tensor], times: list[int], known: int) -> list[Tensor]:
    projected = [_silu(_norm(at) @ block.expand) for at in x]
    width = block.contract.in_features
    size = width // block.num_heads
    u, v, q, k = zip(*(p.split(width) for p in projected), strict=True)
    out = []
    for i in range(len(x)):
        seen = [j for j in range(i + 1) if j < known or j == i]
        place = min(i, known)
        heads = []
        for first in range(0, width, size):
            part = slice(first, first + size)
            total = torch.zeros(size, dtype=torch.float64)
            for j in seen:
                apart = max(1, times[i + 1] - times[j])
                bucket = min(128, math.floor(math.log(apart) / 0.301))
                bias = block.bias.position_weights[place - min(j, known)]
                bias = bias + block.bias.time_weights[bucket]
                total = total + _silu(q[i][part] @ k[j][part] + bias) * v[j][part]
            heads.append(total / (block.max_length + 11))
        gated = u[i] * _norm(torch.cat(heads))
        out.append(x[i] + block.contract.weight @ gated + block.contract.bias)
    return out


def _norm(x: Tensor) -> Tensor:
    return (x - x.mean()) / (x.var(unbiased=False) + 1e-6).sqrt()


def _silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))
