"""HSTU's attention on a GPU: what is launched, forward and backward, as operators of torch."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from genrec_lite.kernels.hstu_attention import diagonal_sums
from genrec_lite.kernels.launch import launch, launch_for, sum_type
from genrec_lite.kernels.limits import require_short_rows, require_whole_vectors
from genrec_lite.kernels.tiles import band_list, tile_list
from genrec_lite.kernels.time_buckets import TIME_BUCKETS, edges_of_buckets
from genrec_lite.kernels.triton_hstu_kernels import (
    BINS,
    backward_keys_kernel,
    backward_queries_kernel,
    forward_kernel,
    tables_kernel,
)

__all__ = ["attend"]


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    position_weights: Tensor | None,
    time_weights: Tensor | None,
    seconds: Tensor | None,
    targets: Tensor | None,
    share: float,
) -> Tensor:
    """(T, h, d_v); see `genrec_lite.kernels.hstu_attention`, which checks what comes here.

    Args:
        position_weights, time_weights: float32, or float64 as q.
        seconds: (T + B,) int32, of `PairTimes`, with `time_weights`.
        targets: (B,) int64, or None for none.
        share: what the output is multiplied by.
    """
    require_whole_vectors(q=q, v=v)  # k is as wide as q
    for x in (q, v):
        require_short_rows(x, offsets)
    return _forward(q, k, v, offsets, position_weights, time_weights, seconds, targets, share)


def _arguments(
    q: Tensor,
    v: Tensor,
    position_weights: Tensor | None,
    time_weights: Tensor | None,
    seconds: Tensor | None,
    targets: Tensor | None,
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """What all kernels take (tables, times, edges, targets), and what is compiled into them."""
    nothing = torch.zeros(1, dtype=torch.int32, device=q.device)  # never read
    edges = nothing if seconds is None else _edges(q.device)
    given = (position_weights, time_weights, seconds, edges, targets)
    chosen = {
        "H": q.shape[1],
        "D": q.shape[2],
        "E": v.shape[2],
        "POSITION": position_weights is not None,
        "TIME": time_weights is not None,
        "TARGETS": targets is not None,
        "SUM": sum_type(q.dtype)[1],
    }
    return tuple(nothing if x is None else x.contiguous() for x in given), chosen


@cache
def _edges(device: torch.device) -> Tensor:
    """(TIME_BUCKETS - 1,) int32; what lies beyond 68 years is never reached."""
    return edges_of_buckets().clamp(max=2**31 - 1).to(device, torch.int32)


@torch.library.custom_op("genrec_lite::hstu_attention", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, position_weights: Tensor | None,
    time_weights: Tensor | None, seconds: Tensor | None, targets: Tensor | None, share: float,
) -> Tensor:  # fmt: skip
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty_like(v)
    given, chosen = _arguments(q, v, position_weights, time_weights, seconds, targets)
    sizes = launch_for("hstu attention forward", max(q.shape[2], v.shape[2]), q.dtype)
    tiles = tile_list(offsets, offsets, sizes.queries, "earlier")
    launch(
        forward_kernel, len(tiles) * q.shape[1], q, k, v, out, offsets, tiles, *given, share,
        **chosen, **sizes.options(),
    )  # fmt: skip
    return out


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(v, memory_format=torch.contiguous_format)


@torch.library.custom_op("genrec_lite::hstu_attention_backward", mutates_args=())
def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, offsets: Tensor,
    position_weights: Tensor | None, time_weights: Tensor | None, seconds: Tensor | None,
    targets: Tensor | None, share: float, tables: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of q, k, v, and where `tables` of the two tables, of length 0 otherwise."""
    grad, q, k, v = (x.contiguous() for x in (grad, q, k, v))
    heads, width = q.shape[1], max(q.shape[2], v.shape[2])
    given, chosen = _arguments(q, v, position_weights, time_weights, seconds, targets)
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    wide = sum_type(q.dtype)[0]
    by_key = q.new_empty(q.shape[:2], dtype=wide)
    sizes = launch_for("hstu attention backward keys", width, q.dtype)
    tiles = tile_list(offsets, offsets, sizes.keys, "later")
    launch(
        backward_keys_kernel, len(tiles) * heads, q, k, v, grad, grad_k, grad_v, by_key,
        offsets, tiles, *given, share, **chosen, **sizes.options(),
    )  # fmt: skip
    sizes = launch_for("hstu attention backward queries", width, q.dtype)
    tiles = tile_list(offsets, offsets, sizes.queries, "earlier")
    launch(
        backward_queries_kernel, len(tiles) * heads, q, k, v, grad, grad_q,
        offsets, tiles, *given, share, **chosen, **sizes.options(),
    )  # fmt: skip
    grad_position = q.new_zeros(
        0 if position_weights is None else len(position_weights), dtype=wide
    )
    grad_time = q.new_zeros(0 if time_weights is None else len(time_weights), dtype=wide)
    if not tables or not len(q):
        return grad_q, grad_k, grad_v, grad_position, grad_time
    sizes = launch_for("hstu attention tables", width, q.dtype)
    pairs, chunks = band_list(offsets, sizes.queries)
    by_place = q.new_empty(len(chunks), sizes.queries, sizes.queries, dtype=wide)
    by_time = q.new_empty(len(chunks), BINS.value, dtype=wide)
    launch(
        tables_kernel, len(chunks), q, k, v, grad, by_place, by_time, offsets, pairs, chunks,
        *given, share, **chosen,
        BLOCK=sizes.queries, num_warps=sizes.warps, num_stages=sizes.stages,
    )  # fmt: skip
    if position_weights is not None:
        _add(grad_position, _by_distance(by_place, chunks[:, 0].long()))
        if targets is not None:
            _add(grad_position, _of_targets(by_key.sum(1), offsets, targets))
    if time_weights is not None:
        grad_time += by_time.sum(0)[:TIME_BUCKETS]
    return grad_q, grad_k, grad_v, grad_position, grad_time


