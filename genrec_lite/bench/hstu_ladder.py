"""From SASRec to HSTU, one change at a time: what each rung costs and gives.

python -m genrec_lite.bench.hstu_ladder --data movielens-small --seeds 5 --record NAME
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from genrec_lite.bench.trainings import (
    Trainings,
    gains_over,
    over_seeds,
    print_and_record,
    seeds_parser,
)
from genrec_lite.datasets import Sequences
from genrec_lite.encoders.hstu import HSTU, HSTUBlock
from genrec_lite.encoders.sasrec import SASRec
from genrec_lite.recipes.course import metrics_of, ranks_of, train
from genrec_lite.recipes.recipe import RECIPES, Recipe, sequences_of
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.similarity.dot_product import DotProduct

__all__ = ["RUNGS", "UngatedBlock", "climb", "encoder_of", "main"]

# Each rung differs from the one before it by what its name says.
RUNGS = (
    "SASRec",
    "HSTU's block, softmax, no gate, no bias",
    "SiLU in place of softmax",
    "+ gate",
    "+ position bias",
    "+ time bias",
    "- position bias",
)

# Data sets with times, and small enough for a dozen trainings.
LOGS = ("movielens-small", "ml-100k", "online-retail")


class UngatedBlock(HSTUBlock):
    """An `HSTUBlock` that does not multiply what it found by u."""

    def gate(self, u: Tensor, attended: Tensor) -> Tensor:
        """As `HSTUBlock.gate`, with u left out."""
        return super().gate(torch.ones_like(u), attended)


def encoder_of(rung: str, recipe: Recipe, num_items: int, seed: int) -> SASRec | HSTU:
    """The untrained encoder of a rung, of the recipe's sizes.

    Raises:
        ValueError: if there is no such rung.
    """
    if rung not in RUNGS:
        raise ValueError(f"no rung is called {rung!r}: choose from {', '.join(RUNGS)}")
    height = RUNGS.index(rung)
    sizes: dict[str, Any] = {
        name: getattr(recipe, name)
        for name in ("dim", "num_blocks", "num_heads", "max_length", "dropout")
    }
    if height == 0:
        return SASRec(num_items, **sizes, seed=seed)
    encoder = HSTU(
        num_items,
        **sizes,
        head_dim=recipe.head_dim,
        activation="silu" if height >= 2 else "softmax",
        bias=("none", "position", "both", "time")[max(0, height - 3)],
        seed=seed,
    )
    if height < 3:
        for block in encoder.blocks:
            block.__class__ = UngatedBlock
    return encoder


def climb(
    sequences: Sequences,
    recipe: Recipe,
    seeds: int,
    *,
    first: str = RUNGS[0],
    finished: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Test metrics and cost of each rung, with the recipe's data, loss and protocol.

    Args:
        sequences: all users' items, with times.
        recipe: everything but the encoder's kind; a dot product.
        seeds: how many, 2 to 10.
        first: the lowest rung to climb, of `RUNGS`.
        finished: file that keeps each finished training's numbers, see `Trainings`.
        progress: show a bar over the trainings.
    Returns:
        for each rung "RUNG hr@10", ..., means over the seeds, with "... by seed" and
        "... interval" (95%, Student's t); "RUNG step" over the rung below in HR@10, same seeds,
        likewise; "RUNG parameters", "RUNG cpu_s an epoch", "RUNG epochs". The lowest
        rung has no step.
    Raises:
        ValueError: if the number of seeds is not 2 to 10, there is no such rung, or the recipe
            has another similarity.
    """
    if first not in RUNGS:
        raise ValueError(f"no rung is called {first!r}: choose from {', '.join(RUNGS)}")
    if recipe.mixture is not None or recipe.coarse_dim is not None:
        raise ValueError("the ladder compares encoders under a dot product: leave out the mixture")
    found: dict[str, Any] = {"seeds": seeds}
    trainings = Trainings(finished, seeds)
    below: list[float] = []
    rungs = RUNGS[RUNGS.index(first) :]
    bar = tqdm(total=len(rungs) * seeds, disable=not progress, unit="training")
    for rung in rungs:
        runs = []
        for seed in range(seeds):
            bar.set_postfix_str(f"{rung}, seed {seed}")
            asked = {"rung": rung, "seed": seed, "recipe": asdict(recipe)}
            run = trainings.numbers(asked, partial(_measured, rung, recipe, sequences, seed))
            runs.append(run)
            bar.update()
        found[f"{rung} parameters"] = runs[0]["parameters"]
        for metric in runs[0].keys() - {"parameters"}:
            values = [one[metric] for one in runs]
            found[f"{rung} {metric}"] = sum(values) / seeds
        hits = [one["hr@10"] for one in runs]
        found |= over_seeds(f"{rung} hr@10", hits)
        if below:
            found |= gains_over(f"{rung} step", hits, below)
        below = hits
    bar.close()
    return found


def _measured(rung: str, recipe: Recipe, sequences: Sequences, seed: int) -> dict[str, float]:
    """Test metrics of one training, and its cost."""
    encoder = encoder_of(rung, recipe, sequences.num_items, seed)
    model = NextItemModel(
        encoder,
        DotProduct(recipe.temperature),
        num_negatives=recipe.num_negatives,
        num_positions=recipe.num_positions,
    )
    model, split, run = train(recipe, sequences, seed=seed, model=model, progress=False)
    return {
        **metrics_of(ranks_of(recipe, model, split.test)),
        "cpu_s an epoch": run.cpu_seconds / len(run.epochs),
        "epochs": run.best_epoch + 1,
        "parameters": sum(p.numel() for p in encoder.parameters()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this module."""
    parser = seeds_parser(__doc__, seeds=5)
    parser.add_argument("--data", default="movielens-small", choices=LOGS)
    parser.add_argument("--first", default=RUNGS[0], choices=RUNGS, help="the lowest rung")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    recipe = RECIPES[f"{given.data}-hstu"]
    sequences = sequences_of(recipe)
    values = climb(sequences, recipe, given.seeds, first=given.first, finished=given.out)
    options = [f"--data {given.data}"] + [f"--first {given.first!r}"] * (given.first != RUNGS[0])
    print_and_record(values | {"data": given.data}, given, "hstu_ladder", *options)


if __name__ == "__main__":
    main()
