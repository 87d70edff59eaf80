"""The log of gossip: one for one set of records, and small, whoever says how much."""

from __future__ import annotations

import random
import sys
from dataclasses import fields, is_dataclass
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.cid import Cid, blob_cid, record_cid
from chain.identity import AgentId
from chain.kinds import JOIN, LEAVE
from chain.learning import MAX_METRIC, MAX_METRICS
from chain.learning_outcome import MAX_REASON
from chain.learning_task import MAX_FANOUT, MAX_NAME
from chain.record import Record
from chain.share import MAX_REFUSED
from federated.gossip import step_after
from federated.share_log import AGENT_BYTES, MAX_HOLDERS, MAX_KEPT, SEAT_BYTES, ShareLog, most_bytes
from tests.federated.table import Scribe
from tests.federated.talk import ME, Talk

HONEST = 4
ROOM = 6
"""Seats of the tasks below in which others join, too."""
NOISE = {
    "metrics": {f"{n:02}".ljust(MAX_NAME, "m"): MAX_METRIC for n in range(MAX_METRICS)},
    "combined": tuple(sorted(record_cid(b"one %d" % n) for n in range(MAX_FANOUT + 1))),
    "refused": tuple(
        (cid, "r" * MAX_REASON) for cid in sorted(record_cid(b"no %d" % n) for n in range(MAX_REFUSED))
    ),
    "size": MAX_METRIC,
    "examples": MAX_METRIC,
}
"""As much as a share can say."""


def bytes_of(log: ShareLog) -> int:
    """Bytes of memory that a log takes, but for its task."""
    seen: set[int] = {id(log.task), id(log.terms), id(log._me)}
    total, left = 0, [*vars(log).values()]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        if isinstance(one, dict):
            left += chain(one.keys(), one.values())
        elif isinstance(one, (list, tuple, set, frozenset)):
            left += one
        elif is_dataclass(one):
            left += (getattr(one, field.name) for field in fields(one))
    return total


def kept(log: ShareLog, agent: AgentId) -> dict[int, tuple[Cid, bool]]:
    """What a log has of a member: of each round the share, and whether there is another."""
    found = {}
    for number in log.rounds_of(agent):
        one = log.share_of(agent, number)
        assert one is not None
        found[number] = (one.record, log.is_double(agent, number))
    return found


def in_turn(talk: Talk, records: list[Record]) -> ShareLog:
    """The log of records that come one by one; who came to a seat late is read again, as from the disk."""
    log = ShareLog(talk.task)
    for place, record in enumerate(records):
        log.add(record)
        for agent in log.unread():
            for earlier in records[: place + 1]:
                if earlier.header.author == agent:
                    log.add(earlier)
    return log


@settings(max_examples=6)
@given(st.randoms(use_true_random=False))
def test_the_log_is_the_same_in_whatever_order_records_come(rng: random.Random) -> None:
    talk = Talk.begun(4, rounds=100)
    for number in range(1, 6):
        for by in range(4):
            talk.share(by, number)
    talk.share(1, 2, examples=11)
    talk.say(2, LEAVE)
    talk.share(3, 101, examples=0, blob=talk.log().terms.parameters)
    talk.share(3, 101, blob=blob_cid(b"trained after the end"))
    expected, shuffled = talk.log(), list(talk.records)
    rng.shuffle(shuffled)
    log = in_turn(talk, shuffled)
    for record in shuffled:
        assert not log.add(record)
    agents = [one.agent for one in talk.scribes]
    assert log.seats() == expected.seats() == tuple(sorted(set(agents) - {agents[2]}))
    for agent in agents:
        assert kept(log, agent) == kept(expected, agent)
        assert log.newest(agent) == expected.newest(agent)
    assert log.is_double(agents[1], 2)
    assert not log.rounds_of(agents[2]), "who has left costs no room"
    newest = log.newest(agents[3])
    assert newest is not None
    assert log.is_result(newest)
    assert newest.examples == 0


