"""The log of a task of the topology gossip: who takes part, who showed what, in whatever order it came.

A fold over a growing set of valid records. There is no chain of results to follow and nothing to agree on:
a member has a seat as long as its last word on taking part is a join (of more than the task takes, those who
joined first by the clocks of their records), and each of its shares stands for itself. A share counts whoever
may see it; two different ones of one member for one round are both refused by whoever has seen both. A share
of somebody whose join has not come yet waits, within a bound.

Kept is what rounds to come can need: of each member the `MAX_KEPT` newest rounds, of each round the first two
on its chain; so two nodes that have seen the same records keep the same, and nothing that is said of a round
later takes the place of what others have combined or refused. Whose a share was is kept for all of them: a
refusal counts against its author also when the share has gone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from chain.cid import Cid
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import JOIN, LEAVE
from chain.record import Record
from chain.share import Share
from federated.membership import Membership
from validation.named import learning_of

MAX_KEPT = 64
"""Rounds of one member of which shares are kept, the newest."""
MAX_HOLDERS = 8
"""Members remembered as holding the model of one share: they combined it."""
PRESENT_DEADLINES = 3
"""A member is taken for present when its newest share is no older than so many of the task's deadlines: one
to train, one to wait for others, and one to spare."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A share: its record, whose it is, its place on its author's chain, when by its author's clock (µs),
    and what it says."""

    record: Cid
    agent: AgentId
    place: int
    hlc: int
    share: Share


class ShareLog(Membership):
    """The fold. `add` takes valid records of this task in any order, as often as they come."""

    def __init__(self, task: Record) -> None:
        """Raises `ChainError` when the record's terms cannot be read."""
        super().__init__(task)
        self._shown: dict[Cid, Shown] = {}
        self._authors: dict[Cid, AgentId] = {}
        self._rounds: dict[AgentId, dict[int, list[Cid]]] = {}
        self._joined_at: dict[AgentId, tuple[int, Cid]] = {}
        self._holders: dict[Cid, list[AgentId]] = {}

    # -- what is known --

    def seats(self, excluded: Collection[AgentId] = frozenset()) -> tuple[AgentId, ...]:
        """Who takes part now: the members that the network hears; of more than there are seats the first to
        join. Ascending."""
        there = [agent for agent in self.members() if agent not in excluded]
        if len(there) > self.terms.max_members:
            there.sort(key=lambda agent: self._joined_at[agent])
        return tuple(sorted(there[: self.terms.max_members]))

    def shown(self, cid: Cid) -> Shown | None:
        """A share by its record, while it is kept."""
        return self._shown.get(cid)

    def author_of(self, cid: Cid) -> AgentId | None:
        """Whose share a record is, or was before it went."""
        return self._authors.get(cid)

    def shares_of(self, agent: AgentId, number: int) -> tuple[Shown, ...]:
        """A member's shares of a round, as they stand on its chain: one, or two of who says two things."""
        return tuple(self._shown[cid] for cid in self._rounds.get(agent, {}).get(number, ()))

    def history(self, agent: AgentId) -> tuple[Shown, ...]:
        """The first share of each round of a member, from the oldest kept one on."""
        rounds = self._rounds.get(agent, {})
        return tuple(self._shown[rounds[number][0]] for number in sorted(rounds))

    def newest(self, agent: AgentId) -> Shown | None:
        """A member's share of its highest round, its result among them."""
        rounds = self._rounds.get(agent)
        return self._shown[rounds[max(rounds)][0]] if rounds else None

    def before(self, agent: AgentId, number: int) -> Shown | None:
        """A member's newest share of a round before `number`."""
        rounds = self._rounds.get(agent, {})
        earlier = [one for one in rounds if one < number]
        return self._shown[rounds[max(earlier)][0]] if earlier else None

    def holders(self, shown: Shown) -> list[AgentId]:
        """Who should have a share's model: its author, and who says that it combined it."""
        return [shown.agent, *self._holders.get(shown.record, ())]

    def frontier(self, me: AgentId, now_us: int, excluded: Collection[AgentId] = frozenset()) -> int:
        """The round in which the others are: the lower median of their newest ones; 0 before there is any.

        Of those who are present, by their records' clocks against `now_us`; of all when nobody is, or only
        one: else whoever comes first after a night would say where all the others go on. Nobody who claims a
        far round moves it, while fewer than half of these do. O(members).
        """
        newest = [
            one for agent in self.seats(excluded) if agent != me and (one := self.newest(agent)) is not None
        ]
        since = now_us - PRESENT_DEADLINES * self.terms.commit_ms * 1_000
        present = [one for one in newest if one.hlc >= since]
        heard = present if len(present) > 1 else newest
        rounds = sorted(min(one.share.round, self.terms.rounds) for one in heard)
        return rounds[(len(rounds) - 1) // 2] if rounds else 0

    def is_result(self, share: Share) -> bool:
        """Whether a share shows what its author came to, rather than what it trained."""
        return share.round > self.terms.rounds

    @property
    def finished(self) -> bool:
        """Whether more than half of the members who ever showed anything have shown their result."""
        newest = [one.share.round for agent in self.seats() if (one := self.newest(agent)) is not None]
        return 2 * sum(number > self.terms.rounds for number in newest) > len(newest)

    # -- what comes in --

    def add(self, record: Record) -> bool:
        """Take a valid record of this task; whether anything was new."""
        if record.cid in self._seen or record.header.subject != self.cid:
            return False
        author = record.header.author
        if record.header.kind in (JOIN, LEAVE):
            if not self._stand(record):
                return False
            standing = self.standings[author]
            if standing.cid == record.cid:
                self._joined_at[author] = (record.header.hlc, record.cid)
            self._release(lambda on, _: on in self.standings)
            return True
        try:
            said = learning_of(record)
        except ChainError:
            return False
        if not isinstance(said, Share) or not self._fits(said):
            return False
        if author not in self.standings:
            return self._wait(author, record)
        header = record.header
        return self._keep(Shown(record.cid, author, header.seq, header.hlc, said))

    def _fits(self, share: Share) -> bool:
        if share.round <= self.terms.rounds:
            return True
        return share.round == self.terms.rounds + 1 and share.examples == 0 and share.blob == share.base

    def _keep(self, shown: Shown) -> bool:
        self._seen.add(shown.record)
        self._authors[shown.record] = shown.agent
        rounds = self._rounds.setdefault(shown.agent, {})
        known = rounds.setdefault(shown.share.round, [])
        self._shown[shown.record] = shown
        known.append(shown.record)
        known.sort(key=lambda cid: (self._shown[cid].place, cid))
        for cid in shown.share.combined:
            holders = self._holders.setdefault(cid, [])
            if len(holders) < MAX_HOLDERS and shown.agent not in holders:
                holders.append(shown.agent)
        for dropped in known[2:]:
            self._drop(dropped)
        del known[2:]
        if len(rounds) > MAX_KEPT:
            for dropped in rounds.pop(min(rounds)):
                self._drop(dropped)
        return shown.record in self._shown

    def _drop(self, record: Cid) -> None:
        dropped = self._shown.pop(record)
        self._holders.pop(record, None)
        for cid in dropped.share.combined:
            holders = self._holders.get(cid, [])
            if dropped.agent in holders:
                holders.remove(dropped.agent)
            if not holders:
                self._holders.pop(cid, None)
