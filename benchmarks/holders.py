"""A thousand nodes without a network: who holds which shard, who has how much, and whom a question asks.

Positions are hashes, as the network's are; the holders of a shard are the R nodes closest to its basis by
XOR (`dht.overlay.distance`), and a question's shards are covered as the daemon covers them
(`node.query.wave`). Placement by XOR alone loads nodes unevenly. `capped` shows what a bound on a node's
share does, as in consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018), but
without an order of arrival: of all pairs of a shard and a node the nearest comes first, and a node takes
what it has room for. XOR distance being the same from both sides, that is the one stable matching (Gale and
Shapley, 1962) of shards that prefer near nodes and nodes that prefer near shards, a pure function of
positions, leaves and sizes.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from chain.identity import AgentId
from dht.overlay.distance import KEY_BITS, as_int, closest
from node.query.wave import Ask, Wave
from sharding.tree import Prefix

REPLICAS = 3
EXTRA = 2
"""Holders that an asker knows beyond the replicas."""
CAP = 1.55
"""Times the mean: the most that a node takes."""
AROUND = 64
"""Nodes closest to a basis that may hold its shard at first, twice as many whenever that is too few."""
CHECKED = 50
"""Bases for which the order is compared with that of `dht.overlay.distance`."""

LATENCY_S = (0.004, 0.08)


@dataclass(frozen=True, slots=True)
class Nodes:
    """Nodes by number: their agents, their positions, and how far each is from the asker."""

    agents: tuple[AgentId, ...]
    positions: tuple[bytes, ...]
    """Ascending; nodes are numbered in this order."""
    seconds: Mapping[AgentId, float]
    _points: tuple[int, ...]

    @classmethod
    def drawn(cls, count: int, seed: int) -> Nodes:
        """So many nodes, everything about them drawn from the seed."""
        agents = [sha256(f"{seed}/holder/{number}".encode()).digest() for number in range(count)]
        return cls.at({agent: sha256(b"holder position\0" + agent).digest() for agent in agents}, seed)

    @classmethod
    def at(cls, places: Mapping[AgentId, bytes], seed: int) -> Nodes:
        """The nodes at these positions; how far they are is drawn from the seed."""
        agents = tuple(sorted(places, key=places.__getitem__))
        positions = tuple(places[agent] for agent in agents)
        delays = np.random.default_rng(seed).uniform(*LATENCY_S, len(agents)).tolist()
        points = tuple(map(as_int, positions))
        return cls(agents, positions, dict(zip(agents, delays, strict=True)), points)

    def near(self, basis: bytes, count: int) -> list[int]:
        """Numbers of the `count` nodes closest to a basis, nearest first. O(log nodes + count)."""
        origin = as_int(basis)
        for shared in range(len(self._points).bit_length(), -1, -1):
            free = KEY_BITS - shared
            low = (origin >> free) << free
            first, end = bisect_left(self._points, low), bisect_left(self._points, low + (1 << free))
            if end - first >= count or shared == 0:
                break  # whoever shares fewer bits is farther away than these
        return heapq.nsmallest(count, range(first, end), key=lambda number: origin ^ self._points[number])


@dataclass(frozen=True, slots=True)
class Placement:
    """For each shard the numbers of the nodes that an asker tries, the `REPLICAS` that hold it first."""

    nodes: Nodes
    holders: tuple[tuple[int, ...], ...]

    def loads(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Records in each node's shards."""
        loads = np.zeros(len(self.nodes.agents), dtype=np.int64)
        for held, size in zip(self.holders, sizes.tolist(), strict=True):
            loads[list(held[:REPLICAS])] += size
        return loads

    def asked(self, leaves: Sequence[Prefix], shards: Sequence[int]) -> list[Ask]:
        """What the first wave asks of whom for these shards."""
        agents, seconds = self.nodes.agents, self.nodes.seconds
        known = {leaves[number]: [agents[node] for node in self.holders[number]] for number in shards}
        return Wave(known, lambda agent: 1.0 + seconds[agent], REPLICAS).start()


def by_distance(nodes: Nodes, leaves: Sequence[Prefix]) -> Placement:
    """Shards at the nodes closest to their bases. Raises `ValueError` where `distance.closest` disagrees."""
    bases = [leaf.basis() for leaf in leaves]
    holders = [tuple(nodes.near(basis, REPLICAS + EXTRA)) for basis in bases]
    numbers = range(len(nodes.agents))
    for shard in range(0, len(leaves), max(1, len(leaves) // CHECKED)):
        right = closest(bases[shard], numbers, nodes.positions.__getitem__, REPLICAS + EXTRA)
        if list(holders[shard]) != right:
            raise ValueError(
                f"shard {leaves[shard].text()}: {holders[shard]} are not the closest, {right} are"
            )
    return Placement(nodes, tuple(holders))


def capped(start: Placement, leaves: Sequence[Prefix], sizes: NDArray[np.int64]) -> tuple[Placement, float]:
    """The placement where nobody has more than `CAP` times the mean, and the share of copies that it moves.

    Those are copies which are not on the `REPLICAS` nearest nodes. Everybody has room for the largest shard.
    """
    nodes = start.nodes
    count = len(nodes.agents)
    room = max(CAP * REPLICAS * int(sizes.sum()) / count, int(sizes.max()))
    around = min(AROUND, count)
    while True:
        order = [nodes.near(leaf.basis(), around) for leaf in leaves]
        held = _nearest_first(nodes, leaves, order, sizes.tolist(), room)
        if around == count or all(len(some) == REPLICAS for some in held):
            break
        around = min(2 * around, count)
    holders = tuple(
        (*some, *[one for one in near if one not in some][:EXTRA])
        for some, near in zip(held, order, strict=True)
    )
    moved = sum(len(set(some) - set(near[:REPLICAS])) for some, near in zip(held, order, strict=True))
    return Placement(nodes, holders), moved / (REPLICAS * len(leaves))


def _nearest_first(
    nodes: Nodes, leaves: Sequence[Prefix], order: Sequence[Sequence[int]], sizes: Sequence[int], room: float
) -> list[list[int]]:
    pairs = sorted(
        (as_int(leaf.basis()) ^ nodes._points[node], shard, node)
        for shard, (leaf, near) in enumerate(zip(leaves, order, strict=True))
        for node in near
    )
    loads = [0] * len(nodes.agents)
    held: list[list[int]] = [[] for _ in leaves]
    for _, shard, node in pairs:
        if len(held[shard]) < REPLICAS and loads[node] + sizes[shard] <= room:
            loads[node] += sizes[shard]
            held[shard].append(node)
    return held
