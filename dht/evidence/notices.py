"""Notices: the few records that every node of a network holds, whatever else it holds or not.

Warrants and epochs decide what everybody shows and judges by, so they cannot wait to be looked for. Who first
sees one that is worth keeping tells a few peers at once (`notice.tell`), each of which tells others; and
every half minute each node compares what it has with a random peer, by the digest of one basis at which all
notices lie, and fetches what it lacks. Epidemic dissemination with anti-entropy (Demers et al., 1987): quick
by the one, sure by the other. A node that joins compares before it answers questions. What arrives is judged
like any record and kept as far as the ledger wants it (`validation.ledger`), so what hostile members can make
everybody hold is bounded.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio

from chain import canonical
from chain.cid import Cid
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import EPOCH
from chain.record import Record
from dht.errors import FrameError, NetworkError, RefusalCode, RequestRefused
from dht.network import MAX_BODY, Network
from dht.overlay.kademlia import Kademlia
from dht.overlay.reputation import Misdeed
from dht.ports import Random, RunBlocking
from dht.records.basis import notice_basis
from dht.records.bundle import Bundle, BundleError, Item, open_bundle
from dht.records.intake import Intake, Judged
from dht.records.methods import MAX_BLAME, MAX_CIDS, MAX_FETCH, RecordService
from dht.records.placement import NOTICES, Role
from dht.records.record_store import Held, HeldStore
from dht.records.replies import StoreStatus
from validation.ledger import Ledger

TELL = "notice.tell"
MAX_TOLD = 32
"""Notices in one telling."""
FANOUT = 6
"""Peers that a node tells of a notice that was new to it: enough to reach all but a few of thousands."""
COMPARE_S = 30.0
"""Seconds between comparisons with a random peer."""
COMPARE_FIRST_S = 2.0
"""After the start and whenever something waits for an epoch; then twice as long each time."""
TICK_S = 1.0
"""How often it looks whether there is something to fetch."""
MEET = 3
"""Peers that a node compares with before it takes part."""
MEET_S = 10.0
"""It waits no longer for that: peers that are slow or lie must not keep anybody out."""
MAX_LISTED = 100_000
"""Notices listed by one peer in one comparison."""
MAX_UNWANTED = 8192
"""Notices remembered as not worth keeping, so that they are not fetched from every peer again."""
PAGE = 500

log = logging.getLogger(f"roseforest.{__name__}")

OnChange = Callable[[Mapping[AgentId, int], Sequence[Record]], Awaitable[None]]


class Notices:
    """Holds, spreads and fetches the notices of one network.

    `on_change` is told, after the fact, for which agents the standing changed and from which seq on that
    matters, and of new notices.
    """

    def __init__(
        self,
        network: Network,
        kademlia: Kademlia,
        records: RecordService,
        store: HeldStore,
        intake: Intake,
        ledger: Ledger,
        network_id: Cid,
        run_blocking: RunBlocking,
        random: Random,
        on_change: OnChange,
    ) -> None:
        self._kademlia = kademlia
        self._records = records
        self._store = store
        self._intake = intake
        self._ledger = ledger
        self._basis = notice_basis(network_id)
        self._run_blocking = run_blocking
        self._rng = random.choice
        self._on_change = on_change
        self._unwanted: dict[Cid, None] = {}
        self._news: dict[Cid, AgentId | None] = {}
        """What is to be told to others, and who told us."""
        self._wake = trio.Event()
        self._turn = trio.Lock()
        self.told = 0
        """Notices told to peers so far."""
        network.register(TELL, kademlia.members_only(self._serve_tell, heavy=True))

    async def load(self) -> None:
        """Read what is held; before anything is asked of the ledger."""
        after: Cid | None = None
        found: list[Record] = []
        while page := await self._run_blocking(self._store.at_basis, self._basis, after, PAGE):
            found += page
            after = page[-1].cid
        for record in found:
            self._ledger.tell(record)

    async def take(self, records: Sequence[Record], source: AgentId | None = None) -> None:
        """Keep those of these valid records that are notices worth keeping, and tell others of them.

        Shielded from cancellation: what was kept is shown.
        """
        new = [
            one
            for one in records
            if one.header.kind in NOTICES and one.payload is not None and one.cid not in self._ledger
        ]
        if not new:
            return
        with trio.CancelScope(shield=True):
            async with self._turn:
                await self._keep(new, source)

    async def _keep(self, new: Sequence[Record], source: AgentId | None) -> None:
        kept: list[Record] = []
        dropped: list[Cid] = []
        moved: dict[AgentId, int] = {}
        for record in new:
            told = self._ledger.tell(record)
            dropped += told.dropped
            for agent, seq in told.moved.items():
                moved[agent] = min(seq, moved.get(agent, seq))
            if told.kept:
                kept.append(record)
                self._news[record.cid] = source
            else:
                self._unwanted[record.cid] = None
        if any(one.header.kind == EPOCH for one in kept):
            self._unwanted.clear()  # what a lifting makes worth keeping may be among them
        while len(self._unwanted) > MAX_UNWANTED:
            del self._unwanted[next(iter(self._unwanted))]
        kept = [record for record in kept if record.cid in self._ledger]
        if kept:
            await self._store.hold([Held(one, ((int(Role.NOTICE), self._basis),)) for one in kept])
        if dropped:
            await self._store.release(self._basis, dropped)
        if moved or kept:
            await self._on_change(moved, kept)
        self._wake.set()

    # -- with others --

    async def run(self) -> None:
        """Tell news and compare, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_news)
            pause = COMPARE_FIRST_S
            waited = 0.0
            while True:
                tick = TICK_S * self._rng.uniform(0.8, 1.2)
                await trio.sleep(tick)
                waited += tick
                if self._intake.epoch_missing:
                    pause = min(pause, COMPARE_FIRST_S)
                if waited >= pause:
                    self._intake.epoch_missing = False
                    waited, pause = 0.0, min(2 * pause, COMPARE_S)
                    await self._compare_with_some(1)

    async def meet(self) -> None:
        """Compare with a few peers, so that what this node answers and judges is what all know."""
        with trio.move_on_after(MEET_S):
            await self._compare_with_some(MEET)

    async def compare(self, agent: AgentId) -> None:
        """Fetch from one peer what it has and this node lacks."""
        try:
            await self._compare(agent)
        except NetworkError as error:
            log.info("comparing notices with %s failed: %s", agent.hex()[:8], error)
            if isinstance(error, FrameError):
                self._kademlia.report(agent)

    async def _compare_with_some(self, count: int) -> None:
        for agent in self._some(count, frozenset()):
            await self.compare(agent)

    def _some(self, count: int, but: frozenset[AgentId | None]) -> list[AgentId]:
        agents = [
            contact.agent
            for contact in self._kademlia.contacts()
            if not self._kademlia.is_suspect(contact.agent) and contact.agent not in but
        ]
        return self._rng.sample(agents, min(count, len(agents)))

    async def _compare(self, agent: AgentId) -> None:
        ((count, total),) = await self._records.digests(agent, [self._basis])
        if not count or (count, total) == self._store.digest_of(self._basis):
            return
        after: Cid | None = None
        for _ in range(MAX_LISTED // MAX_CIDS):
            theirs = await self._records.cids(agent, self._basis, after)
            if not theirs:
                return
            missing = [cid for cid in theirs if cid not in self._ledger and cid not in self._unwanted]
            while missing:
                bundle = await self._records.fetch(agent, missing[:MAX_FETCH])
                wanted = set(missing[:MAX_FETCH])
                items = tuple(i for i in bundle.items if isinstance(i, Item) and i.record.cid in wanted)
                if not items:
                    break  # it dropped them meanwhile, or never had them: another peer is next
                await self._admit(Bundle(bundle.openings, bundle.headers, items), agent)
                served = {item.record.cid for item in items}
                missing = [cid for cid in missing if cid not in served]
            after = theirs[-1]

    async def _admit(self, bundle: Bundle, agent: AgentId) -> list[Judged]:
        """Judge notices and take what holds; those that wait for an epoch are judged again after it."""
        outcome: dict[Cid, Judged] = {}
        items = bundle.items
        while items:
            part = Bundle(bundle.openings, bundle.headers, items)
            judged, companions = await self._run_blocking(self._judge, part)
            outcome.update(
                (item.record.cid, one)
                for item, one in zip(items, judged, strict=True)
                if isinstance(item, Item)
            )
            valid = [one.held.record for one in judged if one.held is not None]
            known = len(self._ledger.epochs)
            if valid:
                if companions:
                    await self._store.hold(companions)
                await self.take(valid, agent)
            items = tuple(
                item for item, one in zip(items, judged, strict=True) if one.status is StoreStatus.PENDING
            )
            if len(self._ledger.epochs) == known:
                break
        bad = sum(1 for one in outcome.values() if one.rule)
        if bad:
            self._kademlia.report(agent, Misdeed.INVALID_RECORD, min(bad, MAX_BLAME))
        return [
            outcome[item.record.cid] if isinstance(item, Item) else Judged(StoreStatus.INVALID, "malformed")
            for item in bundle.items
        ]

    def _judge(self, bundle: Bundle) -> tuple[list[Judged], list[Held]]:
        judged = self._intake.judge(bundle)
        return judged, self._intake.companions(bundle, judged)

    async def _tell_news(self) -> None:
        while True:
            self._wake = trio.Event()
            news, self._news = self._news, {}
            if news:
                found = await self._run_blocking(self._store.get_many, sorted(news))
                records = [one for one in found if one is not None and one.payload is not None]
                sources = frozenset(news.values()) if len(news) == 1 else frozenset()
                async with trio.open_nursery() as nursery:
                    for agent in self._some(FANOUT, sources):
                        nursery.start_soon(self._tell, agent, records)
            else:
                await self._wake.wait()

    async def _tell(self, agent: AgentId, records: Sequence[Record]) -> None:
        try:
            for start in range(0, len(records), MAX_TOLD):
                part = records[start : start + MAX_TOLD]
                value, sent = await self._run_blocking(self._records.bundle, part)
                await self._kademlia.request(agent, TELL, canonical.encode(value))
                self.told += sent
        except NetworkError as error:
            log.info("telling %s of notices failed: %s", agent.hex()[:8], error)

    async def _serve_tell(self, sender: AgentId, body: bytes) -> bytes:
        """Take a bundle of notices; the answer is empty: what is worth keeping is nobody else's business."""
        try:
            bundle = await self._run_blocking(_open, body)
        except FrameError as error:
            raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
        items = tuple(
            item
            for item in bundle.items
            if isinstance(item, Item)
            and item.record.header.kind in NOTICES
            and item.record.cid not in self._ledger
            and item.record.cid not in self._unwanted
        )
        if items:
            await self._admit(Bundle(bundle.openings, bundle.headers, items), sender)
        return b""


def _open(message: bytes) -> Bundle:
    try:
        bundle = open_bundle(canonical.decode(message, MAX_BODY))
    except (ChainError, BundleError) as error:
        raise FrameError(f"not a bundle of notices: {error}") from error
    if len(bundle.items) > MAX_TOLD:
        raise FrameError(f"{len(bundle.items)} notices at once, the limit is {MAX_TOLD}")
    return bundle
