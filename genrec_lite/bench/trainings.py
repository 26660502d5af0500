"""What comparisons of several trainings share: numbers kept in a file, intervals, options."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genrec_lite.notebook.record import current_commit, write_record
from genrec_lite.recipes.folders import half_interval, write_whole

__all__ = ["Trainings", "gains_over", "over_seeds", "print_and_record", "seeds_parser"]


class Trainings:
    """The numbers of trainings, each done once and kept in a file, by what was asked.

    What the file holds is taken only at the commit that wrote it; where the commit is not known, or
    there are changes beside it, nothing is. For one process at a time.

    Args:
        finished: the file, of JSON; None forgets with the process.
        seeds: of each comparison.
    Raises:
        ValueError: if the number of seeds is not 2 to 10.
        OSError: if the file cannot be written: better now than after the first training.
    """

    def __init__(self, finished: Path | None, seeds: int) -> None:
        if not 2 <= seeds <= 10:
            raise ValueError(f"{seeds} seeds: an interval is given for 2 to 10")
        self.finished, self.commit = finished, current_commit()
        self.known: dict[str, dict[str, Any]] = {}
        if finished is not None and finished.exists():
            self.known = json.loads(finished.read_text())
        if self.commit == "unknown" or self.commit.endswith("+changes"):
            own = json.dumps({"commit": self.commit})[1:-1]
            self.known = {key: one for key, one in self.known.items() if own not in key}
        self._save()

    def numbers(
        self, asked: Mapping[str, Any], train: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """What was found for `asked`, by `train` unless it is known.

        Args:
            asked: all that the training depends on, but the code.
        """
        key = json.dumps({**asked, "commit": self.commit}, sort_keys=True)
        if key not in self.known:
            self.known[key] = train()
            self._save()
        return self.known[key]

    def _save(self) -> None:
        if self.finished is not None:
            write_whole(self.finished, json.dumps(self.known, indent=1))


def over_seeds(name: str, values: Sequence[float]) -> dict[str, Any]:
    """ "NAME", the mean, "NAME by seed" and "NAME interval" (95%, Student's t)."""
    return {
        name: sum(values) / len(values),
        f"{name} by seed": list(values),
        f"{name} interval": half_interval(values),
    }


def gains_over(name: str, values: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """`over_seeds` of the differences `values` - `other` at equal seeds."""
    return over_seeds(name, [one - two for one, two in zip(values, other, strict=True)])


def seeds_parser(doc: str | None, *, seeds: int) -> argparse.ArgumentParser:
    """A command line with --seeds, --out and --record.

    Args:
        doc: of the module; its first line describes the command.
        seeds: unless told otherwise.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=seeds, choices=range(2, 11))
    parser.add_argument("--out", type=Path, help="file of finished trainings, to go on from")
    parser.add_argument("--record", metavar="NAME", help="write book/results/NAME.json")
    return parser


def print_and_record(
    values: Mapping[str, Any], given: argparse.Namespace, module: str, *options: str
) -> None:
    """Show what was found, and write its record if asked to.

    Args:
        values: what was found.
        given: by a `seeds_parser`.
        module: of `genrec_lite.bench`, whose command found it.
        options: that it took beside --seeds and --record.
    """
    print(json.dumps(values, indent=1))
    if given.record:
        command = " ".join(
            [f"python -m genrec_lite.bench.{module}", *options]
            + [f"--seeds {given.seeds} --record {given.record}"]
        )
        print(write_record(given.record, dict(values), seed=0, command=command))
