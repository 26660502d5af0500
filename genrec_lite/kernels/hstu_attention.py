"""The attention of HSTU: SiLU in place of softmax, and biases of position and time.

Zhai et al. 2024 (2402.17152), section 3.2. On a CPU one sequence after the other, without padding:
the scores of a sequence of 200 events are 160 kB, which stay in a core's cache from the first
product to the last. On a GPU, with SiLU, one launch for the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from genrec_lite.jagged import JaggedTensor
from genrec_lite.kernels.time_buckets import TIME_BUCKETS, PairTimes

__all__ = ["ACTIVATIONS", "Activation", "hstu_attention"]

Activation = Literal["silu", "softmax"]
ACTIVATIONS: tuple[Activation, ...] = ("silu", "softmax")

# Queries of a long sequence that a CPU takes at once: later keys than theirs are not looked at, so
# that half of the pairs of a long sequence cost nothing.
BLOCK = 256


def hstu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    *,
    position_weights: Tensor | None = None,
    time_weights: Tensor | None = None,
    times: PairTimes | None = None,
    targets: Tensor | None = None,
    activation: Activation = "silu",
    divide_by: float = 1.0,
) -> Tensor:
    """Each event's weighted sum of the values of its own sequence's events, up to itself.

    The weight of event j for query i is SiLU(<q_i, k_j> + position[i - j] + time[bucket of i, j]),
    or the softmax of the same over j. The last events of a sequence may be targets, candidates
    for what comes next: each sees the history before all of them, and itself, but no other target,
    and all stand at the place after the history.

    Args:
        q, k: (T, h, d_qk), h heads of all events of all sequences.
        v: (T, h, d_v), of q's dtype.
        offsets: (B + 1,) int64, where each sequence begins and the last one ends.
        position_weights: (L,) by distance, shared by the heads; L at least the longest sequence,
            of whose targets one counts.
        time_weights: (TIME_BUCKETS,), shared by the heads.
        times: of the same sequences; needed with `time_weights`.
        targets: (B,) int64, how many of each sequence's last events are targets; none if left out.
        activation: "silu" or "softmax".
        divide_by: what the sums are divided by.
    Returns:
        (T, h, d_v).
    Raises:
        ValueError: if the shapes do not fit each other, or the activation is neither, or, on a
            GPU, heads in half precision are not a multiple of 8 wide.
        RuntimeError: if the gradient's own gradient is asked for.
    """
    lengths = _checked_lengths(q, k, v, offsets)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}: choose from {', '.join(ACTIVATIONS)}")
    counts = _checked_targets(targets, lengths)
    _check_biases(position_weights, time_weights, times, lengths, counts, q.device)
    wide = torch.promote_types(q.dtype, torch.float32)  # what sums over many pairs are made in
    if position_weights is not None:
        position_weights = position_weights.to(wide)
    if time_weights is not None:
        time_weights = time_weights.to(wide)
    if q.is_cuda and activation == "silu":
        from genrec_lite.kernels.triton_hstu_attention import attend

        seconds = None if times is None else times.seconds
        return attend(
            q, k, v, offsets, position_weights, time_weights, seconds, targets, 1 / divide_by
        )
    inputs = [x for x in (q, k, v, position_weights, time_weights) if x is not None]
    learning = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    buckets = None if times is None else times.buckets.values
    found = _HSTUAttention.apply(
        q, k, v, position_weights, time_weights, buckets, (lengths, counts, activation, learning)
    )
    return found if divide_by == 1 else found / divide_by


def diagonal_sums(square: Tensor) -> Tensor:
    """(..., 2n - 1) sums along the diagonals of (..., n, n), that of i - j at n - 1 + i - j."""
    n = square.shape[-1]
    # Each row reversed, and moved one place further than the row above it.
    wide = torch.nn.functional.pad(square.flip(-1), (0, n)).flatten(-2)
    return wide[..., : n * (2 * n - 1)].unflatten(-1, (n, 2 * n - 1)).sum(-2)


def _checked_lengths(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor) -> list[int]:
    """The lengths of the sequences; raises a ValueError unless all shapes fit."""
    if q.ndim != 3 or q.shape != k.shape or v.ndim != 3 or v.shape[:2] != q.shape[:2]:
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: expected (T, h, d_qk) "
            "twice and (T, h, d_v)"
        )
    if not q.is_floating_point() or (q.dtype == torch.float16 and not q.is_cuda):
        raise ValueError(
            f"q has dtype {q.dtype} on {q.device}: expected floats, and on a CPU no float16, whose "
            "range is too small for scores; use float32 or bfloat16"
        )
    for name, x in (("k", k), ("v", v)):
        if (x.device, x.dtype) != (q.device, q.dtype):
            raise ValueError(
                f"q is {q.dtype} on {q.device} and {name} {x.dtype} on {x.device}: "
                "convert or move one"
            )
    return JaggedTensor(q, offsets).lengths.tolist()  # checks the offsets


def _check_biases(
    position_weights: Tensor | None,
    time_weights: Tensor | None,
    times: PairTimes | None,
    lengths: list[int],
    targets: list[int],
    device: torch.device,
) -> None:
    places = max((n - max(0, m - 1) for n, m in zip(lengths, targets, strict=True)), default=0)
    for name, table in (("position_weights", position_weights), ("time_weights", time_weights)):
        if table is not None and table.device != device:
            raise ValueError(f"q is on {device} and {name} on {table.device}: move one of them")
    if times is not None and times.times.values.device != device:
        raise ValueError(
            f"q is on {device} and the times on {times.times.values.device}: move one of them"
        )
    if position_weights is not None and (
        position_weights.ndim != 1 or len(position_weights) < places
    ):
        raise ValueError(
            f"position_weights {tuple(position_weights.shape)} for a sequence of {places} places "
            f"(all targets share one): expected at least ({places},)"
        )
    if (time_weights is None) != (times is None):
        raise ValueError("a time bias is made of time_weights and times: give both or neither")
    if time_weights is not None and times is not None:
        if time_weights.shape != (TIME_BUCKETS,):
            raise ValueError(
                f"time_weights {tuple(time_weights.shape)}: expected ({TIME_BUCKETS},)"
            )
        if times.times.lengths.tolist() != [n + 1 for n in lengths]:
            raise ValueError(
                "the times are those of other sequences: each row has one more than its events"
            )


def _checked_targets(targets: Tensor | None, lengths: list[int]) -> list[int]:
    """How many targets each sequence has; raises a ValueError unless it has as many events."""
    if targets is None:
        return [0] * len(lengths)
    if targets.shape != (len(lengths),) or targets.is_floating_point():
        raise ValueError(
            f"targets {tuple(targets.shape)} of {targets.dtype}: expected ({len(lengths)},) int64"
        )
    counts = targets.tolist()
    for row, (count, n) in enumerate(zip(counts, lengths, strict=True)):
        if not 0 <= count <= n:
            raise ValueError(f"sequence {row} has {n} events, of which {count} are targets")
    return counts


class _HSTUAttention(torch.autograd.Function):
    """Sequence by sequence; the scores before the activation are kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        position_weights: Tensor | None,
        time_weights: Tensor | None,
        buckets: Tensor | None,
        how: tuple[list[int], list[int], str, bool],
    ) -> Tensor:
        lengths, targets, activation, learning = how
        heads, longest = q.shape[1], max(lengths, default=0)
        out = v.new_empty(v.shape)
        pieces = list(_pieces(lengths, targets))
        kept = q.new_empty(heads * sum(p.pairs for p in pieces) if learning else 0)
        scratch = q.new_empty((2, heads * max((p.pairs for p in pieces), default=0)))
        by_time = None if time_weights is None else time_weights.to(q.dtype)
        bias = _by_distance(position_weights, longest, like=q)
        cell = 0
        for p in pieces:
            size, shape = heads * p.pairs, (heads, p.last - p.first, p.last)
            s = (kept[cell : cell + size] if learning else scratch[0, :size]).view(shape)
            near = p.bias(bias).expand(shape)
            torch.baddbmm(near, _heads(q[p.queries]), _heads(k[p.keys]).mT, out=s)
            if by_time is not None and buckets is not None:
                added = scratch[1, : p.pairs]
                torch.index_select(by_time, 0, p.buckets(buckets), out=added)
                s += added.view(shape[1:])
            weights = _weights(s, activation, scratch[1, :size].view(shape))
            torch.bmm(weights, _heads(v[p.keys]), out=_heads(out[p.queries]))
            cell += size
        if learning:
            ctx.save_for_backward(q, k, v, position_weights, kept, buckets)
            ctx.pieces, ctx.longest, ctx.activation = pieces, longest, activation
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():  # create_graph=True: these gradients know no graph
            raise RuntimeError("hstu_attention has no second derivative")
        q, k, v, position_weights, kept, buckets = ctx.saved_tensors
        heads, longest, grad = q.shape[1], ctx.longest, grads[0].contiguous()
        grad_q, grad_k, grad_v = (t.new_empty(t.shape) for t in (q, k, v))
        wide = torch.promote_types(q.dtype, torch.float32)
        grad_bias = q.new_zeros(longest, longest, dtype=wide) if ctx.needs_input_grad[3] else None
        grad_time = q.new_zeros(TIME_BUCKETS, dtype=wide) if ctx.needs_input_grad[4] else None
        scratch = q.new_empty((2, heads * max((p.pairs for p in ctx.pieces), default=0)))
        cell = 0
        for p in ctx.pieces:
            size, shape = heads * p.pairs, (heads, p.last - p.first, p.last)
            s = kept[cell : cell + size].view(shape)
            weights = _weights(s, ctx.activation, scratch[0, :size].view(shape))
            of_queries = _heads(grad[p.queries])
            p.add(grad_v, weights.mT, of_queries)
            g = scratch[1, :size].view(shape)
            torch.bmm(of_queries, _heads(v[p.keys]).mT, out=g)
            if ctx.activation == "silu":
                torch.ops.aten.silu_backward.grad_input(g, s, grad_input=g)
            else:
                g -= (g * weights).sum(-1, keepdim=True)
                g *= weights
            torch.bmm(g, _heads(k[p.keys]), out=_heads(grad_q[p.queries]))
            p.add(grad_k, g.mT, _heads(q[p.queries]))
            of_all_heads = g[0] if heads == 1 else g.sum(0)
            if grad_bias is not None:
                p.add_to_bias(grad_bias, of_all_heads)
            if grad_time is not None:
                of_pairs = of_all_heads.flatten().to(wide)
                grad_time += p.buckets(buckets).bincount(of_pairs, TIME_BUCKETS)
            cell += size
        grad_position = None
        if grad_bias is not None:
            grad_position = torch.zeros_like(position_weights)
            by_distance = diagonal_sums(grad_bias)[longest - 1 :]
            reached = min(longest, len(grad_position))  # beyond it only targets, which are one
            grad_position[:reached] = by_distance[:reached]
        return grad_q, grad_k, grad_v, grad_position, grad_time, None, None


