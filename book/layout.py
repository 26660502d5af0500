"""Where the book's parts lie, and what its chapters and profiles declare."""

from __future__ import annotations

import ast
import difflib
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

# jsonschema tries this import for one format that notebooks never use; building its grammar costs
# each process three seconds. As None it counts as not installed.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

import jupytext  # noqa: E402
import yaml  # noqa: E402

PROFILES = ("smoke", "book", "full")


class BookError(Exception):
    """A mistake of the author or of the machine; its message is all that the reader needs."""


def closest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean X?" for the known name nearest to `name`, or an empty string."""
    near = difflib.get_close_matches(name.lower(), {k.lower(): k for k in known}, n=1, cutoff=0.5)
    return f" Did you mean {next(k for k in known if k.lower() == near[0])}?" if near else ""


@dataclass(frozen=True)
class Chapter:
    """One executable page: a MyST Markdown notebook."""

    path: Path

    @property
    def stem(self) -> str:
        """The chapter's name: its file name without the suffix."""
        return self.path.stem

    @cached_property
    def text(self) -> str:
        """The chapter's source."""
        return self.path.read_text(encoding="utf-8")

    def notebook(self) -> Any:
        """Return a new notebook node, whose cell ids depend on the cells' positions alone."""
        notebook = jupytext.reads(self.text, fmt="md:myst")
        for position, cell in enumerate(notebook.cells):
            cell["id"] = f"cell-{position}"
        return notebook

    @cached_property
    def code(self) -> list[str]:
        """The sources of the code cells, in order."""
        return [cell.source for cell in self.notebook().cells if cell.cell_type == "code"]

    def parameters(self) -> list[str]:
        """Return the names that the cell tagged `parameters` assigns."""
        names: list[str] = []
        for cell in self.notebook().cells:
            if "parameters" in cell.metadata.get("tags", []):
                for node in ast.walk(ast.parse(cell.source)):
                    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                        names.append(node.id)
        return names

    def line_of(self, number: int) -> int:
        """Return the line of the source on which code cell `number` (1-based) begins."""
        start = 0
        for source in self.code[:number]:
            found = self.text.find(source, start)
            if found < 0:
                return 1
            line, start = self.text.count("\n", 0, found) + 1, found + len(source)
        return line


@dataclass(frozen=True)
class Book:
    """The folders of one book.

    Args:
        root: the folder that holds chapters/, book/, data/ and the package.
        build: where everything generated goes.
        package: the name of the package that the chapters import.
    """

    root: Path = Path(__file__).resolve().parents[1]
    build: Path = Path(__file__).resolve().parents[1] / "_build"
    package: str = "genrec_lite"

    def chapters(self, only: Iterable[str] = ()) -> list[Chapter]:
        """Return the executable pages, or those whose name contains one of `only`.

        Raises:
            BookError: if one of `only` fits no page.
        """
        preface = self.root / "book" / "preface.md"
        paths = [preface] if preface.exists() else []
        paths += sorted((self.root / "chapters").glob("[0-9]*.md"))
        if not paths:
            raise BookError(f"No chapter in {self.root / 'chapters'}: expected files NN_name.md.")
        for wanted in only:
            if not any(wanted in path.stem for path in paths):
                stems = [path.stem for path in paths]
                raise BookError(
                    f"No chapter is called {wanted!r}.{closest(wanted, stems)}"
                    f" There are: {', '.join(stems)}."
                )
        return [Chapter(p) for p in paths if not only or any(w in p.stem for w in only)]

    def executed(self, profile: str) -> Path:
        """Return the folder of the notebooks executed under `profile`."""
        return self.build / "executed" / profile

    def site_folder(self, profile: str) -> Path:
        """Return the folder that holds src/ and html/ of the site built from `profile`."""
        return self.build if profile == "book" else self.build / profile

    @property
    def profiles_path(self) -> Path:
        """chapters/profiles.yml."""
        return self.root / "chapters" / "profiles.yml"

    @cached_property
    def profiles(self) -> dict[str, dict[str, Any]]:
        """chapters/profiles.yml, checked against the chapters: {stem: {profile: {NAME: value}}}.

        Raises:
            BookError: if it names a chapter, a profile, a parameter or a data file there is not.
        """
        name = self.profiles_path.relative_to(self.root)
        if not self.profiles_path.exists():
            return {}
        table = yaml.safe_load(self.profiles_path.read_text(encoding="utf-8")) or {}
        chapters = {chapter.stem: chapter for chapter in self.chapters()}
        for stem, entry in table.items():
            if stem not in chapters:
                raise BookError(
                    f"{name}: there is no chapter {stem!r}.{closest(stem, chapters)}"
                    f" There are: {', '.join(chapters)}."
                )
            declared = chapters[stem].parameters()
            for key, value in (entry or {}).items():
                if key not in (*PROFILES, "data"):
                    raise BookError(
                        f"{name}, chapter {stem}: unknown key {key!r};"
                        f" expected one of {', '.join((*PROFILES, 'data'))}."
                    )
                for item in value or ():
                    if key == "data" and not (self.root / item).is_file():
                        raise BookError(f"{name}, chapter {stem}: no data file {item!r}.")
                    if key != "data" and item not in declared:
                        raise BookError(
                            f"{name}, chapter {stem}, profile {key}: unknown parameter {item!r}."
                            f"{closest(item, declared)} The chapter's parameters cell declares:"
                            f" {', '.join(declared) or 'nothing'}."
                        )
        return {stem: dict(entry or {}) for stem, entry in table.items()}

    def parameters(self, stem: str, profile: str) -> dict[str, Any]:
        """Return the values that `profile` gives to parameters of chapter `stem`."""
        return dict(self.profiles.get(stem, {}).get(profile) or {})

    def data(self, stem: str) -> list[Path]:
        """Return the data files that profiles.yml lists for chapter `stem`."""
        return [self.root / path for path in self.profiles.get(stem, {}).get("data") or ()]


def plain(text: str) -> str:
    """Return `text` without terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


def digest(path: Path) -> str:
    """Return 16 hexadecimal digits that stand for the file's content; "absent" without a file."""
    if not path.is_file():
        return "absent"
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def toc_files(toc: Path) -> list[str]:
    """Return the pages that a table of contents names, in order, without suffix."""

    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            for key in ("root", "file"):
                if key in node:
                    yield str(node[key]).removesuffix(".md").removesuffix(".ipynb")
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    return list(walk(yaml.safe_load(toc.read_text(encoding="utf-8"))))
