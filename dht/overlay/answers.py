"""Answering peers: the `peer.*` methods, and the gate that keeps strangers out of all others.

A peer becomes a member by showing its own address record, with `peer.exchange` or along with a find; handlers
wrapped by `members_only` see nobody else. Whoever keeps sending what does not verify is banned for a while
(`dht.overlay.reputation`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NoReturn, TypeVar

from chain.identity import AgentId
from dht.errors import FrameError, RefusalCode, RequestRefused
from dht.network import Handler, Network
from dht.overlay.contact import BadAddressError, ContactError, MalformedContactError, UnpaidContactError
from dht.overlay.membership import PUT_OUT, Membership
from dht.overlay.peer_messages import (
    EMPTY,
    EXCHANGE,
    FIND,
    LEAVE,
    MAX_FOUND,
    PING,
    check_empty,
    decode_exchange,
    decode_find,
    encode_exchange,
    encode_found,
)
from dht.overlay.requests import Requests
from dht.ports import Clock
from dht.wire.exchange import banned_reason
from dht.wire.turns import Turns

T = TypeVar("T")

FALSE = (MalformedContactError, UnpaidContactError, BadAddressError)
"""What no honest node shows of itself, whatever its clock and its network."""


class Answers:
    """Handlers of the `peer.*` methods, registered with `network` when made."""

    def __init__(self, network: Network, members: Membership, requests: Requests, clock: Clock) -> None:
        self._members = members
        self._requests = requests
        self._clock = clock
        self._turns = Turns()
        network.screen(members)
        network.register(EXCHANGE, self._counting(self._on_exchange))
        network.register(FIND, self._counting(self._on_find))
        network.register(PING, self.members_only(self._on_ping))
        network.register(LEAVE, self.members_only(self._on_leave))

    def members_only(self, handler: Handler, *, heavy: bool = False) -> Handler:
        """Wrap a handler so that only peers with an address record are answered; others are FORBIDDEN.

        A request that the handler refuses as a bad one counts against its sender. `heavy`: askers take turns.
        Such a handler must not ask other nodes: two that do would wait for each other's turns.
        """

        handler = self._counting(handler)

        async def guarded(sender: AgentId, body: bytes) -> bytes:
            self._admit(sender)
            return await handler(sender, body)

        async def in_turn(sender: AgentId, body: bytes) -> bytes:
            self._admit(sender)
            async with self._turns.of(sender):
                self._check_conduct(sender)  # what it sent before may have been judged meanwhile
                return await handler(sender, body)

        return in_turn if heavy else guarded

    def _counting(self, handler: Handler) -> Handler:
        async def counting(sender: AgentId, body: bytes) -> bytes:
            try:
                return await handler(sender, body)
            except RequestRefused as refusal:
                if refusal.code == RefusalCode.BAD_REQUEST:
                    self._members.blame(sender)
                raise

        return counting

    async def _on_exchange(self, sender: AgentId, body: bytes) -> bytes:
        self._meet(sender, _read(decode_exchange, body))
        own = self._members.own()
        self._requests.met(sender, own)
        return encode_exchange(own.data)

    async def _on_find(self, sender: AgentId, body: bytes) -> bytes:
        target, record = _read(decode_find, body)
        self._meet(sender, record)
        self._requests.found_by(sender)
        nearest = self._members.table.closest(
            target, MAX_FOUND, lambda contact: contact.agent != sender and self._members.usable(contact)
        )
        return encode_found([contact.data for contact in nearest])

    async def _on_ping(self, _sender: AgentId, body: bytes) -> bytes:
        _read(partial(check_empty, method=PING), body)
        return EMPTY

    async def _on_leave(self, sender: AgentId, body: bytes) -> bytes:
        _read(partial(check_empty, method=LEAVE), body)
        self._requests.forget_introduction(sender)
        self._members.departed(sender)
        return EMPTY

    def _meet(self, sender: AgentId, record: bytes) -> None:
        """A peer shows its own address record; it answers for what is wrong with it."""
        self._check_conduct(sender)
        try:
            contact = self._members.book.learn(record, self._clock.wall_us())
        except ContactError as error:
            if isinstance(error, FALSE):
                self._members.blame(sender)
            self._forbid(str(error))
        if contact.agent != sender:
            self._members.blame(sender)
            self._forbid("that is the address record of another agent; show your own")
        if self._members.is_out(contact):
            self._forbid(PUT_OUT)
        if self._members.liveness.heard(sender, self._clock.monotonic(), anew=True):
            self._members.recovered(sender)
        self._members.welcome(contact)

    def _admit(self, sender: AgentId) -> None:
        self._check_conduct(sender)
        if not self._members.is_member(sender):
            contact = self._members.contact(sender)
            if contact is not None and self._members.is_out(contact):
                self._forbid(PUT_OUT)
            self._forbid(f"show your address record first, with {EXCHANGE!r}")
        self._members.sign_of_life(sender)

    def _check_conduct(self, sender: AgentId) -> None:
        banned_s = self._members.banned_for(sender)
        if banned_s > 0:
            self._forbid(banned_reason(banned_s), RefusalCode.BANNED)

    def _forbid(self, reason: str, code: RefusalCode = RefusalCode.FORBIDDEN) -> NoReturn:
        self._members.counters.forbidden += 1
        raise RequestRefused(code, reason)


def _read(decode: Callable[[bytes], T], body: bytes) -> T:
    """Decode a request; what is wrong with it becomes a refusal."""
    try:
        return decode(body)
    except FrameError as error:
        raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
