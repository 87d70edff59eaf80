"""Running a simulation in processes of its own, to compare what they print."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

Simulate = Callable[[str, list[tuple[int, int]]], list[list[str]]]


@pytest.fixture
def simulate() -> Simulate:
    """Run a script of this folder for each (seed, PYTHONHASHSEED), side by side; the lines each printed."""

    def run(script: str, runs: list[tuple[int, int]]) -> list[list[str]]:
        processes = [
            subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name(script)), str(seed)],
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "PYTHONHASHSEED": str(hash_seed),
                    "OMP_NUM_THREADS": "1",
                },
                stdout=subprocess.PIPE,
                text=True,
            )
            for seed, hash_seed in runs
        ]
        try:
            outputs = [process.communicate(timeout=240)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0] * len(runs)
        return [output.splitlines() for output in outputs]

    return run
