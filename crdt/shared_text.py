"""Texts of one entry that were written apart, put together: what is to be replayed, and by what identities.

An edit that says its splices (`chain.splices`) is a change of a text at a version, and the version is the
set of edits in its causal past along `over`: an event graph (Gentle and Kleppmann, "Collaborative text
editing with Eg-walker", 2025). Values of one entry whose graphs begin at one common value are texts of one
origin, and a text CRDT can put them together; others stand side by side as ever. This module says which,
and in which order what is to be replayed; who replays is handed in (`Engine`).

What an author cannot do here, and why:

- *Claim another's changes, or one's own twice.* A change carries no identity of its own. Its Loro peer is the
  first 8 bytes of the digest of the record's CID, its counters begin at 0: one peer for each author and
  save, and a span that is as long as its splices. Two branches of an equivocator are two peers that wrote
  concurrently.
- *Say splices that do not give the text.* Before a change reaches the engine, its splices are applied to
  the text at its version; unless that gives the text that the edit carries, letter by letter, the change is
  left out and whatever was written on it with it. A value left out stands on its own: it loses nothing, it
  is not merged.
- *Make it dear.* A script has at most `MAX_STEPS` changes, `MAX_SCRIPT_SPLICES` splices and `MAX_TOUCHED`
  code points inserted and deleted. Beyond that some stand aside until somebody overwrites them, author by
  author in turn.

All of it is a function of the values that the view shows and of their causal past, which their CIDs fix. So
exclusion by warrant, deletes and purges need no rules of their own: an offender's value is not shown, so it
is not merged, and what others wrote on top of it stands, as it does for any edit. What was written on top
of a purged edit begins a text of its own, since nobody can replay what is gone. It takes whole records: what
`crdt.compaction` keeps of a value is not enough.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from chain.cid import Cid
from chain.content import Content
from chain.errors import RecordError
from chain.identity import AgentId
from chain.splices import Splice, spliced, touched
from crdt.operations import Operation

MAX_STEPS = 256
"""Changes of one script."""
MAX_SCRIPT_SPLICES = 8192
"""Their splices together."""
MAX_TOUCHED = 256 * 1024
"""Code points that they insert and delete together."""
MAX_ROUNDS = 8
"""Scripts of one origin that are tried for."""
MAX_TRIED = 32
"""Values of one origin that are tried when all of them are beyond the bounds."""
MAX_PAST = 8 * 1024
"""Edits that are walked to find where texts come from."""


@dataclass(frozen=True, slots=True)
class Step:
    """One edit to replay: at the version `over`, these splices must give `text`."""

    record: Cid
    over: tuple[Cid, ...]
    splices: tuple[Splice, ...]
    text: str

    @property
    def peer(self) -> int:
        """Its Loro peer: an unsigned number of 64 bits."""
        return peer_of(self.record)


@dataclass(frozen=True, slots=True)
class Script:
    """What gives the text of `values` (ascending), which all come from `base`: its text, and then `steps`.

    Of the steps each comes after those in its past; which of several comes first, their CIDs decide.
    `left_out` (ascending) would be steps, but were seen not to be what they say.
    """

    base: Cid
    text: str
    steps: tuple[Step, ...]
    values: tuple[Cid, ...]
    left_out: tuple[Cid, ...] = ()


@dataclass(frozen=True, slots=True)
class Merged:
    """The text of `values` (ascending) put together; `left_out` are steps that are not what they say."""

    values: tuple[Cid, ...]
    text: str
    left_out: tuple[Cid, ...] = ()


def makes(step: Step, before: str) -> bool:
    """Whether the splices of a step make its text of `before`. O(splices · text)."""
    try:
        return spliced(before, step.splices) == step.text
    except RecordError:
        return False


class Replayer:
    """Which steps of a script hold; an engine asks before each step, and after the last."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._kept: set[Cid] = {script.base}
        self._peers: dict[int, Cid] = {}
        self._left: list[Cid] = list(script.left_out)

    def depends_on_left(self, step: Step) -> bool:
        """Leave the step out when it was written on one that was, or its peer is another's; whether it is."""
        gone = not self._kept.issuperset(step.over) or step.peer in self._peers or step.peer == BASE_PEER
        if gone:
            self._left.append(step.record)
        return gone

    def holds(self, step: Step, before: str) -> bool:
        """Whether its splices make its text of `before`, the text at its version; else it is left out."""
        good = makes(step, before)
        if good:
            self._kept.add(step.record)
            self._peers[step.peer] = step.record
        else:
            self._left.append(step.record)
        return good

    def values(self) -> tuple[Cid, ...]:
        """Those of the script's values that can be put together."""
        return tuple(value for value in self._script.values if value in self._kept)

    def left_out(self) -> tuple[Cid, ...]:
        """The steps that were left out, ascending."""
        return tuple(sorted(self._left))


