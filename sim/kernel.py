"""A plain event kernel for Kademlia at scale: the decisions of the daemon, without tasks, sockets or disks.

Ten thousand whole nodes do not fit one process, and what is asked of so large a network is only whether
lookups find the right nodes, in how many hops and messages. So a node here is its routing table
(`dht.overlay.routing_table`), a lookup is `dht.overlay.lookup.Lookup`, suspicion and patience are
`dht.overlay.liveness`, distance is `dht.overlay.distance`: the same code, driven by a heap of events instead
of a network. What is left out: address records are not signed or verified, and the only messages are finds.

Networks come about in two ways. `filled` gives every node what an old network has, each bucket k nodes drawn
evenly from all that belong there; `joined` lets the nodes come in one by one through a random member, with a
lookup of their own position and one for every bucket, as `Kademlia.join` does.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from statistics import fmean

from chain.identity import AgentId
from dht.overlay.contact import Contact
from dht.overlay.distance import KEY_BITS, as_int, key_in_bucket
from dht.overlay.kademlia import MAX_REFRESH, SEEDS
from dht.overlay.liveness import Liveness
from dht.overlay.lookup import ALPHA, PATIENCE, READ_PATHS, Lookup
from dht.overlay.peer_messages import FIND, MAX_FOUND
from dht.overlay.routing_table import K, RoutingTable
from sim.errors import SimError

MAX_KERNEL_NODES = 1_000_000
HOLDERS = 3
"""Nearest nodes that a lookup must name to count as exact: those that hold a basis."""
LATENCY_US = (2_000, 40_000)
"""Bounds of the one-way delay of a message."""
HANDSHAKE_TRIPS = 2
"""Round trips to connect, before the first find to a peer."""


class KernelError(SimError):
    """A kernel asked for what it cannot be."""


class KernelNode:
    """One node: its contact, its table, and, once it has asked anybody, what it knows of who is alive."""

    __slots__ = ("contact", "dead", "liveness", "table")

    def __init__(self, contact: Contact) -> None:
        self.contact = contact
        self.table = RoutingTable(contact.position)
        self.liveness: Liveness | None = None
        self.dead = False

    def usable(self, contact: Contact) -> bool:
        """Whether nothing speaks against asking this contact."""
        return self.liveness is None or not self.liveness.is_suspect(contact.agent)


@dataclass(frozen=True, slots=True)
class LookupOutcome:
    """What one lookup came to."""

    hops: int
    """How many questions, one after the other, led to the nearest node found."""
    finds: int
    """Questions sent."""
    unanswered: int
    seconds: float
    nearest: bool
    """Whether the nearest node found is the nearest live one there is."""
    exact: bool
    """Whether the `HOLDERS` nearest are."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one lookup gave its asker, and what it took."""

    contacts: tuple[Contact, ...]
    """The k nearest that answered, nearest first."""
    radius: int
    """See `Lookup.radius`."""
    complete: bool
    finds: int
    named: int
    """Contacts in all answers together."""


