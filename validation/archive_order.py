"""The order of a group in an archive: every record after what it names, and what it names beside it.

Records name each other by hash, so there is no circle; ties go to the smaller (lamport, CID), so equal sets
are written equally.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from chain.archive_parts import MAX_RECORDS
from chain.cid import Cid
from chain.record import Record
from validation.named import named_by


def in_order(records: Iterable[Record], most: int = MAX_RECORDS) -> list[Record]:
    """The first `most` of `records`, each after those that it names. O(n log n)."""
    by_cid = {record.cid: record for record in records}
    waits = {cid: {one for one in named_by(record) if one in by_cid} for cid, record in by_cid.items()}
    followers: dict[Cid, list[Cid]] = {}
    for cid, names in waits.items():
        for one in names:
            followers.setdefault(one, []).append(cid)
    ready = [(by_cid[cid].header.lamport, cid) for cid, names in waits.items() if not names]
    heapq.heapify(ready)
    ordered: list[Record] = []
    while ready and len(ordered) < most:
        _, cid = heapq.heappop(ready)
        ordered.append(by_cid[cid])
        for one in followers.get(cid, ()):
            waits[one].discard(cid)
            if not waits[one]:
                heapq.heappush(ready, (by_cid[one].header.lamport, one))
    return ordered


def named_beside(ordered: Sequence[Record]) -> list[Cid]:
    """What these records name and are not themselves, ascending: to be brought as companions."""
    there = {record.cid for record in ordered}
    return sorted({cid for record in ordered for cid in named_by(record)} - there)
