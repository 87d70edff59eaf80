"""What follows from one round's records: who contributed, who is refused and why, and the next roster.

A pure function of a *view*: reveals whose blobs were looked at, the commits they keep, and who stands where
on taking part. Two members whose views are equal decide equally, so agreeing needs no vote on values: they
show each other what they have seen, merge, and sign what follows. The one thing that is not in the records is
whether a blob could be had at all (`UNAVAILABLE`).

**Whom the network does not hear** (`crdt.standing`) contributes nothing and has no seat afterwards, whatever
its records say: a pure function of records, warrants and epochs like the rest. It takes effect with the next
result, as leaving does: until then its seat counts for the quorum. Members who have not heard the same come
to different digests, and tell each other what they lack (`federated.engagement`); the result names who was
left out.

**Commit before reveal.** A reveal lists the commits that its author had seen when it stopped waiting. A
commit counts when more than half of the members who revealed list it; one that was made after looking at
somebody's update is known to too few of them, whatever its author claims.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from chain.cid import Cid
from chain.identity import AgentId
from chain.learning import Reveal
from chain.learning_outcome import GroupOutcome, Outcome, Seat
from federated.admission import announced
from federated.faults import DOUBLE, EXCLUDED, HASH, LATE, UNAVAILABLE, WITHHELD
from federated.ledger import Ledger, Tip
from federated.membership import Standing
from federated.penalties import COSTS_ROUNDS, barred
from federated.update import Fault

MAX_CANDIDATES = 64
"""Agents outside the roster whose joins one proposal considers, by the lowest CIDs."""

Verdict = Fault | str | None
"""What looking at a reveal's blob gave: None (good), a `Fault`, or `UNAVAILABLE`."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """An update that counts."""

    agent: AgentId
    reveal: Cid
    blob: Cid
    examples: int
    metrics: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a view amounts to. `reveals` is the evidence, with who wrote it; all ascending by agent or CID."""

    contributions: tuple[Contribution, ...]
    refused: tuple[tuple[AgentId, str], ...]
    reveals: tuple[tuple[Cid, AgentId], ...]

    @property
    def contributors(self) -> tuple[AgentId, ...]:
        """Whose updates count."""
        return tuple(one.agent for one in self.contributions)

    @property
    def key(self) -> tuple[Cid, ...]:
        """Names the average: the reveals of the contributions."""
        return tuple(sorted(one.reveal for one in self.contributions))

    @property
    def parts(self) -> tuple[tuple[Cid, int], ...]:
        """Blob and examples of each contribution."""
        return tuple((one.blob, one.examples) for one in self.contributions)

    def outcome(
        self, tip: Tip, members: tuple[AgentId, ...], parameters: Cid, roster: tuple[Seat, ...]
    ) -> Outcome:
        """What `members` sign, once the average is known.

        A result names none but those who could have signed it. Where failed attempts left some of the roster
        out, the refused among them are passed over with what they showed, like members that were not there.
        """
        reveals, refused = self._of(members)
        return Outcome(tip.round, tip.digest, members, reveals, refused, parameters, roster)

    def group_outcome(self, tip: Tip, members: tuple[AgentId, ...], parameters: Cid) -> GroupOutcome:
        """The same where these agents are a group of the roster."""
        reveals, refused = self._of(members)
        examples = sum(one.examples for one in self.contributions)
        return GroupOutcome(
            tip.round, tip.digest, members, reveals, refused, parameters, self.contributors, examples
        )

    def _of(self, members: tuple[AgentId, ...]) -> tuple[tuple[Cid, ...], tuple[tuple[AgentId, str], ...]]:
        refused = tuple(pair for pair in self.refused if pair[0] in members)
        gone = {agent for agent, _ in self.refused if agent not in members}
        return tuple(cid for cid, agent in self.reveals if agent not in gone), refused


def proposers(tip: Tip, agents: Iterable[AgentId]) -> list[AgentId]:
    """The order in which these agents propose: by H(what the round builds on ‖ key).

    Nobody chooses the order, and each round has another one.
    """
    return sorted(agents, key=lambda agent: sha256(tip.digest + agent).digest())


def view_of(
    ledger: Ledger, tip: Tip, agents: Sequence[AgentId], verdicts: Mapping[Cid, Verdict]
) -> frozenset[Cid]:
    """The records that a decision on the updates of these agents rests on: of each the first two commits and
    reveals.

    Who shows this much can be understood by anybody: a third commit changes nothing.
    """
    shown: set[Cid] = set()
    for agent in agents:
        shown.update(ledger.commits_of(tip, agent)[:2])
        reveals = ledger.reveals_of(tip, agent)
        if len(reveals) > 1 or all(_judged(ledger, cid, verdicts) for cid in reveals):
            shown.update(reveals[:2])
    return frozenset(shown)


def relevant_standings(ledger: Ledger, tip: Tip) -> dict[AgentId, Standing]:
    """The words on taking part that bear on the next roster."""
    roster = dict(tip.roster)
    out = barred(tip.penalties, tip.round + 1)
    inside = {agent: s for agent, s in ledger.standings.items() if agent in roster and s.cid != roster[agent]}
    outside = sorted(
        (standing.cid, agent)
        for agent, standing in ledger.standings.items()
        if agent not in roster and standing.joins and standing.cid not in tip.spent
        if agent not in out
    )
    return inside | {agent: ledger.standings[agent] for _, agent in outside[:MAX_CANDIDATES]}


def decide(
    ledger: Ledger,
    tip: Tip,
    agents: Sequence[AgentId],
    verdicts: Mapping[Cid, Verdict],
    excluded: Collection[AgentId] = frozenset(),
) -> Decision:
    """What follows from the reveals that have a verdict; a pure function of its arguments.

    `agents` are the round's roster, or a group of it. `excluded` are the agents that the network does not
    hear, in the roster or not. `verdicts` of reveals that need no look at the blob (a wrong weight or size)
    are not asked for.
    """
    evidence: list[tuple[Cid, AgentId]] = []
    refused: dict[AgentId, str] = {}
    single: dict[AgentId, Cid] = {}
    for agent in agents:
        if agent in excluded:
            refused[agent] = EXCLUDED
            continue
        commits, reveals = ledger.commits_of(tip, agent), ledger.reveals_of(tip, agent)
        if len(commits) > 1 or len(reveals) > 1:
            refused[agent] = DOUBLE
            evidence += [(cid, agent) for cid in reveals[:2]]
        elif reveals and _judged(ledger, reveals[0], verdicts):
            evidence.append((reveals[0], agent))
            reason = reveal_fault(ledger, agent, reveals[0], verdicts)
            if reason is None or reason == UNAVAILABLE:
                single[agent] = reveals[0]
            if reason is not None:
                refused[agent] = str(reason)
    eligible = eligible_commits([ledger.reveals[cid][1] for cid in single.values()])
    for agent in agents:
        if agent not in refused and agent not in single and withheld(ledger, tip, agent, eligible):
            refused[agent] = WITHHELD
    contributions: list[Contribution] = []
    for agent, cid in single.items():
        reveal = ledger.reveals[cid][1]
        if agent in refused:
            continue
        if reveal.commit not in eligible:
            refused[agent] = LATE
        else:
            contributions.append(Contribution(agent, cid, reveal.blob, reveal.examples, reveal.metrics))
    return Decision(tuple(contributions), tuple(sorted(refused.items())), tuple(sorted(evidence)))


def withheld(ledger: Ledger, tip: Tip, agent: AgentId, eligible: frozenset[Cid]) -> bool:
    """Whether a member promised an update in time, so that it would have counted, and did not show it."""
    commits = ledger.commits_of(tip, agent)
    return not ledger.reveals_of(tip, agent) and not eligible.isdisjoint(commits)


def needs_blob(ledger: Ledger, reveal: Reveal) -> bool:
    """Whether the blob has to be looked at; else the reveal's own terms refuse it."""
    return _terms_fault(ledger, reveal) is None


