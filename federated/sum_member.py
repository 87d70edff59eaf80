"""One member in its group of a secure sum: what it says in which phase, and on whose messages it builds.

**Who is in** after a phase must be the same for all of a group, or the masks do not cancel out. Nobody votes:
one member goes first, and its next message names whose messages it builds on; the others build on the same.
Who goes first follows from a hash, for each phase anew, and has `LEAD_S` seconds; then it is the next one's
turn, who still follows whoever went before. A member speaks once in each phase, so it never builds on two
lists; who built on another list than most is out, and where too few are left the group comes to no sum. Of
who says two things in a phase that one counts which is on the list.

Sans IO, like `federated.secure_round`, which drives it.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from math import inf
from typing import TYPE_CHECKING

from chain.cid import Cid
from chain.identity import AgentId, Identity
from chain.secure_part import Part
from federated.actions import Action, Mask, Offer, Tell
from federated.privacy.secure_messages import Phase, SecureSumError
from federated.privacy.secure_sum import SecureSum
from federated.sum_chain import GroupParts
from federated.sum_evidence import Sums
from federated.waiting import Deadline

if TYPE_CHECKING:
    from federated.privacy.keystream import Words

LEAD_S = 4.0
"""Seconds that the member whose turn it is gets to go first into the next phase."""


class GroupMember:
    """This member in its own group: what it says in which phase, and on whose messages it builds."""

    def __init__(
        self,
        parts: GroupParts,
        sums: Sums,
        identity: Identity,
        random_bytes: Callable[[int], bytes],
        keys: Deadline,
    ) -> None:
        self.out = False
        """Whether it takes no more part in this sum."""
        self.wake_at = inf
        self._parts = parts
        self._sums = sums
        self._identity = identity
        self._me = identity.agent
        self._random_bytes = random_bytes
        self._keys = self._deadline = keys
        self._sum: SecureSum | None = None
        self._offer: Offer | None = None
        self._fed: dict[Phase, dict[AgentId, Cid]] = {phase: {} for phase in Phase}
        self._agreed: tuple[AgentId, ...] = parts.members
        self._survivors: tuple[Cid, ...] = ()
        self._built_on: tuple[Cid, ...] = ()
        """What the own message of this phase builds on."""
        self._masking: tuple[AgentId, ...] | None = None
        self._telling: list[Part] = []
        self._ready_at: float | None = None

    @property
    def phase(self) -> Phase:
        """Whose messages are waited for."""
        return Phase.KEYS if self._sum is None else self._sum.phase

    @property
    def wants_keys(self) -> bool:
        """Whether this member could still come in."""
        if self._sum is not None or self._parts.of(Phase.KEYS, self._me):
            return False
        return not any(self._parts.of(Phase.SHARES, agent) for agent in self._parts.members)

    def deadline(self) -> float:
        """When the phase ends, as far as is known now."""
        return self._deadline.at()

    def step(self, now: float, offer: Offer | None, keys_over: bool) -> list[Action]:
        """What to do now."""
        self.wake_at = inf
        if self.out or self._masking is not None:
            return []
        if self._sum is None:
            if offer is None or not self.wants_keys:
                return []
            self._offer = offer
            self._sum = SecureSum(self._parts.session, self._identity, self._random_bytes)
            tip = self._sums.tip
            first = Part(tip.round, tip.digest, 0, (), self._sum.start(), offer.examples, offer.metrics)
            return [Tell(first)]
        actions: list[Action] = [Tell(part) for part in self._telling]
        self._telling = []
        self._feed(self._sum)
        if self.out or self.phase is Phase.OPENING or self._me not in self._fed[self.phase]:
            return actions  # the own message of this phase is on its way to the ledger
        return actions + self._go_on(self._sum, now, keys_over)

    def mask(self, vector: Words) -> Words | None:
        """Off the event loop: nothing else touches the sum until `masked`."""
        assert self._sum is not None
        assert self._masking is not None
        try:
            data = self._sum.close(self._masking, vector)
        except SecureSumError:
            self.out = True
            return None
        self._telling.append(self._part(Phase.MASKED, self._built_on, data))
        return self._sum.masked

    def masked(self) -> None:
        """The vector is kept."""
        self._masking = None

    # -- parts --

    def _feed(self, sum_: SecureSum) -> None:
        """What came to be known since: of each member the one thing that it said in a phase."""
        phase = self.phase
        for agent in self._parts.members:
            cid = self._parts.usable(phase, agent)
            if cid is not None and agent not in self._fed[phase]:
                self._take(sum_, phase, agent, cid)

    def _take(self, sum_: SecureSum, phase: Phase, agent: AgentId, cid: Cid) -> None:
        if self._parts.on(cid) != self._built_on:
            return  # it goes on with others
        if phase is Phase.MASKED and (cid not in self._sums.verdicts or self._sums.verdicts[cid]):
            return
        try:
            sum_.receive(self._sums.ledger.book.parts[cid][1].message, instead=True)
        except SecureSumError:
            # Of others it is passed over; an own one is that of before a restart.
            self.out = self.out or agent == self._me
        else:
            self._fed[phase][agent] = cid

    def _go_on(self, sum_: SecureSum, now: float, keys_over: bool) -> list[Action]:
        phase, threshold = self.phase, self._parts.session.threshold
        expected = self._agreed
        usable = [agent for agent in sum_.candidates() if agent in self._fed[phase]]
        if phase is Phase.KEYS:
            expected = tuple(agent for agent in expected if agent not in self._sums.excluded)
            usable = [agent for agent in usable if agent in expected]
        if phase is Phase.SURVIVORS:
            # Enough have signed the same: nobody else is needed.
            return self._close(usable, now) if len(usable) >= threshold else []
        followed = self._followed(sum_, phase)
        if followed is not None:
            return self._close(followed, now)
        if self.out or self._me not in usable:
            return []
        complete = len(usable) == len(expected)
        if phase is not Phase.KEYS:
            self._deadline.note(len(usable), threshold, now)
        self.wake_at = self._deadline.at()
        over = complete or (keys_over if phase is Phase.KEYS else now >= self.wake_at)
        if not over:
            return []
        if len(usable) < threshold:
            self.out = True
            self.wake_at = inf
            return []
        self._ready_at = now if self._ready_at is None else self._ready_at
        order = sorted(usable, key=lambda agent: self._rank(phase, agent))
        turn = self._ready_at + LEAD_S * order.index(self._me)
        if now < turn:
            self.wake_at = turn
            return []
        return self._close(usable, now)

    def _followed(self, sum_: SecureSum, phase: Phase) -> list[AgentId] | None:
        """Whom somebody who went first goes on with, if this member can go on with them, too.

        Of who said two things it is said there which one counts.
        """
        ends: dict[tuple[Cid, ...], int] = {}
        for agent in self._parts.members:
            cid = self._parts.usable(Phase(phase + 1), agent)
            if cid is not None:
                ends[self._parts.on(cid)] = ends.get(self._parts.on(cid), 0) + 1
        mine = self._fed[phase].get(self._me)
        for count, on in sorted(((count, on) for on, count in ends.items()), key=_most_first):
            if mine not in on:
                self.out = self.out or count >= self._parts.session.threshold
                continue
            said = self._parts.said(phase, on)
            if said is None or len(said) < self._parts.session.threshold:
                continue
            for cid in on:
                agent = self._sums.ledger.book.parts[cid][0]
                if self._fed[phase].get(agent) != cid:
                    self._take(sum_, phase, agent, cid)
            here = {self._fed[phase].get(agent): agent for agent in sum_.candidates()}
            if set(on) <= here.keys():
                return [here[cid] for cid in on]
        return None

    def _close(self, agreed: list[AgentId], now: float) -> list[Action]:
        assert self._sum is not None
        phase, among = self.phase, tuple(sorted(agreed))
        self._ready_at = None
        if phase is Phase.SHARES:
            self._built_on = self._on(phase, among)
            self._masking = among
            self._agreed = among
            self._deadline = self._next(now)
            assert self._offer is not None
            return [Mask(self._offer)]
        on = self._survivors if phase is Phase.SURVIVORS else self._on(phase, among)
        try:
            data = self._sum.close(among)
        except SecureSumError:
            self.out = True
            return []
        if phase is Phase.MASKED:
            self._survivors = on
        self._built_on = on
        self._agreed = among
        self._deadline = self._next(now)
        return [Tell(self._part(self._sum.phase, on, data))]

    def _next(self, now: float) -> Deadline:
        return Deadline(now, self._sums.ledger.terms.reveal_ms / 1_000)

    def _on(self, phase: Phase, among: tuple[AgentId, ...]) -> tuple[Cid, ...]:
        return tuple(sorted(self._fed[phase][agent] for agent in among))

    def _part(self, phase: Phase, on: tuple[Cid, ...], data: bytes) -> Part:
        tip = self._sums.tip
        return Part(tip.round, tip.digest, int(phase), on, data)

    def _rank(self, phase: Phase, agent: AgentId) -> bytes:
        return sha256(self._parts.session.digest() + bytes([phase]) + agent).digest()


def _most_first(pair: tuple[int, tuple[Cid, ...]]) -> tuple[int, tuple[Cid, ...]]:
    return -pair[0], pair[1]
