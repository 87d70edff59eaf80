"""The log of a task of the topology gossip: who takes part, who showed what, in whatever order it came.

A fold over a growing set of valid records. There is no chain of results to follow and nothing to agree on:
a member has a seat as long as its last word on taking part is a join (of more than the task takes, those who
joined first by the clocks of their records), and each of its shares stands for itself. A share counts whoever
may see it; two different ones of one member for one round are both refused by whoever has seen both.

Kept is what the next steps can need, and no more, whoever says how much: of who has a seat the `MAX_KEPT`
newest rounds, of each of them the first share on its author's chain, in short (`Shown`), and which the second
one is; of everybody else nothing, so that keys without a seat cost no room and push nothing out. So two nodes
that have seen the same records keep the same, and nothing that is said of a round later takes the place of
what others have combined or refused. In full a share is on disk (`federated.share_book`). Who comes to a seat
after it has shown something is to be read again from there (`unread`).

**Room**: `SEAT_BYTES` for each seat, and `AGENT_BYTES` for each agent that ever joined or left, of which
`MAX_AGENTS` are kept: at most 2.5 MiB for a task of 256 seats, .7 MiB for one of 16
(`tests/federated/test_share_log.py` holds it against hostile members and keys).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from chain.cid import Cid
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import JOIN, LEAVE
from chain.learning_task import Task
from chain.record import Record
from chain.share import Share
from federated.membership import MAX_AGENTS, Membership, in_order
from validation.named import learning_of

MAX_KEPT: Final = 8
"""Rounds of one member of which shares are kept, the newest: who is that far ahead is not drawn by others."""
MAX_HOLDERS: Final = 8
"""Members remembered as holding the model of one share: they combined it."""
SEAT_BYTES: Final = 8 << 10
"""Bytes of memory that the shares of one seat take at most."""
AGENT_BYTES: Final = 512
"""Bytes of memory that an agent's word on taking part takes at most."""
PRESENT_DEADLINES: Final = 3
"""A member is taken for present when its newest share is no older than so many of the task's deadlines: one
to train, one to wait for others, and one to spare."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A share in short: its record, whose it is, its place on its author's chain, when by its author's clock
    (µs), and what a step needs of it (`chain.share`)."""

    record: Cid
    agent: AgentId
    place: int
    hlc: int
    round: int
    blob: Cid
    size: int
    examples: int
    base: Cid


@dataclass(slots=True)
class _Round:
    """What one member showed in one round: the first of it, the place and record of the second, and who says
    that it combined the first."""

    first: Shown
    second: tuple[int, Cid] | None = None
    holders: list[AgentId] = field(default_factory=list)


def most_bytes(terms: Task) -> int:
    """Bytes of memory that the log of a task takes at most, but for its terms."""
    return terms.max_members * SEAT_BYTES + MAX_AGENTS * AGENT_BYTES


def shown_in(record: Record, share: Share) -> Shown:
    """A share in short."""
    header = record.header
    place, size = (share.round, share.blob), (share.size, share.examples)
    return Shown(record.cid, header.author, header.seq, header.hlc, *place, *size, share.base)


def share_in(task: Cid, terms: Task, record: Record) -> Share | None:
    """What a record shows in a task; None for one that is none of its shares, or cannot be one."""
    if record.header.subject != task:
        return None
    try:
        said = learning_of(record)
    except ChainError:
        return None
    if not isinstance(said, Share) or said.round > terms.rounds + 1:
        return None
    result = said.examples == 0 and said.blob == said.base
    return said if said.round <= terms.rounds or result else None


