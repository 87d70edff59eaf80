"""How members come to one signed outcome: a machine without clock or network, one for each thing to agree on.

The members propose in an order that nobody chooses; whoever's turn it is shows the others which records its
outcome rests on, and they sign it if the same follows here. Signatures of more than two thirds are enough. A
proposer that does not finish in time is followed by the next; after `MAX_ATTEMPTS` of them those who still
answer, if they are at least half, go on alone. A member that signed one outcome signs no other one until an
attempt has passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from chain.identity import AgentId, Identity
from chain.learning_outcome import GroupOutcome, GroupResult, Outcome, Result, quorum
from federated.actions import Action, Ask, Publish
from federated.evidence import Evidence
from federated.messages import Question, Reply, Word, ascending

ATTEMPT_FLOOR_S = 4.0
"""Seconds that a proposer gets at least."""
ATTEMPT_EACH_S = 0.05
"""And so many for each agent that it asks: 256 take some megabytes and some seconds of its processor."""
ATTEMPT_AVERAGES = 4.0
"""A proposer gets so many times as long as averaging took here."""
RETRY_S = 0.5
"""Seconds between two questions to one member."""
ASKED_AT_ONCE = 64
"""Agents whose answer is awaited at a time."""
MAX_ATTEMPTS = 3
"""Attempts of all agents; then those who answer may go on."""


class Agreement:
    """The agreement of `agents` (ascending, this one among them) on what follows from `evidence`.

    `place` names what is agreed on in questions. Call `begin` when there is something to agree on, then
    `step` as `federated.round` says; `answer` may be called before.
    """

    def __init__(
        self,
        place: bytes,
        agents: tuple[AgentId, ...],
        evidence: Evidence,
        identity: Identity,
        limit_s: float,
    ) -> None:
        self.place = place
        self.agents = agents
        self.wake_at = inf
        self.attempt = 0
        self.hurried = False
        """Whether somebody who is further waits for this member's model."""
        self._evidence = evidence
        self._identity = identity
        self._me = identity.agent
        self._task = evidence.ledger.cid
        self._limit_s = limit_s
        self._since = inf
        self._signatures: dict[bytes, dict[AgentId, bytes]] = {}
        self._answered: dict[AgentId, float] = {}
        self._asked: dict[AgentId, float] = {}
        self._asking: set[AgentId] = set()
        self._published: set[bytes] = set()
        self._lock: tuple[bytes, float] | None = None

    @property
    def lock(self) -> tuple[bytes, float] | None:
        """The outcome that was signed last, by its digest, and until when no other one is signed."""
        return self._lock

    def relock(self, digest: bytes, until: float) -> None:
        """Before a restart this outcome was signed: no other one until then."""
        self._lock = (digest, until)

    def begin(self, now: float) -> None:
        """From now on proposers have their turns."""
        self._since = now

    def deadline(self) -> float:
        """When this attempt ends."""
        return self._since + self._attempt_s()

    # -- the proposer's side --

    def step(self, now: float, order: Sequence[AgentId]) -> list[Action]:
        """What to do now, where these agents propose one after another."""
        if now >= self.deadline():
            self.attempt += 1
            self._since = now
            self._asked.clear()
        self.wake_at = self.deadline()
        if order[self.attempt % len(order)] != self._me:
            return []
        members = self._who_signs(now)
        outcome = self._evidence.outcome(members)
        if outcome is None:
            return []
        digest = outcome.digest(self._task)
        signatures = self._signatures.setdefault(digest, {})
        if self._me not in signatures and self._may_sign(digest, now):
            signatures[self._me] = outcome.sign(self._task, self._identity)
        if len(signatures) >= self._enough(outcome):
            if digest in self._published:
                return []
            self._published.add(digest)
            signed = tuple(sorted(signatures.items()))
            if isinstance(outcome, GroupOutcome):
                return [Publish(GroupResult(outcome, signed))]
            return [Publish(Result(outcome, signed))]
        view, unavailable = self._evidence.view(), self._evidence.unavailable()
        question = Question(
            self._task,
            self.place,
            members,
            self._evidence.records(view),
            ascending(tuple(unavailable)),
            digest,
        )
        actions: list[Action] = []
        for agent in self.agents:
            if agent == self._me or agent in self._asking:
                continue
            here = self.attempt < MAX_ATTEMPTS or self._answered.get(agent, -inf) >= self._since
            if agent in signatures and here:
                continue
            if now < self._asked.get(agent, -inf) + RETRY_S:
                continue
            if len(self._asking) >= ASKED_AT_ONCE:
                break
            self._asked[agent] = now
            self._asking.add(agent)
            actions.append(Ask(agent, question))
        self.wake_at = min(self.wake_at, now + RETRY_S)
        return actions

    def answered(self, agent: AgentId, question: Question, reply: Reply | None, now: float) -> None:
        """A member replied, or (None) did not. Raises `ValueError` for a signature that does not verify."""
        self._asking.discard(agent)
        if reply is None:
            return
        self._answered[agent] = now
        if reply.word is Word.SIGNED:
            outcome = self._evidence.outcome(question.members)
            if outcome is None or outcome.digest(self._task) != question.digest:
                return  # what was asked for has been overtaken
            if agent not in question.members:
                return
            if not outcome.signed_by(self._task, agent, reply.signature):
                raise ValueError("a signature on a result does not verify")
            self._signatures.setdefault(question.digest, {})[agent] = reply.signature
        elif reply.word is Word.OBTAINABLE:
            self._evidence.look_again(reply.cids, agent)

    # -- the others' side --

    def answer(self, agent: AgentId, question: Question, now: float) -> Reply:
        """What to reply to a proposer, after the records that it shows have been fetched from it."""
        evidence = self._evidence
        if agent not in self.agents or self._me not in self.agents:
            return Reply(Word.ELSEWHERE)
        if any(not evidence.ledger.has(cid) for cid in question.view):
            return Reply(Word.BUSY)
        shown = evidence.read(question.view)
        if not shown.isdisjoint(evidence.unsettled()):
            return Reply(Word.BUSY)
        proofs = evidence.proofs()
        missing = evidence.view() - shown - proofs
        if missing:
            return Reply(Word.MISSING, cids=evidence.records(missing))
        mine = evidence.unavailable()
        here = [cid for cid in question.unavailable if cid not in mine and cid in evidence.verdicts]
        if here:
            return Reply(Word.OBTAINABLE, cids=ascending(here))
        if evidence.look_again((cid for cid in mine if cid not in question.unavailable), agent):
            return Reply(Word.BUSY)
        if question.members != self.agents and not self._may_shrink(question.members):
            return Reply(Word.BUSY)
        outcome = evidence.outcome(question.members)
        if outcome is None:
            self.hurried = True
            return Reply(Word.BUSY)
        if outcome.digest(self._task) != question.digest:
            lacking = proofs - shown
            return Reply(Word.MISSING, cids=evidence.records(lacking)) if lacking else Reply(Word.DISAGREE)
        if not self._may_sign(question.digest, now):
            return Reply(Word.BUSY)
        return Reply(Word.SIGNED, outcome.sign(self._task, self._identity))

    # -- parts --

    def _enough(self, outcome: Outcome | GroupOutcome) -> int:
        """How many signatures an outcome takes. Of a group that shrank half has to sign, not only two thirds
        of what is left: in a group of sixteen liars are six sooner than eight.
        """
        least = -(-len(self.agents) // 2) if isinstance(outcome, GroupOutcome) else 0
        return max(quorum(len(outcome.members)), least)

    def _attempt_s(self) -> float:
        asking_s, averages_s = ATTEMPT_EACH_S * len(self.agents), ATTEMPT_AVERAGES * self._evidence.average_s
        return min(self._limit_s, max(ATTEMPT_FLOOR_S, asking_s, averages_s))

    def _who_signs(self, now: float) -> tuple[AgentId, ...]:
        """All agents; after the failed attempts, late in an attempt, those who answered in it."""
        if self.attempt < MAX_ATTEMPTS or now < self._since + self._attempt_s() / 2:
            return self.agents
        alive = tuple(
            agent
            for agent in self.agents
            if agent == self._me or self._answered.get(agent, -inf) >= self._since
        )
        return alive if self._may_shrink(alive) else self.agents

    def _may_shrink(self, members: tuple[AgentId, ...]) -> bool:
        return (
            self.attempt >= MAX_ATTEMPTS
            and self._me in members
            and set(members) <= set(self.agents)
            and list(members) == sorted(set(members))
            and 2 * len(members) >= len(self.agents)
        )

    def _may_sign(self, digest: bytes, now: float) -> bool:
        """Whether this may be signed: not while another outcome, signed just now, may gather its quorum."""
        if self._lock is None or (self._lock[0] != digest and now >= self._lock[1]):
            self._lock = (digest, now + self._attempt_s())
        return self._lock[0] == digest
