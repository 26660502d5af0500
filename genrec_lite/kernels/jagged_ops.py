"""Operations between jagged rows and dense tensors: copies, sums, softmax, products, pooling.

The feature interactions of Jagged Flash Attention (2409.15373). On a CPU one row after the other,
in plain torch, which is also what the operations mean; on a GPU one launch for the whole batch.
Neither makes all rows as long as the longest.
"""

from __future__ import annotations

import math
from types import ModuleType

import torch
from torch import Tensor

from genrec_lite.jagged import JaggedTensor
from genrec_lite.kernels.limits import require_whole_vectors

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


def jagged_to_padded(x: JaggedTensor, length: int | None = None, fill: float = 0.0) -> Tensor:
    """(B, L, D): each row followed by `fill`.

    Args:
        x: B rows, (T, D) floats.
        length: L, the longest row unless given.
        fill: what stands behind a row's end.
    Raises:
        ValueError: if x has another shape or no floats, or a row is longer than `length`.
    """
    _check_floats(x=x.values)
    _check_shape("x", x.values, ("T", "D"))
    width = x.max_length if length is None else length
    _check_room(x, width, "length")
    if x.values.is_cuda:
        return _triton().jagged_to_padded(x.values, x.offsets, width, fill)
    return x.to_padded(fill, width)


def padded_to_jagged(padded: Tensor, offsets: Tensor) -> JaggedTensor:
    """B rows, (T, D): the first values of each padded row, as many as `offsets` say.

    Args:
        padded: (B, L, D) floats.
        offsets: (B + 1,) int64; those of the result.
    Raises:
        TypeError, ValueError: if these are no offsets.
        ValueError: if `padded` has no floats, or not as many rows as the offsets, or shorter ones.
    """
    _check_floats(padded=padded)
    total = int(offsets[-1]) if offsets.numel() else 0
    rows = JaggedTensor(offsets.new_empty(max(total, 0), 0), offsets)  # checks the offsets
    _check_shape("padded", padded, (len(rows), "L", "D"), "a row for each of the offsets")
    _check_device(padded=padded, offsets=offsets)
    _check_room(rows, padded.shape[1], "padded")
    if padded.is_cuda:
        return rows.with_values(_triton().padded_to_jagged(padded, offsets, total))
    return rows.with_values(JaggedTensor.from_padded(padded, rows.lengths).values)


def jagged_dense_add(x: JaggedTensor, dense: Tensor) -> JaggedTensor:
    """B rows, (T, D): each row of `x` plus the first values of its dense row.

    Args:
        x: B rows, (T, D) floats.
        dense: (B, L, D) of x's dtype; L at least the longest row.
    Raises:
        ValueError: if the two do not fit each other.
    """
    _check_padded(x, dense)
    if x.values.is_cuda:
        return x.with_values(_triton().jagged_dense_add(x.values, x.offsets, dense))
    return x.with_values(x.values + padded_to_jagged(dense, x.offsets).values)


def jagged_dense_multiply(x: JaggedTensor, dense: Tensor) -> JaggedTensor:
    """B rows, (T, D): each row of `x` times the first values of its dense row, one by one.

    Args:
        x: B rows, (T, D) floats.
        dense: (B, L, D) of x's dtype; L at least the longest row.
    Raises:
        ValueError: if the two do not fit each other.
    """
    _check_padded(x, dense)
    if x.values.is_cuda:
        return x.with_values(_triton().jagged_dense_multiply(x.values, x.offsets, dense))
    return x.with_values(x.values * padded_to_jagged(dense, x.offsets).values)


def jagged_softmax(x: JaggedTensor) -> JaggedTensor:
    """B rows, (T, D): softmax over the positions of each row, for each column apart.

    Args:
        x: B rows, (T, D) floats; scores of D heads, for instance.
    Raises:
        ValueError: if x has another shape or no floats.
    """
    _check_floats(x=x.values)
    _check_shape("x", x.values, ("T", "D"))
    if x.values.is_cuda:
        return x.with_values(_triton().jagged_softmax(x.values, x.offsets))
    rows = x.values.split([*x.lengths.tolist(), 0])  # one more: `cat` wants at least one
    return x.with_values(torch.cat([row.softmax(0) for row in rows]))


def jagged_dense_matmul(x: JaggedTensor, dense: Tensor) -> JaggedTensor:
    """B rows, (T, N): each row (n, D) times its own matrix (D, N).

    Args:
        x: B rows, (T, D) floats.
        dense: (B, D, N) of x's dtype.
    Raises:
        ValueError: if the two do not fit each other, or, on a GPU, D or N is no multiple of 8 in
            half precision.
    """
    _check_floats(x=x.values, dense=dense)
    _check_shape("x", x.values, ("T", "D"))
    width = x.values.shape[1]
    _check_shape("dense", dense, (len(x), width, "N"), "a matrix for each row of x, of its width")
    if x.values.is_cuda:
        require_whole_vectors(x=x.values, dense=dense)
        return x.with_values(_triton().jagged_dense_matmul(x.values, x.offsets, dense))
    if not len(x):
        return x.with_values(x.values @ dense.sum(0))  # (0, N)
    rows = x.values.split(x.lengths.tolist())
    return x.with_values(torch.cat([row @ own for row, own in zip(rows, dense, strict=True)]))


