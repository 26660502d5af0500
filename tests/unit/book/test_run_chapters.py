import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

import run_chapters
from layout import BookError
from run_chapters import ChapterFailed, run

COMMAND = """
import sys
from pathlib import Path
from layout import Book
from run_chapters import as_command, run
book = Book(Path(sys.argv[1]), Path(sys.argv[1]) / "_build")
sys.exit(as_command(lambda: run("smoke", book=book) and None))
"""


def start(book):
    """Start the runner as a shell would, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", COMMAND, str(book.root)],
        env={**os.environ, "PYTHONPATH": str(Path(run_chapters.__file__).parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(path, seconds=60):
    end = time.monotonic() + seconds
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end, f"{path} did not appear within {seconds} s"
        time.sleep(0.05)
    return path.read_text()


def text_of(path):
    cells = nbformat.read(path, 4).cells
    return "".join(o.get("text", "") for c in cells for o in c.get("outputs", []))


def test_only_what_changed_runs_again(book):
    lines = []
    first, second = run("smoke", book=book, say=lines.append)
    assert text_of(first) == "10 7\n" and text_of(second) == "2\n"
    assert lines[-1].endswith("0 left")
    cells = nbformat.read(first, 4)
    assert cells.metadata.genrec.params == {"NUM_USERS": 7}
    assert len(cells.metadata.genrec.cell_seconds) == 2
    injected = [c for c in cells.cells if "injected-parameters" in c.metadata.tags]
    assert len(injected) == 1 and "remove-cell" in injected[0].metadata.tags

    lines.clear()
    run("smoke", book=book, say=lines.append)
    assert lines == ["chapters at smoke size: 2 up to date, 0 to run"]

    book.write("genrec_lite/metrics.py", "K = 11\n")
    lines.clear()
    run("smoke", book=book, say=lines.append)
    assert lines[0] == "chapters at smoke size: 1 up to date, 1 to run"
    assert lines[1].split() == ["01_ranks", "starts", "(changed:", "genrec_lite/metrics.py)"]
    assert text_of(first) == "11 7\n"


def test_the_longest_chapter_of_the_last_run_starts_first(book):
    for stem, seconds in {"01_ranks": 1, "02_pairs": 9}.items():
        metadata = {"genrec": {"seconds": seconds, "depends": {}}}
        book.write(f"_build/executed/smoke/{stem}.ipynb", json.dumps({"metadata": metadata}))
    jobs, cached = run_chapters._plan(book, "smoke", [], force=False)
    assert [job.chapter.stem for job in jobs] == ["02_pairs", "01_ranks"]
    assert cached == 0


def test_a_failing_cell_is_shown_and_ends_the_other_chapter(book):
    pid = book.root / "pid"
    book.chapter(
        "01_ranks", f"import os, time\nopen('{pid}', 'w').write(str(os.getpid()))\ntime.sleep(99)"
    )
    wait = f"import os, time\nwhile not os.path.exists('{pid}'): time.sleep(.05)"
    book.chapter("02_pairs", wait, "items = []\nitems[3]")
    with pytest.raises(ChapterFailed) as error:
        run("smoke", book=book, say=lambda _: None)
    message = str(error.value)
    line = book.chapters()[1].text.splitlines().index("items = []") + 1
    assert f"chapters/02_pairs.md, code cell 3 (line {line}) failed: IndexError" in message
    assert "    items[3]" in message and "Traceback" in message
    assert "\x1b" not in message
    assert not psutil.pid_exists(int(wait_for(pid)))
    assert not list(book.executed("smoke").glob("*"))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("import warnings\nwarnings.warn('odd rows')", r"it writes to stderr[\s\S]*odd rows"),
        ("import sys\nsys.exit(0)", "SystemExit: 0"),
    ],
)
def test_a_cell_that_ends_the_run_or_writes_to_stderr_fails_the_chapter(book, cell, message):
    book.chapter("02_pairs", "x = 1", cell, "print('last')")
    with pytest.raises(ChapterFailed, match=f"02_pairs.md, code cell 3 .*failed: {message}"):
        run("smoke", book=book, only=["02"], say=lambda _: None)
    assert not (book.executed("smoke") / "02_pairs.ipynb").exists()


def test_the_notebook_of_a_chapter_that_is_gone_is_deleted_by_a_whole_run_only(book, monkeypatch):
    old = book.write("_build/executed/smoke/03_renamed.ipynb", "{}")
    monkeypatch.setattr(run_chapters, "_plan", lambda *_: ([], 2))
    run("smoke", book=book, only=["02"], say=lambda _: None)
    assert old.exists()
    run("smoke", book=book, say=lambda _: None)
    assert not old.exists()


def test_a_kernel_that_dies_is_an_error_that_names_the_cell(book):
    book.chapter("02_pairs", "import os\nos._exit(3)")
    with pytest.raises(ChapterFailed, match=r"02_pairs.md, code cell 2 .*failed: DeadKernelError"):
        run("smoke", book=book, only=["02"], say=lambda _: None)


def test_an_interrupted_run_leaves_no_process_and_goes_on_where_it_was(book):
    pid, slow = book.root / "pid", book.write("slow", "yes")
    book.chapter(
        "01_ranks",
        f"import os, time\nopen('{pid}', 'w').write(str(os.getpid()))\n"
        f"while os.path.exists('{slow}'): time.sleep(.05)",
    )
    runner = start(book)
    kernel = int(wait_for(pid))
    wait_for(book.executed("smoke") / "02_pairs.ipynb")
    family = psutil.Process(runner.pid).children(recursive=True)
    assert kernel in [p.pid for p in family]
    runner.send_signal(signal.SIGINT)
    output, _ = runner.communicate(timeout=30)
    assert runner.returncode == 130, output
    assert "Finished chapters are kept" in output and "Traceback" not in output
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert [p.name for p in book.executed("smoke").iterdir()] == ["02_pairs.ipynb"]

    slow.unlink()
    again = start(book)
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0, output
    assert "1 up to date, 1 to run" in output and "01_ranks" in output
    assert (book.executed("smoke") / "01_ranks.ipynb").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_interruption_does_not_cut_short_the_ending_of_processes(number):
    command = f"""
