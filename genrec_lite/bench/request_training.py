"""Whole trainings on requests and on their shuffled impressions: cost and quality by seed.

python -m genrec_lite.bench.request_training --data ml-100k --seeds 5 --record NAME
"""

from __future__ import annotations

import time
from collections.abc import Sequence
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
from genrec_lite.datasets.actions import RatedActions
from genrec_lite.datasets.catalogue import load
from genrec_lite.metrics import auc, normalized_entropy
from genrec_lite.request_only.batches import RequestBatches, Requests, split_requests
from genrec_lite.request_only.models import RequestHSTU, RequestModel
from genrec_lite.request_only.tables import requests_of
from genrec_lite.training import fit, without_dropout

__all__ = ["ARMS", "compare", "main", "rated_requests", "tested", "train_arm"]

ARMS = ("requests", "impressions")
LIKE = RatedActions(("like",), ((4.0, 5.0),))
MAX_EVENTS, BATCH_SIZE, EPOCHS, LEARNING_RATE = 64, 32, 2, 2e-3


def rated_requests(name: str) -> tuple[Requests, int]:
    """The requests of a log of ratings, a like being 4 or more, and the number of its items.

    The log has no requests: its ratings are taken for one where none lies more than a minute
    behind the one before, at most 16 to a request.
    """
    sequences = requests_of(load(name)).sequences()
    assert sequences.requests is not None
    return Requests.of(LIKE.events(sequences), sequences.requests), sequences.num_items


def tested(model: RequestModel, test: Requests, max_events: int) -> dict[str, float]:
    """ "ne" and "auc" of the one action, over the impressions of `test`."""
    chances, actions = [], []
    with torch.no_grad(), without_dropout(model):
        for some in torch.arange(len(test)).split(64):
            batch = test.select(some).batch(max_events)
            chances.append(model(batch)[:, 0].sigmoid())
            actions.append(batch.actions[:, 0].long())
    p, y = torch.cat(chances), torch.cat(actions)
    return {"ne": float(normalized_entropy(p, y)), "auc": float(auc(p, y))}


def train_arm(
    arm: str, train: Requests, test: Requests, num_items: int, seed: int
) -> dict[str, Any]:
    """Test metrics after the last epoch, "cpu_s" of the training alone, "curve ne" by epoch.

    Both arms see each impression once an epoch, as many of them a step in the mean.

    Raises:
        ValueError: if the arm is none of `ARMS`.
    """
    if arm not in ARMS:
        raise ValueError(f"no arm is called {arm!r}: choose from {', '.join(ARMS)}")
    model = RequestHSTU(
        num_items, 1, dim=32, num_heads=2, head_dim=16, max_events=MAX_EVENTS, seed=seed
    )
    size = BATCH_SIZE
    if arm == "impressions":
        size = round(BATCH_SIZE * int(train.num_candidates.sum()) / len(train))
        train = train.exploded()
    batches = RequestBatches(train, batch_size=size, max_events=MAX_EVENTS, seed=seed)
    model.loss(batches(0)[0]).backward()  # what a process does once is no arm's cost
    model.zero_grad()
    curve: list[dict[str, float]] = []
    spent = 0.0
    began = time.process_time()

    def evaluate(epoch: int) -> dict[str, float]:
        nonlocal spent, began
        spent += time.process_time() - began
        curve.append(tested(model, test, MAX_EVENTS))
        began = time.process_time()
        return curve[-1]

    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    run = fit(
        model, model.loss, batches, optimizer, epochs=EPOCHS, seed=seed, evaluate=evaluate,
        progress=False,
    )  # fmt: skip
    return {
        **curve[-1],
        "cpu_s": spent,
        "steps": run.steps,
        "curve ne": [one["ne"] for one in curve],
    }


def compare(
    name: str, seeds: int, *, finished: Path | None = None, progress: bool = True
) -> dict[str, Any]:
    """Metrics and cost of both arms by seed, time split.

    Args:
        name: of a log with ratings and times.
        seeds: how many, 2 to 10.
        finished: file that keeps each finished training's numbers, see `Trainings`.
        progress: show a bar over the trainings.
    Returns:
        "ARM ne", "ARM auc", "ARM cpu_s" with "... by seed" and "... interval"; "cpu ratio"
        (impressions over requests, seed by seed) and "ne gain" (impressions less requests: above 0
        requests are better), likewise; "prior ne" of training's mean; sizes.
    """
    requests, num_items = rated_requests(name)
    train, test, _ = split_requests(requests)
    found: dict[str, Any] = {
        "data": name,
        "seeds": seeds,
        "train requests": len(train),
        "train impressions": int(train.num_candidates.sum()),
        "test impressions": int(test.num_candidates.sum()),
        "prior ne": _prior(train, test),
    }
    trainings = Trainings(finished, seeds)
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    with tqdm(total=len(ARMS) * seeds, disable=not progress, unit="training") as bar:
        for seed in range(seeds):
            for arm in ARMS:
                asked = {"data": name, "arm": arm, "seed": seed}
                train_one = partial(train_arm, arm, train, test, num_items, seed)
                runs[arm].append(trainings.numbers(asked, train_one))
                bar.update()
    for arm, of_arm in runs.items():
        found[f"{arm} steps"] = of_arm[0]["steps"]
        found[f"{arm} curve ne"] = of_arm[0]["curve ne"]
        for key in ("ne", "auc", "cpu_s"):
            found |= over_seeds(f"{arm} {key}", [one[key] for one in of_arm])
    ours, theirs = runs["requests"], runs["impressions"]
    pairs = list(zip(ours, theirs, strict=True))
    found |= over_seeds("cpu ratio", [two["cpu_s"] / one["cpu_s"] for one, two in pairs])
    return found | gains_over("ne gain", [x["ne"] for x in theirs], [x["ne"] for x in ours])


def _prior(train: Requests, test: Requests) -> float:
    """Normalised entropy on `test` of always saying the mean of `train`."""
    mean = train.batch(0).actions[:, 0].float().mean()
    answers = test.batch(0).actions[:, 0].long()
    return float(normalized_entropy(mean.expand(len(answers)), answers))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this module."""
    parser = seeds_parser(__doc__, seeds=5)
    parser.add_argument("--data", default="movielens-small", choices=["movielens-small", "ml-100k"])
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    values = compare(given.data, given.seeds, finished=given.out)
    print_and_record(values, given, "request_training", f"--data {given.data}")


if __name__ == "__main__":
    main()
