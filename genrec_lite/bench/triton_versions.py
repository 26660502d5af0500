"""The kernels' one source under several versions of Triton: does it compile, does it interpret?

    python -m genrec_lite.bench.triton_versions --record triton-versions

installs each version beside this environment, into a folder of its own, and runs there the
compiler for two GPUs and the interpreter's tests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from genrec_lite.notebook.record import write_record

__all__ = ["VERSIONS", "tried"]

ROOT = Path(__file__).resolve().parents[2]
# Triton, and what must be older with it.
VERSIONS = {"3.6.0": ["numpy==2.3.5"], "3.7.1": [], "3.9.0": []}
TESTS = "tests/unit/kernels"


def tried(version: str, packages: list[str]) -> dict[str, Any]:
    """What became of one version.

    Returns:
        "compiled", how many kernels; "spills", of them with any; "registers", the sum over all;
        "tests", the last line that pytest wrote.
    Raises:
        RuntimeError: if it cannot be installed or a kernel does not compile.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted = [f"triton=={version}", *packages]
        _run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder,
              *wanted], {})  # fmt: skip
        here = {"PYTHONPATH": f"{folder}:{ROOT}", "TRITON_CACHE_DIR": f"{folder}/cache"}
        said = _run([sys.executable, "-c", "import triton; print(triton.__version__)"], here)
        if said.strip() != version:
            raise RuntimeError(f"asked for triton {version}, imported {said.strip()}")
        only = [("bfloat16", 64, 80), ("bfloat16", 64, 90), ("float32", 64, 90)]
        asked = json.dumps({"only": only})
        compiler = [sys.executable, "-m", "genrec_lite.kernels.ahead_of_time", asked]
        found = json.loads(_run(compiler, {**here, "TRITON_INTERPRET": "0"}))
        tests = [str(path) for path in sorted((ROOT / TESTS).glob("test_triton_*.py"))]
        lines = _run([sys.executable, "-m", "pytest", "-q", *tests], here).splitlines()
    return {
        "compiled": len(found),
        "spills": sum(one["spills"] > 0 for one in found),
        "registers": sum(one["registers"] for one in found),
        "tests": lines[-1],
    }


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command[:4])} failed:\n{(done.stdout + done.stderr)[-4000:]}"
        )
    return done.stdout


def main() -> None:
    """Tries all versions, prints what became of them, and writes a record if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", metavar="NAME", help="write book/results/NAME.json")
    asked = parser.parse_args()
    values: dict[str, Any] = {}
    for version, packages in VERSIONS.items():
        for key, value in tried(version, packages).items():
            values[f"{version} {key}"] = value
            print(f"{version} {key:<12} {value}", flush=True)
    if asked.record:
        command = f"python -m genrec_lite.bench.triton_versions --record {asked.record}"
        folder = ROOT / "book" / "results"
        print(write_record(asked.record, values, seed=0, command=command, folder=folder))


if __name__ == "__main__":
    main()
