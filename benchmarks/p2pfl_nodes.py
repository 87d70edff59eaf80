"""Four p2pfl nodes that learn the digits: the other side of `benchmarks.fl_p2pfl`, run by that side.

    INTERPRETER -m benchmarks.p2pfl_nodes DATA.npz SETTINGS.json

It runs in an interpreter of its own, since p2pfl pins NumPy 1, and is licensed under the GPL: nothing of the
project imports it. The nodes are p2pfl's, in one process, over gRPC on loopback as it sets them up itself;
the model is its own abstraction around a list of arrays, and the learner calls the digits example's training,
the same NumPy code that our members run, on the parts and from the parameters in DATA.npz. Its thread pool
for simulations (ray) stays off: it would add actors to what NumPy does in milliseconds. The clock runs from
`set_start_learning`, when all nodes are connected, until the last has finished. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/digits"
sys.path.insert(0, str(EXAMPLE))

from p2pfl.learning.dataset.p2pfl_dataset import P2PFLDataset  # noqa: E402
from p2pfl.learning.frameworks.learner import Learner  # noqa: E402
from p2pfl.learning.frameworks.p2pfl_model import P2PFLModel  # noqa: E402
from p2pfl.management.logger import logger  # noqa: E402
from p2pfl.node import Node  # noqa: E402
from p2pfl.settings import Settings  # noqa: E402
from p2pfl.utils.utils import set_standalone_settings  # noqa: E402

from digitsapp import task as digits  # noqa: E402

FRAMEWORK = "numpy"
PAUSE_S = 0.01
SECONDS = 300.0


class Arrays(P2PFLModel):  # type: ignore[misc]
    """A model that is a list of arrays."""

    def get_parameters(self) -> list[Any]:
        return list(self.model)

    def set_parameters(self, params: list[Any] | bytes) -> None:
        if isinstance(params, bytes):
            params, info = self.decode_parameters(params)
            self.additional_info.update(info)
        self.model = [np.asarray(array) for array in params]

    def get_framework(self) -> str:
        return FRAMEWORK


class Part(P2PFLDataset):  # type: ignore[misc]
    """A node's part of the digits."""

    def __init__(self, data: digits.Data, batch: int) -> None:
        self.data = data
        self.batch_size = batch
        self.dataset_name = "digits"

    def get_num_samples(self, train: bool = True) -> int:
        return len(self.data)


class DigitsLearner(Learner):  # type: ignore[misc]
    """Trains by the digits example's own code; a round's batches are drawn as our members draw them."""

    def __init__(self, part: int, rate: float, seed: int) -> None:
        super().__init__()
        self.part = part
        self.rate = rate
        self.seed = seed
        self.round = 0

    def fit(self) -> P2PFLModel:
        self.round += 1
        model, data = self.get_model(), self.get_data()
        trained, _ = digits.train(
            model.get_parameters(),
            data.data,
            self.epochs,
            self.rate,
            data.batch_size,
            self.seed * 1_000_000 + self.round * 1_000 + self.part,
        )
        model.set_parameters(trained)
        model.set_contribution([self.addr], len(data.data))
        return model

    def interrupt_fit(self) -> None:
        return

    def evaluate(self) -> dict[str, float]:
        return {}

    def get_framework(self) -> str:
        return FRAMEWORK


def apply(settings: dict[str, Any]) -> None:
    """p2pfl's settings: as they are, those of its own tests, or some of them changed."""
    Settings.general.DISABLE_RAY = True
    if settings["standalone"]:
        set_standalone_settings()
    Settings.set_from_dict(settings["changed"])
    Settings.general.LOG_LEVEL = "ERROR"
    logger.set_level("ERROR")


def main(arguments: list[str]) -> None:
    """Learn once, and print how long it took and how good each node's model is."""
    data, settings = np.load(arguments[0]), json.loads(arguments[1])
    apply(settings)
    count, rounds, epochs = settings["nodes"], settings["rounds"], settings["epochs"]
    nodes = []
    for number in range(count):
        part = digits.Data(data[f"images_{number}"], data[f"labels_{number}"])
        node = Node(
            Arrays([data[name].copy() for name in digits.NAMES]),
            Part(part, settings["batch"]),
            learner=DigitsLearner(number, settings["rate"], settings["seed"]),
            addr="127.0.0.1",
        )
        node.start()
        nodes.append(node)
    for place, node in enumerate(nodes):
        for other in nodes[:place]:
            node.connect(other.addr)
    wait_for(nodes, lambda node: len(node.get_neighbors(only_direct=True)) == count - 1)
    began = time.perf_counter()
    nodes[0].set_start_learning(rounds=rounds, epochs=epochs, trainset_size=count)
    wait_for(nodes, lambda node: node.learning_workflow.finished)
    seconds = time.perf_counter() - began
    tests = digits.Data(data["test_images"], data["test_labels"])
    accuracies = [digits.test(node.get_model().get_parameters(), tests)[1] for node in nodes]
    for node in nodes:
        node.stop()
    print(json.dumps({"seconds": seconds, "accuracies": accuracies}), flush=True)


def wait_for(nodes: list[Any], done: Any) -> None:
    """Until it is so on all nodes."""
    end = time.monotonic() + SECONDS
    while not all(map(done, nodes)):
        if time.monotonic() > end:
            raise TimeoutError(f"p2pfl did not get there in {SECONDS:.0f} s")
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main(sys.argv[1:])
