"""A training step, ours beside the textbook's: the same loss and gradients, two ways to them."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lite.bench.timing import Comparison
from genrec_lite.datasets.batches import NextItemBatch
from genrec_lite.losses import uniform_negatives
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.training import seeded

__all__ = ["TextbookEncoder", "compare_steps"]

TOLERANCE = 1e-5  # relative, of the loss and of each parameter's gradient


class TextbookEncoder(Protocol):
    """An encoder of padded histories with the weights of one of ours."""

    max_length: int
    item_embedding: nn.Embedding

    def __call__(self, items: Tensor, times: Tensor | None) -> Tensor:
        """(B, L) item indices, (B, L + 1) times -> (B, L, d) query embeddings."""

    def gradients(self) -> dict[str, Tensor]:
        """The gradient of each parameter under its name in our encoder, where there is one."""

    def parameters(self) -> Any:
        """The weights to learn."""

    def train(self, mode: bool = True) -> Any:
        """Training or evaluation mode."""

    def zero_grad(self) -> None:
        """Forgets the gradients."""


class _TextbookStep:
    """The loss of a padded batch, as commonly written: gather the negatives, then normalise."""

    def __init__(self, encoder: TextbookEncoder, temperature: float, batch: NextItemBatch) -> None:
        self.encoder, self.temperature = encoder, temperature
        length = encoder.max_length
        self.items = batch.inputs.to_padded(length=length)  # (B, L)
        self.targets = batch.inputs.with_values(batch.targets).to_padded(length=length)  # (B, L)
        events = batch.inputs.with_values(torch.ones(len(batch)))
        self.weights = events.to_padded(length=length)  # (B, L) 1, or 0 for the air behind a row
        self.times = None if batch.times is None else batch.times.to_padded(length=length + 1)

    def loss(self, negatives: Tensor) -> Tensor:
        """Mean cross-entropy of the targets against the negatives.

        Args:
            negatives: (B, L, R), for the air, too, whose losses get weight 0; or (T, R), for
                events only, which is picked between encoder and loss.
        """
        table, targets, weights = self.encoder.item_embedding, self.targets, self.weights
        queries = self.encoder(self.items, self.times)  # (B, L, d)
        if negatives.ndim == 2:
            events = weights.bool()
            queries, targets, weights = queries[events], targets[events], weights[events]
        queries = F.normalize(queries, dim=-1, eps=1e-6)
        own = F.normalize(table(targets), dim=-1, eps=1e-6)  # (B, L, d)
        sampled = F.normalize(table(negatives), dim=-1, eps=1e-6)  # (B, L, R, d)
        positive = (queries * own).sum(-1, keepdim=True)  # (B, L, 1)
        negative = (sampled @ queries[..., None]).squeeze(-1)  # (B, L, R)
        negative = negative.masked_fill(negatives == targets[..., None], float("-inf"))
        logits = torch.cat([positive, negative], -1) / self.temperature
        losses = -logits.log_softmax(-1)[..., 0]  # (B, L)
        return (losses * weights).sum() / weights.sum()


def compare_steps(
    ours: NextItemModel,
    encoder: TextbookEncoder,
    batch: NextItemBatch,
    setting: dict[str, Any],
) -> Comparison:
    """The steps (forward, loss, backward, AdamW), after loss and gradients were found equal.

    Args:
        ours: an encoder and a dot product, with sampled negatives.
        encoder: the textbook's, with the same weights.
        batch: what both learn from.
        setting: what else to report.
    Raises:
        AssertionError: if loss or a gradient differs by more than `TOLERANCE`.
    """
    num_negatives, num_items = ours.num_negatives or 0, len(ours.items())
    textbook = _TextbookStep(encoder, ours.similarity.temperature, batch)
    difference = _difference(ours, textbook, batch)
    our_optimizer = torch.optim.AdamW(ours.parameters(), betas=(0.9, 0.98), weight_decay=0)
    peer_optimizer = torch.optim.AdamW(encoder.parameters(), betas=(0.9, 0.98), weight_decay=0)

    def our_step() -> None:
        our_optimizer.zero_grad(set_to_none=True)
        ours.loss(batch).backward()
        our_optimizer.step()

    def textbook_step(*positions: int) -> None:
        peer_optimizer.zero_grad(set_to_none=True)
        textbook.loss(torch.randint(num_items, (*positions, num_negatives))).backward()
        peer_optimizer.step()

    ours.train()
    encoder.train()
    peers = {  # the public code leaves the padding out of the loss, too
        "textbook": partial(textbook_step, len(batch)),
        "textbook, loss of the padding, too": partial(textbook_step, *textbook.items.shape),
    }
    whole = {
        "users": len(batch.inputs),
        "events": len(batch),
        "padded_to": encoder.max_length,
        "items": num_items,
        "negatives": num_negatives,
        **setting,
        **difference,
    }
    return Comparison(our_step, peers, whole)


def _difference(
    ours: NextItemModel, textbook: _TextbookStep, batch: NextItemBatch
) -> dict[str, float]:
    """The relative differences of loss and gradients without dropout, with the same negatives."""
    ours.eval()
    textbook.encoder.train(False)
    with seeded(0):
        our_loss = ours.loss(batch)
    our_loss.backward()
    with seeded(0):  # the negatives that our model has drawn
        drawn = uniform_negatives(len(batch), ours.num_negatives or 0, len(ours.items()))
    padded = batch.inputs.with_values(drawn).to_padded(length=textbook.encoder.max_length)
    largest = {"loss_difference": 0.0, "gradient_difference": 0.0}
    for negatives in (padded, drawn):
        textbook.encoder.zero_grad()
        loss = textbook.loss(negatives)
        loss.backward()
        gradients = textbook.encoder.gradients()
        found = {"the loss": _relative(our_loss.detach(), loss.detach())}
        for name, parameter in ours.encoder.named_parameters():
            found[name] = _relative(parameter.grad, gradients.get(name))
        wrong = {name: value for name, value in found.items() if not value <= TOLERANCE}
        if wrong:
            raise AssertionError(f"relative differences to the textbook above {TOLERANCE}: {wrong}")
        largest["loss_difference"] = max(largest["loss_difference"], found.pop("the loss"))
        largest["gradient_difference"] = max(largest["gradient_difference"], *found.values())
    return largest


def _relative(a: Tensor | None, b: Tensor | None) -> float:
    """||a - b|| / ||b||."""
    if a is None or b is None:
        raise AssertionError("a parameter has no gradient")
    return float((a - b).norm() / b.norm())
