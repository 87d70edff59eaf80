"""Room: whatever comes, the store stays within its quota and reserve, and nobody takes more than a share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from chain.cid import Cid, digest
from chain.identity import AgentId, Identity
from chain.record import Record
from dht.record_store import Digest, Held, Usage
from dht.replies import StoreStatus
from dht.room import AGAIN_SHARE, RESERVE_SHARE, Quota, Room
from tests.chain.builders import authored, entry_drafts

ME, ALICE, BOB = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2, 3))


def size(record: Record) -> int:
    return len(record.header_bytes) + len(record.payload or b"")


@dataclass
class Shelf:
    """The parts of a store that `Room` looks at, and nothing takes up more than its records."""

    records: dict[Cid, Record] = field(default_factory=dict)
    bases: dict[bytes, set[Cid]] = field(default_factory=dict)

    def hold(self, item: Held) -> None:
        self.records[item.record.cid] = item.record
        for _, basis in item.bases:
            self.bases.setdefault(basis, set()).add(item.record.cid)

    def used_bytes(self) -> int:
        return sum(map(size, self.records.values()))

    def usage_of(self, authors: Sequence[AgentId]) -> dict[AgentId, Usage]:
        by = {author: [r for r in self.records.values() if r.header.author == author] for author in authors}
        return {author: Usage(len(records), sum(map(size, records))) for author, records in by.items()}

    def get_many(self, cids: Sequence[Cid]) -> list[Record | None]:
        return [self.records.get(cid) for cid in cids]

    def digest_of(self, basis: bytes) -> Digest:
        return len(self.bases.get(basis, ())), bytes(32)
