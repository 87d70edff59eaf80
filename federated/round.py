"""One round of a task as one member lives it: a state machine without clock, network or disk.

It is told what happened (records reached the ledger, a blob was looked at, an average was computed, a
member answered, time passed) and says what to do next. Three phases, each over when nobody is left to wait
for:

1. **commit**: the member's own update, once the user's process has handed it in, is promised by its hash;
2. **reveal**: the promised updates are shown, their blobs fetched and looked at;
3. **result**: everybody decides and averages for itself, and all sign what came out (`federated.agreement`).

Waiting is bounded and adapts: when more than two thirds have done their part, the rest get `PATIENCE` times
as long again as these took (at least `FLOOR_S`), and never more than the task's deadline. A member that is
gone is left out of the next roster, so it costs one deadline, once.
"""

from __future__ import annotations

from enum import StrEnum
from math import inf

from chain.cid import Cid
from chain.identity import AgentId, Identity
from chain.learning import Commit, Reveal, quorum
from federated.actions import Action, Offer, Promise, Show
from federated.agreement import Agreement
from federated.evidence import Updates
from federated.ledger import Ledger, Tip
from federated.messages import Question, Reply, Word, ascending
from federated.proposal import Verdict, proposers

PATIENCE = 2.0
"""The last third is waited for so many times as long as the others took."""
FLOOR_S = 2.0
"""Seconds that a member gets at least after most of the others."""
MAX_EXTENSIONS = 3
"""Times that the commit deadline is put off because not even half of the members are done."""


class Phase(StrEnum):
    """Where the round is."""

    COMMIT = "commit"
    REVEAL = "reveal"
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
        self._since = now
        self._limit_s = ledger.terms.commit_ms / 1_000
        self._most_at: float | None = None
        self._extensions = 0
        self._promised = False
        self._shown = False
        self.updates = Updates(ledger, tip, self._me)
        self.agreement = Agreement(
            tip.digest, tip.agents, self.updates, identity, ledger.terms.result_ms / 1_000
        )

    # -- what is asked of it --

    @property
    def excluded(self) -> frozenset[AgentId]:
        """Whom the network does not hear now; set anew before `step` and `answer`."""
        return self.updates.excluded

    @excluded.setter
    def excluded(self, agents: frozenset[AgentId]) -> None:
        self.updates.excluded = agents

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
    def lock(self) -> tuple[bytes, float] | None:
        """The outcome that was signed last, by its digest, and until when no other one is signed."""
        return self.agreement.lock

    def relock(self, digest: bytes, until: float) -> None:
        """Before a restart this outcome was signed: no other one until then, and for an attempt at most."""
        self.agreement.relock(digest, min(until, self._since + self._limit_s))

    def deadline(self) -> float:
        """When the phase ends at the latest, as far as is known now."""
        if self.phase is Phase.RESULT:
            return self.agreement.deadline()
        return self._deadline()

    # -- what happens --

    def looked(self, reveal: Cid, verdict: Verdict) -> None:
        """A blob was looked at, or could not be had."""
        self.updates.looked(reveal, verdict)

    def averaged(self, key: tuple[Cid, ...], parameters: Cid, seconds: float) -> None:
        """The average of these reveals is here."""
        self.updates.averaged(key, parameters, seconds)

    def failed(self, key: tuple[Cid, ...]) -> None:
        """The average could not be computed: a blob that was here has gone; it is looked at again."""
        self.updates.failed(key)

    def answered(self, agent: AgentId, question: Question, reply: Reply | None, now: float) -> None:
        """A member replied, or (None) did not. Raises `ValueError` for a signature that does not verify."""
        self.agreement.answered(agent, question, reply, now)

    def answer(self, agent: AgentId, question: Question, now: float) -> Reply:
        """What to reply to a proposer, after the records that it shows have been fetched from it."""
        if question.previous != self.tip.digest:
            return Reply(Word.ELSEWHERE)
        return self.agreement.answer(agent, question, now)

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
        if self.phase is Phase.RESULT:
            actions += self._conclude(now)
        elif self.agreement.hurried:
            actions += self.updates.models()
        return actions

    # -- the phases --

    def _commit(self, now: float) -> list[Action]:
        actions: list[Action] = []
        own = self.ledger.commits_of(self.tip, self._me)
        if self.offer is not None and not own and not self._promised:
            self._promised = True
            actions.append(Promise(Commit(self.tip.round, self.tip.digest, self.offer.hash())))
        roster = self._heard()
        shown = sum(bool(self.ledger.reveals_of(self.tip, agent)) for agent in roster)
        done = self._committed()
        self._note_most(len(done), len(roster), now)
        deadline = self._deadline()
        if len(done) == len(roster) or 2 * shown > len(roster):
            self._enter(Phase.REVEAL, now)
        elif now >= deadline:
            if 2 * len(done) >= len(roster) or (done and self._extensions >= MAX_EXTENSIONS):
                self._enter(Phase.REVEAL, now)
            else:
                self._extensions += 1
                self._since, self._most_at = now, None
                self.wake_at = self._deadline()
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
        self._note_most(len(done), len(expected), now)
        deadline = self._deadline()
        if len(done) == len(expected):
            self._enter(Phase.RESULT, now)
        elif now >= deadline:
            if any(self.ledger.reveals_of(self.tip, agent) for agent in self._heard()):
                self.updates.give_up()
                self._enter(Phase.RESULT, now)
            else:
                self._since, self._most_at = now, None
                self.wake_at = self._deadline()
        else:
            self.wake_at = deadline
        return actions

    def _conclude(self, now: float) -> list[Action]:
        actions = self.updates.models()
        shown = [agent for agent in self._heard() if self.ledger.reveals_of(self.tip, agent)]
        actions += self.agreement.step(now, proposers(self.tip, shown or self.tip.agents))
        self.wake_at = self.agreement.wake_at
        return actions

    # -- parts --

    def _enter(self, phase: Phase, now: float) -> None:
        self.phase = phase
        self._since, self._most_at = now, None
        if phase is Phase.REVEAL:
            self._limit_s = self.ledger.terms.reveal_ms / 1_000
        else:
            self.agreement.begin(now)

    def _heard(self) -> list[AgentId]:
        """The members whose words count."""
        return [agent for agent in self.tip.agents if agent not in self.excluded]

    def _committed(self) -> list[AgentId]:
        """The members who promised an update, or have shown one at once."""
        return [
            agent
            for agent in self._heard()
            if self.ledger.commits_of(self.tip, agent) or self.ledger.reveals_of(self.tip, agent)
        ]

    def _note_most(self, done: int, of: int, now: float) -> None:
        if self._most_at is None and of and done >= quorum(of):
            self._most_at = now

    def _deadline(self) -> float:
        latest = self._since + self._limit_s
        if self._most_at is None:
            return latest
        took = self._most_at - self._since
        return min(latest, self._most_at + max(FLOOR_S, PATIENCE * took))

    def _own_reveal(self, commit: Cid, offer: Offer) -> Reveal:
        seen = {cid for agent in self.tip.agents for cid in self.ledger.commits_of(self.tip, agent)[:2]}
        # A reveal may overtake its commit on the way; it says that there is one.
        for agent in self.tip.agents:
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
