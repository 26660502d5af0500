"""What losses and indexes ask of a similarity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from genrec_lite.similarity.dot_product import PairScores
from genrec_lite.similarity.sides import MixtureSide

__all__ = ["Similarity"]


class Similarity(Protocol):
    """A module that scores sides; `DotProduct` and `MixtureOfLogits` have it all."""

    temperature: float

    @property
    def side(self) -> type[Tensor] | type[MixtureSide]:
        """What its sides are made of."""

    def score(self, queries: Any, items: Any) -> Tensor:
        """(B, N) scores of B query sides and N item sides."""

    def score_pairs(self, queries: Any, items: Any) -> PairScores:
        """Scores (n,) of the i-th query side with the i-th item side."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights to learn."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """The weights by name."""
