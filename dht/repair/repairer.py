"""The repairer: looks in time whether every basis held here lies at its R nearest nodes (`dht.repair.looks`).

A look follows every change of membership once that has settled, repeats while something is to be done, and
once in `SWEEP_S` compares all again.

It pushes, and `dht.repair.catch_up` pulls: who lacks the copies of a subject cannot know that there is one,
while a holder of a shard has to know whether it is complete before it answers for it. A node that leaves in
order hands over what would be short of a copy without it, that of which nobody else is known to have one
first.
"""

from __future__ import annotations

import logging
import math

import trio

from chain.identity import AgentId
from dht.overlay.kademlia import Kademlia
from dht.ports import Random
from dht.repair.comparison import Comparisons
from dht.repair.looks import Looks
from dht.repair.transfers import Transfers

START_S = 15.0
"""Who comes, or comes back, is first brought what it lacks: else all would list to each other what is new."""
SETTLE_S = 2.0
"""After a change of membership: whoever is only slow is back by then, and catching up has begun."""
SETTLE_MOST_S = 10.0
"""While one node after the other comes, and none goes, a look waits up to so long for the last of them: no
copy is lost meanwhile, and each of them changes what the one before it should get."""
QUIET_S = 2.0
"""Records that come with less between them are a burst: a look amid it would find everything unsettled."""
SOON_S = 5.0
"""From one look to the next while something changes; then twice as long each time."""
INTERVAL_S = 60.0
"""At most so long; a look at which nothing is new sends nothing."""
SWEEP_S = 600.0
"""So often every basis is compared although nothing seems to have changed."""
LEAVE_PAUSE_S = 0.25
LEAVE_WAIT_S = 5.0
"""Who showed life so short a time ago and is silent when this node leaves is waited for: a pause of the line
must not cost what only this node has."""
LEAVE_AGAIN_S = 1.0
"""From one look to the next while nothing but that is waited for."""

log = logging.getLogger(f"roseforest.{__name__}")


class Repairer:
    """Decides when to look, and says what came of it."""

    def __init__(
        self,
        looks: Looks,
        kademlia: Kademlia,
        transfers: Transfers,
        comparisons: Comparisons,
        random: Random,
    ) -> None:
        self._looks = looks
        self._kademlia = kademlia
        self._transfers = transfers
        self._comparisons = comparisons
        self._rng = random.choice
        self._emptied = trio.Event()
        self._stored_at = -math.inf

    @property
    def looks(self) -> int:
        """Times that it went through all that is held."""
        return self._looks.count

    @property
    def sent(self) -> int:
        """Records sent to holders that lacked them, so far."""
        return self._looks.sent

    @property
    def dropped(self) -> int:
        """Bases dropped so far."""
        return self._looks.dropped

    @property
    def repairing(self) -> int:
        """Bases of which copies are being sent now."""
        return self._looks.repairing

    @property
    def under_replicated(self) -> int:
        """Bases held here that have fewer copies at their R nearest nodes than they should, as last seen."""
        return self._looks.short

    @property
    def exchanges(self) -> int:
        """Comparisons by ranges with other holders, those of catching up included, so far."""
        return self._comparisons.exchanges

    @property
    def leaving(self) -> bool:
        """Whether this node has begun to leave: it takes nothing new and vouches for nothing."""
        return self._looks.leaving

    async def run(self) -> None:
        """Look and repair for ever."""
        pause, swept = SOON_S, trio.current_time()
        await trio.sleep(START_S)
        while True:
            seen, lost, sent = self._kademlia.placement, self._kademlia.losses, self.sent
            everything = trio.current_time() >= swept + SWEEP_S
            if everything:
                swept = trio.current_time()
            await self.look(everything)
            async with trio.open_nursery() as nursery:
                nursery.cancel_scope.deadline = trio.current_time() + pause * self._rng.uniform(0.8, 1.2)
                nursery.start_soon(self._until_emptied, nursery.cancel_scope)
                await self._kademlia.wait_moved(seen)
                await self._until_settled(lost)
                nursery.cancel_scope.cancel()
            busy = self._kademlia.placement != seen or self.sent != sent or self._emptied.is_set()
            if not busy:
                await self._until_quiet(seen)
            self._emptied = trio.Event()
            pause = SOON_S if busy else min(2 * pause, INTERVAL_S)

    async def _until_settled(self, lost: int) -> None:
        """`SETTLE_S` after a change; while nodes come, and none has gone since there were `lost`, longer."""
        with trio.move_on_after(SETTLE_MOST_S):
            while True:
                placement = self._kademlia.placement
                await trio.sleep(SETTLE_S)
                if self._kademlia.placement == placement or self._kademlia.losses != lost:
                    return

    def note_stored(self) -> None:
        """Records were stored here."""
        self._stored_at = trio.current_time()

    async def _until_quiet(self, seen: int) -> None:
        """Nothing was to be done, and what comes now is on its way to others too: wait for the last of it.

        `INTERVAL_S` at most, and no longer when a peer goes, comes, or has lost what it held.
        """
        until = trio.current_time() + INTERVAL_S
        while (quiet := min(self._stored_at + QUIET_S, until)) > trio.current_time():
            if self._kademlia.placement != seen or self._emptied.is_set():
                return
            with trio.move_on_at(min(quiet, trio.current_time() + QUIET_S)):
                await self._kademlia.wait_moved(seen)

    def emptied(self, agent: AgentId) -> None:
        """A holder has lost what it held: nothing that it should have is taken for settled. O(bases)."""
        self._looks.distrust(agent)
        self._emptied.set()

    async def _until_emptied(self, pause: trio.CancelScope) -> None:
        await self._emptied.wait()
        await trio.sleep(SETTLE_S)
        pause.cancel()

    async def hand_over(self) -> int:
        """Bring what this node holds to those who hold it once it is gone; returns how much is left undone.

        What nobody else is known to hold goes first. Ends when nothing is left that somebody can be given;
        may be cancelled at any time. From its beginning on this node counts itself out, for good.
        """
        self._looks.leaving = True
        self._transfers.hurry()
        alone = True
        while True:
            before = (self._kademlia.placement, self.sent, len(self._looks.refusing))
            await self.look(True, alone=alone)
            short = self.under_replicated
            log.info("leaving: %d records handed over, %d bases short of a copy", self.sent, short)
            stuck = before == (self._kademlia.placement, self.sent, len(self._looks.refusing))
            done = not alone and (not short or stuck)
            if done and not self._kademlia.lost_lately(LEAVE_WAIT_S):
                return short
            alone = False
            await trio.sleep(LEAVE_AGAIN_S if done else LEAVE_PAUSE_S)

    async def look(self, everything: bool, *, alone: bool = False) -> None:
        """Look once, see `Looks.look`."""
        await self._looks.look(everything, alone=alone)
