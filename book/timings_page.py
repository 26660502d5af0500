"""The timings page: how long each chapter ran in the build that made these pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genrec_lite.notebook.record import describe_machine
from layout import toc_files
from run_chapters import read_metadata

__all__ = ["write"]

_TOC = Path(__file__).resolve().parents[1] / "_toc.yml"


def write(executed: Path, destination: Path) -> None:
    """Write the timings of the notebooks in `executed` as Markdown to the file `destination`."""
    pages = {page: executed / f"{page.rpartition('/')[2]}.ipynb" for page in toc_files(_TOC)}
    runs = {page: run for page, path in pages.items() if (run := read_metadata(path))}
    machine = describe_machine()
    rows = [_row(page, run) for page, run in runs.items()]
    total = sum(run["seconds"] for run in runs.values())
    destination.write_text(
        f"""\
# Timings

How long each chapter took to run when it was last executed for this site: in all {total:.0f}
seconds.
Start-up is what passes outside the cells: a new Python process, and the way to its first line.

| chapter | run, s | in cells, s | slowest cell, s | cells |
| --- | ---: | ---: | ---: | ---: |
{"".join(rows)}
This site was built on {machine["cpu"]}, {machine["cores"]} cores, {machine["memory_gib"]} GiB, \
with Python {machine["python"]} and torch {machine["torch"]}.
""",
        encoding="utf-8",
    )


def _row(page: str, run: dict[str, Any]) -> str:
    """One line of the table."""
    cells = [seconds for seconds in run["cell_seconds"] if seconds is not None]
    slowest = max(cells, default=0.0)
    return (
        f"| {{doc}}`/{page}` | {run['seconds']:.1f} | {sum(cells):.1f} "
        f"| {slowest:.1f} | {len(cells)} |\n"
    )
