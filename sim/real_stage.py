"""A scenario on real sockets: the daemons of a test network, moved by a timeline in real time.

Topology and workload are the scenario's; of the faults only those that a process can meet are played: it is
killed with SIGKILL and started again in its home, at its former addresses. What only a simulated link can do
is named and left out, and so is what nobody can see from outside (whether replicas are equal, for one).
Everything goes through the daemons' HTTP interface, as a user's commands do, so a daemon of one's own that
has joined by the printed address sees what the others see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import trio

from chain.cid import Cid, from_text, to_text
from node.api_client import ApiError
from node.corpus import CorpusEntry
from node.embedding.static import StaticEmbedder
from node.errors import DaemonNotRunning
from sim.errors import ScenarioFailed
from sim.faults import Down, FaultPlan, Lie
from sim.result import Result, judged
from sim.scenario import Scenario, ScenarioError
from sim.stage import ActorDown, Reply, Rest
from sim.testnet import MAX_NODES, RunningNode, TestNetwork
from sim.timeline import Timeline, View

OBSERVER_FLAGS = ("--capacity", "0")
LEAVE_FLAGS = ("--leave-seconds", "5")
POLL_S = 0.2
KNOWN_WHEN_READY = 20
"""Peers that a daemon knows when it counts as ready, or all there are."""


class RealStage:
    """A `sim.stage.Stage` of daemons."""

    def __init__(self, scenario: Scenario, network: TestNetwork) -> None:
        self._scenario = scenario
        self._network = network
        self._observers = frozenset(scenario.roster.observing)

    async def open(self, view: View) -> float:
        """Start the observers beside the network's nodes; seconds until all know each other.

        Raises `ScenarioFailed`, `DaemonFailed`.
        """
        topology, began = self._scenario.topology, trio.current_time()
        view.phase("all daemons meet")
        async with trio.open_nursery() as nursery:
            for name in self._scenario.roster.observing:
                nursery.start_soon(self._start_observer, name)
        least = min(topology.nodes - 1, KNOWN_WHEN_READY)
        with trio.move_on_after(topology.ready_within_s):
            for name in self._scenario.roster.everybody:
                peers = (await self._status(name))["peers"]
                while peers < least:
                    await trio.sleep(POLL_S)
                    peers = (await self._status(name))["peers"]
            return trio.current_time() - began
        raise ScenarioFailed(f"the daemons had not all met within {topology.ready_within_s:g} s")

    def up(self, name: str) -> bool:
        node = self._found(name)
        return node is not None and node.alive and not node.ending

    async def add(self, name: str, entries: Sequence[CorpusEntry]) -> list[Cid | None]:
        bodies = [{"text": one.text, "tags": list(one.tags), "domain": one.domain} for one in entries]
        results = (await self._post(name, "/v1/entries/batch", {"entries": bodies}))["results"]
        return [from_text(one["id"]) if "id" in one else None for one in results]

    async def ask(self, name: str, text: str, k: int) -> Reply:
        answer = await self._post(name, "/v1/query", {"text": text, "k": k, "cache": False})
        cost = answer["cost"]
        return Reply(
            tuple(from_text(hit["id"]) for hit in answer["hits"]),
            sum(not hit["verified"] for hit in answer["hits"]),
            float(cost["ms"]),
            int(cost["shards_missed"]),
            bool(cost["deadline_hit"]),
            int(cost["hits_refused"]),
        )

    async def get(self, name: str, entry: Cid) -> str | None:
        try:
            found = await self._node(name).get(f"/v1/entries/{quote(to_text(entry))}")
        except DaemonNotRunning as error:
            raise ActorDown(name) from error
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        text = found["text"]
        return text if isinstance(text, str) else None

    async def edit(self, name: str, entry: Cid, text: str) -> bool:
        try:
            await self._node(name).patch(f"/v1/entries/{quote(to_text(entry))}", {"text": text})
        except DaemonNotRunning as error:
            raise ActorDown(name) from error
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    async def kill(self, name: str) -> None:
        node = self._found(name)
        if node is not None and node.alive:
            await node.kill()

    async def leave(self, name: str) -> None:
        node = self._found(name)
        if node is not None and node.alive:
            await node.stop()

    async def start(self, name: str) -> None:
        doors = [node for node in self._network.nodes if node.name != name and node.alive]
        door = doors[0].started.addresses[0] if doors else None
        flags = OBSERVER_FLAGS if name in self._observers else self._network.flags_of.get(name, ())
        await self._network.start(name, join=door, flags=flags)

    async def lie(self, name: str, kind: Lie) -> None:
        raise AssertionError(f"{name} is a daemon: a plan for daemons has no liars")

    async def unplaced(self, name: str) -> frozenset[Cid] | None:
        await trio.lowlevel.checkpoint()
        return None

    async def rest(self) -> Rest:
        names = [name for name in self._scenario.roster.everybody if self.up(name)]
        pending = 0
        for name in names:
            try:
                pending += int((await self._status(name))["pending"])
            except ActorDown:
                continue
        return Rest(pending, None)

    async def has_copy(self, entry: Cid) -> bool | None:
        await trio.lowlevel.checkpoint()
        return None

    async def _start_observer(self, name: str) -> None:
        await self._network.start(name, join=self._network.bootstrap, flags=OBSERVER_FLAGS)

    async def _status(self, name: str) -> dict[str, Any]:
        try:
            status: dict[str, Any] = await self._node(name).get("/v1/status")
        except DaemonNotRunning as error:
            raise ActorDown(name) from error
        return status

    async def _post(self, name: str, path: str, body: object) -> Any:
        try:
            return await self._node(name).post(path, body)
        except DaemonNotRunning as error:
            raise ActorDown(name) from error

    def _found(self, name: str) -> RunningNode | None:
        return next((node for node in self._network.nodes if node.name == name), None)

    def _node(self, name: str) -> RunningNode:
        node = self._found(name)
        if node is None or not self.up(name):
            raise ActorDown(name)
        return node


def check_playable(scenario: Scenario, name: str) -> None:
    """Raise `ScenarioError` when so many daemons do not fit a test network."""
    daemons = scenario.topology.nodes + scenario.topology.observers
    if daemons > MAX_NODES:
        raise ScenarioError(
            f"{name}: topology.nodes: {daemons} daemons with the observers, a test network has at most "
            f"{MAX_NODES}; use --scale"
        )


def left_out(scenario: Scenario) -> list[str]:
    """What of a scenario real sockets cannot do, each in a few words."""
    topology = scenario.topology
    parts = ["the latency of links"]
    if topology.loss:
        parts.append(f"topology.loss {topology.loss:g}")
    if topology.bytes_per_s is not None:
        parts.append(f"topology.bytes_per_s {topology.bytes_per_s:,}")
    for number, fault in enumerate(scenario.faults):
        if fault.kind not in ("crash", "leave", "churn"):
            parts.append(f"faults[{number}] ({fault.kind})")
    return parts


def playable(plan: FaultPlan) -> FaultPlan:
    """The faults of a plan that a process can meet."""
    return FaultPlan(tuple(fault for fault in plan.faults if isinstance(fault, Down)))


def flags_of(plan: FaultPlan) -> dict[str, Sequence[str]]:
    """Flags of the daemons that leave in order: time to hand over, which a test network does not give."""
    return {event.node: LEAVE_FLAGS for event in plan.host_events() if event.in_order}


async def play_real(scenario: Scenario, network: TestNetwork, view: View) -> Result:
    """Play a scenario on a test network that has the scenario's storing nodes; the daemons go on afterwards.

    Raises `ScenarioFailed`, `DaemonFailed`.
    """
    embedder = await trio.to_thread.run_sync(StaticEmbedder)
    stage = RealStage(scenario, network)
    ready_s = await stage.open(view)
    measured = await Timeline(scenario, stage, embedder, view, playable(scenario.plan())).play()
    metrics = {"ready_s": round(ready_s, 3), **measured.figures()}
    return Result(scenario, metrics, judged(scenario, metrics), None, None)
