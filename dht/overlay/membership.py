"""Membership: what one node knows of the others, and what every piece of news changes in it.

Routing table, address records, liveness, reputation and remembered neighbourhoods are kept apart in modules
of their own; this one keeps them consistent. It is told what happened (a record was shown, a request
failed, a peer said good-bye) and answers questions (who belongs here, who is usable, who is closest), and
it counts a version up whenever the answer about storing nodes may differ, and another one when that is more
than a suspicion, for those who would move data because of it. Nothing here talks to anybody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from chain.errors import MembraneError
from chain.identity import AgentId, Identity
from chain.manifest import Manifest
from chain.membrane import Passage, position
from dht.overlay.contact import (
    MAX_ADDRESS,
    MAX_ADDRESSES,
    MAX_AHEAD_US,
    Contact,
    ContactError,
    StaleContactError,
    UnpaidContactError,
    make_contact,
)
from dht.overlay.contact_book import MAX_CONTACTS, ContactBook
from dht.overlay.distance import closest, prefix_length
from dht.overlay.liveness import Liveness
from dht.overlay.method_pace import MethodPace
from dht.overlay.neighbourhoods import Neighbourhoods
from dht.overlay.reputation import Misdeed, Reputation, Standing
from dht.overlay.routing_table import K, RoutingTable
from dht.ports import Clock
from dht.wire.pace import Pace, Rate

log = logging.getLogger(f"roseforest.{__name__}")

RECORD_TTL_S = 3600
"""Lifetime of our address record; it is signed anew when half of it is over."""
EVICT_AFTER = 3
"""Failures in a row after which a suspect loses its place to a contact that waits for it."""
CHANGES = Rate(per_second=0.1, burst=16)
"""How often one peer may enter the table or change what decides where things lie (position, capacity or none,
full or not): each time all holders compute anew what lies where."""


@dataclass(slots=True)
class KademliaCounters:
    """What this node's Kademlia has done since it started."""

    requests: int = 0
    failures: int = 0
    lookups: int = 0
    finds: int = 0
    probes: int = 0
    announcements: int = 0
    suspicions: int = 0
    bad_answers: int = 0
    bans: int = 0
    paced: int = 0
    """Requests of others refused because they come faster than their pace."""
    forbidden: int = 0
    """Requests of others refused for want of an address record, or as the sender was banned meanwhile."""
    restless: int = 0
    """Times that a peer wanted to be placed otherwise sooner than it may."""


PUT_OUT = "an epoch of this network's stewards puts you out of it"
"""What an agent is told that is out."""
Bars = Callable[[AgentId, AgentId | None], bool]


