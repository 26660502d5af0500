"""The operations of `genrec_lite.kernels.jagged_ops` in Triton, on values (T, D) and offsets.

Each launch is a custom operator of torch with its gradient, so that torch.compile sees through it.
Every number is written by one program: no atomic additions, so the same input gives the same bits.
Shapes, types and devices are checked before, in `jagged_ops`. The softmax and the pooled attention
have no second derivative.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_lite.kernels.blocks import (
    load_block,
    load_tile,
    locate,
    padded_width,
    read_tile,
    store_block,
    store_tile,
    tl,
    triton,
)
from genrec_lite.kernels.launch import launch, sum_type
from genrec_lite.kernels.tiles import tile_list
from genrec_lite.kernels.triton_jagged_rows import (
    AT_ONCE,
    jagged_dense_add,
    jagged_dense_multiply,
    jagged_softmax,
    jagged_to_padded,
    keep_inputs,
    padded_to_jagged,
    whole_rows,
)

__all__ = [
    "jagged_dense_add",
    "jagged_dense_matmul",
    "jagged_dense_multiply",
    "jagged_jagged_matmul",
    "jagged_softmax",
    "jagged_to_padded",
    "padded_to_jagged",
    "pooled_attention",
]

# Rows and columns of the blocks that are multiplied with each other, at most.
BLOCK = 64
# Columns of x that meet a matrix at a time. Without tensor cores, which would round a float32,
# 64 of them need more registers than a thread has.
DEPTH, DEPTH_HALF = 32, 64


# -- products of matrices: each of the two is the other's gradient ------------------------------


@triton.jit
def dense_matmul_kernel(
    p_x, p_dense, p_out, p_offsets, p_tiles,
    D: tl.constexpr, N: tl.constexpr, TRANSPOSED: tl.constexpr, SUM: tl.constexpr,
    BT: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """BT positions of one row times BN columns of its matrix; TRANSPOSED is stored (N, D)."""
    n_tiles = tl.cdiv(N, BN)
    i_row, o_first = read_tile(p_tiles, tl.program_id(0) // n_tiles)
    start, n = locate(p_offsets, i_row)
    o_rows = o_first + tl.arange(0, BT)
    o_n = tl.program_id(0) % n_tiles * BN + tl.arange(0, BN)
    # [BT, BN]
    b_out = tl.zeros([BT, BN], SUM)
    for o_block in range(0, D, BD):
        o_d = o_block + tl.arange(0, BD)
        # [BT, BD]
        b_x = load_tile(p_x + start * D, o_rows, n, o_d, D, 0.0)
        # [BD, BN]
        if TRANSPOSED:
            b_dense = tl.trans(load_tile(p_dense + i_row * D * N, o_n, N, o_d, D, 0.0))
        else:
            b_dense = load_tile(p_dense + i_row * D * N, o_d, D, o_n, N, 0.0)
        b_out = tl.dot(b_x, b_dense, b_out, input_precision="ieee", out_dtype=SUM)
    store_tile(p_out + start * N, b_out, o_rows, n, o_n, N)


@triton.jit
def jagged_matmul_kernel(
    p_x, p_y, p_out, p_offsets, p_tiles,
    D: tl.constexpr, N: tl.constexpr, SUM: tl.constexpr,
    BT: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """BD by BN of the product of one row of x, transposed, and the same row of y."""
    n_tiles = tl.cdiv(N, BN)
    n_programs = tl.cdiv(D, BD) * n_tiles  # of a row
    i_row, _ = read_tile(p_tiles, tl.program_id(0) // n_programs)
    start, n = locate(p_offsets, i_row)
    i_tile = tl.program_id(0) % n_programs
    o_d = i_tile // n_tiles * BD + tl.arange(0, BD)
    o_n = i_tile % n_tiles * BN + tl.arange(0, BN)
    # [BD, BN]
    b_out = tl.zeros([BD, BN], SUM)
    for o_first in range(0, n, BT):
        o_rows = o_first + tl.arange(0, BT)
        # [BT, BD], [BT, BN]
        b_x = load_tile(p_x + start * D, o_rows, n, o_d, D, 0.0)
        b_y = load_tile(p_y + start * N, o_rows, n, o_n, N, 0.0)
        b_out = tl.dot(tl.trans(b_x), b_y, b_out, input_precision="ieee", out_dtype=SUM)
    store_tile(p_out + i_row * D * N, b_out, o_d, D, o_n, N)


@torch.library.custom_op("genrec_lite::jagged_dense_matmul", mutates_args=())
def jagged_dense_matmul(values: Tensor, offsets: Tensor, dense: Tensor) -> Tensor:
    """(T, N): each row (n, D) times its own matrix of `dense` (B, D, N)."""
    _, depth, columns = dense.shape
    # A gradient comes with the matrices transposed: they are read as they lie.
    transposed = not dense.is_contiguous() and dense.mT.is_contiguous()
    dense = dense.mT if transposed else dense
    out = values.new_empty(len(values), columns)
    tiles, block = tile_list(offsets, offsets, BLOCK), _block(columns)
    at_once = min(DEPTH_HALF if values.element_size() == 2 else DEPTH, padded_width(depth))
    launch(
        dense_matmul_kernel, len(tiles) * triton.cdiv(columns, block), values, dense, out, offsets,
        tiles, D=depth, N=columns, TRANSPOSED=transposed, SUM=sum_type(values.dtype)[1],
        BT=BLOCK, BD=at_once, BN=block,
    )  # fmt: skip
    return out


@torch.library.custom_op("genrec_lite::jagged_jagged_matmul", mutates_args=())
def jagged_jagged_matmul(x: Tensor, y: Tensor, offsets: Tensor) -> Tensor:
    """(B, D, N): the product of each row of `x` (T, D), transposed, and that of `y` (T, N)."""
    width, columns = x.shape[1], y.shape[1]
    out = x.new_zeros(len(offsets) - 1, width, columns)  # an empty row has no program
    tiles, block, block_n = whole_rows(offsets), _block(width), _block(columns)
    of_a_row = triton.cdiv(width, block) * triton.cdiv(columns, block_n)
    launch(
        jagged_matmul_kernel, len(tiles) * of_a_row, x, y, out, offsets, tiles,
        D=width, N=columns, SUM=sum_type(x.dtype)[1], BT=BLOCK, BD=block, BN=block_n,
    )  # fmt: skip
    return out


def _block(width: int) -> int:
    return min(BLOCK, padded_width(width))


def _dense_matmul_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    values, offsets, dense = ctx.saved_tensors
    by_values, _, by_dense = ctx.needs_input_grad
    return (
        jagged_dense_matmul(grad, offsets, dense.mT) if by_values else None,
        None,
        jagged_jagged_matmul(values, grad, offsets) if by_dense else None,
    )


def _jagged_matmul_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, y, offsets = ctx.saved_tensors
    by_x, by_y, _ = ctx.needs_input_grad
    return (
        jagged_dense_matmul(y, offsets, grad.mT) if by_x else None,
        jagged_dense_matmul(x, offsets, grad) if by_y else None,
        None,
    )


jagged_dense_matmul.register_fake(
    lambda values, _, dense: values.new_empty(values.shape[0], dense.shape[2])
)
jagged_jagged_matmul.register_fake(
    lambda x, y, offsets: x.new_empty(offsets.shape[0] - 1, x.shape[1], y.shape[1])
)
jagged_dense_matmul.register_autograd(_dense_matmul_gradients, setup_context=keep_inputs)
jagged_jagged_matmul.register_autograd(_jagged_matmul_gradients, setup_context=keep_inputs)


# -- pooled attention: one program a row and head, longest rows first ----------------------------


@triton.jit
def pooled_attention_kernel(
    p_query, p_keys, p_values, p_out, p_lse, p_offsets, p_tiles,
    H: tl.constexpr, D: tl.constexpr, SUM: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """The weighted sum of one row and head, and the logarithm of its softmax's sum."""
    i_row, _ = read_tile(p_tiles, tl.program_id(0) // H)
    i_head = tl.program_id(0) % H
    start, n = locate(p_offsets, i_row)
    i_out = i_row * H + i_head
    p_keys += (start * H + i_head) * D
    p_values += (start * H + i_head) * D
    o_one = tl.arange(0, 1)
    # [1, BD]
    b_query = load_block(p_query + i_out * D, o_one, 1, D, D, False)
    b_out = tl.zeros([1, padded_width(D)], SUM)
    # [1] the largest score so far, and the sum of e^(score - largest)
    b_max = tl.full([1], float("-inf"), SUM)
    b_sum = tl.zeros([1], SUM)
    for o_first in range(0, n, BT):
        o_keys = o_first + tl.arange(0, BT)
        # [BT, BD]
        b_keys = load_block(p_keys, o_keys, n, H * D, D, True).to(SUM)
        b_values = load_block(p_values, o_keys, n, H * D, D, True).to(SUM)
        # [BT]
        b_s = tl.where(o_keys < n, tl.sum(b_keys * b_query, 1), float("-inf"))
        b_new = tl.maximum(b_max, tl.max(b_s, 0, keep_dims=True))
        b_p = tl.exp(b_s - b_new)
        b_shrink = tl.exp(b_max - b_new)
        b_sum = b_sum * b_shrink + tl.sum(b_p, 0, keep_dims=True)
        b_out = b_out * b_shrink[:, None] + tl.sum(b_p[:, None] * b_values, 0, keep_dims=True)
        b_max = b_new
    store_block(p_out + i_out * D, b_out / b_sum[:, None], o_one, 1, D, D)
    tl.store(p_lse + i_out + o_one, b_max + tl.log(b_sum))


@triton.jit
def pooled_attention_backward_kernel(
    p_query, p_keys, p_values, p_out, p_lse, p_grad,
    p_grad_query, p_grad_keys, p_grad_values, p_offsets, p_tiles,
    H: tl.constexpr, D: tl.constexpr, SUM: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """All gradients of one row and head, with its weights made once more."""
    i_row, _ = read_tile(p_tiles, tl.program_id(0) // H)
    i_head = tl.program_id(0) % H
    start, n = locate(p_offsets, i_row)
    i_out = i_row * H + i_head
    start = (start * H + i_head) * D
    o_one = tl.arange(0, 1)
    # [1, BD]
    b_query = load_block(p_query + i_out * D, o_one, 1, D, D, False)
    b_out = load_block(p_out + i_out * D, o_one, 1, D, D, False).to(SUM)
    b_grad = load_block(p_grad + i_out * D, o_one, 1, D, D, False).to(SUM)
    b_grad_query = tl.zeros([1, padded_width(D)], SUM)
    # [1]
    b_lse = tl.load(p_lse + i_out + o_one)
    b_dot = tl.sum(b_out * b_grad, 1)
    for o_first in range(0, n, BT):
        o_keys = o_first + tl.arange(0, BT)
        # [BT, BD]
        b_keys = load_block(p_keys + start, o_keys, n, H * D, D, True).to(SUM)
        b_values = load_block(p_values + start, o_keys, n, H * D, D, True).to(SUM)
        # [BT]
        b_s = tl.where(o_keys < n, tl.sum(b_keys * b_query, 1), float("-inf"))
        b_p = tl.exp(b_s - b_lse)
        b_grad_s = b_p * (tl.sum(b_values * b_grad, 1) - b_dot)
        b_grad_query += tl.sum(b_grad_s[:, None] * b_keys, 0, keep_dims=True)
        store_block(p_grad_keys + start, b_grad_s[:, None] * b_query, o_keys, n, H * D, D)
        store_block(p_grad_values + start, b_p[:, None] * b_grad, o_keys, n, H * D, D)
    store_block(p_grad_query + i_out * D, b_grad_query, o_one, 1, D, D)


def pooled_attention(
    query: Tensor, keys: Tensor, values: Tensor, offsets: Tensor, scale: float
) -> Tensor:
    """(B, H, D): for each row and head, the sum of the values, weighted by softmax over the row."""
    # The scale goes into the query, in float32 at least, and its gradient with it.
    return _pool(query.to(sum_type(query.dtype)[0]) * scale, keys, values, offsets)[0]


def _pool_launch(kernel: Any, tensors: list[Tensor], keys: Tensor, offsets: Tensor) -> None:
    _, heads, width = keys.shape
    tiles = whole_rows(offsets)
    launch(
        kernel, len(tiles) * heads, *tensors, offsets, tiles, H=heads, D=width,
        SUM=sum_type(keys.dtype)[1], BT=max(1, min(BLOCK, AT_ONCE // padded_width(width))),
    )  # fmt: skip


@torch.library.custom_op("genrec_lite::pooled_attention", mutates_args=())
def _pool(query: Tensor, keys: Tensor, values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Output (B, H, D) and, for the backward pass, the logarithm of the softmax's sums (B, H)."""
    out = keys.new_zeros(query.shape)  # an empty row has no program
    lse = query.new_zeros(query.shape[:2])
    _pool_launch(pooled_attention_kernel, [query, keys, values, out, lse], keys, offsets)
    return out, lse


@torch.library.custom_op("genrec_lite::pooled_attention_backward", mutates_args=())
def _pool_backward(
    query: Tensor, keys: Tensor, values: Tensor, offsets: Tensor,
    out: Tensor, lse: Tensor, grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of query, keys and values."""
    inputs = [query, keys, values, out, lse, grad]
    grads = query.new_zeros(query.shape), keys.new_empty(keys.shape), values.new_empty(keys.shape)
    _pool_launch(pooled_attention_backward_kernel, inputs + list(grads), keys, offsets)
    return grads


@_pool.register_fake
def _(query: Tensor, keys: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return keys.new_empty(query.shape), query.new_empty(query.shape[:2])


@_pool_backward.register_fake
def _(query: Tensor, keys: Tensor, values: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), keys.new_empty(keys.shape), values.new_empty(keys.shape)


def _keep_pool(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs, *output)


def _pool_gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_pool_backward(*ctx.saved_tensors, grad), None


_pool.register_autograd(_pool_gradients, setup_context=_keep_pool)
