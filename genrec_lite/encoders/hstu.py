"""HSTU: pointwise attention, a gate in place of the feed-forward network, biases of distance.

Zhai et al. 2024, "Actions Speak Louder than Words" (2402.17152), section 3.2; the layer is that of
the public research code, which made the paper's tables.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lite.encoders.events import recent_events, recent_times, require_events
from genrec_lite.encoders.relative_bias import Bias, RelativeBias
from genrec_lite.jagged import JaggedTensor
from genrec_lite.kernels.hstu_attention import ACTIVATIONS, Activation, hstu_attention
from genrec_lite.kernels.time_buckets import PairTimes
from genrec_lite.training import seeded

__all__ = ["HSTU", "HSTUBlock"]

# The public code pads a history of 200 events to 211, room for 10 outputs and one target, and
# divides by that.
SPARE = 11
EPS = 1e-6


class HSTUBlock(nn.Module):
    """Attention whose weights are not normalised, and a gate on what it finds.

    [u, v, q, k] = SiLU(LN(x) W); the attended values are normalised, multiplied by u, projected,
    and added to x. Neither norm has a scale or a shift of its own.

    Args:
        dim: d, width of a position.
        num_heads: h.
        head_dim: d_qk and d_v, width of a head.
        dropout: share of the gated values that are dropped in training.
        bias: see `RelativeBias`.
        max_length: events a sequence has at most.
        activation: "silu", as in the paper, or "softmax" in its place.
        divide_by: what SiLU's weights are divided by: "padded", the length that the public code
            pads to, or "row", each sequence's own length. That counts later events, too, so an
            output is then not that of the same history cut short there.
    Raises:
        ValueError: if a choice is none of those named, or a size below 1.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        head_dim: int,
        dropout: float,
        bias: Bias,
        max_length: int,
        activation: Activation = "silu",
        divide_by: Literal["padded", "row"] = "padded",
    ) -> None:
        super().__init__()
        sizes = dict(dim=dim, num_heads=num_heads, head_dim=head_dim, max_length=max_length)
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} is {size}: at least 1")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}: choose from {', '.join(ACTIVATIONS)}")
        if divide_by not in ("padded", "row"):
            raise ValueError(f"divide_by is {divide_by!r}: choose padded or row")
        self.num_heads, self.dropout, self.max_length = num_heads, dropout, max_length
        self.activation, self.divide_by = activation, divide_by
        self.bias = RelativeBias(bias, max_length)
        self.expand = nn.Parameter(torch.empty(dim, 4 * num_heads * head_dim).normal_(std=0.02))
        self.contract = nn.Linear(num_heads * head_dim, dim)
        nn.init.xavier_uniform_(self.contract.weight)

    def forward(
        self, x: JaggedTensor, times: PairTimes | None, targets: Tensor | None = None
    ) -> JaggedTensor:
        """(T, d) -> (T, d), each event looking at itself and before it.

        Args:
            x: B rows.
            times: of the events, if there is a time bias; not looked at without one.
            targets: (B,) int64, how many of each row's last events are candidates that do not see
                each other; none if left out.
        """
        u, v, q, k = self.project(x.values)
        attended = self.attend(q, k, v, x, times, targets)
        return x.with_values(x.values + self.gate(u, attended))

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """u, v, q, k, (T, h d_v) each, of (T, d)."""
        normed = F.layer_norm(x, x.shape[-1:], eps=EPS)
        return F.silu(normed @ self.expand).chunk(4, dim=-1)

    def gate(self, u: Tensor, attended: Tensor) -> Tensor:
        """(T, d) what is added to the events, of the gate and what was found, (T, h d_v) each."""
        gated = u * F.layer_norm(attended, attended.shape[-1:], eps=EPS)
        return self.contract(F.dropout(gated, self.dropout, self.training))

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rows: JaggedTensor,
        times: PairTimes | None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """(T, h d_v) what each event finds among those up to itself."""
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)) for t in (q, k, v))
        time_weights = self.bias.time_weights
        divide_by = 1 if self.activation == "softmax" else self.max_length + SPARE
        found = hstu_attention(
            q,
            k,
            v,
            rows.offsets,
            position_weights=self.bias.position_weights,
            time_weights=time_weights,
            times=None if time_weights is None else times,
            targets=targets,
            activation=self.activation,
            divide_by=divide_by if self.divide_by == "padded" else 1,
        ).flatten(1)
        if self.activation == "softmax" or self.divide_by == "padded":
            return found
        places = rows.lengths if targets is None else rows.lengths - (targets - 1).clamp(min=0)
        return found / places.repeat_interleave(rows.lengths)[:, None]


