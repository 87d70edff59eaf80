"""A scenario in virtual time: whole nodes, simulated links, one process.

The nodes are those of the daemon (`sim.whole_node`) and share embedder and atlas. All of a run follows from
the scenario and its seed, so its trace is equal wherever it is played. A killed node loses its tasks and
connections at once and keeps its files; started again, it finds its way back by the peers it remembers.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import TypeAlias, cast

import trio

from chain.cid import Cid
from chain.errors import ChainError
from chain.identity import AgentId, Identity
from chain.record import check_payload, verify_signature
from node.corpus import CorpusEntry
from node.embedding.embedder import Embedder
from node.errors import Forbidden, NotFound
from node.founding import Ground, ground_for
from node.models import Added, Edit, EntryView, NewEntry
from node.node import Node
from node.options import NodeOptions
from node.storage.errors import StorageError
from sim.errors import ScenarioFailed, one_error
from sim.faults import SECOND_US, FaultPlan, FaultyLink, Lie, Skewed
from sim.host import SimNetwork
from sim.inspection import Inspected
from sim.liars import LIES, Liar
from sim.links import LatencyLink
from sim.network import SimWorld, open_world
from sim.result import Result, judged
from sim.scenario import Scenario
from sim.stage import ActorDown, Reply, Rest
from sim.timeline import POLL_S, Timeline, View
from sim.trace import Trace, TraceEvent
from sim.virtual_clock import SimClock, run_deterministic, virtual_us
from sim.whole_node import found_network, start_node

CAPACITY = 100
KNOWN_WHEN_READY = 20
"""Peers that a node knows when it counts as ready, or all there are: a full bucket."""
LEAVE_S = 10.0
"""Virtual seconds that a node may take to hand over before it goes."""
CLOSING_S = 0.05
"""Virtual seconds after a kill until the node's files are closed."""
UNPLACED_LIMIT = 10_000
"""Own records of a node that are looked at for `sync_lag`."""

OnStart: TypeAlias = Callable[[str, Node], None]


