"""The attention of HSTU: SiLU in place of softmax, and biases of position and time.

Zhai et al. 2024 (2402.17152), section 3.2. One sequence after the other, without padding: the
scores of a sequence of 200 events are 160 kB, which stay in a core's cache from the first product
to the last.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from genrec_lite.jagged import JaggedTensor

__all__ = ["MASKED", "TIME_BUCKETS", "hstu_attention", "time_buckets"]

# Buckets of the time bias, and the width of one: a factor of e^0.301 = 1.35 in time. (The paper's
# code divides a natural logarithm by log10(2).)
TIME_BUCKETS, BUCKET_WIDTH = 129, 0.301
# What a query adds to the score of an event that is later than itself. SiLU and softmax make an
# exact 0 of it, and so do their derivatives; minus infinity would make NaN of the first.
MASKED = -1e4


def hstu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    *,
    position_weights: Tensor | None = None,
    time_weights: Tensor | None = None,
    buckets: Tensor | None = None,
    activation: Literal["silu", "softmax"] = "silu",
) -> Tensor:
    """Each event's weighted sum of the values of its own sequence's events, up to itself.

    The weight of event j for query i is SiLU(<q_i, k_j> + position[i - j] + time[bucket of i, j]),
    not divided by anything, or the softmax of the same over j.

    Args:
        q, k: (T, h, d_qk), h heads of all events of all sequences.
        v: (T, h, d_v).
        offsets: (B + 1,) int64, where each sequence begins and the last one ends.
        position_weights: (L,) by distance, shared by the heads; L at least the longest sequence.
        time_weights: (TIME_BUCKETS,), shared by the heads.
        buckets: of `time_buckets`; needed with `time_weights`.
        activation: "silu" or "softmax".
    Returns:
        (T, h, d_v).
    Raises:
        ValueError: if the shapes do not fit each other.
        RuntimeError: in the backward pass, if it is asked to be differentiable itself.
    """
    if q.ndim != 3 or q.shape != k.shape or v.ndim != 3 or v.shape[:2] != q.shape[:2]:
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: expected (T, h, d_qk) "
            "twice and (T, h, d_v)"
        )
    if int(offsets[-1]) != len(q):
        raise ValueError(f"offsets end at {int(offsets[-1])}, but there are {len(q)} events")
    if (time_weights is None) != (buckets is None):
        raise ValueError("a time bias is made of time_weights and buckets: give both or neither")
    lengths = offsets.diff()
    longest = int(lengths.max()) if len(lengths) else 0
    if position_weights is not None and len(position_weights) < longest:
        raise ValueError(
            f"{len(position_weights)} position weights for a sequence of {longest} events"
        )
    squares = int((lengths * lengths).sum())
    if buckets is not None and buckets.shape != (squares,):
        raise ValueError(
            f"{tuple(buckets.shape)} time buckets for sequences with {squares} pairs of events: "
            "make them of the same sequences"
        )
    return _HSTUAttention.apply(
        q, k, v, _by_distance(position_weights, longest, like=q), time_weights, buckets,
        lengths.tolist(), activation,
    )  # fmt: skip


def time_buckets(times: JaggedTensor) -> Tensor:
    """Which weight of the time bias each pair of events gets; made once, used by all layers.

    For query i and event j of a sequence it is floor(ln(max(1, t)) / 0.301), at most
    TIME_BUCKETS - 1, where t is the time from event j to the event *after* i: when a prediction
    is asked for, the time of asking is known.

    Args:
        times: B rows of whole seconds, one more than the sequence has events, the last of them
            when the prediction is asked for.
    Returns:
        (sum of n^2,) int32: n x n of the first sequence, row by row, then of the second, ...;
        pairs with j later than i are in bucket 0.
    """
    edges = _edges().to(times.values.device)
    found = [torch.empty(0, dtype=torch.int32, device=times.values.device)]
    for row in times:
        apart = row[1:, None] - row[:-1]  # (n, n), t[i + 1] - t[j]
        found.append(torch.bucketize(apart, edges, right=True, out_int32=True).flatten())
    return torch.cat(found)


def _edges() -> Tensor:
    """(TIME_BUCKETS - 1,) the whole seconds from which on each later bucket is reached.

    With these no logarithm is rounded: pairs at a bucket's edge are where they should be.
    """
    # Beyond 2^62 there are no seconds.
    reached = [min(BUCKET_WIDTH * bucket, 62 * math.log(2)) for bucket in range(1, TIME_BUCKETS)]
    return torch.tensor([math.ceil(math.exp(logarithm)) for logarithm in reached])


def _by_distance(weights: Tensor | None, longest: int, *, like: Tensor) -> Tensor:
    """(n, n): the weight of i - j at row i, column j; `MASKED` where j is later than i."""
    places = torch.arange(longest, device=like.device)
    apart = places[:, None] - places
    if weights is None:
        return torch.zeros_like(apart, dtype=like.dtype).masked_fill(apart < 0, MASKED)
    return weights.to(like.dtype)[apart.clamp(min=0)].masked_fill(apart < 0, MASKED)


class _HSTUAttention(torch.autograd.Function):
    """Sequence by sequence; the scores before the activation are kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor,
        time_weights: Tensor | None,
        buckets: Tensor | None,
        lengths: list[int],
        activation: str,
    ) -> Tensor:
        heads, longest = q.shape[1], max(lengths, default=0)
        learning = any(ctx.needs_input_grad)
        out = torch.empty_like(v)
        kept = q.new_empty(heads * sum(n * n for n in lengths) if learning else 0)
        scratch = q.new_empty((2, heads * longest * longest))
        cell = event = 0
        for n in lengths:
            if not n:
                continue
            rows, size = slice(event, event + n), heads * n * n
            cells = slice(cell * heads, cell * heads + size)
            s = (kept[cells] if learning else scratch[0, :size]).view(heads, n, n)
            near = bias[:n, :n].expand(heads, n, n)
            torch.baddbmm(near, _heads(q[rows]), _heads(k[rows]).mT, out=s)
            if time_weights is not None and buckets is not None:
                added = scratch[1, : n * n]
                torch.index_select(time_weights, 0, buckets[cell : cell + n * n], out=added)
                s += added.view(n, n)
            weights = _weights(s, activation, scratch[1, :size].view(heads, n, n))
            torch.bmm(weights, _heads(v[rows]), out=_heads(out[rows]))
            event, cell = event + n, cell + n * n
        if learning:
            ctx.save_for_backward(q, k, v, kept)
            ctx.others = buckets, lengths, activation, longest, time_weights is not None
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():  # create_graph=True: these gradients know no graph
            raise RuntimeError("hstu_attention has no second derivative")
        q, k, v, kept = ctx.saved_tensors
        buckets, lengths, activation, longest, by_time = ctx.others
        heads, grad = q.shape[1], grads[0].contiguous()
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        grad_bias = q.new_zeros(longest, longest)
        grad_time = q.new_zeros(TIME_BUCKETS) if by_time else None
        scratch = q.new_empty((2, heads * longest * longest))
        cell = event = 0
        for n in lengths:
            if not n:
                continue
            rows, size = slice(event, event + n), heads * n * n
            s = kept[cell * heads : cell * heads + size].view(heads, n, n)
            weights = _weights(s, activation, scratch[0, :size].view(heads, n, n))
            torch.bmm(weights.mT, _heads(grad[rows]), out=_heads(grad_v[rows]))
            g = scratch[1, :size].view(heads, n, n)
            torch.bmm(_heads(grad[rows]), _heads(v[rows]).mT, out=g)
            if activation == "silu":
                torch.ops.aten.silu_backward.grad_input(g, s, grad_input=g)
            else:
                g -= (g * weights).sum(-1, keepdim=True)
                g *= weights
            torch.bmm(g, _heads(k[rows]), out=_heads(grad_q[rows]))
            torch.bmm(g.mT, _heads(q[rows]), out=_heads(grad_k[rows]))
            of_all_heads = g[0] if heads == 1 else g.sum(0)
            grad_bias[:n, :n] += of_all_heads
            if grad_time is not None:
                here = buckets[cell : cell + n * n]
                grad_time += here.bincount(of_all_heads.flatten(), TIME_BUCKETS)
            event, cell = event + n, cell + n * n
        return grad_q, grad_k, grad_v, grad_bias, grad_time, None, None, None


def _heads(x: Tensor) -> Tensor:
    """(n, h, d) -> (h, n, d), a view."""
    return x.transpose(0, 1)


def _weights(scores: Tensor, activation: str, out: Tensor) -> Tensor:
    """The weights of scores (h, n, n), written to `out`."""
    if activation == "silu":
        return torch.ops.aten.silu.out(scores, out=out)
    return torch.softmax(scores, -1, out=out)
