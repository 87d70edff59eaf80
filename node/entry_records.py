"""What this node has about an entry, in its own chain and held for the network, in whatever role.

An entry shows through all of its records at once: own ones from the moment they are durable, and held ones
whether they lie here as the entry's, as a shard's, or only because this node read them before it edited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from chain.cid import Cid
from chain.kinds import CREATE, ENTRY_OPERATIONS
from chain.record import Record
from crdt.causal import merge_copies
from dht.records.placement import Role
from node.moderation import Blocklist
from node.storage.held_records import HeldRecords
from node.storage.own_chain import OwnChain

MAX_ABOUT = 4096
"""Held operations on one entry that are looked at, in the order of `HeldRecords.operations`."""
PAGE = 500


class EntryRecords:
    """Reads of both databases by entry; plain calls, from any thread."""

    def __init__(self, own: OwnChain, held: HeldRecords, blocks: Blocklist | None = None) -> None:
        """What `blocks` hides is not here."""
        self._own = own
        self._held = held
        self.blocks = Blocklist(None) if blocks is None else blocks

    def about(self, entry: Cid) -> dict[Cid, Record]:
        """The entry's create and operations that are here, some maybe as headers only; O(answer)."""
        found: dict[Cid, Record] = {}
        own = self._own.about(entry)
        creator = next((record.header.author for record in own if record.cid == entry), None)
        for record in (*own, *self._held.about(entry, MAX_ABOUT, creator)):
            kind = record.header.kind
            if self.blocks.hides(record):
                continue
            if kind == CREATE if record.cid == entry else kind in ENTRY_OPERATIONS:
                known = found.get(record.cid)
                found[record.cid] = record if known is None else merge_copies(known, record)
        return found

    def lacking(self, records: Sequence[Record]) -> list[Record]:
        """Those of these records that are not here, or without the payload that they have."""
        cids = [record.cid for record in records]
        known = zip(records, self._own.get_many(cids), self._held.get_many(cids), strict=True)
        return [
            record
            for record, own, held in known
            if own is None and (held is None or (held.payload is None and record.payload is not None))
        ]

    def relating_to(self, target: Cid, limit: int) -> list[Cid]:
        """Up to `limit` entries, ascending, of which a record that is here says that it relates to `target`.

        Whether it still does, the entry itself shows. O(records with relations that are here), no decoding.
        """
        found = {*self._own.relating_to(target, limit), *self._held.relating_to(target, limit)}
        return [one for one in sorted(found) if not self.blocks.has(one)][:limit]

    def to_take(self, records: Sequence[Record]) -> list[Record]:
        """Those of these records that are lacking, or lie here only because others name them."""
        cids = [record.cid for record in records]
        lacking = {record.cid for record in self.lacking(records)}
        own = self._own.have(cids)
        return [
            record
            for record, places in zip(records, self._held.places_of(cids), strict=True)
            if record.cid in lacking or not (places or record.cid in own)
        ]

    def operated_on(self, entries: Sequence[Cid]) -> set[Cid]:
        """Those of `entries` of which operations are here."""
        return self._own.operated_on(entries) | self._held.operated_on(entries)

    def all_operated_on(self) -> Iterator[list[Cid]]:
        """All subjects of which operations are here, in pages; one of both databases may come twice."""
        for source in (self._own, self._held):
            after = b""
            while page := source.subjects_after(after, PAGE):
                yield page
                after = page[-1]

    def subjects_after(self, subject: Cid, limit: int) -> list[tuple[Cid, bool]]:
        """Up to `limit` subjects above `subject` of which operations are here, ascending, each once.

        With whether this agent made any of them.
        """
        own = self._own.subjects_after(subject, limit)
        every = sorted({*own, *self._held.subjects_after(subject, limit)})[:limit]
        mine = set(own)
        return [(one, one in mine) for one in every]

    def entries_after(self, entry: Cid, limit: int) -> list[Cid]:
        """Up to `limit` entries above `entry` whose create is here, ascending, each once."""
        own = self._own.entries_after(entry, limit)
        return sorted({*own, *self._held.entries_after(entry, limit)})[:limit]

    def at_home(self, pairs: Sequence[tuple[bytes, Cid]]) -> set[Cid]:
        """Those content records, each with its own shard's basis, that are own ones or held at that basis."""
        own = self._own.have([cid for _, cid in pairs])
        lacking = self._held.lacking(pairs)
        return own | {cid for (_, cid), lacks in zip(pairs, lacking, strict=True) if not lacks}

    def at_former_home(
        self, contents: Sequence[tuple[Cid, bytes]], is_home: Callable[[bytes, bytes], bool]
    ) -> set[Cid]:
        """Those of these content records, each with its key, that lie at a basis for which `is_home(basis,
        key)`: a shard that is none any more, where others find them."""
        places = self._held.places_of([cid for cid, _ in contents])
        return {
            cid
            for (cid, key), at in zip(contents, places, strict=True)
            if any(roles & Role.SHARD and is_home(basis, key) for roles, basis in at)
        }

    def to_index(self, contents: Sequence[Cid]) -> set[Cid]:
        """Those of these content records that this node searches: own ones, and those held for a shard."""
        own = {record.cid for record in self._own.get_many(contents) if record is not None}
        return own | self._held.in_role(contents, int(Role.SHARD))
