"""Nobody signs on a chain that may have gone on elsewhere: the guard of the own chain's head.

A home that fits its note (`node.instance`) writes at once, and its holders are asked meanwhile: a restart
must not wait for a network that may be away. Only the first record after a start waits for the first answer,
at most `GRACE_S` from the start, because an image of a whole disk carries its note along. A home that may be
a copy writes nothing until enough holders of its activity know of nothing beyond its head and of nobody else
who writes (`dht.evidence.head_check`, `dht.evidence.claims`); what they know beyond it is fetched back first.
Then it goes on by itself. `forced` is its owner's word that nothing else runs and nothing was lost.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from chain.errors import ChainBrokenError, ChainForkedError
from chain.identity import AgentId
from chain.kinds import OPENING
from chain.record import Record
from dht.errors import NetworkError
from dht.evidence.claims import PERIOD_S, SESSION_SIZE, WINDOW_S
from dht.evidence.head_check import Answer, Behind, Confirmed, Finding, Forked, Twin, Unknown, check_head
from dht.evidence.heads import Asks, Heads
from dht.evidence.own_history import OwnHistory
from dht.overlay.kademlia import Kademlia
from dht.ports import Clock, Random
from dht.records.basis import author_basis
from node.instance import FORCE
from node.storage.own_chain import OwnChain

GRACE_S: Final = 1.5
"""Seconds from the start that the first record waits for the first answer of holders, at most."""
RETRY_FIRST_S: Final = 0.5
RETRY_MOST_S: Final = 10.0
"""Pauses between two looks of a home that waits for its confirmation."""
ENOUGH: Final = 3
"""Holders that make an answer one of the network; while there are fewer, it has to stand for `STANDS_S`."""
STANDS_S: Final = 5.0
RELEASE_S: Final = 0.5
"""Seconds that giving the lease back may take at the end."""

log = logging.getLogger(f"roseforest.{__name__}")


class HeadGuard:
    """Keeps `own.frozen`. `why`: why this home may be a copy, or None; `expects_peers`: others are known.

    `took` is told what came back from the network, `confirmed` that the home may go on.
    """

    def __init__(
        self,
        own: OwnChain,
        kademlia: Kademlia,
        heads: Heads,
        history: OwnHistory,
        replication: int,
        clock: Clock,
        random: Random,
        *,
        why: str | None,
        forced: bool,
        expects_peers: bool,
        took: Callable[[Sequence[Record]], Awaitable[None]],
        confirmed: Callable[[], Awaitable[None]],
    ) -> None:
        self._own = own
        self._kademlia = kademlia
        self._heads = heads
        self._history = history
        self._replication = replication
        self._clock = clock
        self._jitter = random.choice
        self._forced = forced
        self._took = took
        self._confirmed = confirmed
        self._session = random.random_bytes(SESSION_SIZE)
        self._started = clock.monotonic()
        self._basis = author_basis(kademlia.agent)
        self._looked = trio.Event()
        self._asked: tuple[AgentId, ...] = ()
        self._stands_since: float | None = None
        self._why = why
        self._progress = "its holders were not asked yet"
        self._next_look = trio.Event()
        self.forked = False
        """Whether the chain has two branches: it never goes on by itself then."""
        self.refetched = 0
        """Own records that came back from the network."""
        if why is None and (not expects_peers or own.count() <= len(OPENING)):
            self._looked.set()  # there is nobody to ask, or nothing that could have gone on elsewhere
        if why is not None:
            self._freeze(why)
        own.ready = self.ready

    @property
    def line(self) -> str:
        """How the chain stands, in one line."""
        if self.refetched:
            return f"{self._progress}; {self.refetched} records came back from the network"
        return self._progress

    async def next_look(self) -> None:
        """Wait until the holders have been asked once more."""
        await self._next_look.wait()

    async def ready(self) -> None:
        """Wait for the first answer of the holders, for a little while after the start."""
        if self._looked.is_set():
            return
        with trio.move_on_after(max(0.0, self._started + GRACE_S - self._clock.monotonic())):
            await self._looked.wait()
        self._looked.set()

    async def run(self) -> None:
        """Look after the head until cancelled; begin when the node has entered its network."""
        pause = RETRY_FIRST_S
        while True:
            seen = self._kademlia.version
            moved = await self._look()
            self._looked.set()
            self._next_look.set()
            self._next_look = trio.Event()
            if moved:
                pause = RETRY_FIRST_S
                continue
            waits = self._own.frozen is not None
            pause = min(2 * pause, RETRY_MOST_S) if waits else PERIOD_S
            with trio.move_on_after(pause * self._jitter.uniform(0.8, 1.2)):
                if not waits:
                    await trio.sleep_forever()
                await self._kademlia.wait_changed(seen)
                pause = RETRY_FIRST_S
                await trio.sleep(RETRY_FIRST_S)  # who is new may not know its neighbours yet

    async def release(self) -> None:
        """Give the lease back: the next start, or another home, need not wait for its end."""
        with trio.move_on_after(RELEASE_S):
            if self._own.frozen is None:
                await self._ask(self._asked, Asks.RELEASE)

    # -- looking --

    async def _look(self) -> bool:
        """Ask the holders once, and do what follows; whether to look again at once."""
        contacts = await self._kademlia.holders(self._basis, self._replication + 1)
        others = [one.agent for one in contacts if one.agent != self._kademlia.agent][: self._replication]
        self._asked = tuple(others)
        if self._own.frozen is not None:
            finding = await self._find(others, Asks.LOOK)
            if isinstance(finding, Confirmed) and self._stands(len(others)):
                finding = await self._find(others, Asks.CLAIM)
                if isinstance(finding, Confirmed):
                    await self._go_on(finding)
                    return False
            return await self._follow(finding)
        young = self._clock.monotonic() - self._started < WINDOW_S
        finding = await self._find(others, Asks.TAKE if young else Asks.CLAIM)
        return await self._follow(finding)

    async def _find(self, holders: Sequence[AgentId], asks: Asks) -> Finding:
        answers = await self._ask(holders, asks)
        newest = self._own.newest()
        head = None if newest is None else (newest.header.seq, newest.cid)

        def own_at(seq: int) -> bytes | None:
            record = self._own.at(seq)
            return None if record is None else record.cid

        return check_head(head, own_at, answers, len(holders))

    async def _ask(self, holders: Sequence[AgentId], asks: Asks) -> list[Answer]:
        answers: list[Answer] = []

        async def ask(holder: AgentId) -> None:
            try:
                answers.append(await self._heads.head(holder, self._kademlia.agent, asks, self._session))
            except NetworkError as error:
                log.debug("%s was not asked about the head: %s", holder.hex()[:8], error)

        async with trio.open_nursery() as nursery:
            for holder in holders:
                nursery.start_soon(ask, holder)
        return answers

    def _stands(self, asked: int) -> bool:
        """Whether an answer of so few holders has stood for long enough for others to turn up."""
        now = self._clock.monotonic()
        if self._stands_since is None:
            self._stands_since = now
        return asked >= min(ENOUGH, self._replication) or now - self._stands_since >= STANDS_S

    # -- following --

    async def _follow(self, finding: Finding) -> bool:
        if not isinstance(finding, Confirmed):
            self._stands_since = None
        frozen = self._own.frozen is not None
        match finding:
            case Behind(seq=seq, holders=holders):
                missing = f"holders of its activity have it up to seq {seq}"
                if self._forced:
                    self._say(f"{missing}, and it was let go on by --force: it forks, if it has not yet")
                    return False
                if not frozen:
                    self._freeze("the chain is longer than it is here")
                self._say(f"{missing}, which is being fetched")
                return await self._fetch(holders)
            case Forked(seq=seq):
                self._fork(seq)
            case Twin(seconds=seconds):
                self._say(f"another node with its key was heard of {seconds:.0f} s ago: stop one of them")
                if not frozen and not self._forced:
                    self._freeze("another node writes this chain")
            case Confirmed(holders=holders):
                self._say(f"{len(holders)} holders of its activity know nothing beyond its head")
            case Unknown(need=0):
                self._say("there is nobody to ask whether it is whole")
            case Unknown(have=have) if not frozen:
                self._say(f"it goes on here; {have} holders of its activity had its newest record when asked")
            case Unknown(have=have, need=need):
                self._say(f"{have} of at least {need} holders of its activity confirm its head")
        return False

    async def _fetch(self, holders: Sequence[AgentId]) -> bool:
        """Fetch a page of what is missing; whether anything came."""
        try:
            records = await self._history.page(self._own.newest(), holders)
        except ChainForkedError as error:
            self._fork(error.seq)
            return False
        if records:
            try:
                with trio.CancelScope(shield=True):  # what is in the chain has to be in the index
                    await self._own.extend(records)
                    await self._took(records)
            except ChainBrokenError as error:  # what was being signed when it was frozen came first
                log.warning("the chain has grown here meanwhile: %s", error)
                return False
            self.refetched += len(records)
        return bool(records)

    async def _go_on(self, finding: Confirmed) -> None:
        self._stands_since = None
        self._why = None
        self._own.frozen = None
        self._started = self._clock.monotonic() - WINDOW_S  # the lease was given, not taken
        self._say(f"{len(finding.holders)} holders of its activity know nothing beyond its head")
        log.warning("the chain goes on: %s", self._progress)
        await self._confirmed()

    def _fork(self, seq: int) -> None:
        self.forked = True
        self._say(f"it has forked: there are two records of seq {seq} or just after it, both signed")
        if not self._forced:
            self._freeze("another copy of this home has written, so the chain has two branches")

    def _freeze(self, why: str) -> None:
        if self._why is None or self._own.frozen is None:
            log.warning("nothing is added to the chain: %s", why)
        self._why = why
        self._own.frozen = f"{why}; {self._progress}; {FORCE}"

    def _say(self, progress: str) -> None:
        self._progress = progress
        if self._own.frozen is not None and self._why is not None:
            self._own.frozen = f"{self._why}; {progress}; {FORCE}"
