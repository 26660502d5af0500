from __future__ import annotations

import errno
import hashlib
import io
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPResponse, IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from genrec_lite.datasets import InteractionsError, download
from genrec_lite.datasets.download import DownloadError, Source, fetch

RATINGS = b"".join(b"%d::%d::3::100\n" % (row % 97 + 1, row * row % 89 + 1) for row in range(9999))


def zipped(file: str = "ml-1m/ratings.dat") -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(file, RATINGS)
    return content.getvalue()


@dataclass
class Publisher:
    """A server on this machine; its fields say how it behaves and what it was asked."""

    content: bytes = field(default_factory=zipped)
    md5: str = ""
    url: str = ""
    stops_after: int | None = None  # bytes of one answer, then the connection closes
    takes_ranges: bool = True
    status: int = 200
    asked: list[str] = field(default_factory=list)  # the Range header of each request

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range", "")
        self.asked.append(asked)
        start = int(asked[len("bytes=") : -1]) if asked and self.takes_ranges else 0
        if self.status != 200 or start >= len(self.content):
            request.send_error(self.status if self.status != 200 else 416)
            return
        body = self.content[start:]
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: self.stops_after])


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    publisher = Publisher()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            publisher.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            """Keeps the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    publisher.md5 = hashlib.md5(publisher.content).hexdigest()
    publisher.url = f"http://127.0.0.1:{server.server_port}/ml-1m.zip"
    monkeypatch.setitem(download.SOURCES, "ml-1m", Source(publisher.url, publisher.md5))
    yield publisher
    server.shutdown()
    server.server_close()


def files(folder: Path) -> set[str]:
    """What lies in the cache besides locks."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)) for path in found}


DONE = {"ml-1m/ratings.dat"}


def test_a_data_set_is_fetched_once_and_nothing_else_is_left(
    publisher: Publisher, tmp_path: Path
) -> None:
    folder = fetch("ml-1m", tmp_path / "new" / "cache")
    assert (folder / "ratings.dat").read_bytes() == RATINGS
    assert files(tmp_path / "new" / "cache") == DONE
    assert fetch("ml-1m", tmp_path / "new" / "cache") == folder
    assert len(publisher.asked) == 1


def test_a_server_gone_half_way_leaves_a_part_from_which_the_next_run_goes_on(
    publisher: Publisher, tmp_path: Path
) -> None:
    publisher.stops_after = 1000
    with pytest.raises(DownloadError, match="stopped after 1,000 of .*goes on where it stopped"):
        fetch("ml-1m", tmp_path)
    assert files(tmp_path) == {"ml-1m.zip.part"}
    publisher.stops_after = None
    fetch("ml-1m", tmp_path)
    assert publisher.asked == ["", "bytes=1000-"]
    assert files(tmp_path) == DONE


def test_a_server_that_takes_no_ranges_sends_the_whole_file_again(
    publisher: Publisher, tmp_path: Path
) -> None:
    (tmp_path / "ml-1m.zip.part").write_bytes(b"x" * 500)
    publisher.takes_ranges = False
    fetch("ml-1m", tmp_path)
    assert publisher.asked == ["bytes=500-"]
    assert files(tmp_path) == DONE


def test_a_truncated_file_that_claims_to_be_whole_fails_its_checksum(
    publisher: Publisher, tmp_path: Path
) -> None:
    publisher.content = publisher.content[:-10]
    with pytest.raises(DownloadError, match=f"not {publisher.md5}"):
        fetch("ml-1m", tmp_path)
    assert files(tmp_path) == set()


