"""What a decision of several members rests on, as one of them has seen it: items that are looked at once.

An item is a record whose blob has to be here before it can be judged. `Evidence` keeps what became of each
look, says which ones are still to be taken, and makes one model of the items that count, once for each set of
them; `federated.agreement` gets everybody to sign what follows. No clock, no network.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from chain.cid import Cid
from chain.identity import AgentId
from chain.learning import Outcome
from federated.actions import Action, Average, Look
from federated.faults import UNAVAILABLE
from federated.ledger import Ledger, Tip
from federated.proposal import Decision, Verdict, decide, needs_blob, view_of

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


class Evidence:
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
        self._models: dict[tuple[Cid, ...], Cid] = {}
        self._making: tuple[Cid, ...] | None = None

    # -- what a subclass decides --

    def unsettled(self) -> set[Cid]:
        """Items that have still to be looked at."""
        raise NotImplementedError

    def view(self) -> frozenset[Cid]:
        """The records that the decision rests on."""
        raise NotImplementedError

    def conclude(self) -> Conclusion:
        """What follows from what was seen."""
        raise NotImplementedError

    def outcome(self, members: tuple[AgentId, ...]) -> Outcome | None:
        """What these members would sign; None while the model is not known, or there is no evidence."""
        raise NotImplementedError

    def _look(self, item: Cid) -> Action:
        """How to look at an item."""
        raise NotImplementedError

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

    def look_again(self, items: Iterable[Cid]) -> bool:
        """Ask once more for blobs that could not be had, now that somebody has them; whether any."""
        again = False
        for item in list(items):
            if self.verdicts.get(item) == UNAVAILABLE and self._refetched.get(item, 0) < MAX_REFETCH:
                self._refetched[item] = self._refetched.get(item, 0) + 1
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
    """The reveals of a roster."""

    def unsettled(self) -> set[Cid]:
        """Reveals whose blob has still to be looked at."""
        return {
            cid
            for agent in self.tip.agents
            if len(reveals := self.ledger.reveals_of(self.tip, agent)) == 1
            for cid in reveals
            if cid not in self.verdicts and needs_blob(self.ledger, self.ledger.reveals[cid][1])
        }

    def view(self) -> frozenset[Cid]:
        """Commits, reveals and words on taking part."""
        return view_of(self.ledger, self.tip, self.verdicts)

    def conclude(self) -> Decision:
        """Who contributed, who is refused, who is in the next roster."""
        return decide(self.ledger, self.tip, self.verdicts, self.excluded)

    def outcome(self, members: tuple[AgentId, ...]) -> Outcome | None:
        """The round's outcome."""
        decision = self.conclude()
        parameters = self._model(decision)
        if parameters is None:
            return None
        outcome = decision.outcome(self.tip, members, parameters)
        return outcome if outcome.reveals else None

    def _look(self, item: Cid) -> Look:
        author, reveal = self.ledger.reveals[item]
        others = [agent for agent in self.tip.agents if agent not in (author, self._me)]
        return Look(item, reveal.commit, reveal.blob, reveal.size, (author, *others))
