"""What the outputs of a chapter depend on: a chapter runs again when, and only when, this changes.

The source of the chapter, its parameters, the modules of the package that it imports (directly or
through other modules), the data files that it or they name, wherever `load` looks for them, the
records of full-size runs that it loads, and the versions of the libraries. Imports are read from
the source, nothing is executed.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pooch

from layout import Book, Chapter, digest

LIBRARIES = (
    "torch", "triton", "numpy", "polars", "safetensors", "plotly", "ipywidgets",
    "ipykernel", "ipython", "jupytext", "nbclient", "nbformat", "papermill",
)  # fmt: skip
# The files whose text decides how a chapter is executed.
MACHINERY = ("execute.py", "layout.py", "environment.py")


def _without_magics(source: str) -> str:
    """Return a cell's Python: `%time statement` becomes the statement, `!command` becomes pass.

    Raises:
        SyntaxError: if the cell belongs to another language (`%%bash`).
    """
    if re.match(r"\s*%%(?!time|capture)", source):
        raise SyntaxError(f"not Python: {source.splitlines()[0]}")

    def plain(match: re.Match[str]) -> str:
        indent, sign, rest = match.groups()
        statement = re.sub(r"^%?\w+\s*(-\w+\s+\S+\s+)*", "", rest) if sign == "%" else ""
        try:
            ast.parse(statement)
        except SyntaxError:
            statement = ""
        return f"{indent}{statement or 'pass'}"

    return re.sub(r"^([ \t]*)([%!])(.*)$", plain, source, flags=re.MULTILINE)


class ModuleGraph:
    """The modules of one package and what each names: other modules and data files."""

    def __init__(self, package: Path) -> None:
        self.package = package
        self.files = {}
        for path in sorted(package.rglob("*.py")):
            parts = [package.name, *path.relative_to(package).with_suffix("").parts]
            self.files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path

    def _with_parents(self, dotted: str) -> set[str]:
        """Return those of a, a.b, a.b.c that are modules: importing the last runs them all."""
        parts = dotted.split(".")
        return {n for i in range(len(parts)) if (n := ".".join(parts[: i + 1])) in self.files}

    def named_in(self, source: str, module: str = "") -> set[str]:
        """Return the modules that `source` (of `module`, "" for a chapter's cell) imports or names.

        A string that is exactly a module's name counts as an import (`python -m`, importlib). Of
        source that is not plain Python (a cell magic), every module of the package is returned, as
        of a cell with importlib. In a cell, a module's name anywhere in the text counts.
        """
        if not module and re.search(r"\bimportlib\b|\b__import__\b", source):
            return set(self.files)
        try:
            tree = ast.parse(_without_magics(source))
        except SyntaxError:
            return set(self.files)
        found: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    found |= self._with_parents(alias.name)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    is_package = module in self.files and self.files[module].name == "__init__.py"
                    up = node.level - is_package
                    parent = ".".join(module.split(".")[: len(module.split(".")) - up])
                    base = f"{parent}.{base}".strip(".")
                for alias in node.names:
                    found |= self._with_parents(base) | self._with_parents(f"{base}.{alias.name}")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                if node.value in self.files:
                    found |= self._with_parents(node.value)
        if not module:
            for name in re.findall(rf"\b{self.package.name}(?:\.\w+)+", source):
                found |= self._with_parents(name)
        if re.search(r"\bgenrec-lite\b", source) and not module:
            found |= self._with_parents(f"{self.package.name}.cli")
        return found

    def closure(self, modules: Iterable[str]) -> set[str]:
        """Return `modules` and all that they import, directly or not."""
        reached: set[str] = set()
        waiting = list(modules)
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting += self.named_in(self.files[name].read_text(encoding="utf-8"), name)
        return reached

    def sources(self, modules: Iterable[str]) -> set[Path]:
        """Return the files of `modules`, and what lies beside a package's __init__ but Python."""
        paths = {self.files[name] for name in modules}
        for init in [path for path in paths if path.name == "__init__.py"]:
            paths |= {p for p in init.parent.iterdir() if p.is_file() and p.suffix != ".py"}
        return paths


def _records(folder: Path, text: str) -> set[Path]:
    """Return the records of full-size runs that `text` loads, whether they exist or not.

    Once it loads one, every record that it names counts; if it computes a name, all do.
    """
    calls = re.findall(r"(?<!def )\bload_record\(\s*(?:[\"']([^\"']+)[\"'])?", text)
    if not calls:
        return set()
    literal = {folder / f"{name}.json" for name in calls if name}
    return literal | {p for p in folder.glob("*.json") if p.stem in text or "" in calls}


def _outside(folder: Path, text: str) -> dict[str, str]:
    """Return the size and time of those files of a data folder, or one below, that `text` names.

    Their contents are not read: they may be gigabytes.
    """
    found = {}
    for path in [*folder.glob("*"), *folder.glob("*/*")]:
        if path.is_file() and all(part in text for part in path.relative_to(folder).parts):
            stat = path.stat()
            found[str(path)] = f"{stat.st_size} bytes, {stat.st_mtime_ns} ns"
    return found


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def dependencies(
    book: Book, chapter: Chapter, profile: str, graph: ModuleGraph | None = None
) -> dict[str, str]:
    """Return what the outputs of `chapter` under `profile` depend on: {name: value or digest}."""
    graph = graph or ModuleGraph(book.root / book.package)
    modules = graph.closure({m for cell in chapter.code for m in graph.named_in(cell)})
    paths = {chapter.path, *graph.sources(modules), *book.data(chapter.stem)}
    parameters = book.parameters(chapter.stem, profile)
    texts = [p.read_text(encoding="utf-8") for p in paths if p.suffix == ".py"]
    text = "\n".join([*chapter.code, json.dumps(parameters), *texts])
    for data in (book.root / "data").rglob("*"):
        if data.is_file() and data.suffix != ".py" and data.name in text:
            paths.add(data)
    paths |= _records(book.root / "book" / "results", text)
    found = {p.relative_to(book.root).as_posix(): digest(p) for p in sorted(paths)}
    found |= {f"runner {n}": digest(Path(__file__).with_name(n)) for n in MACHINERY}
    found |= {f"parameter {n}": json.dumps(v, sort_keys=True) for n, v in parameters.items()}
    found |= {f"version of {name}": number for name, number in _versions().items()}
    if folder := os.environ.get("GENREC_LITE_DATA"):
        found["GENREC_LITE_DATA"] = folder
        found |= _outside(Path(folder), text)
    return found | _outside(Path(pooch.os_cache("genrec-lite")), text)


def key(found: dict[str, str]) -> str:
    """Return one short fingerprint of what `dependencies` found."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return the names whose values differ between two results of `dependencies`."""
    return sorted(n for n in before.keys() | now.keys() if before.get(n) != now.get(n))
