"""How long a user waits: for `roseforest --help`, and for a daemon that answers; and what an idle one costs.

Every figure is of separate processes, started as a user starts them. The bare interpreter is measured beside
`--help`, because it is the floor below which no Python command gets. A daemon counts as ready when `/readyz`
says so. Its idle cost is taken alone in its network, after it has settled.

    python -m benchmarks.startup [--quick]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import RESULTS, ROOT, at_most, emit, rounded
from node.home import HOME_VARIABLE, Home

HELP_TARGET_S = 0.2
READY_TARGET_S = 3.0
READY_PATIENCE_S = 60.0
POLL_S = 0.005
SETTLE_S = 3.0
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
ROSEFOREST = (sys.executable, "-m", "node")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, keep; exit code 0 whether targets are met or not."""
    parser = argparse.ArgumentParser(description="start-up time and idle cost")
    parser.add_argument("--quick", action="store_true", help="fewer runs, under a minute")
    quick = parser.parse_args(arguments).quick
    helps, starts, idle_s = (7, 2, 5.0) if quick else (25, 7, 30.0)
    bare = _median(helps, lambda: _seconds(sys.executable, "-c", "pass"))
    help_s = _median(helps, lambda: _seconds(*ROSEFOREST, "--help"))
    version_s = _median(helps, lambda: _seconds(*ROSEFOREST, "--version"))
    with tempfile.TemporaryDirectory(prefix="roseforest-startup-") as folder:
        home = Home(Path(folder) / "home")
        init_s = _seconds(*ROSEFOREST, "init", "--name", "startup", "--home", str(home.root))
        waits = []
        idle: dict[str, float] = {}
        for run in range(starts):
            with _daemon(home) as (process, ready_s):
                waits.append(ready_s)
                if run == starts - 1:
                    idle = _idle(psutil.Process(process.pid), idle_s)
    figures: dict[str, Any] = {
        "interpreter_s": rounded(bare),
        "help_s": rounded(help_s),
        "version_s": rounded(version_s),
        "init_s": rounded(init_s),
        "ready_s": rounded(statistics.median(waits)),
        "ready_worst_s": rounded(max(waits)),
        **{name: rounded(value) for name, value in idle.items()},
        "runs": {"help": helps, "ready": starts, "idle_s": idle_s},
    }
    targets = [
        at_most("help_s", HELP_TARGET_S, figures["help_s"]),
        at_most("ready_s", READY_TARGET_S, figures["ready_s"]),
    ]
    emit("startup", figures, targets, None if quick else RESULTS / "startup.json")
    return 0


def _median(runs: int, measure: Callable[[], float]) -> float:
    measure()  # the first run reads the files from disk
    return statistics.median(measure() for _ in range(runs))


def _seconds(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("ROSEFOREST_")}


@contextmanager
def _daemon(home: Home) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    began = time.perf_counter()
    environment = _environment() | {HOME_VARIABLE: str(home.root)}
    with (home.root / "startup.log").open("wb") as log:
        process = subprocess.Popen([*ROSEFOREST, "run"], cwd=ROOT, env=environment, stderr=log)
    try:
        while not _ready(home):
            if process.poll() is not None or time.perf_counter() - began > READY_PATIENCE_S:
                raise SystemExit(
                    f"the daemon did not start: {(home.root / 'startup.log').read_text()[-2000:]}"
                )
            time.sleep(POLL_S)
        yield process, time.perf_counter() - began
    finally:
        process.terminate()
        try:
            process.wait(timeout=READY_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(home: Home) -> bool:
    info = home.read_daemon()
    if info is None:
        return False
    try:
        with _direct.open(f"{info.api}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError:
        return False


def _idle(process: psutil.Process, seconds: float) -> dict[str, float]:
    time.sleep(SETTLE_S)
    process.cpu_percent()
    time.sleep(seconds)
    return {
        "idle_cpu_percent": process.cpu_percent(),
        "idle_rss_mb": process.memory_info().rss / (1 << 20),
        "threads": process.num_threads(),
    }


if __name__ == "__main__":
    sys.exit(main())
