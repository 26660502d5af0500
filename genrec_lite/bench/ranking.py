"""Generative against pointwise ranking, and both against counting: quality by CPU seconds.

python -m genrec_lite.bench.ranking --data movielens-small --seeds 5 --record NAME
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from genrec_lite.datasets.actions import (
    EventBatches,
    Events,
    RatedActions,
    TimeSplit,
    first_of_requests,
    questions,
    split_by_time,
)
from genrec_lite.datasets.catalogue import load
from genrec_lite.ranking.evaluation import predicted, task_metrics
from genrec_lite.ranking.pointwise import PointwiseRanker
from genrec_lite.ranking.rates import Rates
from genrec_lite.ranking.target_aware import GenerativeRanker
from genrec_lite.training import fit

__all__ = ["ARMS", "TASKS", "RankingData", "compare", "main", "ranking_data", "train_arm"]

ARMS = ("pointwise", "generative")
TASKS: dict[str, RatedActions] = {
    "movielens-small": RatedActions(),
    "ml-100k": RatedActions(),
    "online-retail-lines": RatedActions(("large", "cancel"), ((12.0, math.inf), (-math.inf, -0.5))),
}
MAX_EVENTS = 256
# The same for both arms. Tried with one seed on the validation events of ml-100k: learning rates of
# .0005 and .002 in both, a dropout of .4 in the pointwise one: mean NE within .012 of each other,
# which is more than the arms differ by.
LEARNING_RATE, DROPOUT, BATCH_SIZE = 1e-3, 0.2, 16
EPOCHS, PATIENCE = 8, 2


@dataclass(frozen=True, eq=False)
class RankingData:
    """A log split twice by time: what is learned from, what stops training, what is reported.

    Args:
        names: of the tasks.
        num_items: size of the corpus.
        validation, test: the splits by their two moments; learned from is `validation.train`.
        learned: (T,) bool, which of those.
    """

    names: tuple[str, ...]
    num_items: int
    validation: TimeSplit
    test: TimeSplit
    learned: Tensor


def ranking_data(name: str) -> RankingData:
    """The events of a data set of `TASKS`: 70% to learn from, 10% to validate, 20% to test.

    Of a shop's invoice only the first line is asked about, and learned: it tells the others.
    """
    sequences = load(name).sequences()
    events = TASKS[name].events(sequences)
    test = split_by_time(events, 0.8)
    validation = split_by_time(test.train, 0.7 / 0.8)
    learned = torch.ones_like(validation.train.times, dtype=torch.bool)
    if name == "online-retail-lines":
        learned = first_of_requests(validation.train)
        validation, test = (
            split._replace(asked=split.asked & first_of_requests(split.all))
            for split in (validation, test)
        )
    return RankingData(TASKS[name].names, sequences.num_items, validation, test, learned)


def train_arm(arm: str, data: RankingData, seed: int, *, progress: bool = False) -> dict[str, Any]:
    """Test metrics of an arm at its best epoch on validation, and its course.

    Returns:
        `task_metrics`, "ne" (mean over the tasks), "epochs", "parameters" beside the item table,
        "cpu_s an epoch"; and by epoch "curve cpu_s" (of training alone) and "curve ne" (test).
    Raises:
        ValueError: if the arm is none of `ARMS`.
    """
    if arm not in ARMS:
        raise ValueError(f"no arm is called {arm!r}: choose from {', '.join(ARMS)}")
    kind = GenerativeRanker if arm == "generative" else PointwiseRanker
    model: GenerativeRanker | PointwiseRanker = kind(
        data.num_items, len(data.names), max_events=MAX_EVENTS, dropout=DROPOUT, seed=seed
    )
    asked = {name: questions(split, MAX_EVENTS) for name, split in
             (("validation", data.validation), ("test", data.test))}  # fmt: skip
    curve: list[dict[str, float]] = []
    spent = began = 0.0

    def evaluate(epoch: int) -> dict[str, float]:
        nonlocal spent, began
        spent += time.process_time() - began
        found = {name: _measured(model, data.names, *one) for name, one in asked.items()}
        curve.append({**found["test"], "cpu_s": spent})
        began = time.process_time()
        return {"quality": -found["validation"]["ne"]}

    batches = EventBatches(
        data.validation.train, asked=data.learned, batch_size=BATCH_SIZE, max_events=MAX_EVENTS,
        seed=seed,
    )  # fmt: skip
    model.loss(batches(0)[0]).backward()  # what a process does once is no arm's cost
    model.zero_grad()
    began = time.process_time()
    run = fit(
        model, model.loss, batches, torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE),
        epochs=EPOCHS, seed=seed, evaluate=evaluate, select="quality", patience=PATIENCE,
        progress=progress,
    )  # fmt: skip
    best = {key: value for key, value in curve[run.best_epoch].items() if key != "cpu_s"}
    table = model.tokens.item_embedding.weight.numel()
    return {
        **best,
        "epochs": run.best_epoch + 1,
        "parameters": sum(p.numel() for p in model.parameters()) - table,
        "cpu_s an epoch": curve[-1]["cpu_s"] / len(curve),
        "curve cpu_s": [one["cpu_s"] for one in curve],
        "curve ne": [one["ne"] for one in curve],
    }


def compare(
    name: str, seeds: int, *, finished: Path | None = None, progress: bool = True
) -> dict[str, Any]:
    """Metrics of both arms by seed, and of what needs no training.

    Args:
        name: of `TASKS`.
        seeds: how many, 2 to 10.
        finished: file that keeps each finished training's numbers, see `Trainings`.
        progress: show a bar over the trainings.
    Returns:
        "ARM like ne", ... means, with "... by seed" and "... interval"; "rates ...", "prior ne"
        (training's mean rates, tested); "generative step ..." over the pointwise arm at equal
        seeds, likewise; the curves of the first seed.
    """
    data = ranking_data(name)
    found = {"seeds": seeds, "tasks": list(data.names), "data": name, **_untrained(data)}
    trainings = Trainings(finished, seeds)
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    with tqdm(total=len(ARMS) * seeds, disable=not progress, unit="training") as bar:
        for seed in range(seeds):
            for arm in ARMS:
                asked = {"data": name, "arm": arm, "seed": seed}
                runs[arm].append(trainings.numbers(asked, partial(train_arm, arm, data, seed)))
                bar.update()
    for arm, of_arm in runs.items():
        for key, first in of_arm[0].items():
            if key.startswith("curve") or key == "parameters":
                found[f"{arm} {key}"] = first
            else:
                found |= over_seeds(f"{arm} {key}", [one[key] for one in of_arm])
    for key in runs["pointwise"][0]:
        if key == "ne" or (key.endswith((" ne", " auc")) and not key.startswith("curve")):
            generative, pointwise = ([one[key] for one in runs[arm]] for arm in ARMS[::-1])
            found |= gains_over(f"generative step {key}", generative, pointwise)
    return found


def _measured(
    model: Callable[[Events], Tensor], names: Sequence[str], events: Events, asked: Tensor
) -> dict[str, float]:
    """`task_metrics` and their mean normalised entropy."""
    found = task_metrics(predicted(model, events, asked), events.actions[asked], names)
    found["ne"] = sum(found[f"{name} ne"] for name in names) / len(names)
    return found


def _untrained(data: RankingData) -> dict[str, float]:
    """What counting gives on the arms' questions, and what the mean of the learned events gives."""
    rates = Rates(data.validation.train, data.num_items, counted=data.learned)
    events, asked = questions(data.test, MAX_EVENTS)
    mean = rates.mean.expand(int(asked.sum()), -1)
    prior = task_metrics(mean, events.actions[asked], data.names)
    counted = _measured(rates, data.names, events, asked)
    found = {f"rates {key}": value for key, value in counted.items()}
    found |= {f"prior {key}": value for key, value in prior.items() if key.endswith(" ne")}
    return found | {"training events": int(data.learned.sum()), "questions": int(asked.sum())}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this module."""
    parser = seeds_parser(__doc__, seeds=5)
    parser.add_argument("--data", default="movielens-small", choices=list(TASKS))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    values = compare(given.data, given.seeds, finished=given.out)
    print_and_record(values, given, "ranking", f"--data {given.data}")


if __name__ == "__main__":
    main()
