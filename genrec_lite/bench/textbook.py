"""SASRec as it is commonly written, the peer of our jagged one, and data of the usual size."""

from __future__ import annotations

import math

import polars as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lite.datasets import InteractionsError, Sequences, load
from genrec_lite.datasets.catalogue import locate
from genrec_lite.encoders.sasrec import SASRec, SASRecBlock
from genrec_lite.jagged import JaggedTensor

__all__ = ["TextbookSASRec", "movielens_1m_like"]

NUM_USERS, NUM_ITEMS = 6_040, 3_706  # of MovieLens 1M


class _TextbookBlock(nn.Module):
    """The maths of `SASRecBlock` with torch's own attention layer and a mask.

    Args:
        block: whose weights are copied.
    """

    def __init__(self, block: SASRecBlock) -> None:
        super().__init__()
        dim = block.query.in_features
        self.dropout = block.dropout
        self.attention = nn.MultiheadAttention(dim, block.num_heads, batch_first=True)
        self.expand, self.contract = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-8, elementwise_affine=False)
        self.load_state_dict(
            {
                "attention.in_proj_weight": torch.cat([block.query.weight, block.key_value.weight]),
                "attention.in_proj_bias": torch.cat([block.query.bias, block.key_value.bias]),
                "attention.out_proj.weight": block.output.weight,
                "attention.out_proj.bias": block.output.bias,
                **{f"expand.{name}": t for name, t in block.expand.state_dict().items()},
                **{f"contract.{name}": t for name, t in block.contract.state_dict().items()},
            }
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d) with the forbidden pairs of `mask` (L, L) True."""
        normed = self.norm(x)
        # Without the weights torch computes it by its fused scaled_dot_product_attention.
        attended, _ = self.attention(normed, x, x, attn_mask=mask, need_weights=False)
        x = self.norm(normed + attended)
        hidden = F.dropout(F.relu(self.expand(x)), self.dropout, self.training)
        return x + F.dropout(self.contract(hidden), self.dropout, self.training)


class TextbookSASRec(nn.Module):
    """SASRec over histories padded to `max_length`, every position computed by every block.

    Args:
        encoder: whose weights are copied.
    """

    def __init__(self, encoder: SASRec) -> None:
        super().__init__()
        self.dropout, self.max_length = encoder.dropout, encoder.max_length
        self.item_embedding = nn.Embedding.from_pretrained(
            encoder.item_embedding.weight.detach().clone(), freeze=False
        )
        self.position_embedding = nn.Embedding.from_pretrained(
            encoder.position_embedding.weight.detach().clone(), freeze=False
        )
        self.blocks = nn.ModuleList(
            _TextbookBlock(block) for block in encoder.blocks if isinstance(block, SASRecBlock)
        )

    def forward(self, items: Tensor, times: Tensor | None = None) -> Tensor:
        """(B, L) item indices, padded behind with any item -> (B, L, d) query embeddings."""
        length = items.shape[1]
        x = self.item_embedding(items) * math.sqrt(self.item_embedding.embedding_dim)
        x = x + self.position_embedding(torch.arange(length))
        x = F.dropout(x, self.dropout, self.training)
        mask = torch.ones(length, length, dtype=torch.bool).triu(1)
        for block in self.blocks:
            x = block(x, mask)
        return x

    def gradients(self) -> dict[str, Tensor]:
        """The gradient of each parameter under its name in `SASRec`, where there is one."""
        found = {}
        for name, parameter in self.named_parameters():
            gradient = parameter.grad
            if gradient is None:
                continue
            if "in_proj" in name:  # queries, keys and values in one
                dim = len(parameter) // 3
                query, key_value = gradient.split([dim, 2 * dim])
                found[name.replace("attention.in_proj_", "query.")] = query
                found[name.replace("attention.in_proj_", "key_value.")] = key_value
            else:
                found[name.replace("attention.out_proj", "output")] = gradient
        return found


def movielens_1m_like() -> tuple[Sequences, str]:
    """Histories of 6,040 users over 3,706 items, and what they are.

    MovieLens 1M where it is found (a damaged file is an error); else made histories: as many, each
    as long as that of a user drawn from MovieLens small, of items drawn uniformly without repeats.
    """
    for name in ("ml-1m", "ml-1m-ordered"):
        try:
            locate(name)
        except InteractionsError:
            continue
        return load(name).sequences(), name
    generator = torch.Generator().manual_seed(0)
    real = load("movielens-small").sequences().items.lengths.clamp(max=NUM_ITEMS)
    lengths = real[torch.randint(len(real), (NUM_USERS,), generator=generator)]
    rows = [torch.randperm(NUM_ITEMS, generator=generator)[:n] for n in lengths.tolist()]
    sequences = Sequences(
        items=JaggedTensor.from_lengths(torch.cat(rows), lengths),
        timestamps=None,
        ratings=None,
        user_ids=pl.Series(range(NUM_USERS)),
        item_ids=pl.Series(range(NUM_ITEMS)),
    )
    return sequences, "made: lengths drawn from movielens-small, items drawn uniformly"
