"""One round of a task as one member lives it: a state machine without clock, network or disk.

It is told what happened (records reached the ledger, a blob was looked at, an average was computed, a
member answered, time passed) and says what to do next. Three phases, each over when nobody is left to wait
for:

1. **commit**: the member's own update, once the user's process has handed it in, is promised by its hash;
2. **reveal**: the promised updates are shown, their blobs fetched and looked at;
3. **result**: everybody decides and averages for itself; the first member in the round's order asks the
   others to sign what came out; with signatures of more than two thirds it is the result.

Waiting is bounded and adapts: when more than two thirds have done their part, the rest get `PATIENCE` times
as long again as these took (at least `FLOOR_S`), and never more than the task's deadline. A proposer that
does not finish is followed by the next; after `MAX_ATTEMPTS` of them those who still answer go on alone. A
member that is gone is left out of the next roster, so it costs one deadline, once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import TypeAlias

from chain.cid import Cid
from chain.identity import AgentId, Identity
from chain.learning import Commit, Outcome, Result, Reveal, quorum, update_hash
from federated.faults import UNAVAILABLE
from federated.ledger import Ledger, Tip
from federated.messages import Question, Reply, Word, ascending
from federated.proposal import Decision, Verdict, decide, needs_blob, proposers, view_of

PATIENCE = 2.0
"""The last third is waited for so many times as long as the others took."""
FLOOR_S = 2.0
"""Seconds that a member gets at least after most of the others."""
ATTEMPT_FLOOR_S = 4.0
"""Seconds that a proposer gets at least."""
ATTEMPT_AVERAGES = 4.0
"""A proposer gets so many times as long as averaging took here."""
RETRY_S = 0.5
"""Seconds between two questions to one member."""
MAX_ATTEMPTS = 3
"""Attempts of the whole roster; then those who answer may go on."""
MAX_EXTENSIONS = 3
"""Times that the commit deadline is put off because not even half of the members are done."""
MAX_REFETCH = 3
"""Times that a blob which could not be had is asked for again because somebody has it."""


class Phase(StrEnum):
    """Where the round is."""

    COMMIT = "commit"
    REVEAL = "reveal"
    RESULT = "result"


@dataclass(frozen=True, slots=True)
class Offer:
    """The user's own update of a round; `salt` is secret until it is revealed. `metrics` in ppm."""

    blob: Cid
    size: int
    examples: int
    metrics: dict[str, int]
    salt: bytes

    def hash(self) -> bytes:
        """What its commit says."""
        return update_hash(self.salt, self.blob, self.size, self.examples)


@dataclass(frozen=True, slots=True)
class Promise:
    """Append this commit to the own chain, and deliver it."""

    commit: Commit


@dataclass(frozen=True, slots=True)
class Show:
    """Append this reveal to the own chain, and deliver it."""

    reveal: Reveal


@dataclass(frozen=True, slots=True)
class Look:
    """Fetch a reveal's blob (and its commit's record, if that is not in the ledger), and call `looked`.

    It is at `agents`, the likeliest first.
    """

    reveal: Cid
    commit: Cid
    blob: Cid
    size: int
    agents: tuple[AgentId, ...]


