"""Exporting: entries with all that is known of them, one after the other, as an archive or as views.

What is exported is chosen by ids, which are asked of their holders, or taken of all that lies here, in
ascending order of ids. An archive brings what a stranger needs to judge every record without this network
(`chain.archive_parts`). Private entries are never among it, nor what is blocked here. Memory: one entry.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chain.archive_parts import MAX_COMPANIONS, MAX_ENTRIES_NAMED, ArchiveWriter
from chain.cid import Cid, to_text
from chain.identity import AgentId
from chain.kinds import EPOCH
from chain.manifest import Manifest
from chain.record import Record
from crdt.purging import purged_by, purges_in
from crdt.standing import Standing
from dht.ports import RunBlocking
from dht.records.basis import notice_basis
from dht.records.bundle import Opening
from dht.records.record_store import HeldStore
from node.entry_reader import EntryReader, view_of
from node.entry_records import EntryRecords
from node.errors import InvalidInput, NotFound
from node.models import EntryView
from validation.archive import admit
from validation.archive_order import in_order, named_beside
from validation.ledger import Ledger

MAX_IDS: Final = 256
"""Entries that one export may name."""
PAGE: Final = 256
"""Entries, or notices, read at a time."""
PIECE: Final = 64 * 1024
"""Bytes that are gathered before they are handed on."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries: those of `ids`, else all that are here; of them those of `domain` that bear `tag`."""

    ids: tuple[Cid, ...] = ()
    domain: str | None = None
    tag: str | None = None

    def admits(self, view: EntryView) -> bool:
        """Whether an entry is of the domain and bears the tag."""
        return self.domain in (None, view.domain) and (self.tag is None or self.tag in view.tags)


@dataclass(frozen=True, slots=True)
class Exported:
    """An entry: its view, its records, and what was found beside them for their judges."""

    view: EntryView
    records: Sequence[Record]
    companions: Mapping[Cid, Record]