def jagged_jagged_matmul(x: JaggedTensor, y: JaggedTensor) -> Tensor:
    """(B, D, N): the product of each row (n, D) of `x`, transposed, and the same row (n, N) of `y`.

    Args:
        x: B rows, (T, D) floats.
        y: B rows, (T, N) of x's dtype, with the same offsets.
    Returns:
        0 for an empty row.
    Raises:
        ValueError: if the two do not fit each other, or, on a GPU, D or N is no multiple of 8 in
            half precision.
    """
    _check_floats(x=x.values, y=y.values)
    _check_shape("x", x.values, ("T", "D"))
    _check_shape("y", y.values, ("T", "N"))
    _check_same_rows(x, y, ("x", "y"))
    if x.values.is_cuda:
        require_whole_vectors(x=x.values, y=y.values)
        return _triton().jagged_jagged_matmul(x.values, y.values, x.offsets)
    if not len(x):
        return (x.values.mT @ y.values)[None][:0]
    lengths = x.lengths.tolist()
    pairs = zip(x.values.split(lengths), y.values.split(lengths), strict=True)
    return torch.stack([left.mT @ right for left, right in pairs])


def pooled_attention(
    query: Tensor, keys: JaggedTensor, values: JaggedTensor, *, scale: float | None = None
) -> Tensor:
    """(B, H, D): for each row and head, the sum of the values, weighted by softmax over the row.

    Args:
        query: (B, H, D), one query a row and head.
        keys: B rows, (T, H, D) of query's dtype.
        values: B rows, (T, H, D), with the same offsets.
        scale: what products are multiplied by before the softmax; 1 / sqrt(D) unless given.
    Returns:
        0 for a row without keys.
    Raises:
        ValueError: if the three do not fit each other, or, on a GPU, D is no multiple of 8 in half
            precision.
    """
    _check_floats(query=query, keys=keys.values, values=values.values)
    _check_shape("query", query, (len(keys), "H", "D"), "a query for each row of the keys")
    for name, x in (("keys", keys), ("values", values)):
        _check_shape(name, x.values, ("T", *query.shape[1:]), "heads and width of the query")
    _check_same_rows(keys, values, ("keys", "values"))
    scale = 1 / math.sqrt(query.shape[2]) if scale is None else scale
    if query.is_cuda:
        require_whole_vectors(query=query)
        return _triton().pooled_attention(query, keys.values, values.values, keys.offsets, scale)
    if not len(keys):
        return query * 0
    # Scores and weights in float32 at least; a row is small.
    wide = torch.promote_types(query.dtype, torch.float32)
    lengths = keys.lengths.tolist()
    sides = keys.values.split(lengths), values.values.split(lengths)
    rows = zip(query.to(wide) * scale, *sides, strict=True)
    pooled = [_pool(one, of_keys.to(wide), row.to(wide)) for one, of_keys, row in rows]
    return torch.stack(pooled).to(query.dtype)


def _pool(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """(H, D): one row's values, weighted; query (H, D), keys and values (n, H, D)."""
    scores = query[:, None] @ keys.permute(1, 2, 0)  # (H, 1, n)
    return (scores.softmax(-1) @ values.transpose(0, 1))[:, 0]


def _triton() -> ModuleType:
    """The Triton twins. Imported only where there is a GPU: a CPU needs no Triton."""
    from genrec_lite.kernels import triton_jagged_ops

    return triton_jagged_ops


def _check_padded(x: JaggedTensor, dense: Tensor) -> None:
    """Raises a ValueError unless `dense` (B, L, D) has a place for each of x's values (T, D)."""
    _check_floats(x=x.values, dense=dense)
    _check_shape("x", x.values, ("T", "D"))
    expected = (len(x), "L", x.values.shape[1])
    _check_shape("dense", dense, expected, "a dense row for each row of x, of its width")
    _check_room(x, dense.shape[1], "dense")


def _check_floats(**named: Tensor) -> None:
    """Raises a ValueError unless all are floats of one type on one device."""
    (first, x), *others = named.items()
    if not x.is_floating_point():
        raise ValueError(f"{first} has dtype {x.dtype}: expected floats, convert with .float()")
    for name, y in others:
        if y.dtype != x.dtype:
            raise ValueError(
                f"{first} has dtype {x.dtype} and {name} {y.dtype}: convert one with .to(dtype)"
            )
    _check_device(**named)


def _check_device(**named: Tensor) -> None:
    (first, x), *others = named.items()
    for name, y in others:
        if y.device != x.device:
            raise ValueError(f"{first} is on {x.device} and {name} on {y.device}: move both to one")


def _check_shape(name: str, x: Tensor, expected: tuple[int | str, ...], why: str = "") -> None:
    """Raises a ValueError unless x has the expected shape, in which a letter is any size."""
    fits = x.ndim == len(expected) and all(
        size == wanted or isinstance(wanted, str)
        for size, wanted in zip(x.shape, expected, strict=True)
    )
    if not fits:
        wanted = f"({', '.join(map(str, expected))})" + (f", {why}" if why else "")
        raise ValueError(f"{name} has shape {tuple(x.shape)}: expected {wanted}")


def _check_room(x: JaggedTensor, length: int, name: str) -> None:
    """Raises a ValueError if a row is longer than `length`, which `name` is or has."""
    if (longest := x.max_length) > length:
        raise ValueError(
            f"row {int(x.lengths.argmax())} has {longest} values, but {name} has places for "
            f"{length}: shorten the rows with .last({length}), or give {name} {longest}"
        )


def _check_same_rows(x: JaggedTensor, y: JaggedTensor, names: tuple[str, str]) -> None:
    if x.offsets is y.offsets:
        return
    first, second = names
    if len(x) != len(y):
        raise ValueError(f"{first} has {len(x)} rows and {second} {len(y)}: both need the same")
    other = (x.lengths != y.lengths).nonzero()
    if len(other):
        row = int(other[0])
        raise ValueError(
            f"row {row} has {int(x.lengths[row])} values in {first} and {int(y.lengths[row])} in "
            f"{second}: both need the same offsets"
        )
