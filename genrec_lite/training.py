"""The one training loop: seeds, progress, validation, checkpoints and exact resume.

It knows nothing of recommenders: a model, batches, a loss. A run that is killed and started again
ends in the same weights, bit for bit, on a CPU with the same number of threads.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

__all__ = ["EpochRecord", "TrainingRun", "fit", "seeded"]


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
    def cpu_seconds(self) -> float:
        """Process CPU seconds of all finished epochs, validation included."""
        return sum(e.cpu_seconds for e in self.epochs)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's generators inside the block and restores them after it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


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

    With `select`, the weights of the best epoch are put back at the end. With `checkpoint`, the
    whole state (weights, optimizer, random generators, place in the data) is written every
    `checkpoint_minutes` and at the end of each epoch at which that time has passed; a run that
    finds the file goes on from there.

    Args:
        model: trained in place.
        loss: a batch to a scalar, averaged over the batch's `len`.
        batches: the batches of an epoch by its number; must not depend on earlier calls.
        optimizer: over the model's parameters.
        epochs: passes over the data, earlier passes of a resumed run counted in.
        seed: of dropout and sampled negatives.
        evaluate: named numbers after each epoch (given its number), kept in the run.
        select: the one of those names to be maximised, where present; None keeps the last weights.
        patience: stop when that many epochs have passed since the best one.
        checkpoint: file to resume from and to write; removed by nobody.
        checkpoint_minutes: 0 writes after every step.
        progress: show a bar with the loss and items per second.
    Raises:
        FloatingPointError: if the loss is not finite; names epoch and step.
        ValueError: if the checkpoint belongs to another model, optimizer or seed.
    """
    run, start_step, best = TrainingRun(), 0, None
    path = Path(checkpoint) if checkpoint is not None else None
    with seeded(seed):
        epoch_total, epoch_count = 0.0, 0
        if path is not None and path.exists():
            run, start_step, (epoch_total, epoch_count), best = _load(path, model, optimizer, seed)
        saved_at = time.monotonic()
        first_epoch = len(run.epochs)
        for epoch in range(first_epoch, epochs):
            if run.stopped_early:
                break
            cpu, wall = time.process_time(), time.monotonic()
            todo = batches(epoch)
            bar = tqdm(
                total=len(todo),
                initial=start_step,
                desc=f"epoch {epoch + 1}/{epochs}",
                unit="step",
                disable=not progress,
                leave=False,
            )
            model.train()
            items_here = 0
            for step in range(start_step, len(todo)):
                batch = todo[step]
                optimizer.zero_grad(set_to_none=True)
                value = loss(batch)
                number = float(value.detach())
                if not math.isfinite(number):
                    raise FloatingPointError(
                        f"the loss is {number} at epoch {epoch + 1}, step {step + 1}: "
                        "lower the learning rate, or look for NaN in the batch"
                    )
                value.backward()
                optimizer.step()
                run.steps += 1
                epoch_total += number * len(batch)
                epoch_count += len(batch)
                items_here += len(batch)
                rate = items_here / (time.monotonic() - wall)
                bar.set_postfix_str(f"loss {number:.3f}, {rate:,.0f} items/s", refresh=False)
                bar.update()
                if path is not None and time.monotonic() - saved_at >= 60 * checkpoint_minutes:
                    state = (epoch_total, epoch_count)
                    _save(path, model, optimizer, seed, run, step + 1, state, best)
                    saved_at = time.monotonic()
            bar.close()
            start_step = 0
            model.eval()
            metrics = evaluate(epoch) if evaluate is not None else {}
            run.epochs.append(
                EpochRecord(
                    epoch,
                    epoch_total / max(epoch_count, 1),
                    metrics,
                    time.process_time() - cpu,
                    time.monotonic() - wall,
                )
            )
            epoch_total, epoch_count = 0.0, 0
            if select is None:
                run.best_epoch = epoch
            elif metrics.get(select, -math.inf) > run.best_value:
                run.best_epoch, run.best_value = epoch, metrics[select]
                best = {name: t.detach().clone() for name, t in model.state_dict().items()}
            elif patience is not None and epoch - run.best_epoch >= patience:
                run.stopped_early = True
            if path is not None and time.monotonic() - saved_at >= 60 * checkpoint_minutes:
                _save(path, model, optimizer, seed, run, 0, (0.0, 0), best)
                saved_at = time.monotonic()
        if path is not None:
            _save(path, model, optimizer, seed, run, 0, (0.0, 0), best)
    if best is not None:
        model.load_state_dict(best)
    model.eval()
    return run


# -- checkpoints: one safetensors file, replaced whole -----------------------------------------


def _save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    seed: int,
    run: TrainingRun,
    next_step: int,
    epoch_sums: tuple[float, int],
    best: dict[str, Tensor] | None,
) -> None:
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    tensors |= {f"best.{name}": t for name, t in (best or {}).items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    scalars: dict[str, Any] = {}
    state = optimizer.state_dict()
    for index, slot in state["state"].items():
        for name, value in slot.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                scalars[f"{index}.{name}"] = value
    meta = {
        "seed": seed,
        "next_step": next_step,
        "epoch_sums": epoch_sums,
        "run": asdict(run),
        "param_groups": state["param_groups"],
        "scalars": scalars,
        "optimizer": type(optimizer).__name__,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    try:
        safetensors.torch.save_file(contiguous, part, metadata={"training": json.dumps(meta)})
        with open(part, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(part, path)  # a kill at any moment leaves the old file or the new one, whole
    finally:
        part.unlink(missing_ok=True)


def _load(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, seed: int
) -> tuple[TrainingRun, int, tuple[float, int], dict[str, Tensor] | None]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})["training"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is no checkpoint of a training: move it away ({error})") from error
    if meta["seed"] != seed or meta["optimizer"] != type(optimizer).__name__:
        raise ValueError(
            f"{path} was written with seed {meta['seed']} and {meta['optimizer']}, this run has "
            f"seed {seed} and {type(optimizer).__name__}: use another file, or the same settings"
        )
    weights, best, slots = {}, {}, dict[int, dict[str, Any]]()
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "model":
            weights[rest] = tensor
        elif kind == "best":
            best[rest] = tensor
        elif kind == "optimizer":
            index, _, slot = rest.partition(".")
            slots.setdefault(int(index), {})[slot] = tensor
    for name, value in meta["scalars"].items():
        index, _, slot = name.partition(".")
        slots.setdefault(int(index), {})[slot] = value
    try:
        model.load_state_dict(weights)
        optimizer.load_state_dict({"state": slots, "param_groups": meta["param_groups"]})
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} belongs to another model or optimizer: {error}") from error
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    run = TrainingRun(**meta["run"])
    run.epochs = [EpochRecord(**epoch) for epoch in meta["run"]["epochs"]]
    total, count = meta["epoch_sums"]
    return run, meta["next_step"], (total, count), best or None
