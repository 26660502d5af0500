"""The timings page: how long each chapter ran in the build that made these pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import yaml

from genrec_lite.notebook.record import describe_machine

__all__ = ["write"]

_TOC = Path(__file__).resolve().parents[1] / "_toc.yml"


def write(executed: Path, destination: Path) -> None:
    """Write the timings of the notebooks in `executed` as Markdown to the file `destination`."""
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in executed.glob("*.ipynb")}
    runs = {name: notebook.metadata["genrec"] for name, notebook in notebooks.items()}
    machine = describe_machine()
    rows = [_row(page, runs[page.rpartition("/")[2]]) for page in _pages(runs)]
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


def _pages(runs: dict[str, Any]) -> list[str]:
    """The pages of the table of contents that were executed, in its order."""
    toc = yaml.safe_load(_TOC.read_text(encoding="utf-8"))
    files = [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]
    return [page for page in files if page.rpartition("/")[2] in runs]
