"""A thousand nodes without a network: who holds which shard, who has how much, and whom a question asks.

Positions are hashes, as the network's are; the holders of a shard are the R nodes closest to its basis by
XOR (`dht.overlay.distance`), and a question's shards are covered as the daemon covers them
(`node.query.wave`). Placement by XOR alone loads nodes unevenly. `capped` shows what a bound on a node's
share does: whoever has more than `CAP` times the mean of the nodes around it passes on the shard that it is
least close to, to the next in XOR order that has room.
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
CAP = 1.25
AROUND = 20
"""Nodes closest to a node whose mean load it is compared with, and to a basis that may hold its shard."""
CHECKED = 50
"""Bases for which the order is compared with that of `dht.overlay.distance`."""

ROUNDS = 100
"""In each of them a node passes on one shard at most."""

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


def capped(start: Placement, leaves: Sequence[Prefix], sizes: NDArray[np.int64]) -> tuple[Placement, int]:
    """The placement once nobody has more than `CAP` times the mean around it, and how many shards moved.

    Or once nobody who has more can pass anything on.
    """
    nodes = start.nodes
    loads = start.loads(sizes)
    around = np.array([nodes.near(position, AROUND + 1)[1:] for position in nodes.positions])
    order = [nodes.near(leaf.basis(), min(AROUND, len(nodes.agents))) for leaf in leaves]
    place = [{node: rank for rank, node in enumerate(one)} for one in order]
    held = [list(one[:REPLICAS]) for one in start.holders]
    mine: list[set[int]] = [set() for _ in nodes.agents]
    for shard, some in enumerate(held):
        for node in some:
            mine[node].add(shard)
    moved = 0
    for _ in range(ROUNDS):
        most = CAP * loads[around].mean(axis=1)
        before = moved
        for node in np.flatnonzero(loads > most).tolist():
            for shard in sorted(mine[node], key=lambda one: (-place[one][node], one)):
                size = int(sizes[shard])
                taker = next(
                    (
                        one
                        for one in order[shard]
                        if one not in held[shard] and loads[one] + size <= most[one]
                    ),
                    None,
                )
                if size and taker is not None:
                    held[shard][held[shard].index(node)] = taker
                    mine[node].discard(shard)
                    mine[taker].add(shard)
                    loads[node] -= size
                    loads[taker] += size
                    moved += 1
                    break
        if moved == before:
            break
    holders = tuple(
        (
            *sorted(some, key=place[shard].__getitem__),
            *[one for one in order[shard] if one not in some][:EXTRA],
        )
        for shard, some in enumerate(held)
    )
    return Placement(nodes, holders), moved
