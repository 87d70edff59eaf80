"""The ledger of a task: what its records add up to, whatever their order, and so which round is on.

A fold over a growing set of valid records. Members come and go by `join` and `leave` records (of each agent
the latest on its own line counts); rounds form a chain that starts at the author's `start` and goes on from
result to result, each naming the digest of the one before. Where there are two results for one round, the one
is taken on which more than two thirds of its roster have built another; else the one with more signatures,
then the one with the lower digest, so that all who have seen both agree; a node that had taken the other one
turns around. So who proposes, gathers signatures and keeps the result back undoes one round with it, and no
more. Nothing here is trusted to be complete: a record that builds on something unknown waits, within a bound.

A result that only part of the roster may sign (`members` is smaller: the round failed three times) is valid
when at least half of the roster are in it: fewer than that cannot go on without the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from chain.cid import Cid
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import JOIN, LEAVE
from chain.learning import Commit, Reveal, Start
from chain.learning_outcome import GroupOutcome, GroupResult, Outcome, Result, Seat, quorum
from chain.learning_task import Task
from chain.record import Record
from chain.secure_part import Part
from federated.grouping import groups_of, place_of
from federated.membership import Membership
from federated.part_book import PartBook
from federated.penalties import Penalty, after, barred
from validation.named import learning_of

MAX_OF_ONE = 4
"""Commits or reveals kept of one member in one round, the first on its chain: two are enough to refuse it.

Who says more later changes neither what others have agreed on nor what an audit finds. By its chain, not its
line on the task: a line may branch, and two records at one place of a chain are a fork, which puts it out.
"""
MAX_OF_GROUP = 4
"""Different outcomes of one group in one round that are kept: a group that has as many has none."""


@dataclass(frozen=True, slots=True)
class Tip:
    """What the current round builds on.

    `round` is the round under way, from 1; `spent` are the joins that were in a roster before: they seat
    nobody again. `penalties` are those of all results so far.
    """

    digest: bytes
    round: int
    parameters: Cid
    roster: tuple[Seat, ...]
    spent: frozenset[Cid]
    penalties: tuple[Penalty, ...] = ()

    @property
    def agents(self) -> tuple[AgentId, ...]:
        """The roster's agents, ascending."""
        return tuple(agent for agent, _ in self.roster)


@dataclass(slots=True)
class _Signed:
    """An outcome with every signature seen on it."""

    outcome: Outcome
    signatures: dict[AgentId, bytes] = field(default_factory=dict)
    record: Cid | None = None
    """The lowest record that carries it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One finished round of the chain: where it stood, what was decided, who signed, and where it is kept."""

    before: Tip
    outcome: Outcome
    digest: bytes
    signers: tuple[AgentId, ...]
    record: Cid


