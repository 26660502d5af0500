"""Numbers with a source: what a chapter measured, and what a full-size run measured."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = [
    "RESULTS",
    "RecordError",
    "current_commit",
    "describe_machine",
    "load_record",
    "read_records",
    "record",
    "write_record",
]

MIME = "application/vnd.genrec.record+json"
# The output format that myst-nb reads for {glue:text}; written here so that no chapter has to
# import myst_nb, and with it Sphinx, into its kernel.
GLUE_PREFIX = "application/papermill.record/"
PACKAGE = Path(__file__).resolve().parents[1]
RESULTS = PACKAGE.parent / "book" / "results"
MACHINE_KEYS = {"cpu", "cores", "memory_gib", "gpu", "python", "torch", "platform"}
MAX_VALUES = 100  # a record holds results, not data sets


class RecordError(ValueError):
    """A value that cannot be a record, or a record that cannot be read."""


def record(**values: Any) -> None:
    """Store `values` in the running cell's outputs, shown nowhere, for tests, pages and prose.

    Prose quotes a value with {glue:text}`key:.3f`.

    Args:
        values: numbers, strings, booleans, None, and short lists or dicts of these.
    Raises:
        RecordError: if a value is a NaN, a tensor, or anything else that JSON cannot hold.
    """
    from IPython.display import display

    _check_values(values)
    display({MIME: values}, raw=True, metadata={"genrec": {"keys": sorted(values)}})
    for key, value in values.items():
        glue = {"scrapbook": {"name": key, "mime_prefix": GLUE_PREFIX}}
        display({f"{GLUE_PREFIX}text/plain": repr(value)}, raw=True, metadata=glue)


def read_records(notebook: Any) -> dict[str, Any]:
    """All values that the cells of an executed notebook recorded, by key.

    Args:
        notebook: an nbformat notebook node.
    Raises:
        RecordError: if two cells recorded the same key.
    """
    found: dict[str, Any] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            values = output.get("data", {}).get(MIME, {})
            if isinstance(values, str):
                values = json.loads(values)
            for key, value in values.items():
                if key in found:
                    raise RecordError(f"key {key!r} is recorded twice: give each its own name")
                found[key] = value
    return found


def write_record(
    name: str,
    values: Mapping[str, Any],
    *,
    seed: int,
    command: str,
    folder: Path | str = RESULTS,
) -> Path:
    """Path of the JSON record of a full-size run, written whole or not at all.

    Args:
        name: file name without ending, such as "ml-1m_sasrec".
        values: what was measured; the same kinds of values as for `record`.
        seed: the seed of the run.
        command: the command line that repeats the run.
        folder: where records are kept.
    Raises:
        RecordError: if a value cannot be a record, or the name is no plain file name.
    """
    if not name or name != Path(name).name or name.startswith("."):
        raise RecordError(f"record name {name!r}: use a plain file name, without folder or ending")
    _check_values(values)
    path = Path(folder) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "name": name,
        "values": dict(values),
        "seed": seed,
        "command": command,
        "commit": current_commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": describe_machine(),
    }
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False)
        unfinished.write_text(text + "\n", encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def load_record(name: str, folder: Path | str = RESULTS) -> dict[str, Any]:
    """The record that `write_record` wrote: name, values, seed, command, commit, date, machine.

    Raises:
        RecordError: if there is no such record, or it is not complete.
    """
    path = Path(folder) / f"{name}.json"
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in Path(folder).glob("*.json"))) or "none"
        raise RecordError(f"no record {name!r} in {folder}; there: {there}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RecordError(f"{path} is no valid JSON ({error}): run its command again") from error
    missing = {"name", "values", "seed", "command", "commit", "date", "machine"} - set(content)
    missing |= {f"machine.{key}" for key in MACHINE_KEYS - set(content.get("machine", {}))}
    if missing:
        raise RecordError(f"{path} lacks {sorted(missing)}: write records with write_record")
    return dict(content)


def describe_machine() -> dict[str, Any]:
    """What a measurement depends on: cpu, cores, memory_gib, python, torch, platform, gpu."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": round(memory, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": version("torch"),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _cpu_name() -> str:
    """The processor's name as its maker gives it, or its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def current_commit() -> str:
    """The commit that the package's files are at, with "+changes" if they differ from it.

    A module that is not yet in the repository is a difference too.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=PACKAGE,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", ".")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _check_values(values: Mapping[str, Any]) -> None:
    """Raise unless every value can be stored, and say which one cannot."""
    if not values:
        raise RecordError("nothing to record: give at least one key=value")
    for key, value in values.items():
        count = _count_scalars(value, key)
        if count > MAX_VALUES:
            raise RecordError(f"{key} holds {count} values, more than {MAX_VALUES}: summarise it")


def _count_scalars(value: Any, where: str) -> int:
    """How many scalars `value` holds; raises for one that JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        raise RecordError(f"{where} = {value}: only finite numbers are results; find its cause")
    if value is None or type(value) in (bool, int, float, str):
        return 1
    if isinstance(value, (list, tuple)):
        return sum(_count_scalars(part, f"{where}[{i}]") for i, part in enumerate(value))
    if isinstance(value, dict):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise RecordError(f"{where} has the key {wrong[0]!r}: use strings as keys")
        return sum(_count_scalars(part, f"{where}[{key!r}]") for key, part in value.items())
    kind = f"{type(value).__module__}.{type(value).__name__}"
    mend = ".tolist()" if hasattr(value, "tolist") else "a number, a string, or a list of them"
    raise RecordError(f"{where} is a {kind}, which JSON cannot hold: record {mend} instead")