import os, signal, sys, time
from run_chapters import as_command
def work():
    try:
        os.kill(os.getpid(), {int(number)})
        time.sleep(30)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        print("ended")
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(as_command(work))
"""
    done = subprocess.run(
        [sys.executable, "-c", command],
        env={**os.environ, "PYTHONPATH": str(Path(run_chapters.__file__).parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 130, done.stderr
    assert "ended" in done.stdout and "Finished chapters are kept" in done.stdout


def test_the_command_ends_with_1_and_no_traceback_of_its_own_when_a_profile_is_wrong(book):
    book.write("chapters/profiles.yml", "01_ranks:\n  smoke: {NUM_ITEMS: 1}\n")
    runner = start(book)
    output, _ = runner.communicate(timeout=60)
    assert runner.returncode == 1
    assert "unknown parameter 'NUM_ITEMS'" in output and "Traceback" not in output


def test_one_chapter_gets_all_cores_and_two_share_them(book, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(run_chapters, "cores", lambda: 6)
    seen = []

    def environment(root, threads, scratch):
        seen.append(real(root, threads, scratch)["OMP_NUM_THREADS"])
        return {}

    real = run_chapters.environment
    monkeypatch.setattr(run_chapters, "environment", environment)
    monkeypatch.setattr(run_chapters.sys, "executable", "/bin/true")
    run("smoke", book=book, say=lambda _: None)
    assert seen == ["3", "3"]
    run("smoke", book=book, only=["02"], say=lambda _: None)
    assert seen == ["3", "3", "6"]


@pytest.mark.parametrize("wrong", [{"profile": "big"}, {"profile": "smoke", "jobs": 0}])
def test_a_wrong_size_or_number_of_jobs_is_refused(book, wrong):
    with pytest.raises(BookError, match="No profile 'big'|at least 1, not 0"):
        run(**wrong, book=book)
