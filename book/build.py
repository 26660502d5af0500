"""Run the chapters, then build the site from what they left: `python book/build.py`."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path

from filelock import FileLock, Timeout

from layout import Book, BookError, digest, plain, toc_files
from run_chapters import arguments, as_command, run
from stage import stage, tree_digest

# A page with fewer words than this, its heading aside, counts as empty.
MINIMUM_WORDS = 5
# `layout` first: it makes the imports that follow faster.
JUPYTER_BOOK = "import layout; from jupyter_book.cli.main import main; main()"


class SiteFailed(BookError):
    """The site could not be built; the message holds the warnings and errors."""


def _key(source: Path) -> str:
    """Return what the site depends on: the staged tree, this file and all installed versions."""
    installed = sorted(f"{d.name}=={d.version}" for d in distributions())
    parts = [tree_digest(source), digest(Path(__file__)), *installed]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _sphinx(book: Book, source: Path, output: Path, log: Path) -> Path:
    """Build `source` from nothing and return the folder of the pages.

    Never on top of an older build: Sphinx repeats no warning of a page that it does not read
    again, so that a failed build would pass when repeated.
    """
    shutil.rmtree(output, ignore_errors=True)
    path = [str(Path(__file__).parent), str(book.root), *filter(None, [os.getenv("PYTHONPATH")])]
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", str(source)]
    command += ["--path-output", str(output), "-n", "-W", "--keep-going"]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "NO_COLOR": "1"},
        text=True,
        errors="replace",
    )
    text = plain(done.stdout)
    log.write_text(text, encoding="utf-8")
    if done.returncode:
        marks = re.compile(r"WARNING|ERROR|CRITICAL|Error:|Exception")
        lines = [line for line in text.splitlines() if marks.search(line)]
        shown = "\n".join(lines or text.splitlines()[-30:])
        raise SiteFailed(f"The site was not built (whole log: {log}):\n{shown}")
    return output / "_build" / "html"


def _words(page: Path) -> int:
    """Return how many words a page holds, without its heading, scripts and navigation."""
    text = page.read_text(encoding="utf-8")
    article = re.search(r"<article\b.*</article>", text, flags=re.DOTALL)
    body = article[0] if article else ""
    body = re.sub(r"<(script|style|h1)\b.*?</\1>", " ", body, flags=re.DOTALL)
    return len(re.sub(r"<[^>]*>", " ", body).split())


def check_pages(html: Path, toc: Path) -> None:
    """Raise SiteFailed unless every page of the table of contents was built and holds text."""
    for name in toc_files(toc):
        page = html / f"{name}.html"
        if not page.exists():
            raise SiteFailed(f"{name} is in the table of contents, but {page} was not built.")
        if (words := _words(page)) < MINIMUM_WORDS:
            raise SiteFailed(f"{page} is empty: {words} words beside its heading.")


@contextmanager
def _alone(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other builds of the site in `folder` waiting while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "build.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("waiting for another build")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def build(
    profile: str,
    *,
    book: Book | None = None,
    jobs: int = 2,
    say: Callable[[str], None] = print,
) -> Path:
    """Return the folder of the built site; what is up to date is neither run nor built again.

    Raises:
        BookError: if a chapter or the site fails; an older site then stays as it was.
    """
    book = book or Book()
    with _alone(book.site_folder(profile), say):
        run(profile, book=book, jobs=jobs, say=say)
        return _site(book, profile, say)


def _site(book: Book, profile: str, say: Callable[[str], None]) -> Path:
    """Return the folder of the site made of the executed notebooks."""
    folder = book.site_folder(profile)
    source = stage(book, profile)
    html, stamp = folder / "html", folder / "site.key"
    key = _key(source)
    if html.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == key:
        check_pages(html, book.root / "_toc.yml")
        say("site: up to date")
        return html
    say("site: building")
    start = time.monotonic()
    stamp.unlink(missing_ok=True)
    built = _sphinx(book, source, folder / "site", folder / "site.log")
    check_pages(built, book.root / "_toc.yml")
    shutil.rmtree(html, ignore_errors=True)
    built.replace(html)
    shutil.rmtree(folder / "site")
    stamp.write_text(key, encoding="utf-8")
    say(f"site: built in {time.monotonic() - start:.1f} s")
    return html


def main() -> int:
    """Run the command line and return its exit status."""
    given = arguments("Run the chapters and build the site.").parse_args()

    def work() -> None:
        def say(line: str) -> None:
            print(line, flush=True)

        html = build(given.profile, jobs=given.jobs, say=say)
        say(f"{html / 'index.html'}")

    return as_command(work)


if __name__ == "__main__":
    sys.exit(main())
