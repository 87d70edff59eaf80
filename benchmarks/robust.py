"""What robust rules cost: processor time and memory for models of 5 thousand to 10 million parameters.

Sixteen updates mapped from disk, as in a node; beside each rule, in the same process, plain FedAvg in the
same fixed point, which is handed the same updates one by one. Memory is what was allocated at most meanwhile,
beyond the updates: pages of mapped files belong to the system. A model has 4 bytes a parameter.

    python -m benchmarks.robust [--quick]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.report import RESULTS, Target, at_most, emit, in_own_process, rounded
from chain.aggregation_rule import ROBUST, parse_rule
from chain.cid import blob_cid
from chain.learning_task import MAX_MEMBERS, Array, Task
from federated.aggregation import Accumulator
from federated.robust import combine
from federated.update import Model, encode

SIZES = (5_000, 1_000_000, 10_000_000)
QUICK_SIZES = (5_000, 1_000_000)
RULES = (ROBUST, "median", "nnm|geometric_median", "multi_krum")
MOST_RATIO = 20.0
"""The default rule takes at most so many times as long as the mean."""
MOST_MODELS = 2.5
"""Memory for so many models, beside some blocks."""
BLOCKS_MB = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.robust", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="up to a million parameters")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part is not None:
        print(json.dumps(part(*json.loads(options.part))))
        return 0
    figures: dict[str, Any] = {"updates": MAX_MEMBERS}
    targets: list[Target] = []
    for size in QUICK_SIZES if options.quick else SIZES:
        found = in_own_process("robust", size)
        figures[f"{size:,} parameters"] = found
        if size >= 1_000_000:
            ratio = found[ROBUST]["cpu_s"] / found["fedavg"]["cpu_s"]
            models = (found[ROBUST]["memory_mb"] - BLOCKS_MB) / (4 * size / 1e6)
            targets.append(at_most(f"{size:,}: the default rule over the mean, CPU", MOST_RATIO, ratio))
            targets.append(at_most(f"{size:,}: memory in models, beside blocks", MOST_MODELS, models))
    emit("robust", figures, targets, None if options.quick else RESULTS / "robust.json")
    return 0 if all(target.met for target in targets) else 1


def part(size: int) -> dict[str, dict[str, float]]:
    """Time and memory of the mean and of every rule, for models of one size."""
    arrays = (Array("w", "<f4", (size,)),)
    rng = np.random.default_rng(1)
    with TemporaryDirectory() as folder:
        models: list[Model] = []
        for number in range(MAX_MEMBERS + 1):
            path = Path(folder) / str(number)
            path.write_bytes(encode(arrays, [rng.normal(size=size).astype("<f4")]))
            with path.open("rb") as file:
                models.append(mmap(file.fileno(), 0, access=ACCESS_READ))
        base, *sent = models
        updates = [(bytes([number]), data) for number, data in enumerate(sent)]
        task = terms(arrays)

        def mean() -> bytes:
            accumulator = Accumulator(task)
            for data in sent:
                accumulator.add(bytes(data), 100)
            return accumulator.mean()

        found = {"fedavg": measured(mean)}
        for rule in RULES:
            found[rule] = measured(partial(combine, task, parse_rule(rule), base, updates))
        return found


def measured(work: Callable[[], object]) -> dict[str, float]:
    """CPU seconds of one call after another, and the most memory that it held, in MB."""
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    began = time.process_time()
    work()
    return {"cpu_s": rounded(time.process_time() - began), "memory_mb": rounded(most / 1e6)}


def terms(arrays: tuple[Array, ...]) -> Task:
    """A task with the bounds that `fl create` gives it."""
    return Task(
        name="cost",
        arrays=arrays,
        parameters=blob_cid(b""),
        rounds=1,
        min_members=1,
        max_members=MAX_MEMBERS,
        commit_ms=60_000,
        reveal_ms=60_000,
        result_ms=60_000,
        max_examples=1_000_000,
        max_abs=1_000,
        config={},
    )


if __name__ == "__main__":
    sys.exit(main())
