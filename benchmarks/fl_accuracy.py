"""Does federated averaging in fixed point learn as well as Flower's own FedAvg?

The digits example: ten peers, five local epochs a round, fifty rounds, on equal parts (IID) and on unequal
ones (Dirichlet .5). Both sides begin from the same parameters, run the same ClientApp on the same parts and
draw the same batches: a peer's batches depend on seed, round and part alone. One side is flwr's `FedAvg`
over a grid in this process, the other what the members of a task compute: updates as model blobs, averaged in
fixed point; once more with updates compressed to int8 and error feedback. A network trained on everything at
once, for as many epochs, stands beside them.

    python -m benchmarks.fl_accuracy [--quick]
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

# Before the first import of flwr.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.run import Run

from benchmarks.report import RESULTS, Target, at_least, at_most, emit, rounded
from chain.cid import blob_cid
from chain.learning_task import INT8, NO_COMPRESSION, Array, Task
from federated.aggregation import average
from federated.compression import quantise, sent_size
from federated.flower import messages
from federated.flower.template import Template
from federated.update import decode, encode

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/digits"
sys.path.insert(0, str(EXAMPLE))

from digitsapp import task as digits  # noqa: E402
from digitsapp.client_app import app as client_app  # noqa: E402

PEERS = 10
EPOCHS = 5
ROUNDS = 50
QUICK_ROUNDS = 10
SEEDS = (1, 2, 3)
QUICK_SEEDS = (1,)
ALPHAS = {"iid": 0.0, "dirichlet_0.5": 0.5}
HIDDEN = 32
RATE = 0.1
BATCH = 32
CLOSE = 0.01
"""How far the accuracies may lie apart."""
TTL_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one side came to."""

    model: digits.Model
    accuracy: float


class LocalGrid(Grid):  # type: ignore[misc]
    """Flower's grid with every peer in this process; a node's id is its part's number and one."""

    def __init__(self, contexts: Sequence[Any]) -> None:
        self._contexts = contexts
        self._run = Run.create_empty(1)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(self, *args: Any, **named: Any) -> Message:
        raise NotImplementedError("Flower's strategies make their messages themselves")

    def get_node_ids(self) -> Iterable[int]:
        return list(range(1, len(self._contexts) + 1))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError("Flower's strategies send and receive at once")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError("Flower's strategies send and receive at once")

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return [client_app(message, self._contexts[message.metadata.dst_node_id - 1]) for message in messages]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fl_accuracy", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help=f"one seed and {QUICK_ROUNDS} rounds")
    options = parser.parse_args(arguments)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    rounds, seeds = (QUICK_ROUNDS, QUICK_SEEDS) if options.quick else (ROUNDS, SEEDS)
    figures: dict[str, Any] = {
        "peers": PEERS,
        "local_epochs": EPOCHS,
        "rounds": rounds,
        "seeds": len(seeds),
        "test_images": len(digits.load()[1]),
    }
    targets: list[Target] = []
    for name, alpha in ALPHAS.items():
        both = [(flower(alpha, seed, rounds), ours(alpha, seed, rounds)) for seed in seeds]
        rough = [ours(alpha, seed, rounds, INT8) for seed in seeds]
        central = [centrally(seed, rounds) for seed in seeds]
        apart = [abs(one.accuracy - other.accuracy) for one, other in both]
        figures[f"{name}_flower_accuracy"] = [rounded(one.accuracy, 4) for one, _ in both]
        figures[f"{name}_ours_accuracy"] = [rounded(other.accuracy, 4) for _, other in both]
        figures[f"{name}_int8_accuracy"] = [rounded(one.accuracy, 4) for one in rough]
        figures[f"{name}_central_accuracy"] = [rounded(value, 4) for value in central]
        figures[f"{name}_largest_difference_of_a_parameter"] = rounded(
            max(_difference(one.model, other.model) for one, other in both)
        )
        targets.append(at_most(f"{name}: accuracy apart, largest of all seeds", CLOSE, max(apart)))
        lost = [other.accuracy - one.accuracy for (_, other), one in zip(both, rough, strict=True)]
        targets.append(at_most(f"{name}: accuracy lost by int8, mean of all seeds", CLOSE, mean(lost)))
        moved = [_difference(other.model, one.model) for (_, other), one in zip(both, rough, strict=True)]
        figures[f"{name}_int8_largest_difference_of_a_parameter"] = rounded(max(moved))
        # Accuracies of 360 images may well be equal; models that are had not been compressed.
        targets.append(at_least(f"{name}: int8 moved a parameter by, least of all seeds", 1e-5, min(moved)))
        # Two sides that learned nothing would agree as well.
        targets.append(at_least(f"{name}: accuracy, least", 0.8, min(other.accuracy for _, other in both)))
    for form in (NO_COMPRESSION, INT8):
        task = replace(terms(digits.new_model(HIDDEN, 1), rounds), compression=form)
        figures[f"bytes_of_an_update_{form}"] = sent_size(task)
    emit("fl_accuracy", figures, targets, None if options.quick else RESULTS / "fl_accuracy.json")
    return 0 if all(target.met for target in targets) else 1


