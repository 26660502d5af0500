"""Named, complete runs: data, model, loss, sizes in; a run folder out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from torch import Tensor

from genrec_lite.datasets import load
from genrec_lite.datasets.batches import NextItemBatches
from genrec_lite.datasets.splits import Queries, Sequences, Split, leave_last_out
from genrec_lite.encoders.sasrec import SASRec
from genrec_lite.metrics import hit_rate_at_k, mean_reciprocal_rank, ndcg_at_k
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.similarity.dot_product import DotProduct
from genrec_lite.training import TrainingRun, fit

__all__ = ["RECIPES", "Recipe", "build_model", "metrics_of", "ranks_of", "run_recipe", "train"]


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
        patience: epochs without a better validation HR@10 before stopping (validated protocol).
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


RECIPES: dict[str, Recipe] = {
    "movielens-small-sasrec": Recipe(
        "movielens-small", window="any", epochs=100, batch_size=64, patience=10
    ),
    # The row "SASRec" of the public HSTU table, on data that has an order but no timestamps.
    "ml-1m-sasrec": Recipe(
        "ml-1m-ordered", "published", num_negatives=128, epochs=101, evaluate_every=10
    ),
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
    seen = queries.history
    if recipe.protocol == "published":
        seen = seen.last(recipe.max_length)
    return model.ranks(queries, exclude=seen)


def run_recipe(
    name: str,
    folder: Path,
    *,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, float]:
    """Test metrics of a recipe; writes config.json, metrics.jsonl and weights.safetensors.

    A run that was interrupted goes on from the folder's checkpoint.

    Args:
        name: one of `RECIPES`.
        folder: made if need be.
        seed: see `train`.
        progress: show a bar.
    Raises:
        ValueError: if the name is unknown, or the folder holds another recipe's run.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe is called {name!r}: choose from {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    config = {"recipe": name, "seed": seed, **asdict(recipe)}
    folder.mkdir(parents=True, exist_ok=True)
    config_file = folder / "config.json"
    if config_file.exists() and json.loads(config_file.read_text()) != config:
        raise ValueError(f"{config_file} holds another run: choose another folder, or remove it")
    config_file.write_text(json.dumps(config, indent=2) + "\n")
    sequences = load(recipe.data).sequences()
    model, split, run = train(
        recipe,
        sequences,
        seed=seed,
        checkpoint=folder / "checkpoint.safetensors",
        progress=progress,
    )
    metrics = metrics_of(ranks_of(recipe, model, split.test))
    lines = "".join(json.dumps(asdict(epoch)) + "\n" for epoch in run.epochs)
    (folder / "metrics.jsonl").write_text(lines)
    safetensors.torch.save_file(model.state_dict(), folder / "weights.safetensors")
    metrics |= {"best_epoch": run.best_epoch + 1, "epochs": len(run.epochs)}
    metrics |= {"cpu_seconds": run.cpu_seconds}
    (folder / "test.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


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
