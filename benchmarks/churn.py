"""Sixty-four whole nodes train the digits' network together while three in ten of them go and come back.

Everything is real but the wires and the clock (`sim`): each node has its chain, databases and DHT on a
simulated network in virtual time, and a user's process beside it that trains on its own images, a 64th each.
From the second round on nodes are killed, at times drawn from the seed, and started again in the same folder
a third of the run later; every third leaves instead, and joins again. Their users keep asking for work.
Compared with the same network in which nobody goes, and with one process that has all images.

    python -m benchmarks.churn [--topology groups|gossip] [--quick]

In groups all members have one model. In gossip each has its own: the accuracy is the median of theirs, beside
the least and how far they lie apart.

What a round costs in virtual time is no measure of a machine; accuracy, who contributed and that all have the
same bytes are. Forty minutes of one core (`TMPDIR` in memory saves some of them); `--quick`, some minutes,
takes 20 nodes and 4 rounds.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import trio

from benchmarks.digit_peers import EPOCHS, EXAMPLE, HIDDEN, NAMES, RATE
from benchmarks.report import RESULTS, Target, at_least, at_most, emit, rounded
from chain.aggregation_rule import ROBUST
from chain.cid import Cid
from chain.identity import Identity
from chain.learning_task import GOSSIP, GROUPS, INT8, NO_COMPRESSION, Array, Task
from dht.overlay.hello import Founding
from federated.compression import quantise
from federated.errors import LearningError, UnknownTask, WrongState
from federated.update import decode, encode
from federated.views import TaskView
from node.node import Node
from node.options import NodeOptions
from node.storage.errors import StorageError
from sim.network import SimWorld, open_world
from sim.virtual_clock import run_deterministic
from sim.whole_node import found_network, start_node

sys.path.insert(0, str(EXAMPLE))

from digitsapp import task as digits

PEERS, ROUNDS = 64, 12
QUICK_PEERS, QUICK_ROUNDS = 20, 4
CHURN = 0.3
"""Of the nodes, how many go once: two of three are killed, the third leaves."""
BATCH = 8
"""Images of a step. A node of 64 has 22, of which batches of 32 (right for few nodes) make one step."""
CONVERGED = 0.9
"""What the model is to be worth in the end, whoever goes; untrained it is worth a tenth."""
SEED = 1
TRAIN_S = 5.0
"""Virtual seconds that training takes."""
DEADLINE_MS = 20_000
JOIN_WITHIN_S = 600.0
SETTLED_S = 20.0


@dataclass(frozen=True, slots=True)
class Went:
    """How many were killed, how many left, and how many of these contribute in the last round."""

    killed: int
    left: int
    back: int


@dataclass
class Crowd:
    """Nodes by number, each with a user who trains, on a simulated network."""

    world: SimWorld
    founding: Founding
    folder: Path
    peers: int
    down_s: float
    nodes: dict[int, Node] = field(default_factory=dict)
    final: dict[int, bytes] = field(default_factory=dict)
    killed: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)

    async def start(self, number: int) -> None:
        """Start a node, or start it again in its folder."""
        bootstrap = () if number == 0 else (self.world.address(identity(0).agent),)
        folder = self.folder / str(number)
        folder.mkdir(exist_ok=True)
        options = NodeOptions(bootstrap=bootstrap, capacity=100)
        self.nodes[number] = await start_node(
            self.world, identity(number), self.founding, folder, number, options
        )

    async def come_and_go(self, number: int, after_s: float) -> None:
        """Kill a node, and start it again later."""
        await trio.sleep(after_s)
        del self.nodes[number]
        self.world.crash(identity(number).agent)
        self.killed.append(number)
        await trio.sleep(self.down_s)
        await self.start(number)

    async def leave_and_join(self, number: int, task: Cid, after_s: float) -> None:
        """Leave the task, and join it again later."""
        await trio.sleep(after_s)
        await self.nodes[number].learning.leave(task)
        self.left.append(number)
        await trio.sleep(self.down_s)
        with suppress(WrongState):  # the task may be over by now
            await self.nodes[number].learning.join(task)

    async def train(self, number: int, task: Cid) -> None:
        """The user of a node: trains whenever its node says so, until the task is over."""
        part = digits.part_of(digits.load()[0], number, self.peers, 0.0, SEED)
        kept: list[Any] | None = None
        while number not in self.final:
            node = self.nodes.get(number)
            if node is None:
                await trio.sleep(1.0)
                continue
            try:
                state, round_, parameters, _, terms = await node.learning.work(task, 5.0)
                if self.nodes.get(number) is not node or state == "wait":
                    continue
                data = await node.learning._tools.blobs.get(parameters)
                if data is None:
                    continue
                if state == "finished":
                    self.final[number] = data
                    return
                await trio.sleep(TRAIN_S)
                model, loss = digits.train(
                    decode(terms.arrays, data, terms.max_abs), part, EPOCHS, RATE, BATCH, SEED + round_
                )
                update = encode(terms.arrays, model)
                if terms.topology == GROUPS:
                    update, kept = quantise(terms.arrays, data, update, kept, terms.max_abs)
                info = await node.blobs.put(update)
                await node.learning.hand_in(task, round_, info.cid, len(part), {"loss": loss})
            except (LearningError, StorageError):  # it was killed, it left, or the round went on without it
                await trio.sleep(1.0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.churn", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_PEERS} nodes, {QUICK_ROUNDS} rounds")
    parser.add_argument("--topology", choices=[GROUPS, GOSSIP], default=GROUPS)
    options = parser.parse_args(arguments)
    topology: str = options.topology
    peers, rounds = (QUICK_PEERS, QUICK_ROUNDS) if options.quick else (PEERS, ROUNDS)
    figures: dict[str, Any] = {"peers": peers, "rounds": rounds, "churn": CHURN}
    accuracy: dict[str, float] = {}
    targets: list[Target] = []
    for name, churn in (("still", 0.0), ("churn", CHURN)):
        began = process_time()
        view, finals, went, seconds = play(peers, rounds, churn, topology)
        models = [decode(view.terms.arrays, final, view.terms.max_abs) for final in finals]
        accuracies = [accuracy_of(model) for model in (models if topology == GOSSIP else models[:1])]
        accuracy[name] = median(accuracies)
        if topology == GOSSIP:
            figures[f"{name}_accuracy_least"] = rounded(min(accuracies))
            figures[f"{name}_spread"] = rounded(spread(models))
        contributed = [len(one.contributors) for one in view.history]
        figures |= {
            f"{name}_accuracy": rounded(accuracy[name]),
            f"{name}_killed": went.killed,
            f"{name}_left": went.left,
            f"{name}_back_in_the_last_round": went.back,
            f"{name}_contributors": contributed,
            f"{name}_contributors_median": median(contributed),
            f"{name}_seconds_virtual": rounded(seconds),
            f"{name}_cpu_s": rounded(process_time() - began),
        }
        targets.append(at_least(f"{name}: rounds with a result", rounds, len(view.history)))
        targets.append(at_least(f"{name}: accuracy", CONVERGED, accuracy[name]))
    alone = digits.new_model(HIDDEN, SEED)
    for round_ in range(1, rounds + 1):
        alone, _ = digits.train(alone, digits.load()[0], EPOCHS, RATE, BATCH, SEED + round_)
    figures["central_accuracy"] = rounded(accuracy_of(alone))
    targets.append(at_most("accuracy lost by the churn", 0.03, accuracy["still"] - accuracy["churn"]))
    if not options.quick and topology == GROUPS:  # in gossip a step names those drawn by one node
        half = round(CHURN * peers) / 2
        targets.append(
            at_least(
                "those who went and contribute in the last round",
                half,
                figures["churn_back_in_the_last_round"],
            )
        )
    benchmark = "churn" if topology == GROUPS else "churn_gossip"
    emit(benchmark, figures, targets, None if options.quick else RESULTS / f"{benchmark}.json")
    return 0 if all(target.met for target in targets) else 1


def play(peers: int, rounds: int, churn: float, topology: str) -> tuple[TaskView, list[bytes], Went, float]:
    """One run: how the task ended at node 0, the models that the nodes have, who went, and how long it
    took in virtual seconds.

    Raises `RuntimeError` when two nodes end with different models in groups.
    """
    found: list[tuple[TaskView, list[bytes], Went, float]] = []

    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with open_world(SEED) as world:
                crowd = Crowd(world, found_network(identity(0), 8), Path(folder), peers, rounds * TRAIN_S / 3)
                found.append(await _run(crowd, rounds, churn, topology))

    run_deterministic(main, seed=SEED)
    return found[0]


async def _run(
    crowd: Crowd, rounds: int, churn: float, topology: str
) -> tuple[TaskView, list[bytes], Went, float]:
    numbers = range(crowd.peers)
    for number in numbers:
        await crowd.start(number)
    await trio.sleep(SETTLED_S)
    author = crowd.nodes[0]
    task = await publish(author, crowd.peers, rounds, topology)
    with trio.fail_after(JOIN_WITHIN_S):
        for number in numbers:
            await _join(crowd.nodes[number], task)
    rng = random.Random(SEED)
    victims = rng.sample(numbers[1:], round(churn * crowd.peers))
    async with trio.open_nursery() as nursery:
        for number in numbers:
            nursery.start_soon(crowd.train, number, task)
        while (await author.learning.task(task)).round < 2:  # noqa: ASYNC110
            await trio.sleep(1.0)
        began = trio.current_time()
        for turn, number in enumerate(victims):
            after_s = rng.uniform(0, rounds * TRAIN_S / 3)  # so that all are back with rounds to spare
            if turn % 3 == 2:
                nursery.start_soon(crowd.leave_and_join, number, task, after_s)
            else:
                nursery.start_soon(crowd.come_and_go, number, after_s)
    seconds = trio.current_time() - began
    if topology == GROUPS and len(set(crowd.final.values())) > 1:
        raise RuntimeError("the members' models differ")
    await trio.sleep(60.0)  # what other groups showed comes from the task's holders
    finals = [crowd.final[number] for number in numbers]
    view = await author.learning.task(task)
    last = {one.agent for one in view.history[-1].contributors} if view.history else set()
    back = sum(identity(number).agent in last for number in (*crowd.killed, *crowd.left))
    return view, finals, Went(len(crowd.killed), len(crowd.left), back), seconds


async def _join(node: Node, task: Cid) -> None:
    """Join as soon as the task's holders have it."""
    while True:
        with suppress(UnknownTask):
            await node.learning.join(task)
            return
        await trio.sleep(1.0)