class Kernel:
    """A network of `KernelNode`s and the heap that moves it. Everything follows from the seed."""

    def __init__(self, nodes: int, seed: int) -> None:
        if not 2 <= nodes <= MAX_KERNEL_NODES:
            raise KernelError(f"a kernel has 2 to {MAX_KERNEL_NODES:,} nodes, not {nodes}")
        self._seed = seed
        self._rng = random.Random(f"{seed}/kernel")
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._tickets = count()
        self.now_us = 0
        self.events = 0
        """Events that happened so far."""
        self.nodes = [KernelNode(_contact(number, seed)) for number in range(nodes)]
        self._by_agent: dict[AgentId, KernelNode] = {node.contact.agent: node for node in self.nodes}

    def kill(self, share: float) -> int:
        """This share of the nodes dies at once and silently; nobody is told. Returns how many."""
        victims = self._rng.sample(
            [node for node in self.nodes if not node.dead], int(share * len(self.nodes))
        )
        for node in victims:
            node.dead = True
        return len(victims)

    def fill(self) -> None:
        """Give every node's every bucket k nodes of those that belong there, or all there are.

        O(nodes · k · log nodes).
        """
        ordered = sorted(self.nodes, key=lambda node: node.contact.position)
        positions = [as_int(node.contact.position) for node in ordered]
        for node in self.nodes:
            own = as_int(node.contact.position)
            for shared in range(KEY_BITS):
                # those that share exactly so many bits with us are one run of the ordered positions
                free = KEY_BITS - 1 - shared
                low = ((own >> free) ^ 1) << free
                first, end = bisect_left(positions, low), bisect_left(positions, low + (1 << free))
                members = range(first, end)
                for place in self._rng.sample(members, min(K, len(members))):
                    node.table.offer(ordered[place].contact)
                near = (own >> free) << free
                if bisect_left(positions, near + (1 << free)) - bisect_left(positions, near) <= 1:
                    break  # nobody shares more bits than these

    def join_all(self) -> None:
        """Let the nodes come in one after the other, each through a random member."""
        for number, node in enumerate(self.nodes):
            if number == 0:
                continue
            self._join(node, self.nodes[self._rng.randrange(number)])

    def newcomer(self) -> list[Found]:
        """One more node comes in through a random live member; the lookups that it made."""
        node = KernelNode(_contact(len(self.nodes), self._seed))
        door = self._rng.choice([one for one in self.nodes if not one.dead])
        self.nodes.append(node)
        self._by_agent[node.contact.agent] = node
        return self._join(node, door)

    def find(self, asker: KernelNode, target: bytes, paths: int = READ_PATHS) -> Found:
        """One lookup by itself, to its end."""
        run = _Run(self, asker, target, paths, lambda run: None)
        run.step()
        self._drain()
        lookup = run.lookup
        return Found(tuple(lookup.result), lookup.radius, lookup.complete, lookup.queries, run.named)

    def lookups(self, number: int, at_once: int = 64) -> list[LookupOutcome]:
        """So many lookups of random targets by random live nodes, `at_once` of them under way at a time."""
        live = [node for node in self.nodes if not node.dead]
        truth = _Truth(live)
        outcomes: list[LookupOutcome] = []
        left = number

        def next_one() -> None:
            nonlocal left
            if left > 0:
                left -= 1
                asker, target = self._rng.choice(live), self._rng.randbytes(32)
                _Run(self, asker, target, READ_PATHS, lambda run: ended(run)).step()

        def ended(run: _Run) -> None:
            outcomes.append(self._outcome(run, truth))
            next_one()

        for _ in range(min(at_once, number)):
            next_one()
        self._drain()
        return outcomes

    # For the lookups.

    def after(self, delay_us: int, action: Callable[[], None]) -> None:
        """Let `action` happen `delay_us` µs from now."""
        heapq.heappush(self._heap, (self.now_us + delay_us, next(self._tickets), action))

    def delay_us(self) -> int:
        """The one-way delay of one message."""
        return self._rng.randint(*LATENCY_US)

    def node(self, agent: AgentId) -> KernelNode:
        """The node of an agent."""
        return self._by_agent[agent]

    def _join(self, node: KernelNode, door: KernelNode) -> list[Found]:
        node.table.offer(door.contact)
        door.table.offer(node.contact)
        made = [self.find(node, node.contact.position, 1)]
        if len(node.table) < K and node.table.holds_everyone:
            return made
        for index in node.table.occupied()[:MAX_REFRESH]:
            noise = self._rng.randbytes(len(node.contact.position))
            made.append(self.find(node, key_in_bucket(node.contact.position, index, noise), 1))
        return made

    def _drain(self) -> None:
        while self._heap:
            self.now_us, _, action = heapq.heappop(self._heap)
            self.events += 1
            action()

    def _outcome(self, run: _Run, truth: _Truth) -> LookupOutcome:
        right = truth.nearest(run.lookup.target, run.asker)
        found = [contact.agent for contact in run.lookup.result[:HOLDERS]]
        return LookupOutcome(
            hops=run.depth.get(found[0], 0) if found else 0,
            finds=run.lookup.queries,
            unanswered=run.unanswered,
            seconds=(self.now_us - run.began_us) / 1e6,
            nearest=found[:1] == right[:1],
            exact=found == right,
        )


class _Truth:
    """Who is nearest, known by looking at everybody: what lookups are measured against."""

    def __init__(self, live: Sequence[KernelNode]) -> None:
        self._ordered = sorted(live, key=lambda node: node.contact.position)
        self._positions = [as_int(node.contact.position) for node in self._ordered]

    def nearest(self, target: bytes, asker: KernelNode) -> list[AgentId]:
        """The `HOLDERS` live nodes nearest to a target, but for the asker. O(log nodes)."""
        origin = as_int(target)
        for shared in range(KEY_BITS, -1, -1):
            free = KEY_BITS - shared
            low = (origin >> free) << free
            first = bisect_left(self._positions, low)
            end = bisect_left(self._positions, low + (1 << free))
            if end - first > HOLDERS or shared == 0:
                break  # whoever shares fewer bits is farther away than these
        near = [node for node in self._ordered[first:end] if node is not asker]
        near.sort(key=lambda node: origin ^ as_int(node.contact.position))
        return [node.contact.agent for node in near[:HOLDERS]]


