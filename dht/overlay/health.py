"""Health: how a node says it is doing, and what an asker makes of it when several nodes could answer.

Nodes that work together tell each other in a few numbers how busy they are (`dht.overlay.heartbeat`). Nobody
can check them, so they are hints: what the asker has measured itself, how long a node's answers took and how
many failed, weighs without bound, what the node says of itself between 1 and `HINT_MOST`, and nothing said
as much as half of that. A node that claims to be idle while it is not gains a fifth, as long as it answers as
fast as it claims. And nobody gets everything: among nodes that differ by less than a draw, a different one
goes first in each question, as the best of all, asked by everybody at once, would not stay the best
(Mitzenmacher, "How useful is old information?", 2000). Pure.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

from chain import canonical
from chain.errors import EncodingError
from chain.identity import AgentId
from dht.errors import FrameError
from sharding.errors import TreeError
from sharding.load import Smoothed
from sharding.tree import Prefix

HEALTH = "peer.health"
MAX_BODY = 512
MAX_HOT = 16
"""Shards that a node says are asked for too much."""
MOST = 1000
"""Shares are given in thousandths."""
MAX_LATENCY_MS = 60_000
MAX_COUNT = (1 << 53) - 1
MAX_PEERS = 1024
"""Peers of whom something is remembered; one more forgets the one heard of or measured longest ago."""
STALE_S = 60.0
"""What was said, or measured, longer ago counts as not known."""
HINT_MOST = 1.2
"""What a node says of itself makes it look so many times as slow at most."""
SPREAD = 2.0
"""A draw makes a node look up to so many times as slow: those within that share the questions."""
ERRORS_WEIGH = 8.0
"""A node of which all answers failed looks so many times slower, and once more."""
FLOOR_S = 0.02
"""Added to all latencies: what differs by a few milliseconds is alike."""
CURIOUS = 2.0
"""Of whom no search has been measured, half of its other latency is assumed: so it comes to be."""
CROWDED = 900
"""Memory in use beyond this many thousandths strains a node."""


@dataclass(frozen=True, slots=True)
class Health:
    """What a node says of itself.

    `cpu`, `memory` and `errors` are thousandths: of the machine's processors and memory in use, and of the
    searches for others that failed here lately; `latency_ms` how long one takes here, `searches` how many
    come in 1,000 s; `records` are held for others.
    """

    cpu: int = 0
    memory: int = 0
    errors: int = 0
    latency_ms: int = 0
    searches: int = 0
    records: int = 0
    hot: tuple[Prefix, ...] = ()
    """Shards of which more copies would be worth it, ascending; at most `MAX_HOT`."""

    @property
    def numbers(self) -> dict[str, int]:
        """By name, for people; of the hot shards how many there are."""
        return {**{name: getattr(self, name) for name in LIMITS}, "hot": len(self.hot)}

    @property
    def strain(self) -> float:
        """How busy that is, from 0 to 1: by whatever is scarcest."""
        crowded = (self.memory - CROWDED) / (MOST - CROWDED)
        return max(0.0, min(1.0, max(self.cpu / MOST, self.errors / MOST, self.latency_ms / 1_000, crowded)))


LIMITS = dict(
    zip(
        (one.name for one in fields(Health) if one.name != "hot"),
        (MOST, MOST, MOST, MAX_LATENCY_MS, MAX_COUNT, MAX_COUNT),
        strict=True,
    )
)


def clipped(hot: Iterable[Prefix] = (), **values: float) -> Health:
    """A health of these numbers, each rounded and brought within its limits."""
    said: dict[str, int] = {name: max(0, min(LIMITS[name], round(value))) for name, value in values.items()}
    return _health([said.get(name, 0) for name in LIMITS], tuple(sorted(hot)[:MAX_HOT]))


def _health(numbers: Sequence[int], hot: tuple[Prefix, ...]) -> Health:
    cpu, memory, errors, latency_ms, searches, records = numbers
    return Health(cpu, memory, errors, latency_ms, searches, records, hot)


def encode_health(health: Health) -> bytes:
    """The body of a heartbeat, and of its answer: the array of the fields in order."""
    numbers: list[canonical.Value] = [getattr(health, name) for name in LIMITS]
    return canonical.encode([*numbers, [[one.length, one.bits, one.generation] for one in health.hot]])


def decode_health(body: bytes) -> Health:
    """Fields that a later release adds are passed over. Raises `FrameError`."""
    try:
        value = canonical.decode(body, MAX_BODY)
    except EncodingError as error:
        raise FrameError(f"the body of {HEALTH!r} is malformed: {error}") from error
    if type(value) is not list or len(value) < len(LIMITS):
        raise FrameError(f"the body of {HEALTH!r} is no array of {len(LIMITS)} numbers")
    said = value[: len(LIMITS)]
    for name, number in zip(LIMITS, said, strict=True):
        if type(number) is not int or not 0 <= number <= LIMITS[name]:
            raise FrameError(f"{HEALTH!r} gives {name} as {number!r:.40}, outside 0 … {LIMITS[name]}")
    hot = _prefixes(value[len(LIMITS)]) if len(value) > len(LIMITS) else ()
    return _health(said, hot)


def _prefixes(value: object) -> tuple[Prefix, ...]:
    if type(value) is not list or len(value) > MAX_HOT:
        raise FrameError(f"{HEALTH!r} names no list of at most {MAX_HOT} shards")
    found: list[Prefix] = []
    for one in value:
        if type(one) is not list or len(one) != 3 or any(type(number) is not int for number in one):
            raise FrameError(f"{HEALTH!r} names a shard that is no [length, bits, generation]")
        try:
            found.append(Prefix(one[1], one[0], one[2]))
        except TreeError as error:
            raise FrameError(f"{HEALTH!r} names a shard that is none: {error}") from error
    if any(a >= b for a, b in zip(found, found[1:], strict=False)):
        raise FrameError(f"{HEALTH!r} names shards that do not ascend")
    return tuple(found)


@dataclass(slots=True)
class _Known:
    said: Health | None = None
    said_at: float = -math.inf
    seconds: Smoothed = field(default_factory=Smoothed)
    errors: Smoothed = field(default_factory=Smoothed)
    measured_at: float = -math.inf


class HealthBook:
    """What peers said of themselves and what asking them has shown. O(1); `now` in seconds."""

    def __init__(self, max_peers: int = MAX_PEERS) -> None:
        self._max_peers = max_peers
        self._known: OrderedDict[AgentId, _Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def hear(self, agent: AgentId, health: Health, now: float) -> None:
        """`agent` says this of itself."""
        one = self._of(agent)
        one.said, one.said_at = health, now

    def answered(self, agent: AgentId, seconds: float, now: float) -> None:
        """A search at `agent` was answered after so long."""
        one = self._measure(agent, now)
        one.seconds.add(seconds)
        one.errors.add(0.0)

    def failed(self, agent: AgentId, seconds: float, now: float) -> None:
        """A search at `agent` failed, or was not answered in time, after so long."""
        one = self._measure(agent, now)
        one.errors.add(1.0)
        if one.seconds.value is None or seconds > one.seconds.value:
            one.seconds.add(seconds)

    def said(self, agent: AgentId, now: float) -> Health | None:
        """What `agent` says of itself, unless that was too long ago."""
        one = self._known.get(agent)
        return None if one is None or now - one.said_at > STALE_S else one.said

    def hot(self, now: float) -> dict[Prefix, set[AgentId]]:
        """The shards that are said to be asked for too much, each with who says so. O(peers)."""
        found: dict[Prefix, set[AgentId]] = {}
        for agent, one in self._known.items():
            if one.said is not None and one.said.hot and now - one.said_at <= STALE_S:
                for shard in one.said.hot:
                    found.setdefault(shard, set()).add(agent)
        return found

    def measured(self, agent: AgentId, now: float) -> tuple[float | None, float]:
        """(Seconds that a search at `agent` takes, share of those that fail), as measured here lately.

        What was measured long ago counts as unknown: who once was slow, and is not asked for it, could never
        show that it is not any more.
        """
        one = self._known.get(agent)
        if one is None or now - one.measured_at > STALE_S:
            return None, 0.0
        return one.seconds.value, one.errors.value or 0.0

    def cost(self, agent: AgentId, usual_s: float | None, draw: float, now: float) -> float:
        """What asking `agent` costs, to be compared with others that could answer the same: lower is better.

        `usual_s`: how long it takes for anything, where no search has been measured. `draw`: from 0 to 1, one
        for each node and question. Never 0.
        """
        seconds, errors = self.measured(agent, now)
        health = self.said(agent, now)
        strain = 0.5 if health is None else health.strain
        hint = 1 + (HINT_MOST - 1) * strain
        known = FLOOR_S + (seconds if seconds is not None else (usual_s or 0.0) / CURIOUS)
        return known * (1 + ERRORS_WEIGH * errors) * hint * (1 + (SPREAD - 1) * draw)

    def _measure(self, agent: AgentId, now: float) -> _Known:
        one = self._of(agent)
        if now - one.measured_at > STALE_S:
            one.seconds, one.errors = Smoothed(), Smoothed()
        one.measured_at = now
        return one

    def _of(self, agent: AgentId) -> _Known:
        one = self._known.get(agent)
        if one is None:
            if len(self._known) >= self._max_peers:
                self._known.popitem(last=False)
            one = self._known[agent] = _Known()
        self._known.move_to_end(agent)
        return one