def _judged(ledger: Ledger, cid: Cid, verdicts: Mapping[Cid, Verdict]) -> bool:
    return cid in verdicts or not needs_blob(ledger, ledger.reveals[cid][1])


def eligible_commits(reveals: Sequence[Reveal]) -> frozenset[Cid]:
    """The commits that more than half of these members had seen when they revealed."""
    counts: dict[Cid, int] = {}
    for reveal in reveals:
        for cid in {*reveal.commits, reveal.commit}:
            counts[cid] = counts.get(cid, 0) + 1
    return frozenset(cid for cid, count in counts.items() if 2 * count > len(reveals))


def reveal_fault(ledger: Ledger, agent: AgentId, cid: Cid, verdicts: Mapping[Cid, Verdict]) -> Verdict:
    """What is wrong with a reveal that is its author's only one: its commit, its terms, its blob."""
    reveal = ledger.reveals[cid][1]
    author, commit = ledger.commits.get(reveal.commit, (None, None))
    promised = reveal.hash(ledger.terms.promiser(agent))
    if commit is None or (author, commit.previous, commit.hash) != (agent, reveal.previous, promised):
        return HASH
    return _terms_fault(ledger, reveal) or verdicts.get(cid)


def _terms_fault(ledger: Ledger, reveal: Reveal) -> Verdict:
    return announced(ledger.terms, reveal.examples, reveal.size)


def next_roster(
    ledger: Ledger,
    tip: Tip,
    contributed: Collection[AgentId],
    refused: Mapping[AgentId, str],
    excluded: Collection[AgentId],
) -> tuple[Seat, ...]:
    """Who contributed and did not leave stays; then new joins by CID, as long as there are seats.

    Who was absent has to ask again, so that one that is gone delays one round, not every round.
    """
    seats: dict[AgentId, Cid] = {}
    out = {agent for agent, reason in refused.items() if reason in COSTS_ROUNDS} | set(excluded)
    relevant = relevant_standings(ledger, tip)
    for agent, join in tip.roster:
        standing = relevant.get(agent)
        if agent in contributed and agent not in out and (standing is None or standing.joins):
            seats[agent] = join
    newcomers = sorted(
        (standing.cid, agent)
        for agent, standing in relevant.items()
        if standing.joins and agent not in seats and agent not in out and standing.cid not in tip.spent
    )
    for cid, agent in newcomers:
        if len(seats) < ledger.terms.max_members:
            seats[agent] = cid
    return tuple(sorted(seats.items()))
