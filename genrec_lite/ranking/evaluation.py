"""How good the predicted actions are: normalised entropy and AUC of each task."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from genrec_lite.datasets.actions import Events
from genrec_lite.metrics import auc, normalized_entropy
from genrec_lite.training import without_dropout

__all__ = ["predicted", "task_metrics"]

ROWS = 32  # looked at together


def predicted(model: Callable[[Events], Tensor], events: Events, asked: Tensor) -> Tensor:
    """Probabilities (n, A) of the actions of the n asked events.

    Args:
        model: events to logits (T, A).
        events: rows that the model can take; see `questions`.
        asked: (T,) bool.
    """
    found = []
    lengths = events.items.lengths
    rows = torch.arange(len(events), device=lengths.device)
    with torch.no_grad(), without_dropout(model):
        for some in rows.split(ROWS):
            part = events.stretches(some, torch.zeros_like(some), lengths[some])
            found.append(model(part).sigmoid())
    return torch.cat(found)[asked]


def task_metrics(probabilities: Tensor, actions: Tensor, names: Sequence[str]) -> dict[str, float]:
    """ "NAME ne" and "NAME auc" of each action.

    Args:
        probabilities: (n, A).
        actions: (n, A) bool, what was done.
        names: of the actions.
    Raises:
        ValueError: if all or none of the n events have one of the actions.
    """
    found = {}
    for number, name in enumerate(names):
        p, y = probabilities[:, number], actions[:, number].long()
        found[f"{name} ne"] = float(normalized_entropy(p, y))
        found[f"{name} auc"] = float(auc(p, y))
    return found
