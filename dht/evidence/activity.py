"""The activity watch: holders of an author's activity verify its whole chain, from genesis on.

The header before a record is checked when the record is taken in; that the one before that hangs together too
is seen here, by those who hold the author's headers and so have them all. Whenever headers of an author come,
its chain is walked on from where the last walk ended (`validation.chain_walk`). What is missing in between is
asked of the other holders, as headers, a few times and within bounds. A link that breaks a rule, as one that
follows the chain's close and was never shown to anybody but as the predecessor of another, is told to
`on_offence` with the header before it: that is what a warrant proves.

How far chains were walked is memory: after a restart the next header of an author begins anew, some 10 µs a
link.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf

import trio

from chain.cid import Cid
from chain.identity import AgentId
from chain.kinds import EPOCH, OPENING
from chain.record import Record
from dht.errors import NetworkError
from dht.evidence.heads import Activity, Heads
from dht.overlay.kademlia import Kademlia
from dht.ports import Clock, RunBlocking
from dht.records.basis import Basis, author_basis
from dht.records.methods import RecordService
from dht.records.placement import Role
from dht.records.record_store import Held
from validation.chain_walk import Walked, linked, walk
from validation.context import Context
from validation.rules import parks

MAX_AUTHORS = 10_000
"""Authors whose walk is remembered; beyond it the one that was silent longest is walked anew."""
STRETCH = 1_000
"""Headers walked at a time."""
MAX_FILLED = 20_000
"""Headers fetched to close the gaps of one author since the start."""
MAX_TOLD = 64
"""Broken links of one author that are told about."""
FILL_PAGES = 8
"""Pages asked of one holder at a time."""
FILL_TRIES = 6
"""Times that a gap is asked about before something new of the author comes."""
FILL_FIRST_S = 5.0
"""Wait before the first of these: what is missing may be on its way. Each further one waits three times as
long."""
SETTLE_S = 0.5
"""Headers come in batches; a walk waits this long for the next one."""
PAUSE_S = 1.0

log = logging.getLogger(f"roseforest.{__name__}")


@dataclass(slots=True)
class _Progress:
    """How far one author's chain was walked."""

    tips: tuple[Cid, ...] = ()
    next_seq: int = 0
    gap: bool = False
    broken: bool = False
    waits: bool = False
    told: set[Cid] = field(default_factory=set)
    filled: int = 0
    tries: int = 0
    fill_at: float = 0.0


