"""Named, complete runs: data, model, loss, sizes in; a run folder out."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from genrec_lite.datasets import load
from genrec_lite.datasets.batches import NextItemBatches
from genrec_lite.datasets.splits import Queries, Sequences, Split, leave_last_out
from genrec_lite.encoders.sasrec import SASRec
from genrec_lite.jagged import JaggedTensor
from genrec_lite.metrics import (
    full_corpus_ranks,
    hit_rate_at_k,
    mean_reciprocal_rank,
    ndcg_at_k,
)
from genrec_lite.retrieval.baselines import ItemKNN, Popularity
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.similarity.dot_product import DotProduct
from genrec_lite.training import TrainingRun, fit

__all__ = [
    "PROTOCOLS",
    "RECIPES",
    "Recipe",
    "baselines_of",
    "build_model",
    "evaluate_run",
    "half_interval",
    "metrics_of",
    "ranks_of",
    "run_recipe",
    "summary_of",
    "train",
]

# Student's t at 97.5% by degrees of freedom: half the width of a 95% interval in standard errors.
STUDENT_T = dict(
    enumerate((12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262), start=1)
)
CURVE_POINTS = 30  # a record is read by people, too
PROTOCOLS = {
    "validated": "leave-last-out: each user's last item is the test, the one before it chooses the "
    "epoch; ranked in the whole corpus without the items that the user has seen",
    "published": "leave-last-out without validation: all but each user's last item is trained on, "
    "the last epoch's weights are tested; ranked in the whole corpus without the last items seen "
    "that the model looks at",
}


@dataclass(frozen=True)
class Recipe:
    """A run that can be repeated from these numbers and a seed.

    Args:
        data: name in `genrec_lite.datasets`.
        protocol: "validated" holds out a validation item and leaves all seen items out of the
            ranking; "published" is that of the public HSTU code: no validation, the last weights,
            only the last `max_length` seen items left out.
        dim, num_blocks, num_heads, max_length, dropout: of the encoder, see `SASRec`.
        num_negatives: R a position; None for the full softmax.
        window: see `NextItemBatches`.
        epochs, batch_size, learning_rate: of AdamW with betas .9 and .98, no weight decay.
        evaluate_every: epochs between two measurements.
        patience: epochs without a better validation HR@10 before stopping; None in the published
            protocol, which has no validation.
    Raises:
        ValueError: if the protocol is unknown.
    """

    data: str
    protocol: Literal["validated", "published"] = "validated"
    dim: int = 50
    num_blocks: int = 2
    num_heads: int = 1
    max_length: int = 200
    dropout: float = 0.2
    num_negatives: int | None = None
    window: Literal["last", "any"] = "last"
    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 1e-3
    evaluate_every: int = 1
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(
                f"no protocol is called {self.protocol!r}: choose from {', '.join(PROTOCOLS)}"
            )


_PUBLIC_SASREC = Recipe("ml-1m", "published", num_negatives=128, epochs=101, evaluate_every=10)

RECIPES: dict[str, Recipe] = {
    "movielens-small-sasrec": Recipe(
        "movielens-small",
        num_negatives=128,
        window="any",
        epochs=40,
        batch_size=32,
        learning_rate=3e-3,
        patience=8,
    ),
    "movielens-small-sasrec-full": Recipe(
        "movielens-small",
        window="any",
        epochs=40,
        batch_size=32,
        learning_rate=3e-3,
        patience=8,
    ),
    # The row "SASRec" of the public HSTU table.
    "ml-1m-sasrec": _PUBLIC_SASREC,
    # The same on a copy of the data that has an order but no timestamps.
    "ml-1m-ordered-sasrec": replace(_PUBLIC_SASREC, data="ml-1m-ordered"),
}


def build_model(recipe: Recipe, num_items: int, seed: int) -> NextItemModel:
    """The untrained model of a recipe."""
    encoder = SASRec(
        num_items,
        dim=recipe.dim,
        num_blocks=recipe.num_blocks,
        num_heads=recipe.num_heads,
        max_length=recipe.max_length,
        dropout=recipe.dropout,
        seed=seed,
    )
    return NextItemModel(encoder, DotProduct(), num_negatives=recipe.num_negatives)


def metrics_of(ranks: Tensor) -> dict[str, float]:
    """The numbers of the public tables: HR and NDCG at 10, 50 and 200, and MRR."""
    found = {f"hr@{k}": float(hit_rate_at_k(ranks, k)) for k in (10, 50, 200)}
    found |= {f"ndcg@{k}": float(ndcg_at_k(ranks, k)) for k in (10, 50, 200)}
    return found | {"mrr": float(mean_reciprocal_rank(ranks))}


def train(
    recipe: Recipe,
    sequences: Sequences,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> tuple[NextItemModel, Split, TrainingRun]:
    """The trained model of a recipe on any sequences, with its split and its course.

    Args:
        recipe: sizes and protocol; its `data` is not looked at.
        sequences: all users' items, oldest first.
        seed: of weights, order, dropout and negatives.
        checkpoint: file to resume from and to write every five minutes.
        progress: show a bar.
    """
    published = recipe.protocol == "published"
    split = leave_last_out(sequences, validation=not published)
    batches = NextItemBatches(
        split.train,
        batch_size=recipe.batch_size,
        max_length=recipe.max_length,
        seed=seed,
        window=recipe.window,
    )
    model = build_model(recipe, sequences.num_items, seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0
    )
    run = fit(
        model,
        model.loss,
        batches,
        optimizer,
        epochs=recipe.epochs,
        seed=seed,
        evaluate=_evaluation(recipe, model, split),
        select=None if published else "validation hr@10",
        patience=recipe.patience,
        checkpoint=checkpoint,
        progress=progress,
    )
    return model, split, run


def ranks_of(recipe: Recipe, model: NextItemModel, queries: Queries) -> Tensor:
    """(Q,) ranks of the targets; what is left out of a ranking is the protocol's choice."""
    return model.ranks(queries, exclude=_left_out(recipe, queries))


