"""Two processes with a shard each find what one index of everything finds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("sharded_ranks.py")
TIMEOUT_SECONDS = 120


@pytest.mark.parametrize("ranks", [2])
def test_two_processes_equal_one(ranks, tmp_path):
    rendezvous = tmp_path / "rendezvous"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rendezvous), str(rank), str(ranks)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        outputs = [process.communicate(timeout=TIMEOUT_SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
        assert "all cases equal" in output
