"""What a decision of several members rests on, as one of them has seen it: items that are looked at once.

An item is a record whose blob has to be here before it can be judged. `Evidence` keeps what became of each
look, says which ones are still to be taken, and makes one model of the items that count, once for each set of
them; `federated.agreement` gets everybody to sign what follows. No clock, no network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from chain.cid import Cid
from chain.identity import AgentId
from chain.learning_outcome import GroupOutcome, Outcome
from federated.actions import Action, Average, Combine, Look, LookModel
from federated.faults import EXCLUDED, UNAVAILABLE
from federated.ledger import Ledger, Tip
from federated.messages import ascending
from federated.proposal import (
    Decision,
    Verdict,
    decide,
    needs_blob,
    next_roster,
    relevant_standings,
    view_of,
)

MAX_REFETCH = 3
"""Times that a blob which could not be had is asked for again because somebody has it."""


class Conclusion(Protocol):
    """What a view amounts to: the items that count name the model that is made of them."""

    @property
    def key(self) -> tuple[Cid, ...]:
        """The items that count, ascending; none: the model stays as it was."""
        ...

    @property
    def parts(self) -> tuple[tuple[Cid, int], ...]:
        """Of each item that counts the blob and its weight."""
        ...


class Evidence(ABC):
    """The items of one round; a subclass says which there are and what follows."""

    def __init__(self, ledger: Ledger, tip: Tip, me: AgentId) -> None:
        self.ledger = ledger
        self.tip = tip
        self.verdicts: dict[Cid, Verdict] = {}
        self.excluded: frozenset[AgentId] = frozenset()
        """Whom the network does not hear now."""
        self.average_s = 0.0
        """How long making the model took here."""
        self._me = me
        self._looking: set[Cid] = set()
        self._refetched: dict[Cid, int] = {}
        self._havers: dict[Cid, AgentId] = {}
        self._models: dict[tuple[Cid, ...], Cid] = {}
        self._making: tuple[Cid, ...] | None = None

    # -- what a subclass decides --

    @abstractmethod
    def unsettled(self) -> set[Cid]:
        """Items that have still to be looked at."""

    @abstractmethod
    def view(self) -> frozenset[Cid]:
        """The records that the decision rests on."""

    def proofs(self) -> frozenset[Cid]:
        """What of the view proves that somebody counts for nothing: who knows that by other proofs does not
        need these.
        """
        return frozenset()

    @abstractmethod
    def conclude(self) -> Conclusion:
        """What follows from what was seen."""

    def records(self, items: Iterable[Cid]) -> tuple[Cid, ...]:
        """The records in which others find these of a view, ascending."""
        return ascending(frozenset(items))

    def read(self, records: Iterable[Cid]) -> set[Cid]:
        """What these records of somebody's view are to this one."""
        return set(records)

    @abstractmethod
    def outcome(self, members: tuple[AgentId, ...]) -> Outcome | GroupOutcome | None:
        """What these members would sign; None while the model is not known, or there is no evidence."""

    @abstractmethod
    def _look(self, item: Cid) -> Action:
        """How to look at an item."""

    def _make(self, conclusion: Conclusion) -> Action:
        """How to make the model."""
        return Average(conclusion.key, self.tip.parameters, conclusion.parts)

    # -- looks --

    def looks(self) -> list[Action]:
        """The looks that nobody takes yet."""
        wanted = sorted(self.unsettled() - self._looking)
        self._looking.update(wanted)
        return [self._look(item) for item in wanted]

    def looked(self, item: Cid, verdict: Verdict) -> None:
        """An item was looked at, or could not be had."""
        self._looking.discard(item)
        self.verdicts[item] = verdict

    def give_up(self) -> None:
        """What was not to be had by now counts as not to be had."""
        for item in self.unsettled():
            self.verdicts[item] = UNAVAILABLE

    def unavailable(self) -> set[Cid]:
        """Items whose blob could not be had."""
        return {item for item, verdict in self.verdicts.items() if verdict == UNAVAILABLE}

    def look_again(self, items: Iterable[Cid], agent: AgentId) -> bool:
        """Ask once more for blobs that could not be had, now that this agent has them; whether any."""
        again = False
        for item in list(items):
            if self.verdicts.get(item) == UNAVAILABLE and self._refetched.get(item, 0) < MAX_REFETCH:
                self._refetched[item] = self._refetched.get(item, 0) + 1
                self._havers[item] = agent
                del self.verdicts[item]
                again = True
        return again

    # -- the model --

    def models(self) -> list[Action]:
        """The model that is to be made now, if everything is settled and nobody makes it yet."""
        conclusion = self.conclude()
        key = conclusion.key
        if not key or key in self._models or self._making == key or self.unsettled():
            return []
        self._making = key
        return [self._make(conclusion)]

    def averaged(self, key: tuple[Cid, ...], parameters: Cid, seconds: float) -> None:
        """The model of these items is here."""
        self._models[key] = parameters
        self.average_s = max(self.average_s, seconds)
        if self._making == key:
            self._making = None

    def failed(self, key: tuple[Cid, ...]) -> None:
        """It could not be made: a blob that was here has gone; its item is looked at again."""
        self._making = None
        for item in key:
            self.verdicts.pop(item, None)

    def _model(self, conclusion: Conclusion) -> Cid | None:
        return self._models.get(conclusion.key) if conclusion.key else self.tip.parameters


