"""Reading one entry: everything known about it, here and at its holders, folded into a view.

All holders of the entry's basis are asked at once; each record they send is judged like any other before it
is folded. What is known locally is shown even when no holder answers in time. When none of the nearest shows
the entry, other nodes around its basis are asked: holders may be full, gone, or a crowd that conceals it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from chain.cid import Cid
from chain.content import Content
from chain.identity import AgentId
from chain.kinds import CARRIES_CONTENT, CREATE, ENTRY_OPERATIONS, PURGE
from chain.record import Record
from crdt.entry import fold
from crdt.entry_view import Entry
from crdt.equivocation import twins_among
from crdt.purging import purged_by, purges_in
from crdt.standing import CLEAR, Standing
from crdt.trust import NO_ROOT, trust_of
from dht.errors import NetworkError
from dht.overlay.kademlia import Kademlia
from dht.ports import RunBlocking
from dht.records.basis import subject_basis
from dht.records.bundle import Bundle, Item
from dht.records.intake import Intake, Judged
from dht.records.methods import RecordService
from dht.records.record_store import Held
from node.entry_records import EntryRecords
from node.models import MAX_BALLOTS, MAX_REFERENCES, MAX_VALUES, Ballot, EntryView, Erased, FieldState, Value
from validation.named import named_by

TIMEOUT_S = 2.0
SEARCH_S = 10.0
"""Seconds for looking around an entry that its nearest nodes do not show; only then is there such a
search."""
SEARCH_AT_ONCE = 16
"""Nodes asked at a time then."""
MAX_PAGES = 16
"""Pages taken from one holder, in the order of reading: who floods an entry hides only the own operations."""

log = logging.getLogger(f"roseforest.{__name__}")


@dataclass(slots=True)
class Found:
    """What was found of an entry: records by CID, and beside them what their judges need."""

    records: dict[Cid, Record]
    companions: dict[Cid, Record] = field(default_factory=dict)

    def shows(self, entry: Cid) -> bool:
        """Whether the entry's create is here with what it says, or a purge that says why it is not."""
        create = self.records.get(entry)
        if create is None:
            return False
        return create.payload is not None or any(one.header.kind == PURGE for one in self.records.values())

    def about(self, entry: Cid) -> list[Record]:
        """The entry's records; not all that has an id is an entry, and not all that names one is about it."""
        return [record for record in self.records.values() if _is_of(entry, record)]