class Ledger(Membership):
    """The fold. `add` takes valid records of this task in any order, as often as they come."""

    def __init__(self, task: Record) -> None:
        """Raises `ChainError` when the record's terms cannot be read."""
        super().__init__(task)
        self.commits: dict[Cid, tuple[AgentId, Commit]] = {}
        self.reveals: dict[Cid, tuple[AgentId, Reveal]] = {}
        self.groups: dict[Cid, GroupResult] = {}
        """The groups' outcomes by their names."""
        self.carried: dict[Cid, Cid] = {}
        """Which of them a record carries. Any number of records may carry one outcome."""
        self._carriers: dict[Cid, Cid] = {}
        self.book = PartBook()
        """What was said in secure sums."""
        self.started: Cid | None = None
        self._start_at: tuple[int, bytes, Cid] | None = None
        """Of the start that counts: its place on the author's chain, its digest, and the record."""
        self._results: dict[bytes, dict[bytes, _Signed]] = {}
        self._before: dict[bytes, bytes] = {}
        """What each result builds on."""
        self._settled: set[bytes] = set()
        """Results on which more than two thirds of their roster have built another one."""
        self._best: dict[bytes, bytes] = {}
        """Of the results that build on something the one that counts there."""
        self._heights: dict[bytes, int] = {}
        """What is on the chain: as many rounds were finished there."""
        self._by_round: dict[tuple[bytes, AgentId, bool], list[tuple[int, Cid]]] = {}
        self._of_group: dict[tuple[bytes, tuple[AgentId, ...]], list[Cid]] = {}
        self._steps: list[Step] = []
        self._tip: Tip | None = None
        self._places: dict[bytes, Tip] = {}

    # -- what is known --

    @property
    def tip(self) -> Tip | None:
        """What the current round builds on; None before the start."""
        return self._tip

    @property
    def steps(self) -> tuple[Step, ...]:
        """The finished rounds in order."""
        return tuple(self._steps)

    @property
    def finished(self) -> bool:
        """Whether no further round follows: all are done, or nobody is left to do one."""
        return self._tip is not None and (self._tip.round > self.terms.rounds or not self._tip.roster)

    def commits_of(self, tip: Tip, agent: AgentId) -> tuple[Cid, ...]:
        """A member's commits of the round, in the order of its line."""
        return tuple(cid for _, cid in self._by_round.get((tip.digest, agent, False), ()))

    def reveals_of(self, tip: Tip, agent: AgentId) -> tuple[Cid, ...]:
        """A member's reveals of the round, in the order of its line."""
        return tuple(cid for _, cid in self._by_round.get((tip.digest, agent, True), ()))

    def groups_of(self, tip: Tip) -> tuple[tuple[AgentId, ...], ...]:
        """The groups of the round; one where the roster is not divided."""
        return groups_of(self.terms, tip.digest, tip.agents)

    def led_on(self, place: bytes) -> tuple[Cid, ...]:
        """The result that ended the round which questions call this, or name a group of the last one by."""
        found = [step.record for step in self.steps if step.before.digest == place]
        for step in self.steps[-1:]:
            groups = self.groups_of(step.before)
            found += [step.record for group in groups if place_of(step.before.digest, group) == place]
        return tuple(found[:1])

    def group_results(self, tip: Tip) -> dict[tuple[AgentId, ...], Cid]:
        """The name of each group's outcome, if it has one: of two that which more members could sign counts,
        then that of the lower name. A group that goes on making up others has none.
        """
        return {
            group: found[0]
            for group in self.groups_of(tip)
            if 0 < len(found := self._of_group.get((tip.digest, group), [])) < MAX_OF_GROUP
        }

    def torn(self, tip: Tip) -> frozenset[Cid]:
        """The outcomes, by name, of groups that have so many that none counts."""
        found = (self._of_group.get((tip.digest, group), []) for group in self.groups_of(tip))
        return frozenset(name for names in found if len(names) >= MAX_OF_GROUP for name in names)

    def carrier(self, name: Cid) -> Cid:
        """A record that carries this group's outcome."""
        return self._carriers[name]

    def evidence(self, outcome: Outcome | GroupOutcome) -> tuple[tuple[Cid, ...], int]:
        """The reveals behind an outcome, those of its groups too, and how many are not known here."""
        named: list[Cid] = []
        for cid in outcome.reveals:
            group = self.groups.get(cid) if isinstance(outcome, Outcome) else None
            named += [cid] if group is None else group.outcome.reveals
        found = tuple(dict.fromkeys(cid for cid in named if cid in self.reveals))
        return found, sum(cid not in self.reveals for cid in named)

    def place_of(self, digest: bytes) -> Tip | None:
        """The start or result with this digest as something to build on, if it was accepted."""
        return self._places.get(digest)

    # -- what comes in --

    def add(self, record: Record) -> bool:
        """Take a valid record of this task; whether anything was new."""
        if record.cid in self._seen or record.header.subject != self.cid:
            return False
        if record.header.kind in (JOIN, LEAVE):
            return self._stand(record)
        try:
            said = learning_of(record)
        except ChainError:
            return False
        match said:
            case Start():
                return self._start(record, said)
            case Commit() | Reveal():
                return self._say(record, said)
            case GroupResult():
                return self._agree(record, said)
            case Part():
                return self._take_part(record, said)
            case Result():
                return self._conclude(record, said)
            case _:
                return False  # a header without its payload says nothing yet

    def _start(self, record: Record, said: Start) -> bool:
        if record.header.author != self.task.header.author or len(said.roster) > self.terms.max_members:
            return False
        self._seen.add(record.cid)
        found = (record.header.seq, said.digest(self.cid), record.cid)
        if self._start_at is None or found < self._start_at:
            # The first on its author's chain, who can unmake no round by starting the task once more.
            self._start_at, self.started, digest = found, record.cid, found[1]
            joins = frozenset(join for _, join in said.roster)
            start = Tip(digest, 1, self.terms.parameters, said.roster, joins)
            self._places.setdefault(digest, start)
            self._walk(0, start)
            self._release([digest])
        return True

    def _say(self, record: Record, said: Commit | Reveal) -> bool:
        place = self._places.get(said.previous)
        if place is None:
            return self._wait(said.previous, record)
        author = record.header.author
        if self.terms.secure is not None or author not in place.agents or said.round != place.round:
            return False
        known = self._by_round.setdefault((said.previous, author, isinstance(said, Reveal)), [])
        self._seen.add(record.cid)
        if isinstance(said, Reveal):
            self.reveals[record.cid] = (author, said)
        else:
            self.commits[record.cid] = (author, said)
        known.append((record.header.seq, record.cid))
        known.sort()
        for _, dropped in known[MAX_OF_ONE:]:
            self.reveals.pop(dropped, None)
            self.commits.pop(dropped, None)
        del known[MAX_OF_ONE:]
        return record.cid in self.reveals or record.cid in self.commits

    def _agree(self, record: Record, said: GroupResult) -> bool:
        place = self._places.get(said.outcome.previous)
        if place is None:
            return self._wait(said.outcome.previous, record)
        group = group_of(self.terms, self.groups_of(place), said.outcome)
        if group is None or said.outcome.round != place.round:
            return False
        if 2 * len(said.signatures) < len(group):
            return False
        self._seen.add(record.cid)
        name = self.carried[record.cid] = said.outcome.name(self.cid)
        known = self._of_group.setdefault((place.digest, group), [])
        if name in self.groups or len(known) == MAX_OF_GROUP:
            return False
        self.groups[name] = said
        self._carriers[name] = record.cid
        known.append(name)
        known.sort(key=lambda one: (-len(self.groups[one].outcome.members), one))
        return True

    def _take_part(self, record: Record, said: Part) -> bool:
        place = self._places.get(said.previous)
        if place is None:
            return self._wait(said.previous, record)
        author = record.header.author
        if self.terms.secure is None or author not in place.agents or said.round != place.round:
            return False
        self._seen.add(record.cid)
        return self.book.add(record.cid, author, record.header.seq, said)

    def _conclude(self, record: Record, said: Result) -> bool:
        place = self._places.get(said.outcome.previous)
        if place is None:
            return self._wait(said.outcome.previous, record)
        if result_fault(self.terms, place, said.outcome) is not None:
            return False
        self._seen.add(record.cid)
        digest = said.outcome.digest(self.cid)
        signed = self._results.setdefault(place.digest, {}).setdefault(digest, _Signed(said.outcome))
        signed.signatures.update(said.signatures)
        signed.record = record.cid if signed.record is None else min(signed.record, record.cid)
        self._places.setdefault(digest, advance(place, said.outcome, digest))
        self._before[digest] = place.digest
        self._prefer(place.digest, digest)
        before = self._before.get(place.digest)
        if before is not None:
            agents = set(self._places[before].agents)
            if len(agents & signed.signatures.keys()) >= quorum(len(agents)):
                self._settled.add(place.digest)
                self._prefer(before, place.digest)
            self._follow(before)
        self._follow(place.digest)
        self._release([digest])
        return True

    # -- what follows --

    def _ready(self, on: bytes, record: Record) -> bool:
        return on in self._places

    def _prefer(self, place: bytes, digest: bytes) -> None:
        """A result that builds on a place has come, or counts for more than before."""
        if place not in self._best or self._rank(place, digest) < self._rank(place, self._best[place]):
            self._best[place] = digest

    def _rank(self, place: bytes, digest: bytes) -> tuple[bool, int, bytes]:
        return digest not in self._settled, -len(self._results[place][digest].signatures), digest

    def _follow(self, place: bytes) -> None:
        """Something was said on this place; if it is on the chain and another result counts there now, the
        chain goes on with that. O(1) but for that case, so a task is read in the time that its records take.
        """
        height = self._heights.get(place)
        if height is None or place not in self._best:
            return
        if height < len(self._steps) and self._steps[height].digest == self._best[place]:
            self._steps[height] = self._step(self._places[place])
        else:
            self._walk(height, self._places[place])

    def _walk(self, height: int, tip: Tip) -> None:
        """Walk the chain anew from a place at this height on."""
        for step in self._steps[height:]:
            del self._heights[step.before.digest]
        if self._tip is not None:
            del self._heights[self._tip.digest]
        del self._steps[height:]
        self._heights[tip.digest] = height
        while tip.digest in self._best:
            self._steps.append(self._step(tip))
            tip = self._places[self._best[tip.digest]]
            self._heights[tip.digest] = len(self._steps)
        self._tip = tip

    def _step(self, place: Tip) -> Step:
        digest = self._best[place.digest]
        best = self._results[place.digest][digest]
        assert best.record is not None
        return Step(place, best.outcome, digest, tuple(sorted(best.signatures)), best.record)


