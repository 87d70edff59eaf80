"""Faults as data: what goes wrong in a run, for whom and when, and what that does to one message.

A `FaultPlan` is written down before the run and never changes: intervals of virtual time in which the network
is cut, peers are slow, lossy or have little bandwidth, and in which nodes are down. Everything in it is a
pure function of the time, so that a run repeats exactly and a test can ask the plan itself. `FaultyLink` puts
a plan around any other link and keeps the one thing that needs memory: how long each link is still busy with
what was sent before (a queue with a bound, drained in order at the link's rate, like the buffer of a router).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Literal, TypeAlias

from dht.network import PeerId
from sim.links import Link
from sim.virtual_clock import virtual_us

Lie: TypeAlias = Literal["forger", "pusher", "forker", "accuser", "dropper", "hollow", "garbage", "slow"]
"""The kinds of liars; `sim.liars` has what each does."""

SECOND_US = 1_000_000
OVERHEAD_BYTES = 100
"""What framing, encryption, TCP and IP add to a message on a link of limited bandwidth."""
MAX_QUEUE_US = 10 * SECOND_US
"""How much a link may have waiting, in µs of its own sending; what comes then is lost: the buffer is full."""
MAX_CHURN_CYCLES = 1_000
"""Crashes of one node in one spell of churn."""


@dataclass(frozen=True, slots=True)
class Span:
    """An interval of virtual time in µs, its end not included."""

    start_us: int = 0
    end_us: float = inf

    def __contains__(self, now_us: int) -> bool:
        return self.start_us <= now_us < self.end_us


@dataclass(frozen=True, slots=True)
class Partition:
    """No message passes between two sides; all who are on no side named here are on one more."""

    span: Span
    sides: tuple[frozenset[str], ...]

    def cuts(self, one: str, other: str) -> bool:
        """Whether two nodes are on different sides."""
        return self._side(one) != self._side(other)

    def _side(self, name: str) -> int:
        return next((number for number, side in enumerate(self.sides) if name in side), -1)


@dataclass(frozen=True, slots=True)
class Slow:
    """Every message to or from these nodes takes so much longer; between two of them, twice that."""

    span: Span
    nodes: frozenset[str]
    extra_us: int


@dataclass(frozen=True, slots=True)
class Lossy:
    """A share of the messages to or from these nodes is lost, besides what the link loses itself."""

    span: Span
    nodes: frozenset[str]
    loss: float


@dataclass(frozen=True, slots=True)
class Narrow:
    """Each link to or from these nodes carries only so many bytes a second in each direction."""

    span: Span
    nodes: frozenset[str]
    bytes_per_s: int


@dataclass(frozen=True, slots=True)
class Down:
    """A node is killed when the span begins and started again, with its disk, when it ends.

    One that goes `in_order` is asked to leave instead: it may hand over first.
    """

    span: Span
    node: str
    in_order: bool = False


@dataclass(frozen=True, slots=True)
class Skewed:
    """The wall clocks of these nodes are so much ahead (negative: behind)."""

    span: Span
    nodes: frozenset[str]
    skew_us: int


@dataclass(frozen=True, slots=True)
class Lying:
    """From the beginning of the span on a node is a liar of this kind (`sim.liars`), after restarts too."""

    span: Span
    node: str
    kind: Lie


LinkFault = Partition | Slow | Lossy | Narrow
Fault = LinkFault | Down | Skewed | Lying


@dataclass(frozen=True, slots=True)
class HostEvent:
    """A node is killed or leaves in order (`up` False), or is started again."""

    at_us: int
    node: str
    up: bool
    in_order: bool = False


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """All faults of a run. Every method costs O(faults)."""

    faults: tuple[Fault, ...] = ()

    def only(self, *kinds: type) -> FaultPlan:
        """The faults of these kinds: what is asked of them for every message need not pass all others."""
        return FaultPlan(tuple(fault for fault in self.faults if isinstance(fault, kinds)))

    def cut(self, now_us: int, one: str, other: str) -> bool:
        """Whether nothing passes between two nodes; the same in both directions."""
        return any(
            isinstance(fault, Partition) and now_us in fault.span and fault.cuts(one, other)
            for fault in self.faults
        )

    def extra_us(self, now_us: int, one: str, other: str) -> int:
        """How much longer a message between two nodes takes, in µs."""
        return sum(
            fault.extra_us * ((one in fault.nodes) + (other in fault.nodes))
            for fault in self.faults
            if isinstance(fault, Slow) and now_us in fault.span
        )

    def loss(self, now_us: int, one: str, other: str) -> float:
        """The probability that a message between two nodes is lost to a fault."""
        kept = 1.0
        for fault in self.faults:
            if (
                isinstance(fault, Lossy)
                and now_us in fault.span
                and (one in fault.nodes or other in fault.nodes)
            ):
                kept *= 1 - fault.loss
        return 1 - kept

    def bytes_per_s(self, now_us: int, one: str, other: str) -> int | None:
        """The least that a fault leaves of the bandwidth between two nodes; None without one."""
        rates = [
            fault.bytes_per_s
            for fault in self.faults
            if isinstance(fault, Narrow) and now_us in fault.span and {one, other} & fault.nodes
        ]
        return min(rates, default=None)

    def skew_us(self, now_us: int, node: str) -> int:
        """How far a node's wall clock is ahead, in µs."""
        return sum(
            fault.skew_us
            for fault in self.faults
            if isinstance(fault, Skewed) and now_us in fault.span and node in fault.nodes
        )

    def liars(self) -> dict[str, Lying]:
        """Who lies in this run, by name, and how; a node that is named twice lies as it was named first."""
        found: dict[str, Lying] = {}
        for fault in self.faults:
            if isinstance(fault, Lying):
                found.setdefault(fault.node, fault)
        return found

    def host_events(self) -> list[HostEvent]:
        """Kills and starts in order of time; where a node's spans overlap or touch it is down once."""
        spans: dict[str, list[Span]] = {}
        in_order: set[tuple[str, int]] = set()
        for fault in self.faults:
            if isinstance(fault, Down):
                spans.setdefault(fault.node, []).append(fault.span)
                if fault.in_order:
                    in_order.add((fault.node, fault.span.start_us))
        events: list[HostEvent] = []
        for node in sorted(spans):
            merged: list[Span] = []
            for span in sorted(spans[node], key=lambda span: (span.start_us, span.end_us)):
                if merged and span.start_us <= merged[-1].end_us:
                    merged[-1] = Span(merged[-1].start_us, max(merged[-1].end_us, span.end_us))
                else:
                    merged.append(span)
            for span in merged:
                events.append(HostEvent(span.start_us, node, False, (node, span.start_us) in in_order))
                if span.end_us < inf:
                    events.append(HostEvent(round(span.end_us), node, True))
        return sorted(events, key=lambda event: (event.at_us, event.up, event.node))

    def ends_us(self) -> int:
        """When the last fault begins or ends."""
        times = [fault.span.start_us for fault in self.faults]
        times += [round(fault.span.end_us) for fault in self.faults if fault.span.end_us < inf]
        return max(times, default=0)