Engine = Callable[[Script], Merged | None]
"""Replays a script; None when it cannot. Must be a function of the script alone."""

BASE_PEER = 0
"""The Loro peer of a base's text."""


def peer_of(record: Cid) -> int:
    """The Loro peer of an edit: the first 8 bytes of its CID's digest; 2³² signed tries find two alike."""
    return int.from_bytes(record[-32:-24], "big")


@dataclass(frozen=True, slots=True)
class Texts:
    """The values that an entry shows: groups of one origin as scripts, and the rest `apart` (ascending).

    Among `apart`, `too_long` are values of one origin that the bounds leave no room for, and `left_out` such
    as are not what they say, or were written on one that is not.
    """

    scripts: tuple[Script, ...] = ()
    apart: tuple[Cid, ...] = ()
    too_long: tuple[Cid, ...] = ()
    left_out: tuple[Cid, ...] = ()


def texts_of(
    shown: Iterable[Cid], said: Mapping[Cid, Operation], authors: Mapping[Cid, AgentId] | None = None
) -> Texts:
    """What can be put together of the values `shown`, by what the entry's records say (`crdt.purging`).

    Of more than the bounds allow, those go first that have most edits before them and cost least, of
    `authors` in turn: who writes much crowds out themselves. What has no room in one script may have it
    in another. O(`MAX_ROUNDS` · `MAX_TRIED` · edits in their past).
    """
    values = sorted(cid for cid in set(shown) if isinstance(said.get(cid), Content))
    graph = _Graph(said, values)
    groups: dict[Cid, list[Cid]] = {}
    for value in values:
        groups.setdefault(graph.origin.get(value, value), []).append(value)
    scripts: list[Script] = []
    apart, too_long, left_out = set(values), set[Cid](), set[Cid]()
    for origin in sorted(groups):
        rest = groups[origin]
        for _ in range(MAX_ROUNDS):
            if len(rest) < 2:
                break
            chosen = _fitting(graph, rest, authors or {})
            rest = [cid for cid in rest if cid not in chosen]
            if len(chosen) < 2:
                too_long.update(chosen)
                continue
            script = graph.checked(graph.script(chosen))
            left_out.update(script.left_out)
            if len(script.values) > 1:
                scripts.append(script)
                apart.difference_update(script.values)
        if len(groups[origin]) > 1:
            too_long.update(rest)
    return Texts(
        tuple(scripts), tuple(sorted(apart)), tuple(sorted(too_long)), tuple(sorted(left_out & apart))
    )


def _fitting(graph: _Graph, group: Sequence[Cid], authors: Mapping[Cid, AgentId]) -> list[Cid]:
    """As many values of one origin as the bounds allow, ascending."""
    if len(group) < 2 or _within_bounds(graph.script(group)):
        return list(group)
    turns: dict[AgentId, int] = {}
    order: list[tuple[int, int, int, Cid]] = []
    for depth, cost, cid in sorted((-graph.depth[cid], graph.cost(cid), cid) for cid in group):
        author = authors.get(cid, cid)
        turns[author] = turns.get(author, -1) + 1
        order.append((turns[author], depth, cost, cid))
    chosen: list[Cid] = []
    for _, _, _, cid in sorted(order)[:MAX_TRIED]:
        if _within_bounds(graph.script(sorted((*chosen, cid)))):
            chosen.append(cid)
    return sorted(chosen)


def merged(script: Script, engine: Engine) -> Merged | None:
    """The script's values put together, or None where that is not possible."""
    done = engine(script)
    return None if done is None or len(done.values) < 2 else done


def version_text(over: Sequence[Cid], said: Mapping[Cid, Operation], engine: Engine | None) -> str | None:
    """The text of the values `over` put together, which is what an edit over them splices.

    None when they are not all there, not of one origin, or cannot be replayed.
    """
    values = sorted(set(over))
    contents = [said.get(value) for value in values]
    if not values or not all(isinstance(content, Content) for content in contents):
        return None
    if len(values) == 1:
        (only,) = contents
        return only.text if isinstance(only, Content) else None
    texts = texts_of(values, said)
    if len(texts.scripts) != 1 or texts.apart or engine is None:
        return None
    done = merged(texts.scripts[0], engine)
    return done.text if done is not None and done.values == tuple(values) else None