@dataclass(frozen=True, slots=True)
class Average:
    """Make the new model of these (blob, examples) and of the one that the round began with, `base`, by the
    task's strategy; keep it as a blob, and call `averaged`.
    """

    key: tuple[Cid, ...]
    base: Cid
    parts: tuple[tuple[Cid, int], ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a member to sign, and call `answered` with its reply."""

    agent: AgentId
    question: Question


@dataclass(frozen=True, slots=True)
class Publish:
    """Append this result to the own chain, and deliver it."""

    result: Result


Action: TypeAlias = Promise | Show | Look | Average | Ask | Publish


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
        self.verdicts: dict[Cid, Verdict] = {}
        self.excluded: frozenset[AgentId] = frozenset()
        """Whom the network does not hear now; set anew before `step` and `answer`."""
        self.attempt = 0
        self._identity = identity
        self._me = identity.agent
        self._since = now
        self._limit_s = ledger.terms.commit_ms / 1_000
        self._most_at: float | None = None
        self._extensions = 0
        self._promised = False
        self._shown = False
        self._looking: set[Cid] = set()
        self._refetched: dict[Cid, int] = {}
        self._averages: dict[tuple[Cid, ...], Cid] = {}
        self._averaging: tuple[Cid, ...] | None = None
        self._average_s = 0.0
        self._signatures: dict[bytes, dict[AgentId, bytes]] = {}
        self._answered: dict[AgentId, float] = {}
        self._asked: dict[AgentId, float] = {}
        self._asking: set[AgentId] = set()
        self._published: set[bytes] = set()
        self._lock: tuple[bytes, float] | None = None
        self._hurried = False

    # -- what is asked of it --

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
        return self._lock

    def relock(self, digest: bytes, until: float) -> None:
        """Before a restart this outcome was signed: no other one until then, and for an attempt at most."""
        self._lock = (digest, min(until, self._since + self._limit_s))

    def deadline(self) -> float:
        """When the phase ends at the latest, as far as is known now."""
        if self.phase is Phase.RESULT:
            return self._since + self._attempt_s()
        return self._deadline()

    # -- what happens --

    def looked(self, reveal: Cid, verdict: Verdict) -> None:
        """A blob was looked at, or could not be had."""
        self._looking.discard(reveal)
        self.verdicts[reveal] = verdict

    def averaged(self, key: tuple[Cid, ...], parameters: Cid, seconds: float) -> None:
        """The average of these reveals is here."""
        self._averages[key] = parameters
        self._average_s = max(self._average_s, seconds)
        if self._averaging == key:
            self._averaging = None

    def failed(self, key: tuple[Cid, ...]) -> None:
        """The average could not be computed: a blob that was here has gone; it is looked at again."""
        self._averaging = None
        for reveal in key:
            self.verdicts.pop(reveal, None)

    def answered(self, agent: AgentId, question: Question, reply: Reply | None, now: float) -> None:
        """A member replied, or (None) did not. Raises `ValueError` for a signature that does not verify."""
        self._asking.discard(agent)
        if reply is None:
            return
        self._answered[agent] = now
        if reply.word is Word.SIGNED:
            outcome = self._outcome(question.members)
            if outcome is None or outcome.digest(self.ledger.cid) != question.digest:
                return  # what was asked for has been overtaken
            if agent not in question.members:
                return
            if not outcome.signed_by(self.ledger.cid, agent, reply.signature):
                raise ValueError("a signature on a result does not verify")
            self._signatures.setdefault(question.digest, {})[agent] = reply.signature
        elif reply.word is Word.OBTAINABLE:
            self._look_again(reply.cids)

    def answer(self, agent: AgentId, question: Question, now: float) -> Reply:
        """What to reply to a proposer, after the records that it shows have been fetched from it."""
        if question.previous != self.tip.digest or agent not in self.tip.agents or not self.takes_part:
            return Reply(Word.ELSEWHERE)
        shown = set(question.view)
        if any(not self.ledger.has(cid) for cid in shown):
            return Reply(Word.BUSY)
        unsettled = self._unsettled()
        if any(cid in shown for cid in unsettled):
            return Reply(Word.BUSY)
        missing = view_of(self.ledger, self.tip, self.verdicts) - shown
        if missing:
            return Reply(Word.MISSING, cids=ascending(missing))
        mine = self._unavailable()
        here = [cid for cid in question.unavailable if cid not in mine and cid in self.verdicts]
        if here:
            return Reply(Word.OBTAINABLE, cids=ascending(here))
        if self._look_again(cid for cid in mine if cid not in question.unavailable):
            return Reply(Word.BUSY)
        if question.members != self.tip.agents and not self._may_shrink(question.members):
            return Reply(Word.BUSY)
        outcome = self._outcome(question.members)
        if outcome is None:
            self._hurried = True  # somebody is further than we are
            return Reply(Word.BUSY)
        if outcome.digest(self.ledger.cid) != question.digest:
            return Reply(Word.DISAGREE)
        if not self._locked(question.digest, now):
            return Reply(Word.BUSY)
        return Reply(Word.SIGNED, outcome.sign(self.ledger.cid, self._identity))

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
        actions += self._looks()
        if self.phase is Phase.RESULT:
            actions += self._conclude(now)
        elif self._hurried:
            actions += self._average(self._decision())
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
        unsettled = self._unsettled()
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
                for cid in unsettled:
                    self.verdicts[cid] = UNAVAILABLE
                self._enter(Phase.RESULT, now)
            else:
                self._since, self._most_at = now, None
                self.wake_at = self._deadline()
        else:
            self.wake_at = deadline
        return actions

    def _conclude(self, now: float) -> list[Action]:
        decision = self._decision()
        actions = self._average(decision)
        if now >= self._since + self._attempt_s():
            self.attempt += 1
            self._since = now
            self._asked.clear()
        self.wake_at = self._since + self._attempt_s()
        shown = [agent for agent in self._heard() if self.ledger.reveals_of(self.tip, agent)]
        order = proposers(self.tip, shown or self.tip.agents)
        if order[self.attempt % len(order)] != self._me:
            return actions
        members = self._who_signs(now)
        outcome = self._outcome(members)
        if outcome is None:
            return actions
        digest = outcome.digest(self.ledger.cid)
        signatures = self._signatures.setdefault(digest, {})
        if self._me not in signatures and self._locked(digest, now):
            signatures[self._me] = outcome.sign(self.ledger.cid, self._identity)
        if len(signatures) >= quorum(len(members)):
            if digest not in self._published:
                self._published.add(digest)
                actions.append(Publish(Result(outcome, tuple(sorted(signatures.items())))))
            return actions
        question = Question(
            self.ledger.cid,
            self.tip.digest,
            members,
            ascending(view_of(self.ledger, self.tip, self.verdicts)),
            ascending(tuple(self._unavailable())),
            digest,
        )
        for agent in self.tip.agents:
            if agent == self._me or agent in self._asking:
                continue
            here = self.attempt < MAX_ATTEMPTS or self._answered.get(agent, -inf) >= self._since
            if agent in signatures and here:
                continue
            if now < self._asked.get(agent, -inf) + RETRY_S:
                continue
            self._asked[agent] = now
            self._asking.add(agent)
            actions.append(Ask(agent, question))
        self.wake_at = min(self.wake_at, now + RETRY_S)
        return actions

    # -- parts --

    def _enter(self, phase: Phase, now: float) -> None:
        self.phase = phase
        self._since, self._most_at = now, None
        terms = self.ledger.terms
        self._limit_s = (terms.reveal_ms if phase is Phase.REVEAL else terms.result_ms) / 1_000

    def _heard(self) -> list[AgentId]:
        """The members whose words count."""
        return [agent for agent in self.tip.agents if agent not in self.excluded]

    def _decision(self) -> Decision:
        return decide(self.ledger, self.tip, self.verdicts, self.excluded)

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

    def _attempt_s(self) -> float:
        return min(self._limit_s, max(ATTEMPT_FLOOR_S, ATTEMPT_AVERAGES * self._average_s))

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

    def _unsettled(self) -> set[Cid]:
        """Reveals whose blob has still to be looked at."""
        return {
            cid
            for agent in self.tip.agents
            if len(reveals := self.ledger.reveals_of(self.tip, agent)) == 1
            for cid in reveals
            if cid not in self.verdicts and needs_blob(self.ledger, self.ledger.reveals[cid][1])
        }

    def _unavailable(self) -> set[Cid]:
        return {cid for cid, verdict in self.verdicts.items() if verdict == UNAVAILABLE}

    def _looks(self) -> list[Action]:
        actions: list[Action] = []
        for cid in sorted(self._unsettled() - self._looking):
            author, reveal = self.ledger.reveals[cid]
            self._looking.add(cid)
            others = [agent for agent in self.tip.agents if agent not in (author, self._me)]
            actions.append(Look(cid, reveal.commit, reveal.blob, reveal.size, (author, *others)))
        return actions

    def _look_again(self, reveals: Iterable[Cid]) -> bool:
        """Ask once more for blobs that could not be had, now that somebody has them; whether any."""
        again = False
        for cid in list(reveals):
            if self.verdicts.get(cid) == UNAVAILABLE and self._refetched.get(cid, 0) < MAX_REFETCH:
                self._refetched[cid] = self._refetched.get(cid, 0) + 1
                del self.verdicts[cid]
                again = True
        return again

    def _average(self, decision: Decision) -> list[Action]:
        key = decision.key
        if not key or key in self._averages or self._averaging == key or self._unsettled():
            return []
        self._averaging = key
        return [
            Average(
                key, self.tip.parameters, tuple((one.blob, one.examples) for one in decision.contributions)
            )
        ]

    def _outcome(self, members: tuple[AgentId, ...]) -> Outcome | None:
        """What follows from what was seen; None while the average is not known, or there is no evidence."""
        decision = self._decision()
        parameters = self._averages.get(decision.key) if decision.key else self.tip.parameters
        if parameters is None:
            return None
        outcome = decision.outcome(self.tip, members, parameters)
        return outcome if outcome.reveals else None

    def _who_signs(self, now: float) -> tuple[AgentId, ...]:
        """The whole roster; after the failed attempts, late in an attempt, those who answered in it."""
        if self.attempt < MAX_ATTEMPTS or now < self._since + self._attempt_s() / 2:
            return self.tip.agents
        alive = tuple(
            agent
            for agent in self.tip.agents
            if agent == self._me or self._answered.get(agent, -inf) >= self._since
        )
        return alive if self._may_shrink(alive) else self.tip.agents

    def _may_shrink(self, members: tuple[AgentId, ...]) -> bool:
        return (
            self.attempt >= MAX_ATTEMPTS
            and self._me in members
            and set(members) <= set(self.tip.agents)
            and list(members) == sorted(members)
            and 2 * len(members) >= len(self.tip.roster)
        )

    def _locked(self, digest: bytes, now: float) -> bool:
        """Whether this may be signed: not while another outcome, signed just now, may gather its quorum."""
        if self._lock is None or (self._lock[0] != digest and now >= self._lock[1]):
            self._lock = (digest, now + self._attempt_s())
        return self._lock[0] == digest
