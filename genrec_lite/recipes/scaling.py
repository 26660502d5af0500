"""Grids of sizes: what quality becomes as training compute grows over orders of magnitude."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from tqdm.auto import tqdm

from genrec_lite.datasets import Sequences, leave_last_out, load
from genrec_lite.datasets.batches import NextItemBatch, NextItemBatches
from genrec_lite.datasets.dirichlet_stream import dirichlet_stream
from genrec_lite.encoders.hstu import HSTU
from genrec_lite.encoders.pooled import PooledHistory
from genrec_lite.encoders.relative_bias import Bias
from genrec_lite.encoders.sasrec import SASRec
from genrec_lite.recipes.folders import write_whole
from genrec_lite.recipes.held_out import HeldOut, stream_parts, stream_reference
from genrec_lite.retrieval.next_item import NextItemModel
from genrec_lite.scaling.power_law import fit_power_law
from genrec_lite.similarity.dot_product import DotProduct
from genrec_lite.training import fit

__all__ = ["GRIDS", "Flop", "Grid", "Size", "run_grid", "step_flop"]

Kind = Literal["hstu", "sasrec", "pooled"]
# (d, d) matrices: of a block whose head is d wide, and beside the blocks.
MATRICES = {"hstu": (5, 0), "sasrec": (6, 0), "pooled": (2, 3)}


@dataclass(frozen=True)
class Size:
    """One run of a grid.

    Args:
        encoder: "hstu" or "sasrec", with one head as wide as the model, or "pooled".
        dim, blocks: of the encoder.
        steps: of training.
    """

    encoder: Kind
    dim: int
    blocks: int
    steps: int

    @property
    def parameters(self) -> int:
        """Weights of the matrices."""
        of_a_block, beside = MATRICES[self.encoder]
        return (of_a_block * self.blocks + beside) * self.dim**2

    @property
    def name(self) -> str:
        """Of the run's file."""
        return f"{self.encoder}-d{self.dim}-b{self.blocks}-s{self.steps}"


@dataclass(frozen=True)
class Grid:
    """Runs on one data set that differ in their size only.

    Args:
        data: a name in `genrec_lite.datasets`, split leave-last-out; or "stream".
        sizes: of the runs; those of an encoder are fitted together.
        records, items: of the stream, in categories of 100.
        batch_size: users or records.
        max_length: most recent events that are looked at, of a data set; the stream has 127.
        learning_rate: of AdamW with betas .9 and .98 at a width of 64; at d, sqrt(64 / d) times
            that. In trials on the stream 1e-2 beat 3e-3 at a width of 16, and 3e-3 beat 1e-2 at 64.
        dropout: for all sizes; 0 where nothing is seen twice.
        bias: of HSTU, one that needs no times.
    """

    data: str
    sizes: tuple[Size, ...]
    records: int = 12_000
    items: int = 4_000
    batch_size: int = 32
    max_length: int = 200
    learning_rate: float = 5e-3
    dropout: float = 0.0
    bias: Bias = "none"


@dataclass(frozen=True)
class Flop:
    """Multiplications and additions of training: forward, and twice that backward.

    Args:
        blocks: 6 times the weights of the blocks' matrices, an event.
        attention: of the pairs of events that causal attention needs, n (n + 1) / 2 of a row.
        softmax: of the logits of all items; item embeddings are no part of the model's size.
    """

    blocks: float
    attention: float
    softmax: float

    @property
    def encoder(self) -> float:
        """What a grid calls compute: all but the softmax, which the corpus sets."""
        return self.blocks + self.attention


def step_flop(size: Size, lengths: Tensor, num_items: int) -> Flop:
    """The work of one step on rows of `lengths` (B,).

    Element-wise work, biases and embeddings are left out, as usual in scaling laws.
    """
    events, pairs = float(lengths.sum()), float((lengths * (lengths + 1)).sum()) / 2
    looks = 0 if size.encoder == "pooled" else size.blocks
    return Flop(
        blocks=6 * size.parameters * events,
        attention=6 * looks * 2 * size.dim * pairs,  # scores, and the values' sum
        softmax=6 * size.dim * num_items * events,
    )


