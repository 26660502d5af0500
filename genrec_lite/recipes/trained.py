"""Weights that come with the repository, so that a chapter need not train for minutes."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
import torch

from genrec_lite.datasets.splits import Split, leave_last_out
from genrec_lite.recipes.folders import read_config, write_whole
from genrec_lite.recipes.recipe import RECIPES, build_model, sequences_of
from genrec_lite.retrieval.next_item import NextItemModel

__all__ = ["load_trained", "trained_file", "write_trained"]

FOLDER = Path(__file__).resolve().parents[2] / "data"


def trained_file(name: str) -> Path:
    """Where the repository keeps the weights of a recipe, if it does."""
    return FOLDER / f"{name.replace('-', '_')}.safetensors"


def load_trained(name: str) -> tuple[NextItemModel, Split]:
    """The trained model of a recipe, in eval mode, and the split it was trained on.

    The file holds bfloat16, half of a run's own precision, and is widened to float32 here.

    Raises:
        ValueError: if the repository holds no weights of that recipe, or of other sizes.
    """
    path = trained_file(name)
    if name not in RECIPES or not path.exists():
        kept = [known for known in RECIPES if trained_file(known).exists()]
        raise ValueError(
            f"no weights of {name!r} come with the repository: choose from {', '.join(kept)}, or "
            f"train it with `genrec-lite train --recipe {name}`"
        )
    recipe = RECIPES[name]
    sequences = sequences_of(recipe)
    model = build_model(recipe, sequences.num_items, seed=0)
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{path} does not fit the recipe {name}: {error}; make it anew with "
            f"{path.with_name(f'make_{path.stem}.py')}"
        ) from error
    return model.eval(), leave_last_out(sequences, validation=recipe.protocol == "validated")


def write_trained(run_folder: Path) -> Path:
    """The file with a finished run's weights in bfloat16, whole or not at all.

    Raises:
        ValueError: if the folder holds no finished run.
    """
    name, _, _ = read_config(run_folder)
    if not (run_folder / "weights.safetensors").exists():
        raise ValueError(f"{run_folder} holds an unfinished run (no weights.safetensors)")
    weights = safetensors.torch.load_file(run_folder / "weights.safetensors")
    halved = {key: value.to(torch.bfloat16) for key, value in weights.items()}
    write_whole(trained_file(name), safetensors.torch.save(halved))
    return trained_file(name)
