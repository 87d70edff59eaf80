"""One round of a task as one member lives it: a state machine without clock, network or disk.

It is told what happened (records reached the ledger, a blob was looked at, an average was computed, a
member answered, time passed) and says what to do next. Three phases, each over when nobody is left to wait
for:

1. **commit**: the member's own update, once the user's process has handed it in, is promised by its hash;
2. **reveal**: the promised updates are shown, their blobs fetched and looked at;
3. **result**: everybody decides and averages for itself, and all sign what came out (`federated.agreement`).

Where the roster is divided (`federated.grouping`) a member does all that in its **group**, and the groups'
outcomes take the place of updates: their models are fetched, combined, and all of the roster sign the result.
So all members have one model after each round, for the updates of one group and one model of each other.

Waiting is bounded and adapts (`federated.waiting`); most are more than two thirds. A member that is
gone is left out of the next roster, so it costs one deadline, once.
"""

from __future__ import annotations

from enum import StrEnum
from math import inf

from chain.cid import Cid
from chain.identity import AgentId, Identity
from chain.learning import Commit, Reveal
from chain.learning_outcome import quorum
from federated.actions import Action, Offer, Promise, Show
from federated.agreement import Agreement
from federated.evidence import Evidence, GroupModels, Updates
from federated.grouping import place_of
from federated.ledger import Ledger, Tip
from federated.messages import Question, Reply, Word, ascending
from federated.proposal import Verdict, proposers
from federated.waiting import Deadline

MAX_EXTENSIONS = 3
"""Times that the commit deadline is put off because not even half of the members are done."""


class Phase(StrEnum):
    """Where the round is."""

    COMMIT = "commit"
    REVEAL = "reveal"
    GROUP = "group"
    RESULT = "result"


