"""Execute the chapters whose outputs are out of date; one run feeds the tests and the site.

python book/run_chapters.py --profile smoke|book|full [--jobs 2] [--force] [chapter ...]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

import fingerprint
from environment import environment
from layout import PROFILES, Book, BookError, Chapter

EXECUTE = Path(__file__).with_name("execute.py")


class ChapterFailed(BookError):
    """A cell of a chapter failed; the message shows which, its source and its traceback."""


@dataclass(frozen=True)
class _Job:
    """One chapter that has to run."""

    chapter: Chapter
    parameters: dict[str, Any]
    fingerprint: dict[str, Any]
    seconds: float  # of the last run; infinite when there was none
    reason: str


@dataclass(frozen=True)
class _Running:
    job: _Job
    process: subprocess.Popen[bytes]
    since: float
    failure: Path
    log: Path


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what the runner wrote into an executed notebook; {} when there is none to read."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        return dict(notebook["metadata"]["genrec"])
    except (OSError, ValueError, KeyError):
        return {}


def _reason(before: dict[str, Any], depends: dict[str, str], force: bool) -> str:
    """Return why a chapter has to run; an empty string when its outputs are up to date."""
    if not before:
        return "first run"
    changed = fingerprint.changes(before.get("depends", {}), depends)
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        return f"changed: {', '.join(changed[:3])}{more}"
    return "forced" if force else ""


def _plan(book: Book, profile: str, only: Iterable[str], force: bool) -> tuple[list[_Job], int]:
    """Return the chapters to run, longest first, and how many are up to date."""
    graph = fingerprint.ModuleGraph(book.root / book.package)
    jobs = []
    chapters = book.chapters(only)
    for chapter in chapters:
        depends = fingerprint.dependencies(book, chapter, profile, graph)
        before = read_metadata(book.executed(profile) / f"{chapter.stem}.ipynb")
        if reason := _reason(before, depends, force):
            print_of_it = {"key": fingerprint.key(depends), "depends": depends}
            parameters = book.parameters(chapter.stem, profile)
            seconds = before.get("seconds", float("inf"))
            jobs.append(_Job(chapter, parameters, print_of_it, seconds, reason))
    return sorted(jobs, key=lambda j: -j.seconds), len(chapters) - len(jobs)


def _start(book: Book, profile: str, job: _Job, threads: int, scratch: Path) -> _Running:
    stem = job.chapter.stem
    log = scratch / f"{stem}.log"
    failure = scratch / f"{stem}.failure.json"
    description = {
        "chapter": str(job.chapter.path),
        "parameters": job.parameters,
        "profile": profile,
        "fingerprint": job.fingerprint,
        "destination": str(book.executed(profile) / f"{stem}.ipynb"),
        "failure": str(failure),
    }
    request = scratch / f"{stem}.job.json"
    request.write_text(json.dumps(description), encoding="utf-8")
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, str(EXECUTE), str(request)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment(book.root, threads, scratch),
            start_new_session=True,  # Ctrl-C reaches us alone; we then end our processes
        )
    return _Running(job, process, time.monotonic(), failure, log)


def _stop(running: _Running) -> None:
    """End a chapter's process, its kernel and all that the kernel started."""
    try:
        worker = psutil.Process(running.process.pid)
        worker.suspend()  # it starts nothing more while we look
        family = [*worker.children(recursive=True), worker]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    running.process.wait()
    psutil.wait_procs(family, timeout=5)


def _describe(book: Book, running: _Running) -> str:
    """Return the message for a chapter that failed."""
    path = running.job.chapter.path.relative_to(book.root)
    if not running.failure.exists():
        tail = running.log.read_text(encoding="utf-8", errors="replace")[-3000:]
        return f"{path}: its process ended with code {running.process.returncode}.\n{tail}"
    failure = json.loads(running.failure.read_text(encoding="utf-8"))
    if failure["cell"] is None:
        return f"{path}: the kernel did not start. {failure['error']}\n{failure['traceback']}"
    source = "\n".join(f"    {line}" for line in failure["source"].splitlines())
    return (
        f"{path}, code cell {failure['cell']} (line {failure['line']}) failed: {failure['error']}"
        f"\n\n{source}\n\n{failure['traceback']}".rstrip()
    )


