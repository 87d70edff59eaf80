"""Reading one entry: everything known about it, here and at its holders, folded into a view.

All holders of the entry's basis are asked at once; each record they send is judged like any other before it
is folded. What is known locally is shown even when no holder answers in time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import trio

from chain.cid import Cid
from chain.identity import AgentId
from chain.kinds import CREATE, ENTRY_OPERATIONS
from chain.record import Record
from crdt.entry import fold
from dht.basis import subject_basis
from dht.bundle import Bundle, Item
from dht.errors import NetworkError
from dht.intake import Intake
from dht.kademlia import Kademlia
from dht.ports import RunBlocking
from dht.records import RecordService
from dht.replies import StoreStatus
from node.models import EntryView

TIMEOUT_S = 2.0
MAX_PAGES = 16
"""Pages taken from one holder; an entry with more operations is shown as far as they go."""

log = logging.getLogger(f"roseforest.{__name__}")


class EntryReader:
    """Reads entries over the network; `local` gives the records known here."""

    def __init__(
        self,
        kademlia: Kademlia,
        records: RecordService,
        intake: Intake,
        local: Callable[[Cid], list[Record]],
        holders: int,
        run_blocking: RunBlocking,
    ) -> None:
        self._kademlia = kademlia
        self._records = records
        self._intake = intake
        self._local = local
        self._holders = holders
        self._run_blocking = run_blocking

    async def read(self, entry: Cid) -> EntryView | None:
        """The entry as all its known operations fold; None when its create record is nowhere to be found."""
        found = {record.cid: record for record in self._local(entry)}
        contacts = await self._kademlia.holders(subject_basis(entry), self._holders)
        with trio.move_on_after(TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for contact in contacts:
                    if contact.agent != self._kademlia.agent:
                        nursery.start_soon(self._collect, contact.agent, entry, found)
        # Not all that has an id is an entry, and not all that names one as its subject is about it.
        return _view(entry, {cid: record for cid, record in found.items() if _is_of(entry, record)})

    async def _collect(self, agent: AgentId, entry: Cid, found: dict[Cid, Record]) -> None:
        after: Cid | None = None
        try:
            for _ in range(MAX_PAGES):
                page = await self._records.at(agent, subject_basis(entry), after)
                about = [i for i in page.bundle.items if isinstance(i, Item) and i.record.subject == entry]
                new = tuple(i for i in about if i.record.payload and i.record.cid not in found)
                bundle = Bundle(page.bundle.openings, page.bundle.headers, new)
                judged = await self._run_blocking(self._intake.judge, bundle)
                for item, verdict in zip(new, judged, strict=True):
                    if verdict.status is StoreStatus.HELD:
                        found[item.record.cid] = item.record
                if any(verdict.rule for verdict in judged):
                    self._kademlia.report(agent)
                if not page.more or not about:
                    return
                after = about[-1].record.cid
        except NetworkError as error:
            log.info("fetching from %s failed: %s", agent.hex()[:8], error)


def _is_of(entry: Cid, record: Record) -> bool:
    kind = record.header.kind
    if record.cid == entry:
        return kind == CREATE
    return record.subject == entry and kind in ENTRY_OPERATIONS


def _view(entry: Cid, found: Mapping[Cid, Record]) -> EntryView | None:
    folded = fold(found[cid] for cid in sorted(found))
    if folded is None:
        return None
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
        records=tuple(sorted(found.values(), key=lambda record: (record.header.lamport, record.cid))),
    )
