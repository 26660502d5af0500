"""Execute one chapter with papermill: what each process of run_chapters.py does."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore", message="Passed unknown parameter|Jupyter is migrating")

from layout import Chapter, plain  # noqa: E402, I001  (first: it makes the next imports faster)
import nbformat  # noqa: E402
import papermill  # noqa: E402
from papermill.engines import NBClientEngine, papermill_engines  # noqa: E402
from papermill.exceptions import PapermillExecutionError  # noqa: E402

# Seconds that one cell may take before it counts as stuck.
CELL_TIMEOUT = {"smoke": 300, "book": 900, "full": None}


@dataclass(frozen=True)
class Failure:
    """Where and how a chapter failed."""

    error: str
    cell: int | None = None
    line: int | None = None
    source: str = ""
    traceback: str = ""


class _WatchedEngine(NBClientEngine):
    """papermill's own engine; keeps the notebook within reach when the kernel dies."""

    notebook: Any = None

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        cls.notebook = nb_man.nb
        return super().execute_managed_notebook(nb_man, kernel_name, **options)


papermill_engines.register("watched", _WatchedEngine)


def _is_injected(cell: Any) -> bool:
    return "injected-parameters" in cell.metadata.get("tags", [])


def _chapter_cells(notebook: Any) -> list[Any]:
    return [c for c in notebook.cells if c.cell_type == "code" and not _is_injected(c)]


def _last_started(notebook: Any) -> int | None:
    """Return the number (1-based) of the last of the chapter's code cells that was started."""
    if notebook is None:
        return None
    started = [
        number
        for number, cell in enumerate(_chapter_cells(notebook), start=1)
        if cell.metadata.get("papermill", {}).get("start_time")
    ]
    return started[-1] if started else None


def _defect(chapter: Chapter, cells: list[Any]) -> Failure | None:
    """Return what makes a chapter that ran to its end no page of the book, if anything does.

    papermill takes `sys.exit(0)` for success, and knows no rule about stderr.
    """
    for number, cell in enumerate(cells, start=1):
        where = (number, chapter.line_of(number), cell.source)
        for output in cell.outputs:
            if output.output_type == "error":
                trace = plain("\n".join(output.traceback))
                return Failure(plain(f"{output.ename}: {output.evalue}"), *where, trace)
            if output.get("name") == "stderr":
                return Failure("it writes to stderr", *where, plain(output.text).strip())
        if cell.source.strip() and cell.execution_count is None:
            return Failure("it was never executed", *where)
    return None


def _papermill(chapter: Chapter, parameters: dict[str, Any], profile: str) -> Any:
    return papermill.execute_notebook(
        chapter.notebook(),
        None,
        parameters=parameters,
        engine_name="watched",
        kernel_name="python3",
        language="python",
        cwd=chapter.path.parent,
        progress_bar=False,
        execution_timeout=CELL_TIMEOUT[profile],
        coalesce_streams=True,
        store_widget_state=False,
    )


def _with_second_start(run: Callable[[], Any]) -> Any:
    """Return run(), tried once more if its kernel dies before the first cell.

    Two kernels that start at the same moment can pick the same free port.
    """
    try:
        return run()
    except RuntimeError:
        if _last_started(_WatchedEngine.notebook) is not None:
            raise
        return run()


def execute(
    chapter: Chapter,
    parameters: dict[str, Any],
    profile: str,
    fingerprint: dict[str, Any],
    destination: Path,
) -> Failure | None:
    """Write the executed chapter to `destination`, whole or not at all; return what failed.

    A cell that raises, ends the kernel, writes to stderr or is never reached is a failure.

    Args:
        parameters: values for names of the parameters cell.
        fingerprint: {"key", "depends"}, kept in the notebook's metadata.
    """
    _WatchedEngine.notebook = None
    start = time.perf_counter()
    try:
        done = _with_second_start(lambda: _papermill(chapter, parameters, profile))
    except Exception as error:
        number = _last_started(_WatchedEngine.notebook)
        trace = ""
        message = f"{type(error).__name__}: {plain(str(error)).strip()}"
        if isinstance(error, PapermillExecutionError):
            trace = plain("\n".join(error.traceback))
            message = plain(f"{error.ename}: {error.evalue}")
        if number is None:
            return Failure(message, traceback=trace)
        return Failure(message, number, chapter.line_of(number), chapter.code[number - 1], trace)
    seconds = time.perf_counter() - start
    cells = _chapter_cells(done)
    if defect := _defect(chapter, cells):
        return defect
    done.metadata["genrec"] = {
        **fingerprint,
        "profile": profile,
        "seconds": round(seconds, 2),
        "params": parameters,
        "cell_seconds": [round(c.metadata.papermill.duration or 0.0, 3) for c in cells],
    }
    for cell in done.cells:
        if _is_injected(cell):  # it is there for the run, not for the reader
            cell.metadata["tags"] = [*cell.metadata["tags"], "remove-cell"]
        for volatile in ("papermill", "execution"):  # clock times: noise for the build
            cell.metadata.pop(volatile, None)
    done.metadata.pop("papermill", None)
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = destination.with_name(f".{destination.name}.{os.getpid()}")
    nbformat.write(done, partial)
    partial.replace(destination)
    return None


def main() -> None:
    """Execute the chapter that the JSON file named on the command line describes."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    failure = execute(
        Chapter(Path(job["chapter"])),
        job["parameters"],
        job["profile"],
        job["fingerprint"],
        Path(job["destination"]),
    )
    if failure:
        Path(job["failure"]).write_text(json.dumps(asdict(failure)), encoding="utf-8")
        sys.exit(1)


if __name__ == "__main__":
    main()
