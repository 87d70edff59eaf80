"""One step of gossip as a member takes it: from its own share and those of a few others to its next model.

Epidemic Learning (de Vos, Farhadkhani, Guerraoui, Kermarrec, Pires, Sharma: "Epidemic Learning: Boosting
Decentralized Learning with Randomized Communication", 2023), in its form EL-Local: in each round every member
trains its own model and averages it with those of s members drawn anew. There the drawn ones are *sent* the
model, so how many a member gets is up to chance, and to whoever likes to send. Here a member *pulls*: it gets
what it asked for, and always as many, so that a robust rule knows of how many it must expect f to lie. Each
round has another graph, so what one learns reaches all in about log_{s+1} n rounds, and differences between
models shrink by a constant factor a round, however many members there are; that is why s (`FANOUT`) does not
grow with them.

A sans-IO machine: it is told what happened and says what to do. Decisions:

- **Whom.** All seats in the order of H(task ‖ round ‖ own key ‖ other's key); the first s are drawn. Nobody
  can place itself near the front for many rounds, or for many members.
- **Which share.** The drawn member's of this round; when the waiting is over, its of the round before.
- **How long.** Once half of the drawn are here, the rest get `PATIENCE` times as long again
  (`FLOOR_S` at least), never more than the task's deadline, as in a round with a roster. Who is not there
  then is *away*: not drawn until it shows something new. In its place comes the next of the order that has
  shown a share, with as much time again for its model to come. Who is so far ahead that its share of this
  round is kept no more (`ShareLog.is_past`) is not drawn either.
- **Which not.** What is wrong with a share (`federated.admission`; here `max_norm` bounds the distance from
  the own share) leaves it out with its code, and its author for some rounds (`federated.lies`); the next
  takes its place.
- **How few.** One other share is enough for a mean. A robust rule wants at least half of those drawn: f of n
  is no promise for an n that an attacker can make small. With fewer the step begins again.

There is no quorum, no start, no roster: whoever joins is drawn from then on, whoever leaves no more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from hashlib import sha256
from math import inf
from typing import Final, TypeAlias

from chain.cid import Cid
from chain.identity import AgentId
from chain.learning_task import Task
from chain.share import MAX_REFUSED
from federated.admission import announced
from federated.faults import DOUBLE, UNAVAILABLE
from federated.proposal import Verdict
from federated.share_log import ShareLog, Shown
from federated.waiting import FLOOR_S, PATIENCE

FANOUT: Final = 8
"""Members drawn in a round unless the task says otherwise."""
LOT_TAG: Final = b"roseforest/learning-gossip/1\0"
AUDIENCE: Final = 2
"""A share is delivered to this many times as many members as are expected to draw it."""


@dataclass(frozen=True, slots=True)
class Look:
    """Fetch a share's model and say what is wrong with it."""

    shown: Shown


@dataclass(frozen=True, slots=True)
class Combine:
    """Make the next model of these shares, the own one (if there is one) first."""

    own: Shown | None
    others: tuple[Shown, ...]


Action: TypeAlias = Look | Combine


@dataclass(frozen=True, slots=True)
class Mixed:
    """A step's outcome: the model of `round` + 1 to train from, and what it was made of; see `Share`."""

    round: int
    base: Cid
    combined: tuple[Cid, ...] = ()
    refused: tuple[tuple[Cid, str], ...] = ()


def fanout(terms: Task) -> int:
    """s: how many members are drawn in a round."""
    return FANOUT if terms.fanout is None else terms.fanout


def draw(task: Cid, number: int, me: AgentId, agents: Iterable[AgentId]) -> list[AgentId]:
    """The others in the order in which `me` draws them in a round."""
    return sorted((one for one in agents if one != me), key=lambda one: _lot(task, number, me, one))


def audience(task: Cid, number: int, me: AgentId, agents: Iterable[AgentId], s: int) -> list[AgentId]:
    """The others who are likely to draw `me` in a round; all of them when there are few. O(agents)."""
    others = [one for one in agents if one != me]
    if len(others) <= 2 * AUDIENCE * s:
        return others
    limit = (AUDIENCE * s << 256) // len(others)
    return [one for one in others if int.from_bytes(_lot(task, number, one, me), "big") < limit]


def step_after(log: ShareLog, me: AgentId, frontier: int) -> tuple[int, Shown | None]:
    """The round whose shares this member's next step combines, and the own one among them.

    Round 0 has none: a member without a share, while the others are in round 1 at most, trains from what the
    task begins with. Where the others are two rounds further than the own share, or there is no own one, the
    step is theirs: who was away, or joins late, begins where the others are.
    """
    own = log.newest(me)
    if own is None:
        return (frontier if frontier >= 2 else 0), None
    return (frontier, None) if frontier >= own.round + 2 else (own.round, own)


