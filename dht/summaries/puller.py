"""Pulling blocks from others' shards: the waiting part of `dht.summaries.shelf`.

Nothing is asked before somebody wants to know (`blocks`). From then on the blocks of all shards that are
wanted are fetched in the background, from as few holders as have them, and asked about again every
`REFRESH_S` seconds for as long as questions come. A question that finds copies older than `FRESH_S` waits up
to `WAIT_S` for what has changed, and goes on without the blocks that are still older than `STALE_S` then: no
question goes by what a holder said more than `STALE_S` ago.

Now and then another holder is asked than the one that gave a block: if both have the same rows it answers
with a digest, otherwise with its own block, which then counts unless it is much smaller; `on_other` is told
of both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

import trio

from chain.identity import AgentId
from dht.errors import FrameError, NetworkError
from dht.overlay.kademlia import Kademlia
from dht.overlay.reputation import Misdeed
from dht.ports import Clock, Random, RunBlocking
from dht.summaries.block import Block, Kind, SummaryError
from dht.summaries.messages import MAX_ITEMS, METHOD, Item, State, Told, decode_answer, encode_question
from dht.summaries.service import SummaryService
from dht.summaries.shelf import Copy, Shelf, cover, most_from_few
from sharding.tree import Prefix

REFRESH_S = 15.0
"""Copies are asked about again after so long, while questions come."""
LINGER_S = 60.0
"""After the last question they are for so long yet."""
WAIT_S = 0.25
"""Seconds that a question waits for what has changed in copies that are not fresh."""
AT_ONCE = 8
"""Holders asked at a time, and at most while a question waits: those that gave most of what is due."""
SLOW_FACTOR = 2.0
SLOW_LEAST_S = 0.1
"""A question waits for so many times what the slowest of them usually takes, this long at least."""
PER_SECOND = 10.0
"""Holders asked a second in the background, on average: those of a large network are asked less often."""
INLINE = 256
"""Shards that one question waits for."""
ROUNDS = 64
"""Questions to one holder in one go."""
PATIENCE_S = 10.0
"""For one answer: a holder may have to make hundreds of blocks first."""
HOLDER_S = 20.0
"""For all that one holder is asked in one go: who trickles its blocks holds nobody up for longer."""
TRIES = 3
"""Holders asked for one shard in one go."""
SMALLER = 0.9
"""A block with less than this part of another holder's rows, which may conceal some, does not replace it."""
OTHER = 8
"""One of so many turns goes to another holder than the one whose copies they are."""

log = logging.getLogger(f"roseforest.{__name__}")

OnOther = Callable[[Prefix, Copy, Copy], None]


