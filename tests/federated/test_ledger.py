"""The ledger: one state for one set of records, whatever their order; two results settle alike everywhere."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.cid import record_cid
from chain.kinds import COMMIT, JOIN, LEAVE, RESULT, REVEAL, START, TASK
from chain.learning import Commit, Start, commit_body, reveal_body, start_body
from chain.learning_outcome import Outcome, Result, result_body
from chain.record import Record
from chain.source_chain import Draft
from federated import membership
from federated.ledger import MAX_OF_ONE, Ledger, Step, Tip, advance, result_fault
from federated.membership import MAX_WAITING
from tests.federated.models import task_of
from tests.federated.table import Member, Scribe, Table


def finished() -> Table:
    """Three rounds of four members, one of whom lies in the first, and one leaves."""
    table = Table(task_of(), members=4)
    table.members[1].examples = 0
    table.at(2.5, lambda: table.leave(table.members[3]))
    table.run()
    return table


TABLE = finished()
RECORDS = list(TABLE.members[0].records.values())


def state(ledger: Ledger) -> tuple[object, ...]:
    return (
        ledger.tip,
        ledger.steps,
        sorted(ledger.standings.items()),
        sorted(ledger.commits),
        sorted(ledger.reveals),
        ledger.members(),
        ledger.finished,
    )


@given(seed=st.integers(0, 1 << 32), doubled=st.integers(0, 10))
def test_any_order_with_repetitions_adds_up_to_the_same(seed: int, doubled: int) -> None:
    shuffled = [*RECORDS, *RECORDS[:doubled]]
    random.Random(seed).shuffle(shuffled)
    ledger = Ledger(TABLE.task)
    ledger.add_all(shuffled)
    assert state(ledger) == state(TABLE.members[0].ledger)
    assert not ledger.add_all(RECORDS)


@given(kept=st.integers(0, 1 << 20))
def test_a_part_of_the_records_gives_a_part_of_the_chain(kept: int) -> None:
    ledger = Ledger(TABLE.task)
    ledger.add_all([record for n, record in enumerate(RECORDS) if kept >> n % 20 & 1])
    steps = [step.digest for step in TABLE.members[0].ledger.steps]
    assert [step.digest for step in ledger.steps] == steps[: len(ledger.steps)]


def test_what_waits_is_bounded_and_comes_back() -> None:
    ledger = Ledger(TABLE.task)
    member = TABLE.members[0]
    stray = [
        member.scribe.on(TABLE.task, COMMIT, commit_body(Commit(1, number.to_bytes(32, "big"), bytes(32))))
        for number in range(MAX_WAITING + 5)
    ]
    (other,) = [one for one in RECORDS if one.header.author != member.agent and one.header.kind == COMMIT][:1]
    assert ledger.add(other)
    assert ledger.add_all(stray)
    assert ledger.has(other.cid), "it waits as well, and one that floods crowds out itself alone"
    assert ledger.forgot
    assert not ledger.has(stray[0].cid)
    assert ledger.has(stray[-1].cid)
    ledger.add_all(RECORDS)
    assert ledger.finished


def alone(rounds: int) -> tuple[Record, list[Record]]:
    """A task and all that one agent writes, who is its whole roster and may sign what it likes."""
    scribe = Scribe(0)
    terms = task_of(rounds=rounds, min_members=1, max_members=1)
    task = scribe.last = scribe.write(Draft(TASK, terms.to_body()))
    join = scribe.on(task, JOIN, {})
    roster = ((scribe.agent, join.cid),)
    start = Start(roster)
    records = [join, scribe.on(task, START, start_body(start))]
    digest = start.digest(task.cid)
    for number in range(1, rounds + 1):
        outcome = Outcome(number, digest, (scribe.agent,), (join.cid,), (), terms.parameters, roster)
        signature = (scribe.agent, outcome.sign(task.cid, scribe.identity))
        records.append(scribe.on(task, RESULT, result_body(Result(outcome, (signature,)))))
        digest = outcome.digest(task.cid)
    return task, records


class Counting(Ledger):
    """Counts the steps of the chain that it looks at."""

    looked = 0

    def _step(self, place: Tip) -> Step:
        self.looked += 1
        return super()._step(place)


def test_a_long_chain_is_taken_up_in_whatever_order_at_a_cost_for_each_record() -> None:
    """Backwards all of it waits for the start; nothing goes one call deeper, or from the begin on, a link."""
    rounds = 500
    task, records = alone(rounds)
    for ordered in (records, records[::-1]):
        ledger = Counting(task)
        for record in ordered:
            ledger.add(record)
        assert len(ledger.steps) == rounds
        assert ledger.finished
        assert ledger.looked <= 3 * rounds
        assert (ledger._waits, ledger._waiting, ledger._waiters) == (0, {}, {})


class Timed(Table):
    """A table whose members' clocks go, three seconds apart."""

    def say(
        self, member: Member, kind: str, body: dict[str, Any], to: Sequence[Member] | None = None
    ) -> Record:
        member.scribe.now_us = int((10 + 3 * self.members.index(member) + self.now) * 1e6)
        return super().say(member, kind, body, to)


