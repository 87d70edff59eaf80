"""Erased records on the wire: a header whose payload its author has purged, and the purge that says so.

A record without its payload is worth nothing to a holder, unless its author erased it. So whoever passes an
erased record on brings a purge of it along, whole, among the bundle's headers, and the receiver judges that
like any other record before it keeps the header alone. A payload that still comes with a purged record, from
somebody who was away, is dropped before anything is kept or shown. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from chain.cid import Cid
from chain.kinds import PURGE, PURGEABLE
from chain.record import Record
from crdt.operations import Purge
from dht.records.bundle import Bundle, Item
from validation.named import operation_of


def purges_brought(bundle: Bundle) -> list[Record]:
    """The purges in a bundle that come with their payloads, by CID; not judged."""
    found = {one.record.cid: one.record for one in bundle.items if isinstance(one, Item)} | bundle.headers
    return [found[cid] for cid in sorted(found) if found[cid].header.kind == PURGE and found[cid].payload]


def names(purge: Record, records: Iterable[Record]) -> list[Cid]:
    """Those of `records` that a purge erases."""
    said = operation_of(purge)
    named = frozenset(said.records) if isinstance(said, Purge) else frozenset()
    return [one.cid for one in records if one.cid in named and may_purge(purge, one)]


def may_purge(purge: Record, target: Record) -> bool:
    """Whether a purge by this author can erase this record."""
    return (
        target.header.kind in PURGEABLE
        and target.header.author == purge.header.author
        and target.subject == purge.subject
    )


def payload_is_gone(record: Record, purged: Mapping[Cid, Record]) -> bool:
    """Whether a record is without payload because it was purged."""
    return record.payload is None and record.cid in purged
