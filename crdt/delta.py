"""Deltas: what a replica lacks, told by what it says it has seen.

Of an entry, `page_of` cuts the delta into pages that can be applied as they come: in causal order, each with
the version that its receiver then has, so that a reader who stops half-way goes on from there, and whoever
keeps the last version asks for what has come since. Of a network, `network_version` tells of each author how
far a replica has the source chain without a gap, a forked one with all its branch heads, and `network_delta`
what lies beyond. For states s and t, of an entry or of a network: s with t's delta since s's version is the
union of both.

A version that names a record which is not here tells nothing of what lies below it, and all of that author's
records would be sent again. A version for asking is therefore `spaced`: beside each head it names the records
1, 2, 4, 8, … places below it (the idea of Bitcoin's block locator), so that of a line of which the asker
knows k records more, at most k are sent for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from chain.cid import Cid
from chain.identity import AgentId
from chain.record import Record
from crdt.causal import in_causal_order
from crdt.entry import EntryState
from crdt.entry_view import version_of
from crdt.version_vector import (
    MAX_BRANCHES,
    Slot,
    VersionVector,
    join,
    known_by,
    subject_prev,
    version_vector,
)

MAX_PAGE = 1_000
"""Records of a page."""


@dataclass(frozen=True, slots=True)
class Page:
    """Records in causal order, the version of who had `since` and applies them, whether there are more."""

    records: tuple[Record, ...]
    version: VersionVector
    more: bool


def page_of(state: EntryState, since: VersionVector, limit: int = MAX_PAGE) -> Page:
    """The first `limit` of the applied records that a replica with the version `since` lacks. O(n log n).

    What waits here is left out: nothing can be said of it in a version.
    """
    known = known_by(since, state.applied, subject_prev)
    lacking = in_causal_order({cid: one for cid, one in state.applied.items() if cid not in known})
    chosen = lacking[: max(1, limit)]
    there = {cid: state.applied[cid] for cid in known if cid in state.applied}
    there |= {record.cid: record for record in chosen}
    here = version_of(there)
    return Page(tuple(chosen), join(since, here).spaced(also=here), len(chosen) < len(lacking))


def contiguous(records: Mapping[Cid, Record]) -> dict[Cid, Record]:
    """Those records whose source chain is here without a gap from its first record on. O(records)."""
    after: dict[Cid, list[Record]] = {}
    ready: list[Record] = []
    for record in records.values():
        if record.header.prev is None:
            ready += [record] if record.header.seq == 0 else []
        else:
            after.setdefault(record.header.prev, []).append(record)
    found: dict[Cid, Record] = {}
    while ready:
        record = ready.pop()
        found[record.cid] = record
        ready += [
            one
            for one in after.get(record.cid, ())
            if (one.header.author, one.header.seq) == (record.header.author, record.header.seq + 1)
        ]
    return found


def network_version(records: Mapping[Cid, Record]) -> VersionVector:
    """Author → (contiguous seq, head) of each branch, spaced. O(records); a fork costs its line again.

    An author with more than `MAX_BRANCHES` branches is told by its heads alone.
    """
    chains = contiguous(records)
    continued = {record.header.prev for record in chains.values()}
    ends: dict[AgentId, list[Cid]] = {}
    for cid in sorted(chains):
        if cid not in continued:
            ends.setdefault(chains[cid].header.author, []).append(cid)
    lines = {
        author: [_slot(cid, chains, stated=len(cids) <= MAX_BRANCHES) for cid in cids]
        for author, cids in ends.items()
    }
    return version_vector(lines).spaced()


def network_delta(
    records: Mapping[Cid, Record], since: VersionVector, payloads: Collection[Cid] = ()
) -> tuple[Record, ...]:
    """What a replica with the network version `since` lacks of these records, in causal order.

    Records beyond a gap of their chain are always among it: a version cannot name them. `payloads`: records
    that the replica has without their payload. O(records log records).
    """
    known = known_by(since, records, _prev)
    lacking = {
        cid: one
        for cid, one in records.items()
        if cid not in known or (cid in payloads and one.payload is not None)
    }
    return tuple(in_causal_order(lacking, _before))


def _slot(cid: Cid, chains: Mapping[Cid, Record], *, stated: bool) -> Slot:
    trail: list[Cid] = []
    below = chains[cid].header.prev
    while stated and below is not None:
        trail.append(below)
        below = chains[below].header.prev
    return Slot(chains[cid].header.seq, cid, tuple(reversed(trail)))


def _prev(record: Record) -> Cid | None:
    return record.header.prev


def _before(record: Record) -> Iterable[Cid]:
    header = record.header
    named = (header.prev, header.subject, header.subject_prev)
    return (*(cid for cid in named if cid is not None), *header.deps)
