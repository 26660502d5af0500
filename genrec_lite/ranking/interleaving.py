"""Two tokens an event: the item that was met, then what was done with it.

Zhai et al. 2024 (2402.17152), section 2.2.2: with items and actions in one sequence, a ranking
model's prediction is read off at the item's token, before the action is seen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from genrec_lite.datasets.actions import Events
from genrec_lite.jagged import JaggedTensor
from genrec_lite.training import seeded

__all__ = ["Interleaving", "interleaved", "token_times"]


class Interleaving(nn.Module):
    """The embeddings of items and actions, and their sequence.

    An action's token is the sum of the vectors of its bits and of one that all actions share, so
    that "nothing was done" is something, too. No token knows its place: that is left to the
    relative bias, so that it means the same wherever a history is cut.

    Args:
        num_items: N, size of the corpus.
        num_actions: A, bits of an action.
        dim: d, width of a token.
        seed: of the initial weights.
    """

    def __init__(self, num_items: int, num_actions: int, dim: int, *, seed: int = 0) -> None:
        super().__init__()
        with seeded(seed):
            self.item_embedding = nn.Embedding(num_items, dim)
            nn.init.trunc_normal_(self.item_embedding.weight, std=0.02, a=-0.04, b=0.04)
            self.bit_vectors = nn.Parameter(torch.empty(num_actions, dim).normal_(std=0.02))
            self.any_action = nn.Parameter(torch.empty(dim).normal_(std=0.02))
        self.scale = math.sqrt(dim)

    def of_items(self, items: Tensor) -> Tensor:
        """(n,) item indices -> (n, d) tokens.

        Raises:
            ValueError: if an index is outside the table.
        """
        size = self.item_embedding.num_embeddings
        if len(items) and (int(items.min()) < 0 or int(items.max()) >= size):
            raise ValueError(
                f"item indices run from {int(items.min())} to {int(items.max())}, but the table "
                f"holds items 0 to {size - 1}"
            )
        return self.item_embedding(items) * self.scale

    def of_actions(self, actions: Tensor) -> Tensor:
        """(n, A) bits -> (n, d) tokens.

        Raises:
            ValueError: if there are more or fewer bits than vectors.
        """
        if actions.ndim != 2 or actions.shape[1] != len(self.bit_vectors):
            raise ValueError(
                f"actions {tuple(actions.shape)}: expected (n, {len(self.bit_vectors)}) bits"
            )
        bits = actions.to(self.bit_vectors.dtype)
        return (bits @ self.bit_vectors + self.any_action) * self.scale

    def forward(self, events: Events) -> JaggedTensor:
        """B rows of events -> B rows of twice as many tokens (2T, d)."""
        tokens = interleaved(self.of_items(events.items.values), self.of_actions(events.actions))
        return JaggedTensor(tokens, 2 * events.items.offsets)


def interleaved(items: Tensor, actions: Tensor) -> Tensor:
    """(n, ...) twice -> (2n, ...): first item, first action, second item, ..."""
    return torch.stack([items, actions], dim=1).flatten(0, 1)


def token_times(events: Events) -> JaggedTensor:
    """When each token came to be: the item's time is also that of its action, (2T,) int64."""
    return JaggedTensor(interleaved(events.times, events.times), 2 * events.items.offsets)
