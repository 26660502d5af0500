"""HSTU as it is commonly written, the peer of our jagged one: padded, layer by layer anew."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lite.encoders.hstu import EPS, HSTU, SPARE, HSTUBlock
from genrec_lite.kernels.time_buckets import TIME_BUCKETS

__all__ = ["TextbookHSTU"]


class _TextbookBlock(nn.Module):
    """The maths of an `HSTUBlock` with both biases, on histories padded to one length.

    Args:
        block: whose weights are copied.
    """

    def __init__(self, block: HSTUBlock) -> None:
        super().__init__()
        self.num_heads, self.dropout = block.num_heads, block.dropout
        self.padded_length = block.max_length + SPARE
        self.expand = nn.Parameter(block.expand.detach().clone())
        self.contract = copy.deepcopy(block.contract)
        self.bias = copy.deepcopy(block.bias)

    def forward(self, x: Tensor, times: Tensor, allowed: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d); pairs count where `allowed` (L, L) is 1, not 0."""
        normed = F.layer_norm(x, x.shape[-1:], eps=EPS)
        u, v, q, k = F.silu(normed @ self.expand).chunk(4, dim=-1)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)) for t in (q, k, v))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) + self._bias(times)[:, None]
        weights = F.silu(scores) / self.padded_length * allowed
        attended = torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2)
        gated = u * F.layer_norm(attended, attended.shape[-1:], eps=EPS)
        return x + self.contract(F.dropout(gated, self.dropout, self.training))

    def _bias(self, times: Tensor) -> Tensor:
        """(B, L, L) what the two tables add to the scores of times (B, L + 1)."""
        places = torch.arange(times.shape[1] - 1)
        apart = (times[:, 1:, None] - times[:, None, :-1]).clamp(min=1)
        # In float32, as in the public code, a few of the longest times fall on the other side of a
        # bucket's edge, and the results would not be equal. This costs a hundredth of the step.
        bucket = (apart.double().log() / 0.301).long().clamp(max=TIME_BUCKETS - 1)
        assert self.bias.position_weights is not None and self.bias.time_weights is not None
        distance = (places[:, None] - places).clamp(min=0)
        return self.bias.position_weights[distance] + self.bias.time_weights[bucket]


class TextbookHSTU(nn.Module):
    """HSTU over histories padded to `max_length`, every position computed by every block.

    As in the public code, each block makes the time buckets anew.

    Args:
        encoder: whose weights are copied; with both biases, SiLU, divided by the padded length.
    """

    def __init__(self, encoder: HSTU) -> None:
        super().__init__()
        self.dropout, self.max_length = encoder.dropout, encoder.max_length
        self.item_embedding = copy.deepcopy(encoder.item_embedding)
        self.position_embedding = copy.deepcopy(encoder.position_embedding)
        self.blocks = nn.ModuleList(
            _TextbookBlock(block) for block in encoder.blocks if isinstance(block, HSTUBlock)
        )

    def forward(self, items: Tensor, times: Tensor | None) -> Tensor:
        """(B, L) item indices and (B, L + 1) times, padded behind -> (B, L, d)."""
        assert times is not None
        length = items.shape[1]
        x = self.item_embedding(items) * math.sqrt(self.item_embedding.embedding_dim)
        x = x + self.position_embedding(torch.arange(length))
        x = F.dropout(x, self.dropout, self.training)
        allowed = torch.ones(length, length).tril()
        for block in self.blocks:
            x = block(x, times, allowed)
        return x

    def gradients(self) -> dict[str, Tensor]:
        """The gradient of each parameter, which has the same name in `HSTU`."""
        return {name: p.grad for name, p in self.named_parameters() if p.grad is not None}