def test_a_task_of_more_records_than_may_wait_is_read_from_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come in the order of their CIDs; what one builds on is about as often behind it as before it."""
    table = Timed(task_of(rounds=24), members=4)
    table.run()
    records = sorted(table.members[0].records.values(), key=lambda record: record.cid)
    monkeypatch.setattr(membership, "MAX_WAITING", 48)
    assert len(records) > 200
    ledger = Ledger(table.task)
    ledger.add_all(records)
    assert ledger.finished
    assert ledger.tip == table.members[0].ledger.tip
    assert not ledger.forgot


def branches(*signers: int) -> tuple[Ledger, list[Outcome], list[Record]]:
    """Results for round 1 that differ in their model, each signed by so many members."""
    table = Table(task_of(), members=4)
    ledger = Ledger(table.task)
    ledger.add_all(table.members[0].records.values())
    assert ledger.tip is not None
    evidence = (table.task.cid,)
    outcomes, records = [], []
    for number, count in enumerate(signers):
        members = sorted(table.members, key=lambda member: member.agent)
        outcome = Outcome(
            1,
            ledger.tip.digest,
            ledger.tip.agents,
            evidence,
            ((members[3].agent, f"reason {number}"),),
            ledger.tip.parameters,
            ledger.tip.roster,
        )
        signatures = tuple(
            (one.agent, outcome.sign(table.task.cid, one.scribe.identity)) for one in members[:count]
        )
        outcomes.append(outcome)
        author = members[0].scribe
        records.append(author.on(table.task, RESULT, result_body(Result(outcome, signatures))))
    return ledger, outcomes, records


def test_more_signatures_win_then_the_lower_digest() -> None:
    for signers in ((3, 4), (4, 3), (3, 3)):
        ledger, outcomes, records = branches(*signers)
        digests = [outcome.digest(ledger.cid) for outcome in outcomes]
        expected = min(zip([-n for n in signers], digests, strict=True))[1]
        for order in (records, records[::-1]):
            again = Ledger(ledger.task)
            again.add_all(beginning())
            again.add_all(order)
            assert again.tip is not None
            assert again.tip.digest == expected


def beginning() -> list[Record]:
    """The records before round 1: the same scribes write the same ones in every table."""
    return list(Table(task_of(), members=4).members[0].records.values())


def test_signatures_on_one_result_add_up() -> None:
    ledger, (outcome, _), (first, other) = branches(3, 4)
    ledger.add_all([first])
    assert len(ledger.steps[0].signers) == 3
    ledger.add(other)
    assert len(ledger.steps[0].signers) == 4
    assert ledger.steps[0].outcome != outcome


def test_a_result_that_does_not_continue_the_chain_is_not_followed() -> None:
    ledger, (outcome,), (record,) = branches(3)
    tip = ledger.tip
    assert tip is not None
    terms = ledger.terms
    assert result_fault(terms, tip, outcome) is None
    agents = outcome.members
    seat = outcome.roster[0]
    for wrong in (
        replace(outcome, round=2),
        replace(outcome, members=(*agents, b"\xff" * 32)),
        replace(outcome, members=agents[:1]),
        replace(outcome, roster=tuple((bytes([n]) * 32, seat[1]) for n in range(5))),
        replace(outcome, roster=((b"\0" * 32, seat[1]),)),
    ):
        assert result_fault(terms, tip, wrong) is not None
    assert result_fault(terms, tip, replace(outcome, members=agents[:2])) is None
    ledger.add(record)
    assert ledger.tip == advance(tip, outcome, outcome.digest(ledger.cid))
    assert ledger.tip.round == 2


def test_the_last_word_on_taking_part_counts() -> None:
    table = Table(task_of(), members=3)
    ledger = Ledger(table.task)
    member = table.members[2]
    joined = table.joins[member.agent]
    left = member.scribe.on(table.task, LEAVE, {})
    again = member.scribe.on(table.task, JOIN, {})
    for order in ((joined, left, again), (again, left, joined), (left, again, joined)):
        ledger = Ledger(table.task)
        ledger.add_all(order)
        assert ledger.members() == (member.agent,)
        assert ledger.standings[member.agent].cid == again.cid
    ledger = Ledger(table.task)
    ledger.add_all((left, joined))
    assert ledger.members() == ()


def test_an_author_that_starts_its_task_once_more_unmakes_no_round() -> None:
    ledger, (outcome,), (record,) = branches(3)
    ledger.add(record)
    steps, author = ledger.steps, Table(task_of(), members=4).members[0].scribe
    records = beginning()
    for left in range(len(outcome.roster)):
        roster = (*outcome.roster[:left], *outcome.roster[left + 1 :])
        author.last = ledger.task
        records.append(author.on(ledger.task, START, start_body(Start(roster))))
    for order in (records, records[::-1]):
        again = Ledger(ledger.task)
        for one in (*order, record):
            again.add(one)
        assert again.steps == steps


def test_who_says_more_later_takes_no_evidence_away() -> None:
    """An update that counted stays to be audited, and what proves a double one stays what it is."""
    table = finished()
    ledger = table.members[0].ledger
    step, author = ledger.steps[0], table.members[2]
    (first,) = ledger.reveals_of(step.before, author.agent)
    for number in range(3 * MAX_OF_ONE):
        author.scribe.last = table.joins[author.agent]  # on a branch of its line on the task, so low on that
        later = replace(ledger.reveals[first][1], metrics={"loss": number})
        ledger.add(author.scribe.on(table.task, REVEAL, reveal_body(later)))
    kept = ledger.reveals_of(step.before, author.agent)
    assert kept[0] == first
    assert len(kept) == MAX_OF_ONE
    assert ledger.evidence(step.outcome)[1] == 0


@pytest.mark.parametrize(("old", "new", "settles"), [(3, 0, True), (2, 2, False), (1, 3, False)])
def test_a_result_is_settled_by_two_thirds_of_those_who_could_have_signed_it(
    old: int, new: int, settles: bool
) -> None:
    """Not by whom it seats: else one that few signed would win by agents of its proposer's."""
    ledger, (few, many), records = branches(3, 4)
    members = sorted(TABLE.members, key=lambda member: member.agent)[:old]
    scribes = [*(member.scribe for member in members), *(Scribe(200 + number) for number in range(new))]
    scribes.sort(key=lambda scribe: scribe.agent)
    fresh = [(one.agent, record_cid(one.agent)) for one in scribes]
    roster = tuple((agent, dict(few.roster).get(agent, join)) for agent, join in fresh)
    few = replace(few, roster=roster)
    author, task = TABLE.members[0].scribe, ledger.task
    signatures = tuple((m.agent, few.sign(task.cid, m.scribe.identity)) for m in TABLE.members[:3])
    next_one = replace(few, round=2, previous=few.digest(task.cid), members=tuple(a for a, _ in roster))
    both = tuple((one.agent, next_one.sign(task.cid, one.identity)) for one in scribes)
    for outcome, signed in ((few, signatures), (next_one, both)):
        ledger.add(author.on(task, RESULT, result_body(Result(outcome, tuple(sorted(signed))))))
    ledger.add(records[1])
    assert ledger.steps[0].outcome == (few if settles else many)
    assert len(ledger.steps) == (2 if settles else 1)