class SimulatedStage:
    """A `sim.stage.Stage` of whole nodes."""

    def __init__(
        self,
        scenario: Scenario,
        plan: FaultPlan,
        world: SimWorld,
        folder: Path,
        identities: dict[str, Identity],
        on_start: OnStart | None = None,
    ) -> None:
        self._scenario = scenario
        self._world = world
        self._folder = folder
        self._identities = identities
        self._storing = frozenset(scenario.roster.storing)
        self._skews = plan.only(Skewed)
        self._honest = frozenset(scenario.roster.everybody) - plan.liars().keys()
        self._lies: dict[str, Lie] = {}
        self._proofs: dict[str, set[Cid]] = {}
        self._told: Counter[str] = Counter()
        self._on_start = on_start
        self.origin_us: float = inf
        """When the plan's time begins."""
        self._founding = found_network(identities["node-1"])
        self._ground: Ground = ground_for(self._founding)
        self._nodes: dict[str, Node] = {}

    @property
    def embedder(self) -> Embedder:
        """The network's embedder."""
        return self._ground.embedder

    async def open(self, view: View) -> float:
        """Start all nodes; seconds until they have joined. Raises `ScenarioFailed`."""
        topology, names = self._scenario.topology, self._scenario.roster.everybody
        view.phase(f"{len(names)} nodes start and join", len(names))
        began = trio.current_time()
        await self.start("node-1")

        async def later(name: str, pause: float) -> None:
            await trio.sleep(pause)
            await self.start(name)
            view.advance()

        async with trio.open_nursery() as nursery:
            for number, name in enumerate(names[1:], 1):
                nursery.start_soon(later, name, topology.start_over_s * number / len(names))
        view.advance()
        least = min(topology.nodes - 1, KNOWN_WHEN_READY)
        while late := [name for name in names if not self._knows(name, least)]:
            if trio.current_time() - began > topology.ready_within_s:
                raise ScenarioFailed(
                    f"{len(late)} of {len(names)} nodes, {late[0]} among them, had not joined within "
                    f"{topology.ready_within_s:g} s of virtual time"
                )
            await trio.sleep(POLL_S)
        return trio.current_time() - began

    def up(self, name: str) -> bool:
        return name in self._nodes

    async def add(self, name: str, entries: Sequence[CorpusEntry]) -> list[Cid | None]:
        node = self._node(name)
        try:
            outcomes = await node.add([NewEntry(entry.text, entry.tags, entry.domain) for entry in entries])
        except StorageError as error:
            raise ActorDown(name) from error
        except Forbidden:
            return [None] * len(entries)
        return [outcome.id if isinstance(outcome, Added) else None for outcome in outcomes]

    async def ask(self, name: str, text: str, k: int) -> Reply:
        node = self._node(name)
        try:
            answer = await node.query(text, None, k, (), None)
        except StorageError as error:
            raise ActorDown(name) from error
        self._still(name, node)
        return Reply(
            tuple(hit.id for hit in answer.hits),
            sum(not (hit.verified and verify_signature(hit.record)) for hit in answer.hits),
            answer.cost.ms,
            answer.cost.shards_missed,
            answer.cost.deadline_hit,
            answer.cost.hits_refused,
        )

    async def get(self, name: str, entry: Cid) -> str | None:
        node = self._node(name)
        try:
            view = await node.get(entry)
        except StorageError as error:
            raise ActorDown(name) from error
        self._still(name, node)
        return view.text if view is not None and _proven(view) else None

    async def edit(self, name: str, entry: Cid, text: str) -> bool:
        node = self._node(name)
        try:
            return bool((await node.change(entry, Edit(text=text))).records)
        except StorageError as error:
            raise ActorDown(name) from error
        except (NotFound, Forbidden):
            return False

    async def kill(self, name: str) -> None:
        if self._nodes.pop(name, None) is not None:
            self._world.crash(self._identities[name].agent)
            await trio.sleep(CLOSING_S)

    async def leave(self, name: str) -> None:
        node = self._nodes.get(name)
        if node is not None:
            await node.leave(LEAVE_S)
            await self.kill(name)

    async def start(self, name: str) -> None:
        if name in self._nodes:
            return
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        bootstrap = () if name == "node-1" else (self._world.address(self._identities["node-1"].agent),)
        node = await start_node(
            self._world,
            self._identities[name],
            self._founding,
            folder,
            self._scenario.seed,
            NodeOptions(capacity=CAPACITY if name in self._storing else 0, bootstrap=bootstrap, name=name),
            self._ground,
            SimClock(partial(self._skew_us, name)),
        )
        self._nodes[name] = node
        if self._on_start is not None and name in self._honest:
            self._on_start(name, node)
        if name in self._lies:
            self._turn(name, node)

    async def lie(self, name: str, kind: Lie) -> None:
        await trio.lowlevel.checkpoint()
        self._lies[name] = kind
        if name in self._nodes:
            self._turn(name, self._nodes[name])

    async def unplaced(self, name: str) -> frozenset[Cid] | None:
        await trio.lowlevel.checkpoint()
        return frozenset(self._node(name).unplaced(UNPLACED_LIMIT))

    async def rest(self) -> Rest:
        await trio.lowlevel.checkpoint()
        inspected = self.inspected()
        shards = [shard.basis() for shard in self._ground.layout.tree.leaves]
        return Rest(inspected.pending(), inspected.equal(shards) and inspected.all_equal())

    async def has_copy(self, entry: Cid) -> bool | None:
        await trio.lowlevel.checkpoint()
        return self.inspected().holds(entry)

    def honest_accused(self) -> int:
        """Honest agents whose records some honest node leaves out."""
        honest = {self._identities[name].agent for name in self._honest}
        return len(frozenset[AgentId]().union(*self.inspected().accused()) & honest)

    def offenders_at_large(self) -> int:
        """Liars that have put their lie in writing, and whose records some honest node still shows."""
        offenders = {self._identities[name].agent for name, proofs in self._proofs.items() if proofs}
        return len(offenders - frozenset(offenders).intersection(*self.inspected().accused()))

    def idle_liars(self) -> int:
        """Liars that have had no chance to lie."""
        return len(self._lies.keys() - self._told.keys())

    def inspected(self) -> Inspected:
        """All running nodes, to be looked into."""
        return Inspected(self._nodes, self._storing, self._honest, self._founding.manifest.replication)

    def _turn(self, name: str, node: Node) -> None:
        """Make a liar of a running node."""
        rng = random.Random(f"{self._scenario.seed}/liar/{name}")
        proofs = self._proofs.setdefault(name, set())
        host = cast(SimNetwork, node.parts.network)
        liar = Liar(name, self._identities[name], node, host, rng, proofs, self._told)
        LIES[self._lies[name]](liar)

    def _skew_us(self, name: str) -> int:
        now = virtual_us()
        return self._skews.skew_us(-1 if now < self.origin_us else now - round(self.origin_us), name)

    def _knows(self, name: str, peers: int) -> bool:
        node = self._nodes.get(name)
        return node is not None and node.joined and len(node.kademlia.contacts()) >= peers

    def _node(self, name: str) -> Node:
        node = self._nodes.get(name)
        if node is None:
            raise ActorDown(name)
        return node

    def _still(self, name: str, node: Node) -> None:
        """A node that was killed meanwhile has not answered anybody."""
        if self._nodes.get(name) is not node:
            raise ActorDown(name)


