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

__all__ = ["ACTIVATIONS", "TIME_BUCKETS", "Activation", "hstu_attention", "time_buckets"]

Activation = Literal["silu", "softmax"]
ACTIVATIONS: tuple[Activation, ...] = ("silu", "softmax")

# Buckets of the time bias, and the width of one: a factor of e^0.301 = 1.35 in time. (The paper's
# code divides a natural logarithm by log10(2).)
TIME_BUCKETS, BUCKET_WIDTH = 129, 0.301


def hstu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    *,
    position_weights: Tensor | None = None,
    time_weights: Tensor | None = None,
    buckets: JaggedTensor | None = None,
    activation: Activation = "silu",
) -> Tensor:
    """Each event's weighted sum of the values of its own sequence's events, up to itself.

    The weight of event j for query i is SiLU(<q_i, k_j> + position[i - j] + time[bucket of i, j]),
    not divided by anything, or the softmax of the same over j.

    Args:
        q, k: (T, h, d_qk), h heads of all events of all sequences.
        v: (T, h, d_v), of q's dtype.
        offsets: (B + 1,) int64, where each sequence begins and the last one ends.
        position_weights: (L,) by distance, shared by the heads; L at least the longest sequence.
        time_weights: (TIME_BUCKETS,), shared by the heads.
        buckets: of `time_buckets`; needed with `time_weights`.
        activation: "silu" or "softmax".
    Returns:
        (T, h, d_v).
    Raises:
        ValueError: if the shapes do not fit each other, or the activation is neither.
        RuntimeError: in the backward pass, if it is asked to be differentiable itself.
    """
    lengths = _checked_lengths(q, k, v, offsets)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}: choose from {', '.join(ACTIVATIONS)}")
    longest = max(lengths, default=0)
    if position_weights is not None and (
        position_weights.ndim != 1 or len(position_weights) < longest
    ):
        raise ValueError(
            f"position_weights {tuple(position_weights.shape)} for a sequence of {longest} "
            f"events: expected at least ({longest},)"
        )
    if (time_weights is None) != (buckets is None):
        raise ValueError("a time bias is made of time_weights and buckets: give both or neither")
    of_time = None
    if time_weights is not None and buckets is not None:
        if time_weights.shape != (TIME_BUCKETS,):
            raise ValueError(
                f"time_weights {tuple(time_weights.shape)}: expected ({TIME_BUCKETS},)"
            )
        if buckets.lengths.tolist() != [n * n for n in lengths]:
            raise ValueError(
                "the time buckets are those of other sequences: make them of the same ones"
            )
        of_time = time_weights.to(_wide(q))
    bias = _by_distance(position_weights, longest, like=q)
    inputs = [t for t in (q, k, v, bias, of_time) if t is not None]
    learning = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    values = None if buckets is None else buckets.values
    return _HSTUAttention.apply(q, k, v, bias, of_time, values, (lengths, activation, learning))


def time_buckets(times: JaggedTensor) -> JaggedTensor:
    """Which weight of the time bias each pair of events gets; made once, used by all layers.

    For query i and event j of a sequence it is floor(ln(max(1, t)) / 0.301), at most
    TIME_BUCKETS - 1, where t is the time from event j to the event *after* i: when a prediction
    is asked for, the time of asking is known.

    Args:
        times: B rows of whole seconds, one more than the sequence has events, the last of them
            when the prediction is asked for.
    Returns:
        B rows, int32: n x n of a sequence with n events, query by query; where j is later than i
        it is 0.
    Raises:
        ValueError: if the times are no whole seconds, or a row has none.
    """
    if times.values.is_floating_point():
        raise ValueError(f"times have dtype {times.values.dtype}: give whole seconds, torch.int64")
    short = (times.lengths == 0).nonzero()
    if len(short):
        raise ValueError(f"row {int(short[0])} of the times is empty: give at least when it asks")
    edges = _edges().to(times.values.device)
    found = [torch.empty(0, dtype=torch.int32, device=times.values.device)]
    for row in times:
        apart = row[1:, None] - row[:-1]  # (n, n), t[i + 1] - t[j]
        found.append(torch.bucketize(apart, edges, right=True, out_int32=True).flatten())
    return JaggedTensor.from_lengths(torch.cat(found), (times.lengths - 1).square())


def _edges() -> Tensor:
    """(TIME_BUCKETS - 1,) the whole seconds from which on each later bucket is reached.

    With these no logarithm is rounded: pairs at a bucket's edge are where they should be.
    """
    return torch.tensor([math.ceil(math.exp(BUCKET_WIDTH * b)) for b in range(1, TIME_BUCKETS)])


def _checked_lengths(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor) -> list[int]:
    """The lengths of the sequences; raises a ValueError unless all shapes fit."""
    if q.ndim != 3 or q.shape != k.shape or v.ndim != 3 or v.shape[:2] != q.shape[:2]:
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: expected (T, h, d_qk) "
            "twice and (T, h, d_v)"
        )
    return JaggedTensor(q, offsets).lengths.tolist()  # checks the offsets