def test_a_result_seats_no_more_than_the_task_takes_and_follows_no_last_round() -> None:
    ledger, (outcome,), _ = branches(3)
    tip, terms = ledger.tip, ledger.terms
    assert tip is not None
    full = (*outcome.roster, (b"\xff" * 32, record_cid(b"a fifth join")))
    assert len(full) == terms.max_members + 1
    assert "more than 4 seats" in (result_fault(terms, tip, replace(outcome, roster=full)) or "")
    last = replace(outcome, round=terms.rounds + 1)
    assert result_fault(terms, replace(tip, round=terms.rounds), replace(last, round=terms.rounds)) is None
    assert result_fault(terms, replace(tip, round=terms.rounds + 1), last) is not None


def test_a_join_seats_once() -> None:
    ledger, (outcome,), _ = branches(3)
    assert ledger.tip is not None
    smaller = replace(outcome, roster=outcome.roster[1:])
    then = advance(ledger.tip, smaller, b"d" * 32)
    again = advance(then, replace(smaller, round=2), b"e" * 32)
    back = replace(outcome, round=3, members=smaller.members[1:], refused=())
    assert "a join of the past" in (result_fault(ledger.terms, again, back) or "")


def test_who_is_not_in_the_roster_promises_nothing_and_nobody_else_starts_a_task() -> None:
    table = Table(task_of(), members=4)
    ledger = Ledger(table.task)
    stranger, author = Scribe(200), table.members[0].scribe
    ledger.add(stranger.on(table.task, JOIN, {}))
    roster = ((stranger.agent, record_cid(b"a join")),)
    assert not ledger.add(stranger.on(table.task, START, start_body(Start(roster))))
    assert ledger.tip is None
    ledger.add_all(table.members[0].records.values())
    assert ledger.tip is not None
    promise = commit_body(Commit(1, ledger.tip.digest, bytes(32)))
    assert not ledger.add(stranger.on(table.task, COMMIT, promise))
    assert ledger.commits == {}
    assert ledger.add(author.on(table.task, COMMIT, promise))


def test_of_more_agents_than_are_kept_the_author_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "MAX_AGENTS", 2)
    table = Table(task_of(), members=4)
    author, *others = (member.agent for member in table.members)
    ledger = Ledger(table.task)
    added = {agent: ledger.add(table.joins[agent]) for agent in (*others, author)}
    assert [added[agent] for agent in (*others, author)] == [True, True, False, True]
    assert set(ledger.members()) == {*others[:2], author}


def test_of_all_who_wait_the_one_with_the_most_loses_its_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "MAX_WAITING", 6)
    ledger = Ledger(TABLE.task)
    one, other = (Scribe(number) for number in (200, 201))

    def wait(scribe: Scribe, number: int) -> Record:
        record = scribe.on(TABLE.task, COMMIT, commit_body(Commit(1, bytes([number]) * 32, bytes(32))))
        ledger.add(record)
        return record

    many = [wait(one, number) for number in range(5)]
    few = [wait(other, number) for number in range(3)]
    assert [ledger.has(record.cid) for record in many] == [False, False, True, True, True]
    assert all(ledger.has(record.cid) for record in few)