class HSTU(nn.Module):
    """Item sequences with times in, one query embedding a position out.

    No padding anywhere: every layer works on the events as they lie, end to end. Initial weights
    are drawn as in the public code, which has some hundred parameters more: rows of its position
    tables that no history of `max_length` reaches.

    Args:
        num_items: N, size of the corpus; item indices run from 0 to N - 1.
        dim: d, width of item and query embeddings.
        num_blocks: at least 1.
        num_heads, head_dim, dropout, bias, activation, divide_by: see `HSTUBlock`.
        max_length: most recent events looked at; older ones are cut off.
        seed: of the initial weights.
    """

    def __init__(
        self,
        num_items: int,
        *,
        dim: int = 50,
        num_blocks: int = 2,
        num_heads: int = 1,
        head_dim: int = 50,
        max_length: int = 200,
        dropout: float = 0.2,
        bias: Bias = "both",
        activation: Activation = "silu",
        divide_by: Literal["padded", "row"] = "padded",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if num_blocks < 1:
            raise ValueError(f"num_blocks is {num_blocks}: at least 1")
        self.max_length, self.dropout = max_length, dropout
        self.needs_times = bias in ("both", "time")
        with seeded(seed):
            self.item_embedding = nn.Embedding(num_items, dim)
            nn.init.trunc_normal_(self.item_embedding.weight, std=0.02, a=-0.04, b=0.04)
            self.position_embedding = nn.Embedding(max_length, dim)
            nn.init.xavier_normal_(self.position_embedding.weight)
            self.blocks = nn.ModuleList(
                HSTUBlock(
                    dim, num_heads=num_heads, head_dim=head_dim, dropout=dropout, bias=bias,
                    max_length=max_length, activation=activation, divide_by=divide_by,
                )
                for _ in range(num_blocks)
            )  # fmt: skip

    def forward(self, items: JaggedTensor, times: JaggedTensor | None = None) -> JaggedTensor:
        """Query embeddings (T', d), one for each of the last `max_length` events of each row.

        Args:
            items: B rows of item indices, oldest first; empty rows are allowed.
            times: the rows' times in whole seconds, one more in each row than it has events, the
                last of them when the prediction is asked for; needed with a time bias.
        Raises:
            ValueError: if an index is outside the item table, or times are missing, not one more
                than the events, or fall within a row.
        """
        of_pairs = None
        if self.needs_times:
            of_pairs = PairTimes(recent_times(times, items, self.max_length))
        items = recent_events(items, self.item_embedding.num_embeddings, self.max_length)
        x = self.item_embedding(items.values) * math.sqrt(self.item_embedding.embedding_dim)
        x = x + self.position_embedding(items.positions())
        rows = items.with_values(F.dropout(x, self.dropout, self.training))
        for block in self.blocks:
            rows = block(rows, of_pairs)
        return rows

    def last(self, items: JaggedTensor, times: JaggedTensor | None = None) -> Tensor:
        """Query embeddings (B, d) of each row's last event; arguments and errors as `forward`.

        All positions are computed: a recommendation costs as much as a forward pass of training.

        Raises:
            ValueError: also if a row is empty.
        """
        require_events(items)
        return self(items, times).last_values()
