"""Jagged flash attention in Triton: one program a tile of one sequence and head.

The softmax is taken online, block of keys by block, so that no row of scores is ever stored; the
backward pass makes the scores again. Two backward kernels, one for each side, write every gradient
once: no atomic additions, so the same input gives the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_lite.kernels.blocks import (
    load_block,
    locate,
    padded_width,
    read_tile,
    store_block,
    tl,
    triton,
)
from genrec_lite.kernels.launch import launch, launch_for, sum_type
from genrec_lite.kernels.limits import require_short_rows, require_whole_vectors
from genrec_lite.kernels.tiles import tile_list

__all__ = ["attend"]

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def forward_kernel(
    p_q, p_k, p_v, p_out, p_lse, p_q_offsets, p_k_offsets, p_tiles, scale,
    H: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr, SUM: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The output of BM queries of one sequence and head, and log2 of their softmax's sums."""
    i_sequence, o_first = read_tile(p_tiles, tl.program_id(0) // H)
    i_head = tl.program_id(0) % H
    q_start, n_q = locate(p_q_offsets, i_sequence)
    k_start, n_k = locate(p_k_offsets, i_sequence)
    p_q += (q_start * H + i_head) * D
    p_out += (q_start * H + i_head) * D
    p_lse += q_start * H + i_head
    p_k += (k_start * H + i_head) * D
    p_v += (k_start * H + i_head) * D
    o_q = o_first + tl.arange(0, BM)
    ahead = n_k - n_q  # the last query stands beside the last key
    # [BM, BD]
    b_q = load_block(p_q, o_q, n_q, H * D, D, True)
    b_out = tl.zeros([BM, padded_width(D)], SUM)
    # [BM] the largest score so far, and the sum of 2^(score - largest)
    b_max = tl.full([BM], float("-inf"), SUM)
    b_sum = tl.zeros([BM], SUM)
    # Keys that every query of the tile sees, in whole blocks; then those that need a mask.
    o_whole, o_end = n_k, n_k
    if CAUSAL:
        o_whole = tl.maximum(0, tl.minimum(n_k, o_first + ahead + 1))
        o_end = tl.minimum(n_k, o_first + ahead + BM)
    o_whole = o_whole // BN * BN
    for o_block in range(0, o_whole, BN):
        b_out, b_max, b_sum = _meet(
            b_q, b_out, b_max, b_sum, p_k, p_v, o_q, o_block, n_k, ahead, scale,
            H, D, CAUSAL, False, SUM, BN,
        )  # fmt: skip
    for o_block in range(o_whole, o_end, BN):
        b_out, b_max, b_sum = _meet(
            b_q, b_out, b_max, b_sum, p_k, p_v, o_q, o_block, n_k, ahead, scale,
            H, D, CAUSAL, True, SUM, BN,
        )  # fmt: skip
    # A query that sees no key has a sum of 0: its output is 0, and 2^(score - inf) is 0 later.
    seen = b_sum > 0
    b_sum = tl.where(seen, b_sum, 1.0)
    store_block(p_out, b_out / b_sum[:, None], o_q, n_q, H * D, D)
    b_lse = tl.where(seen, b_max + tl.log2(b_sum), float("inf"))
    tl.store(p_lse + o_q * H, b_lse, mask=o_q < n_q)


@triton.jit
def _meet(
    b_q, b_out, b_max, b_sum, p_k, p_v, o_q, o_block, n_k, ahead, scale,
    H: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
    SUM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One step of the online softmax: what is known of BM queries after BN more keys."""
    o_k = o_block + tl.arange(0, BN)
    # [BN, BD]
    b_k = load_block(p_k, o_k, n_k, H * D, D, MASKED)
    b_v = load_block(p_v, o_k, n_k, H * D, D, MASKED)
    # [BM, BN]
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee", out_dtype=SUM) * (scale * LOG2_E)
    if MASKED:
        b_seen = o_k[None, :] < n_k
        if CAUSAL:
            b_seen = b_seen & (o_k[None, :] <= o_q[:, None] + ahead)
        b_s = tl.where(b_seen, b_s, float("-inf"))
    # [BM]
    b_new_max = tl.maximum(b_max, tl.max(b_s, 1))
    b_pivot = b_new_max
    if MASKED:  # minus infinity minus itself would be NaN
        b_pivot = tl.where(b_new_max == float("-inf"), 0.0, b_new_max)
    b_p = tl.exp2(b_s - b_pivot[:, None])
    b_shrink = tl.exp2(b_max - b_pivot)
    b_sum = b_sum * b_shrink + tl.sum(b_p, 1)
    b_out = b_out * b_shrink[:, None]
    b_out = tl.dot(b_p.to(b_v.dtype), b_v, b_out, input_precision="ieee", out_dtype=SUM)
    return b_out, b_new_max, b_sum


@triton.jit
def backward_keys_kernel(
    p_q, p_k, p_v, p_grad, p_lse, p_dot, p_grad_k, p_grad_v, p_q_offsets, p_k_offsets, p_tiles,
    scale, H: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr, SUM: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The gradients of BN keys and values: a walk over the queries that see them."""
    i_tile, i_head = tl.program_id(0) // H, tl.program_id(0) % H
    i_sequence = tl.load(p_tiles + 2 * i_tile)
    q_start, n_q = locate(p_q_offsets, i_sequence)
    k_start, n_k = locate(p_k_offsets, i_sequence)
    p_q += (q_start * H + i_head) * D
    p_grad += (q_start * H + i_head) * D
    p_lse += q_start * H + i_head
    p_dot += q_start * H + i_head
    k_start = (k_start * H + i_head) * D
    # Not `read_tile` above: read that early, it takes 168 registers for 124 (float32, sm_90).
    o_first = tl.load(p_tiles + 2 * i_tile + 1)
    o_k = o_first + tl.arange(0, BN)
    ahead = n_k - n_q
    # [BN, BD]
    b_k = load_block(p_k + k_start, o_k, n_k, H * D, D, True)
    b_v = load_block(p_v + k_start, o_k, n_k, H * D, D, True)
    b_grad_k = tl.zeros([BN, padded_width(D)], SUM)
    b_grad_v = tl.zeros([BN, padded_width(D)], SUM)
    # Queries on the diagonal, whole blocks of queries that see all BN keys, a last partial block.
    o_begin, o_whole, o_rest = 0, 0, n_q // BM * BM
    if CAUSAL:
        o_begin = tl.maximum(0, o_first - ahead) // BM * BM
        o_whole = tl.cdiv(tl.maximum(0, o_first + BN - 1 - ahead), BM) * BM
        o_whole = tl.minimum(o_whole, tl.cdiv(n_q, BM) * BM)
        o_rest = tl.maximum(o_whole, o_rest)
        for o_block in range(o_begin, o_whole, BM):
            b_grad_k, b_grad_v = _gather_keys(
                b_k, b_v, b_grad_k, b_grad_v, p_q, p_grad, p_lse, p_dot, o_k, o_block, n_q,
                ahead, scale, H, D, True, True, SUM, BM,
            )  # fmt: skip
    for o_block in range(o_whole, o_rest, BM):
        b_grad_k, b_grad_v = _gather_keys(
            b_k, b_v, b_grad_k, b_grad_v, p_q, p_grad, p_lse, p_dot, o_k, o_block, n_q,
            ahead, scale, H, D, False, False, SUM, BM,
        )  # fmt: skip
    for o_block in range(o_rest, n_q, BM):
        b_grad_k, b_grad_v = _gather_keys(
            b_k, b_v, b_grad_k, b_grad_v, p_q, p_grad, p_lse, p_dot, o_k, o_block, n_q,
            ahead, scale, H, D, False, True, SUM, BM,
        )  # fmt: skip
    store_block(p_grad_k + k_start, b_grad_k * scale, o_k, n_k, H * D, D)
    store_block(p_grad_v + k_start, b_grad_v, o_k, n_k, H * D, D)


@triton.jit
def _gather_keys(
    b_k, b_v, b_grad_k, b_grad_v, p_q, p_grad, p_lse, p_dot, o_k, o_block, n_q, ahead, scale,
    H: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
    SUM: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """What BM queries add to the gradients of BN keys and values."""
    o_q = o_block + tl.arange(0, BM)
    # [BM, BD]
    b_q = load_block(p_q, o_q, n_q, H * D, D, MASKED)
    b_grad = load_block(p_grad, o_q, n_q, H * D, D, MASKED)
    # [BM]
    b_lse = tl.load(p_lse + o_q * H, mask=o_q < n_q, other=float("inf"))
    b_dot = tl.load(p_dot + o_q * H, mask=o_q < n_q, other=0.0)
    # [BN, BM] the scores once more, and from them the weights
    b_s = tl.dot(b_k, tl.trans(b_q), input_precision="ieee", out_dtype=SUM) * (scale * LOG2_E)
    b_p = tl.exp2(b_s - b_lse[None, :])
    if CAUSAL:
        b_p = tl.where(o_k[:, None] <= o_q[None, :] + ahead, b_p, 0.0)
    b_grad_v = tl.dot(b_p.to(b_q.dtype), b_grad, b_grad_v, input_precision="ieee", out_dtype=SUM)
    b_grad_p = tl.dot(b_v, tl.trans(b_grad), input_precision="ieee", out_dtype=SUM)
    b_grad_s = b_p * (b_grad_p - b_dot[None, :])
    b_grad_k = tl.dot(b_grad_s.to(b_q.dtype), b_q, b_grad_k, input_precision="ieee", out_dtype=SUM)
    return b_grad_k, b_grad_v


@triton.jit
def backward_queries_kernel(
    p_q, p_k, p_v, p_grad, p_lse, p_dot, p_grad_q, p_q_offsets, p_k_offsets, p_tiles, scale,
    H: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr, SUM: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The gradients of BM queries: a walk over the keys they see, as in the forward pass."""
    i_sequence, o_first = read_tile(p_tiles, tl.program_id(0) // H)
    i_head = tl.program_id(0) % H
    q_start, n_q = locate(p_q_offsets, i_sequence)
    k_start, n_k = locate(p_k_offsets, i_sequence)
    p_lse += q_start * H + i_head
    p_dot += q_start * H + i_head
    q_start = (q_start * H + i_head) * D
    p_k += (k_start * H + i_head) * D
    p_v += (k_start * H + i_head) * D
    o_q = o_first + tl.arange(0, BM)
    ahead = n_k - n_q
    # [BM, BD]
    b_q = load_block(p_q + q_start, o_q, n_q, H * D, D, True)
    b_grad = load_block(p_grad + q_start, o_q, n_q, H * D, D, True)
    # [BM]
    b_lse = tl.load(p_lse + o_q * H, mask=o_q < n_q, other=float("inf"))
    b_dot = tl.load(p_dot + o_q * H, mask=o_q < n_q, other=0.0)
    b_grad_q = tl.zeros([BM, padded_width(D)], SUM)
    o_whole, o_end = n_k, n_k
    if CAUSAL:
        o_whole = tl.maximum(0, tl.minimum(n_k, o_first + ahead + 1))
        o_end = tl.minimum(n_k, o_first + ahead + BM)
    o_whole = o_whole // BN * BN
    for o_block in range(0, o_whole, BN):
        b_grad_q = _gather_queries(
            b_q, b_grad, b_lse, b_dot, b_grad_q, p_k, p_v, o_q, o_block, n_k, ahead, scale,
            H, D, CAUSAL, False, SUM, BN,
        )  # fmt: skip
    for o_block in range(o_whole, o_end, BN):
        b_grad_q = _gather_queries(
            b_q, b_grad, b_lse, b_dot, b_grad_q, p_k, p_v, o_q, o_block, n_k, ahead, scale,
            H, D, CAUSAL, True, SUM, BN,
        )  # fmt: skip
    store_block(p_grad_q + q_start, b_grad_q * scale, o_q, n_q, H * D, D)


@triton.jit
def _gather_queries(
    b_q, b_grad, b_lse, b_dot, b_grad_q, p_k, p_v, o_q, o_block, n_k, ahead, scale,
    H: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
    SUM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """What BN keys add to the gradients of BM queries."""
    o_k = o_block + tl.arange(0, BN)
    # [BN, BD]
    b_k = load_block(p_k, o_k, n_k, H * D, D, MASKED)
    b_v = load_block(p_v, o_k, n_k, H * D, D, MASKED)
    # [BM, BN]
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee", out_dtype=SUM) * (scale * LOG2_E)
    b_p = tl.exp2(b_s - b_lse[:, None])
    if MASKED:
        b_seen = o_k[None, :] < n_k
        if CAUSAL:
            b_seen = b_seen & (o_k[None, :] <= o_q[:, None] + ahead)
        b_p = tl.where(b_seen, b_p, 0.0)
    b_grad_p = tl.dot(b_grad, tl.trans(b_v), input_precision="ieee", out_dtype=SUM)
    b_grad_s = b_p * (b_grad_p - b_dot[:, None])
    return tl.dot(b_grad_s.to(b_k.dtype), b_k, b_grad_q, input_precision="ieee", out_dtype=SUM)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    scale: float,
    causal: bool,
) -> Tensor:
    """(T, h, d); see `genrec_lite.kernels.jagged_attention`, which checks what comes here."""
    require_whole_vectors(q=q)  # k and v are as wide
    require_short_rows(q, q_offsets)
    require_short_rows(k, k_offsets)
    return _forward(q, k, v, q_offsets, k_offsets, scale, causal)[0]


@torch.library.custom_op("genrec_lite::jagged_attention", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """Output (T, h, d) and, for the backward pass, log2 of the softmax's sums (T, h)."""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    _, heads, width = q.shape
    out = torch.empty_like(q)
    lse = q.new_empty(q.shape[:2], dtype=sum_type(q.dtype)[0])
    sizes = launch_for("jagged attention forward", width, q.dtype)
    tiles = tile_list(q_offsets, k_offsets, sizes.queries, "earlier" if causal else "all")
    launch(
        forward_kernel, len(tiles) * heads, q, k, v, out, lse, q_offsets, k_offsets, tiles, scale,
        heads, width, causal, sum_type(q.dtype)[1], **sizes.options(),
    )  # fmt: skip
    return out, lse


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    lse = q.new_empty(q.shape[:2], dtype=sum_type(q.dtype)[0])
    return torch.empty_like(q, memory_format=torch.contiguous_format), lse


@torch.library.custom_op("genrec_lite::jagged_attention_backward", mutates_args=())
def _backward(
    grad: Tensor, out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor,
    q_offsets: Tensor, k_offsets: Tensor, scale: float, causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of q, k and v."""
    grad, q, k, v = (x.contiguous() for x in (grad, q, k, v))
    _, heads, width = q.shape
    torch_sum, triton_sum = sum_type(q.dtype)
    dot = (grad.to(torch_sum) * out.to(torch_sum)).sum(-1)  # (T, h)
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    sizes = launch_for("jagged attention backward keys", width, q.dtype)
    tiles = tile_list(k_offsets, q_offsets, sizes.keys, "later" if causal else "all")
    launch(
        backward_keys_kernel, len(tiles) * heads, q, k, v, grad, lse, dot, grad_k, grad_v,
        q_offsets, k_offsets, tiles, scale, heads, width, causal, triton_sum, **sizes.options(),
    )  # fmt: skip
    sizes = launch_for("jagged attention backward queries", width, q.dtype)
    tiles = tile_list(q_offsets, k_offsets, sizes.queries, "earlier" if causal else "all")
    launch(
        backward_queries_kernel, len(tiles) * heads, q, k, v, grad, lse, dot, grad_q,
        q_offsets, k_offsets, tiles, scale, heads, width, causal, triton_sum, **sizes.options(),
    )  # fmt: skip
    return grad_q, grad_k, grad_v


@_backward.register_fake
def _(grad: Tensor, out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Any:
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, q_offsets, k_offsets, ctx.scale, ctx.causal = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*output, q, k, v, q_offsets, k_offsets)


def _gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(grad, *ctx.saved_tensors, ctx.scale, ctx.causal), None, None, None, None


_forward.register_autograd(_gradients, setup_context=_keep)
