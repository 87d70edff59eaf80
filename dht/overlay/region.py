"""Around a basis: where else to look when the nearest nodes say that they have nothing.

The nearest to a basis may all be one attacker, who made keys until enough of them lay there; a lookup of the
basis then ends among them, however disjoint its paths are, because they *are* the nearest (S/Kademlia keeps
liars on one path from misleading another, and cannot keep many identities from being many). Records that
honest nodes hold lie just beyond. So the region is searched in which so many nodes should lie as a lookup
returns, if they lay there as densely as elsewhere (the idea of region-based queries; Sridhar et al., "Content
censorship in the InterPlanetary File System", 2023): by lookups of keys that part from the basis at each of
the next bits and are random behind it. A crowd around the basis is in none of their subtrees; to hide a
record from all of them it has to fill each subtree, and with random ends it cannot know where. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from chain.identity import AgentId
from dht.overlay.contact import Contact
from dht.overlay.distance import FARTHEST, KEY_BITS, as_int, key_in_bucket
from dht.overlay.routing_table import K

PROBES = 8
"""Lookups around a basis: subtrees that hold half of the region's nodes, a quarter, an eighth, …"""
MAX_AROUND = PROBES * K
"""Nodes that a search around a basis names."""


def usual_radius(own: bytes, known: Iterable[bytes], others: Sequence[int]) -> int:
    """How far from any point K nodes lie, usually: around ourselves, or as lookups elsewhere found
    (`others`).

    `known` are positions. Whoever crowds us makes it too small only if half of the lookups were crowded too.
    """
    origin = as_int(own)
    distances = sorted(origin ^ as_int(position) for position in known)
    around_us = distances[K - 1] if len(distances) >= K else FARTHEST
    return max(around_us, int(median(others)) if others else 0)


def probes(basis: bytes, radius: int, noise: Callable[[int], bytes]) -> list[bytes]:
    """The keys to look up around `basis`, each in another subtree, the largest first."""
    first = KEY_BITS - max(1, radius.bit_length())
    indices = range(first, min(first + PROBES, KEY_BITS))
    return [key_in_bucket(basis, index, noise(len(basis))) for index in indices]


def merged(results: Sequence[Sequence[Contact]], without: Iterable[AgentId]) -> list[Contact]:
    """The nodes that the probes found, taking from each in turn, so that no crowd comes first as a whole."""
    taken = set(without)
    found: list[Contact] = []
    for turn in range(max(map(len, results), default=0)):
        for result in results:
            if turn < len(result) and result[turn].agent not in taken:
                taken.add(result[turn].agent)
                found.append(result[turn])
    return found[:MAX_AROUND]
