"""What the result of a round with secure sums rests on, as one member has seen it.

The items are the masked vectors: every member fetches them all, and adds them up for itself. A group counts
when its sum is open and all its vectors are here; what its mean is worth is judged like an update
(`federated.privacy.group_sums`). The result names the parts with the vectors that count, which lead back to
everything else; of a group that came to no sum the last parts, of whoever is refused what shows it.

**Who stays.** Members whose vector counts, and those who did their part to the end of a group that failed:
they are refused as `group`, which costs nothing. Who fell silent has to ask again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from chain.cid import Cid
from chain.identity import AgentId
from chain.learning_outcome import MAX_REVEALS, Outcome
from federated.actions import Action, LookVector, Sum
from federated.evidence import Evidence
from federated.faults import EXCLUDED, GROUP, SUM
from federated.ledger import Ledger, Tip
from federated.privacy.secure_messages import Phase
from federated.proposal import next_roster, relevant_standings
from federated.sum_chain import Closed, GroupParts, sum_groups

WORD = 8
"""Bytes of an element of a vector."""


@dataclass(frozen=True, slots=True)
class Summed:
    """Which groups count; `parts` is what other topologies have and this has not."""

    groups: tuple[Closed, ...]
    key: tuple[Cid, ...]
    parts: tuple[tuple[Cid, int], ...] = ()


class Sums(Evidence):
    """The masked vectors of a roster's groups. While `waiting`, nothing follows."""

    def __init__(self, ledger: Ledger, tip: Tip, me: AgentId) -> None:
        super().__init__(ledger, tip, me)
        self.groups = tuple(GroupParts(ledger, tip, members) for members in sum_groups(ledger.terms, tip))
        self.waiting = True
        self._spoilt: dict[tuple[Cid, ...], frozenset[AgentId]] = {}

    @property
    def idle(self) -> bool:
        """Whether the roster is too small for a sum, and nobody comes or goes."""
        return not self.groups and not self._words()

    def unsettled(self) -> set[Cid]:
        """Parts whose vector has still to be looked at."""
        return {cid for cid in self._vectors() if cid not in self.verdicts}

    def view(self) -> frozenset[Cid]:
        """The parts of all members, and words on taking part."""
        waits, previous = self.unsettled(), self.tip.digest
        shown = {cid for agent in self.tip.agents for cid in self.ledger.book.all_of(previous, agent)}
        standings = {standing.cid for standing in relevant_standings(self.ledger, self.tip).values()}
        return frozenset(shown - waits | standings)

    def conclude(self) -> Summed:
        """Which groups' sums are open, with all their vectors here."""
        good = tuple(
            closed
            for group in self.groups
            if (closed := group.closed()) is not None
            and closed.opened is not None
            and all(cid in self.verdicts and self.verdicts[cid] is None for cid in closed.parts)
        )
        return Summed(good, tuple(sorted(cid for closed in good for cid in closed.parts)))

    def summed(
        self, key: tuple[Cid, ...], parameters: Cid, seconds: float, spoilt: Collection[AgentId]
    ) -> None:
        """The model of these vectors is here; the groups of the `spoilt` had sums that no updates have."""
        self._spoilt[key] = frozenset(spoilt)
        self.averaged(key, parameters, seconds)

    def outcome(self, members: tuple[AgentId, ...]) -> Outcome | None:
        """The round's outcome."""
        if self.waiting:
            return None
        good = self.conclude()
        parameters = self._model(good)
        if parameters is None:
            return None
        spoilt = self._spoilt.get(good.key, frozenset())
        counted = {one.agent for closed in good.groups for one in closed.counted} - spoilt
        evidence, refused = self._judged(counted)
        named_wrong = {agent for agent, reason in refused.items() if reason != GROUP}
        contributed = (counted | refused.keys()) - named_wrong
        if not self.groups:
            evidence, contributed = self._words(), set(self.tip.agents) - self.excluded
        if not evidence:
            return None
        roster = next_roster(self.ledger, self.tip, contributed, refused, self.excluded)
        named = tuple(sorted((agent, reason) for agent, reason in refused.items() if agent in members))
        return Outcome(
            self.tip.round, self.tip.digest, members, tuple(sorted(evidence)), named, parameters, roster
        )

    def _judged(self, counted: Collection[AgentId]) -> tuple[set[Cid], dict[AgentId, str]]:
        """The evidence, and who is refused for what."""
        evidence: set[Cid] = set()
        refused = {agent: EXCLUDED for agent in self.tip.agents if agent in self.excluded}
        for group in self.groups:
            closed = group.closed()
            last = group.latest() if closed is None else {one.agent: one.part for one in closed.counted}
            evidence.update(last.values())
            for agent in last:
                if agent not in counted:
                    refused.setdefault(agent, GROUP)
        for group in self.groups:
            for agent, (reason, cids) in self._faults(group).items():
                if len(evidence | set(cids)) <= MAX_REVEALS and agent not in self.excluded:
                    evidence.update(cids)
                    refused[agent] = reason
        return evidence, refused

    def _faults(self, group: GroupParts) -> dict[AgentId, tuple[str, tuple[Cid, ...]]]:
        """What the records show, and vectors of a wrong size."""
        found = group.faults()
        for agent in group.members:
            for cid in group.of(Phase.MASKED, agent)[:1]:
                if isinstance(self.verdicts.get(cid), str) and cid not in self.unavailable():
                    found.setdefault(agent, (SUM, (cid,)))
        return found

    def _words(self) -> set[Cid]:
        """What a result of a roster that is too small for a sum rests on: who comes, and who goes."""
        roster = dict(self.tip.roster)
        found = sorted(
            standing.cid
            for agent, standing in relevant_standings(self.ledger, self.tip).items()
            if standing.joins is (agent not in roster)
        )
        return set(found[:MAX_REVEALS])

    def _vectors(self) -> dict[Cid, tuple[GroupParts, Cid]]:
        """The parts that name vectors, with their group and the vector's blob."""
        found: dict[Cid, tuple[GroupParts, Cid]] = {}
        for group in self.groups:
            for agent in group.members:
                for cid in group.of(Phase.MASKED, agent):
                    message = group.message(cid)
                    if message is not None:
                        found[cid] = (group, message.body[1])
        return found

    def _look(self, item: Cid) -> Action:
        group, blob = self._vectors()[item]
        author = self.ledger.book.parts[item][0]
        likely = dict.fromkeys((author, *group.members, *self.tip.agents))
        others = tuple(agent for agent in likely if agent != self._me)
        return LookVector(item, blob, WORD * group.session.length, others)

    def _make(self, conclusion: object) -> Action:
        assert isinstance(conclusion, Summed)
        return Sum(conclusion.key, self.tip.parameters, conclusion.groups)