class _Run:
    """One lookup under way."""

    __slots__ = ("asker", "began_us", "depth", "ended", "kernel", "lookup", "named", "over", "unanswered")

    def __init__(
        self, kernel: Kernel, asker: KernelNode, target: bytes, paths: int, ended: Callable[[_Run], None]
    ) -> None:
        self.kernel = kernel
        self.asker = asker
        seeds = asker.table.closest(target, SEEDS, asker.usable)
        self.lookup = Lookup(target, K, ALPHA, seeds, paths=paths, own=asker.contact.agent)
        self.depth = {seed.agent: 1 for seed in seeds}
        self.began_us = kernel.now_us
        self.unanswered = 0
        self.named = 0
        self.ended = ended
        self.over = False
        if asker.liveness is None:
            asker.liveness = Liveness()

    def step(self) -> None:
        """Send what the lookup wants to ask now; what is late when it is done is not waited for."""
        if self.over:
            return
        if self.lookup.done:
            self.over = True
            self.ended(self)
            return
        for contact in self.lookup.next_queries():
            self._ask(contact)

    def _ask(self, contact: Contact) -> None:
        kernel, liveness = self.kernel, self.asker.liveness
        assert liveness is not None
        sent_us = kernel.now_us
        patience = liveness.timeout(contact.agent, FIND, PATIENCE)
        kernel.after(round(liveness.hedge(contact.agent, FIND) * 1e6), lambda: self._stalled(contact))
        if kernel.node(contact.agent).dead:
            kernel.after(round(patience * 1e6), lambda: self._failed(contact, sent_us, patience))
            return
        trips = 1 if liveness.latency(contact.agent) is not None else 1 + HANDSHAKE_TRIPS
        there = sum(kernel.delay_us() for _ in range(2 * trips - 1))
        kernel.after(there, lambda: self._asked(contact, sent_us))

    def _asked(self, contact: Contact, sent_us: int) -> None:
        """The find has arrived: the other meets the asker, and names whom it knows near the target."""
        node = self.kernel.node(contact.agent)
        own = self.asker.contact.agent
        node.table.offer(self.asker.contact)
        named = node.table.closest(
            self.lookup.target, MAX_FOUND, lambda one: one.agent != own and node.usable(one)
        )
        self.kernel.after(self.kernel.delay_us(), lambda: self._answered(contact, named, sent_us))

    def _answered(self, contact: Contact, named: Iterable[Contact], sent_us: int) -> None:
        liveness = self.asker.liveness
        assert liveness is not None
        now = self.kernel.now_us
        liveness.answered(contact.agent, FIND, (now - sent_us) / 1e6, now / 1e6)
        self.asker.table.offer(contact)
        self.asker.table.confirm(contact.agent)
        named = list(named)
        self.named += len(named)
        if self.over:
            return
        further = self.depth[contact.agent] + 1
        for one in named:
            self.depth.setdefault(one.agent, further)
        self.lookup.on_response(contact, named)
        self.step()

    def _stalled(self, contact: Contact) -> None:
        if not self.over:
            self.lookup.on_stall(contact)
            self.step()

    def _failed(self, contact: Contact, sent_us: int, waited: float) -> None:
        liveness = self.asker.liveness
        assert liveness is not None
        liveness.timed_out(contact.agent, FIND, waited, sent_us / 1e6, self.kernel.now_us / 1e6)
        if self.over:
            return
        self.unanswered += 1
        self.lookup.on_failure(contact)
        self.step()


def summary(outcomes: Sequence[LookupOutcome]) -> dict[str, float]:
    """Means, the 95th percentile of hops and seconds, and the shares that found what there is."""

    def p95(values: list[float]) -> float:
        return sorted(values)[max(0, math.ceil(0.95 * len(values)) - 1)]

    return {
        "lookups": len(outcomes),
        "hops_mean": round(fmean(one.hops for one in outcomes), 3),
        "hops_max": max(one.hops for one in outcomes),
        "messages_mean": round(fmean(2 * one.finds - one.unanswered for one in outcomes), 1),
        "unanswered_mean": round(fmean(one.unanswered for one in outcomes), 2),
        "seconds_p50": round(sorted(one.seconds for one in outcomes)[len(outcomes) // 2], 3),
        "seconds_p95": round(p95([one.seconds for one in outcomes]), 3),
        "nearest_found": round(fmean(one.nearest for one in outcomes), 4),
        "holders_exact": round(fmean(one.exact for one in outcomes), 4),
    }


def _contact(number: int, seed: int) -> Contact:
    """A storing node's contact at a position that the seed draws; unsigned, as nobody verifies here."""
    agent = sha256(f"{seed}/kernel/agent/{number}".encode()).digest()
    position = sha256(b"kernel position\0" + agent).digest()
    address = f"/dns4/node-{number}.example/tcp/4001"
    return Contact(agent, 0, position, (address,), 1, False, 0, 3600, b"")
