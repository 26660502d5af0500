"""What a sceptic asks of a ranking model first: how often this item, and this user, so far?"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_lite.datasets.actions import Events

__all__ = ["Rates"]

# Events at the mean rate that are put before everybody's own; a first guess, not searched.
ITEM_PRIOR, USER_PRIOR = 10.0, 5.0


class Rates:
    """Logits of an action from an item's rate in training and a user's rate so far, added up.

    logit(item) + logit(user) - logit(everybody), each rate drawn towards everybody's by a few
    made-up events.

    Args:
        train: events to count.
        num_items: size of the corpus.
        counted: (T,) bool, which of them; all if left out.
    Raises:
        ValueError: if an action was done at none, or at all, of the counted events.
    """

    def __init__(self, train: Events, num_items: int, *, counted: Tensor | None = None) -> None:
        which = torch.ones_like(train.times, dtype=torch.bool) if counted is None else counted
        items, actions = train.items.values[which], train.actions[which].double()
        self.mean = actions.mean(0)  # (A,)
        if not bool(((self.mean > 0) & (self.mean < 1)).all()):
            number = int((~((self.mean > 0) & (self.mean < 1))).nonzero()[0])
            raise ValueError(
                f"action {number} was done at {float(self.mean[number]):.0%} of {len(items)} "
                "events: a rate needs both kinds"
            )
        done = torch.zeros(num_items, actions.shape[1], dtype=torch.float64)
        done.index_add_(0, items, actions)
        met = torch.bincount(items, minlength=num_items)[:, None]
        self.of_items = (done + ITEM_PRIOR * self.mean) / (met + ITEM_PRIOR)  # (N, A)

    def __call__(self, events: Events) -> Tensor:
        """Logits (T, A) of each event's actions, from the user's earlier ones in the same row."""
        actions, places = events.actions.double(), events.items.positions()[:, None]
        before = actions.cumsum(0) - actions
        begins = events.items.offsets[:-1][events.items.row_ids()]
        done = before - before[begins]
        of_users = (done + USER_PRIOR * self.mean) / (places + USER_PRIOR)
        logits = self.of_items[events.items.values].logit() + of_users.logit() - self.mean.logit()
        return logits.float()
