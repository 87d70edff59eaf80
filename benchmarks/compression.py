"""What compressed updates cost: accuracy, bytes, and processor time, beside plain ones in the same run.

The digits over ten peers, five local epochs a round, fifty rounds, on equal parts (IID) and on unequal ones
(Dirichlet .5 and .1), with the mean and with the default robust rule; every form begins from the same
parameters and draws the same batches. Then two liars of ten against the robust rule, who move the model ten
times as far against the honest mean (sign) or hide in the honest spread (ALIE). Then, for a large model,
the processor time of a round's result and of checking and making an update, as a share of that of plain
updates.

    python -m benchmarks.compression [--quick]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean, median
from typing import Any

import numpy as np

from benchmarks import digit_peers
from benchmarks.digit_peers import Floats, Peers, digits_task
from benchmarks.report import RESULTS, Target, at_least, at_most, emit, rounded
from chain.aggregation_rule import ROBUST
from chain.cid import blob_cid
from chain.learning_task import FEDAVG, INT8, NO_COMPRESSION, Array, Task
from federated.admission import examine
from federated.compression import quantise, sent_size
from federated.robust import round_model
from federated.update import decode, encode

PEERS = 10
LIARS = 2
ROUNDS = 50
QUICK_ROUNDS = 10
SEEDS = (1, 2, 3)
QUICK_SEEDS = (1,)
ALPHAS = {"iid": 0.0, "dirichlet_0.5": 0.5, "dirichlet_0.1": 0.1}
FORMS = (NO_COMPRESSION, INT8, "topk:20", "topk:5", "topk:1")
USUAL = (INT8, "topk:5")
"""The forms that targets are about."""
RULES = {"mean": FEDAVG, "robust": ROBUST}
CLOSE = {INT8: 0.01, "topk:5": 0.02}
"""What a form may cost in accuracy, mean of all seeds, on equal parts and at Dirichlet .5."""
MOVED = 1e-5
UNDER_ATTACK = 0.9
ALIE_Z = 1.5
SIZE, QUICK_SIZE = 4_000_000, 1_000_000
TIMES = 3
MOST_CPU = 2.0
"""A round's result takes at most so many times the processor time of plain updates."""

