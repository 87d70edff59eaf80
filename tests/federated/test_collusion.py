"""Members that lie together: false views, a result that is kept back, weights that are none, sybils."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import canonical
from chain.cid import blob_cid
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import GROUP, RESULT, REVEAL
from chain.learning import Reveal, read_learning, reveal_body
from chain.learning_outcome import GroupResult, Result, group_body, quorum, result_body
from chain.learning_task import GROUPS
from chain.record import Record
from federated.actions import Action, Publish
from federated.agreement import ATTEMPT_FLOOR_S
from federated.engagement import AnyRound
from federated.faults import LATE, UNAVAILABLE, WEIGHT
from federated.ledger import Ledger
from federated.messages import Question, Word
from federated.proposal import decide
from tests.federated.models import model, task_of
from tests.federated.table import Member, Scribe, Table
from tests.federated.test_round import agree, contributors
from validation.named import learning_of

MADE_UP = blob_cid(b"a model that follows from nothing")


class Crooked(Table):
    """Some members are crooks: what they propose is never true."""

    def __init__(self, members: int, crooks: int) -> None:
        super().__init__(task_of(max_members=members, rounds=3), members=members)
        self.crooks = self.members[-crooks:]
        self.words: set[tuple[str, Word]] = set()

    def ask(self, member: Member, round_: AnyRound, agent: AgentId, question: Question) -> None:
        if member not in self.crooks:
            super().ask(member, round_, agent, question)
            return
        honest = [other for other in self.members if other not in self.crooks]
        for name, lie in self.lies(member, round_, question):
            words = [other.round.answer(member.agent, lie, self.now).word for other in honest if other.round]
            self.words |= {(name, word) for word in words}
        round_.answered(agent, question, None, self.now)

    def lies(self, member: Member, round_: AnyRound, question: Question) -> list[tuple[str, Question]]:
        """What follows if an honest member's update is left out, is not to be had, is wrong, and so on."""
        ledger, tip, victim = member.ledger, round_.tip, self.members[0].agent
        said = {*ledger.commits_of(tip, victim), *ledger.reveals_of(tip, victim)}
        reveals = ledger.reveals_of(tip, victim)
        everything = decide(ledger, tip, tip.agents, dict.fromkeys(ledger.reveals))
        outcomes = (everything.outcome(tip, tip.agents, blob, tip.roster) for blob in member.blobs)
        (true,) = [one for one in outcomes if one.digest(self.task.cid) == question.digest]
        view = tuple(cid for cid in question.view if cid not in said)
        lies = {
            "left out": (view, (), replace(true, reveals=tuple(set(true.reveals) - said))),
            "not to be had": (question.view, reveals, replace(true, refused=((victim, UNAVAILABLE),))),
            "called a liar": (question.view, (), replace(true, refused=((victim, WEIGHT),))),
            "another model": (question.view, (), replace(true, parameters=MADE_UP)),
            "another roster": (question.view, (), replace(true, roster=true.roster[1:])),
        }
        return [
            (name, replace(question, view=view, unavailable=gone, digest=outcome.digest(self.task.cid)))
            for name, (view, gone, outcome) in lies.items()
        ]


def test_no_honest_member_signs_what_a_crooked_proposer_makes_up() -> None:
    table = Crooked(members=7, crooks=2)
    table.run(limit=2_000)
    agree(table, *table.crooks)
    assert {(name, word) for name, word in table.words if word is not Word.BUSY} == {
        ("left out", Word.MISSING),
        ("not to be had", Word.OBTAINABLE),
        ("called a liar", Word.DISAGREE),
        ("another model", Word.DISAGREE),
        ("another roster", Word.DISAGREE),
    }
    everybody = {member.agent for member in table.members}
    for step in table.members[0].ledger.steps:
        assert contributors(table, step.outcome.round) == everybody
    assert table.now < 3 * (2 * ATTEMPT_FLOOR_S + 6), "each crook costs an attempt at most"


def kept_back(table: Table) -> Record:
    """Another result of round 1, which all members signed when a crook asked, and nobody has seen since."""
    first = table.members[0].ledger.steps[0]
    other = replace(first.outcome, refused=((table.members[3].agent, LATE),))
    signed = tuple((one.agent, other.sign(table.task.cid, one.scribe.identity)) for one in table.members)
    assert len(signed) > len(first.signers)
    return table.members[3].scribe.on(table.task, RESULT, result_body(Result(other, tuple(sorted(signed)))))


@given(known=st.integers(0, 3), order=st.permutations(range(4)))
@settings(max_examples=20)
def test_a_result_that_is_kept_back_undoes_crookround_and_no_more(known: int, order: list[int]) -> None:
    """It has more signatures, so it is taken until more than two thirds have built on the other one."""
    table, withheld = KEPT_BACK
    steps = table.members[0].ledger.steps
    results = [table.members[0].records[step.record] for step in steps]
    before = [record for record in table.members[0].records.values() if record.header.kind != RESULT]
    ledger = Ledger(table.task)
    ledger.add_all(before)
    late = [*results[:known], withheld]
    ledger.add_all([late[place] for place in order if place < len(late)])
    assert ledger.tip is not None
    if known >= 2:
        assert [step.digest for step in ledger.steps] == [step.digest for step in steps[:known]]
    else:
        assert len(ledger.steps) == 1
        assert ledger.steps[0].record == withheld.cid
    ledger.add_all(results)
    assert ledger.tip == table.members[0].ledger.tip, "who had followed the other one turns around"