def flower(alpha: float, seed: int, rounds: int) -> Outcome:
    """flwr's own FedAvg."""
    # It samples the peers, and so the order of its sums, from here.
    random.seed(seed)
    messages.identify(1, messages.SERVER_ID)
    model = digits.new_model(HIDDEN, seed)
    record = ArrayRecord({name: FlowerArray(array) for name, array in zip(digits.NAMES, model, strict=True)})
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=PEERS, min_available_nodes=PEERS)
    result = strategy.start(
        LocalGrid(_contexts(alpha, seed)),
        record,
        num_rounds=rounds,
        train_config=ConfigRecord({"learning-rate": RATE}),
    )
    final = [result.arrays[name].numpy() for name in digits.NAMES]
    return Outcome(final, _accuracy(final))


def ours(alpha: float, seed: int, rounds: int, compression: str = NO_COMPRESSION) -> Outcome:
    """What every member of a task computes from the members' updates, of this form."""
    contexts = _contexts(alpha, seed)
    model = digits.new_model(HIDDEN, seed)
    task = replace(terms(model, rounds), compression=compression)
    kept: list[Any] = [None] * PEERS
    template = Template(train_records={"config": {"server-round": 1, "learning-rate": RATE}})
    blob = encode(task.arrays, model)
    for number in range(1, rounds + 1):
        updates = []
        for part, context in enumerate(contexts):
            arrays = dict(zip(digits.NAMES, decode(task.arrays, blob, task.max_abs), strict=True))
            message = messages.train_message(client_app, template, arrays, number, context, 0.0, TTL_S)
            # An update waits for nothing here, so its message has all the time it names.
            message.metadata.created_at = time.time()
            values, examples, _ = messages.trained(client_app(message, context), template, task.arrays)
            update = encode(task.arrays, values)
            if compression == INT8:
                update, kept[part] = quantise(task.arrays, blob, update, kept[part], task.max_abs)
            assert len(update) == sent_size(task)
            updates.append((update, examples))
        blob = average(task, updates, blob)
    final = decode(task.arrays, blob, task.max_abs)
    return Outcome(final, _accuracy(final))


def terms(model: digits.Model, rounds: int) -> Task:
    """A task for the digits with the terms that `fl create` gives it."""
    arrays = tuple(
        Array(name, array.dtype.str, array.shape) for name, array in zip(digits.NAMES, model, strict=True)
    )
    return Task(
        name="digits",
        arrays=arrays,
        parameters=blob_cid(encode(arrays, model)),
        rounds=rounds,
        min_members=PEERS,
        max_members=16,
        commit_ms=60_000,
        reveal_ms=60_000,
        result_ms=60_000,
        max_examples=1_000_000,
        max_abs=1_000,
        config={},
    )


def centrally(seed: int, rounds: int) -> float:
    """The accuracy of a network trained on all images at once, for as many epochs."""
    images, _ = digits.load()
    model, _ = digits.train(digits.new_model(HIDDEN, seed), images, rounds * EPOCHS, RATE, BATCH, seed)
    return _accuracy(model)


def _contexts(alpha: float, seed: int) -> list[Any]:
    run_config = {"local-epochs": EPOCHS, "batch-size": BATCH, "alpha": alpha, "seed": seed}
    return [
        messages.new_context(1, part + 1, {"partition-id": part, "num-partitions": PEERS}, run_config)
        for part in range(PEERS)
    ]


def _accuracy(model: digits.Model) -> float:
    return digits.test(model, digits.load()[1])[1]


def _difference(one: digits.Model, other: digits.Model) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    sys.exit(main())
