"""Room: whatever comes, the store stays within its quota and reserve, and nobody takes more than a share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from chain.cid import Cid
from chain.identity import AgentId, Identity
from chain.record import Record
from dht.records.record_store import Digest, Held, Usage
from dht.records.replies import StoreStatus
from dht.records.room import AGAIN_SHARE, RESERVE_SHARE, Quota, Room
from tests.node.storage_fixtures import ALICE, BOB, OPENING, authored, entry

ME = Identity.from_seed(b"M" * 32)
CHAINS = [authored(who, [*OPENING, *(entry("x" * 40 * n) for n in range(6))]) for who in (ME, ALICE, BOB)]
POOL = [record for chain in CHAINS for record in chain]
BASES = [bytes([number]) * 32 for number in range(4)]
ITEM = st.builds(
    lambda place, whole, bases: Held(
        POOL[place] if whole else POOL[place].without_payload(), tuple((1, basis) for basis in bases)
    ),
    st.integers(0, len(POOL) - 1),
    st.booleans(),
    st.lists(st.sampled_from(BASES), min_size=1, max_size=2, unique=True),
)


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


@given(
    batches=st.lists(st.lists(ITEM, max_size=6), max_size=8),
    store=st.integers(500, 8_000),
    author=st.integers(300, 3_000),
)
def test_whatever_comes_stays_within_quota_and_reserve(
    batches: list[list[Held]], store: int, author: int
) -> None:
    shelf = Shelf()
    room = Room(ME.agent, shelf, Quota(store, author), lambda: None)  # type: ignore[arg-type]
    for batch in batches:
        start = dict(shelf.records)
        before = {basis for basis, cids in shelf.bases.items() if cids}
        room.look()
        was_full = room.full
        for item, refusal in zip(batch, room.refusals(batch), strict=True):
            known = start.get(item.record.cid)
            grows = known is None or size(known) < size(item.record)
            if refusal is None:
                if grows and was_full:
                    assert all(basis in before for _, basis in item.bases), "a new basis while full"
                if grows:
                    shelf.hold(item)
            else:
                assert grows, "what costs nothing is refused"
                if refusal is StoreStatus.FULL:
                    assert all(room.is_short(basis) for _, basis in item.bases)
                else:
                    assert item.record.header.author != ME.agent, "own records have no share"
        assert shelf.used_bytes() <= store + store // RESERVE_SHARE
        for who in (ALICE, BOB):
            bare = sum(size(r) for r in POOL if r.header.author == who.agent and r.header.seq < 3)
            assert shelf.usage_of([who.agent])[who.agent].bytes <= max(author, bare + author)


def test_full_ends_only_well_below_the_quota_and_names_what_is_short() -> None:
    shelf = Shelf()
    record = POOL[0]
    quota = 40 * size(record)
    room = Room(ME.agent, shelf, Quota(quota), lambda: None)  # type: ignore[arg-type]
    used = quota + 1
    shelf.used_bytes = lambda: used  # type: ignore[method-assign]
    assert room.look()
    assert room.full
    assert room.refusals([Held(record, ((1, BASES[0]),))]) == [StoreStatus.FULL]
    used = quota - quota // AGAIN_SHARE + 1
    assert not room.look()
    assert room.full
    used = quota - quota // AGAIN_SHARE
    assert room.look()
    assert not room.full
    assert room.forget_short() == {BASES[0]}
    assert not room.is_short(BASES[0])


def test_a_disk_that_is_nearly_used_up_is_full_whatever_the_quota() -> None:
    left = 1_000
    room = Room(ME.agent, Shelf(), Quota(None, None, least_free=1_001), lambda: left)  # type: ignore[arg-type]
    assert room.look()
    assert room.full
    left = 1_001
    assert room.look()
    assert not room.full