def result_fault(terms: Task, place: Tip, outcome: Outcome) -> str | None:
    """Why an outcome does not continue the chain at `place`, or None.

    Signatures and the joins of new members were checked when the record was judged; whether the outcome
    follows from the reveals is what the signers vouch for, and what an audit computes again.
    """
    if outcome.round != place.round or outcome.round > terms.rounds:
        return f"it is for round {outcome.round}, the round is {place.round}"
    if not set(outcome.members) <= set(place.agents):
        return "its members are not of the roster"
    if 2 * len(outcome.members) < len(place.roster):
        return "its members are less than half of the roster"
    if len(outcome.roster) > terms.max_members:
        return f"its next roster has more than {terms.max_members} seats"
    old = dict(place.roster)
    for agent, join in outcome.roster:
        if old.get(agent) != join and join in place.spent:
            return "its next roster seats an agent by a join of the past"
    out = barred(after(place.penalties, outcome), outcome.round + 1)
    if not out.keys().isdisjoint(agent for agent, _ in outcome.roster):
        return "its next roster seats an agent that sits out"
    return None


def group_of(
    terms: Task, groups: tuple[tuple[AgentId, ...], ...], outcome: GroupOutcome
) -> tuple[AgentId, ...] | None:
    """The group whose outcome this may be: all that it names are of it, at least half of it may sign, and it
    weighs no more than its contributors may (all of a group could sign that it does).
    """
    if len(groups) == 1 or outcome.examples > len(outcome.contributors) * terms.max_examples:
        return None
    named = {*outcome.members, *outcome.contributors, *(agent for agent, _ in outcome.refused)}
    group = next((group for group in groups if outcome.members[0] in group), ())
    return group if named <= set(group) and 2 * len(outcome.members) >= len(group) else None


def advance(place: Tip, outcome: Outcome, digest: bytes) -> Tip:
    """What the round after an outcome builds on."""
    return replace(
        place,
        digest=digest,
        round=outcome.round + 1,
        parameters=outcome.parameters,
        roster=outcome.roster,
        spent=place.spent | {join for _, join in outcome.roster},
        penalties=after(place.penalties, outcome),
    )
