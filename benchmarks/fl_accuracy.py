"""Does a task of peer rounds learn as well as Flower's own FedAvg does on the same data?

The digits example: ten peers, five local epochs a round, fifty rounds, a network of 64-64-10, on equal parts
(IID) and on unequal ones (Dirichlet .5 and .1). All sides begin from the same parameters, run the same
ClientApp on the same parts and draw the same batches: a peer's batches depend on seed, round and part alone.
One side is flwr's own `FedAvg` over a grid in this process; its simulation engine would bring actors of
another framework, and compute the same. The others are what the members of a task compute, from updates that
are encoded, looked at and combined as nodes do it: by the mean, of whole models and of int8 with error
feedback, and by the default rule from int8, which is the task that `fl create` makes. A network trained on
everything at once, for as many epochs, stands beside them.

A part of `benchmarks.federated`.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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

from benchmarks.digit_peers import digits_task
from benchmarks.report import Target, at_least, at_most, rounded
from chain.aggregation_rule import ROBUST
from chain.cid import blob_cid
from chain.learning_task import FEDAVG, INT8, NO_COMPRESSION
from federated.admission import examine
from federated.compression import quantise, sent_size
from federated.flower import messages
from federated.flower.template import Template
from federated.robust import round_model
from federated.update import decode, encode

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/digits"
sys.path.insert(0, str(EXAMPLE))

from digitsapp import task as digits  # noqa: E402
from digitsapp.client_app import app as client_app  # noqa: E402

PEERS = 10
EPOCHS = 5
ROUNDS = 50
QUICK_ROUNDS = 5
SEEDS = (1, 2, 3)
QUICK_SEEDS = (1,)
ALPHAS = {"iid": 0.0, "dirichlet_0.5": 0.5, "dirichlet_0.1": 0.1}
FLOORS = {"iid": 0.95, "dirichlet_0.5": 0.94, "dirichlet_0.1": 0.90}
"""What the default rule reaches at least."""
FORMS = {
    "mean": (FEDAVG, NO_COMPRESSION),
    "mean_int8": (FEDAVG, INT8),
    "default": (ROBUST, INT8),
}
"""What is measured of ours: the strategy, and the form of updates."""
HIDDEN = 64
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


def measure(quick: bool) -> tuple[dict[str, Any], list[Target]]:
    """Figures and targets; `quick`: one seed and `QUICK_ROUNDS`, and no floors, which hold at the end."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    rounds, seeds = (QUICK_ROUNDS, QUICK_SEEDS) if quick else (ROUNDS, SEEDS)
    figures: dict[str, Any] = {
        "peers": PEERS,
        "network": f"{digits.PIXELS}-{HIDDEN}-{digits.DIGITS}",
        "local_epochs": EPOCHS,
        "rounds": rounds,
        "seeds": len(seeds),
        "test_images": len(digits.load()[1]),
    }
    targets: list[Target] = []
    for name, alpha in ALPHAS.items():
        theirs = [flower(alpha, seed, rounds) for seed in seeds]
        found = {
            form: [ours(alpha, seed, rounds, strategy, compression) for seed in seeds]
            for form, (strategy, compression) in FORMS.items()
        }
        central = [centrally(seed, rounds) for seed in seeds]
        for side, outcomes in {"flower_fedavg": theirs, **found}.items():
            figures[f"{name}_{side}_accuracy"] = [rounded(one.accuracy, 4) for one in outcomes]
        figures[f"{name}_central_accuracy"] = [rounded(value, 4) for value in central]
        figures[f"{name}_mean_largest_difference_of_a_parameter_from_flower"] = rounded(
            max(map(_difference, theirs, found["mean"]))
        )
        moved = list(map(_difference, found["mean"], found["mean_int8"]))
        figures[f"{name}_int8_largest_difference_of_a_parameter"] = rounded(max(moved))
        targets += _targets(name, theirs, found, moved, quick)
    for form in (NO_COMPRESSION, INT8):
        task = digits_task(PEERS, rounds, FEDAVG, compression=form)
        figures[f"bytes_of_an_update_{form}"] = sent_size(task)
    return figures, targets


def _targets(
    name: str,
    theirs: Sequence[Outcome],
    found: dict[str, list[Outcome]],
    moved: Sequence[float],
    quick: bool,
) -> list[Target]:
    pairs = list(zip(theirs, found["mean"], strict=True))
    apart = [abs(one.accuracy - other.accuracy) for one, other in pairs]
    lost = [
        whole.accuracy - rough.accuracy
        for whole, rough in zip(found["mean"], found["mean_int8"], strict=True)
    ]
    targets = [
        at_most(f"{name}: FedAvg's accuracy apart from Flower's, largest of all seeds", CLOSE, max(apart)),
        at_most(f"{name}: accuracy lost by int8, mean of all seeds", CLOSE, mean(lost)),
        # Accuracies of 360 images may well be equal; models that are had not been compressed.
        at_least(f"{name}: int8 moved a parameter by, least of all seeds", 1e-5, min(moved)),
    ]
    if not quick:
        reached = mean(one.accuracy for one in found["default"])
        targets.append(at_least(f"{name}: the default rule's accuracy, mean", FLOORS[name], reached))
        # Two sides that learned nothing would agree as well.
        least = min(one.accuracy for one in found["mean"])
        targets.append(at_least(f"{name}: FedAvg's accuracy, least of all seeds", FLOORS[name] - 0.03, least))
    return targets


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


def ours(alpha: float, seed: int, rounds: int, strategy: str, compression: str) -> Outcome:
    """What every member of a task computes from the members' updates."""
    contexts = _contexts(alpha, seed)
    model = digits.new_model(HIDDEN, seed)
    task = digits_task(PEERS, rounds, strategy, compression=compression)
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
            fault = examine(task, blob, update)
            assert fault is None, fault
            updates.append((blob_cid(update), update, examples))
        blob = round_model(task, blob, updates)
    final = decode(task.arrays, blob, task.max_abs)
    return Outcome(final, _accuracy(final))


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


def _difference(one: Outcome, other: Outcome) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one.model, other.model, strict=True))
