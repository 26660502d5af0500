"""One training of a recipe, and what its ranks are worth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from genrec_lite.datasets.batches import NextItemBatches
from genrec_lite.datasets.splits import Queries, Sequences, Split, leave_last_out
from genrec_lite.jagged import JaggedTensor
from genrec_lite.metrics import (
    full_corpus_ranks,
    hit_rate_at_k,
    mean_reciprocal_rank,
    ndcg_at_k,
)
from genrec_lite.recipes.recipe import Recipe, build_model
from genrec_lite.retrieval.baselines import ItemKNN, Popularity
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.training import TrainingRun, fit

__all__ = ["baselines_of", "metrics_of", "ranks_of", "train"]


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
        model.parameters(),
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
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


def _left_out(recipe: Recipe, queries: Queries) -> JaggedTensor:
    """The items that each query's ranking leaves out."""
    published = recipe.protocol == "published"
    return queries.history.last(recipe.max_length) if published else queries.history


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
