"""Whose turn it is: one leads after the other, in an order that each call draws anew; who answers what."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from chain.cid import Cid
from chain.kinds import CALL, END, JOIN
from chain.server_app import Call, End, Sent, call_body, end_body
from federated.presence import Presence
from federated.turns import Turns
from tests.federated.runs import BLOB, MEMBERS, Run, begun

SEEN = 100.0
"""When the last call was seen."""


def turns_of(run: Run, by: int, head: Cid | None = None) -> Turns:
    """The turns of a scribe, which saw the last call (or `head`) at `SEEN`."""
    log = run.log()
    presence = Presence(log.terms)
    presence.saw(log.head if head is None else head, SEEN)
    return Turns(log, presence, run.scribes[by].agent)


def due(run: Run, excluded: tuple[int, ...] = ()) -> dict[int, float]:
    """From when on each may coordinate."""
    out = [run.scribes[by].agent for by in excluded]
    return {by: turns_of(run, by).due_at(out) for by in range(len(run.scribes))}


def test_members_take_over_one_after_another_and_each_call_draws_the_order_anew() -> None:
    run, firsts = begun(), set()
    previous = run.task.cid
    for number in range(1, 9):
        previous = run.call(0, number, previous, [1, 2, 3]).cid
        silence_s = turns_of(run, 0).presence.silence_s
        at = due(run)
        assert at[0] == -inf, "who coordinates need not wait"
        assert at[MEMBERS] == inf, "who has not joined waits in vain"
        others = sorted((1, 2, 3), key=lambda by: at[by])
        assert [at[by] for by in others] == [SEEN + silence_s * place for place in (1, 2, 3)]
        assert not turns_of(run, 1).is_silent(SEEN + silence_s - 1)
        assert turns_of(run, 1).is_silent(SEEN + silence_s)
        without = due(run, (others[0],))
        assert without[others[0]] == inf
        assert [without[by] for by in others[1:]] == [SEEN + silence_s * place for place in (1, 2)]
        firsts.add(others[0])
    assert len(firsts) > 1, "nobody is always the first"


def test_who_was_taken_over_from_has_a_turn_again_and_nobody_has_after_the_end() -> None:
    run = begun()
    first = run.call(0, 1, run.task.cid, [1, 2, 3])
    taken = run.call(2, 2, first.cid, [1, 2, 3])
    for place, by in enumerate((1, 2, 3)):
        run.answer(by, taken, place)
    at = due(run)
    assert at[2] == -inf
    silence_s = turns_of(run, 0).presence.silence_s
    assert sorted(at[by] for by in (0, 1, 3)) == [SEEN + silence_s * place for place in (1, 2, 3)]
    run.keep(run.scribes[2].on(run.task, END, end_body(End(taken.cid, (), BLOB))))
    assert set(due(run).values()) == {inf}


def test_messages_of_the_last_call_are_open_and_of_one_claim_once_nobody_leads() -> None:
    run = begun()
    first = run.call(0, 1, run.task.cid, [1, 2, 3])
    claims = sorted(run.call(by, 2, first.cid, [1, 2, 3]).cid for by in (1, 2))
    turns = turns_of(run, 3)
    gone = SEEN + turns.presence.silence_s
    assert [(step.record, place) for step, place in turns.open(gone - 1)] == [(first.cid, 2)]
    assert [(step.record, place) for step, place in turns.open(gone)] == [(first.cid, 2), (claims[0], 2)]
    run.answer(3, first, 2)
    turns = turns_of(run, 3)
    assert turns.open(gone - 1) == []
    assert [step.record for step, _ in turns.open(gone)] == [claims[0]]


def test_a_call_is_waited_for_as_it_says_and_no_longer_than_the_task_does() -> None:
    run = begun()
    author = run.scribes[0]
    nodes = tuple(sorted(one.agent for one in run.scribes[:MEMBERS]))
    plain = Call(1, run.task.cid, nodes, (), (Sent(author.agent, BLOB, 9),))
    most_s = run.log().terms.commit_ms / 1_000
    for wait_ms, wait_s in ((None, most_s), (500, 0.5), (1_000_000, most_s)):
        told = begun()
        told.keep(told.scribes[0].on(told.task, CALL, call_body(replace(plain, wait_ms=wait_ms))))
        turns = turns_of(told, 0)
        step = turns.ledger.steps[-1]
        assert turns.wait_s(step) == wait_s
        assert turns.over_at(step) == SEEN + wait_s


def test_messages_go_to_the_lowest_joins_of_those_who_are_there() -> None:
    run = begun()
    run.keep(run.scribes[MEMBERS].on(run.task, JOIN, {}))
    log = run.log()
    joins = {agent: standing.cid for agent, standing in log.standings.items()}
    by_join = sorted(joins, key=lambda agent: joins[agent])
    turns = turns_of(run, 0)
    assert len(by_join) == turns.ledger.terms.max_members + 1
    assert turns.nodes(()) == tuple(sorted(by_join[:-1]))
    assert turns.nodes([by_join[0]]) == tuple(sorted(by_join[1:]))
    turns.presence.owes(by_join[1], SEEN, SEEN + turns.presence.silence_s, joins[by_join[1]])
    assert turns.nodes(()) == tuple(sorted({*by_join} - {by_join[1]}))


def test_who_let_the_last_call_wait_or_is_not_in_it_misses_messages() -> None:
    run = begun()
    assert not turns_of(run, 1).misses_messages(inf), "nothing was sent yet"
    first = run.call(0, 1, run.task.cid, [1, 2])
    over = SEEN + run.log().terms.commit_ms / 1_000
    for by, missed in ((1, True), (3, False), (MEMBERS, True)):
        assert turns_of(run, by).misses_messages(over) is missed
    assert not turns_of(run, 1).misses_messages(over - 1)
    run.answer(1, first, 0)
    assert not turns_of(run, 1).misses_messages(over)
