"""The cosine of a query and an item, the similarity of nearly every deployed retriever."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["DotProduct", "PairScores"]


class PairScores(NamedTuple):
    """Scores (n,) of n pairs, and the weights (n, P) with which P component logits made them."""

    scores: Tensor
    weights: Tensor


class DotProduct(nn.Module):
    """s(q, x) = <q, x> / temperature of the L2-normalised vectors.

    Args:
        temperature: 0.05 in the public HSTU and SASRec runs; smaller makes the softmax sharper.
    """

    side = Tensor

    def __init__(self, temperature: float = 0.05) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}: it divides the scores, so above 0")
        self.temperature = temperature

    def queries(self, x: Tensor, users: Tensor | None = None) -> Tensor:
        """Query side (B, d) of encoder outputs (B, d); who asks makes no difference."""
        return F.normalize(x, dim=-1, eps=1e-6)

    def items(self, embeddings: Tensor) -> Tensor:
        """Item side (N, d) of item embeddings (N, d); compute it once and keep it."""
        return F.normalize(embeddings, dim=-1, eps=1e-6)

    def score(self, queries: Tensor, items: Tensor) -> Tensor:
        """(B, N) similarities of query sides (B, d) and item sides (N, d)."""
        return queries @ items.to(queries.dtype).t() / self.temperature

    def score_pairs(self, queries: Tensor, items: Tensor) -> PairScores:
        """Similarities (n,) of the i-th query side with the i-th item side; one weight, 1."""
        scores = (queries * items.to(queries.dtype)).sum(-1) / self.temperature
        return PairScores(scores, scores.new_ones(len(scores), 1))
