"""How long a network takes to have R copies of everything again after losing 30 % of its nodes, at what cost.

`python -m benchmarks.repair [--quick]` runs 50 whole nodes (the composition of the daemon, with real files)
over the simulated network and clock, fills them, and kills 15 at once. Time is virtual and counts from the
kill: noticing who is dead, settling, comparing and sending, 10 ms one way, any width. The connections
of killed nodes are closed at once, as by the machine of a killed process; one that vanishes with its machine
is noticed by its first timeout, up to 2 s after somebody asks it. The *minimum* are the bytes of
the copies that nodes should hold from then on and do not have, each sent once: header, payload where one
belongs there, 64 bytes for signature and frame. Beside it the bytes that `record.store` and `record.fetch`
moved, those of comparing, and those of everything else. A basis whose holders were all killed cannot be
repaired but by its author, two minutes later if that is alive; it counts as lost if no live node has it then.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from benchmarks.report import RESULTS, at_most, emit, rounded
from chain.cid import Cid
from chain.identity import AgentId, Identity
from dht.overlay.distance import closest
from dht.records.basis import author_basis
from node.founding import REPLICATION
from node.models import Added, NewEntry
from node.node import Node
from node.options import NodeOptions
from sim.network import SimWorld, open_world
from sim.virtual_clock import run_deterministic
from sim.whole_node import found_network, start_node

DIM = 8
AUTHORS = 10
KILLED = 0.3
ADD_AT_ONCE = 20
CHECK_S = 1.0
LIMIT_S = 1_800.0
AUTHORS_S = 120.0
ITEM_BYTES = 64
MOVES = ("record.store", "record.fetch")
COMPARES = ("record.ranges", "record.digests", "record.lacks", "record.cids", "record.prove")
TARGET_S = 60.0
TARGET_RATIO = 3.0

Holdings = dict[bytes, dict[AgentId, frozenset[Cid]]]


@dataclass
class Run:
    """A network of whole nodes by agent."""

    world: SimWorld
    nodes: dict[AgentId, Node] = field(default_factory=dict)

    def holdings(self) -> Holdings:
        """By basis: who holds what there."""
        found: Holdings = {}
        for agent, node in self.nodes.items():
            after = b""
            while page := node.parts.held.bases_after(after, 10_000):
                after = page[-1].basis
                for one in page:
                    there = frozenset(node.parts.held.cids_at(one.basis, None, 100_000))
                    found.setdefault(one.basis, {})[agent] = there
        return found

    def nearest(self, basis: bytes) -> list[AgentId]:
        """The R live nodes nearest to a basis."""
        position = {agent: node.kademlia.self_contact().position for agent, node in self.nodes.items()}
        return closest(basis, position, position.__getitem__, REPLICATION)

    def lacking(self) -> list[tuple[bytes, AgentId, frozenset[Cid]]]:
        """What the nearest to each basis lack of what any live node has there."""
        found = []
        for basis, by in self.holdings().items():
            whole = frozenset().union(*by.values())
            for agent in self.nearest(basis):
                missing = whole - by.get(agent, frozenset())
                if missing:
                    found.append((basis, agent, missing))
        return found

    def in_order(self) -> bool:
        """Whether each basis lies whole at its R nearest, by the digests; cheaper than `lacking`."""
        digests: dict[bytes, dict[AgentId, tuple[int, bytes]]] = {}
        for agent, node in self.nodes.items():
            after = b""
            while page := node.parts.held.bases_after(after, 10_000):
                after = page[-1].basis
                for one in page:
                    digests.setdefault(one.basis, {})[agent] = one.digest
        position = {agent: node.kademlia.self_contact().position for agent, node in self.nodes.items()}
        for basis, by in digests.items():
            most = max(by.values())
            for agent in closest(basis, position, position.__getitem__, REPLICATION):
                if by.get(agent) != most:
                    return False
        return True

    def size(self, missing: list[tuple[bytes, AgentId, frozenset[Cid]]]) -> int:
        """Bytes of these copies."""
        total = 0
        for basis, _, cids in missing:
            left = sorted(cids)
            for node in self.nodes.values():
                for record in filter(None, node.parts.held.get_many(left)):
                    whole = basis != author_basis(record.header.author)
                    if not whole or record.payload is not None:
                        left.remove(record.cid)
                        total += ITEM_BYTES + len(record.header_bytes) + len(record.payload or b"") * whole
        return total

    def carried(self) -> dict[str, int]:
        """Bytes of requests and replies so far, by method."""
        methods = self.world.trace.methods()
        return {name: one.request_bytes + one.reply_bytes for name, one in methods.items()}


def identity(number: int) -> Identity:
    return Identity.from_seed(bytes([number + 1]) * 32)


def vector(seed: int) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(0, 1) for _ in range(DIM)]


async def start(world: SimWorld, folder: Path, count: int) -> Run:
    """A network of `count` nodes that know each other."""
    run = Run(world)
    founding = found_network(identity(0), DIM)
    for number in range(count):
        bootstrap = () if number == 0 else (world.address(identity(0).agent),)
        where = folder / str(number)
        where.mkdir()
        options = NodeOptions(bootstrap=bootstrap, capacity=100)
        run.nodes[identity(number).agent] = await start_node(
            world, identity(number), founding, where, number, options
        )
        await trio.sleep(0.5)
    return run


async def fill(run: Run, entries: int) -> None:
    """Add entries through some of the nodes and wait until they lie where they belong."""
    authors = list(run.nodes.values())[:AUTHORS]
    for at in range(0, entries, ADD_AT_ONCE):
        node = authors[at // ADD_AT_ONCE % AUTHORS]
        texts = range(at, min(entries, at + ADD_AT_ONCE))
        outcomes = await node.add([NewEntry(f"entry {n} ".ljust(400, "x"), vector=vector(n)) for n in texts])
        assert all(isinstance(one, Added) for one in outcomes)
        await trio.sleep(1)
    with trio.fail_after(LIMIT_S):
        await until(lambda: not any(node.status().pending for node in authors) and run.in_order(), 5.0)
    await trio.sleep(300)


async def until(condition: Callable[[], bool], every_s: float) -> None:
    """Wait for a condition."""
    while not condition():  # noqa: ASYNC110 - it is looked for in many nodes, from outside
        await trio.sleep(every_s)


async def measure(world: SimWorld, folder: Path, count: int, entries: int) -> dict[str, Any]:
    """Fill, kill, and see how it is repaired."""
    run = await start(world, folder, count)
    await fill(run, entries)
    bases = run.holdings().keys()
    copies_before = sum(len(cids) for by in run.holdings().values() for cids in by.values())
    rng = random.Random(7)
    killed = rng.sample(sorted(run.nodes), round(KILLED * count))
    for agent in killed:
        del run.nodes[agent]
        world.crash(agent)
    missing = run.lacking()
    lost = len(bases - run.holdings().keys())
    before, began, cpu = run.carried(), trio.current_time(), time.process_time()
    minimum = run.size(missing)
    with trio.move_on_after(LIMIT_S):
        await until(run.in_order, CHECK_S)
    took = trio.current_time() - began
    after = run.carried()
    carried = {name: size - before.get(name, 0) for name, size in after.items()}
    moved = sum(carried.get(name, 0) for name in MOVES)
    compared = sum(carried.get(name, 0) for name in COMPARES)
    pushed = sum(node.status().counters["records_repaired_total"] for node in run.nodes.values())
    cpu = time.process_time() - cpu
    await trio.sleep(AUTHORS_S)
    return {
        "nodes": count,
        "killed": len(killed),
        "entries": entries,
        "bases": len(bases),
        "copies_before": copies_before,
        "copies_missing": sum(len(one[2]) for one in missing),
        "bases_without_a_live_copy": lost,
        "bases_lost_in_the_end": len(bases - run.holdings().keys()),
        "seconds_to_r_again": rounded(took),
        "minimum_bytes": minimum,
        "moved_bytes": moved,
        "moved_to_minimum": rounded(moved / max(1, minimum)),
        "compared_bytes": compared,
        "other_bytes": sum(carried.values()) - moved - compared,
        "bytes_by_method": dict(sorted(carried.items(), key=lambda one: -one[1])[:10]),
        "records_pushed": pushed,
        "cpu_s_of_all_nodes": rounded(cpu),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Repair after losing 30 % of the nodes.")
    parser.add_argument("--quick", action="store_true", help="12 nodes and few entries, not kept")
    arguments = parser.parse_args()
    count, entries = (12, 100) if arguments.quick else (50, 1_000)
    figures: dict[str, Any] = {}

    async def simulate(folder: Path) -> None:
        async with open_world(1, None) as world:
            figures.update(await measure(world, folder, count, entries))

    with tempfile.TemporaryDirectory(prefix="repair-") as folder:
        run_deterministic(lambda: simulate(Path(folder)), seed=1)
    targets = [
        at_most("seconds_to_r_again", TARGET_S, figures["seconds_to_r_again"]),
        at_most("moved_to_minimum", TARGET_RATIO, figures["moved_to_minimum"]),
    ]
    emit("repair", figures, targets, None if arguments.quick else RESULTS / "repair.json")


if __name__ == "__main__":
    main()
