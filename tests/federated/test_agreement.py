"""One signed outcome: as many sign as it takes, none signs two at a time, and only so few may go on alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from chain.cid import Cid, blob_cid, record_cid
from chain.identity import AgentId, Identity
from chain.kinds import TASK
from chain.learning_outcome import GroupOutcome, GroupResult, Outcome, Result, quorum
from chain.source_chain import Draft
from federated.actions import Action, Ask, Publish
from federated.agreement import ASKED_AT_ONCE, ATTEMPT_FLOOR_S, MAX_ATTEMPTS, Agreement
from federated.evidence import Conclusion, Evidence
from federated.ledger import Ledger, Tip
from federated.messages import Question, Reply, Word
from tests.federated.models import task_of
from tests.federated.table import Scribe

PLACE = b"p" * 32
LATE = MAX_ATTEMPTS * ATTEMPT_FLOOR_S
"""When those who answer may go on."""
STRANGER = b"\xff" * 32


class Settled(Evidence):
    """The task's record alone, which is here; the outcome says the model's name, of a group or of all."""

    def __init__(self, ledger: Ledger, tip: Tip, me: AgentId, of_group: bool) -> None:
        super().__init__(ledger, tip, me)
        self.parameters = tip.parameters
        self._of_group = of_group

    def unsettled(self) -> set[Cid]:
        return set()

    def view(self) -> frozenset[Cid]:
        return frozenset({self.ledger.cid})

    def outcome(self, members: tuple[AgentId, ...]) -> Outcome | GroupOutcome:
        said = (1, self.tip.digest, members, (self.ledger.cid,), (), self.parameters)
        if self._of_group:
            return GroupOutcome(*said, contributors=members, examples=1)
        return Outcome(*said, roster=self.tip.roster)

    def conclude(self) -> Conclusion:
        raise AssertionError("its outcome is given")

    def _look(self, item: Cid) -> Action:
        raise AssertionError("nothing is to be looked at")


class Seats:
    """So many agents, ascending, each with its machine, all of which began at 0."""

    def __init__(self, count: int, of_group: bool = False) -> None:
        scribes = [Scribe(number) for number in range(count)]
        task = scribes[0].write(Draft(TASK, task_of().to_body()))
        scribes.sort(key=lambda scribe: scribe.agent)
        self.task = task.cid
        self.agents = tuple(scribe.agent for scribe in scribes)
        roster = tuple((agent, record_cid(agent)) for agent in self.agents)
        tip = Tip(PLACE, 1, task_of().parameters, roster, frozenset())
        self.evidence = [Settled(Ledger(task), tip, agent, of_group) for agent in self.agents]
        self.machines = [
            Agreement(PLACE, self.agents, evidence, scribe.identity, 60.0)
            for evidence, scribe in zip(self.evidence, scribes, strict=True)
        ]
        self.identities: list[Identity] = [scribe.identity for scribe in scribes]
        for machine in self.machines:
            machine.begin(0.0)

    def step(self, by: int, now: float) -> list[Action]:
        return self.machines[by].step(now, self.agents)

    def asks(self, by: int, now: float) -> list[Ask]:
        return [one for one in self.step(by, now) if isinstance(one, Ask)]

    def published(self, by: int, now: float) -> list[Result | GroupResult]:
        return [one.result for one in self.step(by, now) if isinstance(one, Publish)]

    def question(self, members: Sequence[AgentId], parameters: Cid | None = None) -> Question:
        """What the first of all may ask these to sign; with another model it is another outcome."""
        for evidence in self.evidence:
            evidence.parameters = evidence.tip.parameters if parameters is None else parameters
        digest = self.evidence[0].outcome(tuple(members)).digest(self.task)
        return Question(self.task, PLACE, tuple(members), (self.task,), (), digest)

    def reply(self, by: int, question: Question, now: float) -> Reply:
        return self.machines[by].answer(self.agents[0], question, now)

    def fail(self, by: int) -> None:
        """Let all attempts of a machine pass without an outcome."""
        for number in range(1, MAX_ATTEMPTS + 1):
            self.step(by, number * ATTEMPT_FLOOR_S)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 9, 16])
@pytest.mark.parametrize("of_group", [False, True])
def test_more_than_two_thirds_sign_and_what_they_signed_is_published_once(count: int, of_group: bool) -> None:
    seats = Seats(count, of_group)
    asks = seats.asks(0, 0.0)
    assert [ask.agent for ask in asks] == list(seats.agents[1:])
    for signed, ask in enumerate(asks, 2):
        reply = seats.reply(signed - 1, ask.question, 0.1)
        assert reply.word is Word.SIGNED
        seats.machines[0].answered(ask.agent, ask.question, reply, 0.1)
        published = seats.published(0, 0.1)
        assert len(published) == (signed == quorum(count))
        for result in published:
            assert [agent for agent, _ in result.signatures] == list(seats.agents[:signed])
            assert all(result.outcome.signed_by(seats.task, *one) for one in result.signatures)


def test_who_signed_one_outcome_signs_no_other_until_an_attempt_has_passed() -> None:
    seats = Seats(4)
    one, other = (seats.question(seats.agents, blob_cid(name)) for name in (b"one", b"other"))

    def word(question: Question, parameters: bytes, now: float) -> Word:
        seats.question(seats.agents, blob_cid(parameters))  # what its evidence comes to by now
        return seats.reply(1, question, now).word

    assert word(one, b"one", 1.0) is Word.SIGNED
    assert word(one, b"other", 1.0) is Word.DISAGREE
    assert word(other, b"other", 1.1) is Word.BUSY
    end = 1.0 + ATTEMPT_FLOOR_S
    assert word(one, b"one", end - 0.1) is Word.SIGNED, "the same is signed as often as it is asked for"
    assert word(other, b"other", end - 0.1) is Word.BUSY
    assert word(one, b"one", end) is Word.SIGNED, "which makes the wait for the other no longer"
    assert word(other, b"other", end) is Word.SIGNED
    assert word(one, b"one", end + 0.1) is Word.BUSY
    seats.machines[1].relock(one.digest, 20.0)
    assert word(other, b"other", 19.9) is Word.BUSY
    assert word(other, b"other", 20.0) is Word.SIGNED


@pytest.mark.parametrize(("count", "least"), [(4, 2), (5, 3), (8, 4), (9, 5)])
def test_after_the_failed_attempts_half_may_sign_and_fewer_never(count: int, least: int) -> None:
    seats = Seats(count)
    few = seats.agents[:least]
    assert seats.reply(1, seats.question(few), 0.0).word is Word.BUSY, "the attempts are not over"
    seats.fail(1)
    for members in (
        seats.agents[: least - 1],
        tuple(sorted((*seats.agents[1:least], seats.agents[1]))),
        few[::-1],
        (*seats.agents[: least - 1], STRANGER),
        tuple(agent for agent in seats.agents if agent != seats.agents[1]),
    ):
        assert seats.reply(1, seats.question(members), LATE).word is Word.BUSY
    assert seats.reply(1, seats.question(few), LATE).word is Word.SIGNED


@pytest.mark.parametrize("of_group", [False, True])
def test_of_those_who_answered_in_this_attempt_a_quorum_goes_on(of_group: bool) -> None:
    """Of a group half of all, which is more than two thirds of the half."""
    seats = Seats(9, of_group)
    first = seats.machines[0]
    (early, *_) = seats.asks(0, 0.0)
    first.answered(early.agent, early.question, Reply(Word.BUSY), 0.1)
    for number in range(1, MAX_ATTEMPTS):
        seats.step(0, number * ATTEMPT_FLOOR_S)
    there = (0, 3, 4, 6, 8)
    members = tuple(seats.agents[by] for by in there)
    order = (seats.agents[0],)  # it is this one's turn again, and once more

    def asked(begin: float) -> Question:
        """What is asked for late in an attempt, in which those who are there said something."""
        first.step(begin, order)
        for by in there[1:]:
            first.answered(seats.agents[by], seats.question(seats.agents), Reply(Word.BUSY), begin + 1.0)
        late = begin + ATTEMPT_FLOOR_S / 2
        (question,) = {one.question for one in first.step(late, order) if isinstance(one, Ask)}
        assert question.members == members
        return question

    question = asked(LATE)
    outsider = seats.evidence[1].outcome(members).sign(seats.task, seats.identities[1])
    first.answered(seats.agents[1], question, Reply(Word.SIGNED, outsider), LATE + 3.0)
    assert asked(LATE + ATTEMPT_FLOOR_S) == question
    late, needed = LATE + 1.5 * ATTEMPT_FLOOR_S, 5 if of_group else quorum(5)
    for signed, by in enumerate(there[1:], 2):
        signature = seats.evidence[by].outcome(members).sign(seats.task, seats.identities[by])
        first.answered(seats.agents[by], question, Reply(Word.SIGNED, signature), late)
        published = [one.result for one in first.step(late, order) if isinstance(one, Publish)]
        assert len(published) == (signed == needed)
        assert all({agent for agent, _ in one.signatures} <= set(members) for one in published)


def test_a_proposer_that_does_not_finish_is_followed_by_the_next() -> None:
    seats = Seats(4)
    for number in range(6):
        now = number * ATTEMPT_FLOOR_S
        for by in range(4):
            asks = seats.asks(by, now)
            assert bool(asks) == (by == number % 4)
            for ask in asks:
                seats.machines[by].answered(ask.agent, ask.question, None, now)


def test_a_signature_that_is_none_is_its_senders_fault_and_counts_for_nothing() -> None:
    seats = Seats(4)
    (ask, other, third) = seats.asks(0, 0.0)
    reply = seats.reply(2, other.question, 0.1)
    assert reply.word is Word.SIGNED
    with pytest.raises(ValueError, match="does not verify"):
        seats.machines[0].answered(ask.agent, ask.question, reply, 0.1)
    seats.machines[0].answered(other.agent, other.question, reply, 0.1)
    assert seats.published(0, 0.1) == []
    good = seats.reply(3, third.question, 0.2)
    seats.machines[0].answered(third.agent, third.question, good, 0.2)
    assert len(seats.published(0, 0.2)) == 1


def test_what_the_proposer_lacks_is_shown_to_it_and_strangers_learn_nothing() -> None:
    seats = Seats(4)
    question = seats.question(seats.agents)
    assert seats.reply(1, replace(question, view=()), 0.0) == Reply(Word.MISSING, cids=(seats.task,))
    assert seats.reply(1, replace(question, view=(record_cid(b"not here"),)), 0.0).word is Word.BUSY
    assert seats.machines[1].answer(STRANGER, question, 0.0).word is Word.ELSEWHERE
    assert seats.reply(1, question, 0.0).word is Word.SIGNED


def test_so_many_are_asked_at_a_time() -> None:
    seats = Seats(ASKED_AT_ONCE + 9)
    asks = seats.asks(0, 0.0)
    assert len(asks) == ASKED_AT_ONCE
    for ask in asks[:3]:
        seats.machines[0].answered(ask.agent, ask.question, None, 0.1)
    more = seats.asks(0, 0.1)
    assert [ask.agent for ask in more] == list(seats.agents[ASKED_AT_ONCE + 1 :][:3])
