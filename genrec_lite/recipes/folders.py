"""Run folders: what a recipe's training leaves, read back, and summed up over seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from genrec_lite.checkpoint import replaced_whole
from genrec_lite.datasets.splits import leave_last_out
from genrec_lite.recipes.course import baselines_of, gate_of, metrics_of, ranks_of, thirds_of, train
from genrec_lite.recipes.recipe import (
    PROTOCOLS,
    RECIPES,
    Recipe,
    build_model,
    read_recipe,
    sequences_of,
)

__all__ = [
    "evaluate_run",
    "half_interval",
    "read_config",
    "run_recipe",
    "summary_of",
    "write_whole",
]

# Student's t at 97.5% by degrees of freedom: half the width of a 95% interval in standard errors.
STUDENT_T = dict(
    enumerate((12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262), start=1)
)
CURVE_POINTS = 30  # a record is read by people, too


def run_recipe(
    name: str,
    folder: Path,
    *,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, float]:
    """Test metrics of a recipe and of the baselines, what it cost, and where it ended.

    Writes config.json, metrics.jsonl (a line an epoch), weights.safetensors and test.json. A run
    that was interrupted goes on from the folder's checkpoint; a finished one is only measured.

    Args:
        name: one of `RECIPES`.
        folder: made if need be.
        seed: see `train`.
        progress: show a bar.
    Raises:
        ValueError: if the name is unknown, or the folder holds another run or a damaged one.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe is called {name!r}: choose from {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    config_file = folder / "config.json"
    if config_file.exists():
        _require_the_same(config_file, (name, seed, recipe))
    sequences = sequences_of(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"recipe": name, "seed": seed, **asdict(recipe)}
    write_whole(config_file, json.dumps(config, indent=2) + "\n")
    model, split, run = train(
        recipe,
        sequences,
        seed=seed,
        checkpoint=folder / "checkpoint.safetensors",
        progress=progress,
    )
    ranks = ranks_of(recipe, model, split.test)
    metrics = metrics_of(ranks) | thirds_of(ranks, split) | gate_of(model, split.test)
    metrics |= baselines_of(recipe, split)
    metrics |= {
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": len(run.epochs),
        "best_epoch": run.best_epoch + 1,
        "cpu_seconds": run.cpu_seconds,
    }
    lines = "".join(json.dumps(asdict(epoch)) + "\n" for epoch in run.epochs)
    write_whole(folder / "metrics.jsonl", lines)
    write_whole(folder / "weights.safetensors", safetensors.torch.save(model.state_dict()))
    write_whole(folder / "test.json", json.dumps(metrics, indent=2) + "\n")
    return metrics


def evaluate_run(folder: Path) -> dict[str, float]:
    """Test metrics of a finished run's weights, measured anew.

    Raises:
        ValueError: if the folder holds no finished run, or not one of this package's.
    """
    name, seed, recipe = read_config(folder)
    weights = folder / "weights.safetensors"
    if not weights.exists():
        raise ValueError(
            f"{folder} holds an unfinished run (no {weights.name}); go on with "
            f"`genrec-lite train --recipe {name} --seed {seed} --out {folder}`"
        )
    sequences = sequences_of(recipe)
    split = leave_last_out(sequences, validation=recipe.protocol == "validated")
    model = build_model(recipe, sequences.num_items, seed)
    try:
        model.load_state_dict(safetensors.torch.load_file(weights))
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{weights} does not fit {recipe.data} and config.json: {error}"
        ) from error
    return metrics_of(ranks_of(recipe, model, split.test))


def summary_of(folders: Sequence[Path]) -> dict[str, Any]:
    """What finished runs of one recipe with different seeds measured, for a record or a table.

    Args:
        folders: at least one, at most ten.
    Returns:
        each number of `run_recipe`, the mean over the runs; where it differs between them also
        "KEY by seed" and "KEY interval", half the width of the 95% interval of the mean; the
        number of "seeds"; the "protocol"; and of the first run "curve epochs" and "curve hr@10",
        measured on the "curve queries" (validation or test).
    Raises:
        ValueError: if a folder holds no run, or one of another recipe than the first.
    """
    name, _, recipe = read_config(folders[0])
    for folder in folders[1:]:
        other, _, settings = read_config(folder)
        if (other, settings) != (name, recipe):
            raise ValueError(
                f"{folder} holds a run of {other}, {folders[0]} one of {name} or of other "
                "settings: a mean is over the seeds of one recipe"
            )
    runs = [json.loads((folder / "test.json").read_text()) for folder in folders]
    found: dict[str, Any] = {}
    for key, first in runs[0].items():
        values = [run[key] for run in runs]
        if values == [first] * len(values):
            found[key] = first
        else:
            found[key] = sum(values) / len(values)
            found[f"{key} by seed"] = values
            found[f"{key} interval"] = half_interval(values)
    found |= {"seeds": len(runs), "protocol": PROTOCOLS[recipe.protocol]}
    found["curve queries"] = "validation" if recipe.protocol == "validated" else "test"
    lines = (folders[0] / "metrics.jsonl").read_text().splitlines()
    metric = f"{found['curve queries']} hr@10"
    curve = [epoch for epoch in map(json.loads, lines) if metric in epoch["metrics"]]
    stride = max(1, math.ceil(len(curve) / CURVE_POINTS))
    curve = curve[::-1][::stride][::-1]  # the last one is always among them
    found["curve epochs"] = [epoch["epoch"] + 1 for epoch in curve]
    found["curve hr@10"] = [epoch["metrics"][metric] for epoch in curve]
    return found


def half_interval(values: Sequence[float]) -> float:
    """Half the width of the 95% interval of the mean, of Student's t with n - 1 degrees.

    Raises:
        ValueError: if there are fewer than two values, or more than ten.
    """
    if len(values) - 1 not in STUDENT_T:
        raise ValueError(f"{len(values)} values: an interval is given for 2 to 10")
    return STUDENT_T[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))


def read_config(folder: Path) -> tuple[str, int, Recipe]:
    """The recipe's name, the seed and the recipe of a run folder."""
    try:
        config = json.loads((folder / "config.json").read_text())
        return config.pop("recipe"), config.pop("seed"), read_recipe(config)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{folder} holds no run (no config.json): give a folder of `genrec-lite train`"
        ) from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / 'config.json'} describes no run of this version ({error}): remove it, or "
            "train into another folder"
        ) from error


def _require_the_same(config_file: Path, asked: tuple[str, int, Recipe]) -> None:
    """Raises a ValueError that names what differs between a folder's run and the one asked for."""
    found = read_config(config_file.parent)
    before, now = (
        {"recipe": name, "seed": seed, **asdict(recipe)} for name, seed, recipe in (found, asked)
    )
    other = [f"{key} {before[key]!r}, not {now[key]!r}" for key in now if before[key] != now[key]]
    if other:
        raise ValueError(
            f"{config_file} holds another run ({'; '.join(other)}): choose another folder, or "
            "remove it"
        )


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all."""
    with replaced_whole(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