Lie = Callable[[Floats, Floats], Floats]
"""What liars send, from the model and the honest peers' models (peers, SIZE)."""
LIES: dict[str, Lie] = {
    "sign": lambda model, honest: model - 10 * (honest.mean(0) - model),
    "alie": lambda model, honest: honest.mean(0) - ALIE_Z * honest.std(0),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compression", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help=f"one seed and {QUICK_ROUNDS} rounds")
    options = parser.parse_args(arguments)
    rounds, seeds = (QUICK_ROUNDS, QUICK_SEEDS) if options.quick else (ROUNDS, SEEDS)
    figures: dict[str, Any] = {"peers": PEERS, "rounds": rounds, "seeds": len(seeds)}
    targets: list[Target] = []
    plain = sent_size(digits_task(PEERS, ROUNDS, FEDAVG, compression=NO_COMPRESSION))
    for form in FORMS:
        size = sent_size(digits_task(PEERS, ROUNDS, FEDAVG, compression=form))
        figures[f"bytes of an update, {form}"] = size
        figures[f"share of a plain one, {form}"] = rounded(size / plain)
    for name, alpha in ALPHAS.items():
        for rule, strategy in RULES.items():
            found = {form: [learn(strategy, form, alpha, seed, rounds) for seed in seeds] for form in FORMS}
            for form, ends in found.items():
                figures[f"{name}, {rule}, {form}: accuracy"] = [rounded(one, 4) for one, _ in ends]
            for form in USUAL:
                pairs = list(zip(found[NO_COMPRESSION], found[form], strict=True))
                lost = mean(one - other for (one, _), (other, _) in pairs)
                # Accuracies of 360 images may well be equal; models that are had not been compressed.
                moved = min(float(np.abs(one - other).max()) for (_, one), (_, other) in pairs)
                targets.append(at_least(f"{name}, {rule}: {form} moved a parameter by, least", MOVED, moved))
                figures[f"{name}, {rule}, {form}: accuracy lost"] = rounded(lost, 4)
                if name != "dirichlet_0.1" and not options.quick:
                    figure = f"{name}, {rule}: accuracy lost by {form}, mean of all seeds"
                    targets.append(at_most(figure, CLOSE[form], lost))
    for lie, what in LIES.items():
        for form in (NO_COMPRESSION, *USUAL):
            values = [learn(ROBUST, form, 0.0, seed, rounds, what)[0] for seed in seeds]
            figures[f"iid, robust, {form}: accuracy, {LIARS} of {PEERS} {lie}"] = [
                rounded(value, 4) for value in values
            ]
            if not options.quick:
                targets.append(
                    at_least(f"{LIARS} of {PEERS} {lie}, {form}: least", UNDER_ATTACK, min(values))
                )
    cost, limits = costs(QUICK_SIZE if options.quick else SIZE)
    figures |= cost
    emit("compression", figures, targets + limits, None if options.quick else RESULTS / "compression.json")
    return 0 if all(target.met for target in targets + limits) else 1


def learn(
    strategy: str, form: str, alpha: float, seed: int, rounds: int, lie: Lie | None = None
) -> tuple[float, Floats]:
    """What the members' updates, of this form, come to: its accuracy, and the parameters."""
    task, peers = digits_task(PEERS, ROUNDS, strategy, compression=form), Peers(PEERS, alpha, seed)
    kept: list[Any] = [None] * PEERS
    blob = packed(task, digit_peers.new_model(seed))
    for number in range(1, rounds + 1):
        model = flat(task, blob)
        trained = peers.train(model, number)
        if lie is not None:
            trained[-LIARS:] = lie(model, trained[:-LIARS])
        updates = []
        for place, row in enumerate(trained):
            update = packed(task, row)
            if form != NO_COMPRESSION:
                liar = lie is not None and place >= PEERS - LIARS
                update, left = quantise(
                    task.arrays, blob, update, None if liar else kept[place], task.max_abs, None, task.top_k
                )
                kept[place] = left
            assert len(update) == sent_size(task)
            assert examine(task, blob, update) is None
            updates.append((blob_cid(update), update, int(peers.sizes[place])))
        blob = round_model(task, blob, updates)
    model = flat(task, blob)
    return digit_peers.accuracy(model), model


def costs(size: int) -> tuple[dict[str, Any], list[Target]]:
    """Processor time of the three things that a form changes, for a model of one large array."""
    rng = np.random.default_rng(1)
    figures: dict[str, Any] = {"parameters": size}
    targets: list[Target] = []
    array = (Array("w", "<f4", (size,)),)
    start = rng.normal(size=size).astype(np.float32)
    moved = [start + 0.01 * rng.standard_normal(size).astype(np.float32) for _ in range(PEERS)]
    base = {}
    for form in (NO_COMPRESSION, *USUAL):
        task = replace(digits_task(PEERS, ROUNDS, FEDAVG, compression=form), arrays=array)
        blob = encode(array, [start])
        plain = [encode(array, [one]) for one in moved]
        sent = plain
        if form != NO_COMPRESSION:
            sent = [quantise(array, blob, one, None, task.max_abs, None, task.top_k)[0] for one in plain]
            figures[f"{form}: making an update, s"] = rounded(
                _cpu(lambda: quantise(array, blob, plain[0], None, task.max_abs, None, task.top_k))  # noqa: B023
            )
        updates = [(blob_cid(one), one, 1) for one in sent]
        found = {"checking an update": _cpu(lambda: examine(task, blob, sent[0]))}  # noqa: B023
        for rule, strategy in RULES.items():
            ruled = replace(task, strategy=strategy)
            found[f"a result, {rule}"] = _cpu(lambda: round_model(ruled, blob, updates))  # noqa: B023
        for what, seconds in found.items():
            figures[f"{form}: {what}, s"] = rounded(seconds)
            if form == NO_COMPRESSION:
                base[what] = seconds
                continue
            if what.startswith("a result"):
                ratio = seconds / base[what]
                figures[f"{form}: {what}, times plain"] = rounded(ratio)
                targets.append(at_most(f"{form}: {what}, times the CPU of plain ones", MOST_CPU, ratio))
    return figures, targets


def packed(task: Task, row: Floats) -> bytes:
    """The blob of a model (SIZE,)."""
    values = [np.ascontiguousarray(part, np.float32) for part in digit_peers.unpack(row)]
    return encode(task.arrays, values)


def flat(task: Task, blob: bytes) -> Floats:
    """A blob as parameters (SIZE,)."""
    return np.concatenate([part.reshape(-1) for part in decode(task.arrays, blob, task.max_abs)])


def _cpu(work: Callable[[], object]) -> float:
    """The median processor time of some runs, after one that warms up."""
    work()
    found = []
    for _ in range(TIMES):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return median(found)


if __name__ == "__main__":
    sys.exit(main())
