"""Lay out the source tree of the site, with the notebooks already executed.

Everything that the site serves is in it, JavaScript included; Sphinx executes nothing and fetches
nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import shutil
from importlib.metadata import distribution
from pathlib import Path

import yaml

from layout import Book, BookError, digest, toc_files

# Pages written from the records of the executed chapters: {page: module that writes it}.
GENERATED = {"book/results.md": "results_page", "book/timings.md": "timings_page"}
# The scripts that the site serves itself: {name under _static/js: (distribution, file in it)}.
SCRIPTS = {
    "plotly.min.js": ("plotly", "plotly/package_data/plotly.min.js"),
    "mathjax/tex-svg.js": (
        "sphinx-mathjax-offline",
        "sphinx-mathjax-offline/static/mathjax/tex-svg-full.js",  # with all of TeX's extensions
    ),
}
# What the book's folder holds beside its pages.
NOT_STAGED = {".py", ".json", ".ipynb"}
BOOK_SCRIPTS = "_ext"


def _files(folder: Path) -> list[Path]:
    """Return the files under `folder` but hidden ones and what Python compiled."""

    def shown(path: Path) -> bool:
        parts = path.relative_to(folder).parts
        return not any(part.startswith(".") or part == "__pycache__" for part in parts)

    return [p for p in sorted(folder.rglob("*")) if p.is_file() and shown(p)]


def _inputs(book: Book, profile: str) -> dict[str, Path]:
    """Return the files to copy: {path in the staged tree: file}."""
    root = book.root
    found = {"_toc.yml": root / "_toc.yml"}
    for path in _files(root / "book"):
        relative = path.relative_to(root)
        if BOOK_SCRIPTS in relative.parts or path.suffix not in NOT_STAGED:
            found[relative.as_posix()] = path
    for path in _files(root / "chapters"):  # pictures; the chapters themselves come executed
        if path.suffix not in (".md", ".yml", ".ipynb"):
            found[path.relative_to(root).as_posix()] = path
    for path in _files(root / book.package):  # for pages that include source
        if path.suffix == ".py":
            found[path.relative_to(root).as_posix()] = path
    for chapter in book.chapters():
        notebook = book.executed(profile) / f"{chapter.stem}.ipynb"
        if not notebook.exists():
            raise BookError(f"{notebook} is missing: run the chapters at {profile} size first.")
        page = chapter.path.relative_to(root)
        found.pop(page.as_posix(), None)
        found[page.with_suffix(".ipynb").as_posix()] = notebook
    for name, (package, path_in_it) in SCRIPTS.items():
        script = Path(str(distribution(package).locate_file(path_in_it)))
        if not script.exists():
            raise BookError(f"The package {package} no longer holds {path_in_it}.")
        found[f"book/_static/js/{name}"] = script
    return found


def _check_toc(book: Book, staged: Path) -> None:
    """Raise BookError unless the table of contents and the executable pages agree."""
    pages = toc_files(book.root / "_toc.yml")
    for page in pages:
        if not any((staged / f"{page}{suffix}").exists() for suffix in (".md", ".ipynb")):
            raise BookError(f"_toc.yml names {page}, but there is no file {page}.md.")
    for chapter in book.chapters():
        page = chapter.path.relative_to(book.root).with_suffix("").as_posix()
        if page not in pages:
            raise BookError(f"{page}.md is not in _toc.yml: add a line `- file: {page}`.")


def stage(book: Book, profile: str) -> Path:
    """Return the folder of the staged tree, made anew from the notebooks executed at `profile`.

    Raises:
        BookError: if a page of the table of contents is missing, or a chapter is not in it.
    """
    target = book.site_folder(profile) / "src"
    shutil.rmtree(target, ignore_errors=True)
    for name, path in _inputs(book, profile).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
    for page, module in GENERATED.items():
        try:
            importlib.import_module(module).write(book.executed(profile), target / page)
        except ValueError as error:  # a claim, or a record that does not exist
            raise BookError(f"{page} could not be written: {error}") from error
    config = yaml.safe_load((book.root / "_config.yml").read_text(encoding="utf-8"))
    config.setdefault("execute", {})["execute_notebooks"] = "off"
    (target / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    _check_toc(book, target)
    return target


def tree_digest(folder: Path) -> str:
    """Return a fingerprint of all files under `folder`: their names and contents."""
    names = [f"{p.relative_to(folder).as_posix()} {digest(p)}" for p in _files(folder)]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
