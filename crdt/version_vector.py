"""Version vectors: what a replica has seen, author by author.

A vector (Parker et al., 1983) maps an author to the end of the line of operations that the replica holds of
them. Classic vectors count, and a liar who reuses a number makes two replicas that hold different records
look equal; here a slot names its record by CID, and an author whose line forked has a slot for every branch
head. Because every record names its predecessor by hash, a set of heads stands for exactly one set of
records, so equal slots mean equal sets, and two different CIDs at one height are always concurrent.

What heads alone cannot say is whether a lower position lies on the line of a higher one: for an honest
author it does, for a forked one it may not. A slot therefore carries its `trail`, the CIDs below it on its
line, and `compare` answers BEFORE or AFTER only where a trail (or a `Lineage` over headers that the caller
holds) shows it; where nothing shows it the answer is CONCURRENT, which costs an exchange that finds
nothing new, and never hides a record. With trails the answer is the truth of set inclusion for every pair.
`bare` drops the trails: enough for a client's bookmark, and for the network's vector (author → contiguous
seq and head of the source chain), where the holder of the headers supplies the lineage.

A vector from a peer is that peer's claim about itself: a false one harms the peer's own synchronisation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import Any, TypeAlias

from chain import canonical
from chain.cid import DIGEST_SIZE, Cid, digest, is_record_cid, record_cid_of_digest
from chain.errors import ChainError
from chain.identity import AGENT_ID_SIZE, AgentId
from chain.record import MAX_INT, Record
from crdt.errors import VersionVectorError

MAX_VECTOR = 1 << 20
"""Bytes of an encoded vector."""
MAX_AUTHORS = 4096
MAX_BRANCHES = 64
"""Slots of one author in an encoded vector; an honest author has one."""

FINGERPRINT_TAG = b"roseforest/version/1\0"

Lineage: TypeAlias = Callable[[Cid, Cid], bool]
"""`lineage(low, high)`: whether `low` is known to lie below `high` on an author's line; False: not known."""


class Order(Enum):
    """How two version vectors, or two sets of records, relate."""

    BEFORE = "before"
    AFTER = "after"
    EQUAL = "equal"
    CONCURRENT = "concurrent"


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """One branch head: its height on the author's line, its CID, and the CIDs at heights 0 … seq - 1.

    An empty `trail` at a height above 0 means that the trail is not stated.
    """

    seq: int
    cid: Cid
    trail: tuple[Cid, ...] = ()

    def passes(self, other: Slot) -> bool:
        """Whether the trail shows `other`'s head strictly below this one."""
        return other.seq < len(self.trail) and self.trail[other.seq] == other.cid


