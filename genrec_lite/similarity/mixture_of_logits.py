"""Mixture of Logits: a similarity that is learned, with an item side that is computed once.

Two papers describe it: Zhai et al. 2023 (2306.04039) and Ding and Zhai 2024 (2407.15462).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lite.similarity.dot_product import PairScores
from genrec_lite.similarity.sides import MixtureSide
from genrec_lite.training import seeded

__all__ = ["MixtureOfLogits"]

# What stands for minus infinity in a softmax: its exponential is 0 beside any other, and a row of
# nothing else has a softmax and a gradient all the same.
DROPPED = -1e4


class GatedProjection(nn.Module):
    """(n, d) -> (n, out): a SwiGLU layer of width `hidden`, then a linear map."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, 2 * hidden)
        self.contract = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """(n, d) -> (n, out)."""
        value, gate = self.expand(x).chunk(2, dim=-1)
        return self.contract(value * F.silu(gate))


class GatePerceptron(nn.Module):
    """(..., d) -> (..., P): one hidden SiLU layer, no bias at the end."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden)
        self.contract = nn.Linear(hidden, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., P)."""
        hidden = self.expand(x)
        return self.contract(F.silu(hidden, inplace=not torch.is_grad_enabled()))


class MixtureOfLogits(nn.Module):
    """s(q, x) = sum_p pi_p(q, x) <f_p(q), g_p(x)> / temperature, with learned weights pi.

    P_Q components of the query meet P_X components of the item in P = P_Q P_X dot products, the
    component logits l. The gate turns them into one number: pi = softmax(z sigmoid(z)) with
    z = a(q) b(x) + c(l), where a, b and c are small networks, so that only c has to be computed
    for each pair. As pi sums to 1, no score is above its largest component logit.

    Args:
        dim: d, width of queries and item embeddings.
        query_components: P_Q, the user's included if there is one.
        item_components: P_X.
        component_dim: D, width of a component.
        temperature: divides the dot products.
        gate_dim: hidden width of the gate's three networks.
        query_hidden: hidden width of the query's projection.
        item_dropout: share of the item embedding that is dropped in training.
        gate_dropout: share of the weights pi that is dropped in training; the others are
            scaled to sum to 1 again.
        user_buckets: rows of a table of user embeddings, which are one of the query components;
            a user's row is its number modulo this. None: no such component.
        user_dropout: share of the user embedding that is dropped in training.
        seed: of the initial weights.
    Raises:
        ValueError: if a size is below 1, the temperature not above 0, or there is a user
            component and no other.
    """

    side = MixtureSide

    def __init__(
        self,
        dim: int,
        *,
        query_components: int = 8,
        item_components: int = 4,
        component_dim: int = 64,
        temperature: float = 0.05,
        gate_dim: int = 128,
        query_hidden: int = 512,
        item_dropout: float = 0.1,
        gate_dropout: float = 0.2,
        user_buckets: int | None = None,
        user_dropout: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}: it divides the scores, so above 0")
        of_history = query_components - (user_buckets is not None)
        sizes = dict(dim=dim, item_components=item_components, component_dim=component_dim,
                     gate_dim=gate_dim, query_hidden=query_hidden)  # fmt: skip
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} is {size}: at least 1")
        if of_history < 1:
            raise ValueError(
                f"query_components is {query_components}: at least 1, and 2 with a user component"
            )
        self.dim, self.component_dim, self.temperature = dim, component_dim, temperature
        self.query_components, self.item_components = query_components, item_components
        self.item_dropout, self.gate_dropout = item_dropout, gate_dropout
        self.user_dropout = user_dropout
        pairs = query_components * item_components
        with seeded(seed):
            self.query_projection = GatedProjection(dim, query_hidden, of_history * component_dim)
            self.item_projection = nn.Linear(dim, item_components * component_dim)
            self.query_gate = GatePerceptron(dim, gate_dim, pairs)
            self.item_gate = GatePerceptron(dim, gate_dim, pairs)
            self.pair_gate = GatePerceptron(pairs, gate_dim, pairs)
            for linear in (m for m in self.modules() if isinstance(m, nn.Linear)):
                nn.init.xavier_uniform_(linear.weight)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)
            self.user_embedding: nn.Embedding | None = None
            if user_buckets is not None:
                self.user_embedding = nn.Embedding(user_buckets, component_dim)
                nn.init.trunc_normal_(self.user_embedding.weight, std=0.02)

    def queries(self, x: Tensor, users: Tensor | None = None) -> MixtureSide:
        """Query side of encoder outputs (B, d), which are layer-normalised first.

        Args:
            x: (B, d).
            users: (B,) int64, who asks; needed if there is a user component.
        Raises:
            ValueError: if the users are missing.
        """
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        components = self.query_projection(x).unflatten(-1, (-1, self.component_dim))
        if self.user_embedding is not None:
            if users is None:
                raise ValueError("this similarity has a user component: give the users (B,)")
            own = self.user_embedding(users % self.user_embedding.num_embeddings)
            own = F.dropout(own, self.user_dropout, self.training)
            components = torch.cat([own[:, None], components], 1)  # (B, P_Q, D)
        return MixtureSide(F.normalize(components, dim=-1, eps=1e-6), self.query_gate(x))

    def items(self, embeddings: Tensor) -> MixtureSide:
        """Item side of item embeddings (N, d); compute it once and keep it."""
        kept = F.dropout(embeddings, self.item_dropout, self.training)
        components = self.item_projection(kept).unflatten(-1, (-1, self.component_dim))
        return MixtureSide(F.normalize(components, dim=-1, eps=1e-6), self.item_gate(embeddings))

    def component_logits(self, queries: MixtureSide, items: MixtureSide) -> Tensor:
        """(B, N, P) dot products divided by the temperature; p = P_X (query's) + (item's)."""
        f, g = queries.components, items.components.to(queries.components.dtype)
        flat = (f / self.temperature).flatten(0, 1)  # (B P_Q, D)
        logits = (flat @ g.flatten(0, 1).t()).view(*f.shape[:2], *g.shape[:2])
        return logits.transpose(1, 2).flatten(2)  # (B, P_Q, N, P_X) -> (B, N, P)

    def gate_weights(self, logits: Tensor, query_gate: Tensor, item_gate: Tensor) -> Tensor:
        """pi, (..., P): the weights of component logits (..., P); in training some are dropped.

        Args:
            logits: (..., P) component logits.
            query_gate, item_gate: of the same pairs, broadcast against (..., P).
        """
        z = F.silu(self.pair_gate(logits) + query_gate * item_gate.to(logits.dtype))
        if self.training and self.gate_dropout:
            # Dropping weights and scaling the others to sum to 1 is a softmax over the others;
            # a pair that lost all of them weighs all alike.
            z = z.masked_fill(_drawn(z, self.gate_dropout), DROPPED)
        return z.softmax(-1)

    def score(self, queries: MixtureSide, items: MixtureSide) -> Tensor:
        """(B, N) similarities of query and item sides; holds B N (P + gate_dim) numbers."""
        logits = self.component_logits(queries, items)
        weights = self.gate_weights(logits, queries.gate[:, None], items.gate)
        return (weights * logits).sum(-1)

    def score_pairs(self, queries: MixtureSide, items: MixtureSide) -> PairScores:
        """Similarities (n,) of the i-th query side with the i-th item side, and pi (n, P)."""
        g = items.components.to(queries.components.dtype)
        logits = (queries.components @ g.transpose(1, 2) / self.temperature).flatten(1)  # (n, P)
        weights = self.gate_weights(logits, queries.gate, items.gate)
        return PairScores((weights * logits).sum(-1), weights)

    def user_penalty(self, users: Tensor) -> Tensor:
        """Mean squared length of these users' embeddings, a scalar; 0 without a user component."""
        if self.user_embedding is None:
            return self.item_projection.weight.new_zeros(())
        rows = self.user_embedding(users % self.user_embedding.num_embeddings)
        return rows.square().sum(-1).mean()


def _drawn(like: Tensor, share: float) -> Tensor:
    """A mask of `like`'s shape, True with probability `share`, to 1 in 65,536.

    One draw of torch's generator makes four entries: a mask of single draws costs as much as
    the gate's exponentials.
    """
    draws = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
    draws.random_(torch.iinfo(torch.int64).min, None)
    bits = draws.view(torch.int16)[: like.numel()].view(like.shape)
    return bits < round(share * 65536) - 32768
