"""One side of a similarity: everything of a query, or of an item, that can be computed alone.

A dot product's side is a tensor (n, d), a mixture of logits' side is a `MixtureSide`. Indexes,
losses and files treat both alike: `len(side)`, `side[rows]`, `side.to(...)`, and the three
functions below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["MixtureSide", "Side", "concatenate", "side_of", "tensors_of"]


@dataclass(frozen=True)
class MixtureSide:
    """One side of a mixture of logits for n queries or n items.

    Args:
        components: (n, P_s, D), L2-normalised component embeddings.
        gate: (n, P), this side's part of the gate, one number for each pair of components.
    Raises:
        ValueError: if the two do not describe the same rows.
    """

    components: Tensor
    gate: Tensor

    def __post_init__(self) -> None:
        if (
            self.components.ndim != 3
            or self.gate.ndim != 2
            or len(self.components) != len(self.gate)
        ):
            raise ValueError(
                f"components {tuple(self.components.shape)} and gate {tuple(self.gate.shape)}: "
                "expected (n, P_s, D) and (n, P)"
            )

    def __len__(self) -> int:
        return len(self.gate)

    def __getitem__(self, rows: slice | Tensor) -> MixtureSide:
        """The side of some rows, by a slice or by their numbers (n,) int64."""
        if isinstance(rows, Tensor):  # copies whole rows: a tenth of the time of components[rows]
            return MixtureSide(
                self.components.index_select(0, rows), self.gate.index_select(0, rows)
            )
        return MixtureSide(self.components[rows], self.gate[rows])

    def to(self, target: torch.dtype | torch.device | str) -> MixtureSide:
        """The same side in another precision or on another device."""
        return MixtureSide(self.components.to(target), self.gate.to(target))


Side: TypeAlias = Tensor | MixtureSide


def tensors_of(side: Side) -> dict[str, Tensor]:
    """What a side is made of, by name; each tensor has one row for each of the n."""
    if isinstance(side, Tensor):
        return {"vectors": side}
    return {"components": side.components, "gate": side.gate}


def side_of(tensors: Mapping[str, Tensor]) -> Side:
    """The side made of the tensors that `tensors_of` named.

    Raises:
        ValueError: if they are those of no side.
    """
    if set(tensors) == {"vectors"}:
        return tensors["vectors"]
    if set(tensors) == {"components", "gate"}:
        return MixtureSide(tensors["components"], tensors["gate"])
    raise ValueError(
        f"{', '.join(sorted(tensors)) or 'no tensor'}: a side is made of vectors, or of "
        "components and gate"
    )


def concatenate(sides: Sequence[Side]) -> Side:
    """One side with the rows of several, in order; all of one kind."""
    parts = [tensors_of(side) for side in sides]
    return side_of({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
