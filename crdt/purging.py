"""What the records of an entry say, once those are left out whose authors erased them.

A purge erases what its author said in records of their own, whether the payload is still at hand or not and
whatever came first, so equal sets of records say the same with and without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from chain.cid import Cid
from chain.content import Content
from chain.errors import ChainError
from chain.kinds import PURGE, PURGEABLE
from chain.record import Record
from crdt.causal import parents
from crdt.errors import CrdtError
from crdt.operations import Describe, Operation, Purge, said_by

_NONE: Final[Mapping[Cid, Operation]] = {}


def operations(
    records: Mapping[Cid, Record], opened: Mapping[Cid, Operation] = _NONE
) -> dict[Cid, Operation]:
    """What the records say, by ascending CID; left out are those purged, or without a readable payload.

    `opened` gives what some of them say whose payload is not here (`crdt.compaction`).
    """
    said: dict[Cid, Operation] = {}
    for cid in sorted(records):
        one = opened.get(cid) or _operation(records[cid])
        if one is not None:
            said[cid] = one
    for cid in purged_by(records, said):
        said.pop(cid, None)
    return said


def purges_in(records: Mapping[Cid, Record]) -> dict[Cid, Operation]:
    """What the purges among these records say; O(records), and reads no other payload."""
    return operations({cid: record for cid, record in records.items() if record.header.kind == PURGE})


def purged_by(records: Mapping[Cid, Record], said: Mapping[Cid, Operation]) -> dict[Cid, Cid]:
    """Those of `records` that their authors purged, each with its first purge by (hlc, CID)."""
    found: dict[Cid, tuple[int, Cid]] = {}
    for purge, one in said.items():
        if isinstance(one, Purge):
            author, place = records[purge].header.author, (records[purge].header.hlc, purge)
            for cid in one.records:
                target = records.get(cid)
                if target is None or target.header.author != author or target.header.kind not in PURGEABLE:
                    continue
                found[cid] = min(place, found.get(cid, place))
    return {cid: purge for cid, (_, purge) in found.items()}


def _operation(record: Record) -> Operation | None:
    if record.payload is None:
        return None
    try:
        return said_by(record)
    except (ChainError, CrdtError):
        return None  # not judged here: a replica that skipped validation still agrees with the others


def known_before(record: Record, said: Mapping[Cid, Operation]) -> tuple[Cid, ...]:
    """What is known to have come before a record: what its header names, and what it overwrites."""
    value = said.get(record.cid)
    return (*parents(record), *value.over) if isinstance(value, Content | Describe) else parents(record)
