"""SASRec: a small causal transformer over item sequences (Kang and McAuley, 2018)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lite.encoders.events import recent_events, require_events
from genrec_lite.jagged import JaggedTensor, length_buckets
from genrec_lite.training import seeded

__all__ = ["SASRec", "SASRecBlock"]


class SASRecBlock(nn.Module):
    """Self-attention and a two-layer network at each position, both with a residual.

    The normalised input is the query; keys and values are the raw input, and the residual runs
    from the normalised side. Neither norm has a scale or a shift of its own, as in the public
    code of the HSTU paper. Two things differ from that code: it drops attention weights in
    training, too, and it draws weights from Xavier's normal distribution, those of query, key and
    value as one (3 d, d) matrix, where ours come from his uniform one, layer by layer.

    Args:
        dim: d, width of a position.
        num_heads: h, divides d.
        dropout: share of the network's activations that are dropped in training.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {num_heads}")
        self.num_heads, self.dropout = num_heads, dropout
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(dim, dim)
        self.expand = nn.Linear(dim, dim)
        self.contract = nn.Linear(dim, dim)
        for layer in (self.query, self.key_value, self.output, self.expand, self.contract):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(b, L, d) -> (b, L, d), each position looking at itself and before it.

        With `lengths` (b,), only each row's last event is computed: (b, 1, d), all that a
        recommendation needs from the top block.
        """
        normed = F.layer_norm(x, x.shape[-1:], eps=1e-8)
        key, value = self.key_value(x).chunk(2, dim=-1)
        mask = None
        if lengths is not None:
            normed = normed[torch.arange(len(x), device=x.device), lengths - 1][:, None]
            places = torch.arange(x.shape[1], device=x.device)
            mask = (places < lengths[:, None])[:, None, None]  # (b, 1, 1, L)
        q, k, v = (self._heads(t) for t in (self.query(normed), key, value))  # (b, h, L, d / h)
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=lengths is None
        )
        attended = self.output(attended.transpose(1, 2).flatten(2))
        x = F.layer_norm(normed + attended, x.shape[-1:], eps=1e-8)
        hidden = F.dropout(F.relu(self.expand(x)), self.dropout, self.training)
        return x + F.dropout(self.contract(hidden), self.dropout, self.training)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class SASRec(nn.Module):
    """Item sequences in, one query embedding a position out: what the user may want next.

    The position table is drawn from Xavier's normal distribution, where the public code has a
    truncated one with a standard deviation of 1 / sqrt(d).

    Args:
        num_items: N, size of the corpus; item indices run from 0 to N - 1.
        dim: d, width of item and query embeddings.
        num_blocks: at least 1.
        num_heads, dropout: see `SASRecBlock`.
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
        max_length: int = 200,
        dropout: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.max_length, self.dropout = max_length, dropout
        with seeded(seed):
            self.item_embedding = nn.Embedding(num_items, dim)
            nn.init.trunc_normal_(self.item_embedding.weight, std=0.02)
            self.position_embedding = nn.Embedding(max_length, dim)
            nn.init.xavier_normal_(self.position_embedding.weight)
            self.blocks = nn.ModuleList(
                SASRecBlock(dim, num_heads, dropout) for _ in range(num_blocks)
            )

    def forward(self, items: JaggedTensor, times: JaggedTensor | None = None) -> JaggedTensor:
        """Query embeddings (T', d), one for each of the last `max_length` events of each row.

        Args:
            items: B rows of item indices, oldest first; empty rows are allowed.
            times: not looked at: SASRec knows the order only.
        Raises:
            ValueError: if an index is outside the item table.
        """
        items = recent_events(items, self.item_embedding.num_embeddings, self.max_length)
        found, places = [], []
        for bucket in length_buckets(items.lengths):
            rows = items.select(bucket)
            x = self._embed(rows)
            for block in self.blocks:
                x = block(x)
            inside = torch.arange(x.shape[1], device=x.device) < rows.lengths[:, None]  # (b, L)
            found.append(x.flatten(0, 1).index_select(0, inside.flatten().nonzero().squeeze(1)))
            places.append(items.offsets[bucket].repeat_interleave(rows.lengths) + rows.positions())
        out = self.item_embedding.weight.new_zeros(
            len(items.values), self.position_embedding.embedding_dim
        )
        if found:
            out = out.index_copy(0, torch.cat(places), torch.cat(found))
        return items.with_values(out)

    def last(self, items: JaggedTensor, times: JaggedTensor | None = None) -> Tensor:
        """Query embeddings (B, d) of each row's last event.

        The last row of `forward`, without the top block's work on earlier events.

        Args:
            items: B rows of item indices, oldest first.
            times: not looked at.
        Raises:
            ValueError: if a row is empty, or an index is outside the item table.
        """
        require_events(items)
        items = recent_events(items, self.item_embedding.num_embeddings, self.max_length)
        out = self.item_embedding.weight.new_zeros(
            len(items), self.position_embedding.embedding_dim
        )
        for bucket in length_buckets(items.lengths):
            rows = items.select(bucket)
            x = self._embed(rows)
            for block in self.blocks[:-1]:
                x = block(x)
            out = out.index_copy(0, bucket, self.blocks[-1](x, rows.lengths)[:, 0])
        return out

    def _embed(self, rows: JaggedTensor) -> Tensor:
        """(b, L, d) item and position embeddings; the air behind a row's last event is item 0,
        which a causal mask hides from every real event."""
        padded = rows.to_padded()  # (b, L)
        x = self.item_embedding(padded) * math.sqrt(self.item_embedding.embedding_dim)
        x = x + self.position_embedding.weight[: padded.shape[1]]
        return F.dropout(x, self.dropout, self.training)
