"""Who sits out follows from the results alone; a lie costs more each time, a crash never the task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.cid import raw_cid
from chain.learning import Reveal
from chain.learning_outcome import Outcome
from federated.faults import EXCLUDED, LATE, REASONS, UNAVAILABLE, WEIGHT, WITHHELD
from federated.ledger import Ledger, result_fault
from federated.penalties import COSTS_ROUNDS, FIRST_ROUNDS, WITHHELD_ROUNDS, Penalty, after, barred
from tests.federated.models import task_of
from tests.federated.table import Member, Table
from tests.federated.test_round import agree
from validation.learning_rules import result_members

A, B = bytes([1]) * 32, bytes([2]) * 32
CID = raw_cid(b"anything")


def outcome(number: int, *refused: tuple[bytes, str]) -> Outcome:
    return Outcome(number, bytes(32), (A, B), (CID,), tuple(sorted(refused)), CID, ())


def history(rounds: dict[int, str]) -> tuple[Penalty, ...]:
    penalties: tuple[Penalty, ...] = ()
    for number, code in sorted(rounds.items()):
        penalties = after(penalties, outcome(number, (A, code)))
    return penalties


def test_the_second_lie_costs_twice_as_much_and_the_third_the_task() -> None:
    sat_out = [number for number in range(1, 60) if A in barred(history({1: WEIGHT, 5: "norm"}), number)]
    assert sat_out[-1] == 5 + 2 * FIRST_ROUNDS
    assert [n for n in range(2, 60) if A in barred(history({1: WEIGHT}), n)] == [2, 3, 4]
    (third,) = history({1: WEIGHT, 5: "norm", 12: "double"})
    assert third.for_good
    assert third.bars(1_000_000)
    assert (third.lies, third.reason) == (3, "double")


@given(rounds=st.dictionaries(st.integers(1, 200), st.sampled_from([WITHHELD, LATE, UNAVAILABLE, EXCLUDED])))
def test_what_a_crash_or_a_bad_line_can_cause_never_costs_the_task(rounds: dict[int, str]) -> None:
    penalties = history(rounds)
    last = max((number for number, code in rounds.items() if code == WITHHELD), default=-WITHHELD_ROUNDS)
    for number in range(1, 210):
        assert (A in barred(penalties, number)) == (last < number <= last + WITHHELD_ROUNDS) or number <= last


@given(codes=st.lists(st.sampled_from(sorted(REASONS)), max_size=8))
def test_penalties_only_grow_and_are_one_object_while_nobody_earns_any(codes: list[str]) -> None:
    penalties: tuple[Penalty, ...] = ()
    for number, code in enumerate(codes, 1):
        found = after(penalties, outcome(number, (B, code)))
        if code not in COSTS_ROUNDS:
            assert found is penalties
        else:
            assert found[0].until >= (penalties[0].until if penalties else 0)
            assert found[0].lies >= (penalties[0].lies if penalties else 0)
            assert found[0].bars(number + 1)
        penalties = found


def test_a_liar_that_always_comes_back_lies_in_three_rounds_of_a_task() -> None:
    table = Table(task_of(rounds=24), members=4)
    liar = table.members[2]
    liar.examples = 0
    table.run(limit=2_000)
    agree(table, liar)
    steps = table.members[0].ledger.steps
    lied = [step.outcome.round for step in steps if liar.agent in dict(step.outcome.refused)]
    assert lied == [1, 5, 12]
    assert table.members[0].ledger.tip is not None
    assert table.members[0].ledger.tip.penalties[0].for_good


def silent(_: Reveal) -> list[Reveal]:
    return []


def crashing(table: Table, member: Member) -> Callable[[Reveal], list[Reveal]]:
    def alter(reveal: Reveal) -> list[Reveal]:
        table.crash(member)
        table.at(table.now + 1.5, lambda: table.restart(member))
        member.alter = None
        return []

    return alter


@pytest.mark.parametrize("crash", [False, True])
def test_a_promise_that_is_not_kept_costs_three_rounds_whoever_breaks_it(crash: bool) -> None:
    table = Table(task_of(rounds=10), members=4)
    member = table.members[2]
    member.alter = crashing(table, member) if crash else silent
    table.run(limit=2_000)
    agree(table, member)
    steps = table.members[0].ledger.steps
    rosters = [member.agent in step.before.agents for step in steps]
    assert dict(steps[0].outcome.refused) == {member.agent: WITHHELD}
    assert rosters[:5] == [True, False, False, False, True]
    assert (sum(dict(step.outcome.refused) != {} for step in steps) == 1) == crash


def last_word(table: Table, member: Member) -> Callable[[Reveal], list[Reveal]]:
    def alter(reveal: Reveal) -> list[Reveal]:
        table.at(table.now, lambda: table.crash(member))
        return [reveal]

    return alter


def test_a_result_that_seats_who_sits_out_continues_nothing() -> None:
    table = Table(task_of(rounds=2), members=4)
    liar = table.members[2]
    liar.examples = 0
    table.run()
    first = table.members[0].ledger.steps[0]
    seated = replace(first.outcome, roster=first.before.roster)
    assert result_fault(table.members[0].ledger.terms, first.before, first.outcome) is None
    assert (
        result_fault(table.members[0].ledger.terms, first.before, seated)
        == "its next roster seats an agent that sits out"
    )


def test_who_could_not_sign_is_not_named_in_what_the_others_sign() -> None:
    """Two of four are gone before the end, one of them after a lie: half of a roster goes on without them."""
    table = Table(task_of(rounds=2), members=4)
    liar, gone = table.members[2:]
    liar.examples = 0
    for member in (liar, gone):
        member.alter = last_word(table, member)
    table.run(limit=2_000)
    agree(table)
    ledger = table.members[0].ledger
    first = ledger.steps[0]
    assert set(first.outcome.members) == {one.agent for one in table.members[:2]}
    for step in ledger.steps:
        record = table.members[0].records[step.record]
        assert result_members(record, None) is None  # type: ignore[arg-type]
    again = Ledger(table.task)
    again.add_all(table.members[0].records.values())
    assert again.finished
