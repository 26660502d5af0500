"""One training of a recipe, and what its ranks are worth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from genrec_lite.datasets.batches import NextItemBatch, NextItemBatches
from genrec_lite.datasets.splits import Queries, Sequences, Split, leave_last_out
from genrec_lite.jagged import JaggedTensor
from genrec_lite.metrics import (
    full_corpus_ranks,
    hit_rate_at_k,
    mean_reciprocal_rank,
    ndcg_at_k,
    popularity_thirds,
)
from genrec_lite.recipes.recipe import Recipe, build_model
from genrec_lite.retrieval.baselines import ItemKNN, Popularity
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.similarity.mixture_of_logits import MixtureOfLogits
from genrec_lite.training import TrainingRun, fit, without_dropout

__all__ = ["baselines_of", "gate_of", "metrics_of", "ranks_of", "thirds_of", "train"]


def metrics_of(ranks: Tensor) -> dict[str, float]:
    """The numbers of the public tables: HR and NDCG at 10, 50 and 200, and MRR."""
    found = {f"hr@{k}": float(hit_rate_at_k(ranks, k)) for k in (10, 50, 200)}
    found |= {f"ndcg@{k}": float(ndcg_at_k(ranks, k)) for k in (10, 50, 200)}
    return found | {"mrr": float(mean_reciprocal_rank(ranks))}


def thirds_of(ranks: Tensor, split: Split) -> dict[str, float]:
    """Test HR@10 by the target's popularity in the training part, and each third's share.

    "head hr@10", "torso hr@10", "tail hr@10": see `popularity_thirds`; "head targets", ...: what
    share of the questions asks for such an item. A third that nobody asks for has no hit rate.
    """
    counts = torch.bincount(split.train.items.values, minlength=split.train.num_items)
    third = popularity_thirds(counts)[split.test.targets]
    found = {}
    for number, name in enumerate(("head", "torso", "tail")):
        inside = ranks[third == number]
        found[f"{name} targets"] = len(inside) / len(ranks)
        if len(inside):
            found[f"{name} hr@10"] = float(hit_rate_at_k(inside, 10))
    return found


@torch.no_grad()
def gate_of(model: NextItemModel, queries: Queries) -> dict[str, float]:
    """How a mixture weighs its components on the queries' targets; nothing for a dot product.

    "gate entropy": mean entropy of a pair's weights, low where each pair is sure of its
    component; "gate use": entropy of the mean weights, log P where all are used alike; in nats.
    """
    if not isinstance(model.similarity, MixtureOfLogits):
        return {}
    asked = model.queries(queries.history, queries.rows, queries.times)
    with without_dropout(model):
        pairs = model.similarity.score_pairs(asked, model.items()[queries.targets])  # type: ignore[arg-type]
    return {
        "gate entropy": float(torch.special.entr(pairs.weights).sum(1).mean()),
        "gate use": float(torch.special.entr(pairs.weights.mean(0)).sum()),
    }


def train(
    recipe: Recipe,
    sequences: Sequences,
    *,
    seed: int = 0,
    model: NextItemModel | None = None,
    batches_of: Callable[[Sequences], Callable[[int], list[NextItemBatch]]] | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> tuple[NextItemModel, Split, TrainingRun]:
    """The trained model of a recipe on any sequences, with its split and its course.

    Args:
        recipe: sizes and protocol; its `data` is not looked at.
        sequences: all users' items, oldest first.
        seed: of weights, order, dropout and negatives.
        model: an untrained one in place of the recipe's own.
        batches_of: makes of the training part what `fit` takes as batches, in place of the
            recipe's own.
        checkpoint: file to resume from and to write every five minutes.
        progress: show a bar.
    """
    published = recipe.protocol == "published"
    split = leave_last_out(sequences, validation=not published)
    batches: Callable[[int], list[NextItemBatch]] = (
        NextItemBatches(
            split.train,
            batch_size=recipe.batch_size,
            max_length=recipe.max_length,
            seed=seed,
            window=recipe.window,
        )
        if batches_of is None
        else batches_of(split.train)
    )
    if model is None:
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
