"""What Stochastic Length costs in quality, and saves in training.

python -m genrec_lite.bench.shorter_histories --data ml-100k --seeds 3 --record NAME
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from genrec_lite.bench.trainings import (
    Trainings,
    gains_over,
    over_seeds,
    print_and_record,
    seeds_parser,
)
from genrec_lite.datasets import Sequences
from genrec_lite.recipes.course import metrics_of, ranks_of, train
from genrec_lite.recipes.recipe import RECIPES, Recipe, sequences_of
from genrec_lite.scaling.stochastic_length import (
    Choice,
    StochasticLengthBatches,
    expected_sparsity,
)

__all__ = ["ARMS", "compare", "main"]

# Alpha 2 keeps every event.
ARMS: dict[str, tuple[float, Choice]] = {
    "all": (2.0, "recency"),
    "1.8": (1.8, "recency"),
    "1.6": (1.6, "recency"),
    "1.4": (1.4, "recency"),
    "1.6 greedy": (1.6, "greedy"),
    "1.6 random": (1.6, "random"),
}
LOGS = ("movielens-small", "ml-100k")


def compare(
    sequences: Sequences,
    recipe: Recipe,
    seeds: int,
    *,
    finished: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Test metrics and cost of training on subsequences, by `ARMS`; questions keep all events.

    Args:
        sequences: all users' items.
        recipe: of the model and its training, but for the batches.
        seeds: how many, 2 to 10.
        finished: file that keeps each finished training's numbers, see `Trainings`.
        progress: show a bar over the trainings.
    Returns:
        for each arm "ARM hr@10", ... means, with "... by seed" and "... interval" of the hit rate;
        "ARM cpu_s an epoch", "ARM epochs", "ARM sparsity" (expected share of events left out) and
        "ARM pairs" (of pairs); "ARM step" over all events, same seeds, likewise.
    """
    trainings = Trainings(finished, seeds)
    found: dict[str, Any] = {"seeds": seeds}
    hits: dict[str, list[float]] = {}
    with tqdm(total=len(ARMS) * seeds, disable=not progress, unit="training") as bar:
        for arm in ARMS:
            runs = []
            for seed in range(seeds):
                asked = {"arm": arm, "seed": seed, "recipe": asdict(recipe)}
                run = trainings.numbers(asked, partial(_measured, arm, recipe, sequences, seed))
                runs.append(run)
                bar.update()
            for metric in runs[0]:
                found[f"{arm} {metric}"] = sum(one[metric] for one in runs) / seeds
            hits[arm] = [one["hr@10"] for one in runs]
            found |= over_seeds(f"{arm} hr@10", hits[arm])
            if arm != "all":
                found |= gains_over(f"{arm} step", hits[arm], hits["all"])
    return found


def _measured(arm: str, recipe: Recipe, sequences: Sequences, seed: int) -> dict[str, float]:
    """Test metrics of one training, its cost, and what it left out."""
    alpha, choice = ARMS[arm]
    batches_of = partial(
        StochasticLengthBatches,
        alpha=alpha,
        choice=choice,
        batch_size=recipe.batch_size,
        max_length=recipe.max_length,
        seed=seed,
    )
    model, split, run = train(recipe, sequences, seed=seed, batches_of=batches_of, progress=False)
    longest = recipe.max_length + 1
    sparsity = expected_sparsity(
        split.train.items.lengths.clamp(max=longest), alpha=alpha, longest=longest
    )
    return {
        **metrics_of(ranks_of(recipe, model, split.test)),
        "cpu_s an epoch": run.cpu_seconds / len(run.epochs),
        "epochs": run.best_epoch + 1,
        "sparsity": sparsity.events,
        "pairs": sparsity.pairs,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this module."""
    parser = seeds_parser(__doc__, seeds=3)
    parser.add_argument("--data", default="movielens-small", choices=LOGS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    recipe = RECIPES[f"{given.data}-hstu"]
    values = compare(sequences_of(recipe), recipe, given.seeds, finished=given.out)
    values |= {"data": given.data}
    print_and_record(values, given, "shorter_histories", f"--data {given.data}")


if __name__ == "__main__":
    main()
