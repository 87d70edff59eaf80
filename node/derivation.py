"""Derived state follows the records: what to index, what was missed by a crash, and making it all anew.

The chain and the held records are durable when their writers say so; the postings made of them come a moment
later. A process that dies in between leaves records without postings, so every start derives the entries
that have operations anew, compares the others by their CIDs (no record is decoded that has its posting) and
indexes what is missing. When derived.db itself is damaged, `rebuild_derived` makes it again while no daemon
runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import trio

from chain.cid import Cid
from chain.identity import AgentId
from chain.record import Record
from dht.ports import RunBlocking
from dht.records.intake import PurgesOf
from dht.records.layouts import Layouts
from dht.records.placement import Role
from node.entry_records import EntryRecords
from node.holder import Holder, RecordsOf
from node.storage.derived_state import DerivedState
from node.storage.held_records import HeldRecords
from node.storage.own_chain import OwnChain
from sharding.tree import Prefix, shard_at

PAGE = 500
"""Records looked at in one step."""


def cids_to_index(own: OwnChain, held: HeldRecords, shards: Iterable[Prefix]) -> Iterator[list[Cid]]:
    """The CIDs of all records whose content belongs into the index: own ones, and those held in shards."""
    seq = 0
    while page := own.cids(seq, PAGE):
        yield page
        seq += len(page)
    for shard in shards:
        after: Cid | None = None
        while page := held.cids_at(shard.basis(), after, PAGE):
            yield page
            after = page[-1]


def shards_held(held: HeldRecords) -> Iterator[Prefix]:
    """The shards of which something is held, by any atlas; O(bases held)."""
    after = b""
    while page := held.bases_after(after, PAGE):
        after = page[-1].basis
        shards = (shard_at(one.basis) for one in page if one.roles & Role.SHARD)
        yield from (shard for shard in shards if shard is not None)


def records_to_index(own: OwnChain, held: HeldRecords, shards: Iterable[Prefix]) -> Iterator[Record]:
    """The records of `cids_to_index`; one that is both own and held comes twice."""
    find = records_of(own, held)
    for page in cids_to_index(own, held, shards):
        yield from (record for record in find(page) if record is not None)


def records_of(own: OwnChain, held: HeldRecords) -> RecordsOf:
    """A way to the records of both databases, own ones first."""

    def find(cids: Sequence[Cid]) -> list[Record | None]:
        found = own.get_many(cids)
        if all(record is not None for record in found):
            return found
        return [a if a is not None else b for a, b in zip(found, held.get_many(cids), strict=True)]

    return find


def purges_of(own: OwnChain, held: HeldRecords) -> PurgesOf:
    """A way to the purges in both databases."""

    def find(cids: Sequence[Cid]) -> dict[Cid, Record]:
        return held.purges_of(cids) | own.purges_of(cids)

    return find


async def index_missing(
    holder: Holder,
    derived: DerivedState,
    own: OwnChain,
    held: HeldRecords,
    shards: Iterable[Prefix],
    run_blocking: RunBlocking,
) -> int:
    """Index what has no posting; returns how many records were looked at for it.

    O(records), on CIDs, but for entries with operations, whose records are all read.
    """
    find = records_of(own, held)
    entries = EntryRecords(own, held)
    looked_at = 0

    def missing(page: Sequence[Cid]) -> list[Record]:
        absent = [cid for cid, there in zip(page, derived.have(page), strict=True) if not there]
        records = [record for record in find(absent) if record is not None] if absent else []
        changed = entries.operated_on([record.subject for record in records])
        return [record for record in records if record.subject not in changed]

    for page in entries.all_operated_on():
        await holder.refresh(page)

    for page in cids_to_index(own, held, shards):
        records = await run_blocking(missing, page)
        if records:
            looked_at += len(records)
            await holder.add(records)
    return looked_at


async def drop_strays(
    holder: Holder, derived: DerivedState, held: HeldRecords, agent: AgentId, run_blocking: RunBlocking
) -> int:
    """Remove the postings of others' records that are held in no shard: a crash came between the two.

    Returns how many. O(postings), on CIDs.
    """

    def strays(page: Sequence[Cid]) -> list[Cid]:
        in_shard = held.in_role(page, int(Role.SHARD))
        return [cid for cid in page if cid not in in_shard]

    found: list[Cid] = []
    for page in derived.of_others(agent, PAGE):
        found += await run_blocking(strays, page)
    await holder.forget(found)
    return len(found)


async def rebuild_derived(
    path: Path,
    own: OwnChain,
    held: HeldRecords,
    layouts: Layouts,
    dim: int,
    run_blocking: RunBlocking,
) -> int:
    """Throw derived.db at `path` away and make it again; returns the postings.

    For a node that is stopped: nothing else may use the files.
    """
    derived = DerivedState.rebuild(path, run_blocking)
    async with trio.open_nursery() as nursery:
        await nursery.start(derived.run)
        holder = Holder(derived, EntryRecords(own, held), layouts, dim, run_blocking)
        count = await holder.rebuild(records_to_index(own, held, shards_held(held)))
        await derived.aclose()
    return count
