"""What surrounds a chapter while it runs: the variables of its process and its kernel."""

from __future__ import annotations

import os
from pathlib import Path

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "POLARS_MAX_THREADS",
)


def environment(root: Path, threads: int, scratch: Path) -> dict[str, str]:
    """Return the environment of a chapter's process, and so of its kernel.

    Args:
        root: the book's root, which is put on Python's path.
        threads: for each numerical library, unless the reader has set its number, or OpenMP's.
        scratch: a folder that is deleted after the run.
    """
    path = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    wanted = os.environ.get("OMP_NUM_THREADS", str(threads))  # the others follow it
    limits = {name: os.environ.get(name, wanted) for name in THREAD_VARIABLES}
    return {
        **os.environ,
        **limits,
        "GENREC_BOOK": "1",
        "IPYTHONDIR": str(scratch / "ipython"),  # the reader's own profile must not show
        "JUPYTER_PLATFORM_DIRS": "1",
        "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join(path),
    }