def churn(
    nodes: Iterable[str], span: Span, up_s: float, down_s: float, rng: random.Random
) -> tuple[Down, ...]:
    """Nodes that come and go: up for `up_s` and down for `down_s` seconds on average, each on its own.

    Both times are exponential, the usual model of churn. All are up again when the span, which must have an
    end, is over.
    """
    downs: list[Down] = []
    for node in nodes:
        now_us = float(span.start_us)
        for _ in range(MAX_CHURN_CYCLES):
            start_us = now_us + rng.expovariate(1 / up_s) * SECOND_US
            now_us = start_us + rng.expovariate(1 / down_s) * SECOND_US
            if round(start_us) >= span.end_us:
                break
            downs.append(Down(Span(round(start_us), min(max(now_us, start_us + 1), span.end_us)), node))
    return tuple(downs)


@dataclass(slots=True)
class FaultyLink:
    """`base` with a plan's faults, and with `bytes_per_s` for every link in each direction (None: no limit).

    On a link of limited bandwidth messages arrive in the order in which they were sent, as over TCP. `names`
    says which node a peer is; peers without a name have no faults.
    """

    base: Link
    plan: FaultPlan
    names: Mapping[PeerId, str]
    bytes_per_s: int | None = None
    now_us: Callable[[], int] = virtual_us
    origin_us: float = 0
    """When the plan's time begins; before that nothing in it happens."""
    _links: FaultPlan = field(init=False)
    _busy_until: dict[tuple[PeerId, PeerId], int] = field(default_factory=dict)
    _last_arrival: dict[tuple[PeerId, PeerId], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._links = self.plan.only(Partition, Slow, Lossy, Narrow)

    def __call__(self, sender: PeerId, receiver: PeerId, size: int, rng: random.Random) -> int | None:
        delay = self.base(sender, receiver, size, rng)
        if delay is None:
            return None
        now = self.now_us()
        one, other = self.names.get(sender, ""), self.names.get(receiver, "")
        rates = [self.bytes_per_s]
        if one and other:
            at = -1 if now < self.origin_us else now - round(self.origin_us)
            if self._links.cut(at, one, other):
                return None
            loss = self._links.loss(at, one, other)
            if loss > 0 and rng.random() < loss:
                return None
            delay += self._links.extra_us(at, one, other)
            rates.append(self._links.bytes_per_s(at, one, other))
        limits = [rate for rate in rates if rate is not None]
        return self._queued(sender, receiver, size, delay, now, min(limits)) if limits else delay

    def _queued(
        self, sender: PeerId, receiver: PeerId, size: int, delay: int, now: int, rate: int
    ) -> int | None:
        way = (sender, receiver)
        free = max(now, self._busy_until.get(way, 0))
        if free - now > MAX_QUEUE_US:
            return None
        sent = free + -(-(size + OVERHEAD_BYTES) * SECOND_US // rate)
        arrival = max(sent + delay, self._last_arrival.get(way, 0))
        self._busy_until[way], self._last_arrival[way] = sent, arrival
        return arrival - now
