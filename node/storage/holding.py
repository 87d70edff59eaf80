"""What a batch of records changes in held.db, worked out at once and written table by table.

A record that comes costs a row in `records`, one in `bases` for each place where it lies, and its share of
what is kept about places and authors. Asked one by one that is some twenty statements a record; a batch that
is looked up as a whole needs a few for all of it, and writes each row once, in the order of the index that it
goes to. The result is that of the items one after the other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from chain.cid import Cid
from chain.record import Record
from dht.records.record_store import Held
from node.storage import range_sums
from node.storage.database import select_in
from node.storage.range_sums import Change


@dataclass(slots=True)
class _Coming:
    """All that a batch brings of one record."""

    record: Record
    signature: bytes
    payload: bytes | None
    bases: dict[bytes, int] = field(default_factory=dict)
    """Roles by basis."""


@dataclass(frozen=True, slots=True)
class _Here:
    signature: bytes
    whole: bool
    bare: bool


def hold(connection: sqlite3.Connection, items: Sequence[Held]) -> None:
    """Write checked records, and where they lie, inside a transaction; idempotent."""
    coming = _merged(items)
    here = _here(connection, coming)
    new = [one for cid, one in coming.items() if cid not in here]
    _insert(connection, new)
    _complete(connection, coming, here)
    range_sums.added(connection, _lay(connection, coming, here.keys()))


def _merged(items: Iterable[Held]) -> dict[Cid, _Coming]:
    coming: dict[Cid, _Coming] = {}
    for item in items:
        record = item.record
        one = coming.get(record.cid)
        if one is None:
            one = coming[record.cid] = _Coming(record, record.signature, record.payload)
        one.signature = min(one.signature, record.signature)
        one.payload = record.payload if one.payload is None else one.payload
        for roles, basis in item.bases:
            one.bases[basis] = one.bases.get(basis, 0) | roles
    return coming


def _here(connection: sqlite3.Connection, cids: Iterable[Cid]) -> dict[Cid, _Here]:
    sql = "SELECT cid, signature, payload IS NOT NULL, bare FROM records WHERE cid IN ({})"
    rows = select_in(connection, sql, sorted(cids))
    return {row[0]: _Here(row[1], bool(row[2]), bool(row[3])) for row in rows}


def _insert(connection: sqlite3.Connection, new: Sequence[_Coming]) -> None:
    connection.executemany(
        "INSERT INTO records (cid, author, seq, subject, kind, header, signature, payload)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                one.record.cid,
                one.record.header.author,
                one.record.header.seq,
                one.record.subject,
                one.record.header.kind,
                one.record.header_bytes,
                one.signature,
                one.payload,
            )
            for one in new
        ],
    )
    connection.execute("UPDATE tally SET records = records + ?", (len(new),))
    used: dict[bytes, list[int]] = {}
    for one in new:
        share = used.setdefault(one.record.header.author, [0, 0])
        share[0] += 1
        share[1] += len(one.record.header_bytes) + len(one.payload or b"")
    connection.executemany(
        "INSERT INTO usage (author, records, bytes) VALUES (?, ?, ?) ON CONFLICT (author) DO UPDATE "
        "SET records = records + excluded.records, bytes = bytes + excluded.bytes",
        [(author, *used[author]) for author in sorted(used)],
    )


def _complete(
    connection: sqlite3.Connection, coming: Mapping[Cid, _Coming], here: Mapping[Cid, _Here]
) -> None:
    """What a batch adds to records that are here already."""
    needed = [cid for cid in sorted(here) if here[cid].bare and coming[cid].bases]
    if needed:
        connection.executemany("UPDATE records SET bare = 0 WHERE cid = ?", [(cid,) for cid in needed])
        connection.execute("UPDATE tally SET bare = bare - ?", (len(needed),))
    signed = [(coming[c].signature, c) for c in sorted(here) if coming[c].signature < here[c].signature]
    connection.executemany("UPDATE records SET signature = ? WHERE cid = ?", signed)
    whole = [
        (coming[c].payload, c) for c in sorted(here) if coming[c].payload is not None and not here[c].whole
    ]
    connection.executemany("UPDATE records SET payload = ? WHERE cid = ?", whole)


def _lay(
    connection: sqlite3.Connection, coming: Mapping[Cid, _Coming], known: Iterable[Cid]
) -> dict[bytes, Change]:
    """Note where the records lie; returns what that changes at each basis."""
    sql = "SELECT basis, cid, roles FROM bases INDEXED BY bases_by_cid WHERE cid IN ({})"
    wanted = sorted(cid for cid in known if coming[cid].bases)
    before = {(row[0], row[1]): int(row[2]) for row in select_in(connection, sql, wanted)}
    changes: dict[bytes, Change] = {}
    added: list[tuple[bytes, Cid, int]] = []
    widened: list[tuple[int, bytes, Cid]] = []
    for cid, one in coming.items():
        for basis, roles in one.bases.items():
            found = before.get((basis, cid))
            if found is not None and found & roles == roles:
                continue
            change = changes.setdefault(basis, Change())
            change.roles |= roles
            if found is None:
                change.cids.append(cid)
                added.append((basis, cid, roles))
            else:
                widened.append((found | roles, basis, cid))
    connection.executemany("INSERT INTO bases (basis, cid, roles) VALUES (?, ?, ?)", sorted(added))
    connection.executemany("UPDATE bases SET roles = ? WHERE basis = ? AND cid = ?", widened)
    return changes