class EntryReader:
    """Reads entries over the network; `local` gives the records known here."""

    def __init__(
        self,
        kademlia: Kademlia,
        records: RecordService,
        intake: Intake,
        local: EntryRecords,
        holders: int,
        run_blocking: RunBlocking,
        standing: Callable[[], Standing] = lambda: CLEAR,
        root: Mapping[AgentId, int] = NO_ROOT,
        met: Callable[[Sequence[tuple[Record, Record]]], Awaitable[None]] | None = None,
    ) -> None:
        """`root`: whose votes count in full, see `crdt.trust`. `met` is told of forks found."""
        self._root = root
        self._met = met
        self._standing = standing
        self._kademlia = kademlia
        self._records = records
        self._intake = intake
        self._local = local
        self._holders = holders
        self._run_blocking = run_blocking

    async def read(self, entry: Cid) -> EntryView | None:
        """The entry as all its known operations fold; None when its create record is nowhere to be found."""
        return view_of(entry, (await self.find(entry)).about(entry), self._standing(), self._root)

    def local(self, entry: Cid) -> EntryView | None:
        """The entry as the records here fold, nobody asked; None without its create. Blocking."""
        return view_of(entry, list(self._local.about(entry).values()), self._standing(), self._root)

    async def find(self, entry: Cid) -> Found:
        """All that this node and the entry's holders know of it; judged, and not kept."""
        known = await self._run_blocking(self._local.about, entry)
        found = Found(dict(known))
        contacts = await self._kademlia.holders(subject_basis(entry), self._holders)
        asked = [contact.agent for contact in contacts if contact.agent != self._kademlia.agent]
        await self._collect_from(asked, entry, found)
        if not found.shows(entry):  # a header alone, which nodes keep of much, is no answer
            await self._search(entry, found, asked)
        await self._erase_stale(known, found)
        twins = twins_among((*found.records.values(), *found.companions.values()))
        if twins and self._met is not None:
            await self._met(twins)
        return found

    async def _search(self, entry: Cid, found: Found, without: Sequence[AgentId]) -> None:
        """Look for an entry that its nearest nodes do not show, a few nodes at a time."""
        with trio.move_on_after(SEARCH_S):
            around = await self._kademlia.around(subject_basis(entry), without)
            for start in range(0, len(around), SEARCH_AT_ONCE):
                part = around[start : start + SEARCH_AT_ONCE]
                await self._collect_from([contact.agent for contact in part], entry, found)
                if found.shows(entry):
                    return

    async def _collect_from(self, agents: Sequence[AgentId], entry: Cid, found: Found) -> None:
        with trio.move_on_after(TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for agent in agents:
                    nursery.start_soon(self._collect, agent, entry, found)

    async def keep(self, found: Found) -> None:
        """Make durable what was found, for no role: what this node signs on top of it must be judged by it.

        Raises what the store raises.
        """
        records = [*found.companions.values(), *found.records.values()]
        items = [Held(record) for record in await self._run_blocking(self._local.lacking, records)]
        await self._records.hold(items)

    async def _collect(self, agent: AgentId, entry: Cid, found: Found) -> None:
        skip: int | None = 0
        try:
            for _ in range(MAX_PAGES):
                page, skip = await self._records.about(agent, entry, skip or 0)
                about = [i for i in page.items if isinstance(i, Item) and i.record.subject == entry]
                new = tuple(item for item in about if _is_news(found, item.record))
                bundle = Bundle(page.openings, page.headers, new)
                judged, companions = await self._run_blocking(self._judge, bundle)
                for item, verdict in zip(new, judged, strict=True):
                    if verdict.held is None or self._local.blocks.hides(item.record):
                        continue
                    if item.record.payload or verdict.erased:
                        found.records[item.record.cid] = verdict.held.record
                    if verdict.purge is not None and verdict.purge.payload:
                        found.records.setdefault(verdict.purge.cid, verdict.purge)
                found.companions.update((held.record.cid, held.record) for held in companions)
                if any(verdict.rule for verdict in judged):
                    self._kademlia.report(agent)
                if skip is None or not about:
                    return
        except NetworkError as error:
            log.info("fetching from %s failed: %s", agent.hex()[:8], error)

    async def _erase_stale(self, known: Mapping[Cid, Record], found: Found) -> None:
        """Copies kept here from an earlier change go, when their authors turn out to have purged them."""
        purges = {cid: one for cid, one in found.records.items() if one.header.kind == PURGE}
        stale = purged_by({**known, **purges}, purges_in(purges))
        wanted = sorted({purge for cid, purge in stale.items() if known[cid].payload is not None})
        if wanted:
            named = [
                found.companions[c] for p in wanted for c in named_by(purges[p]) if c in found.companions
            ]
            await self._records.hold([Held(one) for one in (*named, *(purges[cid] for cid in wanted))])

    def _judge(self, bundle: Bundle) -> tuple[list[Judged], list[Held]]:
        judged = self._intake.judge(bundle)
        return judged, self._intake.companions(bundle, judged)


def view_of(
    entry: Cid,
    records: Sequence[Record],
    standing: Standing = CLEAR,
    root: Mapping[AgentId, int] = NO_ROOT,
) -> EntryView | None:
    """The view of these records about one entry; None without its create."""
    folded = fold(records, standing)
    if folded is None:
        return None
    by_cid = {record.cid: record for record in records}
    erased = _erased(folded, by_cid)
    shown = folded.contents[0][1] if folded.contents else None
    return EntryView(
        id=entry,
        author=folded.author,
        text=None if shown is None else shown.text,
        tags=folded.tags,
        domain=None if shown is None else shown.domain,
        confidence=None if shown is None else shown.confidence,
        citations=() if shown is None else shown.citations,
        deleted=folded.deleted,
        retracted=folded.retracted,
        conflict=folded.conflict,
        version=tuple(
            (author, max(slot.seq for slot in slots), tuple(slot.cid for slot in slots))
            for author, slots in folded.version.authors
        ),
        fingerprint=folded.version.fingerprint,
        values=tuple(
            value_of(cid, by_cid[cid].header.author, content) for cid, content in folded.contents[:MAX_VALUES]
        ),
        delete_overruled=folded.delete_overruled,
        up=folded.up,
        down=folded.down,
        votes=tuple(
            Ballot(one.agent, one.vote.value, one.vote.reason, one.vote.confidence, one.vote.behalf)
            for one in folded.votes[:MAX_BALLOTS]
        ),
        excluded=tuple(
            (cid, by_cid[cid].header.author, standing.since(by_cid[cid].header.author) or 0)
            for cid in folded.excluded[:MAX_VALUES]
        ),
        erased=tuple(
            Erased(cid, by_cid[cid].header.author, by_cid[purge].header.hlc)
            for cid, purge in erased[:MAX_VALUES]
        ),
        fields=tuple(
            FieldState(
                name,
                tuple((cid, by_cid[cid].header.author, value) for cid, value in values[:MAX_VALUES]),
            )
            for name, values in folded.fields
        ),
        references=tuple(one for one, _ in folded.reference_adds[:MAX_REFERENCES]),
        assessments=tuple((one.agent, one.confidence) for one in folded.assessments[:MAX_BALLOTS]),
        trust=trust_of(folded, root, standing),
        records=tuple(sorted(records, key=lambda record: (record.header.lamport, record.cid))),
        left_out=_left_out(folded, len(erased)),
    )


def value_of(record: Cid, author: AgentId, content: Content) -> Value:
    """A content value as the node shows it."""
    return Value(
        record,
        author,
        content.text,
        content.format,
        content.generated_by,
        content.behalf,
        content.resolution,
    )


def _left_out(folded: Entry, erased: int) -> tuple[tuple[str, int], ...]:
    """What a view does not list, because strangers may have said any number of it; see `EntryView`."""
    there = {
        "assessments": len(folded.assessments) - MAX_BALLOTS,
        "erased": erased - MAX_VALUES,
        "excluded": len(folded.excluded) - MAX_VALUES,
        "field_values": sum(max(0, len(values) - MAX_VALUES) for _, values in folded.fields),
        "references": len(folded.reference_adds) - MAX_REFERENCES,
        "values": len(folded.contents) - MAX_VALUES,
        "votes": len(folded.votes) - MAX_BALLOTS,
    }
    return tuple((name, more) for name, more in there.items() if more > 0)


def _erased(folded: Entry, by_cid: Mapping[Cid, Record]) -> list[tuple[Cid, Cid]]:
    """The purged content values with their purges, those shown last first, else the latest."""
    gone = [
        (cid in folded.maximal, by_cid[cid].header.hlc, cid, purge)
        for cid, purge in folded.purged
        if by_cid[cid].header.kind in CARRIES_CONTENT
    ]
    return [(cid, purge) for _, _, cid, purge in sorted(gone, reverse=True)]


def _is_news(found: Found, record: Record) -> bool:
    """Whether something would be learned from this copy: its existence, or its payload."""
    known = found.records.get(record.cid)
    return known is None or (known.payload is None and record.payload is not None)


def _is_of(entry: Cid, record: Record) -> bool:
    kind = record.header.kind
    if record.cid == entry:
        return kind == CREATE
    return record.subject == entry and kind in ENTRY_OPERATIONS