def test_of_each_member_the_newest_rounds_are_kept() -> None:
    talk = Talk.begun(2)
    for number in range(1, MAX_KEPT + 6):
        talk.share(1, number)
    log, agent = talk.log(), talk.scribes[1].agent
    assert log.rounds_of(agent) == tuple(range(6, MAX_KEPT + 6))
    assert log.is_past(agent, 5)
    assert not log.is_past(agent, 6)
    assert not log.is_past(talk.scribes[0].agent, 5), "who has shown nothing may yet"


@settings(max_examples=5)
@given(st.randoms(use_true_random=False))
def test_what_is_said_of_a_round_later_takes_the_place_of_nothing(rng: random.Random) -> None:
    talk = Talk.begun(2)
    scribe = talk.scribes[1]
    joined = scribe.last
    first = talk.share(1, 1).cid
    talk.share(1, 1, examples=11)
    for examples in range(12, 18):
        scribe.last = joined  # on a branch of its line on the task, so low on that
        talk.share(1, 1, examples=examples)
    shuffled = list(talk.records)
    rng.shuffle(shuffled)
    log = in_turn(talk, shuffled)
    assert kept(log, scribe.agent) == {1: (first, True)}
    assert sum(log.has(record.cid) for record in talk.records) == 2 + 2, "two shares, and two joins"


@settings(max_examples=15)
@given(st.randoms(use_true_random=False), st.integers(1, 12))
def test_hostile_keys_neither_fill_memory_nor_push_out_what_others_showed(
    rng: random.Random, keys: int
) -> None:
    """They join later than the honest members, or not at all, leave, come back, and show what they like."""
    talk = Talk.begun(HONEST, max_members=ROOM)
    for by in range(HONEST):
        for number in rng.sample(range(1, 60), rng.randint(1, 2 * MAX_KEPT)):
            talk.share(by, number)
    honest, expected = talk.log(), talk.log()
    talk.scribes += [Scribe(HONEST + n) for n in range(keys)]
    for _ in range(8 * keys):
        by = rng.randrange(HONEST, HONEST + keys)
        if (kind := rng.choice((JOIN, LEAVE, None, None, None))) is not None:
            talk.scribes[by].now_us = 10**9
            talk.say(by, kind)
        else:
            talk.share(by, rng.choice((1, 60, 200, rng.randint(1, 200))), **NOISE)
    shuffled = list(talk.records)
    rng.shuffle(shuffled)
    log = in_turn(talk, shuffled)
    for scribe in talk.scribes[:HONEST]:
        assert kept(log, scribe.agent) == kept(honest, scribe.agent)
        assert log.newest(scribe.agent) == expected.newest(scribe.agent)
    assert bytes_of(log) <= most_bytes(log.terms)
    assert bytes_of(log) <= ROOM * SEAT_BYTES + len(talk.scribes) * AGENT_BYTES


def test_the_room_is_enough_for_the_worst_and_not_much_more() -> None:
    """All seats are taken by who shows two things in each round, all of which others say they combined."""
    talk = Talk.begun(MAX_HOLDERS + 2, max_members=MAX_HOLDERS + 2)
    seats = len(talk.scribes)
    talk.scribes += [Scribe(seats + n) for n in range(60)]
    for by in range(seats, len(talk.scribes)):
        talk.scribes[by].now_us = 10**9
        for kind in (JOIN, LEAVE, JOIN):
            talk.say(by, kind)
        talk.share(by, 150, **NOISE)
    named: tuple[Cid, ...] = ()
    for number in range(200 - MAX_KEPT, 200):
        of_round = []
        for by in range(seats):
            own = NOISE | {"combined": tuple(sorted(named))}
            of_round.append(talk.share(by, number, **own).cid)
            talk.share(by, number, **(own | {"examples": MAX_METRIC - 1}))
        named = tuple(of_round)
    log = in_turn(talk, talk.records)
    assert len(log.seats()) == seats
    first = log.share_of(talk.scribes[0].agent, 200 - MAX_KEPT)
    assert first is not None
    assert len(log.holders(first)) == 1 + MAX_HOLDERS
    most = seats * SEAT_BYTES + len(log.standings) * AGENT_BYTES
    assert 0.6 * most < bytes_of(log) <= most


