"""Models that read a request's own features once, whatever the number of its candidates.

"Request-Only Optimization" (2508.05640): late fan-out in a two-tower model, several targets a
request in HSTU, and a linear compression of the request's embeddings before the fan-out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lite.datasets.actions import Events
from genrec_lite.kernels.jagged_ops import jagged_dense_matmul
from genrec_lite.ranking.interleaving import Interleaving
from genrec_lite.ranking.target_aware import GenerativeRanker
from genrec_lite.ranking.tasks import action_loss
from genrec_lite.request_only.batches import RequestBatch
from genrec_lite.training import seeded

__all__ = ["LinearCompressedEmbedding", "RequestHSTU", "RequestModel", "TwoTower"]


class RequestModel(nn.Module):
    """A model that gives logits (B, A) of the actions of a batch's B candidates."""

    def loss(self, batch: RequestBatch) -> Tensor:
        """Mean over the impressions, not over the requests, of `action_loss`."""
        return action_loss(self(batch), batch.actions)


class RequestHSTU(RequestModel):
    """HSTU over the history of a request, all its candidates behind it as targets.

    The ranking model of `GenerativeRanker`, trained as it is asked: a target sees the history and
    itself, never another item of its request, as if each stood there alone.

    Args:
        num_items: N, size of the corpus.
        num_actions: A, the tasks.
        dim, num_blocks, num_heads, head_dim, max_events, dropout, seed: see `GenerativeRanker`.
    """

    def __init__(
        self,
        num_items: int,
        num_actions: int,
        *,
        dim: int = 64,
        num_blocks: int = 2,
        num_heads: int = 2,
        head_dim: int = 32,
        max_events: int = 64,
        dropout: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.ranker = GenerativeRanker(
            num_items, num_actions, dim=dim, num_blocks=num_blocks, num_heads=num_heads,
            head_dim=head_dim, max_events=max_events, dropout=dropout, seed=seed,
        )  # fmt: skip

    def forward(self, batch: RequestBatch) -> Tensor:
        """Logits (B, A); of histories longer than `max_events` the last ones are looked at."""
        return self.ranker.score(batch.history, batch.candidates, batch.asked)


class LinearCompressedEmbedding(nn.Module):
    """n embeddings of a request to k: Y = W X, so that the fan-out copies k of them, not n.

    Args:
        num_embeddings: n.
        num_compressed: k.
    """

    def __init__(self, num_embeddings: int, num_compressed: int) -> None:
        super().__init__()
        spread = 1 / math.sqrt(num_embeddings)
        self.weight = nn.Parameter(torch.randn(num_compressed, num_embeddings) * spread)

    def forward(self, x: Tensor) -> Tensor:
        """(R, n, d) -> (R, k, d)."""
        return self.weight @ x


class TwoTower(RequestModel):
    """A tower for the request, a tower for the candidate, and products between them.

    The request's tower runs once a request. Its k vectors are never copied for each candidate: the
    products are one multiplication of jagged rows by dense matrices ("never" fan-out).

    Args:
        num_items: N, size of the corpus.
        num_actions: A, the tasks.
        dim: d, width of embeddings.
        num_compressed: k, vectors of a request.
        max_events: n, recent events that are looked at, by their place from the end.
        request_hidden, item_hidden: width of the towers' hidden layers.
        seed: of the initial weights.
    """

    def __init__(
        self,
        num_items: int,
        num_actions: int,
        *,
        dim: int = 64,
        num_compressed: int = 8,
        max_events: int = 64,
        request_hidden: int = 512,
        item_hidden: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.max_events = max_events
        self.tokens = Interleaving(num_items, num_actions, dim, seed=seed)
        with seeded(seed + 1):
            self.compress = LinearCompressedEmbedding(max_events, num_compressed)
            width = num_compressed * dim
            self.request_tower = nn.Sequential(
                nn.Linear(width, request_hidden), nn.SiLU(), nn.Linear(request_hidden, width)
            )
            self.item_tower = nn.Sequential(
                nn.Linear(dim, item_hidden), nn.SiLU(), nn.Linear(item_hidden, dim)
            )
            self.item_logits = nn.Linear(dim, num_actions)
            self.head = nn.Linear(num_compressed, num_actions)

    def forward(self, batch: RequestBatch) -> Tensor:
        """Logits (B, A); of histories longer than `max_events` the last ones are looked at."""
        requests = self.requests(batch.history)  # (R, k, d)
        items = self.item_tower(self.tokens.of_items(batch.candidates.values))  # (B, d)
        products = jagged_dense_matmul(batch.candidates.with_values(items), requests.mT)  # (B, k)
        return self.head(products.values) + self.item_logits(items)

    def requests(self, history: Events) -> Tensor:
        """(R, k, d) what is known of each request before its candidates are."""
        recent = history.last(self.max_events)
        tokens = self.tokens.of_items(recent.items.values) + self.tokens.of_actions(recent.actions)
        rows = recent.items.row_ids()
        place = recent.items.lengths[rows] - 1 - recent.items.positions()  # from the end
        dense = tokens.new_zeros(len(recent), self.max_events, tokens.shape[1])
        compressed = self.compress(dense.index_put((rows, place), tokens))
        flat = compressed.flatten(1)
        return self.request_tower(F.layer_norm(flat, flat.shape[1:], eps=1e-6)).view_as(compressed)