def baselines_of(recipe: Recipe, split: Split) -> dict[str, float]:
    """Test metrics of what needs no training, in the recipe's protocol: "popularity hr@10", ..."""
    queries, left_out = split.test, _left_out(recipe, split.test)

    def ranks_by(scores: Callable[[JaggedTensor], Tensor]) -> Tensor:
        return full_corpus_ranks(
            lambda rows: scores(queries.history[rows]), queries.targets, left_out
        )

    ranks = {
        "popularity": ranks_by(Popularity().fit(split.train).scores),
        "item-knn": ranks_by(ItemKNN().fit(split.train).scores),
    }
    return {
        f"{name} {metric}": value
        for name, found in ranks.items()
        for metric, value in metrics_of(found).items()
    }


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
    if config_file.exists() and _read_config(folder) != (name, seed, recipe):
        raise ValueError(f"{config_file} holds another run: choose another folder, or remove it")
    sequences = load(recipe.data).sequences()
    folder.mkdir(parents=True, exist_ok=True)
    config = {"recipe": name, "seed": seed, **asdict(recipe)}
    _write(config_file, json.dumps(config, indent=2) + "\n")
    model, split, run = train(
        recipe,
        sequences,
        seed=seed,
        checkpoint=folder / "checkpoint.safetensors",
        progress=progress,
    )
    metrics = metrics_of(ranks_of(recipe, model, split.test)) | baselines_of(recipe, split)
    metrics |= {
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": len(run.epochs),
        "best_epoch": run.best_epoch + 1,
        "cpu_seconds": run.cpu_seconds,
    }
    lines = "".join(json.dumps(asdict(epoch)) + "\n" for epoch in run.epochs)
    _write(folder / "metrics.jsonl", lines)
    _write(folder / "weights.safetensors", safetensors.torch.save(model.state_dict()))
    _write(folder / "test.json", json.dumps(metrics, indent=2) + "\n")
    return metrics


def evaluate_run(folder: Path) -> dict[str, float]:
    """Test metrics of a finished run's weights, measured anew.

    Raises:
        ValueError: if the folder holds no finished run, or not one of this package's.
    """
    name, seed, recipe = _read_config(folder)
    weights = folder / "weights.safetensors"
    if not weights.exists():
        raise ValueError(
            f"{folder} holds an unfinished run (no {weights.name}); go on with "
            f"`genrec-lite train --recipe {name} --seed {seed} --out {folder}`"
        )
    sequences = load(recipe.data).sequences()
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
    name, _, recipe = _read_config(folders[0])
    for folder in folders[1:]:
        other, _, settings = _read_config(folder)
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


def _read_config(folder: Path) -> tuple[str, int, Recipe]:
    """The recipe's name, the seed and the recipe of a run folder."""
    try:
        config = json.loads((folder / "config.json").read_text())
        return config.pop("recipe"), config.pop("seed"), Recipe(**config)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{folder} holds no run (no config.json): give a folder of `genrec-lite train`"
        ) from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / 'config.json'} describes no run of this version ({error}): remove it, or "
            "train into another folder"
        ) from error


def _left_out(recipe: Recipe, queries: Queries) -> JaggedTensor:
    """The items that each query's ranking leaves out."""
    published = recipe.protocol == "published"
    return queries.history.last(recipe.max_length) if published else queries.history


def _write(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _evaluation(
    recipe: Recipe, model: NextItemModel, split: Split
) -> Callable[[int], dict[str, float]]:
    """What to measure after an epoch: validation; or, without one, the test, for the curve only."""
    queries = split.test if split.validation is None else split.validation
    prefix = "test" if split.validation is None else "validation"

    def evaluate(epoch: int) -> dict[str, float]:
        if (epoch + 1) % recipe.evaluate_every and epoch + 1 < recipe.epochs:
            return {}
        found = metrics_of(ranks_of(recipe, model, queries))
        return {f"{prefix} {name}": value for name, value in found.items()}

    return evaluate
