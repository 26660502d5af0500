"""Blocks of a jagged tensor's rows in Triton: where they lie, how they are read and written.

Names in the kernels: i_ is a number of something (sequence, head), n_ how many, o_ places within a
sequence or a row, p_ pointers, b_ blocks of values. [BM, BD] is the shape of the block below it.
Without a GPU, Triton's interpreter runs the same source on the CPU, for tests and for reading.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

__all__ = [
    "load_block",
    "load_tile",
    "locate",
    "padded_width",
    "read_tile",
    "store_block",
    "store_tile",
    "tl",
    "triton",
]

if os.environ.get("TRITON_INTERPRET") == "1" and isinstance(tl.max, triton.JITFunction):
    raise ImportError(
        "triton was imported before genrec_lite.kernels and cannot interpret any more: import "
        "genrec_lite.kernels first, or set TRITON_INTERPRET=1 before Python starts"
    )


@triton.jit
def read_tile(p_tiles, i_tile):
    """Row of a tile (int64) and its first position."""
    return tl.load(p_tiles + 2 * i_tile).to(tl.int64), tl.load(p_tiles + 2 * i_tile + 1)


@triton.jit
def locate(p_offsets, i_sequence):
    """Where a sequence begins (int64: there may be more than 2^31 values) and its length."""
    start = tl.load(p_offsets + i_sequence).to(tl.int64)
    return start, (tl.load(p_offsets + i_sequence + 1) - start).to(tl.int32)


@triton.jit
def load_tile(p_x, o_rows, n_rows, o_columns, n_columns, beyond):
    """Rows `o_rows`, columns `o_columns` of a matrix; what lies beyond it reads as `beyond`."""
    return tl.load(
        p_x + o_rows[:, None] * n_columns + o_columns[None, :],
        mask=(o_rows[:, None] < n_rows) & (o_columns[None, :] < n_columns),
        other=beyond,
    )


@triton.jit
def store_tile(p_x, b_x, o_rows, n_rows, o_columns, n_columns):
    """Writes b_x to rows `o_rows`, columns `o_columns` of a matrix, except beyond it."""
    tl.store(
        p_x + o_rows[:, None] * n_columns + o_columns[None, :],
        b_x.to(p_x.dtype.element_ty),
        mask=(o_rows[:, None] < n_rows) & (o_columns[None, :] < n_columns),
    )


@triton.jit
def load_block(p_x, o_rows, n_rows, stride, D: tl.constexpr, MASKED: tl.constexpr):
    """Rows `o_rows` of a sequence [R, BD]; BD is D rounded up to a power of 2, at least 16.

    What lies beyond the D columns reads as 0, and so do, where MASKED, rows from `n_rows` on.
    """
    BD: tl.constexpr = padded_width(D)
    o_columns = tl.arange(0, BD)
    # [R, BD]
    p_b = p_x + o_rows[:, None] * stride + o_columns[None, :]
    if MASKED and BD > D:
        return tl.load(p_b, mask=(o_rows[:, None] < n_rows) & (o_columns[None, :] < D), other=0.0)
    elif MASKED:
        return tl.load(p_b, mask=o_rows[:, None] < n_rows, other=0.0)
    elif BD > D:
        return tl.load(p_b, mask=o_columns[None, :] < D, other=0.0)
    else:
        return tl.load(p_b)


@triton.jit
def store_block(p_x, b_x, o_rows, n_rows, stride, D: tl.constexpr):
    """Writes b_x [R, BD] to rows `o_rows` of a sequence, those before `n_rows`, D columns."""
    BD: tl.constexpr = padded_width(D)
    o_columns = tl.arange(0, BD)
    tl.store(
        p_x + o_rows[:, None] * stride + o_columns[None, :],
        b_x.to(p_x.dtype.element_ty),
        mask=(o_rows[:, None] < n_rows) & (o_columns[None, :] < D),
    )


@triton.constexpr_function
def padded_width(width):
    """`width` rounded up to a power of 2; tensor cores multiply at least 16 columns."""
    return max(16, triton.next_power_of_2(width))