@pytest.mark.parametrize("weight", [-1, nan, 1e9, True, None, 1 << 63, b"1"])
def test_a_weight_that_is_no_count_cannot_be_said(weight: object) -> None:
    """As a record's payload it does not encode, or it does not read: no round ever sees it."""
    reveal = Reveal(1, bytes(32), TABLE_TASK.cid, bytes(32), MADE_UP, 1, 1, {}, ())
    body = {**reveal_body(reveal), "examples": weight}

    def received() -> object:
        return read_learning(REVEAL, canonical.decode(canonical.encode(body), 4096))

    with pytest.raises(ChainError):
        received()


@pytest.mark.parametrize("weight", [0, 1_001, 10**9, (1 << 63) - 1])
def test_a_weight_beyond_the_terms_reads_and_is_refused_by_name(weight: int) -> None:
    table = Table(task_of(), members=4)
    liar = table.members[1]
    liar.examples = weight
    table.run()
    agree(table)
    first = table.members[0].ledger.steps[0]
    assert first.outcome.refused == ((liar.agent, WEIGHT),)
    assert liar.agent not in contributors(table, 1)


class TwoFaced(Table):
    """So many of the first round's first group lie that they sign for it: one model for half of the roster,
    another for the other half.
    """

    def __init__(self, members: int, seed: int) -> None:
        terms = task_of(max_members=members, rounds=2, topology=GROUPS)
        super().__init__(terms, members=members, seed=seed)
        ledger = self.members[0].ledger
        assert ledger.tip is not None
        self.group = ledger.groups_of(ledger.tip)[0]
        crooks = self.group[: quorum(len(self.group))]
        self.crooks = [self.member(agent) for agent in crooks]
        self.shown: list[Record] = []

    def act(self, member: Member, round_: AnyRound, action: Action) -> None:
        match action:
            case Publish(result=GroupResult(outcome=outcome)) if outcome.members == self.group:
                if self.shown or member not in self.crooks:
                    return
                assert member.update is not None
                data = member.update(1)
                other = replace(outcome, parameters=blob_cid(data))
                for one, half in ((outcome, self.members[::2]), (other, self.members[1::2])):
                    signed = {
                        crook.agent: one.sign(self.task.cid, crook.scribe.identity) for crook in self.crooks
                    }
                    body = group_body(GroupResult(one, tuple(sorted(signed.items()))))
                    self.shown.append(self.say(member, GROUP, body, half))
            case _:
                super().act(member, round_, action)


@pytest.mark.slow
@given(seed=st.integers(0, 1 << 16))
@settings(max_examples=5)
def test_two_outcomes_of_a_group_shown_to_two_halves_end_as_one(seed: int) -> None:
    table = TwoFaced(members=18, seed=seed)
    table.run(limit=3_000)
    agree(table)
    assert len(table.shown) == 2
    for step in table.members[0].ledger.steps[:1]:
        said = [learning_of(record) for record in table.shown]
        names = {one.outcome.name(table.task.cid) for one in said if isinstance(one, GroupResult)}
        assert len(names & set(step.outcome.reveals)) == 1
    assert len(table.members[0].ledger.steps) == 2


def test_sybils_that_join_late_take_the_free_seats_and_nobody_elses() -> None:
    """Eight join at once where two seats are free; each lies when it has one. The honest keep theirs, and the
    models are those that they would have made alone.
    """
    table = Table(task_of(max_members=7, rounds=12), members=5)
    honest = {member.agent for member in table.members}
    alone = Table(task_of(max_members=7, rounds=12), members=5)
    alone.run(limit=2_000)
    sybils = [Member(Scribe(50 + number), Ledger(table.task), examples=0) for number in range(8)]

    def arrive() -> None:
        for number, sybil in enumerate(sybils):
            sybil.update = lambda round_, number=number: model(9_000 + number)  # type: ignore[misc]
            table.members.append(sybil)
            table.poll(sybil)
            table.join(sybil)

    table.at(2.5, arrive)
    table.run(limit=2_000)
    agree(table)
    ledger = table.members[0].ledger
    assert [step.outcome.parameters for step in ledger.steps] == [
        step.outcome.parameters for step in alone.members[0].ledger.steps
    ]
    assert all(honest <= set(step.before.agents) for step in ledger.steps)
    assert all(len(step.before.agents) <= 7 for step in ledger.steps)
    lied = [agent for step in ledger.steps for agent, reason in step.outcome.refused if reason == WEIGHT]
    assert set(lied) == {sybil.agent for sybil in sybils}, "each had its turn, and is named"
    assert max(Counter(lied).values()) <= 2, "in twelve rounds nobody lies three times"


def finished() -> tuple[Table, Record]:
    table = Table(task_of(), members=4)
    table.run()
    return table, kept_back(table)


KEPT_BACK = finished()
TABLE_TASK = KEPT_BACK[0].task
