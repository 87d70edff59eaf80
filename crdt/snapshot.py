"""Snapshots: what an entry came to, so that a replica starts there and asks only for what came since.

A snapshot names the entry, its heads, the version that it was taken at, the view's bytes, and which of the
authors did not count then and who had gone on under another key, because the view depends on that too. One
hash (`digest`) stands for all of it, so replicas compare entries by 32 bytes each.

Nobody is believed for a snapshot: no signature could tell who is right, and none is needed. `believed` takes
one where the signed records below its version fold to it, byte for byte, and gives the state that the tail is
added to. That costs a fold, not trust. What a reader saves is fetching what it does not look at: entries are
fetched and checked one by one as they are read, and a peer whose snapshot is false is found out by the first
of them. One that cannot be checked any more, as an author has erased what it shows, is void.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Final

from chain import canonical
from chain.cid import Cid, is_record_cid
from chain.errors import ChainError
from chain.identity import AGENT_ID_SIZE, AgentId
from chain.merkle import leaf_hash, root_of
from chain.record import MAX_INT, Record
from crdt.ballots import is_timed
from crdt.entry import EntryState
from crdt.errors import CrdtError, SnapshotError, SnapshotLacks, SnapshotVoid
from crdt.operations import Vote
from crdt.purging import operations, purged_by, purges_in
from crdt.standing import CLEAR, Standing
from crdt.version_vector import VersionVector, decode_version_vector, known_by, subject_prev

SNAPSHOT_TAG: Final = b"roseforest/snapshot/1\0"
MAX_SNAPSHOT: Final = 8 << 20
"""Bytes of an encoded snapshot; an entry whose view takes more has none."""
MAX_HEADS: Final = 16_384
MAX_AGENTS: Final = 8_192
"""Authors that did not count, and keys that went on, in one snapshot."""


@dataclass(frozen=True)
class Snapshot:
    """`version` is bare. `against`: authors of the entry who did not count, from which seq of their chain on.

    `lines`: of these authors' keys the ones that they went on under, and of the keys for which votes were
    passed on, where one has signed a vote with its time. All are ascending.
    """

    entry: Cid
    heads: tuple[Cid, ...]
    version: VersionVector
    against: tuple[tuple[AgentId, int], ...]
    lines: tuple[tuple[AgentId, AgentId], ...]
    view: bytes

    @cached_property
    def digest(self) -> bytes:
        """The 32 bytes that stand for the snapshot."""
        return sha256(SNAPSHOT_TAG + canonical.encode(self._fields(sha256(self.view).digest()))).digest()

    @property
    def standing(self) -> Standing:
        """As far as the entry's authors are concerned, the standing that the view was taken by."""
        return Standing(dict(self.against), dict(self.lines))

    def encode(self) -> bytes:
        """Canonical bytes; `snapshot_of` makes none whose bytes are too many."""
        return canonical.encode(self._fields(self.view))

    def _fields(self, view: bytes) -> list[Any]:
        return [
            self.entry,
            list(self.heads),
            self.version.encode(),
            [list(pair) for pair in self.against],
            [list(pair) for pair in self.lines],
            view,
        ]


def snapshot_of(state: EntryState, standing: Standing = CLEAR) -> Snapshot | None:
    """The snapshot of what is applied; None while the create is missing. O(n).

    Raises `SnapshotError` for an entry that is too large to have one.
    """
    view = state.view(standing)
    if view is None:
        return None
    authors = sorted({record.header.author for record in state.applied.values()})
    keys = {key for one in (*authors, *_voters(state)) for key in standing.line_of(one)}
    lines = {key: after for key in keys if (after := standing.successors.get(key)) is not None}
    try:
        snapshot = Snapshot(
            state.subject,
            view.heads,
            view.version.bare(),
            tuple((one, since) for one in authors if (since := standing.since(one)) is not None),
            tuple(sorted(lines.items())),
            view.encode(),
        )
        size = len(snapshot.encode())
    except (ChainError, CrdtError) as error:
        raise SnapshotError(f"entry {state.subject.hex()} is too large for a snapshot: {error}") from error
    if size > MAX_SNAPSHOT:
        raise SnapshotError(f"the snapshot of entry {state.subject.hex()} has {size} bytes")
    return snapshot