class Membership:
    """The others as this node sees them, and its own address record.

    Raises `UnpaidContactError` when `nonce`, or the `invitation` it comes with, does not let us in.
    """

    def __init__(
        self,
        identity: Identity,
        manifest: Manifest,
        nonce: int,
        capacity: int,
        full: bool,
        clock: Clock,
        addresses: Callable[[], Sequence[str]],
        invitation: tuple[bytes, ...] = (),
        bars: Bars = lambda _agent, _inviter: False,
    ) -> None:
        """`bars`: whether stewards put out an agent, who came by somebody's invitation or by nobody's."""
        self._bars = bars
        self._told_out = False
        membrane = manifest.membrane
        self._network_id = membrane.network
        try:
            passage = membrane.open(identity.agent, Passage(nonce, invitation).shown)
        except MembraneError as error:
            raise UnpaidContactError(f"this agent is not let into its network: {error}") from error
        self._identity = identity
        self._passage = passage
        self._capacity = capacity
        self._full = full
        self._clock = clock
        self._since_us = clock.wall_us()
        self._addresses = addresses
        self._own: Contact | None = None
        self._reputation = Reputation()
        self._method_pace = MethodPace()
        self._changed = trio.Event()
        self._moved = trio.Event()
        self._absent: set[AgentId] = set()
        self._changes: Pace[AgentId] = Pace(CHANGES, MAX_CONTACTS)
        self.position = position(self._network_id, identity.agent, passage.nonce)
        self.book = ContactBook(membrane)
        self.table = RoutingTable(self.position)
        self.liveness = Liveness()
        self.neighbourhoods = Neighbourhoods()
        self.counters = KademliaCounters()
        self.version = 0
        self.placement = 0
        self.losses = 0
        """Times that a node in the table was found gone, or lost its place."""
        self.alarm = trio.Event()
        """Set when there may be a suspect to probe; whoever probes puts a new one in its place."""

    # -- ourselves --

    def own(self) -> Contact:
        """Our address record, signed anew when half expired or when something in it has changed."""
        fitting = [address for address in self._addresses() if len(address.encode()) <= MAX_ADDRESS]
        addresses = tuple(fitting[:MAX_ADDRESSES])
        own, now_us = self._own, self._clock.wall_us()
        said = (addresses, self._capacity, self._full)
        age_us = 0 if own is None else now_us - own.issued_us
        current = own is not None and said == (own.addresses, own.capacity, own.full)
        if own is not None and current and -MAX_AHEAD_US <= age_us < RECORD_TTL_S * 500_000:
            return own
        # the newer record must not look older when the clock was set back a little
        if own is not None and -MAX_AHEAD_US <= age_us <= 0:
            now_us = own.issued_us + 1
        self._own = make_contact(
            self._identity,
            self._network_id,
            self._passage.nonce,
            *said,
            issued_us=now_us,
            ttl_s=RECORD_TTL_S,
            invitation=self._passage.invitation,
        )
        return self._own

    def update_own(self, capacity: int | None, full: bool | None) -> None:
        """Say something else in our address record from now on."""
        self._capacity = self._capacity if capacity is None else capacity
        self._full = self._full if full is None else full
        self._bump()

    # -- who is there --

    def contact(self, agent: AgentId) -> Contact | None:
        """The newest address record of `agent`; it may have expired."""
        return self.book.get(agent) or self.table.get(agent)

    def is_member(self, agent: AgentId) -> bool:
        """Whether `agent` has shown an address record that has not expired, and was not put out."""
        contact = self.contact(agent)
        if contact is None or self.is_out(contact):
            return False
        return contact.expires_us > self._clock.wall_us()

    def is_out(self, contact: Contact) -> bool:
        """Whether the network's stewards have put this agent out: it is served nothing but `hello`."""
        return self._bars(contact.agent, contact.inviter)

    def refused(self, agent: AgentId, reason: str) -> None:
        """`agent` refuses to answer us; said once if it says that we are out, which may not be known here."""
        if reason == PUT_OUT and not self._told_out:
            self._told_out = True
            log.warning("peer %s refuses this agent: %s", short(agent), PUT_OUT)

    def put_out(self) -> None:
        """Who is out has changed: those who are lose their place."""
        for contact in self.contacts():
            if self.is_out(contact):
                log.warning("peer %s was put out of the network", short(contact.agent))
                self._lose(contact.agent)

    def usable(self, contact: Contact) -> bool:
        """Whether nothing speaks against asking this contact."""
        agent = contact.agent
        return not self.is_out(contact) and not self.liveness.is_suspect(agent) and not self.is_ignored(agent)

    def there(self, contact: Contact) -> bool:
        """Whether to count on this contact: a lost message makes it a suspect, and does not take it away."""
        agent = contact.agent
        return not self.liveness.is_gone(agent) and not self.is_ignored(agent)

    def contacts(self, wanted: Callable[[Contact], bool] | None = None) -> list[Contact]:
        """The contacts in the table, or those `wanted`, ascending by agent."""
        return sorted(filter(wanted, self.table), key=lambda contact: contact.agent)

    def knows_everyone(self) -> bool:
        """Whether the table is the whole network: it has room left, never turned anybody away, and never knew
        a part of the network only, unless a lookup has since found that this part is all."""
        return len(self.table) < K and self.table.holds_everyone and self.table.known_from == 0

    def known_holders(self, basis: bytes, count: int, steady: int = 0) -> list[Contact] | None:
        """The usable others closest to `basis`, if that can be said without asking anybody.

        `steady`: those who are `there`, though one of them may just not have answered; of these so many have
        to be right.
        """
        wanted = self.there if steady else self.usable
        found = self.table.surely_closest(basis, count, wanted, sure=steady or None)
        if found is not None:
            return found
        return self.neighbourhoods.covering(basis, count, wanted, self._clock.monotonic())

    def crowded_out(self, basis: bytes, count: int) -> bool:
        """Whether `count` nodes that are there are known to be closer to `basis` than we are."""
        return self.table.crowds_us_out(basis, count, self.there)

    def with_own(self, basis: bytes, others: Sequence[Contact], count: int) -> list[Contact]:
        """The `count` closest of `others` and ourselves, by everybody's newest record."""
        nodes = [self.contact(other.agent) or other for other in others]
        nodes.append(self.own())
        return closest(basis, (node for node in nodes if node.stores), lambda node: node.position, count)

    # -- what happens --

    def welcome(self, contact: Contact) -> None:
        """A peer that is alive showed this record: it gets a place if it stores and there is room."""
        if self.is_out(contact):
            return
        held = self.table.get(contact.agent)
        now = self._clock.monotonic()
        if _placement(held) != _placement(contact) and self._changes.delay(contact.agent, 0, now):
            self.counters.restless += 1
            return
        self.table.offer(contact)
        now_held = self.table.get(contact.agent)
        if now_held is not None and (held is None or now_held.position != held.position):
            self.neighbourhoods.appeared(now_held)
            if held is None and self._is_new_near_us(now_held):
                self.neighbourhoods.grew(now)
        if _placement(held) != _placement(now_held):
            self._changes.delay(contact.agent, 1, now)
            self._bump()

    def _is_new_near_us(self, contact: Contact) -> bool:
        """Whether a contact is one of those in our own part of the network, and came after we did."""
        near = prefix_length(self.position, contact.position) >= self.table.known_from
        return near and contact.issued_us > self._since_us

    def verified(self, sender: AgentId, records: Sequence[bytes]) -> list[Contact]:
        """The contacts of the records that `sender` passed on; bad ones are left out, and held against it."""
        now_us = self._clock.wall_us()
        contacts: list[Contact] = []
        honest = True
        for record in records:
            try:
                contact = self.book.learn(record, now_us)
                if not self.is_out(contact):  # who passes it on may not have heard of that
                    contacts.append(contact)
            except StaleContactError:
                continue  # a matter of clocks and of time on the way: nobody's fault
            except ContactError as error:
                log.info("%s passed on a bad address record: %s", short(sender), error)
                honest = False
        if not honest:
            self.blame(sender)
        return contacts

    def suspected(self, agent: AgentId) -> None:
        """`agent`, believed alive until now, failed."""
        self.counters.suspicions += 1
        log.info("peer %s does not answer", short(agent))
        if agent in self.table:
            self._bump(moved=False)
            self.alarm.set()

    def gone(self, agent: AgentId) -> None:
        """`agent`, suspected, failed once more, or could not be reached at all."""
        if agent in self.table and agent not in self._absent:
            self._absent.add(agent)
            self.losses += 1
            self._bump()

    def sign_of_life(self, agent: AgentId, anew: bool = False) -> None:
        """`agent` reached us: a suspect is trusted again, or probed now when that proved wrong before.

        `anew`: it connected.
        """
        if self.liveness.heard(agent, self._clock.monotonic(), anew):
            self.recovered(agent)
        elif self.liveness.is_suspect(agent):
            self.alarm.set()

    def recovered(self, agent: AgentId) -> None:
        """`agent`, suspected until now, answered."""
        contact = self.table.get(agent)
        if contact is not None:
            missed = self.neighbourhoods.appeared(contact)
            self._bump(moved=missed or agent in self._absent)
        self._absent.discard(agent)

    def departed(self, agent: AgentId) -> None:
        """`agent` said that it goes."""
        self.liveness.departed(agent, self._clock.monotonic())
        self._lose(agent)

    def evict(self, agent: AgentId) -> Contact | None:
        """Give the place of a suspect that keeps failing to somebody who waits; return who got it."""
        if self.liveness.misses(agent) < EVICT_AFTER or not self.table.has_replacement(agent):
            return None
        return self._lose(agent)

    def expire(self) -> None:
        """Drop contacts whose address record has lapsed: they have not renewed it, so they are gone."""
        now_us = self._clock.wall_us()
        if self.table.discard(lambda contact: contact.expires_us <= now_us):
            self.losses += 1
            self._bump()

    def blame(self, agent: AgentId, misdeed: Misdeed = Misdeed.BAD_ANSWER, times: int = 1) -> None:
        """`agent` did `misdeed`, so many times in one message; beyond a threshold it is banned."""
        self.counters.bad_answers += misdeed is not Misdeed.PRESSING
        now = self._clock.monotonic()
        if self._reputation.blame(agent, misdeed.points * times, now):
            self.counters.bans += 1
            seconds = self._reputation.banned_for(agent, now)
            log.warning("peer %s is banned for %.0f s, last for %s", short(agent), seconds, misdeed.text)
            self._lose(agent)

    def banned_for(self, agent: AgentId) -> float:
        """Seconds until the ban of `agent` ends; 0 without one."""
        # almost nobody was ever banned, and every answer asks this about every contact
        if not self._reputation.was_banned(agent):
            return 0.0
        return self._reputation.banned_for(agent, self._clock.monotonic())

    def wait(self, agent: AgentId, method: str, size: int) -> float | None:
        """Seconds to wait before answering; None when `agent` asks too fast (`dht.overlay.method_pace`)."""
        now = self._clock.monotonic()
        slowed = len(self._reputation) > 0 and self._reputation.standing(agent, now).slowed
        wait = self._method_pace.wait(agent, method, size, slowed, now)
        if wait is None:
            self.counters.paced += 1
            if self._method_pace.presses(agent, now):
                self.blame(agent, Misdeed.PRESSING)
        return wait

    def garbage(self, agent: AgentId) -> None:
        """`agent` sent bytes that are no frame."""
        self.blame(agent, Misdeed.BAD_FRAME)

    def is_ignored(self, agent: AgentId) -> bool:
        """Whether `agent` is banned, or put out."""
        if self.banned_for(agent) > 0:
            return True
        contact = self.contact(agent)
        return contact is not None and self.is_out(contact)

    def standing(self, agent: AgentId) -> Standing:
        """How `agent` stands."""
        return self._reputation.standing(agent, self._clock.monotonic())

    def standings(self) -> dict[AgentId, Standing]:
        """Everybody who does not stand well."""
        return self._reputation.known(self._clock.monotonic())

    def pardon(self, agent: AgentId) -> bool:
        """Forget what `agent` did; whether there was anything."""
        return self._reputation.pardon(agent)

    async def wait_changed(self, seen: int) -> int:
        """Wait until `version` differs from `seen`; return the new one."""
        while self.version == seen:
            await self._changed.wait()
        return self.version

    async def wait_moved(self, seen: int) -> int:
        """Wait until `placement` differs from `seen`; return the new one."""
        while self.placement == seen:
            await self._moved.wait()
        return self.placement

    def _lose(self, agent: AgentId) -> Contact | None:
        """`agent` gives up its place; who takes it is not known to be alive yet."""
        self._absent.discard(agent)
        if agent not in self.table:
            self.table.remove(agent)
            return None
        self.losses += 1
        heir = self.table.remove(agent)
        if heir is not None:
            self.neighbourhoods.appeared(heir)
        self._bump()
        return heir

    def _bump(self, *, moved: bool = True) -> None:
        self.version += 1
        self._changed.set()
        self._changed = trio.Event()
        if moved:
            self.placement += 1
            self._moved.set()
            self._moved = trio.Event()


def _placement(contact: Contact | None) -> tuple[object, ...] | None:
    """What in a contact decides where things lie."""
    return None if contact is None else (contact.position, contact.stores, contact.full)


def short(agent: AgentId) -> str:
    """An agent as people see it in logs and errors."""
    return agent.hex()[:8]