class Round:
    """The machine of the round that the ledger's tip is at; times are seconds of one monotonic clock.

    After anything happened, call `step`, do what it says, and call it again at `wake_at` at the latest. When
    the ledger's tip is another one, this round is over.
    """

    def __init__(self, ledger: Ledger, identity: Identity, now: float) -> None:
        tip = ledger.tip
        assert tip is not None
        self.ledger = ledger
        self.tip: Tip = tip
        self.phase = Phase.COMMIT
        self.offer: Offer | None = None
        self.wake_at = inf
        self._me = identity.agent
        self._began = now
        self._deadline = Deadline(now, ledger.terms.commit_ms / 1_000)
        self._extensions = 0
        self._promised = False
        self._shown = False
        self._gathered = False
        self.made: set[Cid] = set()
        """Models that were computed for this round; its result is one of them."""
        groups = ledger.groups_of(tip)
        self.group = next((group for group in groups if self._me in group), groups[0])
        """Those whose updates this member exchanges, ascending: its group, or the roster."""
        self.updates = Updates(ledger, tip, self._me, self.group)
        self.models = GroupModels(ledger, tip, self._me) if len(groups) > 1 else None
        limit_s = ledger.terms.result_ms / 1_000
        self._whole = Agreement(tip.digest, tip.agents, self.models or self.updates, identity, limit_s)
        self._among = self._whole
        if self.models is not None:
            place = place_of(tip.digest, self.group)
            self._among = Agreement(place, self.group, self.updates, identity, limit_s)
        self.agreements = {one.place: one for one in (self._whole, self._among)}
        """The agreements of this round by what questions call them: the roster's, and the group's."""

    # -- what is asked of it --

    @property
    def excluded(self) -> frozenset[AgentId]:
        """Whom the network does not hear now; set anew before `step` and `answer`."""
        return self.updates.excluded

    @excluded.setter
    def excluded(self, agents: frozenset[AgentId]) -> None:
        self.updates.excluded = agents
        if self.models is not None:
            self.models.excluded = agents

    @property
    def takes_part(self) -> bool:
        """Whether this member is in the round's roster."""
        return self._me in self.tip.agents

    @property
    def over(self) -> bool:
        """Whether the ledger has moved on."""
        return self.ledger.tip is None or self.ledger.tip.digest != self.tip.digest

    @property
    def wants_update(self) -> bool:
        """Whether the user's process should train now."""
        return (
            self.takes_part
            and self.phase is Phase.COMMIT
            and self.offer is None
            and not self.ledger.commits_of(self.tip, self._me)
        )

    @property
    def promised(self) -> bool:
        """Whether this member's update is promised."""
        return bool(self.ledger.commits_of(self.tip, self._me))

    def relock(self, place: bytes, digest: bytes, until: float) -> None:
        """Before a restart this outcome was signed: no other one until then, and for an attempt at most."""
        self.agreements[place].relock(digest, min(until, self._deadline.since + self._deadline.limit_s))

    def deadline(self) -> float:
        """When the phase ends at the latest, as far as is known now."""
        if self.phase is Phase.GROUP:
            return self._among.deadline()
        if self.phase is Phase.RESULT and self._gathered:
            return self._whole.deadline()
        return self._deadline.at()

    # -- what happens --

    def looked(self, item: Cid, verdict: Verdict) -> None:
        """The blob of a reveal, or a group's model, was looked at, or could not be had."""
        self._evidence(item).looked(item, verdict)

    def averaged(self, key: tuple[Cid, ...], parameters: Cid, seconds: float) -> None:
        """The model that these reveals, or groups, lead to is here."""
        self._evidence(key[0]).averaged(key, parameters, seconds)

    def failed(self, key: tuple[Cid, ...]) -> None:
        """It could not be computed: a blob that was here has gone; it is looked at again."""
        self._evidence(key[0]).failed(key)

    def answered(self, agent: AgentId, question: Question, reply: Reply | None, now: float) -> None:
        """A member replied, or (None) did not. Raises `ValueError` for a signature that does not verify."""
        self.agreements[question.previous].answered(agent, question, reply, now)

    def answer(self, agent: AgentId, question: Question, now: float) -> Reply:
        """What to reply to a proposer, after the records that it shows have been fetched from it."""
        agreement = self.agreements.get(question.previous)
        if agreement is None:
            return Reply(Word.ELSEWHERE)
        known = self.ledger.group_results(self.tip).get(self.group)
        if agreement is not self._whole and known is not None:
            return Reply(Word.ELSEWHERE, cids=(self.ledger.carrier(known),))
        return agreement.answer(agent, question, now)

    def step(self, now: float) -> list[Action]:
        """What to do now; also moves the phases on. `wake_at` is when to ask again if nothing happens."""
        self.wake_at = inf
        if not self.takes_part or self.over:
            return []
        actions: list[Action] = []
        if self.phase is Phase.COMMIT:
            actions += self._commit(now)
        if self.phase is Phase.REVEAL:
            actions += self._reveal(now)
        actions += self.updates.looks()
        if self.models is not None:
            actions += self.models.looks()
            if self._whole.hurried:
                actions += self.models.models()
        if self.phase is Phase.GROUP:
            actions += self._conclude_group(now)
        if self.phase is Phase.RESULT:
            actions += self._conclude(now)
        elif self._among.hurried and self.phase is not Phase.GROUP:
            actions += self.updates.models()
        return actions

    # -- the phases --

    def _commit(self, now: float) -> list[Action]:
        actions: list[Action] = []
        own = self.ledger.commits_of(self.tip, self._me)
        if self.offer is not None and not own and not self._promised:
            self._promised = True
            promised = self.offer.hash(self.ledger.terms.promiser(self._me))
            actions.append(Promise(Commit(self.tip.round, self.tip.digest, promised)))
        roster = self._heard()
        shown = sum(bool(self.ledger.reveals_of(self.tip, agent)) for agent in roster)
        done = self._committed()
        self._deadline.note(len(done), quorum(len(roster)), now)
        deadline = self._deadline.at()
        if (done and not self._awaited()) or 2 * shown > len(roster):
            self._enter(Phase.REVEAL, now)
        elif now >= deadline:
            if 2 * len(done) >= len(roster) or (done and self._extensions >= MAX_EXTENSIONS):
                self._enter(Phase.REVEAL, now)
            else:
                self._extensions += 1
                self._deadline.again(now)
                self.wake_at = self._deadline.at()
        else:
            self.wake_at = deadline
        return actions

    def _reveal(self, now: float) -> list[Action]:
        actions: list[Action] = []
        own = self.ledger.commits_of(self.tip, self._me)
        if own and self.offer is not None and not self._shown:
            self._shown = True
            if not self.ledger.reveals_of(self.tip, self._me):
                actions.append(Show(self._own_reveal(own[0], self.offer)))
        expected = self._committed()
        unsettled = self.updates.unsettled()
        done = [
            agent
            for agent in expected
            if (reveals := self.ledger.reveals_of(self.tip, agent)) and unsettled.isdisjoint(reveals)
        ]
        self._deadline.note(len(done), quorum(len(expected)), now)
        deadline = self._deadline.at()
        if len(done) == len(expected):
            self._enter(self._after_reveals(), now)
        elif now >= deadline:
            if any(self.ledger.reveals_of(self.tip, agent) for agent in self._heard()):
                self.updates.give_up()
                self._enter(self._after_reveals(), now)
            else:
                self._deadline.again(now)
                self.wake_at = self._deadline.at()
        else:
            self.wake_at = deadline
        return actions

    def _conclude_group(self, now: float) -> list[Action]:
        if self.group in self.ledger.group_results(self.tip):
            self._enter(Phase.RESULT, now)
            return []
        actions = [*self.updates.models(), *self._among.step(now, self._order(self._shown_by(self.group)))]
        self.wake_at = self._among.wake_at
        return actions

    def _conclude(self, now: float) -> list[Action]:
        if self.models is None:
            actions = [
                *self.updates.models(),
                *self._whole.step(now, self._order(self._shown_by(self.group))),
            ]
            self.wake_at = self._whole.wake_at
            return actions
        if not self._gathered and not self._gather(self.models, now):
            return []
        done = [agent for group in self.ledger.group_results(self.tip) for agent in group]
        actions = [*self.models.models(), *self._whole.step(now, self._order(done))]
        self.wake_at = self._whole.wake_at
        return actions

    def _gather(self, models: GroupModels, now: float) -> bool:
        """Whether the other groups need not be waited for any more; waited for since the round began."""
        results, unsettled = self.ledger.group_results(self.tip), models.unsettled()
        groups = self.ledger.groups_of(self.tip)
        done = [cid for cid in results.values() if cid not in unsettled]
        self._deadline.note(len(done), quorum(len(groups)), now)
        self.wake_at = self._deadline.at()
        if len(done) < len(groups) and now < self.wake_at:
            return False
        models.give_up()
        self._gathered = True
        self._whole.begin(now)
        return True

    # -- parts --

    def _after_reveals(self) -> Phase:
        return Phase.RESULT if self.models is None else Phase.GROUP

    def _enter(self, phase: Phase, now: float) -> None:
        self.phase = phase
        terms = self.ledger.terms
        if phase is Phase.REVEAL:
            self._deadline.again(now, terms.reveal_ms / 1_000)
        elif phase is Phase.GROUP:
            self._among.begin(now)
        elif self.models is None:
            self._whole.begin(now)
        else:
            whole_s = (terms.commit_ms + terms.reveal_ms + terms.result_ms) / 1_000
            self._deadline.again(self._began, whole_s)

    def _evidence(self, item: Cid) -> Evidence:
        return self.models if self.models is not None and item in self.ledger.groups else self.updates

    def _order(self, agents: list[AgentId]) -> list[AgentId]:
        """Who proposes one after another: those of these that are heard, or all of the group."""
        return proposers(self.tip, [one for one in agents if one not in self.excluded] or self.group)

    def _shown_by(self, agents: tuple[AgentId, ...]) -> list[AgentId]:
        return [agent for agent in agents if self.ledger.reveals_of(self.tip, agent)]

    def _heard(self) -> list[AgentId]:
        """The members of the group whose words count."""
        return [agent for agent in self.group if agent not in self.excluded]

    def _committed(self) -> list[AgentId]:
        """The members who promised an update, or have shown one at once."""
        return [
            agent
            for agent in self._heard()
            if self.ledger.commits_of(self.tip, agent) or self.ledger.reveals_of(self.tip, agent)
        ]

    def _awaited(self) -> list[AgentId]:
        """The members who may yet promise an update: who has left the task will not."""
        standings, done = self.ledger.standings, self._committed()
        left = {agent for agent in self._heard() if agent in standings and not standings[agent].joins}
        return [agent for agent in self._heard() if agent not in done and agent not in left]

    def _own_reveal(self, commit: Cid, offer: Offer) -> Reveal:
        seen = {cid for agent in self.group for cid in self.ledger.commits_of(self.tip, agent)[:2]}
        # A reveal may overtake its commit on the way; it says that there is one.
        for agent in self.group:
            if not self.ledger.commits_of(self.tip, agent):
                seen |= {
                    self.ledger.reveals[cid][1].commit for cid in self.ledger.reveals_of(self.tip, agent)[:2]
                }
        return Reveal(
            self.tip.round,
            self.tip.digest,
            commit,
            offer.salt,
            offer.blob,
            offer.size,
            offer.examples,
            offer.metrics,
            ascending(frozenset(seen)),
        )
