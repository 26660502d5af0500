"""What ranking models before transformers made of a history: sums, products, and a network.

In the manner of DLRM (Naumov et al. 2019, 1906.00091): features are embedded and pooled, meet in
products, and go into a network. It stands beside SASRec and HSTU as the model without sequence.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lite.encoders.events import recent_events, require_events
from genrec_lite.jagged import JaggedTensor
from genrec_lite.training import seeded

__all__ = ["PooledHistory"]


class PooledHistory(nn.Module):
    """Item sequences in, one query embedding a position out, by counting rather than by order.

    Two features: the position's own item, and the mean of all items up to it. They and their
    product go through a linear layer, and then through networks of two layers with a residual.
    But for which item came last it does not know the order.

    Args:
        num_items: N, size of the corpus.
        dim: d, width of item and query embeddings.
        num_blocks: networks, at least 1.
        max_length: most recent events looked at; older ones are cut off.
        dropout: share of embeddings, and of each network's output, that are dropped in training.
        seed: of the initial weights.
    """

    def __init__(
        self,
        num_items: int,
        *,
        dim: int = 50,
        num_blocks: int = 2,
        max_length: int = 200,
        dropout: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if num_blocks < 1:
            raise ValueError(f"num_blocks is {num_blocks}: at least 1")
        self.max_length, self.dropout = max_length, dropout
        with seeded(seed):
            self.item_embedding = nn.Embedding(num_items, dim)
            nn.init.trunc_normal_(self.item_embedding.weight, std=0.02)
            self.mix = nn.Linear(3 * dim, dim)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
                for _ in range(num_blocks)
            )

    def forward(self, items: JaggedTensor, times: JaggedTensor | None = None) -> JaggedTensor:
        """Query embeddings (T', d), one for each of the last `max_length` events of each row.

        Args:
            items: B rows of item indices, oldest first; empty rows are allowed.
            times: not looked at.
        Raises:
            ValueError: if an index is outside the item table.
        """
        items = recent_events(items, self.item_embedding.num_embeddings, self.max_length)
        x = self.item_embedding(items.values) * math.sqrt(self.item_embedding.embedding_dim)
        x = F.dropout(x, self.dropout, self.training)
        own, pooled = _normed(x), _normed(_running_mean(items.with_values(x)))
        out = self.mix(torch.cat([own, pooled, own * pooled], dim=1))
        for block in self.blocks:
            out = out + F.dropout(block(_normed(out)), self.dropout, self.training)
        return items.with_values(out)

    def last(self, items: JaggedTensor, times: JaggedTensor | None = None) -> Tensor:
        """Query embeddings (B, d) of each row's last event.

        Raises:
            ValueError: if a row is empty, or an index is outside the item table.
        """
        require_events(items)
        return self(items).last_values()


def _normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def _running_mean(rows: JaggedTensor) -> Tensor:
    """(T, d) at each place the mean of its row up to and with that place."""
    if not len(rows.values):
        return rows.values
    sums = rows.values.double().cumsum(0)  # in float32 late rows would lose the early ones' digits
    before = F.pad(sums, (0, 0, 1, 0))[rows.offsets[:-1]]  # (B, d) all rows before each
    means = (sums - before[rows.row_ids()]) / (rows.positions() + 1)[:, None]
    return means.to(rows.values.dtype)