def run(
    profile: str,
    *,
    book: Book | None = None,
    only: Iterable[str] = (),
    jobs: int = 2,
    force: bool = False,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Return the executed notebooks, in the book's order, after running those out of date.

    Args:
        profile: "smoke", "book" or "full".
        only: parts of names; without any, all chapters.
        jobs: how many chapters run at once, each in processes of its own.
        force: run also what is up to date.
    Raises:
        ChapterFailed: at the first failing cell; the other running chapters are ended.
        BookError: if a chapter, profile or parameter does not exist.
    """
    book = book or Book()
    if profile not in PROFILES:
        raise BookError(f"No profile {profile!r}; there are {', '.join(PROFILES)}.")
    if jobs < 1:
        raise BookError(f"--jobs must be at least 1, not {jobs}.")
    only = list(only)
    if not only:  # a chapter that is gone must not count as one of the book's
        known = {chapter.stem for chapter in book.chapters()}
        for notebook in book.executed(profile).glob("*.ipynb"):
            if notebook.stem not in known:
                notebook.unlink()
    waiting, cached = _plan(book, profile, only, force)
    together = min(jobs, len(waiting))
    say(f"chapters at {profile} size: {cached} up to date, {len(waiting)} to run")
    left = len(waiting)
    running: list[_Running] = []
    with tempfile.TemporaryDirectory(prefix="genrec-") as folder:
        try:
            while waiting or running:
                while waiting and len(running) < together:
                    job = waiting.pop(0)
                    say(f"  {job.chapter.stem:28s} starts ({job.reason})")
                    threads = max(1, cores() // together)
                    running.append(_start(book, profile, job, threads, Path(folder)))
                time.sleep(0.05)
                for one in [r for r in running if r.process.poll() is not None]:
                    running.remove(one)
                    if one.process.returncode:
                        raise ChapterFailed(_describe(book, one))
                    left -= 1
                    seconds = time.monotonic() - one.since
                    stem = one.job.chapter.stem
                    say(f"  {stem:28s} done in {seconds:5.1f} s, {left} left")
        finally:
            for one in running:
                _stop(one)
    return [book.executed(profile) / f"{c.stem}.ipynb" for c in book.chapters(only)]


def as_command(work: Callable[[], None]) -> int:
    """Return the exit status of `work`: 0, 1 after a BookError (printed), 130 when interrupted."""
    endings = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heeded = [s for s in endings if signal.getsignal(s) != signal.SIG_IGN]  # nohup ignores one

    def interrupt(*_: object) -> None:
        for number in heeded:  # a second one would cut short the ending of the processes
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in heeded:
        signal.signal(number, interrupt)
    try:
        work()
    except BookError as error:
        print(f"\n{error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Finished chapters are kept; the same command goes on from there.")
        return 130
    return 0


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that running and building share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--profile", choices=PROFILES, default="book")
    parser.add_argument("--jobs", type=int, default=2, help="chapters at once (2)")
    return parser


def main() -> int:
    """Run the command line and return its exit status."""
    parser = arguments("Execute the chapters whose outputs are out of date.")
    parser.add_argument("chapter", nargs="*", help="part of a chapter's name; all without")
    parser.add_argument("--force", action="store_true", help="run also what is up to date")
    given = parser.parse_args()

    def work() -> None:
        def say(line: str) -> None:
            print(line, flush=True)

        run(given.profile, only=given.chapter, jobs=given.jobs, force=given.force, say=say)

    return as_command(work)


if __name__ == "__main__":
    sys.exit(main())