class ShareLog(Membership):
    """The fold. `add` takes valid records of this task in any order, as often as they come.

    `me` is whose shares are kept also without a seat.
    """

    def __init__(self, task: Record, me: AgentId | None = None) -> None:
        """Raises `ChainError` when the record's terms cannot be read."""
        super().__init__(task)
        self._me = me
        self._excluded: frozenset[AgentId] = frozenset()
        self._joined_at: dict[AgentId, tuple[int, Cid]] = {}
        self._settled = False
        self._seats: tuple[AgentId, ...] = ()
        self._rounds: dict[AgentId, dict[int, _Round]] = {}
        self._of: dict[Cid, _Round] = {}
        self._unread: set[AgentId] = set()

    # -- who has a seat --

    def exclude(self, agents: frozenset[AgentId]) -> None:
        """Say whom the network does not hear now: they have no seat."""
        if agents != self._excluded:
            self._excluded = agents
            self._settled = False

    def seats(self) -> tuple[AgentId, ...]:
        """Who takes part now: the members that the network hears; of more than there are seats the first to
        join. Ascending."""
        self._settle()
        return self._seats

    def unread(self) -> tuple[AgentId, ...]:
        """Whose shares are kept from now on, and what they showed before is to be added again; told once."""
        self._settle()
        found, self._unread = tuple(sorted(self._unread)), set()
        return found

    def _settle(self) -> None:
        if self._settled:
            return
        self._settled = True
        there = [agent for agent in self.members() if agent not in self._excluded]
        if len(there) > self.terms.max_members:
            there.sort(key=self._joined_at.__getitem__)
        self._seats = tuple(sorted(there[: self.terms.max_members]))
        keeping = {*self._seats, *(() if self._me is None else (self._me,))}
        for agent in self._rounds.keys() - keeping:
            for number in list(self._rounds[agent]):
                self._drop(agent, number)
            del self._rounds[agent]
        self._unread &= keeping
        for agent in keeping - self._rounds.keys():
            self._rounds[agent] = {}
            self._unread.add(agent)

    # -- what is known --

    def has(self, cid: Cid) -> bool:
        """Whether this record is kept."""
        return cid in self._seen or cid in self._of

    def shown(self, cid: Cid) -> Shown | None:
        """A share by its record, while it is kept as its author's first of its round."""
        found = self._of.get(cid)
        return found.first if found is not None and found.first.record == cid else None

    def share_of(self, agent: AgentId, number: int) -> Shown | None:
        """A member's share of a round, the first on its chain."""
        found = self._rounds.get(agent, {}).get(number)
        return None if found is None else found.first

    def is_double(self, agent: AgentId, number: int) -> bool:
        """Whether a member shows two things in one round."""
        found = self._rounds.get(agent, {}).get(number)
        return found is not None and found.second is not None

    def is_past(self, agent: AgentId, number: int) -> bool:
        """Whether a member is so far beyond a round that what it showed in it is not kept."""
        rounds = self._rounds.get(agent, {})
        return len(rounds) == MAX_KEPT and number < min(rounds)

    def rounds_of(self, agent: AgentId) -> tuple[int, ...]:
        """The rounds of a member of which a share is kept, ascending."""
        return tuple(sorted(self._rounds.get(agent, ())))

    def newest(self, agent: AgentId) -> Shown | None:
        """A member's share of its highest round, its result among them."""
        rounds = self._rounds.get(agent)
        return rounds[max(rounds)].first if rounds else None

    def holders(self, shown: Shown) -> list[AgentId]:
        """Who should have a share's model: its author, and who says that it combined it."""
        found = self._of.get(shown.record)
        return [shown.agent, *(() if found is None else found.holders)]

    def frontier(self, me: AgentId, now_us: int) -> int:
        """The round in which the others are: the lower median of their newest ones; 0 before there is any.

        Of those who are present, by their records' clocks against `now_us`; of all when nobody is, or only
        one: else whoever comes first after a night would say where all the others go on. Nobody who claims a
        far round moves it, while fewer than half of these do. O(members).
        """
        newest = [one for agent in self.seats() if agent != me and (one := self.newest(agent)) is not None]
        since = now_us - PRESENT_DEADLINES * self.terms.commit_ms * 1_000
        present = [one for one in newest if one.hlc >= since]
        heard = present if len(present) > 1 else newest
        rounds = sorted(min(one.round, self.terms.rounds) for one in heard)
        return rounds[(len(rounds) - 1) // 2] if rounds else 0

    def is_result(self, shown: Shown) -> bool:
        """Whether a share shows what its author came to, rather than what it trained."""
        return shown.round > self.terms.rounds

    @property
    def finished(self) -> bool:
        """Whether more than half of the members who ever showed anything have shown their result."""
        newest = [one.round for agent in self.seats() if (one := self.newest(agent)) is not None]
        return 2 * sum(number > self.terms.rounds for number in newest) > len(newest)

    # -- what comes in --

    def add_all(self, records: Iterable[Record]) -> bool:
        """Take several, those on taking part first; whether anything was new."""
        found = sorted(in_order(records), key=lambda record: record.header.kind not in (JOIN, LEAVE))
        changed = [self.add(record) for record in found]
        return any(changed)

    def add(self, record: Record) -> bool:
        """Take a valid record of this task; whether anything that is kept was new."""
        if self.has(record.cid) or record.header.subject != self.cid:
            return False
        if record.header.kind in (JOIN, LEAVE):
            return self._take_part(record)
        self._settle()
        rounds = self._rounds.get(record.header.author)
        share = None if rounds is None else share_in(self.cid, self.terms, record)
        if rounds is None or share is None:
            return False
        return self._keep(rounds, shown_in(record, share), share.combined)

    def _ready(self, on: bytes, record: Record) -> bool:
        """Nothing waits here: each share stands for itself."""
        return True

    def _take_part(self, record: Record) -> bool:
        author = record.header.author
        before = self.standings.get(author)
        if not self._stand(record):
            return False
        if self.standings[author].cid != record.cid:  # an earlier word than the one that is known
            self._seen.discard(record.cid)
            return False
        if before is not None:
            self._seen.discard(before.cid)
        self._joined_at[author] = (record.header.hlc, record.cid)
        self._settled = False
        return True

    def _keep(self, rounds: dict[int, _Round], shown: Shown, combined: Collection[Cid]) -> bool:
        known = rounds.get(shown.round)
        if known is None:
            if len(rounds) == MAX_KEPT and shown.round < min(rounds):
                return False
            known = rounds[shown.round] = _Round(shown)
            if len(rounds) > MAX_KEPT:
                self._drop(shown.agent, min(rounds))
        else:
            places = [(one.place, one.record) for one in (known.first, shown)]
            if known.second is not None:
                places.append(known.second)
            first, second, *later = sorted(places)
            if first[1] == shown.record:
                known.first, known.holders = shown, []
            known.second = second
            for _, dropped in later:
                self._of.pop(dropped, None)
            if (shown.place, shown.record) in later:
                return False
        self._of[shown.record] = known
        for cid in combined:
            held = self._of.get(cid)
            if held is None or held.first.record != cid or len(held.holders) >= MAX_HOLDERS:
                continue
            if shown.agent not in held.holders:
                held.holders.append(shown.agent)
        return True

    def _drop(self, agent: AgentId, number: int) -> None:
        dropped = self._rounds[agent].pop(number)
        del self._of[dropped.first.record]
        if dropped.second is not None:
            del self._of[dropped.second[1]]
