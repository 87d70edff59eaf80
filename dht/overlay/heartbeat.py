"""Heartbeats: nodes that ask each other say how they are doing, every few seconds while they do.

One small message each way (`peer.health`) to those whom this node has asked lately, and to one other member
of its table in each round, so that of those not asked something is known, too. Who is never asked is never
told: in a large network that is nearly everybody. What comes back is a hint (`dht.overlay.health`).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection

import trio

from chain.identity import AgentId
from dht.errors import FrameError, NetworkError, RefusalCode, RequestRefused
from dht.network import Network
from dht.overlay.health import HEALTH, Health, HealthBook, decode_health, encode_health
from dht.overlay.kademlia import Kademlia
from dht.overlay.requests import AT_ONCE
from dht.ports import Clock, Random

EVERY_S = 15.0
"""From one round to the next."""
LINGER_S = 60.0
"""Who was asked so long ago is told no more."""
MAX_TOLD = 64
"""Peers told in one round: those asked last."""
MUTE_S = 600.0
"""An older release, which does not know the method, is tried again after so long."""

log = logging.getLogger(f"roseforest.{__name__}")


async def _nobody() -> Collection[AgentId]:
    return ()


class Heartbeats:
    """Tells and hears; `book` is what is known. `own` says how this node is doing."""

    def __init__(
        self, network: Network, kademlia: Kademlia, clock: Clock, rng: Random, own: Callable[[], Health]
    ) -> None:
        self._kademlia = kademlia
        self._clock = clock
        self._rng = rng.choice
        self._own = own
        self._asked: OrderedDict[AgentId, float] = OrderedDict()
        self._mute: dict[AgentId, float] = {}
        self.book = HealthBook()
        self.also: Callable[[], Awaitable[Collection[AgentId]]] = _nobody
        """Whom else to tell in a round: those who might help with what is asked for too much here."""
        self.told = 0
        """Heartbeats sent so far."""
        network.register(HEALTH, kademlia.members_only(self._serve))

    def used(self, agent: AgentId) -> None:
        """`agent` is being asked something."""
        self._asked[agent] = self._clock.monotonic()
        self._asked.move_to_end(agent)
        if len(self._asked) > MAX_TOLD:
            self._asked.popitem(last=False)

    def cost(self, agent: AgentId, draw: float) -> float:
        """What asking `agent` costs, see `HealthBook.cost`; 0 for this node itself."""
        if agent == self._kademlia.agent:
            return 0.0
        return self.book.cost(agent, self._kademlia.latency(agent), draw, self._clock.monotonic())

    async def run(self) -> None:
        """Beat for ever."""
        while True:
            await trio.sleep(EVERY_S * self._rng.uniform(0.8, 1.2))
            await self.round()

    async def round(self) -> None:
        """Tell those who are due, and hear them."""
        now = self._clock.monotonic()
        self._mute = {agent: until for agent, until in self._mute.items() if until > now}
        for agent in [agent for agent, at in self._asked.items() if now - at > LINGER_S]:
            del self._asked[agent]
        wanted = dict.fromkeys((*self._asked, *await self.also()))
        due = [agent for agent in wanted if self._may_tell(agent)]
        others = [one.agent for one in self._kademlia.contacts() if one.agent not in wanted]
        others = [agent for agent in others if self._may_tell(agent)]
        if others:
            due.append(self._rng.choice(others))
        slots = trio.Semaphore(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for agent in due:
                await slots.acquire()
                nursery.start_soon(self._tell, agent, slots)

    def _may_tell(self, agent: AgentId) -> bool:
        return agent not in self._mute and not self._kademlia.is_suspect(agent)

    async def _tell(self, agent: AgentId, slots: trio.Semaphore) -> None:
        self.told += 1
        try:
            reply = await self._kademlia.request(agent, HEALTH, encode_health(self._own()))
            self.book.hear(agent, decode_health(reply), self._clock.monotonic())
        except NetworkError as error:
            log.debug("%s does not say how it is: %s", agent.hex()[:8], error)
            if isinstance(error, FrameError):
                self._kademlia.report(agent)
            if isinstance(error, RequestRefused) and error.code == RefusalCode.UNKNOWN_METHOD:
                self._mute[agent] = self._clock.monotonic() + MUTE_S
        finally:
            slots.release()

    async def _serve(self, sender: AgentId, body: bytes) -> bytes:
        try:
            health = decode_health(body)
        except FrameError as error:
            raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
        self.book.hear(sender, health, self._clock.monotonic())
        return encode_health(self._own())