class Exporting:
    """The exports of one node. `trust` gives the view of an entry's records as this node shows it."""

    def __init__(
        self,
        manifest: Manifest,
        reader: EntryReader,
        local: EntryRecords,
        held: HeldStore,
        find: Callable[[Sequence[Cid]], list[Record | None]],
        opening_of: Callable[[AgentId], Opening | None],
        ledger: Ledger,
        standing: Callable[[], Standing],
        root: Mapping[AgentId, int],
        run_blocking: RunBlocking,
    ) -> None:
        self._manifest = manifest
        self._reader = reader
        self._local = local
        self._held = held
        self._find = find
        self._opening_of = opening_of
        self._ledger = ledger
        self._standing = standing
        self._root = root
        self._run_blocking = run_blocking

    async def check(self, selection: Selection) -> None:
        """Raise `NotFound` for an id that nobody shows, `InvalidInput` for more than `MAX_IDS` of them."""
        if len(selection.ids) > MAX_IDS:
            raise InvalidInput(f"{len(selection.ids)} ids are given, an export takes {MAX_IDS}: use --all")
        for entry in selection.ids:
            if self._local.blocks.has(entry):
                raise NotFound(f"the entry {to_text(entry)} is blocked on this node: unblock it to see it")
            known = await self._run_blocking(self._local.about, entry)
            if entry not in known and entry not in (await self._reader.find(entry)).records:
                raise NotFound(f"no entry {to_text(entry)} is known here or to its holders")

    async def entries(self, selection: Selection) -> AsyncGenerator[Exported, None]:
        """The chosen entries, ascending by id; each is read when it is its turn."""
        async for entry in self._ids(selection):
            companions: Mapping[Cid, Record] = {}
            if selection.ids:
                found = await self._reader.find(entry)
                records, companions = found.about(entry), found.companions
            else:
                records = list((await self._run_blocking(self._local.about, entry)).values())
            records = _said(records)
            view = await self._run_blocking(view_of, entry, records, self._standing(), self._root)
            if view is not None and selection.admits(view):
                yield Exported(view, records, companions)

    async def archive(self, selection: Selection) -> AsyncIterator[bytes]:
        """An archive of the chosen entries, in pieces of some `PIECE` bytes; after `check`."""
        writer = ArchiveWriter()
        known: OrderedDict[AgentId, None] = OrderedDict()
        ids = sorted(set(selection.ids))
        named = ids[:MAX_ENTRIES_NAMED] if selection.domain is None and selection.tag is None else []
        gathered = bytearray(writer.begin(self._manifest, named))
        async for group in self._groups(selection, known):
            for piece in writer.group(*group):
                gathered += piece
                if len(gathered) >= PIECE:
                    yield bytes(gathered)
                    gathered.clear()
        yield bytes(gathered) + writer.end()

    async def _ids(self, selection: Selection) -> AsyncIterator[Cid]:
        if selection.ids:
            for entry in sorted(set(selection.ids)):
                yield entry
            return
        last = b""
        while page := await self._run_blocking(self._local.entries_after, last, PAGE):
            for entry in page:
                yield entry
            last = page[-1]

    async def _groups(
        self, selection: Selection, known: OrderedDict[AgentId, None]
    ) -> AsyncIterator[tuple[Cid | None, list[Opening], list[Record], list[Record]]]:
        pages = self._notices()
        while (notices := await self._run_blocking(next, pages, None)) is not None:
            yield await self._run_blocking(self._group, None, notices, {}, known)
        async for one in self.entries(selection):
            yield await self._run_blocking(self._group, one.view.id, one.records, one.companions, known)

    def _group(
        self,
        entry: Cid | None,
        records: Sequence[Record],
        beside: Mapping[Cid, Record],
        known: OrderedDict[AgentId, None],
    ) -> tuple[Cid | None, list[Opening], list[Record], list[Record]]:
        """What goes into a group: openings of authors not introduced yet, companions, records in order."""
        ordered = in_order(records)
        names = named_beside(ordered)[:MAX_COMPANIONS]
        found = zip(names, self._find(names), strict=True)
        companions = [one for cid, here in found if (one := here or beside.get(cid)) is not None]
        openings: list[Opening] = []
        for author in dict.fromkeys(record.header.author for record in ordered):
            opening = None if author in known else self._opening_of(author) or _opening_in(beside, author)
            if opening is not None:
                admit(known, author)
                openings.append(opening)
        return entry, openings, [one.without_payload() for one in companions], ordered

    def _notices(self) -> Iterator[list[Record]]:
        """Epochs in order, then what is proven against agents, in pages."""
        epochs = sorted(self._ledger.epochs, key=lambda cid: (self._ledger.epochs[cid].number, cid))
        there = [record for record in self._find(epochs) if record is not None and record.payload]
        for start in range(0, len(there), PAGE):
            yield there[start : start + PAGE]
        after: Cid | None = None
        basis = notice_basis(self._manifest.network_id)
        while page := self._held.at_basis(basis, after, PAGE):
            after = page[-1].cid
            others = [one for one in page if one.header.kind != EPOCH and one.payload]
            if others:
                yield others


def _said(records: Iterable[Record]) -> list[Record]:
    """Without those whose payload is elsewhere: a node that holds an author's activity has their headers."""
    by_cid = {record.cid: record for record in records}
    purged = purged_by(by_cid, purges_in(by_cid))
    return [record for cid, record in by_cid.items() if record.payload is not None or cid in purged]


def _opening_in(records: Mapping[Cid, Record], author: AgentId) -> Opening | None:
    first: Iterable[Record] = (one for one in records.values() if one.header.author == author)
    by_seq = {one.header.seq: one for one in first if one.header.seq < 2 and one.payload is not None}
    return (by_seq[0], by_seq[1]) if len(by_seq) == 2 else None