def _by_distance(weights: Tensor | None, longest: int, *, like: Tensor) -> Tensor:
    """(n, n) in float32 at least: the weight of i - j at row i, column j; a very low number where
    j is later than i.

    SiLU and softmax make an exact 0 of half the lowest number, and so do their derivatives; minus
    infinity would make a NaN of the first. No product of q and k can bring it back.
    """
    places = torch.arange(longest, device=like.device)
    apart = places[:, None] - places
    lowest = torch.finfo(like.dtype).min / 2
    if weights is None:
        return torch.zeros_like(apart, dtype=_wide(like)).masked_fill(apart < 0, lowest)
    return weights.to(_wide(like))[apart.clamp(min=0)].masked_fill(apart < 0, lowest)


def _wide(like: Tensor) -> torch.dtype:
    """What sums over many pairs are made in: float32 at least."""
    return torch.promote_types(like.dtype, torch.float32)


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
        how: tuple[list[int], str, bool],
    ) -> Tensor:
        lengths, activation, learning = how
        heads, longest = q.shape[1], max(lengths, default=0)
        out = v.new_empty(v.shape)
        kept = q.new_empty(heads * sum(n * n for n in lengths) if learning else 0)
        scratch = q.new_empty((2, heads * longest * longest))
        by_time = None if time_weights is None else time_weights.to(q.dtype)
        bias = bias.to(q.dtype)
        cell = event = 0
        for n in lengths:
            if not n:
                continue
            rows, size = slice(event, event + n), heads * n * n
            cells = slice(cell * heads, cell * heads + size)
            s = (kept[cells] if learning else scratch[0, :size]).view(heads, n, n)
            near = bias[:n, :n].expand(heads, n, n)
            torch.baddbmm(near, _heads(q[rows]), _heads(k[rows]).mT, out=s)
            if by_time is not None and buckets is not None:
                added = scratch[1, : n * n]
                torch.index_select(by_time, 0, buckets[cell : cell + n * n], out=added)
                s += added.view(n, n)
            weights = _weights(s, activation, scratch[1, :size].view(heads, n, n))
            torch.bmm(weights, _heads(v[rows]), out=_heads(out[rows]))
            event, cell = event + n, cell + n * n
        if learning:
            ctx.save_for_backward(q, k, v, kept, buckets)
            ctx.lengths, ctx.activation = lengths, activation
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():  # create_graph=True: these gradients know no graph
            raise RuntimeError("hstu_attention has no second derivative")
        q, k, v, kept, buckets = ctx.saved_tensors
        heads, longest, grad = q.shape[1], max(ctx.lengths, default=0), grads[0].contiguous()
        grad_q, grad_k, grad_v = (t.new_empty(t.shape) for t in (q, k, v))
        wide = _wide(q)
        grad_bias = q.new_zeros(longest, longest, dtype=wide) if ctx.needs_input_grad[3] else None
        grad_time = q.new_zeros(TIME_BUCKETS, dtype=wide) if ctx.needs_input_grad[4] else None
        scratch = q.new_empty((2, heads * longest * longest))
        cell = event = 0
        for n in ctx.lengths:
            if not n:
                continue
            rows, size = slice(event, event + n), heads * n * n
            s = kept[cell * heads : cell * heads + size].view(heads, n, n)
            weights = _weights(s, ctx.activation, scratch[0, :size].view(heads, n, n))
            torch.bmm(weights.mT, _heads(grad[rows]), out=_heads(grad_v[rows]))
            g = scratch[1, :size].view(heads, n, n)
            torch.bmm(_heads(grad[rows]), _heads(v[rows]).mT, out=g)
            if ctx.activation == "silu":
                torch.ops.aten.silu_backward.grad_input(g, s, grad_input=g)
            else:
                g -= (g * weights).sum(-1, keepdim=True)
                g *= weights
            torch.bmm(g, _heads(k[rows]), out=_heads(grad_q[rows]))
            torch.bmm(g.mT, _heads(q[rows]), out=_heads(grad_k[rows]))
            of_all_heads = g[0] if heads == 1 else g.sum(0)
            if grad_bias is not None:
                grad_bias[:n, :n] += of_all_heads
            if grad_time is not None:
                here = buckets[cell : cell + n * n]
                grad_time += here.bincount(of_all_heads.flatten().to(wide), TIME_BUCKETS)
            event, cell = event + n, cell + n * n
        return grad_q, grad_k, grad_v, grad_bias, grad_time, None, None


def _heads(x: Tensor) -> Tensor:
    """(n, h, d) -> (h, n, d), a view."""
    return x.transpose(0, 1)


def _weights(scores: Tensor, activation: str, out: Tensor) -> Tensor:
    """The weights of scores (h, n, n), written to `out`."""
    if activation == "silu":
        return torch.ops.aten.silu.out(scores, out=out)
    return torch.softmax(scores, -1, out=out)
