"""Jagged rows in Triton one by one: to and from padded rows, sums and products with them, softmax.

Part of `genrec_lite.kernels.triton_jagged_ops`, which says more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_lite.kernels.blocks import load_tile, locate, read_tile, store_tile, tl, triton
from genrec_lite.kernels.launch import launch, sum_type
from genrec_lite.kernels.tiles import tile_list

__all__ = [
    "jagged_dense_add",
    "jagged_dense_multiply",
    "jagged_softmax",
    "jagged_to_padded",
    "padded_to_jagged",
]

# Numbers in a block that is copied or summed: 16 for each of a program's 128 threads.
AT_ONCE = 2048
# Columns of a block of the softmax, at most.
SOFTMAX_COLUMNS = 64


def whole_rows(offsets: Tensor) -> Tensor:
    """The rows that are not empty, each of them one tile: longest first."""
    return tile_list(offsets, offsets, 2**31 - 1)


# -- copies, sums and products: BT positions of a row are one run of BT * D numbers -------------


@triton.jit
def to_padded_kernel(
    p_x, p_out, p_offsets, n_padded,
    D: tl.constexpr, FILL: tl.constexpr, SUM: tl.constexpr, BT: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """BT positions of one padded row: the row's values, then FILL."""
    n_tiles = tl.cdiv(n_padded, BT)
    i_row = (tl.program_id(0) // n_tiles).to(tl.int64)
    o_first = tl.program_id(0) % n_tiles * BT
    start, n = locate(p_offsets, i_row)
    o = tl.arange(0, BE)
    filled = o < tl.minimum(tl.maximum(n - o_first, 0), BT) * D
    inside = o < tl.minimum(n_padded - o_first, BT) * D
    # [BE]
    b_x = tl.load(p_x + (start + o_first) * D + o, mask=filled).to(SUM)
    b_out = tl.where(filled, b_x, tl.full([BE], FILL, SUM)).to(p_out.dtype.element_ty)
    tl.store(p_out + (i_row * n_padded + o_first) * D + o, b_out, mask=inside)


@triton.jit
def from_padded_kernel(
    p_x, p_padded, p_out, p_offsets, p_tiles, n_padded,
    D: tl.constexpr, OPERATION: tl.constexpr, SUM: tl.constexpr, BT: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """BT positions of one row, from its padded row: copied, added to x or multiplied by x."""
    i_row, o_first = read_tile(p_tiles, tl.program_id(0))
    start, n = locate(p_offsets, i_row)
    p_padded += (i_row * n_padded + o_first) * D
    start = (start + o_first) * D
    o = tl.arange(0, BE)
    inside = o < tl.minimum(n - o_first, BT) * D
    # [BE]
    b_out = tl.load(p_padded + o, mask=inside).to(SUM)
    if OPERATION == "add":
        b_out += tl.load(p_x + start + o, mask=inside).to(SUM)
    elif OPERATION == "multiply":
        b_out *= tl.load(p_x + start + o, mask=inside).to(SUM)
    tl.store(p_out + start + o, b_out.to(p_out.dtype.element_ty), mask=inside)


def _run(width: int) -> dict[str, int]:
    """How many positions, `width` numbers each, one program takes, in a block of how many."""
    width = max(1, width)
    positions = max(1, AT_ONCE // width)
    return {"BT": positions, "BE": triton.next_power_of_2(positions * width)}


@torch.library.custom_op("genrec_lite::jagged_to_padded", mutates_args=())
def jagged_to_padded(values: Tensor, offsets: Tensor, length: int, fill: float) -> Tensor:
    """(B, length, D): each row followed by `fill`."""
    width = values.shape[1]
    out, run = values.new_empty(len(offsets) - 1, length, width), _run(width)
    launch(
        to_padded_kernel, len(out) * triton.cdiv(length, run["BT"]), values, out, offsets, length,
        D=width, FILL=fill, SUM=sum_type(values.dtype)[1], **run,
    )  # fmt: skip
    return out


@torch.library.custom_op("genrec_lite::padded_to_jagged", mutates_args=())
def padded_to_jagged(padded: Tensor, offsets: Tensor, total: int) -> Tensor:
    """(total, D): the first values of each padded row, one row after another."""
    return _from_padded(None, offsets, padded, total, "copy")


@torch.library.custom_op("genrec_lite::jagged_dense_add", mutates_args=())
def jagged_dense_add(values: Tensor, offsets: Tensor, dense: Tensor) -> Tensor:
    """(T, D): each row plus the first values of its dense row."""
    return _from_padded(values, offsets, dense, len(values), "add")


@torch.library.custom_op("genrec_lite::jagged_dense_multiply", mutates_args=())
def jagged_dense_multiply(values: Tensor, offsets: Tensor, dense: Tensor) -> Tensor:
    """(T, D): each row times the first values of its dense row, one by one."""
    return _from_padded(values, offsets, dense, len(values), "multiply")


def _from_padded(
    values: Tensor | None, offsets: Tensor, padded: Tensor, total: int, operation: str
) -> Tensor:
    _, length, width = padded.shape
    out, run = padded.new_empty(total, width), _run(width)
    tiles = tile_list(offsets, offsets, run["BT"])
    values = padded if values is None else values  # a copy reads no values
    launch(
        from_padded_kernel, len(tiles), values, padded, out, offsets, tiles, length,
        D=width, OPERATION=operation, SUM=sum_type(padded.dtype)[1], **run,
    )  # fmt: skip
    return out


def _keep_offsets(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """The gradients of copies and sums need no numbers, only shapes and the offsets."""
    ctx.save_for_backward(inputs[1])
    ctx.shapes = [x.shape for x in inputs if isinstance(x, Tensor)]


def keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Of an operation that has only tensors, all of them."""
    ctx.save_for_backward(*inputs)


def _to_padded_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (offsets,) = ctx.saved_tensors
    return padded_to_jagged(grad, offsets, ctx.shapes[0][0]), None, None, None


def _to_jagged_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (offsets,) = ctx.saved_tensors
    return jagged_to_padded(grad, offsets, ctx.shapes[0][1], 0.0), None, None


def _add_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (offsets,) = ctx.saved_tensors
    if not ctx.needs_input_grad[2]:
        return grad, None, None
    return grad, None, jagged_to_padded(grad, offsets, ctx.shapes[2][1], 0.0)


def _multiply_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    values, offsets, dense = ctx.saved_tensors
    by_values, _, by_dense = ctx.needs_input_grad
    length = dense.shape[1]
    return (
        jagged_dense_multiply(grad, offsets, dense) if by_values else None,
        None,
        jagged_to_padded(grad * values, offsets, length, 0.0) if by_dense else None,
    )


def _like_values(values: Tensor, *_: Any) -> Tensor:
    return values.new_empty(values.shape)


jagged_to_padded.register_fake(
    lambda x, offsets, length, _: x.new_empty(offsets.shape[0] - 1, length, x.shape[1])
)
padded_to_jagged.register_fake(lambda padded, _, total: padded.new_empty(total, padded.shape[2]))
jagged_dense_add.register_fake(_like_values)
jagged_dense_multiply.register_fake(_like_values)
jagged_to_padded.register_autograd(_to_padded_gradient, setup_context=_keep_offsets)
padded_to_jagged.register_autograd(_to_jagged_gradient, setup_context=_keep_offsets)
jagged_dense_add.register_autograd(_add_gradients, setup_context=_keep_offsets)
jagged_dense_multiply.register_autograd(_multiply_gradients, setup_context=keep_inputs)


# -- softmax: one program a row and BD of its columns, longest rows first -----------------------


@triton.jit
def softmax_kernel(
    p_x, p_out, p_offsets, p_tiles,
    D: tl.constexpr, SUM: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The softmax of BD columns of one row: one pass for largest and sum, one to write."""
    n_tiles = tl.cdiv(D, BD)
    i_row, _ = read_tile(p_tiles, tl.program_id(0) // n_tiles)
    start, n = locate(p_offsets, i_row)
    o_columns = tl.program_id(0) % n_tiles * BD + tl.arange(0, BD)
    p_x += start * D
    p_out += start * D
    # [BD] the largest so far, and the sum of e^(x - largest)
    b_max = tl.full([BD], float("-inf"), SUM)
    b_sum = tl.zeros([BD], SUM)
    for o_first in range(0, n, BT):
        o_rows = o_first + tl.arange(0, BT)
        # [BT, BD]
        b_x = load_tile(p_x, o_rows, n, o_columns, D, float("-inf")).to(SUM)
        b_new = tl.maximum(b_max, tl.max(b_x, 0))
        # Where there are only scores of -inf so far, -inf - (-inf) would be NaN for good.
        b_pivot = tl.where(b_new == float("-inf"), 0.0, b_new)
        b_sum = b_sum * tl.exp(b_max - b_pivot) + tl.sum(tl.exp(b_x - b_pivot[None, :]), 0)
        b_max = b_new
    for o_first in range(0, n, BT):
        o_rows = o_first + tl.arange(0, BT)
        # [BT, BD]
        b_x = load_tile(p_x, o_rows, n, o_columns, D, 0.0).to(SUM)
        b_out = tl.exp(b_x - b_max[None, :]) / b_sum[None, :]
        store_tile(p_out, b_out, o_rows, n, o_columns, D)


@triton.jit
def softmax_backward_kernel(
    p_out, p_grad, p_grad_x, p_offsets, p_tiles,
    D: tl.constexpr, SUM: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The gradient of BD columns of one row: out * (grad - <out, grad>)."""
    n_tiles = tl.cdiv(D, BD)
    i_row, _ = read_tile(p_tiles, tl.program_id(0) // n_tiles)
    start, n = locate(p_offsets, i_row)
    o_columns = tl.program_id(0) % n_tiles * BD + tl.arange(0, BD)
    p_out += start * D
    p_grad += start * D
    p_grad_x += start * D
    # [BD]
    b_dot = tl.zeros([BD], SUM)
    for o_first in range(0, n, BT):
        o_rows = o_first + tl.arange(0, BT)
        # [BT, BD]
        b_out = load_tile(p_out, o_rows, n, o_columns, D, 0.0).to(SUM)
        b_grad = load_tile(p_grad, o_rows, n, o_columns, D, 0.0).to(SUM)
        b_dot += tl.sum(b_out * b_grad, 0)
    for o_first in range(0, n, BT):
        o_rows = o_first + tl.arange(0, BT)
        # [BT, BD]
        b_out = load_tile(p_out, o_rows, n, o_columns, D, 0.0).to(SUM)
        b_grad = load_tile(p_grad, o_rows, n, o_columns, D, 0.0).to(SUM)
        store_tile(p_grad_x, b_out * (b_grad - b_dot[None, :]), o_rows, n, o_columns, D)


def _columns(width: int) -> dict[str, int]:
    """Columns of a block of the softmax, and as many positions as fit beside them."""
    columns = min(SOFTMAX_COLUMNS, triton.next_power_of_2(max(1, width)))
    return {"BT": AT_ONCE // columns, "BD": columns}


@torch.library.custom_op("genrec_lite::jagged_softmax", mutates_args=())
def jagged_softmax(values: Tensor, offsets: Tensor) -> Tensor:
    """(T, D): softmax over the positions of each row, for each column apart."""
    return _softmax_launch(softmax_kernel, [values], offsets)


@torch.library.custom_op("genrec_lite::jagged_softmax_backward", mutates_args=())
def _softmax_backward(out: Tensor, grad: Tensor, offsets: Tensor) -> Tensor:
    return _softmax_launch(softmax_backward_kernel, [out, grad], offsets)


def _softmax_launch(kernel: Any, inputs: list[Tensor], offsets: Tensor) -> Tensor:
    width, tiles = inputs[0].shape[1], whole_rows(offsets)
    out, block = inputs[0].new_empty(inputs[0].shape), _columns(width)
    launch(
        kernel, len(tiles) * triton.cdiv(width, block["BD"]), *inputs, out, offsets, tiles,
        D=width, SUM=sum_type(out.dtype)[1], **block,
    )  # fmt: skip
    return out


jagged_softmax.register_fake(_like_values)
_softmax_backward.register_fake(_like_values)


def _keep_softmax(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output, inputs[1])


def _softmax_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    out, offsets = ctx.saved_tensors
    return _softmax_backward(out, grad, offsets), None


jagged_softmax.register_autograd(_softmax_gradient, setup_context=_keep_softmax)
