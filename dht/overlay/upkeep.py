"""Upkeep: what a node does unasked to keep its place in the network and its table true.

Suspects are probed when their back-off ends, and nobody else asks them until they answer; contacts that have
been silent for long are pinged, one at a time; the table is refreshed by lookups; our address record is
shown again whenever it was signed anew; and a node that finds itself alone knocks at the doors it knows.
Traffic is a few small messages a minute, and every interval varies a little so that nodes started together
do not act together.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence

import trio

from chain.identity import AgentId
from dht.errors import NetworkError
from dht.network import Network, PeerDown
from dht.overlay.contact import Contact
from dht.overlay.membership import Membership, short
from dht.overlay.peer_messages import EMPTY, PING
from dht.overlay.requests import Requests, each
from dht.overlay.routing_table import K
from dht.ports import Clock

log = logging.getLogger(f"roseforest.{__name__}")

TICK = 5.0
"""Seconds between looks at what is due; each pings at most one silent contact."""
SILENT_AFTER = 60.0
"""A contact that has shown no life for so many seconds is pinged."""
REFRESH_FIRST = 5.0
"""Seconds from entering to the first refresh; then twice as long each time. A node that enters while others
do learns of them so, also when it stores nothing and they never hear of it."""
REFRESH_SMALL = 60.0
"""Seconds between refreshes while the table holds the whole network: one lookup of our own position."""
REFRESH_LARGE = 600.0
"""Seconds between refreshes in a larger network; a neighbour is asked for neighbours as often as in a small
one, and as soon after entering."""
REJOIN_EVERY = 30.0
"""Seconds between attempts to enter again while nobody we know answers."""
MAX_DOORS = 32
"""Addresses of former contacts tried then besides the bootstrap addresses."""
MAX_PROBES = 8
"""Probes under way at a time."""
PROBES_ALONE = 2
"""While more than half of those in the table are suspects: then it is more likely this node, or its line,
that is late, and what it asks of all the others makes it later still."""
PROBE_CLOSED_BELOW = 64
"""With fewer connections than this a closed one is taken for a sign of death and probed at once; with more,
either end is likely to be closing idle ones, and probing would open them again."""
JITTER = 0.15
"""Share by which every interval varies."""


class Upkeep:
    """The tasks behind `Kademlia.run`."""

    def __init__(
        self,
        members: Membership,
        requests: Requests,
        network: Network,
        clock: Clock,
        rng: random.Random,
        *,
        enter: Callable[[Sequence[str]], Awaitable[None]],
        refresh: Callable[[bool], Awaitable[None]],
        meet: Callable[[], Awaitable[None]],
    ) -> None:
        self._members = members
        self._requests = requests
        self._liveness = members.liveness
        self._network = network
        self._clock = clock
        self._rng = rng
        self._enter = enter
        self._refresh = refresh
        self._meet = meet
        self._probing: set[AgentId] = set()
        self._announced: Contact | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; started once it would see every closed connection."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._watch_connections, nursery)
            nursery.start_soon(self._probe_suspects, nursery)
            nursery.start_soon(self._tick)
            task_status.started()

    async def _watch_connections(
        self, nursery: trio.Nursery, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with self._network.events() as events:
            task_status.started()
            async for event in events:
                if not isinstance(event, PeerDown):
                    self._members.sign_of_life(event.peer, anew=True)
                    continue
                self._requests.forget_introduction(event.peer)
                contact = self._members.table.get(event.peer)
                few = len(self._network.connected()) < PROBE_CLOSED_BELOW
                if contact is not None and few and self._members.usable(contact):
                    self._start_probe(nursery, event.peer)

    async def _probe_suspects(self, nursery: trio.Nursery) -> None:
        while True:
            alarm = self._members.alarm = trio.Event()
            now, pause = self._clock.monotonic(), math.inf
            for agent in self._liveness.suspects():
                if agent not in self._members.table or agent in self._probing:
                    continue
                wait = self._liveness.backoff(agent, now)
                if wait > 0:
                    pause = min(pause, wait)
                else:
                    self._start_probe(nursery, agent)
            with trio.move_on_after(pause):
                await alarm.wait()

    def _start_probe(self, nursery: trio.Nursery, agent: AgentId) -> None:
        if agent not in self._probing and len(self._probing) < self._probes():
            self._probing.add(agent)
            nursery.start_soon(self._probe, agent)

    def _probes(self) -> int:
        silent = sum(agent in self._members.table for agent in self._liveness.suspects())
        return PROBES_ALONE if 2 * silent > len(self._members.table) else MAX_PROBES

    async def _probe(self, agent: AgentId) -> None:
        """Ask one contact whether it is there; an end of the probe lets the next one start."""
        try:
            await self._ask_alive(agent)
            if self._liveness.is_suspect(agent):
                now = self._clock.monotonic()
                if self._liveness.backoff(agent, now) == 0:
                    self._liveness.unreachable(agent, now, now)  # refused or unclear: no reason to hurry
                    self._members.gone(agent)
                heir = self._members.evict(agent)
                if heir is not None:
                    await self._ask_alive(heir.agent)
        finally:
            self._probing.discard(agent)
            self._members.alarm.set()

    async def _ask_alive(self, agent: AgentId) -> None:
        self._members.counters.probes += 1
        try:
            # an exchange where we may be unknown, else the smaller ping
            await self._requests.introduce(agent)
            await self._requests.call(agent, PING, EMPTY)
        except NetworkError as error:
            log.debug("probe of %s: %s", short(agent), error)
            self._requests.forget_introduction(agent)

    async def _tick(self) -> None:
        refreshed = widened = entered = met = self._clock.monotonic()
        pause = REFRESH_FIRST
        while True:
            tick = self._vary(TICK)
            due = self._clock.monotonic() + tick
            await trio.sleep(tick)
            now = self._clock.monotonic()
            self._liveness.lagged(now - due)
            self._members.expire()
            await self._probe_silent(now)
            await self._announce()
            small = len(self._members.table) < K
            if now >= refreshed + self._vary(pause if small else REFRESH_LARGE):
                refreshed = met = now
                pause = min(2 * pause, REFRESH_SMALL)
                widely = now >= widened + REFRESH_LARGE / 2
                widened = now if widely else widened
                await self._refresh(widely)
            elif not small and now >= met + self._vary(pause):
                met, pause = now, min(2 * pause, REFRESH_SMALL)
                await self._meet()
            if now >= entered + self._vary(REJOIN_EVERY) and not self._members.contacts(self._members.usable):
                entered = now
                await self._enter_again()

    async def _probe_silent(self, now: float) -> None:
        silent = [
            (self._liveness.heard_at(contact.agent), contact.agent)
            for contact in self._members.table
            if self._members.usable(contact)
        ]
        heard_at, agent = min(silent, default=(math.inf, b""))
        if heard_at < now - SILENT_AFTER and agent not in self._probing:
            await self._ask_alive(agent)

    async def _announce(self) -> None:
        """Show our address record, if it was signed anew since the last time, to those in the table who do
        not have it."""
        own = self._members.own()
        if own is self._announced:
            return
        await each(
            self._members.contacts(
                lambda one: self._members.usable(one) and not self._requests.has_shown(one.agent, own)
            ),
            self._show,
        )
        self._announced = own

    async def _show(self, contact: Contact) -> None:
        self._members.counters.announcements += 1
        try:
            await self._requests.exchange(contact.agent)
        except NetworkError as error:
            log.debug("announcing to %s: %s", short(contact.agent), error)

    async def _enter_again(self) -> None:
        """Nobody in the table answers: knock where we came in, and at the doors of former contacts."""
        former = [
            address
            for contact in reversed(list(self._members.book))
            if contact.stores and contact.agent != self._network.local
            for address in contact.addresses[:1]
        ]
        try:
            await self._enter(former[:MAX_DOORS])
        except NetworkError as error:
            log.info("still alone: %.200s", error)
            return
        await self._refresh(True)

    def _vary(self, seconds: float) -> float:
        return seconds * (1 + self._rng.uniform(-JITTER, JITTER))