def test_a_wrong_checksum_deletes_the_file_and_says_so(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(download.SOURCES, "ml-1m", Source(publisher.url, "0" * 32))
    with pytest.raises(DownloadError, match=f"{publisher.md5}, not {'0' * 32}.*was deleted"):
        fetch("ml-1m", tmp_path)
    assert files(tmp_path) == set()


def test_a_damaged_part_is_deleted_and_the_run_after_starts_anew(
    publisher: Publisher, tmp_path: Path
) -> None:
    (tmp_path / "ml-1m.zip.part").write_bytes(b"x" * 500)
    with pytest.raises(DownloadError, match="checksum"):
        fetch("ml-1m", tmp_path)
    assert files(tmp_path) == set()
    fetch("ml-1m", tmp_path)
    assert publisher.asked == ["bytes=500-", ""]


@pytest.mark.parametrize("extra", [b"", b"too much"])
def test_a_part_at_least_as_long_as_the_file_is_judged_by_its_checksum(
    publisher: Publisher, tmp_path: Path, extra: bytes
) -> None:
    (tmp_path / "ml-1m.zip.part").write_bytes(publisher.content + extra)
    if extra:
        with pytest.raises(DownloadError, match="checksum"):
            fetch("ml-1m", tmp_path)
    fetch("ml-1m", tmp_path)
    assert files(tmp_path) == DONE


def test_a_verified_zip_of_a_run_that_was_killed_while_unpacking_is_not_fetched_again(
    publisher: Publisher, tmp_path: Path
) -> None:
    (tmp_path / "ml-1m.zip").write_bytes(publisher.content)
    (tmp_path / ".ml-1m.unpacking").mkdir()
    (tmp_path / ".ml-1m.unpacking" / "rest").touch()
    fetch("ml-1m", tmp_path)
    assert publisher.asked == []
    assert files(tmp_path) == DONE


def test_a_publisher_that_answers_with_an_error_is_named_with_its_status(
    publisher: Publisher, tmp_path: Path
) -> None:
    publisher.status = 404
    with pytest.raises(DownloadError, match=f"{re.escape(publisher.url)} answers 404 Not Found"):
        fetch("ml-1m", tmp_path)


def test_a_server_that_is_not_there_is_named_and_other_means_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(download.SOURCES, "ml-1m", Source("http://127.0.0.1:9/a.zip", "0" * 32))
    with pytest.raises(DownloadError, match="no connection .*save it as .*ml-1m.zip.part"):
        fetch("ml-1m", tmp_path)


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.EHOSTUNREACH, "No route to host"), TimeoutError(), IncompleteRead(b"")],
)
def test_a_connection_lost_while_reading_is_not_taken_for_a_folder_that_cannot_be_written_to(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def read(response: HTTPResponse, amount: int) -> bytes:
        raise failure

    monkeypatch.setattr(HTTPResponse, "read", read)
    with pytest.raises(DownloadError, match="no connection .*goes on where it stopped"):
        fetch("ml-1m", tmp_path)


def test_a_zip_without_the_expected_file_is_refused(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.content = zipped("ml-1m/other.dat")
    md5 = hashlib.md5(publisher.content).hexdigest()
    monkeypatch.setitem(download.SOURCES, "ml-1m", Source(publisher.url, md5))
    with pytest.raises(DownloadError, match="holds no ml-1m/ratings.dat"):
        fetch("ml-1m", tmp_path)
    assert not (tmp_path / "ml-1m").exists()


def test_a_folder_that_holds_something_else_is_left_alone(
    publisher: Publisher, tmp_path: Path
) -> None:
    (tmp_path / "ml-1m").mkdir()
    (tmp_path / "ml-1m" / "my_notes.txt").touch()
    with pytest.raises(DownloadError, match="ml-1m exists but lacks ratings.dat: move it away"):
        fetch("ml-1m", tmp_path)
    assert files(tmp_path) == {"ml-1m/my_notes.txt"}
    assert publisher.asked == []


def test_a_file_in_the_place_of_the_folder_is_left_alone(
    publisher: Publisher, tmp_path: Path
) -> None:
    (tmp_path / "ml-1m").touch()
    with pytest.raises(DownloadError, match="ml-1m exists but lacks ratings.dat"):
        fetch("ml-1m", tmp_path)
    assert files(tmp_path) == {"ml-1m"}


def test_an_empty_folder_is_filled(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "ml-1m").mkdir()
    fetch("ml-1m", tmp_path)
    assert files(tmp_path) == DONE


FETCH_IN_A_PROCESS = """
import sys
from genrec_lite.datasets import download
url, md5, cache = sys.argv[1:]
download.SOURCES["ml-1m"] = download.Source(url, md5)
print("ready", flush=True)
print(download.fetch("ml-1m", cache))
"""


def test_two_processes_at_once_download_once(publisher: Publisher, tmp_path: Path) -> None:
    # The first answer is held back until both processes are at the door.
    both_ready, plain_answer = threading.Event(), publisher.answer

    def answer_late(request: BaseHTTPRequestHandler) -> None:
        both_ready.wait(60)
        plain_answer(request)

    publisher.answer = answer_late  # type: ignore[method-assign]
    command = [
        sys.executable, "-c", FETCH_IN_A_PROCESS, publisher.url, publisher.md5, str(tmp_path),
    ]  # fmt: skip
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.3)  # long enough for the second to ask for the lock
    both_ready.set()
    for process in started:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out.strip() == str(tmp_path / "ml-1m")
    assert len(publisher.asked) == 1
    assert files(tmp_path) == DONE


class FullDisk:
    """A file open for writing on a disk with no room."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self.file = file

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, chunk: bytes) -> int:
        self.file.write(chunk[:100])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_named_and_freed_of_the_part(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_open = Path.open

    def open_on_full_disk(path: Path, mode: str = "r", *rest: object) -> object:
        file = plain_open(path, mode, *rest)  # type: ignore[call-overload]
        return FullDisk(file) if path.suffix == ".part" and mode == "wb" else file

    monkeypatch.setattr(Path, "open", open_on_full_disk)
    with pytest.raises(DownloadError, match=f"disk of {tmp_path} is full.*--cache-dir"):
        fetch("ml-1m", tmp_path)
    assert files(tmp_path) == set()


def test_a_disk_that_fills_while_unpacking_leaves_no_half_of_a_folder(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def extract_half(archive: zipfile.ZipFile, folder: Path) -> None:
        (folder / "ml-1m").mkdir(parents=True)
        (folder / "ml-1m" / "ratings.dat").write_bytes(RATINGS[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", extract_half)
    with pytest.raises(DownloadError, match="is full"):
        fetch("ml-1m", tmp_path)
    assert files(tmp_path) == set()


def test_a_cache_that_cannot_be_a_folder_is_named(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=f"cannot write to {tmp_path}/file/cache.*--cache-dir"):
        fetch("ml-1m", tmp_path / "file" / "cache")
    assert publisher.asked == []


def test_a_folder_without_write_permission_is_named(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere, so the refusal is made here.
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DownloadError, match=r"cannot write to .*\(Permission denied\)"):
        fetch("ml-1m", tmp_path)
    assert publisher.asked == []


def test_an_unknown_name_lists_the_names_there_are(tmp_path: Path) -> None:
    with pytest.raises(InteractionsError, match="'ml-2m'.*ml-100k, ml-1m, ml-20m"):
        fetch("ml-2m", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_data_set_that_is_not_fetched_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InteractionsError, match="movielens-small has no publisher.*make_movielens"):
        fetch("movielens-small", tmp_path)
