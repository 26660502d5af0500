"""Softmax attention between jagged sequences, without padding and without a score matrix in memory.

Jagged Flash Attention (2409.15373). On a CPU one sequence after the other; on a GPU one launch for
the whole batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec_lite.jagged import JaggedTensor

__all__ = ["jagged_attention"]


def jagged_attention(
    q: JaggedTensor,
    k: JaggedTensor,
    v: JaggedTensor,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> JaggedTensor:
    """Each query's softmax-weighted sum of the values of its own row.

    Args:
        q: B rows, (T, h, d): h heads.
        k, v: B rows, (S, h, d), with the same offsets; those of `q` for self-attention.
        causal: a query sees the keys up to its own place, the last query of a row all of them.
        scale: what products are multiplied by before the softmax; 1 / sqrt(d) unless given.
    Returns:
        B rows, (T, h, d); 0 for a query that sees no key.
    Raises:
        ValueError: if shapes, types or devices do not fit each other, or, on a GPU, heads in half
            precision are not a multiple of 8 wide.
    """
    _check(q, k, v)
    scale = 1 / math.sqrt(q.values.shape[2]) if scale is None else scale
    if q.values.is_cuda:
        from genrec_lite.kernels.triton_jagged_attention import attend

        out = attend(q.values, k.values, v.values, q.offsets, k.offsets, scale, causal)
    else:
        out = _by_sequence(q, k, v, scale, causal)
    return q.with_values(out)


def _by_sequence(
    q: JaggedTensor, k: JaggedTensor, v: JaggedTensor, scale: float, causal: bool
) -> Tensor:
    """(T, h, d), sequence by sequence: torch's own attention on views of each."""
    queries, keys = q.lengths.tolist(), k.lengths.tolist()
    # `split` has one backward step for all sequences; slices would have one each, of full size.
    parts = zip(q.values.split(queries), k.values.split(keys), v.values.split(keys), strict=True)
    found = [_attend(*part, scale, causal) for part in parts if len(part[0])]
    return torch.cat(found) if found else q.values * 0


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Tensor:
    """One sequence: (n, h, d) from q (n, h, d) and k, v (m, h, d)."""
    n, m = len(q), len(k)
    if m == 0:
        return q * 0
    aligned = causal and n == m
    seen = None
    if causal and not aligned:
        places = torch.arange(n, device=q.device)[:, None] + (m - n)
        seen = torch.arange(m, device=q.device) <= places
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # (1, h, n, d)
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=aligned, scale=scale)
    found = found[0].transpose(0, 1)
    if seen is not None and n > m:  # the first queries see no key
        found = torch.where(seen.any(1)[:, None, None], found, 0)
    return found


def _check(q: JaggedTensor, k: JaggedTensor, v: JaggedTensor) -> None:
    """Raises a ValueError unless the three fit each other."""
    shapes = f"q {tuple(q.values.shape)}, k {tuple(k.values.shape)}, v {tuple(v.values.shape)}"
    if q.values.ndim != 3 or q.values.shape[1:] != k.values.shape[1:]:
        raise ValueError(f"{shapes}: expected (T, h, d), and keys of the same heads and width")
    if k.values.shape != v.values.shape:
        raise ValueError(f"{shapes}: expected as many values as keys, of the same shape")
    if k.offsets is not v.offsets and not torch.equal(k.offsets, v.offsets):
        raise ValueError("keys and values have different offsets: give both the same rows")
    if len(q) != len(k):
        raise ValueError(f"{len(q)} rows of queries and {len(k)} of keys: expected as many")
    for name, x in (("k", k), ("v", v)):
        if x.values.device != q.values.device:
            raise ValueError(
                f"q is on {q.values.device} and {name} on {x.values.device}: move both to one"
            )
        if x.values.dtype != q.values.dtype:
            raise ValueError(
                f"q has dtype {q.values.dtype} and {name} {x.values.dtype}: convert one of them"
            )
