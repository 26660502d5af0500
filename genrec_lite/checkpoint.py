"""The whole state of a training as one safetensors file, replaced whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

__all__ = ["load_checkpoint", "replaced_whole", "save_checkpoint"]


@contextmanager
def replaced_whole(path: Path) -> Iterator[Path]:
    """A name to write a file under, which becomes `path` at the end of the block.

    A kill at any moment, or a full disk, leaves the old file or the new one, whole.

    Args:
        path: its folder is made if need be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        with open(part, "rb") as handle:
            os.fsync(handle.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: Mapping[str, Tensor] | None,
    course: Mapping[str, Any],
) -> None:
    """Writes weights, optimizer, torch's random generators and `course` to `path`, whole.

    Args:
        path: its folder is made if need be.
        model, optimizer: as they are between two steps.
        best: weights of the best epoch by name, if one is kept.
        course: whatever else the training needs to go on, as JSON; with its "seed".
    """
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
        **course,
        "param_groups": state["param_groups"],
        "scalars": scalars,
        "optimizer": type(optimizer).__name__,
    }
    with replaced_whole(path) as part:
        safetensors.torch.save_file(_apart(tensors), part, metadata={"training": json.dumps(meta)})


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, seed: int
) -> tuple[dict[str, Any], dict[str, Tensor] | None]:
    """The `course` and the `best` weights of a checkpoint; all else is put back in place.

    Args:
        path: written by `save_checkpoint`.
        model, optimizer: get the checkpoint's state; torch's generators get theirs.
        seed: must be the checkpoint's.
    Raises:
        ValueError: if the file is no checkpoint, or of another seed, optimizer (or setting of
            it) or model.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})["training"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(
            f"{path} is no checkpoint of a training: move it away ({error})"
        ) from error
    if meta["seed"] != seed or meta["optimizer"] != type(optimizer).__name__:
        raise ValueError(
            f"{path} was written with seed {meta['seed']} and {meta['optimizer']}, this run has "
            f"seed {seed} and {type(optimizer).__name__}: use another file, or the same settings"
        )
    for now, then in zip(optimizer.param_groups, meta["param_groups"], strict=False):
        for key in sorted(then.keys() - {"params"}):
            given = json.loads(json.dumps(now.get(key)))  # as it would be read: lists for tuples
            if given != then[key]:
                raise ValueError(
                    f"{path} was written with {key}={then[key]}, this run has {key}={given}: "
                    "use another file, or the same settings"
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
    return meta, best or None


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, no two in the same memory, as safetensors demands."""
    found, taken = {}, set[int]()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if memory in taken else tensor
        taken.add(memory)
    return found
