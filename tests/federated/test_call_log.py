"""The log of a ServerApp's run: one run for one set of records, and nobody leads it away alone."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.kinds import ANSWER, CALL, END
from chain.server_app import Answer, Call, End, Sent, answer_body, call_body, end_body
from federated.call_log import CallLog
from tests.federated.runs import BLOB, MEMBERS, begun, told
from tests.validation.bench import bench
from validation.learning_rules import learning_body
from validation.named import learning_of

TOLD = told()


def state(log: CallLog) -> tuple[object, ...]:
    return log.steps, log.ended, log.head, log.members(), [log.answers(one.record) for one in log.steps]


@given(seed=st.integers(0, 1 << 32), doubled=st.integers(0, 10))
def test_any_order_with_repetitions_tells_of_the_same_run(seed: int, doubled: int) -> None:
    shuffled = [*TOLD.records, *TOLD.records[:doubled]]
    random.Random(seed).shuffle(shuffled)
    log = TOLD.log(shuffled)
    assert state(log) == state(TOLD.log())
    assert not log.add_all(TOLD.records)
    assert len(log.steps) == 3
    assert log.coordinator == TOLD.scribes[2].agent
    assert log.finished


def test_a_long_run_is_taken_up_in_whatever_order() -> None:
    """Backwards all of it waits for the first call, and nothing goes one call deeper a link."""
    run = begun()
    at = run.task.cid
    for number in range(1, 501):
        at = run.call(0, number, at, [0]).cid
    for ordered in (run.records, run.records[::-1]):
        log = CallLog(run.task)
        for record in ordered:
            log.add(record)
        assert log.head == at
        assert [step.call.number for step in log.steps] == list(range(1, 501))
        assert log.follows(log.steps[250].record)


def test_who_says_more_later_unmakes_nothing() -> None:
    """A first call or an answer that the run has built on stays, whatever its author says beside it."""
    run = told()
    before = state(run.log())
    author, member = run.scribes[:2]
    nodes = tuple(sorted(one.agent for one in run.scribes[:MEMBERS]))
    first = run.log().steps[0].record
    for size in range(10, 16):
        author.last, member.last = run.task, run.records[1]  # on branches of their lines on the task
        call = Call(1, run.task.cid, nodes, (), (Sent(member.agent, BLOB, size),))
        run.keep(author.on(run.task, CALL, call_body(call)))
        run.keep(member.on(run.task, ANSWER, answer_body(Answer(first, 1, BLOB, size))))
    assert state(run.log()) == before
    assert state(run.log(run.records[::-1])) == before


def test_who_takes_a_run_over_alone_does_not_lead_it() -> None:
    """However many calls one writes, and however early: a claim counts when half of the nodes answer it."""
    run = begun()
    alone = early = run.call(3, 1, run.task.cid, [3, 2])
    run.answer(3, alone, 0)
    for number in range(2, 6):
        alone = run.call(3, number, alone.cid, [3])
        run.answer(3, alone, 0)
    assert run.log().steps == ()
    assert [one.record for one in run.log().claims] == [early.cid]
    first = run.call(0, 1, run.task.cid, [0, 1])
    assert [one.record for one in run.log().steps] == [first.cid]
    run.answer(0, first, 0)
    run.answer(1, first, 1)
    run.answer(2, early, 1)  # half of the members: it counts, and has no more answers than the author's
    assert run.log().coordinator == run.scribes[0].agent
    assert [one.record for one in run.log().steps] == [first.cid]


def test_who_ends_a_run_alone_does_not_end_it() -> None:
    """The coordinator's end counts, and one that half of the nodes say alike; another's does not."""
    run = begun()
    first = run.call(0, 1, run.task.cid, [0, 1, 2, 3])

    def end(by: int, failed: str) -> None:
        body = end_body(End(first.cid, (), failed=failed))
        run.keep(run.scribes[by].on(run.task, END, body))

    end(3, "I say so")
    end(2, "I say something else")
    assert not run.log().finished
    assert {one.agent for one in run.log().claimed_ends} == {run.scribes[2].agent, run.scribes[3].agent}
    end(1, "I say so")
    ended = run.log().ended
    assert ended is not None
    assert ended.end.failed == "I say so"
    end(0, "enough")
    ended = run.log().ended
    assert ended is not None
    assert (ended.agent, ended.end.failed) == (run.scribes[0].agent, "enough")


def test_what_builds_on_a_claim_waits_until_it_counts() -> None:
    """So a member that writes a long chain by itself fills a bounded room, and not the log."""
    run = begun()
    alone = claim = run.call(3, 1, run.task.cid, [1, 2, 3])
    for number in range(2, 6):
        alone = run.call(3, number, alone.cid, [3])
    assert run.log().step(alone.cid) is None
    for place, by in enumerate((1, 2)):
        run.answer(by, claim, place)
    assert [one.record for one in run.log().steps][-1] == alone.cid


def test_who_has_no_say_is_not_heard() -> None:
    run = begun()
    stranger = run.call(4, 1, run.task.cid, [1])
    assert run.log().steps == run.log().claims == ()
    first = run.call(0, 1, run.task.cid, [1, 2])
    for by, place in ((2, 0), (1, 1), (4, 0)):
        run.answer(by, first, place)  # another's message, or none of a member
    skipped = run.call(0, 3, first.cid, [1])
    assert [one.record for one in run.log().steps] == [first.cid]
    assert run.log().answers(first.cid) == {}
    assert run.log().open_in(run.log().steps[0], run.scribes[1].agent) == [0]
    assert skipped.cid != stranger.cid


def test_the_author_leads_its_task_though_it_has_not_joined() -> None:
    run = begun(joined=(1, 2, 3))
    first = run.call(0, 1, run.task.cid, [1, 2, 3])
    assert [one.record for one in run.log().steps] == [first.cid]
    assert run.scribes[0].agent not in run.log().members()


def test_only_the_nodes_of_the_call_before_make_a_claim_count() -> None:
    """Not those to whom the claim is sent: else whoever claims would choose its own judges."""
    run = begun()
    first = run.call(0, 1, run.task.cid, [0, 1], nodes=[0, 1])
    claim = run.call(3, 2, first.cid, [1, 2, 3], nodes=[1, 2, 3])
    for place, by in ((1, 2), (2, 3)):
        run.answer(by, claim, place)
    assert [one.record for one in run.log().steps] == [first.cid]
    assert [one.record for one in run.log().claims] == [claim.cid]
    run.answer(1, claim, 0)
    assert [one.record for one in run.log().steps] == [first.cid, claim.cid]
    assert run.log().claims == ()


@pytest.mark.parametrize("better", [1, 2])
def test_of_two_claims_that_count_that_with_more_answers_does(better: int) -> None:
    run = begun()
    first = run.call(0, 1, run.task.cid, [1, 2, 3])
    claims = {by: run.call(by, 2, first.cid, [1, 2, 3]) for by in (1, 2)}
    for by, claim in claims.items():
        for place in range(3 if by == better else 2):
            run.answer((1, 2, 3)[place], claim, place)
    for records in (run.records, run.records[::-1]):
        assert [one.record for one in run.log(records).steps] == [first.cid, claims[better].cid]


def test_an_answer_to_a_rival_turns_the_run_though_the_coordinator_goes_on() -> None:
    """One more answer, and the call counts to which more agents have answered."""
    run = begun()
    first = run.call(0, 1, run.task.cid, [1, 2, 3])
    second = run.call(0, 2, first.cid, [1, 2, 3])
    run.answer(1, second, 0)
    rival = run.call(2, 2, first.cid, [1, 2, 3])
    log = run.log()
    assert log.head == second.cid
    for place, by in ((1, 2), (2, 3)):
        log.add(run.answer(by, rival, place))
    assert log.head == rival.cid
    for place, by in ((1, 2), (2, 3)):
        log.add(run.answer(by, second, place))
    assert log.head == second.cid, "the coordinator's own has as many, or more"


def test_answers_to_a_call_that_another_one_replaces_are_gone_with_it() -> None:
    """Two calls at one place of a chain; that with the lower CID stays, whichever came first."""
    run, twin = begun(), begun()
    calls = (run.call(0, 1, run.task.cid, [1, 2]), twin.call(0, 1, run.task.cid, [1]))
    stays, goes = sorted(calls, key=lambda record: record.cid)
    assert stays.header.seq == goes.header.seq
    log = run.log([*run.records[:MEMBERS], goes, run.answer(1, goes, 0)])
    assert log.answers(goes.cid)
    log.add(stays)
    assert [one.record for one in log.steps] == [stays.cid]
    assert log.answers(goes.cid) == {}


def test_what_comes_early_waits_until_its_author_has_joined() -> None:
    run = begun()
    first = run.call(1, 1, run.task.cid, [1, 2])
    run.answer(1, first, 0)
    run.answer(2, first, 1)
    joins, rest = run.records[:MEMBERS], run.records[MEMBERS:]
    log = run.log(rest)
    assert not log.steps
    log.add_all(joins)
    assert [one.record for one in log.steps] == [first.cid]


def test_a_call_has_a_time_of_its_own_from_rule_version_6_on() -> None:
    run = begun()
    author = run.scribes[0]
    call = Call(1, run.task.cid, (author.agent,), (), (Sent(author.agent, BLOB, 9),), wait_ms=500)
    record = author.on(run.task, CALL, call_body(call))
    assert learning_of(record) == call
    context = replace(bench().context(record), network=record.header.epoch)

    def finding(rules: int) -> object:
        return learning_body(record, replace(context, manifest=replace(context.manifest, rules=rules)))

    assert finding(6) is None
    assert "knows no calls with a time of their own" in str(finding(5))
    plain = author.on(run.task, CALL, call_body(replace(call, wait_ms=None)))
    assert learning_body(plain, replace(context, manifest=replace(context.manifest, rules=5))) is None
