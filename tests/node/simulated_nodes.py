"""Whole nodes on simulated hosts, with caller's vectors, and the answers that brute force gives for them.

Nothing of a node is replaced: a scenario runs the composition of the daemon over a virtual network and clock.
A liar is a whole node too, one of whose methods a scenario overrides.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import trio

from chain.cid import Cid
from chain.identity import Identity
from chain.vector import Codes, score_ppm
from dht.network import PeerId
from dht.overlay.hello import Founding
from node.embedding.caller import CallerVectors
from node.founding import REPLICATION, SHARD_BITS
from node.models import Added, Answer, NewEntry
from node.node import Node
from node.options import NodeOptions
from sharding.tree import Prefix, ShardTree
from sim.links import Link
from sim.network import SimWorld, open_world
from sim.virtual_clock import run_deterministic
from sim.whole_node import found_network, start_node

DIM = 8
SHARDS = ShardTree.fixed(SHARD_BITS).leaves
SETTLE_S = 120.0
"""Virtual seconds within which a network without failures must come to rest."""

Vector = list[float]


def identity(number: int) -> Identity:
    return Identity.from_seed(bytes([number + 1]) * 32)


def vector(seed: int) -> Vector:
    """A vector that looks random; equal seeds give equal vectors."""
    return np.random.default_rng(seed).normal(size=DIM).tolist()  # type: ignore[no-any-return]


@dataclass
class Network:
    """A founded network, its nodes by number, and every entry that was added through it."""

    world: SimWorld
    founding: Founding
    folder: Path
    nodes: dict[int, Node] = field(default_factory=dict)
    entries: dict[Cid, tuple[Codes, NewEntry]] = field(default_factory=dict)
    invitations: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    """What nodes show to be let in, in a network by invitation."""
    _shards: dict[int, tuple[int, list[Prefix]]] = field(default_factory=dict)
    """What `shards_of` found, by the version of the node's membership that it was found for."""

    async def start(self, number: int, capacity: int = 100) -> Node:
        """Start node `number`, or start it again in its folder; 0 founds the network."""
        bootstrap = () if number == 0 else (self.world.address(identity(0).agent),)
        folder = self.folder / str(number)
        folder.mkdir(exist_ok=True)
        node = await start_node(
            self.world,
            identity(number),
            self.founding,
            folder,
            number,
            NodeOptions(bootstrap=bootstrap, capacity=capacity, invitation=self.invitations.get(number, ())),
        )
        self.nodes[number] = node
        self._shards.pop(number, None)
        return node

    async def open(self, capacities: Sequence[int]) -> None:
        for number, capacity in enumerate(capacities):
            await self.start(number, capacity)
        await self.settle()

    async def crash(self, number: int) -> None:
        """Kill a node as SIGKILL does; its files are closed when this returns."""
        del self.nodes[number]
        self.world.crash(identity(number).agent)
        await trio.sleep(0.05)

    async def leave(self, number: int, within_s: float = 10.0) -> int:
        """Stop a node in order; returns how many bases it left short of a copy."""
        short = await self.nodes[number].leave(within_s)
        await self.crash(number)
        return short

    async def settle(self) -> None:
        """Until all know each other, nothing is pending, and every holder is complete."""
        with trio.fail_after(SETTLE_S):
            while True:
                if await self._at_rest():
                    return
                await trio.sleep(0.1)

    async def _at_rest(self) -> bool:
        """Asks for no more of a node's status than it needs: this is what simulations do most."""
        storing = {n for n, node in self.nodes.items() if node.parts.options.capacity}
        for number, node in self.nodes.items():
            if not node.joined or node.parts.publisher.pending + node.parts.offers.pending:
                return False
            if len(node.kademlia.contacts()) != len(storing - {number}):
                return False
        for number in storing:
            node = self.nodes[number]
            held = 0 if node.read_only else node.parts.catch_up.shards_held
            if held != len(await self.shards_of(number)):
                return False
        return True

    async def shards_of(self, number: int) -> list[Prefix]:
        """The shards that node `number` should hold, by what it knows of the network."""
        node = self.nodes[number]
        version, mine = self._shards.get(number, (-1, []))
        if version != node.kademlia.version:
            version, mine = node.kademlia.version, []
            for shard in SHARDS:
                holders = await node.kademlia.holders(shard.basis(), REPLICATION)
                if node.agent in [contact.agent for contact in holders]:
                    mine.append(shard)
            self._shards[number] = (version, mine)
        return mine

    async def add(self, number: int, entries: Sequence[NewEntry]) -> list[Cid]:
        """Add entries through a node and remember them for `best`."""
        ids = []
        for entry, outcome in zip(entries, await self.nodes[number].add(entries), strict=True):
            assert isinstance(outcome, Added), outcome
            assert entry.vector is not None
            self.entries[outcome.id] = (CallerVectors("", DIM).quantise(entry.vector), entry)
            ids.append(outcome.id)
        return ids

    async def fill(self, count: int, authors: Sequence[int], seed: int = 0) -> None:
        """`count` entries, dealt to `authors` in turn, and wait until they lie where they belong."""
        for number, author in enumerate(authors):
            await self.add(author, [entry(seed + n) for n in range(number, count, len(authors))])
        await self.settle()

    def best(self, wanted: Vector, k: int, tags: Sequence[str] = ()) -> list[tuple[Cid, int]]:
        """What an exhaustive search over everything that was ever added finds: (id, score in ppm)."""
        query = CallerVectors("", DIM).quantise(wanted)
        scored = [
            (id_, score_ppm(query, codes))
            for id_, (codes, one) in self.entries.items()
            if set(tags) <= set(one.tags)
        ]
        return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:k]

    async def ask(
        self,
        number: int,
        wanted: Vector,
        k: int = 10,
        tags: Sequence[str] = (),
        deadline_ms: int | None = None,
    ) -> Answer:
        return await self.nodes[number].query(None, wanted, k, tags, deadline_ms)


