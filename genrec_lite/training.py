"""The one training loop: seeds, progress, validation, checkpoints and exact resume.

It knows nothing of recommenders: a model, batches, a loss. A run that is killed and started again
ends in the same weights, bit for bit, on a CPU with the same number of threads.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from genrec_lite.checkpoint import load_checkpoint, save_checkpoint

__all__ = ["EpochRecord", "TrainingRun", "fit", "seeded", "without_dropout"]


@dataclass
class EpochRecord:
    """What one epoch cost and gave: mean loss, what `evaluate` measured, seconds."""

    epoch: int
    loss: float
    metrics: dict[str, float]
    cpu_seconds: float
    wall_seconds: float


@dataclass
class TrainingRun:
    """The course of a training; `best_epoch` is where the final weights come from."""

    epochs: list[EpochRecord] = field(default_factory=list)
    steps: int = 0
    best_epoch: int = -1
    best_value: float = -math.inf
    stopped_early: bool = False

    @property
    def finished(self) -> str:
        """One line for a page or a log: epochs, steps, seconds, and the last epoch's loss."""
        seconds = sum(e.wall_seconds for e in self.epochs)
        loss = self.epochs[-1].loss if self.epochs else math.nan
        return (
            f"trained {len(self.epochs)} epochs, {self.steps} steps in {seconds:.0f} s, "
            f"loss {loss:.2f}"
        )

    @property
    def cpu_seconds(self) -> float:
        """Process CPU seconds of all finished epochs, validation included."""
        return sum(e.cpu_seconds for e in self.epochs)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's generators inside the block and restores them after it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def without_dropout(module: Any) -> Iterator[None]:
    """Puts a module into evaluation mode inside the block; other objects stay as they are."""
    if not isinstance(module, nn.Module) or not module.training:
        yield
        return
    module.eval()
    try:
        yield
    finally:
        module.train()


def fit(
    model: nn.Module,
    loss: Callable[[Any], Tensor],
    batches: Callable[[int], Sequence[Sized]],
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    seed: int = 0,
    evaluate: Callable[[int], dict[str, float]] | None = None,
    select: str | None = None,
    patience: int | None = None,
    checkpoint: Path | str | None = None,
    checkpoint_minutes: float = 5.0,
    progress: bool = True,
) -> TrainingRun:
    """Trains `model` in place and returns the course of the training.

    The model is left in eval mode. With `select`, the weights of the best epoch (the first of
    equals) are put back at the end. With `checkpoint`, the whole state (weights, optimizer, random
    generators, place in the data) is written at the first step or end of an epoch after each
    `checkpoint_minutes`, and at the end of the run; a run that finds the file goes on from there.

    Args:
        model: trained in place.
        loss: a batch to a scalar, averaged over the batch's `len`.
        batches: the batches of an epoch by its number; must not depend on earlier calls, nor draw
            from torch's generator, which belongs to dropout and negatives.
        optimizer: over the model's parameters.
        epochs: passes over the data, earlier passes of a resumed run counted in.
        seed: of dropout and sampled negatives.
        evaluate: named numbers after each epoch (given its number), kept in the run.
        select: the one of those names to be maximised, where present; None keeps the last weights.
        patience: stop at a measured epoch that comes this many epochs or more after the best one.
        checkpoint: file to resume from and to write; removed by nobody.
        checkpoint_minutes: 0 writes after every step.
        progress: show a bar with the loss and items per second; on a page of the book
            (GENREC_BOOK=1), where no bar can move, one line at the end.
    Raises:
        FloatingPointError: if the loss is not finite, or a weight at the end of an epoch or before
            a checkpoint; names epoch and step, and leaves the last checkpoint as it was.
        ValueError: if the checkpoint belongs to another model, optimizer (or setting of it), seed
            or number of batches; if `select` has nothing to choose from, or `patience` no `select`.
    """
    if (select is not None and evaluate is None) or (patience is not None and select is None):
        raise ValueError(
            f"select={select!r} and patience={patience} choose by what `evaluate` gives: "
            "patience needs select, select needs evaluate"
        )
    on_page = os.environ.get("GENREC_BOOK") == "1"
    path = Path(checkpoint) if checkpoint is not None else None
    training = _Training(model, optimizer, seed, path, checkpoint_minutes)
    with seeded(seed):
        if path is not None and path.exists():
            training.resume(path, batches)
        run = training.run
        for epoch in range(len(run.epochs), epochs):
            if run.stopped_early:
                break
            todo = batches(epoch)
            with tqdm(
                total=len(todo),
                initial=training.step,
                desc=f"epoch {epoch + 1}/{epochs}",
                unit="step",
                disable=on_page or not progress,
                leave=False,
            ) as bar:
                training.finish_epoch(loss, todo, bar)
            model.eval()
            training.close_epoch(evaluate(epoch) if evaluate is not None else {})
            training.choose(select, patience)
            training.save_when_due()
        training.save()
    if select is not None and run.epochs and run.best_epoch < 0:
        given = sorted({name for epoch in run.epochs for name in epoch.metrics})
        raise ValueError(
            f"no epoch has a value of select={select!r}: evaluate gave {', '.join(given) or 'none'}"
        )
    if training.best is not None:
        model.load_state_dict(training.best)
    model.eval()
    if on_page and progress:
        print(run.finished)
    return run


