"""The trail of a query: whom it asked for what, when, and how that ended, kept while it runs.

A few numbers for each request, so it is kept always and shown to who asks for it: `route_of` orders it for
people who want to know why an answer is as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from chain.identity import AgentId
from dht.ports import Clock
from node.models import HolderAsked, Route, RoutedShard
from node.query.choosing import Choice
from sharding.tree import Prefix

LIKELY = "among the likeliest"
TOO_FEW = "the likeliest brought too few hits"
MOVED = "a holder proved that a shard was divided or joined"
TO_CONFIRM = "would have to show one of the hits"
BEYOND = "beyond the recall wanted"
DEADLINE = "the deadline came first"
REASONS = (LIKELY, MOVED, TOO_FEW, TO_CONFIRM, BEYOND, DEADLINE)
"""Why a shard was asked, or was not."""
MAX_PROBLEM = 160
"""Characters of what a holder says about itself."""


@dataclass(slots=True)
class Request:
    """One request as it goes: seconds of the clock, and what came of it."""

    node: AgentId
    shards: tuple[Prefix, ...]
    began_s: float
    again: bool
    here: bool
    complete: tuple[Prefix, ...] = ()
    hits: int = 0
    ended_s: float | None = None
    slow: bool = False
    problem: str | None = None

    def answered(self, complete: Sequence[Prefix], hits: int, now_s: float) -> None:
        """It brought so many hits, and everything of these shards."""
        self.complete, self.hits, self.ended_s = tuple(complete), hits, now_s

    def failed(self, problem: str, now_s: float) -> None:
        """It did not answer, or not as it should."""
        self.problem, self.ended_s = problem[:MAX_PROBLEM], now_s


@dataclass(slots=True)
class Trail:
    """All requests of one query, and why shards were asked."""

    clock: Clock
    began_s: float
    requests: list[Request] = field(default_factory=list)
    why: dict[Prefix, str] = field(default_factory=dict)

    def begin_wave(self, shards: Collection[Prefix], why: str) -> None:
        """These shards are asked now."""
        self.why.update(dict.fromkeys(shards, why))

    def request(self, node: AgentId, shards: Sequence[Prefix], again: bool, here: bool) -> Request:
        """A request goes out, or is answered `here`."""
        made = Request(node, tuple(shards), self.clock.monotonic(), again, here)
        self.requests.append(made)
        return made

    def waited_for(self) -> list[Request]:
        """Requests without an end."""
        return [one for one in self.requests if one.ended_s is None]


def route_of(trail: Trail, choice: Choice, wanted_ppm: int, deadline_hit: bool) -> Route:
    """The route that a trail shows. O(shards * log(shards) + requests)."""
    answered: dict[Prefix, AgentId] = {}
    for request in trail.requests:
        for shard in request.complete:
            answered.setdefault(shard, request.node)
    left = DEADLINE if deadline_hit else BEYOND
    shards = sorted(
        (*choice.likely, *choice.others), key=lambda shard: (-choice.expected_ppm.get(shard, 0), shard)
    )
    return Route(
        wanted_ppm=wanted_ppm,
        shards=tuple(
            RoutedShard(
                shard=shard,
                expected_ppm=choice.expected_ppm.get(shard, 0),
                asked=shard in trail.why,
                why=trail.why.get(shard, left),
                answered_by=answered.get(shard),
            )
            for shard in shards
        ),
        asked=tuple(_shown(request, trail.began_s) for request in trail.requests),
    )


def _shown(request: Request, began_s: float) -> HolderAsked:
    ended = request.ended_s
    outcome = "not waited for" if ended is None else "answered" if request.problem is None else "failed"
    return HolderAsked(
        node=request.node,
        shards=len(request.shards),
        complete=len(request.complete),
        hits=request.hits,
        at_ms=round((request.began_s - began_s) * 1_000, 3),
        ms=None if ended is None else round((ended - request.began_s) * 1_000, 3),
        again=request.again,
        here=request.here,
        slow=request.slow,
        outcome=outcome,
        problem=request.problem,
    )
