"""Asking one peer: introduction, adaptive timeout, and what the outcome says about the peer.

Every request of this node passes through here, so that all of them together learn what one of them learnt: a
peer that failed is suspected before the next request is sent, those that wait for it are told, and one that
answers is alive for everybody. A
peer that may not know us is shown our address record first, as it answers members only.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from chain.identity import AgentId
from dht.errors import (
    AddressError,
    FrameError,
    NetworkError,
    PeerSilent,
    PeerUnreachable,
    RefusalCode,
    RequestRefused,
    RequestTimeout,
)
from dht.network import Network
from dht.overlay.contact import Contact, ContactError, StaleContactError
from dht.overlay.contact_book import MAX_CONTACTS
from dht.overlay.liveness import TIMEOUT_CAP
from dht.overlay.membership import Membership, short
from dht.overlay.peer_messages import EXCHANGE, decode_exchange, encode_exchange
from dht.ports import Clock

log = logging.getLogger(f"roseforest.{__name__}")

AT_ONCE = 8
"""Requests under way at a time when many peers are told the same."""
REINTRODUCE_AFTER = 10.0
"""Seconds before a peer that forbids us something is shown our address record once more."""
STALL = 0.5
"""A timeout noticed this much too late, in seconds, is our own machine's pause and blames nobody."""


@dataclass(frozen=True, slots=True)
class _Met:
    """When a peer was shown our record, or showed that it knows us, and of when that record was."""

    at: float
    issued_us: int


@dataclass(slots=True)
class _Introduction:
    done: trio.Event
    failure: str | None = None


