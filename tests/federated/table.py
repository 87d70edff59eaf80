"""Members around a table: several round machines, a heap of messages, and whatever goes wrong between them.

Nothing of the machine is replaced; what a node does for it (append, deliver, fetch, average) is done here in
memory, with delays, losses and crashes drawn from a seed. Records are signed but not judged again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any

from chain.cid import Cid, blob_cid, raw_cid
from chain.identity import AgentId, Identity
from chain.kinds import COMMIT, GROUP, JOIN, LEAVE, RESULT, REVEAL, START, TASK
from chain.learning import Reveal, Start, commit_body, draft_on_task, reveal_body, start_body
from chain.learning_outcome import GroupResult, Result, group_body, result_body
from chain.learning_task import Task
from chain.record import Record
from chain.source_chain import Draft, Head, head_of, next_record
from federated.actions import Ask, Average, Combine, Look, LookModel, Offer, Promise, Publish, Show
from federated.engagement import AnyRound
from federated.faults import UNAVAILABLE
from federated.ledger import Ledger
from federated.messages import Question, Reply, Word, decode_question, decode_reply
from federated.models import of_models
from federated.proposal import Verdict
from federated.robust import round_model
from federated.round import Round
from federated.update import Fault, inspect
from tests.federated.models import model

NETWORK = raw_cid(b"the network of the table")
SALT = bytes(16)


class Scribe:
    """An identity and its chain."""

    def __init__(self, number: int) -> None:
        self.identity = Identity.from_seed(bytes([number + 1]) * 32)
        self.agent = self.identity.agent
        self.head: Head | None = None
        self.now_us = 1_000
        self.last: Record | None = None

    def write(self, draft: Draft) -> Record:
        record = next_record(self.identity, NETWORK, NETWORK, self.head, draft, self.now_us, SALT)
        self.head = head_of(record)
        return record

    def on(self, task: Record, kind: str, body: dict[str, Any]) -> Record:
        self.last = self.write(draft_on_task(task, self.last, kind, body))
        return self.last


def initial(terms: Task) -> bytes:
    """What the first round of a task begins with, whatever its CID."""
    return model(0, terms.arrays)


@dataclass
class Member:
    """One member: its records, blobs and machine. `alter` may turn its reveals into lies."""

    scribe: Scribe
    ledger: Ledger
    blobs: dict[Cid, bytes] = field(default_factory=dict)
    records: dict[Cid, Record] = field(default_factory=dict)
    round: AnyRound | None = None
    alive: bool = True
    trains_s: float = 1.0
    update: Callable[[int], bytes] | None = None
    examples: int = 10
    alter: Callable[[Reveal], Sequence[Reveal]] | None = None
    offered: set[bytes] = field(default_factory=set)
    wake: float = 0.0
    excluded: set[AgentId] = field(default_factory=set)
    """Whom it knows that the network does not hear."""

    @property
    def agent(self) -> AgentId:
        return self.scribe.agent


class Table:
    """Runs until every living member has finished, or `limit` seconds of virtual time are over."""

    def __init__(
        self, terms: Task, members: int, seed: int = 0, loss: float = 0.0, delay: float = 0.05
    ) -> None:
        self.rng = random.Random(seed)
        self.loss, self.delay = loss, delay
        self.now = 0.0
        self._order = count()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        scribes = [Scribe(number) for number in range(members)]
        self.task = scribes[0].write(Draft(TASK, terms.to_body()))
        scribes[0].last = self.task
        self.members = [Member(scribe, Ledger(self.task)) for scribe in scribes]
        for number, member in enumerate(self.members):
            member.update = lambda round_, number=number: model(100 * number + round_)  # type: ignore[misc]
        joins = [member.scribe.on(self.task, JOIN, {}) for member in self.members]
        self.joins = {join.header.author: join for join in joins}
        roster = tuple(sorted((join.header.author, join.cid) for join in joins))
        start = scribes[0].on(self.task, START, start_body(Start(roster)))
        for member in self.members:
            for record in (*joins, start):
                self.take(member, record)
            self.at(0.0, lambda member=member: self.poke(member))  # type: ignore[misc]

    # -- the world --

    def at(self, when: float, what: Callable[[], None]) -> None:
        heappush(self._heap, (when, next(self._order), what))

    def run(self, limit: float = 600.0) -> None:
        while self._heap and not self.done():
            when, _, what = heappop(self._heap)
            if when > limit:
                raise TimeoutError(f"not finished after {limit} virtual seconds")
            self.now = max(self.now, when)
            what()
        assert self.done()

    def done(self) -> bool:
        return all(member.ledger.finished for member in self.members if member.alive)

    def carry(self, what: Callable[[], None], sure: bool = False) -> None:
        """Something goes over the net: late, or not at all."""
        if sure or self.rng.random() >= self.loss:
            self.at(self.now + self.rng.uniform(0.2, 1.8) * self.delay, what)

    def member(self, agent: AgentId) -> Member:
        return next(member for member in self.members if member.agent == agent)

    # -- what a node does --

    def take(self, member: Member, record: Record) -> None:
        member.records[record.cid] = record
        member.ledger.add(record)

    def receive(self, member: Member, record: Record) -> None:
        if member.alive:
            self.take(member, record)
            self.poke(member)

    def say(
        self, member: Member, kind: str, body: dict[str, Any], to: Sequence[Member] | None = None
    ) -> Record:
        """Append a record and deliver it to all, or to some."""
        record = member.scribe.on(self.task, kind, body)
        self.take(member, record)
        for other in self.members if to is None else to:
            if other is not member:
                self.carry(lambda other=other: self.receive(other, record))  # type: ignore[misc]
        return record

    def leave(self, member: Member) -> None:
        self.say(member, LEAVE, {})
        self.poke(member)

    def join(self, member: Member) -> None:
        self.say(member, JOIN, {})
        self.poke(member)

    def crash(self, member: Member) -> None:
        member.alive = False

    def restart(self, member: Member) -> None:
        """Comes back with its records and blobs, and nothing else; its polls fetch what it missed."""
        member.alive = True
        member.ledger = Ledger(self.task)
        for record in member.records.values():
            member.ledger.add(record)
        member.round = None
        self.poke(member)

    def poll(self, member: Member) -> None:
        """Learn everything that anybody alive has, as from the holders of the task's basis."""
        for other in self.members:
            if other.alive:
                for record in list(other.records.values()):
                    self.take(member, record)

    def poke(self, member: Member) -> None:
        if not member.alive or member.ledger.tip is None:
            return
        for _ in range(100):
            if member.ledger.finished:
                return
            if member.round is None or member.round.over:
                member.round = self.new_round(member)
                self.seat(member, member.round)
            member.round.excluded = frozenset(member.excluded)
            actions = member.round.step(self.now)
            if not actions and not member.round.over:
                break
            for action in actions:
                self.act(member, member.round, action)
        else:
            raise AssertionError("the machine does not come to rest")
        when = min(member.round.wake_at, self.now + 5.0)
        if when > self.now and (member.wake <= self.now or when < member.wake):
            member.wake = when
            self.at(when, lambda: self.tick(member))

    def new_round(self, member: Member) -> AnyRound:
        return Round(member.ledger, member.scribe.identity, self.now)

    def tick(self, member: Member) -> None:
        if member.alive:
            if self.rng.random() < 0.3:
                self.poll(member)
            self.poke(member)

    def seat(self, member: Member, round_: AnyRound) -> None:
        """A new round has begun for this member: its user's process trains; who was dropped asks again."""
        if not round_.takes_part:
            standing = member.ledger.standings.get(member.agent)
            if standing is not None and standing.joins and standing.cid in round_.tip.spent:
                self.join(member)
            return
        if round_.tip.digest in member.offered:
            return

        def train() -> None:
            if member.alive and member.round is not None and member.round.tip.digest == round_.tip.digest:
                if not member.round.wants_update:
                    return
                assert member.update is not None
                data = member.update(round_.tip.round)
                cid = blob_cid(data)
                member.blobs[cid] = data
                member.offered.add(round_.tip.digest)
                salt = bytes([self.rng.randrange(256) for _ in range(32)])
                member.round.offer = Offer(cid, len(data), member.examples, {"loss": 1}, salt)
                self.poke(member)

        self.at(self.now + member.trains_s, train)

    def act(self, member: Member, round_: AnyRound, action: Any) -> None:
        match action:
            case Promise(commit=commit):
                self.say(member, COMMIT, commit_body(commit))
            case Show(reveal=reveal):
                for one in member.alter(reveal) if member.alter else [reveal]:
                    self.say(member, REVEAL, reveal_body(one))
            case Look():
                self.carry(lambda: self.look(member, round_, action), sure=True)
            case Average(key=key, base=base, parts=parts):
                updates = [(blob, member.blobs[blob], examples) for blob, examples in parts]
                terms = member.ledger.terms
                start = next((one.blobs[base] for one in self.members if base in one.blobs), initial(terms))
                data = round_model(terms, start, updates)
                member.blobs[blob_cid(data)] = data
                round_.averaged(key, blob_cid(data), 0.01)
            case Ask(agent=agent, question=question):
                self.ask(member, round_, agent, question)
            case Combine(key=key, base=base, parts=parts):
                models = [(blob, member.blobs[blob], examples) for blob, examples in parts]
                terms = of_models(member.ledger.terms)
                start = next((one.blobs[base] for one in self.members if base in one.blobs), initial(terms))
                data = round_model(terms, start, models)
                member.blobs[blob_cid(data)] = data
                round_.averaged(key, blob_cid(data), 0.01)
            case LookModel():
                self.carry(lambda: self.look_model(member, round_, action), sure=True)
            case Publish(result=GroupResult() as result):
                self.say(member, GROUP, group_body(result))
            case Publish(result=Result() as result):
                self.say(member, RESULT, result_body(result))

    def look_model(self, member: Member, round_: AnyRound, look: LookModel) -> None:
        verdict: Verdict = UNAVAILABLE
        for agent in (member.agent, *look.agents):
            other = self.member(agent)
            if other.alive and look.blob in other.blobs:
                data = member.blobs[look.blob] = other.blobs[look.blob]
                verdict = inspect(member.ledger.terms.arrays, data, member.ledger.terms.max_abs)
                break
        round_.looked(look.outcome, verdict)
        self.poke(member)

    def look(self, member: Member, round_: AnyRound, look: Look) -> None:
        if not member.alive:
            return
        verdict: Verdict = UNAVAILABLE
        for agent in (member.agent, *look.agents):
            other = self.member(agent)
            if other.alive and look.commit in other.records and not member.ledger.has(look.commit):
                self.take(member, other.records[look.commit])
            if other.alive and look.blob in other.blobs:
                data = member.blobs[look.blob] = other.blobs[look.blob]
                terms = member.ledger.terms
                verdict = inspect(terms.arrays, data, terms.max_abs)
                if len(data) != look.size:
                    verdict = Fault.SIZE
                break
        round_.looked(look.reveal, verdict)
        self.poke(member)

    def ask(self, member: Member, round_: AnyRound, agent: AgentId, question: Question) -> None:
        def back(reply: Reply | None) -> None:
            if not member.alive:
                return
            if reply is not None:
                other = self.member(agent)
                for cid in reply.cids:
                    if cid in other.records:
                        self.take(member, other.records[cid])
            round_.answered(agent, question, reply, self.now)
            self.poke(member)

        def arrive() -> None:
            other = self.member(agent)
            if not other.alive or other.round is None:
                return
            asked = decode_question(question.encode())
            for cid in asked.view:
                if cid in member.records:
                    self.take(other, member.records[cid])
            other.round.excluded = frozenset(other.excluded)
            reply = decode_reply(other.round.answer(member.agent, asked, self.now).encode())
            if reply.word is Word.DISAGREE and member.excluded != other.excluded:
                member.excluded |= other.excluded  # as they compare what they know
                other.excluded |= member.excluded
            self.poke(other)
            answered.append(True)
            self.carry(lambda: back(reply), sure=True)

        answered: list[bool] = []
        self.carry(arrive)
        self.at(self.now + 2.0, lambda: None if answered else back(None))