def identity_of(scenario: Scenario, name: str) -> Identity:
    """The key of a node; it follows from the seed."""
    return Identity.from_seed(sha256(f"{scenario.seed}/{name}".encode()).digest())


def play(
    scenario: Scenario,
    folder: Path,
    view: View,
    observer: Callable[[TraceEvent], None] | None = None,
    on_start: OnStart | None = None,
) -> Result:
    """Play a scenario in virtual time, with the nodes' files in `folder`; raises `ScenarioFailed`.

    `on_start` is shown every honest node when it starts: for tests that take a defence away.
    """
    with one_error():
        return run_deterministic(_play, scenario, folder, view, observer, on_start, seed=scenario.seed)
    raise AssertionError("unreachable")


async def _play(
    scenario: Scenario,
    folder: Path,
    view: View,
    observer: Callable[[TraceEvent], None] | None,
    on_start: OnStart | None,
) -> Result:
    topology, plan = scenario.topology, scenario.plan()
    identities = {name: identity_of(scenario, name) for name in scenario.roster.everybody}
    low, high = (round(bound * 1_000) for bound in topology.latency_ms)
    base = LatencyLink(scenario.seed, (low, high), round(topology.jitter_ms * 1_000), topology.loss)
    names = {identity.agent: name for name, identity in identities.items()}
    link = FaultyLink(base, plan, names, topology.bytes_per_s, origin_us=inf)
    trace = Trace(observer)
    async with open_world(scenario.seed, link, trace) as world:
        stage = SimulatedStage(scenario, plan, world, folder, identities, on_start)
        ready_s = await stage.open(view)
        link.origin_us = stage.origin_us = virtual_us()
        timeline = Timeline(scenario, stage, stage.embedder, view, plan)
        measured = await timeline.play()
        counts = trace.methods().values()
        inspected = stage.inspected()
        metrics = {
            "ready_s": round(ready_s, 6),
            **measured.figures(),
            "forgeries_held": inspected.forgeries(),
            "honest_accused": stage.honest_accused(),
            "offenders_at_large": stage.offenders_at_large(),
            "liars_idle": stage.idle_liars(),
            "bases_differing": inspected.differing(),
            "open_connections": world.open_connections(),
            "messages": sum(one.requests + one.replies + one.refusals for one in counts),
            "message_bytes": sum(one.request_bytes + one.reply_bytes for one in counts),
            "messages_lost": sum(one.lost for one in counts),
            "virtual_s": round(virtual_us() / SECOND_US, 6),
        }
    return Result(scenario, metrics, judged(scenario, metrics), trace.hexdigest(), trace.events)


def _proven(view: EntryView) -> bool:
    """Whether an entry came with its create record, which its author signed and whose payload is intact."""
    for record in view.records:
        if record.cid != view.id or record.payload is None:
            continue
        try:
            check_payload(record.header, record.payload)
        except ChainError:
            return False
        return verify_signature(record)
    return False
