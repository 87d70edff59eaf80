"""The iterative lookup: who is responsible for a key, found out by asking ever closer nodes.

Kademlia's node lookup (Maymounkov and Mazières, 2002) as a state machine without I/O: it says whom to ask
next and is told what came back, until the k closest candidates have all answered or nobody is left.

Rules. A contact that somebody named is a candidate and nothing more: only who *answered* is in the result,
so a liar cannot put the dead into it. A candidate is asked at most once. A question that stays open for long
(`on_stall`) is still waited for, but somebody else is asked in its place, so that all the silent together
cost about one timeout. With several paths (S/Kademlia;
Baumgart and Mies, 2007) every candidate belongs to the path that heard of it first and its answer feeds that
path only, so a liar misleads the path it stands on and no other; each path pursues its own share of the
result, and at the end the k closest candidates of all paths must have answered too, so that on an honest
network the result is the same as with one path. Candidates, names taken from one answer, and questions are
bounded: a lookup always ends.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from chain.identity import AgentId
from dht.overlay.contact import Contact
from dht.overlay.distance import FARTHEST, as_int
from dht.overlay.routing_table import K

ALPHA = 5
"""Questions under way at a time (Kademlia's α); each that stalls makes room for one more, up to twice α."""
PATIENCE = 1.0
"""Longest adaptive timeout of one question in seconds: what one does not say, others will."""
READ_PATHS = 3
"""Disjoint paths of a lookup that reads."""
MAX_ANSWER = K
"""Contacts taken from one answer; the rest is ignored."""
MAX_QUERIES = 12 * K
"""Questions of one lookup; then it ends with what it has."""
MAX_CANDIDATES = MAX_QUERIES + 8 * K
"""Candidates kept for one path, asked ones too; beyond it the farthest unasked ones are forgotten."""


class _State(Enum):
    NEW = 0
    ASKED = 1
    ANSWERED = 2
    FAILED = 3


@dataclass(slots=True)
class _Candidate:
    contact: Contact
    distance: int
    path: int
    state: _State = _State.NEW


class Lookup:
    """One lookup of `target` (32 bytes), started from `seeds`.

    Drive it so: until `done`, send a find to each of `next_queries()`, and for every one of them call
    `on_response` or `on_failure` once; questions under way when it is done may be abandoned. `own`, when
    given, is never a candidate.
    """

    def __init__(
        self,
        target: bytes,
        k: int,
        alpha: int = ALPHA,
        seeds: Sequence[Contact] = (),
        *,
        paths: int = 1,
        own: AgentId | None = None,
    ) -> None:
        if k < 1 or alpha < 1 or paths < 1:
            raise ValueError(f"k {k}, alpha {alpha} and paths {paths} must be positive")
        self.target = target
        self.k = k
        self._origin = as_int(target)
        self._alpha = alpha
        self._own = own
        self._share = -(-k // paths)
        self._known: dict[AgentId, _Candidate] = {}
        self._paths: list[list[tuple[int, AgentId]]] = [[] for _ in range(paths)]
        """For each path its candidates that have not failed, nearest first."""
        self._everyone: list[tuple[int, AgentId]] = []
        self._under_way = 0
        self._silent = 0
        self._stalled: set[AgentId] = set()
        """Asked, still open, and late: they keep nobody else waiting. `_silent` counts how many ever were."""
        self._asked = 0
        self._fresh: list[Contact] = []
        nearest_first = sorted(seeds, key=lambda seed: self._origin ^ as_int(seed.position))
        for turn, seed in enumerate(nearest_first):
            self._add(seed, turn % paths)

    @property
    def done(self) -> bool:
        """Whether the result is final; what is still under way then can no longer change it."""
        return (self._exhausted and not self._under_way and not self._stalled) or next(
            self._open(), None
        ) is None

    @property
    def result(self) -> list[Contact]:
        """The at most k closest contacts that answered, nearest first; final once `done`."""
        return [
            candidate.contact
            for candidate in self._nearest(self._everyone)
            if candidate.state is _State.ANSWERED
        ][: self.k]

    @property
    def silent(self) -> list[Contact]:
        """Those within the radius who were asked and did not answer: dead, or their message was lost."""
        radius = self.radius
        return [
            one.contact
            for one in self._known.values()
            if one.state is _State.FAILED and one.distance <= radius
        ]

    @property
    def radius(self) -> int:
        """How far from the target the result is all there is, once `complete`.

        The distance of the k-th closest who was asked, whether it answered or failed, because answers name
        only the k closest, the dead among them; everything when fewer than k were found to ask.
        """
        settled = (_State.ANSWERED, _State.FAILED)
        distances = sorted(one.distance for one in self._known.values() if one.state in settled)
        return distances[self.k - 1] if len(distances) >= self.k else FARTHEST

    @property
    def queries(self) -> int:
        """How many questions have been handed out."""
        return self._asked

    @property
    def complete(self) -> bool:
        """Whether the lookup ended by its own rule and not by running out of questions."""
        return next(self._open(), None) is None

    def next_queries(self) -> list[Contact]:
        """Whom to ask now, so that enough are under way; empty when answers must be awaited."""
        queries: list[Contact] = []
        for candidate in self._open():
            if candidate.state is not _State.NEW:
                continue
            if self._under_way >= self._width or self._exhausted:
                break
            candidate.state = _State.ASKED
            self._under_way += 1
            self._asked += 1
            queries.append(candidate.contact)
        return queries

    def on_stall(self, contact: Contact) -> None:
        """`contact`, asked before, has not answered for a while: its place among alpha is free again."""
        candidate = self._known.get(contact.agent)
        if candidate is not None and candidate.state is _State.ASKED and contact.agent not in self._stalled:
            self._stalled.add(contact.agent)
            self._silent += 1
            self._under_way -= 1

    def on_response(self, contact: Contact, contacts: Iterable[Contact]) -> None:
        """`contact`, asked before, answered with `contacts`: verified records of agents who may be dead."""
        candidate = self._settle(contact, _State.ANSWERED)
        self._fresh.append(candidate.contact)
        for taken, named in enumerate(contacts):
            if taken >= MAX_ANSWER:
                break
            self._add(named, candidate.path)

    def on_failure(self, contact: Contact) -> None:
        """`contact`, asked before, did not answer, or answered with garbage."""
        candidate = self._settle(contact, _State.FAILED)
        entry = (candidate.distance, contact.agent)
        self._paths[candidate.path].remove(entry)
        self._everyone.remove(entry)

    def take_confirmed(self) -> list[Contact]:
        """Who has answered since the last call, in the order of answers: the result as it streams in."""
        fresh, self._fresh = self._fresh, []
        return fresh

    @property
    def _exhausted(self) -> bool:
        return self._asked >= MAX_QUERIES

    def _nearest(self, entries: list[tuple[int, AgentId]]) -> Iterator[_Candidate]:
        for _, agent in entries:
            yield self._known[agent]

    def _open(self) -> Iterator[_Candidate]:
        """Whose answers the rules still want: the paths' in turn, nearest first, then the closest of all."""
        shares = [self._pending(path, self._share) for path in self._paths]
        while shares:
            going = []
            for share in shares:
                candidate = next(share, None)
                if candidate is not None:
                    going.append(share)
                    yield candidate
            shares = going
        yield from self._pending(self._everyone, self.k)

    @property
    def _width(self) -> int:
        """How many questions may be under way: where many are silent, more are needed for the same news."""
        return self._alpha + min(self._alpha, self._silent)

    def _pending(self, entries: list[tuple[int, AgentId]], n: int) -> Iterator[_Candidate]:
        """Of the nearest `n`, those that have not answered yet.

        Who stalls is most likely dead, so it does not count: whoever would take its place is asked at once
        and not after its timeout.
        """
        for candidate in self._nearest(entries):
            if n <= 0:
                return
            n -= candidate.contact.agent not in self._stalled
            if candidate.state in (_State.NEW, _State.ASKED):
                yield candidate

    def _settle(self, contact: Contact, state: _State) -> _Candidate:
        candidate = self._known.get(contact.agent)
        if candidate is None or candidate.state is not _State.ASKED:
            raise ValueError(f"agent {contact.agent.hex()[:8]} has not been asked, or has answered before")
        candidate.state = state
        if contact.agent in self._stalled:
            self._stalled.remove(contact.agent)
        else:
            self._under_way -= 1
        return candidate

    def _add(self, contact: Contact, path: int) -> None:
        if contact.agent in self._known or contact.agent == self._own or not contact.stores:
            return
        candidate = _Candidate(contact, self._origin ^ as_int(contact.position), path)
        entry = (candidate.distance, contact.agent)
        entries = self._paths[path]
        self._known[contact.agent] = candidate
        insort(entries, entry)
        insort(self._everyone, entry)
        if len(entries) > MAX_CANDIDATES:
            self._forget_farthest(entries)

    def _forget_farthest(self, entries: list[tuple[int, AgentId]]) -> None:
        for index in range(len(entries) - 1, -1, -1):
            agent = entries[index][1]
            if self._known[agent].state is _State.NEW:
                self._everyone.remove(entries.pop(index))
                del self._known[agent]
                return
