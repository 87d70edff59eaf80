"""Walking the relations between entries, level by level from one of them; what to read next, and the result.

A plain breadth-first search, as a state machine that never waits: it names the entries of the next level,
is given what was read of them, and goes on. Relations stand at the entry that states them, so those that lead
out of an entry are all known once it was read. Those that lead to it stand at other entries, of which a node
knows only what it holds: `follow` is told of entries that may relate to one, and each is read and believed
only if it does. A target that nobody knows is legal, and shown as such.

The result is a function of what was read: nodes by (distance, id), edges ascending. How much is read is
bounded by depth and limit; what was left out for a limit or for time is said.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from chain.cid import Cid
from chain.identity import AgentId
from chain.reference import Relation, Source
from crdt.trust import Trust
from node.models import MAX_REFERENCES, EntryView

OUT: Final = "out"
IN: Final = "in"
BOTH: Final = "both"
DIRECTIONS: Final = (OUT, IN, BOTH)
FLAGS: Final = ("private", "deleted", "retracted", "conflict")
MAX_DEPTH: Final = 8
MAX_NODES: Final = 256
MAX_SOURCES: Final = 16
"""Sources of one entry that are listed."""
LIMIT: Final = "limit"
TIME: Final = "time"
INCOMING: Final = "incoming"
REFERENCES: Final = "references"
"""Why something is missing: too many entries, no time left, too many entries that may relate to one, an entry
with too many references."""
EXCERPT: Final = 160
"""Characters of a text that a graph shows."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the graph keeps of an entry that was read: a few hundred bytes, and its relations.

    `sources`: the first `MAX_SOURCES` of `sources_total` that it cites, without quotes.
    """

    author: AgentId
    title: str | None
    excerpt: str | None
    flags: tuple[str, ...]
    trust: Trust | None
    relations: tuple[Relation, ...]
    sources: tuple[Source, ...]
    sources_total: int
    all_shown: bool
    """Whether these are all of its references; a view lists `MAX_REFERENCES`."""


@dataclass(frozen=True, slots=True)
class Node:
    """An entry of the graph, `distance` relations of the graph from the start.

    `seen` is None for one that nobody showed, or, unless `read`, that was not looked for any more. `beyond`:
    relations of its that lead out of the graph.
    """

    id: Cid
    distance: int
    seen: Seen | None
    read: bool
    beyond: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """`subject` says that it stands in this relation to `object`."""

    subject: Cid
    predicate: str
    object: Cid


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes, the relations among them, and why there may be more: `LIMIT`, `TIME`, …, ascending."""

    start: Cid
    depth: int
    direction: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    truncated: tuple[str, ...]


