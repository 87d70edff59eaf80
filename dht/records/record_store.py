"""The storage port of the distributed floor: what replication needs of a disk.

`node.storage` implements it on SQLite; the decisions here only see these verbs. Reads are synchronous and
quick (an indexed look-up); writes are durable when they return.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from chain.cid import Cid
from chain.identity import AgentId
from chain.record import Record
from dht.negentropy.reconciliation import RangeStore
from dht.records.receipts import KeptBatch, SignedFor


@dataclass(frozen=True, slots=True)
class Held:
    """A valid record to hold, and the (role, basis) pairs under which; none: kept as a named header."""

    record: Record
    bases: tuple[tuple[int, bytes], ...] = ()


Digest: TypeAlias = tuple[int, bytes]
"""How many records lie at a basis, and the sum of their digests mod 2**256 as 32 bytes."""


@dataclass(frozen=True, slots=True)
class BasisDigest:
    """A basis at which something is held: all roles that occur there, and what lies there in short."""

    basis: bytes
    roles: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Usage:
    """What the records of one author take up: how many they are, and bytes of headers and payloads."""

    records: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Chain:
    """An author's activity, of which all headers are held from the first to `head`, at `seq`, and no fork."""

    basis: bytes
    author: AgentId
    seq: int
    head: Cid


class HeldStore(Protocol):
    """Records that this node holds for the network."""

    async def hold(self, items: Sequence[Held]) -> None:
        """Store durably; idempotent. A payload that arrives later completes a header-only record.

        A purge erases the payloads that it names, those that come later included.
        """
        ...

    def get_many(self, cids: Sequence[Cid]) -> list[Record | None]:
        """The records with these CIDs, in order, None where there is none."""
        ...

    def in_chain_order(self, cids: Sequence[Cid]) -> list[Cid]:
        """Those of `cids` that are here, author by author and each one's by seq."""
        ...

    def at_basis(self, basis: bytes, after: Cid | None, limit: int) -> list[Record]:
        """Up to `limit` records at a basis with CIDs above `after`, ascending."""
        ...

    def cids_at(self, basis: bytes, after: Cid | None, limit: int) -> list[Cid]:
        """The CIDs of `at_basis`."""
        ...

    def places_of(self, cids: Sequence[Cid]) -> list[list[tuple[int, bytes]]]:
        """For each record the (roles, basis) pairs under which it is held; none when it is not."""
        ...

    def held_at(self, basis: bytes, after: Cid | None, limit: int) -> list[tuple[Cid, int]]:
        """The CIDs of `at_basis`, each with the roles in which it is held there."""
        ...

    def operations(self, subject: Cid, skip: int, limit: int) -> list[Cid]:
        """The operations on a subject in the order of reading: its creator's, then each author's first, …"""
        ...

    def operations_by(
        self, subject: Cid, author: AgentId, before: tuple[int, Cid] | None, limit: int
    ) -> list[Record]:
        """Up to `limit` operations of an author on a subject, from the highest (seq, CID) down, below
        `before`."""
        ...

    def lacking(self, pairs: Sequence[tuple[bytes, Cid]]) -> list[bool]:
        """For each (basis, CID) whether no such record is held there."""
        ...

    def digest_of(self, basis: bytes) -> Digest:
        """What lies at a basis in short; (0, 32 zero bytes) where nothing does."""
        ...

    def bases_after(self, basis: bytes, limit: int) -> list[BasisDigest]:
        """Up to `limit` bases at which something is held, above `basis`, ascending."""
        ...

    def chain(self, author: AgentId) -> Chain | None:
        """The activity of an author that is held at its basis, if it is whole."""
        ...

    def long_chains(self) -> list[Chain]:
        """Those of many records that are whole."""
        ...

    def cid_of_seq(self, author: AgentId, seq: int) -> Cid | None:
        """The one header held of an author at a seq; None where there is none, or a fork."""
        ...

    def chain_cids(self, author: AgentId, after_seq: int, limit: int) -> list[Cid]:
        """The first `limit` headers of an author beyond a seq that are held at its basis, ascending."""
        ...

    def ranges(self) -> AbstractContextManager[RangeStore]:
        """What lies at all bases, as it is now, to be compared by ranges."""
        ...

    async def drop(self, basis: bytes, expected: Digest) -> list[tuple[Cid, int]] | None:
        """Hold nothing at a basis any more if its digest still is `expected`, else None and nothing changes.

        Returns the records that lay there, each with the roles in which it is still held elsewhere.
        """
        ...

    async def release(self, basis: bytes, cids: Sequence[Cid]) -> None:
        """Hold these records at this basis no more; those that are not there are passed over."""
        ...

    def twins(self, places: Sequence[tuple[AgentId, int]]) -> list[list[Record]]:
        """Of each (author, seq) at which more than one record is held some, the smallest CIDs, as headers."""
        ...

    async def reclaim(self) -> int:
        """Delete what drops have left behind and nobody needs, if there is enough of it; returns how many."""
        ...

    def used_bytes(self) -> int:
        """Bytes of disk in use."""
        ...

    def usage_of(self, authors: Sequence[AgentId]) -> dict[AgentId, Usage]:
        """What the records of each of these authors take up."""
        ...

    def opening(self, author: AgentId) -> tuple[Record, Record] | None:
        """An author's genesis and membrane records, when both are held with payloads."""
        ...

    def purges_of(self, cids: Sequence[Cid]) -> dict[Cid, Record]:
        """Those of `cids` that their authors purged, each with a purge that did it."""
        ...


