"""Attention in float64, one row of scores after the other: nothing shared with the package."""

import math

import torch
from torch import Tensor

TIME_BUCKETS = 129


class OnAGPU(Tensor):
    """A tensor that says it is on a GPU: what the dispatch looks at."""

    is_cuda = True


def offsets_of(lengths) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def relative(ours: Tensor, theirs: Tensor) -> float:
    """How far apart, as a part of the right result; what should be 0 must be 0."""
    apart = (ours.detach().double() - theirs.detach().double()).norm()
    return float(apart / theirs.detach().double().norm().clamp(min=1e-30))


def softmax_attention(q, k, v, q_lengths, k_lengths, scale, causal) -> Tensor:
    """(T, h, d); the last query of a row sees all its keys, one without keys finds 0."""
    found, q_start, k_start = [], 0, 0
    for n, m in zip(q_lengths, k_lengths, strict=True):
        for i in range(n):
            last = m if not causal else max(0, m - n + i + 1)
            keys, values = k[k_start : k_start + last], v[k_start : k_start + last]
            if last == 0:
                found.append(q[q_start + i] * 0)
                continue
            scores = (keys * q[q_start + i]).sum(-1) * scale  # (m, h)
            weights = (scores - scores.max(0).values).exp()
            weights = weights / weights.sum(0)
            found.append((weights[:, :, None] * values).sum(0))
        q_start, k_start = q_start + n, k_start + m
    return torch.stack(found) if found else q * 0


def bucket_of(seconds: int) -> int:
    return min(TIME_BUCKETS - 1, math.floor(math.log(max(1, seconds)) / 0.301))


def biased_attention(
    q, k, v, lengths, position, time, times, targets=None, activation="silu"
) -> Tensor:
    """(T, h, d_v) of HSTU; rows of times are one longer than those of events."""
    found, start, asked = [], 0, 0
    for n, count in zip(lengths, targets or [0] * len(lengths), strict=True):
        history = n - count
        for i in range(n):
            seen = [j for j in range(i + 1) if j < history or j == i]
            keys = torch.tensor([start + j for j in seen])
            scores = (k[keys] * q[start + i]).sum(-1)  # (m, h)
            if position is not None:
                apart = [min(i, history) - min(j, history) for j in seen]
                scores = scores + position[torch.tensor(apart)][:, None]
            if time is not None:
                at = times[asked + i + 1]
                buckets = [bucket_of(int(at - times[asked + j])) for j in seen]
                scores = scores + time[torch.tensor(buckets)][:, None]
            if activation == "silu":
                weights = scores / (1 + torch.exp(-scores))
            else:
                weights = scores.softmax(0)
            found.append((weights[:, :, None] * v[keys]).sum(0))
        start, asked = start + n, asked + n + 1
    return torch.stack(found) if found else v * 0
