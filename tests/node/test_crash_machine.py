"""Nodes that commit, lose power at any write, lose what they held, come back and repair, in any order.

A rule-based machine (Hypothesis) moves four whole nodes in virtual time. Power goes before or after a
transaction of any of a node's databases: before, SQLite's log has nothing of it, after, it is on disk and
nobody was told. (What a cut leaves of a half-written file is `test_crash_durability`'s business.) Whatever
happened: nothing acknowledged is lost, no chain forks, and once all is quiet the replicas are equal.

The simulation runs in a thread of its own, which stands still between two rules.
"""

from __future__ import annotations

import queue
import random
import tempfile
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple, Unpack

import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chain.cid import Cid
from chain.record import verify_signature
from dht.network import Network
from dht.repair.repairer import SWEEP_S
from node.founding import REPLICATION
from node.models import Added, NewEntry
from node.node import Node, open_node
from node.options import NodeOptions, NodePaths
from node.storage.errors import StorageClosed, StorageError
from sim.inspection import Inspected
from sim.network import SimWorld, open_world
from sim.virtual_clock import SimClock, run_deterministic, seeded_random
from sim.whole_node import FSYNC_S, found_network
from tests.node.simulated_nodes import DIM, FaultyLink, identity, vector

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NODES = range(4)
QUIET_S = 2 * SWEEP_S
"""Virtual seconds within which everything has to be in its place again: who comes back at once, with what it
held lost, is found out when everything is compared again."""
CLOSED_S = 0.05
PATIENCE_S = 120.0
"""Real seconds that one rule may take."""


class PowerCut(Exception):
    """The machine lost power at a write."""


