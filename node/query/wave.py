"""The query wave as a state machine: which holder to ask for which shards, and when it is over.

A query's shards are covered greedily by as few nodes as hold them (set cover; Chvátal 1979), all asked at
once. Every shard must be answered completely by one holder. When a node fails, answers incompletely, or is
slower than its hedge delay, its unanswered shards are covered again by their next replicas; whichever answer
comes first counts. Whoever may be no holder, or was slow lately, is asked when nobody better is left, and
when nobody at all is left, holders that are suspected because an answer was lost, in this query or before it:
a lost message says little about who sent it.
The machine is pure: it is told what happened and says whom to ask. It promises that a suspect is asked after
all others and once, and nobody else twice for a shard, nor who refused, answered badly or incompletely, so a
query makes at most (tries × shards) requests and, where answers get lost, (replicas × shards) more; that no
shard waits for a node that is past its hedge delay while another could answer; and that an unanswered shard
is reported as missed, never silently dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from chain.identity import AgentId
from sharding.tree import Prefix

MAX_TRIES = 5
"""Holders asked for one shard before it counts as missed."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: these shards of this node."""

    node: AgentId
    shards: tuple[Prefix, ...]
    suspected: bool = False
    """An answer of the node was lost, and nobody else is left to ask."""


@dataclass(slots=True)
class _Shard:
    first: tuple[AgentId, ...]
    rest: tuple[AgentId, ...]
    holders: tuple[AgentId, ...]
    """Who should hold it, suspected or not."""
    asked: list[AgentId] = field(default_factory=list)
    asked_last: list[AgentId] = field(default_factory=list)
    waiting: int = 0
    slow: int = 0
    """How many of those waited for have passed their hedge delay."""
    complete: bool = False


class Wave:
    """Covers `holders` (shard → its holders in order of preference) and tracks the answers.

    `cost` orders nodes that cover equally many shards: lower first (0 for this node itself). The first
    `replicas` of a shard's nodes should hold it and go before the others, and so do its `guests`; `late`
    nodes go after these, and `suspects` (shard → those who should hold it, too) last.
    """

    def __init__(
        self,
        holders: Mapping[Prefix, Sequence[AgentId]],
        cost: Callable[[AgentId], float] = lambda _: 0.0,
        replicas: int = MAX_TRIES,
        late: Container[AgentId] = frozenset(),
        guests: Container[tuple[AgentId, Prefix]] = frozenset(),
        suspects: Mapping[Prefix, Sequence[AgentId]] = MappingProxyType({}),
    ) -> None:
        self.guests = guests
        self._shards: dict[Prefix, _Shard] = {}
        self._suspects: set[AgentId] = set()
        self._given_up: set[AgentId] = set()
        for shard in sorted(holders):
            nodes = holders[shard][:MAX_TRIES]
            first = tuple(
                node
                for rank, node in enumerate(nodes)
                if node not in late and (rank < replicas or (node, shard) in guests)
            )
            rest = tuple(node for node in nodes if node not in first)
            suspected = tuple(suspects.get(shard, ()))
            should = tuple(dict.fromkeys((*nodes[:replicas], *suspected)))
            self._shards[shard] = _Shard(first, rest, should)
            self._suspects.update(suspected)
        self._cost = cost
        self._waiting: set[Ask] = set()
        self._slow: set[Ask] = set()

    def start(self) -> list[Ask]:
        """The first wave: every shard once, by as few nodes as the greedy cover finds."""
        return self._cover([name for name, shard in self._shards.items() if not shard.complete])

    def on_answer(self, ask: Ask, complete: Sequence[Prefix]) -> list[Ask]:
        """`ask` was answered; shards not in `complete` go on to their next holder."""
        again: list[Prefix] = []
        for name in ask.shards:
            shard = self._shards[name]
            shard.waiting -= 1
            shard.slow -= ask in self._slow
            if name in complete:
                shard.complete = True
            elif not shard.complete and shard.waiting == shard.slow:
                again.append(name)
        self._waiting.discard(ask)
        self._slow.discard(ask)
        return self._cover(again)

    def on_failure(self, ask: Ask) -> list[Ask]:
        """`ask` failed: nothing more is expected of that node in this query."""
        self._given_up.add(ask.node)
        return self.on_answer(ask, ())

    def on_loss(self, ask: Ask) -> list[Ask]:
        """The answer to `ask` was lost: the node is a suspect, or given up if it was one."""
        if ask.suspected:
            return self.on_failure(ask)
        self._suspects.add(ask.node)
        return self.on_answer(ask, ())

    def on_slow(self, ask: Ask) -> list[Ask]:
        """`ask` passed its hedge delay; its answer is still welcome."""
        if ask not in self._waiting or ask in self._slow:
            return []
        self._slow.add(ask)
        for name in ask.shards:
            self._shards[name].slow += 1
        return self._cover([name for name in ask.shards if not self._shards[name].complete])

    @property
    def done(self) -> bool:
        """Whether nothing outstanding could still improve the answer."""
        return all(shard.complete or shard.waiting == 0 for shard in self._shards.values())

    @property
    def missed(self) -> tuple[Prefix, ...]:
        """Shards that no holder has answered completely."""
        return tuple(name for name, shard in self._shards.items() if not shard.complete)

    def _cover(self, names: Sequence[Prefix]) -> list[Ask]:
        open_names = [name for name in names if self._next(name)]
        asks: list[Ask] = []
        while open_names:
            reach: dict[AgentId, list[Prefix]] = {}
            for name in open_names:
                for node in self._next(name):
                    reach.setdefault(node, []).append(name)
            node = min(reach, key=lambda agent: (-len(reach[agent]), self._cost(agent), agent))
            taken = reach[node]
            suspected = node in self._suspects
            for name in taken:
                shard = self._shards[name]
                (shard.asked_last if suspected else shard.asked).append(node)
                shard.waiting += 1
            asks.append(Ask(node, tuple(taken), suspected))
            self._waiting.add(asks[-1])
            open_names = [name for name in open_names if name not in taken]
        return asks

    def _next(self, name: Prefix) -> list[AgentId]:
        shard = self._shards[name]
        avoided = self._given_up | self._suspects
        for nodes in (shard.first, shard.rest):
            left = [node for node in nodes if node not in shard.asked and node not in avoided]
            if left:
                return left
        last = self._suspects - self._given_up
        return [node for node in shard.holders if node in last and node not in shard.asked_last]