@dataclass(slots=True)
class Exploration:
    """The state of a walk; `wave` is what to read now, ascending, and empty at the end."""

    start: Cid
    depth: int
    limit: int
    direction: str = BOTH
    wave: tuple[Cid, ...] = field(init=False)
    level: int = field(init=False, default=0)
    _distances: dict[Cid, int] = field(init=False)
    _seen: dict[Cid, Seen | None] = field(init=False, default_factory=dict)
    _unproven: frozenset[Cid] = field(init=False, default=frozenset())
    """What is in the wave because it may relate to something; it belongs to the graph only if it does."""
    _level_nodes: list[Cid] = field(init=False, default_factory=list)
    _truncated: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.wave = (self.start,)
        self._distances = {self.start: 0}

    def take(self, found: Mapping[Cid, Seen | None]) -> tuple[Cid, ...]:
        """Take what was read of the wave; what `found` lacks was not read in time.

        Returns the entries of which `follow` wants to know who relates to them.
        """
        if any(cid not in found for cid in self.wave):
            self._truncated.add(TIME)
        before = {cid for cid, distance in self._distances.items() if distance == self.level - 1}
        for cid in self.wave:
            seen = found.get(cid)
            if cid in self._unproven and (
                seen is None or before.isdisjoint(one.target for one in seen.relations)
            ):
                continue
            if seen is not None and not seen.all_shown:
                self._truncated.add(REFERENCES)
            self._distances.setdefault(cid, self.level)
            self._level_nodes.append(cid)
            if cid in found:
                self._seen[cid] = seen
        if self.level == self.depth:
            self.wave = ()
            return ()
        return tuple(self._level_nodes) if self.direction != OUT else ()

    def follow(self, relating: Mapping[Cid, Sequence[Cid]], more: bool = False) -> None:
        """Go to the next level.

        `relating`: entries that may relate to those that `take` named; `more`: there are further ones.
        """
        if not self.wave:
            return
        if more:
            self._truncated.add(INCOMING)
        known = self._distances
        proven = {
            one.target
            for cid in self._level_nodes
            if self.direction != IN
            for one in self._relations(cid)
            if one.target not in known
        }
        unproven = {cid for found in relating.values() for cid in found} - proven - known.keys()
        following = [*sorted(proven), *sorted(unproven)]
        room = self.limit - len(known)
        if len(following) > room:
            self._truncated.add(LIMIT)
        chosen = following[: max(0, room)]
        self.level += 1
        self._level_nodes = []
        self._unproven = frozenset(unproven)
        self.wave = tuple(sorted(chosen))
        for cid in chosen:
            if cid in proven:
                self._distances[cid] = self.level

    def give_up(self, found: Mapping[Cid, Seen | None]) -> None:
        """There is no time left: take what was read, and leave the rest unread."""
        self._truncated.add(TIME)
        self.take(found)
        self.wave = ()

    def graph(self) -> Graph:
        """The graph as far as it is known."""
        edges = {
            Edge(cid, one.predicate, one.target)
            for cid in self._distances
            for one in self._relations(cid)
            if one.target in self._distances
        }
        nodes = [self._node(cid, distance) for cid, distance in self._within(edges).items()]
        return Graph(
            self.start,
            self.depth,
            self.direction,
            tuple(sorted(nodes, key=lambda node: (node.distance, node.id))),
            tuple(sorted(edges)),
            tuple(sorted(self._truncated)),
        )

    def _within(self, edges: Collection[Edge]) -> dict[Cid, int]:
        """How far each entry is from the start on these relations.

        An entry for which there was no room at its level may have come in at a later one.
        """
        beside: dict[Cid, set[Cid]] = {}
        for edge in edges:
            if self.direction != IN:
                beside.setdefault(edge.subject, set()).add(edge.object)
            if self.direction != OUT:
                beside.setdefault(edge.object, set()).add(edge.subject)
        found, level = {self.start: 0}, [self.start]
        while level:
            following = {cid for one in level for cid in beside.get(one, ())} - found.keys()
            found |= dict.fromkeys(following, found[level[0]] + 1)
            level = list(following)
        return found

    def _node(self, cid: Cid, distance: int) -> Node:
        beyond = sum(one.target not in self._distances for one in self._relations(cid))
        return Node(cid, distance, self._seen.get(cid), cid in self._seen, beyond)

    def _relations(self, cid: Cid) -> tuple[Relation, ...]:
        seen = self._seen.get(cid)
        return () if seen is None else seen.relations


def seen_of(view: EntryView) -> Seen:
    """What the graph keeps of an entry."""
    named = {Source(one.source, one.link) for one in view.references if isinstance(one, Source)}
    sources = sorted(
        named | {Source(text) for text in view.citations if text},
        key=lambda one: (one.source, one.link or ""),
    )
    titles = [str(state.values[0][2]) for state in view.fields if state.name == "title" and state.values]
    return Seen(
        author=view.author,
        title=titles[0][:EXCERPT] if titles else None,
        excerpt=None if view.text is None else " ".join(view.text[: 4 * EXCERPT].split())[:EXCERPT],
        flags=tuple(name for name in FLAGS if getattr(view, name)),
        trust=view.trust,
        relations=tuple(one for one in view.references if isinstance(one, Relation)),
        sources=tuple(sources[:MAX_SOURCES]),
        sources_total=len(sources),
        all_shown=len(view.references) < MAX_REFERENCES,
    )
