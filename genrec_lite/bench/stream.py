"""One pass over a stream that is not stationary: SASRec, HSTU with softmax, HSTU.

    python -m genrec_lite.bench.stream --seeds 5 --record NAME

After Zhai et al. 2024, "Actions Speak Louder than Words" (2402.17152), section 4.1.2, in small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
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
from genrec_lite.datasets.dirichlet_stream import DirichletStream, dirichlet_stream
from genrec_lite.encoders.hstu import HSTU
from genrec_lite.encoders.sasrec import SASRec
from genrec_lite.recipes.held_out import stream_parts, stream_reference
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.similarity.dot_product import DotProduct
from genrec_lite.training import fit

__all__ = ["ARMS", "LEARNING_RATES", "Sizes", "encoder_of", "main", "pass_over"]

ARMS = ("SASRec", "HSTU, softmax, no bias", "HSTU, no bias")
# Each arm learns at the rate that is best for it on a stream of its own.
LEARNING_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
SEARCH_SEED = 1_000
METRICS = ("hr@10", "hr@50")
DIM, BLOCKS = 64, 2


@dataclass(frozen=True)
class Sizes:
    """What is smaller than the paper's 20,000 items in 100 categories.

    Args:
        records: of 128 events.
        items: 100 of them a category, where the paper has 200.
        batch_size: records a step.
    """

    records: int = 4_000
    items: int = 8_000
    batch_size: int = 32

    def stream(self, seed: int) -> DirichletStream:
        """The stream of a seed."""
        return dirichlet_stream(
            self.records, num_items=self.items, num_categories=self.items // 100, seed=seed
        )


def encoder_of(arm: str, num_items: int, max_length: int, seed: int) -> SASRec | HSTU:
    """The untrained encoder of an arm.

    Raises:
        ValueError: if there is no such arm.
    """
    if arm not in ARMS:
        raise ValueError(f"no arm is called {arm!r}: choose from {'; '.join(ARMS)}")
    sizes: dict[str, Any] = dict(
        dim=DIM, num_blocks=BLOCKS, max_length=max_length, dropout=0.0, seed=seed
    )  # nothing is seen twice, so nothing is dropped
    if arm == "SASRec":
        return SASRec(num_items, **sizes)
    activation = "softmax" if "softmax" in arm else "silu"
    return HSTU(num_items, **sizes, head_dim=DIM, bias="none", activation=activation)  # type: ignore[arg-type]


def pass_over(
    sizes: Sizes, seeds: int, *, finished: Path | None = None, progress: bool = True
) -> dict[str, Any]:
    """Hit rates of each arm after one pass over the first nine tenths of a stream.

    Ranked are all items, also those that a record has already, at the last places of each
    record of the last tenth, see `stream_parts`. The same seeds make streams and weights of all
    arms.

    Args:
        sizes: of the streams.
        seeds: how many, 2 to 10.
        finished: file that keeps each finished training's numbers, see `Trainings`.
        progress: show a bar over the trainings.
    Returns:
        for each arm "ARM hr@10" and "ARM hr@50", means over the seeds, with "... by seed" and
        "... interval" (95%, Student's t); "ARM learning rate", "ARM hr@10 by rate" (of
        `LEARNING_RATES`, in the search), "ARM cpu_s"; "ARM over SASRec" in HR@10, same seeds,
        likewise; "reference hr@10", ..., means of `stream_reference`.
    Raises:
        ValueError: if the number of seeds is not 2 to 10.
    """
    trainings, stream = Trainings(finished, seeds), cache(sizes.stream)
    bar = tqdm(total=len(ARMS) * (len(LEARNING_RATES) + seeds), disable=not progress)

    def measured(arm: str, rate: float, seed: int) -> dict[str, float]:
        bar.set_postfix_str(f"{arm}, rate {rate:g}, seed {seed}")
        asked = {"arm": arm, "rate": rate, "seed": seed, "sizes": asdict(sizes)}
        one = trainings.numbers(asked, lambda: _measured(arm, rate, sizes, stream(seed), seed))
        bar.update()
        return one

    found: dict[str, Any] = {"seeds": seeds, **asdict(sizes)}
    baseline: list[float] = []
    for arm in ARMS:
        by_rate = {rate: measured(arm, rate, SEARCH_SEED)["hr@10"] for rate in LEARNING_RATES}
        best = max(by_rate, key=by_rate.__getitem__)
        runs = [measured(arm, best, seed) for seed in range(seeds)]
        found[f"{arm} learning rate"] = best
        found[f"{arm} hr@10 by rate"] = list(by_rate.values())
        found[f"{arm} cpu_s"] = sum(run["cpu_s"] for run in runs) / seeds
        for metric in METRICS:
            found |= over_seeds(f"{arm} {metric}", [run[metric] for run in runs])
        hits = [run["hr@10"] for run in runs]
        if baseline:
            found |= gains_over(f"{arm} over {ARMS[0]}", hits, baseline)
        baseline = baseline or hits
    bar.close()
    known = [_reference(stream(seed), sizes) for seed in range(seeds)]
    found |= {f"reference {key}": sum(one[key] for one in known) / seeds for key in known[0]}
    return found


def _measured(
    arm: str, rate: float, sizes: Sizes, stream: DirichletStream, seed: int
) -> dict[str, float]:
    """Hit rates after one pass, and its cost."""
    batches, asked = stream_parts(stream, sizes.batch_size)
    encoder = encoder_of(arm, stream.num_items, asked.inputs.max_length, seed)
    model = NextItemModel(encoder, DotProduct())
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0)
    run = fit(model, model.loss, lambda _: batches, optimizer, epochs=1, seed=seed, progress=False)
    return asked.measure(model) | {"cpu_s": run.cpu_seconds}


def _reference(stream: DirichletStream, sizes: Sizes) -> dict[str, float]:
    return stream_reference(stream, stream_parts(stream, sizes.batch_size)[1])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this module."""
    parser = seeds_parser(__doc__, seeds=5)
    parser.add_argument("--records", type=int, default=Sizes.records)
    parser.add_argument("--items", type=int, default=Sizes.items, help="in categories of 100")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    values = pass_over(Sizes(given.records, given.items), given.seeds, finished=given.out)
    print_and_record(
        values, given, "stream", f"--records {given.records}", f"--items {given.items}"
    )


if __name__ == "__main__":
    main()
