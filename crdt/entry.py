"""The state of an entry: the grow-only set of records about one subject, keyed by CID.

Joining two states is set union, which is why it commutes, associates and repeats harmlessly (Shapiro et
al., 2011); a record's identity is its CID and never (author, seq), which a liar reuses. Two copies of a
record differ only in what is not part of it: of two signatures the smallest is kept, a payload beats its
absence, and a purge beats the payload (its author erased it, so no copy brings it back). Records whose
predecessors have not come wait, in a bounded room, and what they miss is named. `fold` gives the view of a
set of records at once; adding one by one gives the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from chain import canonical
from chain.cid import Cid
from chain.identity import AgentId
from chain.record import Record
from crdt.causal import check_subject, merge_copies, missing, release
from crdt.entry_view import Entry, version_of, view_of
from crdt.errors import SubjectError
from crdt.purging import purged_by, purges_in
from crdt.standing import CLEAR, Standing
from crdt.version_vector import VersionVector, known_by, subject_prev

__all__ = ["MAX_WAITING", "MAX_WAITING_PER_AUTHOR", "Entry", "EntryState", "fold"]

MAX_WAITING = 1024
"""Records of one entry that wait for others."""
MAX_WAITING_PER_AUTHOR = 64
"""The same for each author, so that a liar's forged deps crowd out nobody else's records."""


_NONE: Final[Mapping[Cid, Record]] = {}
"""Nothing waits in most entries: one mapping for all of them."""


@dataclass(frozen=True, slots=True)
class EntryState:
    """A set of records about `subject`. Treat the mappings as read-only; every change makes a new state.

    `applied` is causally closed, `waiting` is the rest. `refused` names what the last change left out
    because the waiting room was full: it has not been seen, and may be offered again once `missing` has come.
    """

    subject: Cid
    applied: Mapping[Cid, Record] = field(default_factory=dict)
    waiting: Mapping[Cid, Record] = field(default_factory=dict)
    refused: tuple[Cid, ...] = field(default=(), compare=False)

    def __contains__(self, cid: object) -> bool:
        return cid in self.applied or cid in self.waiting

    def __len__(self) -> int:
        return len(self.applied) + len(self.waiting)

    def add(self, record: Record) -> EntryState:
        """The state with one record more; O(n), use `add_all` for many."""
        return self.add_all((record,))

    def add_all(self, records: Iterable[Record]) -> EntryState:
        """The state with these records more, in any order; O(n + records).

        Raises `SubjectError` when one of them is not about this entry; then nothing changes.
        """
        applied, waiting = dict(self.applied), dict(self.waiting)
        for record in records:
            check_subject(self.subject, record)
            home = applied if record.cid in applied else waiting
            known = home.get(record.cid)
            home[record.cid] = record if known is None else merge_copies(known, record)
        release(applied, waiting)
        for cid in purged_by(applied, purges_in(applied)):
            applied[cid] = applied[cid].without_payload()
        refused = _shrink(waiting)
        return EntryState(self.subject, applied, waiting or _NONE, refused)

    def join(self, other: EntryState) -> EntryState:
        """The union of both states; raises `SubjectError` when they are about different entries."""
        if other.subject != self.subject:
            raise SubjectError(f"cannot join entry {self.subject.hex()} with entry {other.subject.hex()}")
        return self.add_all((*other.applied.values(), *other.waiting.values()))

    def delta(self, since: VersionVector, payloads: Iterable[Cid] = ()) -> tuple[Record, ...]:
        """What a replica with the version `since` lacks, ordered by (lamport, CID). O(n + since).

        `payloads` are records that the replica holds without their payload; a version vector cannot say so.
        What waits here is always sent, unless `since` names it.
        """
        known = known_by(since, self.applied, subject_prev)
        wanted = set(payloads)
        chosen = [
            record
            for records in (self.applied, self.waiting)
            for cid, record in records.items()
            if cid not in known or (cid in wanted and record.payload is not None)
        ]
        return tuple(sorted(chosen, key=lambda record: (record.header.lamport, record.cid)))

    @property
    def version(self) -> VersionVector:
        """What has been applied, per author, with trails. O(n)."""
        return version_of(self.applied)

    @property
    def missing(self) -> tuple[Cid, ...]:
        """What the waiting records wait for and is not here; ascending. Ask the network for these."""
        return missing(self.applied, self.waiting)

    @property
    def without_payload(self) -> tuple[Cid, ...]:
        """Records held as headers only whose payload may still come: not those purged; ascending."""
        records = {**self.applied, **self.waiting}
        purged = purged_by(self.applied, purges_in(self.applied))
        bare = (cid for cid, record in records.items() if record.payload is None)
        return tuple(sorted(cid for cid in bare if cid not in purged))

    def view(self, standing: Standing = CLEAR) -> Entry | None:
        """What people see; None while the create is missing. O(n)."""
        return view_of(self.subject, self.applied, standing)

    def encode(self) -> bytes:
        """Canonical bytes of the whole state, signatures apart: equal states, equal bytes."""
        records = {**self.applied, **self.waiting}
        rows = [[records[cid].header_bytes, records[cid].payload] for cid in sorted(records)]
        return canonical.encode([self.subject, rows])


def fold(records: Iterable[Record], standing: Standing = CLEAR) -> Entry | None:
    """The view of these records about one subject, in any order; None without their create.

    `standing` says whose records do not count.

    Raises `SubjectError` when they are about different subjects.
    """
    found = list(records)
    return EntryState(found[0].subject).add_all(found).view(standing) if found else None


def _shrink(waiting: dict[Cid, Record]) -> tuple[Cid, ...]:
    """Drop the records furthest from being applied until the limits hold; returns their CIDs, ascending."""
    kept: dict[AgentId, int] = {}
    dropped: list[Cid] = []
    total = 0
    for cid in sorted(waiting, key=lambda cid: (waiting[cid].header.lamport, cid)):
        author = waiting[cid].header.author
        if total == MAX_WAITING or kept.get(author, 0) == MAX_WAITING_PER_AUTHOR:
            del waiting[cid]
            dropped.append(cid)
        else:
            kept[author] = kept.get(author, 0) + 1
            total += 1
    return tuple(sorted(dropped))
