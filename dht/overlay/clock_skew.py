"""Clock skew: by how much this node's clock differs from its peers'.

A record whose clock is more than 60 s ahead is parked by everybody else, so a wrong clock silently keeps an
author's records from being acknowledged. Nodes tell each other the time; each sample is judged by half of its
round trip (Cristian, 1989), and the median of them is believed: fewer than half of the peers asked, lying or
wrong, cannot move it beyond what some right one said. The clock is never set, its owner is told.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import trio

from chain import canonical
from chain.errors import ChainError
from chain.identity import AgentId
from dht.errors import NetworkError, RefusalCode, RequestRefused
from dht.network import Network
from dht.overlay.kademlia import Kademlia
from dht.overlay.reputation import Misdeed
from dht.ports import Clock

PEERS = 7
"""Peers asked at a time."""
MAX_ROUND_TRIP_US = 2_000_000
"""Samples that took longer say too little."""
MAX_WALL_US = 1 << 62
MAX_REPLY = 16
METHOD = "clock"
FIRST_S = 30.0
EVERY_S = 600.0
"""Seconds from one look at the clock to the next."""
WARN_US = 10_000_000

log = logging.getLogger(f"roseforest.{__name__}")


@dataclass(frozen=True, slots=True)
class Sample:
    """One peer's word: what its clock showed, between our sending and receiving, all in µs since 1970."""

    sent_us: int
    theirs_us: int
    received_us: int


@dataclass(frozen=True, slots=True)
class Skew:
    """By how much the peers' clocks are ahead of ours, in µs (negative: behind), and how many said so."""

    ahead_us: int
    peers: int


def skew_of(samples: Sequence[Sample]) -> Skew | None:
    """The median over the samples that were quick enough; None without any."""
    offsets = [
        sample.theirs_us - (sample.sent_us + sample.received_us) // 2
        for sample in samples
        if 0 <= sample.received_us - sample.sent_us <= MAX_ROUND_TRIP_US
    ]
    return Skew(round(median(offsets)), len(offsets)) if offsets else None


class ClockSkew:
    """Tells peers the time, and asks them."""

    def __init__(self, network: Network, kademlia: Kademlia, clock: Clock, rng: random.Random) -> None:
        self._kademlia = kademlia
        self._clock = clock
        self._rng = rng
        network.register(METHOD, kademlia.members_only(self._serve))

    async def run(self) -> None:
        """Compare the clock now and then, and warn when it is wrong; for ever."""
        await trio.sleep(FIRST_S)
        while True:
            skew = await self.measure()
            if skew is not None and abs(skew.ahead_us) > WARN_US:
                log.warning(
                    "this clock is %.1f s %s that of %d peers: set it, or records will be parked",
                    abs(skew.ahead_us) / 1e6,
                    "behind" if skew.ahead_us > 0 else "ahead of",
                    skew.peers,
                )
            await trio.sleep(EVERY_S)

    async def measure(self) -> Skew | None:
        """Ask up to `PEERS` of the peers in the table at once; None when none of them answers in time."""
        agents = [contact.agent for contact in self._kademlia.contacts()]
        usable = [agent for agent in agents if not self._kademlia.is_suspect(agent)]
        asked = self._rng.sample(usable, min(PEERS, len(usable)))
        samples: list[Sample] = []
        async with trio.open_nursery() as nursery:
            for agent in sorted(asked):
                nursery.start_soon(self._sample, agent, samples)
        return skew_of(samples)

    async def _sample(self, agent: AgentId, samples: list[Sample]) -> None:
        sent = self._clock.wall_us()
        try:
            reply = await self._kademlia.request(agent, METHOD, b"")
        except NetworkError:
            return
        received = self._clock.wall_us()
        try:
            theirs = canonical.decode(reply, MAX_REPLY)
        except ChainError:
            theirs = None
        if type(theirs) is not int or not 0 <= theirs <= MAX_WALL_US:
            self._kademlia.report(agent, Misdeed.BAD_ANSWER)
            return
        samples.append(Sample(sent, theirs, received))

    async def _serve(self, _sender: AgentId, body: bytes) -> bytes:
        if body:
            raise RequestRefused(RefusalCode.BAD_REQUEST, "clock takes no body")
        return canonical.encode(self._clock.wall_us())