class Puller:
    """Blocks of one kind, from others and from here."""

    def __init__(
        self,
        kademlia: Kademlia,
        service: SummaryService,
        kind: Kind,
        is_own: Callable[[Prefix], bool],
        replication: int,
        clock: Clock,
        rng: Random,
        run_blocking: RunBlocking,
        check: Callable[[Block], object] = len,
    ) -> None:
        """`is_own`: whether everything of a shard is here, so that nobody need be asked. `check` is
        given the rows that come, and raises `SummaryError` for some that nobody's can be.
        """
        self._check = check
        self._kademlia = kademlia
        self._service = service
        self._kind = kind
        self._is_own = is_own
        self._replication = replication
        self._clock = clock
        self._rng = rng.choice
        self._run_blocking = run_blocking
        self._wanted: tuple[Prefix, ...] = ()
        self._asked_at = float("-inf")
        self._wake = trio.Event()
        self._asking: set[Prefix] = set()
        self._to_make: set[Prefix] = set()
        self.shelf = Shelf(kind)
        self.on_other: OnOther = lambda shard, before, after: None
        self.on_whole: Callable[[AgentId, Sequence[Prefix]], None] = lambda holder, shards: None
        """Told of the shards of which a holder gave the whole block."""
        self.on_changed: Callable[[Prefix], None] = lambda shard: None
        """Told of a shard whose block is new here, or another than it was."""

    async def blocks(
        self, shards: Sequence[Prefix], every: Collection[Prefix], wait_s: float = WAIT_S
    ) -> dict[Prefix, Block]:
        """The blocks of those of `shards` that are known here, none confirmed longer than `STALE_S` ago.

        `every`: all shards that there are; copies of others are forgotten. Waits `wait_s` at most. This
        node's own are made in the background, and may be a little old: what lies here is looked through for
        every question.
        """
        self.shelf.keep_only(every)
        self._service.follow_layout()
        own = [shard for shard in shards if self._is_own(shard)]
        mine: dict[Prefix, Block] = {}
        for shard in own:
            block, current = self._service.present(self._kind, shard)
            if block is not None:
                mine[shard] = block
            if not current:
                self._to_make.add(shard)
        others = [shard for shard in shards if not self._is_own(shard)] if own else list(shards)
        now = self._clock.monotonic()
        due = self._few(
            [shard for shard in self.shelf.due(others, now) if shard not in self._asking][:INLINE]
        )
        self._wanted, self._asked_at = tuple(others), now
        if due:
            with trio.move_on_after(min(wait_s, WAIT_S, self._patience(due))) as scope:
                await self._pull(due, look_up=False)
            now = self._clock.monotonic()
            if scope.cancelled_caught and wait_s >= WAIT_S:
                # Who does not answer costs one question its patience, not each one.
                for shard in self.shelf.due(due, now):
                    copy = self.shelf.copy(shard)
                    if copy is not None:
                        self.shelf.failed(shard, copy.holder, now)
        found = self.shelf.blocks(others, now)
        if len(found) < len(others) or self._to_make:
            self._wake.set()
        return mine | found

    def _few(self, shards: Sequence[Prefix]) -> list[Prefix]:
        """Those of `shards` that few holders can confirm, what is in doubt first.

        In a network of hundreds one question would else ask dozens, and nearly always wait for a message that
        was lost.
        """
        copies = {shard: copy for shard in shards if (copy := self.shelf.copy(shard)) is not None}
        wanting = {shard for shard, copy in copies.items() if copy.wanting}
        few = most_from_few({shard: copy.holder for shard, copy in copies.items()}, wanting, AT_ONCE)
        return [shard for its in few.values() for shard in its]

    def _patience(self, shards: Sequence[Prefix]) -> float:
        """Seconds after which who gave these copies would usually have answered."""
        holders = {copy.holder for shard in shards if (copy := self.shelf.copy(shard)) is not None}
        usual = max(((self._kademlia.latency(one) or WAIT_S) for one in holders), default=WAIT_S)
        return max(SLOW_LEAST_S, SLOW_FACTOR * usual)

    async def run(self) -> None:
        """Fetch and refresh what is wanted, for ever."""
        while True:
            await self._wake.wait()
            while self._clock.monotonic() - self._asked_at < LINGER_S:
                self._wake = trio.Event()
                began = self._clock.monotonic()
                wanted = [shard for shard in self._wanted if shard not in self._asking]
                due = self.shelf.missing(wanted) + self.shelf.due(wanted, began, REFRESH_S / 2)
                await self._make()
                asked = await self._pull(due, look_up=True)
                pause = max(REFRESH_S, asked / PER_SECOND)
                with trio.move_on_after(pause):
                    await self._wake.wait()
                await trio.sleep(min(1.0, pause))
            self._wake = trio.Event()

    def report(self, holder: AgentId, error: NetworkError) -> None:
        """Hold an answer that is out of bounds against who sent it; to be silent or busy is no misdeed."""
        if isinstance(error, FrameError):
            self._kademlia.report(holder)

    def accuse(self, holder: AgentId, reason: str) -> None:
        """`holder` gave a block that is proven to be false: it is reported, and nothing of it stays."""
        log.warning("%s lies about what its shards hold: %s", holder.hex()[:8], reason)
        self._kademlia.report(holder, Misdeed.FALSE_SUMMARY)
        if self.shelf.accuse(holder, self._clock.monotonic()):
            self._wake.set()

    async def _make(self) -> None:
        """Make this node's own blocks that are wanted."""
        shards, self._to_make = sorted(self._to_make), set()
        for shard in shards:
            await self._run_blocking(self._service.block, self._kind, shard)

    async def _pull(self, shards: Sequence[Prefix], look_up: bool) -> int:
        """Ask about these shards; how many holders were asked.

        `look_up`: their holders may be looked up; otherwise only who gave a copy is asked.
        """
        shards = left = list(dict.fromkeys(shards))
        asked = 0
        try:
            for _ in range(TRIES):
                self._asking.update(left)
                asks = cover(await self._holders(left, look_up))
                if not asks:
                    break
                asked += len(asks)
                failed: list[Prefix] = []
                slots = trio.Semaphore(AT_ONCE)
                async with trio.open_nursery() as nursery:
                    for holder, its in asks.items():
                        await slots.acquire()
                        nursery.start_soon(self._with, holder, its, failed, slots)
                left = failed
                if not look_up:
                    break
        finally:
            self._asking.difference_update(shards)
        return asked

    async def _holders(self, shards: Sequence[Prefix], look_up: bool) -> dict[Prefix, list[AgentId]]:
        now = self._clock.monotonic()
        other = look_up and self._rng.randrange(OTHER) == 0
        found: dict[Prefix, list[AgentId]] = {}
        for shard in shards:
            copy = self.shelf.copy(shard)
            if copy is not None and not other and self.shelf.may_ask(shard, copy.holder, now):
                found[shard] = [copy.holder]
                continue
            if not look_up:
                continue
            contacts = self._kademlia.known_holders(shard.basis(), self._replication)
            if contacts is None:
                contacts = await self._kademlia.holders(shard.basis(), self._replication)
            agents = [one.agent for one in contacts if one.agent != self._kademlia.agent]
            able = [one for one in agents if self.shelf.may_ask(shard, one, now)]
            if copy is not None and len(able) > 1:
                able = [one for one in able if one != copy.holder]
            found[shard] = able
        return found

    async def _with(
        self, holder: AgentId, shards: Sequence[Prefix], failed: list[Prefix], slots: trio.Semaphore
    ) -> None:
        """Ask one holder until it has told everything; what it has not goes to `failed`."""
        left = list(shards)
        whole: list[Prefix] = []
        try:
            with trio.move_on_after(HOLDER_S):
                for _ in range(ROUNDS):
                    if not left:
                        break
                    left = await self._ask(holder, left, failed, whole)
        except NetworkError as error:
            log.info("%s gives no blocks: %s", holder.hex()[:8], error)
            self.report(holder, error)
        finally:
            slots.release()
        now = self._clock.monotonic()
        for shard in left:
            self.shelf.failed(shard, holder, now)
        failed.extend(left)
        self._asking.difference_update(set(shards).difference(failed))
        if whole:
            self.on_whole(holder, whole)

    def _read(self, reply: bytes, items: Sequence[Item]) -> list[Told]:
        """What a holder says; raises `FrameError` for it or rows in it that cannot be. Blocking."""
        told = decode_answer(reply, self._kind, items)
        for one in told:
            added = () if one.delta is None else one.delta.added.items()
            rows = one.rows + b"".join(key + body for key, body in added)
            try:
                self._check(Block(self._kind, rows))
            except SummaryError as error:
                raise FrameError(f"{METHOD} reply is malformed: {error}") from error
        return told

    async def _ask(
        self, holder: AgentId, shards: Sequence[Prefix], failed: list[Prefix], whole: list[Prefix]
    ) -> list[Prefix]:
        """One question about the first of `shards`; what is left to ask of this holder."""
        now = shards[:MAX_ITEMS]
        items = [self.shelf.item(shard, holder) for shard in now]
        self.shelf.counts.asked += 1
        reply = await self._kademlia.request(
            holder, METHOD, encode_question(self._kind, items), most=PATIENCE_S
        )
        told = await self._run_blocking(self._read, reply, items)
        moment = self._clock.monotonic()
        left: list[Prefix] = []
        moved = False
        for shard, item, one in zip(now, items, told, strict=True):
            if self.shelf.item(shard, holder) != item:
                # Its copy went meanwhile, for want of room or a lie: an answer about it is nobody's fault.
                failed.append(shard)
                moved = True
                continue
            before = self.shelf.copy(shard)
            try:
                more = self.shelf.heard(shard, holder, one, moment)
            except SummaryError as error:
                self._kademlia.report(holder)
                self.shelf.failed(shard, holder, moment)
                failed.append(shard)
                log.info("%s: %s", holder.hex()[:8], error)
                continue
            moved |= one.state is not State.LATER
            if more:
                left.append(shard)
                continue
            if one.state is State.ABSENT:
                failed.append(shard)
                continue
            after = self.shelf.copy(shard)
            if after is not None and (before is None or after.version.digest != before.version.digest):
                self.on_changed(shard)
            if one.state is State.WHOLE and after is not None:
                whole.append(shard)
                if before is not None and before.holder != holder:
                    self.on_other(shard, before, after)
                    if len(after.block) < SMALLER * len(before.block):
                        self.shelf.restore(shard, before)
        if not moved:
            raise FrameError("it puts everything off")
        return left + list(shards[MAX_ITEMS:])