@dataclass(frozen=True, slots=True)
class VersionVector:
    """Authors ascending, each with its slots ascending by (seq, CID); no slot lies on another's trail."""

    authors: tuple[tuple[AgentId, tuple[Slot, ...]], ...] = ()

    def slots(self, author: AgentId) -> tuple[Slot, ...]:
        """The branch heads held of `author`; empty when nothing is held. O(authors)."""
        return next((slots for agent, slots in self.authors if agent == author), ())

    def cids(self) -> frozenset[Cid]:
        """Every record that the vector shows to be held: heads and trails."""
        return frozenset(
            cid for _, slots in self.authors for slot in slots for cid in (slot.cid, *slot.trail)
        )

    def bare(self) -> VersionVector:
        """The same heads without trails."""
        return VersionVector(
            tuple(
                (author, tuple(Slot(slot.seq, slot.cid) for slot in slots)) for author, slots in self.authors
            )
        )

    def spaced(self, also: VersionVector | None = None) -> VersionVector:
        """Bare slots: the heads, and of their trails the records 1, 2, 4, 8, … places below each, in bounds.

        What a replica shows to ask for a delta: who lacks a head still recognises a record not far below it.
        `also` gives slots to be named as well, those that one asked has as heads.
        """
        named = {} if also is None else dict(also.authors)
        found: list[tuple[AgentId, tuple[Slot, ...]]] = []
        for author, slots in self.authors:
            spots = {(slot.seq, slot.cid) for slot in slots}
            for slot in slots:
                step = 1
                while step <= len(slot.trail):
                    at = len(slot.trail) - step
                    spots.add((at, slot.trail[at]))
                    step *= 2
            heads = [(slot.seq, slot.cid) for slot in slots][-MAX_BRANCHES:]
            theirs = [(slot.seq, slot.cid) for slot in named.get(author, ())]
            rest = sorted(spots.difference(heads, theirs), reverse=True)
            kept = list(dict.fromkeys([*heads, *reversed(theirs), *rest]))[:MAX_BRANCHES]
            found.append((author, tuple(Slot(seq, cid) for seq, cid in sorted(kept))))
        return VersionVector(tuple(found)).bounded()

    def bounded(self) -> VersionVector:
        """A vector within the limits of `encode`, which may claim less than this one but never more.

        Of too many branches or authors the highest, respectively the first, are kept; trails are dropped when
        the whole would exceed `MAX_VECTOR`. Claiming less only means being sent what is already held.
        """
        kept = VersionVector(
            tuple((author, slots[-MAX_BRANCHES:]) for author, slots in self.authors[:MAX_AUTHORS])
        )
        if _size_bound(kept) > MAX_VECTOR:
            kept = kept.bare()
        while _size_bound(kept) > MAX_VECTOR:
            kept = VersionVector(kept.authors[: len(kept.authors) // 2])
        return kept

    @property
    def fingerprint(self) -> str:
        """A short name, 24 hexadecimal digits, for exactly these heads; trails do not count."""
        heads = [[author, [[slot.seq, slot.cid] for slot in slots]] for author, slots in self.authors]
        return sha256(FINGERPRINT_TAG + canonical.encode(heads)).digest()[:12].hex()

    def encode(self) -> bytes:
        """Canonical bytes; raises `VersionVectorError` beyond the limits (see `bounded`)."""
        if len(self.authors) > MAX_AUTHORS:
            raise VersionVectorError(f"vector has {len(self.authors)} authors, the limit is {MAX_AUTHORS}")
        for author, slots in self.authors:
            if len(slots) > MAX_BRANCHES:
                raise VersionVectorError(
                    f"author {author.hex()} has {len(slots)} branches, the limit is {MAX_BRANCHES}"
                )
        data = canonical.encode(
            [
                [author, [[slot.seq, digest(slot.cid), b"".join(map(digest, slot.trail))] for slot in slots]]
                for author, slots in self.authors
            ]
        )
        if len(data) > MAX_VECTOR:
            raise VersionVectorError(f"vector has {len(data)} bytes, the limit is {MAX_VECTOR}")
        return data


def version_vector(lines: Mapping[AgentId, Iterable[Slot]]) -> VersionVector:
    """The vector of these slots: sorted, each head once, without heads that another slot passes."""
    authors = ((author, _antichain(lines[author])) for author in sorted(lines))
    return VersionVector(tuple((author, slots) for author, slots in authors if slots))


def network_vector(heads: Mapping[AgentId, Iterable[tuple[int, Cid]]]) -> VersionVector:
    """The network's vector: author → (contiguous seq, head CID), all branch heads of a forked author."""
    return version_vector(
        {author: [Slot(seq, cid) for seq, cid in heads[author]] for author in sorted(heads)}
    )


def compare(a: VersionVector, b: VersionVector, lineage: Lineage | None = None) -> Order:
    """How `a` relates to `b`: exactly one of the four orders; O(slots of a and b).

    EQUAL, BEFORE and AFTER are answered only when shown (see the module); with trails on both sides, or a
    lineage that knows the lines, the answer equals set inclusion of the records held.
    """
    below, above = _within(a, b, lineage), _within(b, a, lineage)
    if below and above:
        return Order.EQUAL
    if below:
        return Order.BEFORE
    return Order.AFTER if above else Order.CONCURRENT


def join(a: VersionVector, b: VersionVector) -> VersionVector:
    """The least vector that holds what either holds."""
    left, right = dict(a.authors), dict(b.authors)
    return version_vector(
        {author: (*left.get(author, ()), *right.get(author, ())) for author in sorted({*left, *right})}
    )


def delta(have: VersionVector, since: VersionVector) -> tuple[Cid, ...]:
    """What `have` shows that `since` does not, by author and then by height; O(positions)."""
    known = since.cids()
    wanted: dict[Cid, None] = {}
    for _, slots in have.authors:
        positions = {(height, cid) for slot in slots for height, cid in enumerate(slot.trail)}
        positions.update((slot.seq, slot.cid) for slot in slots)
        wanted.update((cid, None) for _, cid in sorted(positions) if cid not in known)
    return tuple(wanted)


def known_by(
    since: VersionVector, records: Mapping[Cid, Record], below: Callable[[Record], Cid | None]
) -> set[Cid]:
    """What `since` shows to be held: what it names, and of `records` all below on the lines of that.

    `below` gives the record before one on its author's line. O(since and what is found).
    """
    known: set[Cid] = set()
    for _, slots in since.authors:
        for slot in slots:
            known.update(slot.trail)
            cid: Cid | None = slot.cid
            while cid is not None and cid not in known:
                known.add(cid)
                cid = below(records[cid]) if cid in records else None
    return known


def subject_prev(record: Record) -> Cid | None:
    """The record before one on its author's line about an entry: the `below` of an entry's version."""
    return record.header.subject_prev


def decode_version_vector(data: bytes) -> VersionVector:
    """Decode what `encode` writes; raises `VersionVectorError` for anything else."""
    try:
        rows = canonical.decode(data, MAX_VECTOR)
    except ChainError as error:
        raise VersionVectorError(f"version vector: {error}") from error
    if type(rows) is not list or len(rows) > MAX_AUTHORS:
        raise VersionVectorError(f"a version vector is an array of at most {MAX_AUTHORS} authors")
    authors: list[tuple[AgentId, tuple[Slot, ...]]] = []
    for row in rows:
        author, slots = _decode_author(row)
        if authors and author <= authors[-1][0]:
            raise VersionVectorError("authors are not ascending and unique")
        if slots != _antichain(slots):
            raise VersionVectorError(f"slots of author {author.hex()} are not ascending maximal heads")
        authors.append((author, slots))
    return VersionVector(tuple(authors))


def _decode_author(row: Any) -> tuple[AgentId, tuple[Slot, ...]]:
    if type(row) is not list or len(row) != 2:
        raise VersionVectorError("an author's row is the array [author, slots]")
    author, slots = row
    if type(author) is not bytes or len(author) != AGENT_ID_SIZE:
        raise VersionVectorError(f"author is malformed: {author!r:.80}")
    if type(slots) is not list or not 0 < len(slots) <= MAX_BRANCHES:
        raise VersionVectorError(f"an author has 1 to {MAX_BRANCHES} slots")
    return author, tuple(map(_decode_slot, slots))


def _decode_slot(fields: Any) -> Slot:
    if type(fields) is not list or len(fields) != 3:
        raise VersionVectorError("a slot is the array [seq, head, trail]")
    seq, head, trail = fields
    if type(seq) is not int or not 0 <= seq <= MAX_INT:
        raise VersionVectorError(f"seq is malformed: {seq!r:.40}")
    if type(head) is not bytes or len(head) != DIGEST_SIZE or type(trail) is not bytes:
        raise VersionVectorError("head or trail of a slot is malformed")
    if trail and len(trail) != seq * DIGEST_SIZE:
        raise VersionVectorError(f"the trail of a slot at height {seq} has {len(trail)} bytes")
    below = [trail[start : start + DIGEST_SIZE] for start in range(0, len(trail), DIGEST_SIZE)]
    return Slot(seq, record_cid_of_digest(head), tuple(map(record_cid_of_digest, below)))


def _within(a: VersionVector, b: VersionVector, lineage: Lineage | None) -> bool:
    others = dict(b.authors)
    return all(
        any(_covers(other, slot, lineage) for other in others.get(author, ()))
        for author, slots in a.authors
        for slot in slots
    )


def _covers(high: Slot, low: Slot, lineage: Lineage | None) -> bool:
    if high.cid == low.cid or high.passes(low):
        return True
    return lineage is not None and low.seq < high.seq and lineage(low.cid, high.cid)


def _antichain(slots: Iterable[Slot]) -> tuple[Slot, ...]:
    heads: dict[Cid, Slot] = {}
    for slot in slots:
        if not is_record_cid(slot.cid) or (slot.trail and len(slot.trail) != slot.seq):
            raise VersionVectorError(f"slot is malformed: seq {slot.seq}, {len(slot.trail)} CIDs below it")
        known = heads.get(slot.cid)
        heads[slot.cid] = slot if known is None else max(known, slot)
    passed = {cid for slot in heads.values() for cid in slot.trail}
    return tuple(sorted(slot for cid, slot in heads.items() if cid not in passed))


def _size_bound(vector: VersionVector) -> int:
    rows = (
        AGENT_ID_SIZE + 12 + sum(DIGEST_SIZE * (1 + len(slot.trail)) + 24 for slot in slots)
        for _, slots in vector.authors
    )
    return 8 + sum(rows)
