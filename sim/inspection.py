"""Looking into every node of a simulated network at once, as nobody in the network can.

A run is judged by what the honest nodes hold: whether those of them that should hold the same do, down to the
bytes, and whether anything on their disks is not what its author signed. Liars count as neighbours (a basis
lies at the R nearest nodes, whoever they are) and are not looked into: they may hold whatever they like.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import nsmallest
from itertools import pairwise

from chain.cid import Cid
from chain.errors import ChainError
from chain.identity import AgentId
from chain.record import Record, check_payload, verify_signature
from dht.overlay.distance import as_int
from dht.records.placement import Role, needs_payload
from dht.records.record_store import Digest
from node.node import Node

PAGE = 4_096
"""Bases or records read at a time."""


@dataclass(frozen=True)
class Inspected:
    """The running nodes by name, and which of them hold things for others and which are honest."""

    nodes: Mapping[str, Node]
    storing: frozenset[str]
    honest: frozenset[str]
    replication: int

    @cached_property
    def _positions(self) -> dict[str, int]:
        """Of the running nodes that hold things, as integers: a thousand bases are compared with them."""
        return {
            name: as_int(self.nodes[name].kademlia.self_contact().position)
            for name in sorted(self.storing & self.nodes.keys())
        }

    def equal(self, bases: Sequence[bytes]) -> bool:
        """Whether the honest holders of each of these bases have the same count and digest there."""
        return all(
            one.replica(basis) == other.replica(basis)
            for basis in bases
            for one, other in pairwise(self._holders(basis))
        )

    def all_equal(self) -> bool:
        """`equal` for every basis at which an honest node holds something. O(bases · nodes)."""
        held = {name: _digests(self.nodes[name]) for name in self._honest_storing()}
        bases = sorted({basis for digests in held.values() for basis in digests})
        return all(len({held[name].get(basis) for name in self._names(basis)}) <= 1 for basis in bases)

    def differing(self) -> int:
        """At how many bases honest holders differ in a byte of what they hold. O(everything)."""
        bases = sorted({basis for name in self._honest_storing() for basis in _digests(self.nodes[name])})
        return sum(len({_bytes_at(node, basis) for node in self._holders(basis)}) > 1 for basis in bases)

    def forgeries(self) -> int:
        """Records on honest disks that are not as their author signed them. O(everything)."""
        return sum(
            not _genuine(record)
            for name in sorted(self.honest & self.nodes.keys())
            for record in _held(self.nodes[name])
        )

    def accused(self) -> list[frozenset[AgentId]]:
        """For each honest node, whose records it leaves out because of a warrant."""
        names = sorted(self.honest & self.nodes.keys())
        return [frozenset(self.nodes[name].governance.ledger.standing.first) for name in names]

    def holds(self, entry: Cid) -> bool:
        """Whether an honest node has the entry's record, payload and all."""
        found = [self.nodes[name].parts.find([entry])[0] for name in sorted(self.honest & self.nodes.keys())]
        return any(record is not None and record.payload is not None for record in found)

    def pending(self) -> int:
        """Own records of honest nodes that lack holders, and such nodes that have not found the network."""
        honest = [self.nodes[name] for name in sorted(self.honest & self.nodes.keys())]
        lacking = sum(one.parts.publisher.pending + one.parts.offers.pending for one in honest)
        return lacking + sum(not one.joined for one in honest)

    def _honest_storing(self) -> list[str]:
        return sorted(self.storing & self.honest & self.nodes.keys())

    def _names(self, basis: bytes) -> list[str]:
        """The honest ones of the R running nodes nearest to a basis."""
        goal, positions = as_int(basis), self._positions
        near = nsmallest(self.replication, positions, key=lambda name: goal ^ positions[name])
        return [name for name in near if name in self.honest]

    def _holders(self, basis: bytes) -> list[Node]:
        return [self.nodes[name] for name in self._names(basis)]


def _digests(node: Node) -> dict[bytes, Digest]:
    found: dict[bytes, Digest] = {}
    after = b""
    while page := node.parts.held.bases_after(after, PAGE):
        after = page[-1].basis
        found.update((one.basis, one.digest) for one in page)
    return found


def _bytes_at(node: Node, basis: bytes) -> tuple[bytes, ...]:
    """What is held at a basis, each record as far as its roles there need it."""
    found: list[bytes] = []
    after: Cid | None = None
    while page := node.parts.held.held_at(basis, after, PAGE):
        after = page[-1][0]
        for (_, roles), record in zip(page, node.parts.held.get_many([cid for cid, _ in page]), strict=True):
            assert record is not None
            whole = needs_payload(record.header.kind, Role(roles))
            found.append((record if whole else record.without_payload()).encode())
    return tuple(found)


def _held(node: Node) -> Iterator[Record]:
    for basis in _digests(node):
        yield from node.parts.held.at_basis(basis, None, PAGE)


def _genuine(record: Record) -> bool:
    try:
        if record.payload is not None:
            check_payload(record.header, record.payload)
    except ChainError:
        return False
    return verify_signature(record)