class Mixing:
    """The step after round `number`; `own` is the share that this member adds, if it has one, and `barred`
    whom it does not draw."""

    def __init__(
        self,
        log: ShareLog,
        me: AgentId,
        number: int,
        own: Shown | None,
        now: float,
        barred: Collection[AgentId] = frozenset(),
    ) -> None:
        self.log = log
        self.number = number
        self.own = own
        self.away: dict[AgentId, Cid | None] = {}
        """Who let a step wait in vain, with its newest share then; handed on from step to step."""
        self.mixed: Mixed | None = None
        """The outcome, once there is one."""
        self.over = False
        """Whether too few were there, or it failed: the step is to begin again, with nobody away."""
        self.wake_at = inf
        self._me = me
        self._since = now
        self._patience: float | None = None
        self._most_at = now
        self._late: float | None = None
        self._verdicts: dict[Cid, Verdict] = {}
        self._looking: set[Cid] = set()
        self._chosen: tuple[Shown, ...] = ()
        self._combining = False
        self._gone = {me, *barred}
        self._lots: dict[AgentId, bytes] = {}

    # -- what happens --

    def looked(self, share: Cid, verdict: Verdict) -> None:
        """A share's model was looked at, or could not be had."""
        self._looking.discard(share)
        self._verdicts.setdefault(share, verdict)

    def combined(self, base: Cid) -> None:
        """The model of what was to be combined is here."""
        own = () if self.own is None else (self.own.record,)
        found = tuple(sorted((*own, *(one.record for one in self._chosen))))
        self.mixed = Mixed(self.number, base, found, self.refused)

    def failed(self) -> None:
        """It could not be computed: a model that was here has gone, or there is no room for the next one."""
        self.over = True

    @property
    def refused(self) -> tuple[tuple[Cid, str], ...]:
        """The shares with a fault, ascending; of more than `MAX_REFUSED` the lowest."""
        found = {cid: str(one) for cid, one in self._verdicts.items() if one not in (None, UNAVAILABLE)}
        return tuple(sorted(found.items())[:MAX_REFUSED])

    def deadline(self) -> float:
        """When this step goes on without those who are missing, as far as is known now."""
        since = self._since if self._late is None else self._late
        latest = since + self.log.terms.commit_ms / 1_000
        if self._patience is None:
            return latest
        return min(latest, max(since, self._most_at) + self._patience)

    def step(self, now: float) -> list[Action]:
        """What to do now. `wake_at` is when to ask again if nothing happens."""
        self.wake_at = inf
        if self._combining or self.mixed is not None or self.over:
            return []
        others = self._others()
        drawn = self._drawn(others)
        good = [one for one in map(self._offered, drawn) if one is not None and self._is_good(one)]
        if self._patience is None and drawn and 2 * len(good) >= len(drawn):
            self._most_at, self._patience = now, max(FLOOR_S, PATIENCE * (now - self._since))
        enough = len(good) >= self._least(others)
        over = now >= self.deadline()
        if over and self._late is None and not (enough and len(good) == len(drawn)):
            self._late = now
            self.away |= {agent: self._newest(agent) for agent in drawn if self._offered(agent) is None}
            return self.step(now)
        if enough and (over or len(good) == len(drawn)):
            self._chosen, self._combining = tuple(good), True
            return [Combine(self.own, self._chosen)]
        if over:
            self.over = True
            return []
        self.wake_at = self.deadline()
        return [self._look(one) for one in map(self._offered, drawn) if one is not None and self._is_new(one)]

    # -- parts --

    def _others(self) -> list[AgentId]:
        """Who could be drawn, in the order of this round: the seats but for the liars."""
        found = [agent for agent in self.log.seats() if agent not in self._gone]
        for agent in found:
            if agent not in self._lots:
                self._lots[agent] = _lot(self.log.cid, self.number, self._me, agent)
        return sorted(found, key=self._lots.__getitem__)

    def _drawn(self, others: list[AgentId]) -> list[AgentId]:
        """The first of the order that are not away, not at fault, and, once it is late, have a share."""
        found: list[AgentId] = []
        for agent in others:
            offered = self._offered(agent)
            if offered is None:
                if self._late is not None or self._is_away(agent) or self.log.is_past(agent, self.number):
                    continue
            elif self._verdicts.get(offered.record) is not None:
                continue
            found.append(agent)
            if len(found) == fanout(self.log.terms):
                break
        return found

    def _is_away(self, agent: AgentId) -> bool:
        return agent in self.away and self.away[agent] == self._newest(agent)

    def _newest(self, agent: AgentId) -> Cid | None:
        newest = self.log.newest(agent)
        return None if newest is None else newest.record

    def _offered(self, agent: AgentId) -> Shown | None:
        """The share of a member that this step would take; what its record says of it is judged here."""
        for number in (self.number,) if self._late is None else (self.number, self.number - 1):
            one = self.log.share_of(agent, number)
            if one is None:
                continue
            if self.log.is_double(agent, number):
                self._verdicts[one.record] = DOUBLE
            elif one.record not in self._verdicts:
                fault = announced(self.log.terms, one.examples, one.size)
                if fault is not None:
                    self._verdicts[one.record] = fault
            return one
        return None

    def _is_good(self, one: Shown) -> bool:
        return one.record in self._verdicts and self._verdicts[one.record] is None

    def _is_new(self, one: Shown) -> bool:
        return one.record not in self._verdicts and one.record not in self._looking

    def _look(self, one: Shown) -> Look:
        self._looking.add(one.record)
        return Look(one)

    def _least(self, others: list[AgentId]) -> int:
        """How many shares of others a step needs."""
        if not others:
            return 0 if self.own is not None else 1  # of nothing nothing can be made
        drawn = min(fanout(self.log.terms), len(others))
        return 1 if self.log.terms.rule is None else (drawn + 1) // 2


def _lot(task: Cid, number: int, me: AgentId, other: AgentId) -> bytes:
    return sha256(LOT_TAG + task + number.to_bytes(4, "big") + me + other).digest()