def test_who_joined_first_has_a_seat_and_nobody_who_is_excluded() -> None:
    talk = Talk.begun(5, max_members=3)
    for by in range(5):
        talk.share(by, 1)
    log = talk.log()
    assert len(log.seats()) == 3
    first, *others = log.seats()
    assert set(log.unread()) == {first, *others}
    log.exclude(frozenset({first}))
    assert first not in log.seats()
    assert len(log.seats()) == 3, "the next one takes the seat"
    (next_,) = log.unread()
    assert next_ not in {first, *others}
    assert not log.rounds_of(first)
    assert not log.rounds_of(next_)
    log.add_all(talk.records)
    assert log.rounds_of(next_) == (1,), "and what it showed is read again"


def test_the_own_shares_are_kept_without_a_seat() -> None:
    talk = Talk.begun(5, max_members=3)
    for by in range(5):
        talk.share(by, 1)
    seated = talk.log().seats()
    (me, *_) = [one.agent for one in talk.scribes if one.agent not in seated]
    log = ShareLog(talk.task, me)
    log.add_all(talk.records)
    assert me not in log.seats()
    assert log.rounds_of(me) == (1,)


def test_few_who_claim_to_be_far_do_not_move_the_frontier() -> None:
    talk = Talk.begun(7)
    for by in (1, 2, 3, 4):
        talk.share(by, 5)
    for by in (5, 6):
        talk.share(by, 190)
    log = talk.log()
    me = talk.scribes[ME].agent
    assert log.frontier(me, 1_000) == 5
    assert step_after(log, me, 5) == (5, None), "who has nothing yet begins where the others are"
    assert step_after(log, me, 1) == (0, None)
    talk.share(ME, 4)
    log = talk.log()
    assert step_after(log, me, 5) == (4, log.newest(me)), "one round behind is near enough"
    assert step_after(log, me, 6) == (6, None)


def test_who_is_back_first_does_not_say_where_the_others_go_on() -> None:
    talk = Talk.begun(4)
    for by in (1, 2, 3):
        talk.share(by, 5)
    morning = 10**12
    talk.scribes[3].now_us = morning
    talk.share(3, 190)
    me = talk.scribes[ME].agent
    assert talk.log().frontier(me, morning) == 5
    talk.scribes[2].now_us = morning
    talk.share(2, 6)
    assert talk.log().frontier(me, morning) == 6


def test_a_result_is_the_model_of_the_last_round_and_half_of_them_end_no_task() -> None:
    talk = Talk.begun(5, rounds=6)
    base, me = talk.log().terms.parameters, talk.scribes[ME].agent
    for by in (1, 2, 3, 4):
        talk.share(by, 6)
    for wrong in ({"examples": 0}, {"blob": base}, {}):
        talk.share(1, 7, **wrong)
    talk.share(2, 8, examples=0, blob=base)
    log = talk.log()
    assert log.frontier(me, 1_000) == 6
    assert log.rounds_of(talk.scribes[1].agent) == log.rounds_of(talk.scribes[2].agent) == (6,)
    for by in (1, 2, 3):
        assert not talk.log().finished
        talk.share(by, 7, examples=0, blob=base)
    assert talk.log().finished
    assert talk.log().frontier(me, 1_000) == 6, "nobody trains behind the last round"


def test_a_model_is_held_by_its_author_and_the_first_who_combined_it() -> None:
    talk = Talk.begun(MAX_HOLDERS + 4)
    share = talk.share(1, 1)
    for number in (2, 3):
        for by in range(2, MAX_HOLDERS + 4):
            talk.share(by, number, combined=(share.cid,))
    log = in_turn(talk, talk.records)
    shown = log.shown(share.cid)
    assert shown is not None
    holders = log.holders(shown)
    assert holders[0] == talk.scribes[1].agent
    assert len(holders) == len(set(holders)) == 1 + MAX_HOLDERS


@pytest.mark.parametrize("by", range(4))
def test_who_comes_back_comes_last_whatever_is_heard_first(by: int) -> None:
    talk = Talk.begun(4, max_members=3)
    back = talk.scribes[by]
    back.now_us = 10**6
    talk.say(by, LEAVE)
    talk.say(by, JOIN)
    for records in (talk.records, talk.records[::-1]):
        log = ShareLog(talk.task)
        for record in records:
            log.add(record)
        assert back.agent not in log.seats()
        assert len(log.seats()) == 3