class Updates(Evidence):
    """The reveals of a roster, or of one group of it, which is then what they agree on."""

    def __init__(self, ledger: Ledger, tip: Tip, me: AgentId, agents: tuple[AgentId, ...]) -> None:
        super().__init__(ledger, tip, me)
        self.agents = agents
        self._whole = agents == tip.agents

    def unsettled(self) -> set[Cid]:
        """Reveals whose blob has still to be looked at."""
        return {
            cid
            for agent in self.agents
            if len(reveals := self.ledger.reveals_of(self.tip, agent)) == 1
            for cid in reveals
            if cid not in self.verdicts and needs_blob(self.ledger, self.ledger.reveals[cid][1])
        }

    def view(self) -> frozenset[Cid]:
        """Commits and reveals, and where it is the roster's words on taking part."""
        seen = view_of(self.ledger, self.tip, self.agents, self.verdicts)
        return seen | standings_in(self.ledger, self.tip) if self._whole else seen

    def conclude(self) -> Decision:
        """Who contributed, and who is refused."""
        return decide(self.ledger, self.tip, self.agents, self.verdicts, self.excluded)

    def outcome(self, members: tuple[AgentId, ...]) -> Outcome | GroupOutcome | None:
        """The round's outcome, or the group's."""
        decision = self.conclude()
        parameters = self._model(decision)
        if parameters is None:
            return None
        outcome: Outcome | GroupOutcome
        if self._whole:
            refused = dict(decision.refused)
            roster = next_roster(self.ledger, self.tip, decision.contributors, refused, self.excluded)
            outcome = decision.outcome(self.tip, members, parameters, roster)
        else:
            outcome = decision.group_outcome(self.tip, members, parameters)
        return outcome if outcome.reveals else None

    def _look(self, item: Cid) -> Look:
        author, reveal = self.ledger.reveals[item]
        others = [agent for agent in self.agents if agent not in (author, self._me)]
        return Look(item, reveal.commit, reveal.blob, reveal.size, (author, *others))


@dataclass(frozen=True, slots=True)
class Joined:
    """What the groups' outcomes amount to; `parts` are the models of groups that have updates."""

    groups: tuple[Cid, ...]
    key: tuple[Cid, ...]
    parts: tuple[tuple[Cid, int], ...]


class GroupModels(Evidence):
    """The outcomes of a roster's groups. An item is the name of one, its blob the group's model.

    A group without an outcome, or whose model is not to be had or none of the task's, is left out: its
    members are not in the next roster, and ask to join again.
    """

    def unsettled(self) -> set[Cid]:
        """Outcomes whose model has still to be looked at."""
        return {cid for cid in self._names() if cid not in self.verdicts and self._has_model(cid)}

    def view(self) -> frozenset[Cid]:
        """The groups' outcomes, and words on taking part."""
        shown = {cid for cid in self._names() if cid in self.verdicts or not self._has_model(cid)}
        return standings_in(self.ledger, self.tip) | shown | self.proofs()

    def proofs(self) -> frozenset[Cid]:
        """The outcomes of groups that have too many."""
        return self.ledger.torn(self.tip)

    def unavailable(self) -> set[Cid]:
        """Outcomes, of those that may count, whose model could not be had."""
        return super().unavailable().intersection(self._names())

    def records(self, items: Iterable[Cid]) -> tuple[Cid, ...]:
        """An outcome is found in a record that carries it."""
        groups = self.ledger.groups
        return ascending(frozenset(self.ledger.carrier(cid) if cid in groups else cid for cid in items))

    def read(self, records: Iterable[Cid]) -> set[Cid]:
        """Records that carry one outcome are one item."""
        return {self.ledger.carried.get(cid, cid) for cid in records}

    def conclude(self) -> Joined:
        """Which groups count."""
        groups = tuple(sorted(cid for cid in self._names() if self._counts(cid)))
        key = tuple(cid for cid in groups if self._has_model(cid))
        said = [self.ledger.groups[cid].outcome for cid in key]
        return Joined(groups, key, tuple((one.parameters, one.examples) for one in said))

    def outcome(self, members: tuple[AgentId, ...]) -> Outcome | None:
        """The round's outcome."""
        joined = self.conclude()
        parameters = self._model(joined)
        if not joined.groups or parameters is None:
            return None
        refused = {agent: EXCLUDED for agent in self.tip.agents if agent in self.excluded}
        contributed: set[AgentId] = set()
        for cid in joined.groups:
            one = self.ledger.groups[cid].outcome
            contributed.update(one.contributors)
            refused.update(one.refused)
        roster = next_roster(self.ledger, self.tip, contributed - self.excluded, refused, self.excluded)
        named = tuple(sorted((agent, reason) for agent, reason in refused.items() if agent in members))
        return Outcome(self.tip.round, self.tip.digest, members, joined.groups, named, parameters, roster)

    def _names(self) -> Iterable[Cid]:
        return self.ledger.group_results(self.tip).values()

    def _has_model(self, cid: Cid) -> bool:
        return self.ledger.groups[cid].outcome.examples > 0

    def _counts(self, cid: Cid) -> bool:
        return not self._has_model(cid) or (cid in self.verdicts and self.verdicts[cid] is None)

    def _look(self, item: Cid) -> LookModel:
        result = self.ledger.groups[item]
        signers = [agent for agent, _ in result.signatures if agent != self._me]
        havers = [self._havers[item]] if item in self._havers else []
        return LookModel(item, result.outcome.parameters, tuple(dict.fromkeys([*havers, *signers])))

    def _make(self, conclusion: Conclusion) -> Combine:
        return Combine(conclusion.key, self.tip.parameters, conclusion.parts)


def standings_in(ledger: Ledger, tip: Tip) -> frozenset[Cid]:
    """The records of all words on taking part that bear on the next roster."""
    return frozenset(standing.cid for standing in relevant_standings(ledger, tip).values())