@_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, offsets: Tensor,
    position_weights: Tensor | None, time_weights: Tensor | None, seconds: Tensor | None,
    targets: Tensor | None, share: float, tables: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    wide = sum_type(q.dtype)[0]
    like = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    lengths = (0 if x is None else len(x) for x in (position_weights, time_weights))
    return *like, *(q.new_empty(n, dtype=wide) for n in lengths)


def _add(total: Tensor, part: Tensor) -> None:
    """Adds `part` to the first places of `total`; beyond the shorter of the two are only zeros."""
    n = min(len(total), len(part))
    total[:n] += part[:n]


def _by_distance(by_place: Tensor, bands: Tensor) -> Tensor:
    """(D,) sums by distance of sums by place (C, n, n), the band of each in `bands` (C,)."""
    n, last = by_place.shape[1], int(bands[-1])
    counts = (bands == torch.arange(last + 1, device=bands.device)[:, None]).sum(1)
    of_bands = torch.segment_reduce(by_place, "sum", lengths=counts)  # chunks lie band by band
    sums = diagonal_sums(of_bands)  # (bands, 2n - 1), of distances n band - (n - 1) and on
    total = sums[:, n - 1 :].clone()
    total[:-1, 1:] += sums[1:, : n - 1]
    return total.flatten()


def _of_targets(by_key: Tensor, offsets: Tensor, targets: Tensor) -> Tensor:
    """(D,) sums by distance from the targets' place of the sums by key (T,)."""
    lengths = offsets.diff()
    history = lengths - targets
    row = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    place = torch.arange(len(by_key), device=row.device) - offsets[:-1][row]
    apart = (history[row] - place).clamp(min=0)
    # One cell a pair of sequence and distance, so that nothing is added in an order of chance;
    # only the targets themselves share one, that of distance 0.
    cells = by_key.new_zeros(len(lengths), int(history.max()) + 1)
    earlier = apart > 0
    cells[row[earlier], apart[earlier]] = by_key[earlier]
    total = cells.sum(0)
    total[0] = by_key[~earlier].sum()
    return total


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.share = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    position_weights, time_weights = tensors[4], tensors[5]
    wanted = ctx.needs_input_grad
    *found, of_position, of_time = _backward(grad, *tensors, ctx.share, wanted[4] or wanted[5])
    return (
        *found,
        None,
        of_position.to(position_weights.dtype) if wanted[4] else None,
        of_time.to(time_weights.dtype) if wanted[5] else None,
        None, None, None,
    )  # fmt: skip


_forward.register_autograd(_gradients, setup_context=_keep)