@dataclass(frozen=True)
class _Piece:
    """Queries `first` to `last` of a sequence of `length` events, and all keys up to `last`.

    Args:
        event: where the sequence's events begin, `pair`: its pairs.
        history: how many of its events are no targets.
    """

    first: int
    last: int
    length: int
    event: int
    pair: int
    history: int

    @property
    def queries(self) -> slice:
        return slice(self.event + self.first, self.event + self.last)

    @property
    def keys(self) -> slice:
        return slice(self.event, self.event + self.last)

    @property
    def pairs(self) -> int:
        return (self.last - self.first) * self.last

    def buckets(self, buckets: Tensor) -> Tensor:
        """(pairs,) of all sequences' buckets."""
        n = self.length
        of_sequence = buckets[self.pair : self.pair + n * n].view(n, n)
        return of_sequence[self.first : self.last, : self.last].reshape(-1)

    def bias(self, by_distance: Tensor) -> Tensor:
        """(queries, keys) of the bias by distance (L, L), as the targets see it."""
        found = by_distance[self.first : self.last, : self.last]
        if self.last <= self.history:
            return found
        found, target = found.clone(), max(0, self.history - self.first)
        found[target:] = torch.finfo(found.dtype).min / 2
        found[target:, : self.history] = by_distance[self.history, : self.history]
        found[:, self.first :].diagonal()[target:] = by_distance[0, 0]
        return found

    def add_to_bias(self, grad: Tensor, of_pairs: Tensor) -> None:
        """Adds gradients (queries, keys) to those of the bias by distance (L, L)."""
        target = max(0, min(self.last, self.history) - self.first)
        grad[self.first : self.first + target, : self.last] += of_pairs[:target]
        if self.last > self.history:
            grad[self.history, : self.history] += of_pairs[target:, : self.history].sum(0)
            grad[0, 0] += of_pairs[:, self.first :].diagonal()[target:].sum()

    def add(self, grad: Tensor, of_keys: Tensor, of_queries: Tensor) -> None:
        """Adds the product to the keys' gradients; of a sequence the last piece comes first."""
        if self.last == self.length:
            torch.bmm(of_keys, of_queries, out=_heads(grad[self.keys]))
        else:
            _heads(grad[self.keys]).baddbmm_(of_keys, of_queries)