@dataclass
class Disk:
    """The `RunBlocking` of one machine's databases: power goes at a write that was drawn."""

    cut_in: int | None = None
    after: bool = False

    async def __call__(self, fn: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        await trio.sleep(FSYNC_S)
        if self.cut_in is None:
            return fn(*args)
        self.cut_in -= 1
        if self.cut_in > 0:
            return fn(*args)
        self.cut_in = None
        if self.after:
            fn(*args)
        raise PowerCut


@dataclass
class Machines:
    """Four machines with disks, on one network; all coroutines run in the simulation's thread."""

    world: SimWorld
    link: FaultyLink
    folder: Path
    founding: Any = field(default_factory=lambda: found_network(identity(0), DIM))
    nodes: dict[int, Node] = field(default_factory=dict)
    disks: dict[int, Disk] = field(default_factory=dict)
    acknowledged: dict[Cid, tuple[int, str]] = field(default_factory=dict)
    written: int = 0

    async def start(self, number: int) -> None:
        folder = self.folder / str(number)
        folder.mkdir(exist_ok=True)
        host = await self.world.join(identity(number).agent)
        self.disks[number] = Disk()
        await host.nursery.start(self._live, number, folder, host)

    async def _live(
        self, number: int, folder: Path, host: Network, task_status: trio.TaskStatus[None]
    ) -> None:
        bootstrap = () if number == 0 else (self.world.address(identity(0).agent),)
        try:
            async with open_node(
                identity=identity(number),
                founding=self.founding,
                paths=NodePaths(
                    chain=folder / "chain.db",
                    held=folder / "held.db",
                    derived=folder / "derived.db",
                    peers=folder / "peers.json",
                ),
                network=host,
                clock=SimClock(),
                random=seeded_random(number, "machine"),
                run_blocking=Disk(),
                write_blocking=self.disks[number],
                options=NodeOptions(bootstrap=bootstrap),
            ) as node:
                self.nodes[number] = node
                task_status.started()
                await trio.sleep_forever()
        except* (PowerCut, StorageClosed):  # whoever waited for a write goes with the machine
            self.nodes.pop(number, None)
            self.world.crash(identity(number).agent)

    async def kill(self, number: int) -> None:
        del self.nodes[number]
        self.world.crash(identity(number).agent)
        await trio.sleep(CLOSED_S)

    async def commit(self, number: int, count: int) -> None:
        texts = [f"entry {self.written + n}" for n in range(count)]
        entries = [NewEntry(text, vector=vector(self.written + n)) for n, text in enumerate(texts)]
        self.written += count
        try:
            outcomes = await self.nodes[number].add(entries)
        except StorageError:
            return  # the power went: nothing was promised
        for text, outcome in zip(texts, outcomes, strict=True):
            assert isinstance(outcome, Added)
            self.acknowledged[outcome.id] = (number, text)

    async def quiet(self) -> None:
        """Everybody up and nothing left to do."""
        for disk in self.disks.values():
            disk.cut_in = None
        self.link.deaf.clear()
        for number in NODES:
            if number not in self.nodes:
                await self.start(number)
        with trio.move_on_after(QUIET_S):
            while True:
                seen = self.inspected()
                knows = all(len(node.kademlia.contacts()) == len(NODES) - 1 for node in self.nodes.values())
                if knows and seen.pending() == 0 and seen.all_equal():
                    break
                await trio.sleep(1.0)
        await self.check()

    async def check(self) -> None:
        seen = self.inspected()
        assert seen.pending() == 0
        assert (seen.all_equal(), seen.differing(), seen.forgeries()) == (True, 0, 0)
        chains = {}
        for number, node in self.nodes.items():
            report = node.parts.own.verify()
            chain = node.parts.own.read(0, report.length + 1)
            assert len({record.cid for record in chain}) == len(chain) == report.length
            chains[identity(number).agent] = [record.cid for record in chain]
        for node in self.nodes.values():
            for agent, cids in chains.items():
                for record in node.parts.held.of_author(agent):
                    assert record.cid == cids[record.header.seq], "somebody holds what is not in the chain"
        for place, (entry, (author, text)) in enumerate(self.acknowledged.items()):
            assert entry in chains[identity(author).agent], "acknowledged, and not in the author's chain"
            reader = self.nodes[(author + 1 + place % (len(NODES) - 1)) % len(NODES)]
            view = await reader.get(entry)
            assert view is not None, "acknowledged, and not to be had"
            assert view.text == text
            assert all(map(verify_signature, view.records))

    def inspected(self) -> Inspected:
        names = {str(number): node for number, node in self.nodes.items()}
        return Inspected(names, frozenset(names), frozenset(names), REPLICATION)


Order = Callable[[Machines], Awaitable[None]]


class Simulation:
    """A thread in which virtual time passes only while an order is carried out."""

    def __init__(self, folder: Path) -> None:
        self._orders: queue.Queue[Order | None] = queue.Queue()
        self._done: queue.Queue[BaseException | Machines | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, args=(folder,), daemon=True)
        self._thread.start()
        self.machines = self._outcome()

    def do(self, order: Order) -> None:
        self._orders.put(order)
        self._outcome()

    def close(self) -> None:
        self._orders.put(None)
        self._thread.join()

    @property
    def runs(self) -> bool:
        return self._thread.is_alive()

    def _outcome(self) -> Any:
        outcome = self._done.get(timeout=PATIENCE_S)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _run(self, folder: Path) -> None:
        async def main() -> None:
            link = FaultyLink()
            async with open_world(1, link) as world:
                machines = Machines(world, link, folder)
                for number in NODES:
                    await machines.start(number)
                self._done.put(machines)
                while (order := self._orders.get()) is not None:
                    try:
                        await order(machines)
                    except (AssertionError, StorageError) as error:
                        self._done.put(error)
                    else:
                        self._done.put(None)

        try:
            run_deterministic(main, seed=1)
        except BaseException as error:
            self._done.put(error)


class CrashMachine(RuleBasedStateMachine):
    """The rules; see the module."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="roseforest-machine-")
        self._simulation = Simulation(Path(self._folder.name))
        self._machines: Machines = self._simulation.machines

    def _up(self) -> list[int]:
        return sorted(self._machines.nodes)

    def _down(self) -> list[int]:
        return sorted(set(NODES) - self._machines.nodes.keys())

    def _pass(self, seconds: float) -> None:
        async def pass_by(_: Machines) -> None:
            await trio.sleep(seconds)

        self._simulation.do(pass_by)

    @initialize()
    def meet(self) -> None:
        self._simulation.do(Machines.quiet)

    @precondition(lambda self: self._up())
    @rule(chance=st.randoms(use_true_random=False), count=st.integers(1, 4))
    def commit(self, chance: random.Random, count: int) -> None:
        number = chance.choice(self._up())
        self._simulation.do(lambda machines: machines.commit(number, count))

    @precondition(lambda self: self._up())
    @rule(chance=st.randoms(use_true_random=False), writes=st.integers(1, 6), after=st.booleans())
    def lose_power_at_a_write(self, chance: random.Random, writes: int, after: bool) -> None:
        number = chance.choice(self._up())
        disk = self._machines.disks[number]
        disk.cut_in, disk.after = writes, after
        self._simulation.do(lambda machines: machines.commit(number, 1))
        self._pass(1.0)

    @precondition(lambda self: self._up())
    @rule(chance=st.randoms(use_true_random=False))
    def kill(self, chance: random.Random) -> None:
        number = chance.choice(self._up())
        self._simulation.do(lambda machines: machines.kill(number))

    @precondition(lambda self: self._down())
    @rule(chance=st.randoms(use_true_random=False), lost=st.integers(0, 7).map(lambda drawn: drawn == 7))
    def restart(self, chance: random.Random, lost: bool) -> None:
        """Start one again; with what it held for others lost, it has to be repaired."""
        number = chance.choice(self._down())
        if lost:
            for file in (self._machines.folder / str(number)).glob("held.db*"):
                file.unlink()
        self._simulation.do(lambda machines: machines.start(number))

    @precondition(lambda self: self._up())
    @rule(chance=st.randoms(use_true_random=False))
    def cut_off(self, chance: random.Random) -> None:
        self._machines.link.deaf.add(identity(chance.choice(self._up())).agent)

    @rule()
    def reconnect(self) -> None:
        self._machines.link.deaf.clear()

    @rule(seconds=st.sampled_from([0.01, 0.1, 1.0, 10.0, 60.0]))
    def replicate(self, seconds: float) -> None:
        self._pass(seconds)

    @rule()
    def quiet(self) -> None:
        self._simulation.do(Machines.quiet)

    @invariant()
    def what_was_acknowledged_is_in_the_chain(self) -> None:
        for entry, (author, _) in self._machines.acknowledged.items():
            node = self._machines.nodes.get(author)
            assert node is None or node.parts.own.get(entry) is not None

    def teardown(self) -> None:
        try:
            if self._simulation.runs:
                self._simulation.do(Machines.quiet)
        finally:
            self._simulation.close()
            self._folder.cleanup()


CrashMachine.TestCase.settings = settings(
    max_examples=6,
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
TestCrashMachine = pytest.mark.slow(CrashMachine.TestCase)