class ActivityWatch:
    """Walks the chains of the authors whose activity is held here. `heard` tells it, `run` drives it."""

    def __init__(
        self,
        kademlia: Kademlia,
        heads: Heads,
        records: RecordService,
        store: Activity,
        records_of: Callable[[Sequence[Cid]], list[Record | None]],
        context: Callable[[], Context],
        on_offence: Callable[[Record, Context], None],
        replication: int,
        clock: Clock,
        run_blocking: RunBlocking,
    ) -> None:
        """`context` gives the bench of the present. `on_offence` is called in a worker thread."""
        self._kademlia = kademlia
        self._heads = heads
        self._records = records
        self._store = store
        self._records_of = records_of
        self._context = context
        self._on_offence = on_offence
        self._replication = replication
        self._clock = clock
        self._run_blocking = run_blocking
        self._progress: OrderedDict[AgentId, _Progress] = OrderedDict()
        self._authors: dict[Basis, AgentId] = {}
        self._dirty: dict[AgentId, None] = {}
        self._wake = trio.Event()
        self.verified = 0
        """Links verified since the start."""
        self.filled = 0
        """Headers fetched to close gaps since the start."""

    def heard(self, items: Sequence[Held]) -> None:
        """These records are held here now."""
        for item in items:
            if any(role & Role.AUTHOR for role, _ in item.bases):
                self._dirty[item.record.header.author] = None
        if any(item.record.header.kind == EPOCH for item in items):
            self._dirty.update((author, None) for author, one in self._progress.items() if one.waits)
        if self._dirty:
            self._wake.set()

    def dropped(self, basis: bytes) -> None:
        """What lay at a basis was given up; an author's activity is not looked after any more."""
        author = self._authors.pop(basis, None)
        if author is not None:
            self._progress.pop(author, None)

    def counts(self) -> dict[str, int]:
        """Chains whose headers hang together as far as they are here, that have gaps, and that are broken."""
        gaps = sum(one.gap for one in self._progress.values())
        broken = sum(one.broken for one in self._progress.values())
        return {"whole": len(self._progress) - gaps - broken, "gaps": gaps, "broken": broken}

    def verified_to(self, author: AgentId) -> int | None:
        """The greatest seq up to which the chain of `author` was verified here; None: not at all."""
        progress = self._progress.get(author)
        return None if progress is None or not progress.next_seq else progress.next_seq - 1

    def settled_to(self, author: AgentId) -> float | None:
        """Up to which seq nothing is open about the author's records that are here; None: not walked yet.

        Of a fork before it, or a link that breaks a rule, warrants decide: after the latter nothing is open.
        """
        progress = self._progress.get(author)
        if progress is None:
            return None
        return inf if progress.broken else progress.next_seq - 1

    def look_at(self, author: AgentId) -> None:
        """Walk the chain of an author whose activity is held here, though nothing new of it has come."""
        self._dirty[author] = None
        self._wake.set()

    async def run(self) -> None:
        """Walk and fill for ever."""
        while True:
            self._wake = trio.Event()
            dirty, self._dirty = list(self._dirty), {}
            for author in dirty:
                self._touch(author).tries = 0
                await self._walk(author)
            now = self._clock.monotonic()
            due = [author for author, one in self._progress.items() if self._wants_filling(one, now)]
            for author in due:
                await self._fill(author)
            with trio.move_on_after(PAUSE_S if self._any_gap() else FILL_FIRST_S * 3**FILL_TRIES):
                await self._wake.wait()
            await trio.sleep(SETTLE_S)

    def _touch(self, author: AgentId) -> _Progress:
        progress = self._progress.pop(author, None) or _Progress()
        self._progress[author] = progress
        self._authors[author_basis(author)] = author
        while len(self._progress) > MAX_AUTHORS:
            silent, _ = self._progress.popitem(last=False)
            self._authors.pop(author_basis(silent), None)
        return progress

    async def _walk(self, author: AgentId) -> None:
        progress = self._progress.get(author)
        if author == self._kademlia.agent or progress is None:
            self._progress.pop(author, None)  # the own chain is verified where it is kept
            return
        while True:
            before = progress.next_seq
            headers = await self._run_blocking(self._store.chain_of, author, before, STRETCH)
            walked = await self._run_blocking(self._step, author, progress, headers)
            self._note(progress, walked)
            if len(headers) < STRETCH or progress.next_seq == before:
                return

    def _step(self, author: AgentId, progress: _Progress, headers: Sequence[Record]) -> Walked:
        """One stretch; blocking. The opening's records were judged with their payloads when they came."""
        tips = [record for record in self._records_of(progress.tips) if record is not None]
        if len(tips) < len(progress.tips):  # given up meanwhile
            progress.tips, progress.next_seq = (), 0
            tips, headers = [], self._store.chain_of(author, 0, STRETCH)
        context = self._context()
        walked = walk(tips, headers, context)
        for broken in walked.broken:
            if broken.record.cid not in progress.told and len(progress.told) < MAX_TOLD:
                progress.told.add(broken.record.cid)
                named = {} if broken.prev is None else {broken.prev.cid: broken.prev}
                log.warning(
                    "the chain of %s breaks at seq %d: %s",
                    author.hex()[:8],
                    broken.record.header.seq,
                    broken.verdict.reason,
                )
                self._on_offence(broken.record, replace(context, named=named))
        return walked

    def _note(self, progress: _Progress, walked: Walked) -> None:
        self.verified += walked.verified
        progress.tips = tuple(tip.cid for tip in walked.tips)
        progress.next_seq = walked.next_seq
        progress.broken = progress.broken or bool(walked.broken)
        progress.waits = walked.waits
        opened = walked.gap is not None and not progress.broken
        if opened and (not progress.gap or walked.verified):
            progress.tries, progress.fill_at = 0, self._clock.monotonic() + FILL_FIRST_S
        progress.gap = opened

    def _any_gap(self) -> bool:
        return any(self._may_fill(one) for one in self._progress.values())

    @staticmethod
    def _may_fill(progress: _Progress) -> bool:
        return progress.gap and progress.tries < FILL_TRIES and progress.filled < MAX_FILLED

    def _wants_filling(self, progress: _Progress, now: float) -> bool:
        return self._may_fill(progress) and progress.fill_at <= now

    async def _fill(self, author: AgentId) -> None:
        """Ask the other holders for what is missing, and walk on over what comes."""
        progress = self._progress.get(author)
        if progress is None:
            return  # its activity was given up meanwhile
        progress.fill_at = self._clock.monotonic() + FILL_FIRST_S * 3.0 ** (progress.tries + 1)
        progress.tries += 1
        try:
            holders = await self._kademlia.holders(author_basis(author), self._replication)
        except NetworkError as error:
            log.debug("no holders of the activity of %s: %s", author.hex()[:8], error)
            return
        for contact in holders:
            if contact.agent == self._kademlia.agent:
                continue
            try:
                if await self._fill_from(contact.agent, author, progress):
                    return
            except NetworkError as error:
                log.debug("%s fills no gap: %s", contact.agent.hex()[:8], error)

    async def _fill_from(self, holder: AgentId, author: AgentId, progress: _Progress) -> bool:
        """Whether the gap is closed by what one holder has."""
        for _ in range(FILL_PAGES):
            before = progress.next_seq
            page = await self._heads.headers(holder, author, before)
            walked = await self._run_blocking(self._step, author, progress, page)
            # Only what hangs together is kept, so nobody can fill this disk with headers of no chain.
            sound = await self._run_blocking(self._sound, progress, page, walked)
            if walked.broken:
                progress.broken, progress.gap = True, False
            if not sound:
                return progress.broken
            progress.filled += len(sound)
            self.filled += len(sound)
            await self._records.hold([Held(record) for record in sound])
            await self._walk(author)
            if not progress.gap or progress.filled >= MAX_FILLED:
                return not progress.gap
        return False

    def _sound(self, progress: _Progress, page: Sequence[Record], walked: Walked) -> list[Record]:
        """Of a page what the walk verified and is not here yet, headers but for the opening.

        Not what comes from the future: its time comes, and nobody is to build on it before.
        """
        now_us = self._clock.wall_us()
        sound = [
            record if record.header.kind in OPENING else record.without_payload()
            for record in linked(progress.tips, page, walked)
            if not parks(record, now_us)
        ]
        here = self._records_of([record.cid for record in sound])
        return [record for record, known in zip(sound, here, strict=True) if known is None]