class _Training:
    """A training between two steps: all that a checkpoint holds, and how to go on from there."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        seed: int,
        path: Path | None,
        minutes: float,
    ) -> None:
        self.model, self.optimizer, self.seed = model, optimizer, seed
        self.path, self.minutes, self.saved_at = path, minutes, time.monotonic()
        self.run = TrainingRun()
        self.best: dict[str, Tensor] | None = None
        self.epoch_steps: int | None = None  # of the epoch begun last
        self._open_epoch()

    def _open_epoch(self) -> None:
        self.step = 0  # the next one of the epoch under way
        self.loss_sum, self.items = 0.0, 0
        self.started = time.process_time(), time.monotonic()

    def finish_epoch(
        self, loss: Callable[[Any], Tensor], todo: Sequence[Sized], bar: tqdm[Any]
    ) -> None:
        """Takes the steps that are left of an epoch's batches."""
        self.model.train()
        self.epoch_steps = len(todo)
        items_before, began = self.items, time.monotonic()
        while self.step < len(todo):
            batch = todo[self.step]
            self.optimizer.zero_grad(set_to_none=True)
            value = loss(batch)
            number = float(value.detach())
            if not math.isfinite(number):
                raise FloatingPointError(
                    f"the loss is {number} at epoch {len(self.run.epochs) + 1}, "
                    f"step {self.step + 1}: lower the learning rate, or look for NaN in the batch"
                )
            value.backward()
            self.optimizer.step()
            self.step += 1
            self.run.steps += 1
            self.loss_sum += number * len(batch)
            self.items += len(batch)
            rate = (self.items - items_before) / (time.monotonic() - began)
            bar.set_postfix_str(f"loss {number:.3f}, {rate:,.0f} items/s", refresh=False)
            bar.update()
            self.save_when_due()
        self._check_weights()

    def close_epoch(self, metrics: dict[str, float]) -> None:
        """Writes the epoch's record, and starts counting the next one."""
        cpu, wall = self._seconds()
        mean = self.loss_sum / max(self.items, 1)
        self.run.epochs.append(EpochRecord(len(self.run.epochs), mean, metrics, cpu, wall))
        self._open_epoch()

    def choose(self, select: str | None, patience: int | None) -> None:
        """Keeps the last epoch's weights if they are the best, or stops if that was long ago."""
        run, last = self.run, self.run.epochs[-1]
        if select is None:
            run.best_epoch = last.epoch
        elif select not in last.metrics:
            return
        elif last.metrics[select] > run.best_value:
            run.best_epoch, run.best_value = last.epoch, last.metrics[select]
            self.best = {name: t.detach().clone() for name, t in self.model.state_dict().items()}
        elif patience is not None and last.epoch - run.best_epoch >= patience:
            run.stopped_early = True

    def save_when_due(self) -> None:
        """Writes the checkpoint if its minutes have passed since the last one."""
        if time.monotonic() - self.saved_at >= 60 * self.minutes:
            self.save()

    def save(self) -> None:
        """Writes the checkpoint, if there is a file for it."""
        if self.path is not None:
            self._check_weights()
            course = {
                "seed": self.seed,
                "epoch_steps": self.epoch_steps,
                "next_step": self.step,
                "epoch_sums": (self.loss_sum, self.items),
                "epoch_seconds": self._seconds(),
                "run": asdict(self.run),
            }
            save_checkpoint(self.path, self.model, self.optimizer, self.best, course)
            self.saved_at = time.monotonic()

    def resume(self, path: Path, batches: Callable[[int], Sequence[Sized]]) -> None:
        """Goes back to where the checkpoint was written, if the batches are those of that run."""
        course, self.best = load_checkpoint(path, self.model, self.optimizer, self.seed)
        self.run = TrainingRun(**course["run"])
        self.run.epochs = [EpochRecord(**epoch) for epoch in course["run"]["epochs"]]
        self.step = course["next_step"]
        self.loss_sum, self.items = course["epoch_sums"]
        cpu, wall = course["epoch_seconds"]
        self.started = time.process_time() - cpu, time.monotonic() - wall
        self.epoch_steps = course.get("epoch_steps")
        if self.epoch_steps is not None:
            epoch = len(self.run.epochs) - (self.step == 0)  # the one begun last
            steps = len(batches(epoch))
            if steps != self.epoch_steps:
                raise ValueError(
                    f"{path} was written with {self.epoch_steps} batches in epoch {epoch + 1}, "
                    f"this run has {steps}: use another file, or the same data and batch size"
                )

    def _check_weights(self) -> None:
        """Raises unless all weights are finite: a finite loss may have a gradient that is not."""
        for name, weights in self.model.named_parameters():
            if not bool(weights.isfinite().all()):
                raise FloatingPointError(
                    f"weights {name} are not finite after epoch {len(self.run.epochs) + 1}, step "
                    f"{self.step}: a gradient was infinite or NaN; lower the learning rate, or "
                    "look for a root, logarithm or division at 0"
                )

    def _seconds(self) -> tuple[float, float]:
        """CPU and wall seconds of the epoch under way, those before a resume counted in."""
        cpu, wall = self.started
        return time.process_time() - cpu, time.monotonic() - wall
