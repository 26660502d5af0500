"""What both rankers do alike: several tasks read off one vector, and their loss."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lite.datasets.actions import EventBatch, Events

__all__ = ["Ranker", "TaskHead", "action_loss"]


class Ranker(nn.Module):
    """A model that gives logits (T, A) of the actions of all T events of some histories.

    Args:
        max_events: of a history.
    """

    def __init__(self, max_events: int) -> None:
        super().__init__()
        self.max_events = max_events

    def check_lengths(self, events: Events) -> None:
        """Raise ValueError if a row has more than `max_events` events."""
        if events.items.max_length > self.max_events:
            raise ValueError(
                f"a row has {events.items.max_length} events, the model looks at "
                f"{self.max_events}: cut it, or take `events.last({self.max_events})`"
            )

    def loss(self, batch: EventBatch) -> Tensor:
        """Mean over the asked events of `action_loss`."""
        return action_loss(self(batch.events)[batch.asked], batch.events.actions[batch.asked])


def action_loss(logits: Tensor, actions: Tensor) -> Tensor:
    """Mean over n events of the cross-entropies of their A actions, added up; both (n, A)."""
    return F.binary_cross_entropy_with_logits(
        logits, actions.to(logits.dtype), reduction="sum"
    ) / len(logits)


class TaskHead(nn.Module):
    """What is known of an item's token -> one logit an action (several tasks, one hidden layer)."""

    def __init__(self, dim: int, hidden: int, num_actions: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, hidden)
        self.logits = nn.Linear(hidden, num_actions)

    def forward(self, x: Tensor) -> Tensor:
        """(n, dim) -> (n, A)."""
        normed = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        return self.logits(F.silu(self.hidden(normed)))