class Requests:
    """All that this node asks of others, with `members` told of every outcome."""

    def __init__(self, network: Network, members: Membership, clock: Clock) -> None:
        self._network = network
        self._members = members
        self._liveness = members.liveness
        self._clock = clock
        self._introduced: dict[AgentId, _Met] = {}
        self._introductions: dict[AgentId, _Introduction] = {}
        self._open: dict[AgentId, set[trio.CancelScope]] = {}
        """The questions that wait for each peer."""

    async def request(
        self,
        agent: AgentId,
        method: str,
        body: bytes,
        timeout: float | None = None,
        *,
        most: float = TIMEOUT_CAP,
        suspected: bool = False,
    ) -> bytes:
        """Ask a peer, after introducing ourselves if it may not know us.

        `timeout` in seconds; without it the wait is adaptive and at most `most`. Raises `PeerSilent` (at once
        for a suspect whose back-off is not over), `PeerUnreachable` (for a peer that is banned, too),
        `RequestTimeout`, `RequestRefused`; whatever happens is counted for or against the peer. `suspected`:
        a suspect that may only have lost a message is asked at once.
        """
        if agent == self._network.local:
            raise ValueError("a node does not ask itself over the network; call the handler")
        self.refuse_unusable(agent, suspected=suspected)
        await self.introduce(agent)
        try:
            return await self.call(agent, method, body, timeout, most=most)
        except RequestRefused as refusal:
            met = self._introduced.get(agent, UNMET)
            if refusal.code != RefusalCode.FORBIDDEN or self._clock.monotonic() - met.at < REINTRODUCE_AFTER:
                raise
        # it has lost our record, by a restart or for want of space: show it again, once
        self.forget_introduction(agent)
        await self.introduce(agent)
        return await self.call(agent, method, body, timeout, most=most)

    async def introduce(self, agent: AgentId) -> None:
        """Exchange address records unless that was done; tasks that want it at once share one exchange.

        Raises what `call` raises, and `PeerUnreachable` when the peer shows no acceptable record.
        """
        while agent not in self._introduced:
            under_way = self._introductions.get(agent)
            if under_way is not None:
                await under_way.done.wait()
                if under_way.failure is not None:
                    raise PeerUnreachable(under_way.failure)
                continue
            mine = self._introductions[agent] = _Introduction(trio.Event())
            try:
                await self.exchange(agent)
            except NetworkError as error:
                mine.failure = str(error)
                raise
            finally:
                del self._introductions[agent]
                mine.done.set()

    def forget_introduction(self, agent: AgentId) -> None:
        """`agent` may not know us any more."""
        self._introduced.pop(agent, None)

    async def exchange(self, agent: AgentId) -> None:
        """Show our address record to `agent` and see its own. Raises as `introduce`."""
        self.learn_addresses(agent)
        own = self._members.own()
        reply = await self.call(agent, EXCHANGE, encode_exchange(own.data))
        try:
            contact = self._members.book.learn(decode_exchange(reply), self._clock.wall_us())
        except (FrameError, ContactError) as error:
            if not isinstance(error, StaleContactError):  # one of the two clocks is wrong, maybe ours
                self._members.blame(agent)
            raise PeerUnreachable(
                f"peer {short(agent)} shows no acceptable address record: {error}"
            ) from error
        if contact.agent != agent:
            self._members.blame(agent)
            raise PeerUnreachable(f"peer {short(agent)} shows the address record of another agent")
        if self._members.is_out(contact):
            raise PeerUnreachable(f"peer {short(agent)} was put out of the network by its stewards")
        self.met(agent, own)
        self._members.welcome(contact)

    async def call(
        self,
        agent: AgentId,
        method: str,
        body: bytes,
        timeout: float | None = None,
        *,
        most: float = TIMEOUT_CAP,
    ) -> bytes:
        """One request without introduction, and what it says about the peer's liveness.

        When another request finds that the peer is silent, a question that waits for it fails too, at once,
        as `PeerSilent`: the wait is paid once. Work (`timeout` given, or `most` over the cap) goes on
        waiting, as a busy peer may still be at it.
        """
        adaptive = self._liveness.timeout(agent, method, most)
        limit = adaptive if timeout is None else timeout
        sent = self._clock.monotonic()
        self._members.counters.requests += 1
        question = timeout is None and most <= TIMEOUT_CAP
        try:
            if question:
                reply = await self._question(agent, method, body, limit)
            else:
                reply = await self._network.request(agent, method, body, limit)
        except RequestTimeout:
            now = self._clock.monotonic()
            self._members.counters.failures += 1
            self._liveness.lagged(now - sent - limit)
            # less patience than the peer's history asks for, or a pause of our own machine, proves nothing
            fair = limit >= adaptive and now - sent < limit + STALL
            if fair:
                self._failed(agent, self._liveness.timed_out(agent, method, limit, sent, now))
            raise
        except PeerUnreachable:
            self._members.counters.failures += 1
            self._failed(agent, self._liveness.unreachable(agent, sent, self._clock.monotonic()))
            raise
        except RequestRefused as refusal:
            if refusal.code == RefusalCode.FORBIDDEN:
                self._members.refused(agent, refusal.reason)
            overloaded = refusal.code == RefusalCode.OVERLOADED
            if not overloaded and self._liveness.replied(agent, self._clock.monotonic()):
                self._members.recovered(agent)
            raise
        now = self._clock.monotonic()
        if self._liveness.answered(agent, method, now - sent, now):
            self._members.recovered(agent)
        self._members.table.confirm(agent)
        return reply

    async def _question(self, agent: AgentId, method: str, body: bytes, limit: float) -> bytes:
        """Ask, and end early when `agent` is found silent by somebody else."""
        others = self._open.setdefault(agent, set())
        with trio.CancelScope() as scope:
            others.add(scope)
            try:
                return await self._network.request(agent, method, body, limit)
            finally:
                others.remove(scope)
                if not others:
                    del self._open[agent]
        raise PeerSilent(f"peer {short(agent)} fell silent while {method!r} waited for it")

    def _failed(self, agent: AgentId, is_new: bool) -> None:
        """`agent` failed; `is_new`: it was believed alive until now, so whoever waits for it need not."""
        if is_new:
            self._members.suspected(agent)
            for scope in self._open.get(agent, ()):
                scope.cancel()
        if self._liveness.is_gone(agent):
            self._members.gone(agent)

    def refuse_unusable(self, agent: AgentId, *, suspected: bool = False) -> None:
        """Raise `PeerSilent` for a suspect whose back-off is not over, and `PeerUnreachable` for an ignored
        peer. `suspected`: of the suspects only for who is gone."""
        wait = self._liveness.backoff(agent, self._clock.monotonic())
        if wait > 0 and not (suspected and not self._liveness.is_gone(agent)):
            failures = self._liveness.failures(agent)
            raise PeerSilent(
                f"peer {short(agent)} failed {failures} times lately; it is asked again in {wait:.1f} s"
            )
        contact = self._members.contact(agent)
        if contact is not None and self._members.is_out(contact):
            raise PeerUnreachable(f"peer {short(agent)} was put out of the network by its stewards")
        banned_s = self._members.banned_for(agent)
        if banned_s > 0:
            raise PeerUnreachable(
                f"peer {short(agent)} is banned for {banned_s:.0f} s more: what it sent did not verify"
            )

    def met(self, agent: AgentId, shown: Contact) -> None:
        """`agent` was shown this record of ours."""
        self._note(agent, _Met(self._clock.monotonic(), shown.issued_us))

    def found_by(self, agent: AgentId) -> None:
        """`agent`, who showed its record, found us by ours, as somebody must have named us to it: it need not
        be shown to it again, unless it says that it does not know us."""
        if agent not in self._introduced:
            self.learn_addresses(agent)
            self._note(agent, UNMET)

    def has_shown(self, agent: AgentId, record: Contact) -> bool:
        """Whether `agent` was shown this record of ours, or a later one."""
        return self._introduced.get(agent, UNMET).issued_us >= record.issued_us

    def _note(self, agent: AgentId, met: _Met) -> None:
        """The longest known are forgotten first, and then introduced again."""
        self._introduced.pop(agent, None)
        if len(self._introduced) >= MAX_CONTACTS:
            del self._introduced[next(iter(self._introduced))]
        self._introduced[agent] = met

    def learn_addresses(self, agent: AgentId) -> None:
        """Let the network know where to dial a peer, leaving out the addresses that it cannot dial."""
        contact = self._members.contact(agent)
        if contact is None or not contact.addresses or agent in self._introduced:
            return
        try:
            self._network.learn(agent, contact.addresses)
        except AddressError:
            self._network.learn(agent, [text for text in contact.addresses if self._dialable(agent, text)])

    def _dialable(self, agent: AgentId, address: str) -> bool:
        try:
            self._network.learn(agent, [address])
        except AddressError as error:
            log.debug("%s gives an address we cannot dial: %s", short(agent), error)
            return False
        return True


UNMET = _Met(-math.inf, 0)


async def each(contacts: Sequence[Contact], act: Callable[[Contact], Awaitable[None]]) -> None:
    """Run `act` for every contact, `AT_ONCE` at a time, started in order."""
    slots = trio.Semaphore(AT_ONCE)

    async def one(contact: Contact) -> None:
        try:
            await act(contact)
        finally:
            slots.release()

    async with trio.open_nursery() as nursery:
        for contact in contacts:
            await slots.acquire()
            nursery.start_soon(one, contact)
