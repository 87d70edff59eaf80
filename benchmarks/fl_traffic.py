"""How many bytes reach a peer in a round of learning, for each topology, beside the fewest that can.

Whole nodes in the simulator, with a task as `fl create` makes it: the default rule, and updates in int8.
Nobody trains; every member hands in a model a little off the round's. What arrived anywhere is counted by the
simulator, requests and replies, in the rounds after the first: models and updates (`blob.*`) beside all the
rest, which is records, signatures, and what the network says to itself meanwhile. The least is what a member
has to hear to compute the round's model itself:

- **all_to_all**, 16 members: the updates of the 15 others;
- **groups**, 64 members: the updates of the 15 others of its group, and the models of the other groups;
- **gossip**, 32 members: as many whole models as a member draws, as it has no common one to differ from.

Bytes are those of bodies, without frames and encryption. A part of `benchmarks.federated`.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import trio

from benchmarks.report import Target, at_most, rounded
from chain.aggregation_rule import ROBUST
from chain.cid import Cid
from chain.identity import Identity
from chain.learning_task import (
    ALL_TO_ALL,
    GOSSIP,
    GROUPS,
    INT8,
    MAX_MEMBERS,
    NO_COMPRESSION,
    Array,
    Task,
)
from federated.compression import quantise, sent_size
from federated.errors import UnknownTask
from federated.gossip import fanout
from federated.update import decode, encode, update_size
from node.node import Node
from node.options import NodeOptions
from sim.network import SimWorld, open_world
from sim.virtual_clock import run_deterministic
from sim.whole_node import found_network, start_node

DIM = 8
PARAMETERS = 50_000
QUICK_PARAMETERS = 5_000
ROUNDS = 4
"""The first is not counted: in it members also fetch the task and its first model."""
SIZES = {ALL_TO_ALL: 16, GROUPS: 64, GOSSIP: 32}
QUICK_SIZES = {ALL_TO_ALL: 4, GROUPS: MAX_MEMBERS + 1, GOSSIP: 5}
OVER = 1.5
"""Bytes that arrive over the least, at most."""
MOST = 4
"""Methods that are named, of those that move no models."""
PAUSE_S = 0.2
TRAIN_S = 2.0
SECONDS = 3_600.0
SEED = 1


@dataclass
class Run:
    """A network, a task, and what had arrived by method when its second round began."""

    world: SimWorld
    nodes: list[Node] = field(default_factory=list)
    task: Cid = b""
    at_second: dict[str, int] = field(default_factory=dict)
    ready: int = 0

    def arrived(self) -> dict[str, int]:
        """Bytes that have arrived so far, by method."""
        return {name: one.request_bytes + one.reply_bytes for name, one in self.world.trace.methods().items()}


def measure(quick: bool) -> tuple[dict[str, Any], list[Target]]:
    """Figures and targets; `quick`: a tenth of the parameters, and fewer members."""
    # A world ends while its nodes are at work, and some of them complain.
    logging.getLogger("roseforest").addHandler(logging.NullHandler())
    parameters = QUICK_PARAMETERS if quick else PARAMETERS
    figures: dict[str, Any] = {"parameters": parameters, "model_bytes": 4 * parameters}
    targets: list[Target] = []
    for topology, members in (QUICK_SIZES if quick else SIZES).items():
        task = terms(topology, members, parameters)
        with tempfile.TemporaryDirectory() as folder:
            for number in range(members):
                (Path(folder) / str(number)).mkdir()
            found = run_deterministic(_simulated, Path(folder), task, members, seed=SEED)
        figures[topology] = told(task, members, found)
        over = figures[topology]["bytes_over_least"]
        if not quick:  # what a round says besides its updates counts in a small model
            targets.append(at_most(f"{topology}, {members} members: bytes over the least", OVER, over))
    return figures, targets


def told(task: Task, members: int, arrived: Mapping[str, int]) -> dict[str, Any]:
    """The figures of one run, a member and round."""
    share = members * (ROUNDS - 1)
    blobs = sum(size for name, size in arrived.items() if name.startswith("blob.")) / share
    everything = sum(arrived.values()) / share
    fewest = least(task, members)
    rest = {name: size / share for name, size in arrived.items() if not name.startswith("blob.")}
    most = sorted(rest, key=lambda name: -rest[name])[:MOST]
    found: dict[str, Any] = {
        "members": members,
        "update_bytes": sent_size(task),
        "bytes_in_per_peer_and_round": round(everything),
        "of_these_updates_and_models": round(blobs),
        "least": round(fewest),
        "bytes_over_least": rounded(everything / fewest, 4),
        "updates_and_models_over_least": rounded(blobs / fewest, 4),
        "most_of_the_rest": {name: round(rest[name]) for name in most},
    }
    if task.topology != ALL_TO_ALL:
        all_updates = (members - 1) * sent_size(task)
        found["everybody_s_updates_over_updates_and_models"] = rounded(all_updates / blobs)
    return found


def least(task: Task, members: int) -> float:
    """The fewest bytes that let a member compute the round's model itself, the mean of all members."""
    if task.topology == GOSSIP:
        return min(fanout(task), members - 1) * update_size(task.arrays)
    groups = 1 if task.topology == ALL_TO_ALL else -(-members // MAX_MEMBERS)
    others = members / groups - 1
    return others * sent_size(task) + (groups - 1) * update_size(task.arrays)


def terms(topology: str, members: int, parameters: int) -> Task:
    """A task with the bounds and defaults of `fl create`, that begins when all are there."""
    task = Task(
        name="traffic",
        arrays=(Array("w", "<f4", (parameters,)),),
        parameters=b"",
        rounds=ROUNDS,
        min_members=members,
        max_members=members,
        commit_ms=60_000,
        reveal_ms=60_000,
        result_ms=60_000,
        max_examples=1_000_000,
        max_abs=1_000,
        config={},
    )
    compression = NO_COMPRESSION if topology == GOSSIP else INT8
    return replace(task, strategy=ROBUST, compression=compression, topology=topology)


async def _simulated(folder: Path, task: Task, members: int) -> dict[str, int]:
    """Bytes that arrived in all rounds after the first, by method."""
    with trio.fail_after(SECONDS):
        async with open_world(SEED) as world:
            run = Run(world)
            await _open(run, folder, members)
            model = encode(task.arrays, [np.zeros(array.shape, array.dtype) for array in task.arrays])
            first = await run.nodes[0].blobs.put(model)
            run.task = await run.nodes[0].learning.create(replace(task, parameters=first.cid))
            for node in run.nodes:
                await _join(node, run.task)
            async with trio.open_nursery() as nursery:
                for number in range(members):
                    nursery.start_soon(_learn, run, number)
            after = run.arrived()
            return {name: size - run.at_second.get(name, 0) for name, size in after.items()}


async def _open(run: Run, folder: Path, members: int) -> None:
    """So many nodes of one network; `folder` has one for each."""
    identities = [Identity.from_seed(bytes([number + 1]) * 32) for number in range(members)]
    founding = found_network(identities[0], DIM)
    for number, identity in enumerate(identities):
        bootstrap = () if number == 0 else (run.world.address(identities[0].agent),)
        options = NodeOptions(bootstrap=bootstrap, capacity=100)
        place = folder / str(number)
        run.nodes.append(await start_node(run.world, identity, founding, place, number, options))
    await _until(lambda: all(node.joined for node in run.nodes))


async def _learn(run: Run, number: int) -> None:
    """A member's process: an update of its own each round, until the task has finished."""
    node, rng, done = run.nodes[number], np.random.default_rng([SEED, number]), 0
    while True:
        state, now, parameters, _, task = await node.learning.work(run.task, 5.0)
        if state == "finished":
            return
        if state != "train" or now == done:
            continue
        if now == 2:
            await _second(run, task)
        base = await node.blobs.fetch(parameters, update_size(task.arrays), [])  # it is here
        values = [x + rng.normal(0, 0.01, x.shape).astype(x.dtype) for x in decode(task.arrays, base, 1_000)]
        await trio.sleep(TRAIN_S)
        update = encode(task.arrays, values)
        if task.compression == INT8:
            update, _ = quantise(task.arrays, base, update, None, task.max_abs)
        info = await node.blobs.put(update)
        await node.learning.hand_in(run.task, now, info.cid, 10, {})
        done = now


async def _join(node: Node, task: Cid) -> None:
    """Join as soon as the task is where this node finds it."""
    while True:
        with suppress(UnknownTask):
            await node.learning.join(task)
            return
        await trio.sleep(PAUSE_S)


async def _second(run: Run, task: Task) -> None:
    """A member is at the second round: counting begins with the first of them.

    Without rounds that all share, it begins when everybody is there.
    """
    run.ready += 1
    if task.topology == GOSSIP:
        await _until(lambda: run.ready == len(run.nodes))
    run.at_second = run.at_second or run.arrived()


async def _until(condition: Callable[[], bool]) -> None:
    """Look now and then, in virtual time."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(PAUSE_S)
