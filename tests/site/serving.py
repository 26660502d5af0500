"""The built site on a free port of this machine, and a Chromium to look at it."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "book"))  # pytest does; screenshots.py runs without it

from layout import toc_files  # noqa: E402

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
# A Chromium that may run as root, and that asks nothing of the network on its own.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def chromium() -> str | None:
    """The path of an installed Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def site_folder() -> Path:
    """The folder of the built site: GENREC_SITE, or where `make book` puts it."""
    return Path(os.environ.get("GENREC_SITE", ROOT / "_build" / "html"))


def pages() -> list[str]:
    """The pages of the table of contents, in order, without suffix."""
    return toc_files(ROOT / "_toc.yml")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which `folder` is served, on this machine only, while the block runs."""
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