def run_grid(
    grid: Grid,
    folder: Path,
    *,
    seed: int = 0,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Compute and quality of each run, and a power law for each encoder.

    Each finished run is one file of the folder, NAME-seed-SEED.json, and is not trained again; an
    interrupted one begins anew.

    Args:
        grid: what to run.
        folder: made if need be.
        seed: of data that is made, weights and order.
        progress: show a bar over the grid, in operations, so that its estimate is of time.
        say: is told how long the grid may take, before any training.
    Returns:
        for each encoder "ENCODER runs", their names, and in the same order "ENCODER flop" (see
        `Flop.encoder`), "... softmax_flop", "... parameters" (of the blocks' matrices), "... loss",
        "... hr@10", "... hr@50", "... cpu_s"; "ENCODER orders", how many powers of ten its compute
        spans; "ENCODER loss exponent" with "... low" and "... high" (95%, see `PowerLaw`), and the
        same of hr@10, unless a run has no hit at all. Of the stream "reference loss", ..., too,
        see `stream_reference`.
    Raises:
        ValueError: if a file of the folder is of another grid or damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {size: folder / f"{size.name}-seed-{seed}.json" for size in grid.sizes}
    found = {size: _finished(file, grid, size) for size, file in files.items() if file.exists()}
    task = _Task(grid, seed)
    work = {size: task.flop(size) for size in grid.sizes}
    total = sum(flop.encoder + flop.softmax for flop in work.values())
    todo = [size for size in grid.sizes if size not in found]
    left = sum(work[size].encoder + work[size].softmax for size in todo)
    if todo:
        rate = task.flop_per_second(todo)
        say(f"{len(todo)} of {len(grid.sizes)} runs to do, about {left / rate / 3600:.1f} hours")
    with tqdm(
        total=total, initial=total - left, unit="FLOP", unit_scale=True, disable=not progress
    ) as bar:
        for size in todo:
            bar.set_postfix_str(size.name)
            found[size] = task.run(size)
            whole = {"grid": _asked(grid, size), **found[size]}
            write_whole(files[size], json.dumps(whole, indent=2) + "\n")
            bar.update(work[size].encoder + work[size].softmax)
    known = {f"reference {key}": value for key, value in task.reference.items()}
    return {"data": grid.data, **known, **_summary({size: found[size] for size in grid.sizes})}


class _Task:
    """What a grid's runs share: batches, questions, and what is known of a stream.

    Args:
        grid: read once.
        seed: see `run_grid`.
    """

    def __init__(self, grid: Grid, seed: int) -> None:
        self.grid, self.seed = grid, seed
        self.counted: dict[Size, Flop] = {}
        self.reference: dict[str, float] = {}
        if grid.data == "stream":
            stream = dirichlet_stream(
                grid.records, num_items=grid.items, num_categories=grid.items // 100, seed=seed
            )
            self.num_items, self.max_length = stream.num_items, stream.items.max_length - 1
            self.pass_, self.asked = stream_parts(stream, grid.batch_size)
            self.reference = stream_reference(stream, self.asked)
        else:
            sequences = load(grid.data).sequences()
            self.num_items, self.max_length = sequences.num_items, grid.max_length
            self._read(sequences)

    def _read(self, sequences: Sequences) -> None:
        split = leave_last_out(sequences, validation=False)
        self.epochs = NextItemBatches(
            split.train,
            batch_size=self.grid.batch_size,
            max_length=self.max_length,
            seed=self.seed,
            window="any",
        )
        self.asked = HeldOut.of_queries(split.test)

    def batches(self, steps: int) -> list[NextItemBatch]:
        """The batches of a run, in order.

        Raises:
            ValueError: if the stream is too short for so many.
        """
        if self.grid.data == "stream":
            if steps > len(self.pass_):
                raise ValueError(
                    f"{steps} steps, but the stream has {len(self.pass_)} batches of "
                    f"{self.grid.batch_size} records: make it longer, or take fewer steps"
                )
            return self.pass_[-steps:]  # those that come right before the questions
        found: list[NextItemBatch] = []
        epoch = 0
        while len(found) < steps:
            found += self.epochs(epoch)
            epoch += 1
        return found[:steps]

    def flop(self, size: Size) -> Flop:
        """Of a whole run."""
        if size not in self.counted:
            lengths = torch.cat([batch.inputs.lengths for batch in self.batches(size.steps)])
            self.counted[size] = step_flop(size, lengths, self.num_items)
        return self.counted[size]

    def model(self, size: Size) -> NextItemModel:
        """The untrained model of a run."""
        sizes: dict[str, Any] = dict(
            dim=size.dim, num_blocks=size.blocks, max_length=self.max_length,
            dropout=self.grid.dropout, seed=self.seed,
        )  # fmt: skip
        encoder: HSTU | SASRec | PooledHistory
        if size.encoder == "hstu":
            encoder = HSTU(self.num_items, **sizes, head_dim=size.dim, bias=self.grid.bias)
        elif size.encoder == "sasrec":
            encoder = SASRec(self.num_items, **sizes)
        else:
            encoder = PooledHistory(self.num_items, **sizes)
        return NextItemModel(encoder, DotProduct())

    def flop_per_second(self, sizes: Sequence[Size]) -> float:
        """The rate of one step of the median of the runs, forward and backward."""
        size = sorted(sizes, key=lambda one: self.flop(one).encoder)[len(sizes) // 2]
        batch, model = self.batches(1)[0], self.model(size)
        flop = step_flop(size, batch.inputs.lengths, self.num_items)
        seconds = []
        for _ in range(2):  # the first makes buffers, too
            start = time.perf_counter()
            model.loss(batch).backward()
            seconds.append(time.perf_counter() - start)
        return (flop.encoder + flop.softmax) / min(seconds)

    def run(self, size: Size) -> dict[str, float]:
        """What one run cost and gave."""
        model, batches = self.model(size), self.batches(size.steps)
        rate = self.grid.learning_rate * math.sqrt(64 / size.dim)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0
        )
        course = fit(
            model, model.loss, lambda _: batches, optimizer, epochs=1, seed=self.seed,
            progress=False,
        )  # fmt: skip
        flop = self.flop(size)
        return {
            "parameters": size.parameters,
            "flop": flop.encoder,
            "softmax_flop": flop.softmax,
            "cpu_s": course.cpu_seconds,
            **self.asked.measure(model),
        }


def _asked(grid: Grid, size: Size) -> dict[str, Any]:
    """All that a run depends on, but the seed."""
    shared = asdict(grid)
    del shared["sizes"]
    return shared | asdict(size)


def _finished(file: Path, grid: Grid, size: Size) -> dict[str, float]:
    """What a finished run gave.

    Raises:
        ValueError: if the file is of another grid or damaged.
    """
    try:
        found = json.loads(file.read_text())
        before = found.pop("grid")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} describes no run ({error}): remove it") from error
    now = _asked(grid, size)
    was = {key: before.get(key) for key in now}
    other = [f"{key} {was[key]!r}, not {now[key]!r}" for key in now if was[key] != now[key]]
    if other:
        raise ValueError(
            f"{file} holds another run ({'; '.join(other)}): choose another folder, or remove it"
        )
    return dict(found)


def _summary(runs: dict[Size, dict[str, float]]) -> dict[str, Any]:
    """The numbers of each encoder's runs, and their power laws."""
    found: dict[str, Any] = {}
    for encoder in dict.fromkeys(size.encoder for size in runs):
        own = {size: run for size, run in runs.items() if size.encoder == encoder}
        found[f"{encoder} runs"] = [size.name for size in own]
        columns = {key: [run[key] for run in own.values()] for key in next(iter(own.values()))}
        found |= {f"{encoder} {key}": values for key, values in columns.items()}
        flop = torch.tensor(columns["flop"])
        found[f"{encoder} orders"] = float((flop.max() / flop.min()).log10())
        for quality in ("loss", "hr@10"):
            if min(columns[quality]) > 0:
                law = fit_power_law(flop, columns[quality])
                found[f"{encoder} {quality} exponent"] = law.exponent
                low, high = law.exponent_interval
                found[f"{encoder} {quality} exponent low"] = low
                found[f"{encoder} {quality} exponent high"] = high
    return found


def _runs(sizes: tuple[tuple[int, int, int], ...]) -> tuple[Size, ...]:
    """HSTU at all sizes (dim, blocks, steps), the others at every second."""
    return tuple(
        Size(encoder, *size)
        for encoder in get_args(Kind)
        for size in (sizes if encoder == "hstu" else sizes[::2])
    )


# Model and training grow together, but for the last runs, where time allowed the model alone.
# Narrower ones than 16 do not leave chance behind within so few steps.
_STREAM = (
    (16, 1, 72), (16, 1, 108), (16, 2, 108), (24, 2, 108), (32, 2, 108), (32, 2, 162),
    (48, 2, 162), (64, 2, 162), (64, 2, 324), (64, 4, 324), (96, 4, 324), (128, 4, 324),
)  # fmt: skip
_ML_1M = (
    (16, 1, 200), (16, 1, 300), (16, 2, 300), (24, 2, 400), (32, 2, 400), (32, 2, 600),
    (48, 2, 600), (48, 2, 900), (64, 2, 1_200), (64, 4, 1_200), (96, 4, 1_200), (128, 4, 1_200),
)  # fmt: skip
GRIDS: dict[str, Grid] = {
    "scaling": Grid("stream", _runs(_STREAM)),
    "scaling-ml-1m-ordered": Grid(
        "ml-1m-ordered",
        _runs(_ML_1M),
        dropout=0.2,
        bias="position",
    ),
}