def accuracy_of(model: digits.Model) -> float:
    """The share of the test images that a model takes for what they are."""
    return digits.test(model, digits.load()[1])[1]


def spread(models: Sequence[digits.Model]) -> float:
    """How far the models lie from their mean (Euclidean norm), the median over them, by that mean's norm."""
    rows = np.array([np.concatenate([array.reshape(-1) for array in model]) for model in models])
    mean = rows.mean(axis=0)
    return float(np.median(np.linalg.norm(rows - mean, axis=1)) / np.linalg.norm(mean))


async def publish(node: Node, peers: int, rounds: int, topology: str) -> Cid:
    """The task, by a node."""
    model = digits.new_model(HIDDEN, SEED)
    arrays = tuple(
        starmap(lambda name, array: Array(name, "<f4", array.shape), zip(NAMES, model, strict=True))
    )
    info = await node.blobs.put(encode(arrays, [np.asarray(array, "<f4") for array in model]))
    return await node.learning.create(
        Task(
            name="digits",
            arrays=arrays,
            parameters=info.cid,
            rounds=rounds,
            min_members=peers,
            max_members=max(peers, 17),
            commit_ms=DEADLINE_MS,
            reveal_ms=DEADLINE_MS,
            result_ms=DEADLINE_MS,
            max_examples=10_000,
            max_abs=100,
            config={},
            strategy=ROBUST,
            compression=INT8 if topology == GROUPS else NO_COMPRESSION,
            topology=topology,
        )
    )


def identity(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


if __name__ == "__main__":
    sys.exit(main())
