"""Data sets from their publishers: verified, resumable, one download however many ask."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pooch
from filelock import FileLock
from tqdm import tqdm

from genrec_lite.datasets.catalogue import default_cache_dir, entry
from genrec_lite.datasets.columns import InteractionsError

__all__ = ["SOURCES", "DownloadError", "Source", "download", "fetch"]

CHUNK_BYTES = 2**20
TIMEOUT_SECONDS = 30


class DownloadError(OSError):
    """A file that could not be fetched: the message says from where, why, and what to do."""


@dataclass(frozen=True)
class Source:
    """A zip file at its publisher, holding one folder named like the data set.

    Args:
        url: where it lies.
        md5: hexadecimal checksum, as the publisher gives it in `<url>.md5`.
    """

    url: str
    md5: str


_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
SOURCES: dict[str, Source] = {
    "ml-100k": Source(f"{_GROUPLENS}/ml-100k.zip", "0e33842e24a9c977be4e0107933c0723"),
    "ml-1m": Source(f"{_GROUPLENS}/ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906"),
    "ml-20m": Source(f"{_GROUPLENS}/ml-20m.zip", "cd245b17a1ae2cc31bb14903e1204af3"),
}


def fetch(name: str, cache_dir: Path | str | None = None) -> Path:
    """The folder of a data set in the cache, downloaded and unpacked unless it is there already.

    A second process that asks for the same data set waits for the first. The folder appears only
    when it is complete.

    Args:
        name: one of `SOURCES`.
        cache_dir: where to keep it; the user's cache folder unless given. `load` finds another
            folder when GENREC_LITE_DATA is set to it.
    Raises:
        InteractionsError: if no data set has that name, or it is not one to fetch.
        DownloadError: if it cannot be downloaded, verified, unpacked or written.
    """
    file = entry(name).file
    if name not in SOURCES:
        raise InteractionsError(
            f"{name} has no publisher to fetch it from: fetch one of {', '.join(SOURCES)}. "
            f"For {name}: {entry(name).obtain}"
        )
    cache = default_cache_dir() if cache_dir is None else Path(cache_dir)
    archive = cache / f"{name}.zip"
    with _writing_to(archive):
        cache.mkdir(parents=True, exist_ok=True)
        # Released by the operating system, too, should the process be killed.
        with FileLock(cache / f"{name}.lock"):
            if not (cache / file).is_file():
                _make_room(cache / name, file)
                download(SOURCES[name].url, archive, md5=SOURCES[name].md5)
                _unpack(archive, name, file)
                archive.unlink()
    return cache / name


def download(url: str, path: Path, *, md5: str) -> Path:
    """`path`, holding the verified file at `url`.

    The bytes go to `<path>.part` first; a later call goes on where an interrupted one stopped,
    if the server can. A file with another checksum is deleted.

    Raises:
        DownloadError: if the server fails, stops early, or sends other bytes than `md5` says.
    """
    if path.is_file() and pooch.file_hash(str(path), alg="md5") == md5:
        return path
    part = _part(path)
    done = part.stat().st_size if part.exists() else 0
    try:
        with _connected(url, path):
            response = _open(url, start=done)
        with response:
            if done and response.status != 206:  # the server sends the whole file again
                done = 0
            total = done + int(response.headers.get("Content-Length") or 0)
            with (
                part.open("ab" if done else "wb") as file,
                tqdm(
                    desc=path.name,
                    initial=done,
                    total=total or None,
                    unit="B",
                    unit_scale=True,
                    disable=None,  # no bar where nobody looks, as in a log file
                ) as bar,
            ):
                while chunk := _read(response, url, path):
                    file.write(chunk)
                    bar.update(len(chunk))
    except HTTPError as error:
        if error.code == 416:  # the part is as long as the file or longer: let the checksum decide
            return _verified(part, path, url, md5)
        raise DownloadError(
            f"{url} answers {error.code} {error.reason}: try later, or see whether it has moved"
        ) from error
    if part.stat().st_size < total:
        reason = f"the server stopped after {part.stat().st_size:,} of {total:,} bytes"
        raise DownloadError(_unfinished(url, path, reason))
    return _verified(part, path, url, md5)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _open(url: str, start: int) -> HTTPResponse:
    headers = {"User-Agent": "genrec-lite", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    return response


def _read(response: HTTPResponse, url: str, path: Path) -> bytes:
    with _connected(url, path):
        return response.read(CHUNK_BYTES)


@contextmanager
def _connected(url: str, path: Path) -> Iterator[None]:
    """Turns a failure of the connection, of whatever kind, into an error that says how to go on."""
    try:
        yield
    except HTTPError:
        raise
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise DownloadError(_unfinished(url, path, f"no connection ({reason})")) from error


def _unfinished(url: str, path: Path, reason: str) -> str:
    return (
        f"{url}: {reason}. Run the same command again: it goes on where it stopped. "
        f"Or download it by other means and save it as {_part(path)}"
    )


def _verified(part: Path, path: Path, url: str, md5: str) -> Path:
    """`path`, renamed from `part` if the checksum is right; else `part` is deleted."""
    found = pooch.file_hash(str(part), alg="md5")
    if found != md5:
        part.unlink()
        raise DownloadError(
            f"{url} has the MD5 checksum {found}, not {md5}: damaged on the way, or changed by the "
            "publisher. The file was deleted; run the same command again"
        )
    return part.replace(path)


def _make_room(target: Path, file: str) -> None:
    """Removes an empty folder `target`; one that holds anything is the user's, and stays."""
    if not target.exists():
        return
    if not target.is_dir() or any(target.iterdir()):
        raise DownloadError(
            f"{target} exists but lacks {Path(file).name}: move it away, or choose another folder "
            "with --cache-dir"
        )
    target.rmdir()


def _unpack(archive: Path, name: str, file: str) -> None:
    """Puts the folder `name` of the zip file beside it, complete or not at all."""
    scratch, target = archive.parent / f".{name}.unpacking", archive.parent / name
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    try:
        with zipfile.ZipFile(archive) as content:
            content.extractall(scratch)
        if not (scratch / file).is_file():
            raise DownloadError(f"{archive} holds no {file}: the publisher has changed it")
        os.replace(scratch / name, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _writing_to(archive: Path) -> Iterator[None]:
    """Turns a full disk or a forbidden folder into an error that says what to do."""
    cache = archive.parent
    try:
        yield
    except DownloadError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _part(archive).unlink(missing_ok=True)
            archive.unlink(missing_ok=True)
            why = f"the disk of {cache} is full; what was written of the download is deleted"
        else:
            why = f"cannot write to {cache} ({error.strerror or error})"
        raise DownloadError(f"{why}: free it, or choose another folder with --cache-dir") from error
