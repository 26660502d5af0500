"""The cosine of a query and an item, the similarity of nearly every deployed retriever."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["DotProduct"]


class DotProduct(nn.Module):
    """s(q, x) = <q, x> / temperature of the L2-normalised vectors.

    Args:
        temperature: 0.05 in the public HSTU and SASRec runs; smaller makes the softmax sharper.
    """

    def __init__(self, temperature: float = 0.05) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}: it divides the scores, so above 0")
        self.temperature = temperature

    def queries(self, x: Tensor) -> Tensor:
        """Query side (B, d) of encoder outputs (B, d)."""
        return F.normalize(x, dim=-1, eps=1e-6)

    def items(self, embeddings: Tensor) -> Tensor:
        """Item side (N, d) of item embeddings (N, d); compute it once and keep it."""
        return F.normalize(embeddings, dim=-1, eps=1e-6)

    def score(self, queries: Tensor, items: Tensor) -> Tensor:
        """(B, N) similarities of query sides (B, d) and item sides (N, d)."""
        return queries @ items.t() / self.temperature