@dataclass(frozen=True, slots=True)
class Placement:
    """A holder's acknowledgement: it holds this record in these roles."""

    cid: Cid
    roles: int
    holder: AgentId


class OwnRecords(Protocol):
    """This agent's own chain, as the publisher sees it. A record's level is the R it was last placed for."""

    def below(self, level: int, after_seq: int, limit: int) -> list[Record]:
        """Up to `limit` records above `after_seq` whose level is less, ascending by seq."""
        ...

    def count_below(self, level: int) -> int:
        """How many records have a lower level."""
        ...

    def placements(self, cids: Sequence[Cid]) -> list[Placement]:
        """All acknowledgements for these records, ascending."""
        ...

    async def placed(
        self,
        rows: Sequence[Placement],
        settled: Sequence[tuple[Cid, int]],
        receipts: Sequence[KeptBatch] = (),
    ) -> None:
        """Note acknowledgements (roles add up per holder), receipts, and the level that records have
        reached.
        """
        ...

    def count_unconfirmed(self, need: int) -> int:
        """How many records fewer than `need` holders have signed for in full."""
        ...

    def unconfirmed(self, need: int, after_seq: int, limit: int) -> list[Record]:
        """Up to `limit` records above `after_seq` for which fewer than `need` have signed, ascending."""
        ...

    def signed_for(self, cid: Cid) -> list[SignedFor]:
        """All receipts for a record, also this node's own holding."""
        ...

    def signed_from(self, seq: int, limit: int) -> list[SignedFor]:
        """Up to `limit` receipts of others for the records from `seq` on, in order."""
        ...

    async def void(self, holder: AgentId, cids: Sequence[Cid] | None) -> int:
        """Forget what a holder acknowledged and signed for these records (None: all), and place them anew.

        Returns how many records that were.
        """
        ...

    def count(self) -> int:
        """The chain's length."""
        ...

    async def reopen(self, gone: Collection[AgentId]) -> int:
        """Put records at level 0 that, in some role, nobody but these acknowledged; returns how many."""
        ...

    def get_many(self, cids: Sequence[Cid]) -> list[Record | None]:
        """Own records by CID."""
        ...

    def opening(self) -> tuple[Record, Record] | None:
        """This agent's own genesis and membrane records."""
        ...

    def purges_of(self, cids: Sequence[Cid]) -> dict[Cid, Record]:
        """Those of `cids` that this agent purged, each with a purge that did it."""
        ...
