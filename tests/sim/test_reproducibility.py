"""A seed decides a run down to the last byte on the wire, in whatever process it happens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def traces(script: str, runs: list[tuple[int, int]]) -> list[list[str]]:
    """Run `script` once for each (seed, PYTHONHASHSEED), side by side; the words of each run's last line."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(script)), str(seed)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(hash_seed)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, hash_seed in runs
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(runs)
    return [output.splitlines()[-1].split() for output in outputs]


def test_pings_crashes_and_losses_leave_equal_traces_for_equal_seeds_only() -> None:
    one, same, other = traces("ping_workload.py", [(7, 1), (7, 2), (8, 1)])
    assert one == same
    assert one[0] != other[0]
    requests, replies, lost = map(int, one[1:])
    assert requests > 500
    assert replies > 400
    assert lost > 5
