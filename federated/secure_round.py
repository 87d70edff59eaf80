"""A round whose updates are summed under masks, as one member lives it: without clock, network or disk.

It is told what happened and says what to do next, like `federated.round`, and ends like it: with a result
that more than two thirds sign. In between, each group of the roster (`federated.sum_chain`) goes through the
phases of a secure sum:

1. **keys**: whoever has an update to give says so by its keys, and how many examples stand behind it;
2. **shares**: the secrets behind the masks are shared out among those who showed keys;
3. **masked**: everybody's vector under its masks is shown;
4. **survivors**: everybody signs whose vectors it has; more than two thirds must say the same;
5. **opening**: what takes the masks away. From here on anybody can compute the sum.

Who is in after each phase is settled without a vote, see `federated.sum_member`.

**Waiting** is bounded and adapts as in every round: when enough for a sum have spoken, the rest get
`PATIENCE` times as long again, and never more than the task's deadline (`commit_ms` for keys, `reveal_ms` for
the other phases). Of other groups a member waits for the end, as long as anything is heard of them.

**A crash** in the middle costs a member its keys, which are nowhere but in memory: it takes no more part in
this round's sum, and still signs its result.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING

from chain.cid import Cid
from chain.identity import AgentId, Identity
from chain.learning_outcome import quorum
from federated.actions import Action, Offer
from federated.agreement import Agreement
from federated.ledger import Ledger, Tip
from federated.messages import Question, Reply, Word
from federated.privacy.secure_messages import Phase
from federated.proposal import Verdict, proposers
from federated.round import MAX_EXTENSIONS
from federated.sum_chain import GroupParts
from federated.sum_evidence import Sums
from federated.sum_member import LEAD_S, GroupMember
from federated.waiting import Deadline

if TYPE_CHECKING:
    from federated.privacy.keystream import Words


class Stage(StrEnum):
    """Where this member is in the round."""

    KEYS = "keys"
    SHARES = "shares"
    MASKED = "masked"
    SURVIVORS = "survivors"
    OPENING = "opening"
    RESULT = "result"


class SecureRound:
    """The machine of the round that the ledger's tip is at; times are seconds of one monotonic clock.

    After anything happened, call `step`, do what it says, and call it again at `wake_at` at the latest. When
    the ledger's tip is another one, this round is over.
    """

    def __init__(
        self, ledger: Ledger, identity: Identity, now: float, random_bytes: Callable[[int], bytes]
    ) -> None:
        tip = ledger.tip
        assert tip is not None
        self.ledger = ledger
        self.tip: Tip = tip
        self.offer: Offer | None = None
        self.wake_at = inf
        self.made: set[Cid] = set()
        """Models and vectors that were made for this round; its result is one of them."""
        self.group = tip.agents
        """Who wants to hear of this member's parts."""
        self.sums = Sums(ledger, tip, identity.agent)
        terms = ledger.terms
        self.agreement = Agreement(tip.digest, tip.agents, self.sums, identity, terms.result_ms / 1_000)
        self.agreements = {tip.digest: self.agreement}
        self._identity = identity
        self._me = identity.agent
        self._began = now
        self._keys = Deadline(now, terms.commit_ms / 1_000)
        self._extensions = 0
        self._concluding = False
        self._watches = [Watch(parts, now, terms.reveal_ms / 1_000) for parts in self.sums.groups]
        own = next((parts for parts in self.sums.groups if self._me in parts.members), None)
        self._own = None if own is None else GroupMember(own, self.sums, identity, random_bytes, self._keys)

    # -- what is asked of it --

    @property
    def phase(self) -> Stage:
        """Where this member is."""
        if self._concluding or self._own is None:
            return Stage.RESULT if self._concluding else Stage.KEYS
        return Stage(self._own.phase.name.lower())

    @property
    def excluded(self) -> frozenset[AgentId]:
        """Whom the network does not hear now; set anew before `step` and `answer`."""
        return self.sums.excluded

    @excluded.setter
    def excluded(self, agents: frozenset[AgentId]) -> None:
        self.sums.excluded = agents

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
        """Whether the user's process should train now: there is a group, and it waits for keys."""
        return self.takes_part and self.offer is None and self._own is not None and self._own.wants_keys

    @property
    def promised(self) -> bool:
        """Whether this member's keys say that it has an update."""
        return bool(self.ledger.book.of(self.tip.digest, self._me, Phase.KEYS))

    def relock(self, place: bytes, digest: bytes, until: float) -> None:
        """Before a restart this outcome was signed: no other one until then, and for an attempt at most."""
        limit_s = self.ledger.terms.result_ms / 1_000
        self.agreements[place].relock(digest, min(until, self._began + limit_s))

    def deadline(self) -> float:
        """When the phase ends at the latest, as far as is known now."""
        if self._concluding:
            return self.agreement.deadline()
        return self._keys.at() if self._own is None else self._own.deadline()

    # -- what happens --

    def looked(self, item: Cid, verdict: Verdict) -> None:
        """A masked vector was looked at, or could not be had."""
        self.sums.looked(item, verdict)

    def averaged(
        self,
        key: tuple[Cid, ...],
        parameters: Cid,
        seconds: float,
        spoilt: frozenset[AgentId] = frozenset(),
    ) -> None:
        """The model of these vectors is here; the groups of the `spoilt` had sums that no updates have."""
        self.sums.summed(key, parameters, seconds, spoilt)

    def failed(self, key: tuple[Cid, ...]) -> None:
        """The sums could not be computed: a vector that was here has gone; it is looked at again."""
        self.sums.failed(key)

    def mask(self, vector: Words) -> Words | None:
        """This member's vector under its masks, in place; None when it is out. Takes a while."""
        assert self._own is not None
        return self._own.mask(vector)

    def masked(self) -> None:
        """The masked vector is kept, and may be spoken of."""
        assert self._own is not None
        self._own.masked()

    def unmasked(self) -> None:
        """There will be no masked vector: this member takes no more part in the sum."""
        assert self._own is not None
        self._own.out = True

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
        keys_over = self._keys_over(now)
        if self._own is not None:
            actions += self._own.step(now, self.offer, keys_over)
            self.wake_at = min(self.wake_at, self._own.wake_at)
        actions += self.sums.looks()
        waits = [at for watch in self._watches if (at := watch.until(now, keys_over)) is not None]
        self.sums.waiting = bool(waits or self.sums.unsettled())
        if self.sums.waiting:
            self.wake_at = min([self.wake_at, *waits] if keys_over else [self.wake_at, self._keys.at()])
            return actions
        if self.sums.idle:
            return actions
        return actions + self._conclude(now)

    # -- parts --

    def _conclude(self, now: float) -> list[Action]:
        if not self._concluding:
            self._concluding = True
            self.agreement.begin(now)
        book, previous = self.ledger.book, self.tip.digest
        spoke = [agent for agent in self.tip.agents if book.all_of(previous, agent)]
        order = proposers(
            self.tip, [agent for agent in spoke if agent not in self.excluded] or self.tip.agents
        )
        actions: list[Action] = [*self.sums.models(), *self.agreement.step(now, order)]
        self.wake_at = min(self.wake_at, self.agreement.wake_at)
        return actions

    def _keys_over(self, now: float) -> bool:
        """Whether who has not shown keys is waited for no more: for half of the roster it is, a few times."""
        book, previous = self.ledger.book, self.tip.digest
        heard = [agent for agent in self.tip.agents if agent not in self.excluded]
        done = [agent for agent in heard if book.of(previous, agent, Phase.KEYS)]
        self._keys.note(len(done), quorum(len(heard)), now)
        if len(done) == len(heard) or not self.sums.groups:
            return True
        if now < self._keys.at():
            return False
        if 2 * len(done) >= len(heard) or (done and self._extensions >= MAX_EXTENSIONS):
            return True
        self._extensions += 1
        self._keys.again(now)
        return False


class Watch:
    """How long one group is waited for: until its sum is open, or nothing was heard of it for too long."""

    def __init__(self, parts: GroupParts, now: float, limit_s: float) -> None:
        self._parts = parts
        self._limit_s = limit_s
        self._heard = 0
        self._heard_at = now

    def until(self, now: float, keys_over: bool) -> float | None:
        """Until when to wait for it, None for no more."""
        parts = self._parts
        if parts.closed() is not None:
            return None
        counts = [sum(bool(parts.of(phase, agent)) for agent in parts.members) for phase in Phase]
        if sum(counts) != self._heard or not keys_over:
            self._heard, self._heard_at = sum(counts), now
        if keys_over and counts[0] < parts.session.threshold:
            return None
        at = self._heard_at + self._limit_s + LEAD_S
        return at if now < at else None