def entry(number: int, *tags: str) -> NewEntry:
    """An entry whose text and vector follow from its number."""
    return NewEntry(f"entry {number}", tags=tags, vector=vector(number))


def shown(answer: Answer) -> list[tuple[Cid, int]]:
    """An answer in the form of `Network.best`."""
    return [(hit.id, hit.score) for hit in answer.hits]


async def until(condition: Callable[[], bool], within_s: float = SETTLE_S, every_s: float = 0.1) -> None:
    """Wait in virtual time for a condition; raises `TooSlowError`."""
    with trio.fail_after(within_s):
        while True:
            if condition():
                return
            await trio.sleep(every_s)


def override(owner: object, name: str, value: object) -> None:
    """Let one node's part behave differently: how scenarios make a liar of it."""
    assert hasattr(owner, name)
    setattr(owner, name, value)


Scenario = Callable[[Network], Awaitable[None]]


def simulate(
    folder: Path,
    capacities: Sequence[int],
    scenario: Scenario,
    link: Link | None = None,
) -> None:
    """Run a scenario in a network that came to rest with nodes of these capacities, in virtual time."""

    async def main() -> None:
        async with open_world(1, link) as world:
            network = Network(world, found_network(identity(0), DIM), folder)
            await network.open(capacities)
            await scenario(network)

    run_deterministic(main, seed=1)


@dataclass
class FaultyLink:
    """10 ms one way between all; slower, or deaf, for the peers that a scenario names while it runs."""

    slow_us: dict[PeerId, int] = field(default_factory=dict)
    deaf: set[PeerId] = field(default_factory=set)

    def __call__(self, sender: PeerId, receiver: PeerId, size: int, rng: random.Random) -> int | None:
        if sender in self.deaf or receiver in self.deaf:
            return None
        return 10_000 + self.slow_us.get(sender, 0) + self.slow_us.get(receiver, 0)