def _voters(state: EntryState) -> list[bytes]:
    """The keys whose lines decide which signed vote counts: none unless there is one with its time."""
    votes = [one for one in operations(state.applied).values() if isinstance(one, Vote)]
    if not any(is_timed(one) for one in votes):
        return []
    return [one.behalf.key for one in votes if one.behalf is not None and one.behalf.key is not None]


def root_of_set(snapshots: Iterable[Snapshot]) -> bytes:
    """One hash for the snapshots of a set of entries, in whatever order; raises `ValueError` without any."""
    rows = sorted({(one.entry, one.digest) for one in snapshots})
    return root_of([leaf_hash(entry + digest) for entry, digest in rows])


def believed(snapshot: Snapshot, records: Iterable[Record]) -> EntryState:
    """The state of these verified records, which hold what the snapshot shows, and maybe more. O(n).

    Raises `SnapshotLacks` while records below the snapshot's version are missing, `SnapshotVoid` when one of
    them was erased since, `SnapshotError` when they fold to something else, and `SubjectError`.
    """
    state = EntryState(snapshot.entry).add_all(records)
    covered = known_by(snapshot.version, state.applied, subject_prev)
    missing = tuple(sorted(cid for cid in covered if cid not in state.applied))
    if missing:
        raise SnapshotLacks(missing)
    part = {cid: state.applied[cid] for cid in covered}
    later = purged_by(state.applied, purges_in(state.applied))
    if any(cid in part and purge not in part for cid, purge in later.items()):
        raise SnapshotVoid(f"what the snapshot of {snapshot.entry.hex()} shows was erased since")
    lost = tuple(sorted(cid for cid, one in part.items() if one.payload is None and cid not in later))
    folded = EntryState(snapshot.entry).add_all(part.values())
    if not folded.waiting and snapshot_of(folded, snapshot.standing) == snapshot:
        return state
    if lost:
        raise SnapshotLacks(lost)
    raise SnapshotError(f"the records of {snapshot.entry.hex()} do not fold to its snapshot")


def decode_snapshot(data: bytes) -> Snapshot:
    """Decode what `encode` writes; raises `SnapshotError` for anything else."""
    try:
        fields = canonical.decode(data, MAX_SNAPSHOT)
        if type(fields) is not list or len(fields) != 6:
            raise SnapshotError("a snapshot is the array [entry, heads, version, against, lines, view]")
        entry, heads, version, against, lines, view = fields
        if type(version) is not bytes:
            raise SnapshotError("the version of a snapshot is malformed")
        vector = decode_version_vector(version)
    except (ChainError, CrdtError) as error:
        raise error if isinstance(error, SnapshotError) else SnapshotError(f"snapshot: {error}") from error
    if not is_record_cid(entry) or type(view) is not bytes or vector.bare() != vector:
        raise SnapshotError("entry, version or view of a snapshot is malformed")
    if type(heads) is not list or len(heads) > MAX_HEADS or not all(map(is_record_cid, heads)):
        raise SnapshotError(f"a snapshot has at most {MAX_HEADS} heads")
    pairs = [_pairs("against", against, _is_place), _pairs("lines", lines, _is_agent)]
    return Snapshot(entry, tuple(heads), vector, pairs[0], pairs[1], view)


def _pairs(name: str, value: Any, fits: Any) -> tuple[tuple[AgentId, Any], ...]:
    if type(value) is not list or len(value) > MAX_AGENTS:
        raise SnapshotError(f"{name} has at most {MAX_AGENTS} pairs")
    for pair in value:
        if type(pair) is not list or len(pair) != 2 or not (_is_agent(pair[0]) and fits(pair[1])):
            raise SnapshotError(f"{name} of a snapshot is malformed")
    if any(a[0] >= b[0] for a, b in zip(value, value[1:], strict=False)):
        raise SnapshotError(f"{name} of a snapshot is not ascending")
    return tuple((one, other) for one, other in value)


def _is_agent(value: object) -> bool:
    return type(value) is bytes and len(value) == AGENT_ID_SIZE


def _is_place(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_INT
