"""Softmax attention between jagged sequences: no padding, no matrix of scores in memory.

Jagged Flash Attention (2409.15373). On a CPU one sequence after the other; on a GPU one launch for
the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

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
        RuntimeError: if the gradient's own gradient is asked for.
    """
    _check(q, k, v)
    scale = 1 / math.sqrt(q.values.shape[2]) if scale is None else scale
    if q.values.is_cuda:
        from genrec_lite.kernels.triton_jagged_attention import attend

        out = attend(q.values, k.values, v.values, q.offsets, k.offsets, scale, causal)
    else:
        how = (q.lengths.tolist(), k.lengths.tolist(), scale, causal)
        out = _JaggedAttention.apply(q.values, k.values, v.values, how)
    return q.with_values(out)


class _JaggedAttention(torch.autograd.Function):
    """Sequence by sequence, torch's own flash attention on views of each.

    Its operators are called by name, forward and backward, so that every result is written where
    it belongs: `F.scaled_dot_product_attention` would leave a list of pieces to be put together,
    and as much memory again.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, how: tuple[list[int], list[int], float, bool]
    ) -> Tensor:
        queries, keys, scale, causal = how
        q, k, v = (x.contiguous() for x in (q, k, v))  # the operators below expect that
        out, ctx.sums = torch.zeros_like(q), []
        for i, j, options in _sequences(queries, keys, scale, causal, q):
            found, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                *(_heads_first(x) for x in (q[i], k[j], v[j])), **options
            )
            _heads_first(out[i]).copy_(found)
            if any(ctx.needs_input_grad):
                ctx.sums.append(sums)
        ctx.save_for_backward(q, k, v, out)
        ctx.how = how
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():  # create_graph=True: these gradients know no graph
            raise RuntimeError("jagged_attention has no second derivative")
        q, k, v, out = ctx.saved_tensors
        grad = grads[0].contiguous()
        queries, keys, scale, causal = ctx.how
        met = _sequences(queries, keys, scale, causal, q)
        found = tuple(torch.zeros_like(x) for x in (q, k, v))
        for sums, (i, j, options) in zip(ctx.sums, met, strict=True):
            of_inputs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                *(_heads_first(x) for x in (grad[i], q[i], k[j], v[j], out[i])),
                sums,
                options["dropout_p"],
                options["is_causal"],
                attn_mask=options["attn_mask"],
                scale=options["scale"],
            )
            for total, place, part in zip(found, (i, j, j), of_inputs, strict=True):
                _heads_first(total[place]).copy_(part)
        return *found, None


def _sequences(
    queries: list[int], keys: list[int], scale: float, causal: bool, like: Tensor
) -> Iterator[tuple[slice, slice, dict[str, Any]]]:
    """Places of the queries and keys of each sequence that has any, and how they are to meet."""
    q_end = k_end = 0
    for n, m in zip(queries, keys, strict=True):
        q_start, k_start, q_end, k_end = q_end, k_end, q_end + n, k_end + m
        if causal and n > m:  # the first queries see no key
            q_start, n = q_end - m, m
        if n == 0 or m == 0:
            continue
        mask = None
        if causal and n < m:  # torch would align the first query with the first key
            mask = like.new_full((n, m), -math.inf).triu(m - n + 1)
        options = dict(dropout_p=0.0, is_causal=causal and n == m, attn_mask=mask, scale=scale)
        yield slice(q_start, q_end), slice(k_start, k_end), options


def _heads_first(x: Tensor) -> Tensor:
    """(n, h, d) -> (1, h, n, d), a view."""
    return x.transpose(0, 1)[None]


def _check(q: JaggedTensor, k: JaggedTensor, v: JaggedTensor) -> None:
    """Raises a ValueError unless the three fit each other."""
    shapes = f"q {tuple(q.values.shape)}, k {tuple(k.values.shape)}, v {tuple(v.values.shape)}"
    if q.values.ndim != 3 or q.values.shape[1:] != k.values.shape[1:]:
        raise ValueError(f"{shapes}: expected (T, h, d), and keys of the same heads and width")
    if not q.values.is_floating_point() or q.values.shape[2] < 1:
        raise ValueError(f"{shapes} of {q.values.dtype}: expected floats, at least one column")
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
