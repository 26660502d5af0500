"""The cheap similarity of a first stage: two linear maps into few dimensions, then the cosine."""

from __future__ import annotations

from torch import Tensor, nn

from genrec_lite.similarity.dot_product import DotProduct
from genrec_lite.training import seeded

__all__ = ["ProjectedDotProduct"]


class ProjectedDotProduct(DotProduct):
    """s(q, x) = cos(A q, B x) / temperature: stage one of the h-indexer (MoL paper, section 4).

    Args:
        dim: d, width of the encoder's queries and of the item table.
        coarse_dim: width of the vectors compared.
        temperature: see `DotProduct`.
        seed: of the two maps.
    """

    def __init__(
        self, dim: int, coarse_dim: int = 64, temperature: float = 0.05, seed: int = 0
    ) -> None:
        super().__init__(temperature)
        with seeded(seed):
            self.query_map = nn.Linear(dim, coarse_dim, bias=False)
            self.item_map = nn.Linear(dim, coarse_dim, bias=False)

    def queries(self, x: Tensor, users: Tensor | None = None) -> Tensor:
        """Query side (B, coarse_dim) of encoder outputs (B, d)."""
        return super().queries(self.query_map(x))

    def items(self, embeddings: Tensor) -> Tensor:
        """Item side (N, coarse_dim) of item embeddings (N, d)."""
        return super().items(self.item_map(embeddings))