@dataclass(slots=True)
class _Graph:
    """The edits in the past of some values along `over`, each after those before it, and their origins."""

    said: Mapping[Cid, Operation]
    start: Sequence[Cid]
    order: list[Cid] = field(default_factory=list)
    before: dict[Cid, tuple[Cid, ...]] = field(default_factory=dict)
    origin: dict[Cid, Cid] = field(default_factory=dict)
    depth: dict[Cid, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stack = list(self.start)
        while stack:
            cid = stack.pop()
            if cid in self.before:
                continue
            if len(self.before) >= MAX_PAST:
                self.before.clear()
                return
            self.before[cid] = self._over(cid)
            stack.extend(self.before[cid])
        self.order = _sorted(self.before)
        for cid in self.order:
            origins = {self.origin[one] for one in self.before[cid]}
            if len(origins) != 1:
                self.before[cid] = ()
            self.depth[cid] = 1 + max((self.depth[one] for one in self.before[cid]), default=0)
            self.origin[cid] = origins.pop() if len(origins) == 1 else cid

    def _over(self, cid: Cid) -> tuple[Cid, ...]:
        content = self.said.get(cid)
        if not isinstance(content, Content) or content.splices is None:
            return ()
        if not all(isinstance(self.said.get(one), Content) for one in content.over):
            return ()
        return content.over

    def cost(self, cid: Cid) -> int:
        """What the edit itself adds to a script, in code points."""
        return touched(self._content(cid).splices or ())

    def script(self, values: Sequence[Cid]) -> Script:
        """The script of values of one origin, from the last edit on that all of them have in their past."""
        past = set(values)
        for cid in reversed(self.order):
            if cid in past:
                past.update(self.before[cid])
        line = [cid for cid in self.order if cid in past]
        at = _cut(line, self.before, set(values))
        contents = [(cid, self._content(cid)) for cid in line[at:]]
        steps = (
            Step(cid, self.before[cid], content.splices or (), content.text) for cid, content in contents[1:]
        )
        return Script(line[at], contents[0][1].text, tuple(steps), tuple(values))

    def checked(self, script: Script) -> Script:
        """The script without what is seen to be false with no engine: the text at a version of one value."""
        left: set[Cid] = set()
        for step in script.steps:
            alone = len(step.over) == 1
            if not left.isdisjoint(step.over) or (
                alone and not makes(step, self._content(step.over[0]).text)
            ):
                left.add(step.record)
        return replace(
            script,
            steps=tuple(step for step in script.steps if step.record not in left),
            values=tuple(cid for cid in script.values if cid not in left),
            left_out=tuple(sorted(left)),
        )

    def _content(self, cid: Cid) -> Content:
        content = self.said[cid]
        assert isinstance(content, Content)
        return content


def _cut(line: Sequence[Cid], before: Mapping[Cid, tuple[Cid, ...]], values: Container[Cid]) -> int:
    """The last place of `line` with all earlier ones in its past, none of them a value, that is in the past
    of all later ones."""
    place = {cid: at for at, cid in enumerate(line)}
    earliest = [min((place[one] for one in before[cid]), default=at) for at, cid in enumerate(line)]
    ends: set[int] = set()
    alone: list[int] = []
    for at, cid in enumerate(line):
        ends.difference_update(place[one] for one in before[cid])
        ends.add(at)
        if len(ends) == 1:
            alone.append(at)
    first = next(at for at, cid in enumerate(line) if cid in values)
    reach = len(line)
    cut = 0
    candidates = set(alone)
    for at in range(len(line) - 1, -1, -1):
        if at <= first and at in candidates and reach >= at:
            cut = at
            break
        reach = min(reach, earliest[at])
    return cut


def _sorted(before: Mapping[Cid, tuple[Cid, ...]]) -> list[Cid]:
    """All of them, each after those before it, else by CID."""
    after: dict[Cid, list[Cid]] = {}
    waits: dict[Cid, int] = {}
    for cid, ones in before.items():
        waits[cid] = len(ones)
        for one in ones:
            after.setdefault(one, []).append(cid)
    ready = [cid for cid, count in waits.items() if not count]
    heapq.heapify(ready)
    order: list[Cid] = []
    while ready:
        cid = heapq.heappop(ready)
        order.append(cid)
        for later in after.get(cid, ()):
            waits[later] -= 1
            if not waits[later]:
                heapq.heappush(ready, later)
    return order


def _within_bounds(script: Script) -> bool:
    return (
        len(script.steps) <= MAX_STEPS
        and sum(len(step.splices) for step in script.steps) <= MAX_SCRIPT_SPLICES
        and sum(touched(step.splices) for step in script.steps) <= MAX_TOUCHED
    )