def _pieces(lengths: list[int], targets: list[int]) -> Iterator[_Piece]:
    event = pair = 0
    for n, count in zip(lengths, targets, strict=True):
        for first in reversed(range(0, n, BLOCK)):
            yield _Piece(first, min(n, first + BLOCK), n, event, pair, n - count)
        event, pair = event + n, pair + n * n


def _by_distance(weights: Tensor | None, longest: int, *, like: Tensor) -> Tensor:
    """(n, n): the weight of i - j at row i, column j; a very low number where j is later than i.

    SiLU and softmax make an exact 0 of half the lowest number, and so do their derivatives; minus
    infinity would make a NaN of the first. No product of q and k can bring it back.
    """
    known = like.new_zeros(longest)
    if weights is not None:  # which may be shorter where the last events are targets
        known[: len(weights)] = weights[:longest].to(like.dtype)
    line = known.new_full((2 * longest + 1,), torch.finfo(like.dtype).min / 2)
    line[:longest] = known.flip(0)  # a row further down begins one place further left
    return line.unfold(0, longest, 1)[:longest].flip(0)


def _heads(x: Tensor) -> Tensor:
    """(n, h, d) -> (h, n, d), a view."""
    return x.transpose(0, 1)


def _weights(scores: Tensor, activation: str, out: Tensor) -> Tensor:
    """The weights of scores (h, n, m), written to `out`."""
    if activation == "silu":
        return torch.ops.aten.silu.out(scores, out=out)
    return torch.softmax(scores, -1, out=out)
