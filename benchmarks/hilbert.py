"""How fast are our Hilbert curves beside the two packages people use: `hilbertcurve` and
`numpy-hilbert-curve`?

All run in one process on the same random points, in turns, so that a busy machine slows all of them; a figure
is the median over the rounds, in nanoseconds a point. Before anything is timed, each of them must return our
indices. What of the peers is not installed is put, pinned and without its dependencies, into a directory of
its own under the user's cache, which only this benchmark puts on its path.

    python -m benchmarks.hilbert [--quick]
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import RESULTS, Target, at_least, emit, rounded
from sharding import hilbert, hilbert_skilling, hilbert_tables

PEERS = {"hilbertcurve.hilbertcurve": "hilbertcurve==2.0.5", "hilbert": "numpy-hilbert-curve==1.0.1"}
ORDERS = ((2, 16), (8, 8))
POINTS = 100_000
PYTHON_POINTS = 1_000
"""Pure Python costs the same for each point, so fewer of them tell the same."""

SEED = 20_240_229

Task = tuple[str, str, int, Callable[[], Any]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hilbert", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds; leaves the kept result alone")
    options = parser.parse_args(arguments)
    rounds = 3 if options.quick else 15
    curve_class, grid = _peers()
    figures: dict[str, Any] = {"points": POINTS, "rounds": rounds, "numpy": np.__version__}
    hilbert_tables.step_tables.cache_clear()
    begin = time.perf_counter()
    hilbert_tables.step_tables(hilbert_tables.LARGE_STEP)
    figures["large_table_ms"] = rounded((time.perf_counter() - begin) * 1e3)
    for dims, bits in ORDERS:
        figures.update(_measure(dims, bits, rounds, curve_class, grid))
    emit("hilbert", figures, _targets(figures), out=None if options.quick else RESULTS / "hilbert.json")
    return 0


def _measure(dims: int, bits: int, rounds: int, curve_class: Any, grid: Any) -> dict[str, float]:
    points = np.random.default_rng(SEED).integers(0, 1 << bits, (POINTS, dims), dtype=np.uint64)
    few = points[:PYTHON_POINTS].tolist()
    indices = hilbert.encode(points, bits)
    few_indices = [int(index) for index in indices[:PYTHON_POINTS]]
    curve = curve_class(bits, dims)
    if not (
        np.array_equal(grid.encode(points, dims, bits), indices)
        and curve.distances_from_points(few) == few_indices
        and np.array_equal(hilbert.decode(indices, dims, bits), points)
    ):
        raise SystemExit(
            f"the peers disagree with us on the curve of {dims} x {bits} bits: nothing to compare"
        )
    tasks: list[Task] = [
        ("ours", "encode", POINTS, lambda: hilbert.encode(points, bits)),
        ("ours", "decode", POINTS, lambda: hilbert.decode(indices, dims, bits)),
        ("numpy_hilbert_curve", "encode", POINTS, lambda: grid.encode(points, dims, bits)),
        ("numpy_hilbert_curve", "decode", POINTS, lambda: grid.decode(indices, dims, bits)),
        ("hilbertcurve", "encode", PYTHON_POINTS, lambda: curve.distances_from_points(few)),
        ("hilbertcurve", "decode", PYTHON_POINTS, lambda: curve.points_from_distances(few_indices)),
        ("ours_scalar", "encode", PYTHON_POINTS, lambda: [hilbert.encode_point(p, bits) for p in few]),
        (
            "ours_scalar",
            "decode",
            PYTHON_POINTS,
            lambda: [hilbert.decode_point(i, dims, bits) for i in few_indices],
        ),
    ]
    if dims == 2:
        tasks += [
            ("ours_skilling", "encode", POINTS, lambda: hilbert_skilling.encode(points, bits)),
            ("ours_skilling", "decode", POINTS, lambda: hilbert_skilling.decode_words(indices, dims, bits)),
        ]
    taken: dict[str, list[float]] = {}
    for _ in range(rounds):
        for who, what, count, run in tasks:
            begin = time.perf_counter()
            run()
            spent = time.perf_counter() - begin
            taken.setdefault(f"{what}_{dims}x{bits}_{who}_ns", []).append(spent / count * 1e9)
    return {label: rounded(statistics.median(times), 4) for label, times in taken.items()}


def _targets(figures: dict[str, Any]) -> list[Target]:
    targets = []
    for what in ("encode", "decode"):
        ours = figures[f"{what}_2x16_ours_ns"]
        for peer, floor in (("numpy_hilbert_curve", 50), ("hilbertcurve", 200)):
            ratio = figures[f"{what}_2x16_{peer}_ns"] / ours
            targets.append(at_least(f"{what}_2x16_times_{peer}", floor, rounded(ratio)))
        faster = min(figures[f"{what}_8x8_{peer}_ns"] for peer in ("numpy_hilbert_curve", "hilbertcurve"))
        ratio = faster / figures[f"{what}_8x8_ours_ns"]
        targets.append(at_least(f"{what}_8x8_times_faster_peer", 5, rounded(ratio)))
    return targets


def _peers() -> tuple[Any, Any]:
    """`hilbertcurve`'s class and `numpy-hilbert-curve`'s module, fetched into the cache if need be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "roseforest" / "benchmark-peers"
    sys.path.append(str(cache))
    missing = [package for module, package in PEERS.items() if not _importable(module)]
    if missing:
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(cache),
            *missing,
        ]
        if subprocess.run(command, check=False, stdout=sys.stderr).returncode:
            raise SystemExit(
                f"could not install {', '.join(missing)}: the benchmark needs them (and pip) to compare"
            )
        importlib.invalidate_caches()
    curve, grid = (importlib.import_module(module) for module in PEERS)
    return curve.HilbertCurve, grid


def _importable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    raise SystemExit(main())
