"""The driver that runs Kademlia over a `Network`: it waits, the modules beneath it decide.

To the floors above this is the network's membership: who belongs to it, who is answering, which nodes hold a
basis (`holders`), and `request` as the way to ask them. `dht.overlay.membership` keeps what is known,
`dht.overlay.lookup` decides whom to ask, `dht.overlay.requests` asks, `dht.overlay.answers` answers,
`dht.overlay.upkeep` keeps our place.

Promises. A peer enters the table, a result or a holder set only after it proved its address record and
answered. A dead peer costs one timeout: it is suspected with its first failure, left out from then on, and
asked again by the upkeep alone until it answers or speaks; a lookup asks others beside it meanwhile. No
answer is trusted for its size or content: what does not decode or verify counts against its sender, who is
banned for a while when that becomes a habit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Sequence

import trio

from chain.identity import AgentId, Identity, peer_id
from chain.manifest import Manifest
from dht.errors import FrameError, NetworkError
from dht.network import Handler, Network
from dht.overlay.answers import Answers
from dht.overlay.contact import Contact
from dht.overlay.distance import key_in_bucket
from dht.overlay.liveness import TIMEOUT_CAP
from dht.overlay.lookup import ALPHA, PATIENCE, READ_PATHS, Lookup
from dht.overlay.membership import Bars, KademliaCounters, Membership, short
from dht.overlay.peer_messages import EMPTY, FIND, LEAVE, decode_found, encode_find
from dht.overlay.region import MAX_AROUND, merged, probes, usual_radius
from dht.overlay.reputation import Misdeed, Standing
from dht.overlay.requests import Requests, each
from dht.overlay.routing_table import K
from dht.overlay.upkeep import Upkeep
from dht.ports import Clock, Random

log = logging.getLogger(f"roseforest.{__name__}")

OWN_ADDRESS = "this is our own address"
DIAL_TIMEOUT = 10.0
"""Seconds for one bootstrap address, dialling and exchange together."""
GRACE = 1.0
"""Seconds that the other bootstrap addresses get once one of them has answered."""
MAX_BOOTSTRAP = 64
"""Bootstrap addresses dialled; the rest is ignored."""
MAX_REFRESH = 24
"""Buckets refreshed in one go, from the farthest; a lookup of our own position covers the near ones."""
FEW = 6
"""A far bucket with so many members needs no refresh, and one that does is asked for so many: enough to find
a way there when a third of them is dead. Who joins meets k nodes around it and some for each doubling of the
network, not everybody; more come to be known as they ask."""
LEAVE_TIMEOUT = 2.0
"""Seconds spent on telling everybody that we go."""
SEEDS = 3 * K
"""Contacts of our table that a lookup starts with; more than k, as some may have died."""
MAX_MET = 4
"""Strangers met one by one of those that a neighbour named; for more a lookup is made."""
MAX_LOOKUPS = 8
"""Lookups of holders under way at a time; further ones wait and mostly find the answer remembered."""


class BootstrapError(NetworkError):
    """None of the bootstrap addresses let us in; `failures` are (address, reason) in the order given."""

    def __init__(self, failures: Sequence[tuple[str, str]]) -> None:
        self.failures = tuple(failures)
        reasons = "; ".join(f"{address}: {reason}" for address, reason in failures)
        super().__init__(
            f"no bootstrap address let this node in ({reasons}); check them, and that a node runs there"
        )


class Kademlia:
    """One node's membership in its network.

    `capacity` 0 means that it stores nothing and enters nobody's table. Handlers are registered at once;
    `join` enters the network and `run` keeps the place in it. Cancelling any coroutine is safe: what it
    learnt stays, and a request that was cancelled says nothing about its peer. Raises `UnpaidContactError`
    when `nonce`, or the `invitation` it comes with, does not let us in.
    """

    def __init__(
        self,
        network: Network,
        identity: Identity,
        manifest: Manifest,
        nonce: int,
        capacity: int,
        clock: Clock,
        rng: Random,
        *,
        full: bool = False,
        invitation: tuple[bytes, ...] = (),
        bars: Bars = lambda _agent, _inviter: False,
    ) -> None:
        """`bars`: whether an agent, who came by somebody's invitation or by nobody's, was put out."""
        self._network = network
        self._identity = identity
        self._clock = clock
        self._rng = rng.choice
        self._members = Membership(
            identity,
            manifest,
            nonce,
            capacity,
            full,
            clock,
            lambda: self._network.addresses,
            invitation,
            bars,
        )
        self._liveness = self._members.liveness
        self._lookup_slots = trio.Semaphore(MAX_LOOKUPS)
        self._bootstrap: tuple[str, ...] = ()
        self._requests = Requests(network, self._members, clock)
        self._answers = Answers(network, self._members, self._requests, clock)

    # -- who is there --

    @property
    def agent(self) -> AgentId:
        """Our own agent id."""
        return self._identity.agent

    @property
    def counters(self) -> KademliaCounters:
        """What was done since the start."""
        return self._members.counters

    @property
    def version(self) -> int:
        """Grows whenever a storing node appears, goes, or changes its record: placement may differ then."""
        return self._members.version

    @property
    def placement(self) -> int:
        """Grows as `version` does, but not for a suspicion that the next answer may end.

        For whoever moves data when it changes: what lies where is decided with `holders(…, steady=R)`.
        """
        return self._members.placement

    @property
    def losses(self) -> int:
        """How many storing nodes were found gone, left, or lost their place otherwise, so far."""
        return self._members.losses

    async def wait_moved(self, seen: int) -> int:
        """Wait until `placement` differs from `seen`; return the new one. Several changes may pass as one."""
        return await self._members.wait_moved(seen)

    async def wait_changed(self, seen: int) -> int:
        """Wait until `version` differs from `seen`; return the new one. Several changes may pass as one."""
        return await self._members.wait_changed(seen)

    def self_contact(self) -> Contact:
        """Our own address record as it is shown to others."""
        return self._members.own()

    def update_self(self, *, capacity: int | None = None, full: bool | None = None) -> None:
        """Change what our address record says; the upkeep announces it within seconds."""
        self._members.update_own(capacity, full)

    def is_member(self, agent: AgentId) -> bool:
        """Whether `agent` has shown an address record of this network that has not expired."""
        return self._members.is_member(agent)

    def contact(self, agent: AgentId) -> Contact | None:
        """The newest address record of `agent`, storing or not; it may have expired."""
        return self._members.contact(agent)

    def contacts(self) -> list[Contact]:
        """The storing nodes in the table, suspects too, ascending by agent."""
        return self._members.contacts()

    def storing(self, *, steady: bool = False) -> list[Contact]:
        """The storing nodes that we know to be answering, ourselves included; not all of a large network.

        `steady`: with those who may just not have answered.
        """
        return self._members.contacts(self._members.there if steady else self._members.usable) + [
            own for own in [self.self_contact()] if own.stores
        ]

    def storing_nodes(self) -> int:
        """How many storing nodes we know to be answering, ourselves included."""
        return sum(map(self._members.usable, self._members.table)) + self.self_contact().stores

    def is_suspect(self, agent: AgentId) -> bool:
        """Whether `agent` failed last time, or is banned; such a node is no holder."""
        return self._liveness.is_suspect(agent) or self._members.is_ignored(agent)

    def lost_lately(self, seconds: float) -> bool:
        """Whether a storing node that showed life within so many seconds does not answer now, and did not
        say good-bye: it may well be back in a moment."""
        since = self._clock.monotonic() - seconds
        return any(
            self._liveness.is_suspect(contact.agent) and self._liveness.heard_at(contact.agent) > since
            for contact in self._members.contacts()
        )

    def suspects(self) -> list[AgentId]:
        """All who failed last time, or said good-bye, as far as is remembered; ascending."""
        return self._liveness.suspects()

    def latency(self, agent: AgentId) -> float | None:
        """Smoothed round-trip time of `agent` in seconds; None before its first answer."""
        return self._liveness.latency(agent)

    def timeout(self, agent: AgentId, method: str) -> float:
        """Seconds that `request` waits for `agent` to answer `method`: 0.3 to 2, by its own history.

        Of one without a history what others take is expected.
        """
        return self._liveness.timeout(agent, method)

    def report(self, agent: AgentId, misdeed: Misdeed = Misdeed.BAD_ANSWER, times: int = 1) -> None:
        """`agent` misbehaved: the one way to say so. Costs: `dht.overlay.reputation`.

        `times`: how often in one message. It may ban the agent for a while; then it is neither asked nor
        answered, holds nothing, and stands in nobody's answer.
        """
        self._members.blame(agent, misdeed, times)

    def standing(self, agent: AgentId) -> Standing:
        """How `agent` stands: good, slowed or banned, and for how long."""
        return self._members.standing(agent)

    def standings(self) -> dict[AgentId, Standing]:
        """Everybody who is slowed or banned, in the table or not, ascending by agent."""
        return self._members.standings()

    def pardon(self, agent: AgentId) -> bool:
        """End the ban of `agent` and forget its misdeeds; whether there was anything to forget."""
        return self._members.pardon(agent)

    def put_out(self) -> None:
        """What `bars` says has changed: who is out now holds nothing, and is neither asked nor answered."""
        self._members.put_out()

    # -- asking --

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

        `timeout` in seconds; without it the wait is adaptive and at most `most`: more than `TIMEOUT_CAP`
        for work that may take long. Raises `PeerSilent` (at once for a suspect whose back-off is not over),
        `PeerUnreachable` (for a peer that is banned, too), `RequestTimeout`, `RequestRefused`; whatever
        happens is counted for or against the peer. `suspected`: a suspect is asked at once, unless it is
        gone, for who has a reason to think that a message was lost and cannot wait for the upkeep's probe.
        """
        return await self._requests.request(agent, method, body, timeout, most=most, suspected=suspected)

    async def lookup(
        self, target: bytes, count: int, *, paths: int = 1, confirmed: Callable[[Contact], None] | None = None
    ) -> list[Contact]:
        """Ask the network for the `count` (at most k) responsive storing nodes closest to `target`.

        Nearest first, never ourselves. `confirmed` is called with every node as it answers.
        """
        return (await self._look_up(target, paths, confirmed)).result[: _checked(count)]

    async def holders(self, basis: bytes, count: int, *, steady: int = 0) -> list[Contact]:
        """The `count` (at most k) responsive storing nodes closest to `basis`, ourselves too if we store.

        Nearest first; fewer when the network has fewer. Where the table holds everybody, in a small network
        or in our own part of a large one, the answer needs no message; else a recent lookup nearby answers if
        it can prove its answer (`dht.overlay.neighbourhoods`), and only then is a new one made. `steady`:
        with those who may just not have answered, where they are known, and beyond the first `steady` as the
        table has them: for whoever moves data, and only asks those besides the holders what they had.
        """
        _checked(count)
        found = self._members.known_holders(basis, count, steady)
        if found is None:
            async with self._lookup_slots:
                found = self._members.known_holders(basis, count, steady)
                if found is None:
                    lookup = await self._look_up(basis, READ_PATHS, None)
                    found = lookup.result
                    if lookup.complete:
                        now = self._clock.monotonic()
                        self._members.neighbourhoods.remember(basis, found, lookup.radius, now, lookup.silent)
        return self._members.with_own(basis, found, count)

    def known_holders(self, basis: bytes, count: int) -> list[Contact] | None:
        """What `holders` gives, if that needs no lookup now."""
        found = self._members.known_holders(basis, _checked(count))
        return None if found is None else self._members.with_own(basis, found, count)

    def suspected_holders(self, basis: bytes, count: int) -> list[Contact]:
        """Who would be among the `count` holders of `basis`, as far as is known without a message, had it
        not left a request unanswered; who is gone is none of them."""
        if not self._liveness.suspected:
            return []
        near = self._members.known_holders(basis, _checked(count), steady=count) or ()
        return [one for one in near if self._liveness.is_suspect(one.agent) and not self._members.is_out(one)]

    def crowded_out(self, basis: bytes, count: int) -> bool:
        """Whether `count` others are known to be closer to `basis` than we are, so that we are none of its
        holders, whoever else there may be. Costs no message."""
        return self._members.crowded_out(basis, count)

    async def around(self, basis: bytes, without: Collection[AgentId]) -> list[Contact]:
        """Responsive storing nodes around `basis` other than those `without`: where a record may lie that the
        nearest do not show, because they are new, full, or a crowd of one owner (`dht.overlay.region`).

        No message while the table is the whole network; else 8 lookups, at most 160 nodes.
        """
        if self._members.knows_everyone():
            near = self._members.table.closest(basis, MAX_AROUND, self._members.usable)
            return merged([near], without)
        table, rng = self._members.table, self._rng
        known = [contact.position for contact in table.closest(self._members.position, K)]
        radius = usual_radius(self._members.position, known, self._members.neighbourhoods.radii())
        results: dict[bytes, list[Contact]] = {key: [] for key in probes(basis, radius, rng.randbytes)}

        async def probe(key: bytes) -> None:
            async with self._lookup_slots:
                results[key] = (await self._look_up(key, READ_PATHS, None)).result

        async with trio.open_nursery() as nursery:
            for key in results:
                nursery.start_soon(probe, key)
        return merged(list(results.values()), {*without, self.agent})

    def members_only(self, handler: Handler, *, heavy: bool = False) -> Handler:
        """Wrap a handler so that only peers with an address record are answered; others are FORBIDDEN.

        `heavy`: it occupies worker threads and asks nobody; askers take turns (`dht.wire.turns`).
        """
        return self._answers.members_only(handler, heavy=heavy)

    # -- coming and going --

    async def join(self, bootstrap: Sequence[str]) -> None:
        """Enter the network through any of these multiaddrs, then find our neighbours.

        Returns at once without addresses: the first node of a network has nobody to ask. Raises
        `BootstrapError` when none of them let us in; `run` goes on trying them.
        """
        self._bootstrap = tuple(bootstrap[:MAX_BOOTSTRAP])
        if self._bootstrap:
            await self._enter(self._bootstrap)
            await self._refresh(True)

    async def meet(self, address: str) -> None:
        """Introduce ourselves at one more multiaddr that was heard of; raises `BootstrapError`."""
        await self._enter((address,))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep our place in the network, see `dht.overlay.upkeep`. Until cancelled."""
        upkeep = Upkeep(
            self._members,
            self._requests,
            self._network,
            self._clock,
            self._rng,
            enter=self._enter_again,
            refresh=self._refresh,
            meet=self._meet_neighbours,
        )
        await upkeep.run(task_status=task_status)

    async def leave(self) -> None:
        """Tell the nodes in the table that we go, so that nobody has to find out; at most `LEAVE_TIMEOUT`."""

        async def part(contact: Contact) -> None:
            try:
                await self._requests.call(contact.agent, LEAVE, EMPTY)
            except NetworkError as error:
                log.debug("%s did not hear that we go: %s", short(contact.agent), error)

        with trio.move_on_after(LEAVE_TIMEOUT):
            await each(self._members.contacts(self._members.usable), part)

    # -- entering and looking around --

    async def _enter(self, addresses: Sequence[str]) -> None:
        """Dial all addresses at once and introduce ourselves; `BootstrapError` when none lets us in."""
        failures: dict[str, str] = {}
        own_ending = f"/p2p/{peer_id(self.agent)}"
        async with trio.open_nursery() as nursery:

            async def knock(address: str) -> None:
                if address.endswith(own_ending):
                    failures[address] = OWN_ADDRESS
                    return
                try:
                    with trio.fail_after(DIAL_TIMEOUT):
                        peer = await self._network.dial(address, DIAL_TIMEOUT)
                        if peer == self.agent:
                            failures[address] = OWN_ADDRESS
                            return
                        self._requests.forget_introduction(peer)
                        await self._requests.introduce(peer)
                except trio.TooSlowError:
                    failures[address] = f"no answer within {DIAL_TIMEOUT:.0f} s"
                except NetworkError as error:
                    failures[address] = str(error)
                else:
                    nursery.cancel_scope.deadline = min(
                        nursery.cancel_scope.deadline, trio.current_time() + GRACE
                    )

            for address in addresses:
                nursery.start_soon(knock, address)
        if addresses and len(failures) == len(set(addresses)):
            raise BootstrapError([(address, failures[address]) for address in dict.fromkeys(addresses)])

    async def _enter_again(self, former: Sequence[str]) -> None:
        await self._enter(tuple(dict.fromkeys([*self._bootstrap, *former])))

    async def _refresh(self, widely: bool) -> None:
        """Look up our own position; `widely` also a random key in every bucket that has few members."""
        table, position = self._members.table, self._members.position
        lookup = await self._look_up(position, 1, None)
        if lookup.complete:
            table.proven(lookup.radius)
        if not widely:
            return
        for index in table.thin(FEW)[:MAX_REFRESH]:
            key = key_in_bucket(position, index, self._rng.randbytes(len(position)))
            await self._look_up(key, 1, None, k=FEW)

    async def _meet_neighbours(self) -> None:
        """Have one of the nearest nodes name those it knows around us, and meet who is new.

        Who came while we, or they, were cut off from the others, or at the same time as we, becomes known so:
        what lies in our part of the network is decided by the table alone. When there are more of them than
        some, they are looked for.
        """
        near = self._members.table.closest(self._members.position, K, self._members.usable)
        if not near:
            return
        named = await self._find(self._members.position, self._rng.choice(near)) or []
        strangers = [
            one
            for one in named
            if one.stores and one.agent != self.agent and one.agent not in self._members.table
        ]
        if len(strangers) > MAX_MET:
            await self._refresh(False)
            return
        for contact in strangers:
            try:
                self._requests.refuse_unusable(contact.agent)
                await self._requests.exchange(contact.agent)
            except NetworkError as error:
                log.debug("%s, named by a neighbour, was not met: %s", short(contact.agent), error)

    # -- looking up --

    async def _look_up(
        self, target: bytes, paths: int, confirmed: Callable[[Contact], None] | None, k: int = K
    ) -> Lookup:
        seeds = self._members.table.closest(target, SEEDS, self._members.usable)
        lookup = Lookup(target, k, ALPHA, seeds, paths=paths, own=self.agent)
        self.counters.lookups += 1
        send, receive = trio.open_memory_channel[tuple[Contact, list[Contact] | None]](0)
        stalls_at: dict[AgentId, tuple[float, Contact]] = {}

        async def find(contact: Contact) -> None:
            await send.send((contact, await self._find(target, contact)))

        async with trio.open_nursery() as nursery:
            while not lookup.done:
                for contact in lookup.next_queries():
                    nursery.start_soon(find, contact)
                    hedge = self._liveness.hedge(contact.agent, FIND)
                    stalls_at[contact.agent] = (trio.current_time() + hedge, contact)
                late = min((moment for moment, _ in stalls_at.values()), default=math.inf)
                with trio.move_on_at(late) as waiting:
                    contact, named = await receive.receive()
                if waiting.cancelled_caught:
                    for _, contact in [one for one in stalls_at.values() if one[0] <= late]:
                        del stalls_at[contact.agent]
                        lookup.on_stall(contact)
                    continue
                stalls_at.pop(contact.agent, None)
                if named is None:
                    lookup.on_failure(contact)
                else:
                    lookup.on_response(contact, named)
                for one in lookup.take_confirmed():
                    if confirmed is not None:
                        confirmed(one)
            nursery.cancel_scope.cancel()
        return lookup

    async def _find(self, target: bytes, contact: Contact) -> list[Contact] | None:
        """Ask one node for the nodes it knows near `target`; None when it did not answer, or with garbage."""
        agent = contact.agent
        self.counters.finds += 1
        try:
            self._requests.refuse_unusable(agent)
            self._requests.learn_addresses(agent)
            own = self.self_contact()
            reply = await self._requests.call(agent, FIND, encode_find(target, own.data), most=PATIENCE)
            records = decode_found(reply)
        except FrameError as error:
            log.info("%s answered a find with garbage: %s", short(agent), error)
            self.report(agent)
            return None
        except NetworkError as error:
            log.debug("%s did not answer a find: %s", short(agent), error)
            return None
        self._requests.met(agent, own)
        self._members.welcome(self.contact(agent) or contact)
        return self._members.verified(agent, records)


def _checked(count: int) -> int:
    if not 1 <= count <= K:
        raise ValueError(f"{count} nodes asked for; a lookup finds 1 to {K}")
    return count
