"""Cause and effect among the records of one entry.

A record is *applied* once everything that its header says came before it is applied: the create, its deps
and its author's previous operation. What cannot be applied yet waits. Both are functions of the set of
records alone, so neither arrival order nor duplicates can show.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping

from chain.cid import Cid
from chain.kinds import CREATE, ENTRY_OPERATIONS
from chain.record import Record
from crdt.errors import SubjectError


def check_subject(subject: Cid, record: Record) -> None:
    """Raise `SubjectError` unless `record` is the create `subject` or an operation on it."""
    kind = record.header.kind
    if record.subject != subject:
        raise SubjectError(f"record is about {record.subject.hex()}, this entry is {subject.hex()}")
    if (kind != CREATE) if record.cid == subject else (kind not in ENTRY_OPERATIONS):
        raise SubjectError(f"a record of kind {kind!r} has no place in an entry")


def parents(record: Record) -> tuple[Cid, ...]:
    """What the header says came before it, within the entry; a create has none."""
    header = record.header
    if header.subject is None:
        return ()
    previous = () if header.subject_prev is None else (header.subject_prev,)
    return (header.subject, *previous, *header.deps)


def merge_copies(a: Record, b: Record) -> Record:
    """One record out of two copies: the smallest signature, and the payload if either has it."""
    signature = min(a.signature, b.signature)
    payload = b.payload if a.payload is None else a.payload
    if signature == a.signature and payload is a.payload:
        return a
    return Record(a.header, signature, payload, a.cid, a.header_bytes)


def release(applied: dict[Cid, Record], waiting: dict[Cid, Record]) -> None:
    """Move every record that can be applied from `waiting` to `applied`; O(waiting and their parents).

    A record whose place on its author's line contradicts the record before it is never applied.
    """
    blocking: dict[Cid, list[Cid]] = {}
    open_parents: dict[Cid, int] = {}
    ready: list[Cid] = []
    for cid, record in waiting.items():
        absent = {parent for parent in parents(record) if parent not in applied}
        open_parents[cid] = len(absent)
        for parent in absent:
            blocking.setdefault(parent, []).append(cid)
        if not absent:
            ready.append(cid)
    while ready:
        cid = ready.pop()
        record = waiting[cid]
        if not _follows(record, applied):
            continue
        applied[cid] = waiting.pop(cid)
        for child in blocking.get(cid, ()):
            open_parents[child] -= 1
            if open_parents[child] == 0:
                ready.append(child)


def in_causal_order(
    records: Mapping[Cid, Record], before: Callable[[Record], Iterable[Cid]] = parents
) -> list[Record]:
    """These records, each after those of them that come before it, else by (lamport, CID). O(n log n).

    Nothing is said of a record's place in a ring, which only broken hashes could tie; such are left out.
    """
    after: dict[Cid, list[Cid]] = {}
    open_parents: dict[Cid, int] = {}
    ready: list[tuple[int, Cid]] = []
    for cid, record in records.items():
        inside = {parent for parent in before(record) if parent in records}
        open_parents[cid] = len(inside)
        for parent in inside:
            after.setdefault(parent, []).append(cid)
        if not inside:
            ready.append((record.header.lamport, cid))
    heapq.heapify(ready)
    ordered: list[Record] = []
    while ready:
        _, cid = heapq.heappop(ready)
        ordered.append(records[cid])
        for child in after.get(cid, ()):
            open_parents[child] -= 1
            if open_parents[child] == 0:
                heapq.heappush(ready, (records[child].header.lamport, child))
    return ordered


def missing(applied: Mapping[Cid, Record], waiting: Mapping[Cid, Record]) -> tuple[Cid, ...]:
    """The CIDs, ascending, that waiting records name and nobody has brought."""
    named = {parent for record in waiting.values() for parent in parents(record)}
    return tuple(sorted(cid for cid in named if cid not in applied and cid not in waiting))


def past(
    start: Iterable[Cid], records: Mapping[Cid, Record], before: Callable[[Record], Iterable[Cid]] = parents
) -> set[Cid]:
    """`start` and all that lies before it, among `records`; O(records and their parents)."""
    reached: set[Cid] = set()
    stack = [cid for cid in start if cid in records]
    while stack:
        cid = stack.pop()
        if cid not in reached:
            reached.add(cid)
            stack.extend(parent for parent in before(records[cid]) if parent in records)
    return reached


def _follows(record: Record, applied: Mapping[Cid, Record]) -> bool:
    header = record.header
    if header.subject is None or header.subject_prev is None:
        return header.subject_seq == 0 and header.subject_prev is None
    previous = applied[header.subject_prev].header
    return previous.author == header.author and previous.subject_seq + 1 == header.subject_seq
