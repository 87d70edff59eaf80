"""Taking part: entering the network, staying known to it, and the background work of a member.

A founder has nobody to join. Everybody else enters through a bootstrap peer or any peer remembered from
before, and keeps trying with back-off, because a node that comes up before its peers must not need a person.
Once in, the node publishes its records, catches up on the shards it holds, and remembers whom it met.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio

from dht.overlay.kademlia import BootstrapError, Kademlia
from dht.ports import RunBlocking
from dht.repair.catch_up import CatchUp
from dht.repair.guests import Guests
from dht.repair.offers import Offers
from dht.repair.publisher import Publisher
from dht.repair.repairer import LEAVE_WAIT_S, Repairer
from dht.shards.decisions import Decisions
from node.errors import HomeError
from node.governance import Governance
from node.peer_memory import read_peers, write_peers
from node.supervision import Supervisor

RETRY_FIRST_S = 1.0
RETRY_MOST_S = 60.0
REMEMBER_EVERY_S = 60.0
WRITABLE_EVERY_S = 5.0
"""How often a holder looks whether it still can write."""

log = logging.getLogger(f"roseforest.{__name__}")


class Participation:
    """Runs the membership of one node.

    `memory` is the file of remembered peers, or None; `read_only` says why the databases take no writes.
    """

    def __init__(
        self,
        kademlia: Kademlia,
        publisher: Publisher,
        catch_up: CatchUp,
        repairer: Repairer,
        offers: Offers,
        guard: Callable[[], Awaitable[None]],
        challenge: Callable[[], Awaitable[None]],
        *,
        bootstrap: Sequence[str],
        stores: bool,
        memory: Path | None,
        read_only: Callable[[], str | None],
        run_blocking: RunBlocking,
        governance: Governance,
        decisions: Decisions,
        supervisor: Supervisor,
        beat: Callable[[], Awaitable[None]],
        guests: Guests,
    ) -> None:
        self._governance = governance
        self._decisions = decisions
        self._keep = supervisor.keep
        self._kademlia = kademlia
        self._publisher = publisher
        self._catch_up = catch_up
        self._repairer = repairer
        self._offers = offers
        self._guard = guard
        self._challenge = challenge
        self._beat = beat
        self._guests = guests
        self._bootstrap = tuple(bootstrap)
        self._stores = stores
        self._memory = memory
        self._read_only = read_only
        self._run_blocking = run_blocking
        self.joined = not self._bootstrap
        """Whether the node is part of its network: it has no bootstrap peers, or somebody let it in."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Enter, then work, until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._kademlia.run)
            task_status.started()
            nursery.start_soon(self._keep, self._remember)
            await self._enter()
            nursery.start_soon(self._keep, self._governance.spread)
            await self._governance.meet()
            await self._decisions.meet()
            self.joined = True
            nursery.start_soon(self._keep, self._guard)
            nursery.start_soon(self._keep, self._publisher.run)
            nursery.start_soon(self._keep, self._offers.run)
            nursery.start_soon(self._keep, self._wake_publisher)
            nursery.start_soon(self._keep, self._repairer.run)
            nursery.start_soon(self._keep, self._challenge)
            nursery.start_soon(self._keep, self._beat)
            if self._stores:
                nursery.start_soon(self._keep, self._resign_when_read_only)
                nursery.start_soon(self._keep, self._catch_up.run)
                nursery.start_soon(self._keep, self._guests.run)

    async def leave(self, within_s: float) -> int:
        """Hand over, within so many seconds, and say good-bye; returns the bases left short of a copy.

        What this agent wrote and nobody has yet is placed within the same time. A node that nobody else
        could take over from leaves at once.
        """
        others = any(not self._kademlia.is_suspect(contact.agent) for contact in self._kademlia.contacts())
        if not self.joined or not (others or self._kademlia.lost_lately(LEAVE_WAIT_S)):
            return 0
        wrote = self._publisher.pending
        with trio.move_on_after(within_s) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._repairer.hand_over)
                await self._publisher.drained()
                await self._offers.drained()
            if wrote:  # and this node itself may have been one of those who took it
                await self._repairer.hand_over()
        short = self._repairer.under_replicated
        if scope.cancelled_caught:
            log.warning(
                "%g s were not enough to hand everything over: %d bases stay short of a copy until others "
                "repair them, %d own records wait for the next start",
                within_s,
                short,
                self._publisher.pending,
            )
        await self._kademlia.leave()
        return short

    def write_memory(self) -> None:
        """Write down the addresses of the peers known now, unless there are none; blocking."""
        contacts = self._kademlia.contacts()
        if self._memory is None or not contacts:
            return
        try:
            write_peers(self._memory, [address for contact in contacts for address in contact.addresses])
        except HomeError as error:
            log.warning("the peers are not remembered: %s", error)

    async def _enter(self) -> None:
        """Return when the node is in, or when nobody but remembered peers was there to ask."""
        remembered = [] if self._memory is None else await self._run_blocking(read_peers, self._memory)
        addresses = list(dict.fromkeys([*self._bootstrap, *remembered]))
        wait = RETRY_FIRST_S
        while addresses:
            try:
                await self._kademlia.join(addresses)
                return
            except BootstrapError as error:
                level = logging.WARNING if self._bootstrap else logging.INFO
                log.log(level, "not joined yet, next try in %.0f s: %s", wait, error)
            if not self._bootstrap:
                return  # those of old may come back and find us: Kademlia goes on knocking
            with trio.move_on_after(wait):
                seen = self._kademlia.version
                while not self._kademlia.contacts():
                    seen = await self._kademlia.wait_changed(seen)
                return  # somebody came in through us
            wait = min(wait * 2, RETRY_MOST_S)

    async def _wake_publisher(self) -> None:
        seen, placement = self._kademlia.version, self._kademlia.placement
        while True:
            seen = await self._kademlia.wait_changed(seen)
            # that somebody did not answer once, or does again, matters only to what waits for him
            if self._publisher.waits or placement != self._kademlia.placement:
                placement = self._kademlia.placement
                self._publisher.wake()

    async def _resign_when_read_only(self) -> None:
        """Offer no capacity any more once nothing can be written, so that others hold what this node cannot.

        Else it would stay among the nearest of its bases, and no record there would reach its R copies.
        """
        while True:
            await trio.sleep(WRITABLE_EVERY_S)
            if self._read_only() is not None:
                self._kademlia.update_self(capacity=0)
                return

    async def _remember(self) -> None:
        """Keep the addresses of peers, so that a restart does not depend on the bootstrap peers.

        The first one is kept at once: a founder that is killed early has no other way back.
        """
        seen = self._kademlia.version
        while not self._kademlia.contacts():
            seen = await self._kademlia.wait_changed(seen)
        while True:
            await self._run_blocking(self.write_memory)
            await trio.sleep(REMEMBER_EVERY_S)
