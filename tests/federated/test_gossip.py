"""Gossip: the log is one for one set of records, and a step waits, replaces and refuses as it says."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from itertools import count

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.aggregation_rule import ROBUST
from chain.cid import Cid, blob_cid, record_cid
from chain.kinds import JOIN, LEAVE, SHARE, TASK
from chain.learning_task import FEDAVG, GOSSIP
from chain.record import Record
from chain.share import Share, share_body
from chain.source_chain import Draft
from federated.faults import DOUBLE, UNAVAILABLE, WEIGHT
from federated.gossip import (
    Combine,
    Look,
    Mixing,
    audience,
    draw,
    fanout,
    penalised,
    step_after,
)
from federated.gossip_audit import audit_share
from federated.share_log import MAX_KEPT, ShareLog, Shown
from federated.update import Fault, update_size
from federated.waiting import FLOOR_S, PATIENCE
from tests.federated.models import ARRAYS, task_of
from tests.federated.table import Scribe

MEMBERS = 7
ME = 0
SIZE = update_size(ARRAYS)
LIMIT_S = 10.0
RECORD = record_cid(b"nobody's")


@dataclass
class Talk:
    """A task, its members' scribes, and everything that was written about it."""

    task: Record
    scribes: list[Scribe]
    records: list[Record] = field(default_factory=list)

    @classmethod
    def begun(cls, members: int = MEMBERS, **terms: object) -> Talk:
        scribes = [Scribe(number) for number in range(members)]
        fields = {"rounds": 200, "max_members": 64, "topology": GOSSIP, "fanout": 3} | terms
        talk = cls(scribes[0].write(Draft(TASK, task_of(**fields).to_body())), scribes)
        for number in range(members):
            talk.say(number, JOIN)
        return talk

    def say(self, by: int, kind: str, **body: object) -> Record:
        self.records.append(self.scribes[by].on(self.task, kind, body))
        return self.records[-1]

    def share(self, by: int, number: int, **changes: object) -> Record:
        base = self.log().terms.parameters
        said = Share(number, blob_cid(b"%d of %d" % (by, number)), SIZE, 10, {}, base)
        return self.say(by, SHARE, **share_body(replace(said, **changes)))  # type: ignore[arg-type]

    def log(self) -> ShareLog:
        log = ShareLog(self.task)
        log.add_all(self.records)
        return log

    def order(self, number: int) -> list[int]:
        """The members as `ME` draws them in a round."""
        agents = [one.agent for one in self.scribes]
        return [agents.index(one) for one in draw(self.task.cid, number, agents[ME], agents)]


class Step:
    """The step of `ME` after a round, driven by hand: what is looked at is right unless `faults` says so."""

    def __init__(self, talk: Talk, number: int = 1, own: bool = True) -> None:
        self.talk, self.log = talk, talk.log()
        me = talk.scribes[ME].agent
        mine = self.log.shares_of(me, number)
        self.machine = Mixing(self.log, me, number, mine[0] if own and mine else None, 0.0)
        self.faults: dict[int, Fault | str] = {}
        self.looked: list[int] = []

    def at(self, now: float) -> list[int] | None:
        """Step until nothing is left to look at; whom it then combines, or None."""
        self.log.add_all(self.talk.records)
        while True:
            actions = self.machine.step(now)
            looks = [one for one in actions if isinstance(one, Look)]
            for look in looks:
                by = self.number(look.shown.agent)
                self.looked.append(by)
                self.machine.looked(look.shown.record, self.faults.get(by))
            combines = [one for one in actions if isinstance(one, Combine)]
            if combines:
                self.machine.combined(blob_cid(b"the next model"))
                return [self.number(one.agent) for one in combines[0].others]
            if not looks:
                return None

    def number(self, agent: bytes) -> int:
        return [one.agent for one in self.talk.scribes].index(agent)

    def reasons(self) -> list[tuple[int, str]]:
        shown = [(self.log.shown(cid), reason) for cid, reason in self.machine.refused]
        return sorted((self.number(one.agent), reason) for one, reason in shown if one is not None)


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
    log = ShareLog(talk.task)
    for record in [*shuffled, *shuffled]:
        log.add(record)
    agents = [one.agent for one in talk.scribes]
    assert log.seats() == expected.seats() == tuple(sorted(set(agents) - {agents[2]}))
    for agent in agents:
        assert log.history(agent) == expected.history(agent)
        assert log.shares_of(agent, 2) == expected.shares_of(agent, 2)
    assert len(log.shares_of(agents[1], 2)) == 2
    newest = log.newest(agents[3])
    assert newest is not None
    assert log.is_result(newest.share)
    assert newest.share.examples == 0


def test_of_each_member_the_newest_rounds_are_kept() -> None:
    talk = Talk.begun(2)
    for number in range(1, MAX_KEPT + 6):
        talk.share(1, number)
    rounds = [one.share.round for one in talk.log().history(talk.scribes[1].agent)]
    assert rounds == list(range(6, MAX_KEPT + 6))


@settings(max_examples=5)
@given(st.randoms(use_true_random=False))
def test_what_is_said_of_a_round_later_takes_the_place_of_nothing(rng: random.Random) -> None:
    talk = Talk.begun(2)
    scribe = talk.scribes[1]
    joined = scribe.last
    first = [talk.share(1, 1).cid, talk.share(1, 1, examples=11).cid]
    for examples in range(12, 18):
        scribe.last = joined  # on a branch of its line on the task, so low on that
        talk.share(1, 1, examples=examples)
    rng.shuffle(talk.records)
    log = ShareLog(talk.task)
    for record in talk.records:
        log.add(record)
    assert [one.record for one in log.shares_of(scribe.agent, 1)] == first


def test_a_liar_whose_lie_has_gone_sits_out_all_the_same() -> None:
    talk = Talk.begun(2)
    lie = talk.share(1, 1).cid
    talk.share(ME, 2, refused=((lie, "norm"),))
    for number in range(100, 101 + MAX_KEPT):
        talk.share(1, number)
    log = talk.log()
    assert log.shown(lie) is None
    assert penalised(log, talk.scribes[ME].agent, 3) == {talk.scribes[1].agent}


def test_who_joined_first_has_a_seat_and_nobody_who_is_excluded() -> None:
    talk = Talk.begun(5, max_members=3)
    log = talk.log()
    assert len(log.seats()) == 3
    (first, *_) = log.seats()
    assert first not in log.seats({first})
    assert len(log.seats({first})) == 3, "the next one takes the seat"


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


@given(st.integers(1, 200), st.integers(1, 6))
@settings(max_examples=4)
def test_those_who_draw_a_member_are_in_its_audience_but_for_few(number: int, s: int) -> None:
    agents = [bytes([n]) * 32 for n in range(120)]
    task = blob_cid(b"a task")
    me = agents[7]
    heard = audience(task, number, me, agents, s)
    assert me not in heard
    drawers = [one for one in agents if one != me and me in draw(task, number, one, agents)[:s]]
    assert len(set(drawers) - set(heard)) <= max(2, len(drawers) // 4)
    assert len(heard) < 6 * s + 10


def test_a_step_combines_the_first_of_its_order_once_they_are_there() -> None:
    talk = Talk.begun()
    order = talk.order(1)
    for by in (ME, *order[:2]):
        talk.share(by, 1)
    step = Step(talk)
    assert step.at(0.5) is None
    for by in order[3:]:
        talk.share(by, 1)
    assert step.at(1.0) is None, "they are not drawn"
    talk.share(order[2], 1)
    assert step.at(1.5) == order[:3]
    assert step.looked == order[:3]
    mixed = step.machine.mixed
    assert mixed is not None
    assert len(mixed.combined) == 4, "the own one, too"
    assert list(mixed.combined) == sorted(mixed.combined)


def test_who_is_late_is_replaced_after_the_others_had_patience_and_not_drawn_again() -> None:
    talk = Talk.begun(fanout=4)
    order = talk.order(1)
    for by in (ME, *order[:3], order[5]):
        talk.share(by, 1)
    step = Step(talk)
    assert step.at(1.0) is None
    patience = max(FLOOR_S, PATIENCE * 1.0)
    assert step.machine.wake_at == 1.0 + patience
    assert step.at(1.0 + patience - 0.01) is None
    assert step.at(1.0 + patience) == [*order[:3], order[5]]
    assert set(step.machine.away) == {talk.scribes[order[3]].agent}
    # The next step does not wait for who was away, until it shows something.
    for by in (ME, *talk.order(2)):
        if by != order[3]:
            talk.share(by, 2)
    later = Step(talk, 2)
    later.machine.away = step.machine.away
    assert later.at(0.0) == [by for by in talk.order(2) if by != order[3]][:4]
    talk.share(order[3], 2)
    again = Step(talk, 2)
    again.machine.away = step.machine.away
    assert again.at(0.0) == talk.order(2)[:4]


def test_a_share_of_the_round_before_is_taken_from_who_is_slow_and_an_older_one_is_not() -> None:
    talk = Talk.begun(fanout=3)
    order = talk.order(4)
    talk.share(ME, 4)
    talk.share(order[0], 4)
    talk.share(order[1], 3)
    talk.share(order[2], 2)
    talk.share(order[3], 1)
    step = Step(talk, 4)
    assert step.at(LIMIT_S - 0.01) is None, "one of three is less than half"
    assert step.at(LIMIT_S) == [order[0], order[1]]


@pytest.mark.parametrize("reason", [Fault.NOT_FINITE, WEIGHT, DOUBLE])
def test_a_liar_is_named_replaced_and_sits_out(reason: str) -> None:
    talk = Talk.begun()
    order = talk.order(1)
    liar = order[1]
    for by in (ME, *order):
        talk.share(by, 1, **({"examples": 0} if by == liar and reason == WEIGHT else {}))
    if reason == DOUBLE:
        talk.share(liar, 1, examples=11)
    step = Step(talk)
    if reason == Fault.NOT_FINITE:
        step.faults[liar] = Fault.NOT_FINITE
    assert step.at(0.5) == [order[0], *order[2:4]]
    assert step.reasons() == [(liar, reason)]
    mixed = step.machine.mixed
    assert mixed is not None
    talk.share(ME, 2, base=mixed.base, combined=mixed.combined, refused=mixed.refused)
    agent = talk.scribes[ME].agent
    barred = [number for number in range(1, 9) if penalised(talk.log(), agent, number)]
    assert barred == [1, 2, 3, 4], "for three rounds after the one in which it was found"


def test_what_cannot_be_had_is_no_fault_and_is_replaced() -> None:
    talk = Talk.begun()
    order = talk.order(1)
    for by in (ME, *order):
        talk.share(by, 1)
    step = Step(talk)
    step.faults[order[0]] = UNAVAILABLE
    assert step.at(0.5) == order[1:4]
    assert step.reasons() == []


@pytest.mark.parametrize("strategy", [FEDAVG, ROBUST])
def test_a_robust_rule_wants_half_of_those_drawn_and_a_mean_one(strategy: str) -> None:
    talk = Talk.begun(strategy=strategy, fanout=4)
    order = talk.order(1)
    talk.share(ME, 1)
    talk.share(order[0], 1)
    step = Step(talk)
    assert step.at(LIMIT_S - 0.01) is None
    found = step.at(LIMIT_S)
    if strategy == FEDAVG:
        assert found == [order[0]]
        return
    assert found is None
    talk.share(order[5], 1)
    assert step.at(LIMIT_S + 1.0) == [order[0], order[5]], "whoever comes meanwhile is welcome"
    alone = Step(Talk.begun(strategy=strategy))
    assert alone.at(2 * LIMIT_S) is None
    assert alone.at(4 * LIMIT_S) is None
    assert alone.machine.over, "and then it begins again"


def test_alone_there_is_nobody_to_wait_for() -> None:
    talk = Talk.begun(1)
    talk.share(ME, 1)
    step = Step(talk)
    assert step.at(0.0) == []
    assert fanout(step.log.terms) == 3


def test_a_newcomer_whom_all_others_left_makes_nothing_of_nothing() -> None:
    talk = Talk.begun(2)
    talk.share(1, 5)
    step = Step(talk, 5, own=False)
    talk.say(1, LEAVE)
    assert step.at(0.0) is None
    assert step.at(2 * LIMIT_S) is None
    assert step.at(4 * LIMIT_S) is None
    assert step.machine.over, "and begins again"


def test_a_newcomer_takes_what_is_there() -> None:
    talk = Talk.begun()
    order = talk.order(9)
    for by in order:
        talk.share(by, 9 if by in order[:4] else 8)
    step = Step(talk, 9, own=False)
    assert step.at(0.0) == order[:3]
    mixed: Cid | object = step.machine.mixed
    assert getattr(mixed, "round", None) == 9
    assert len(getattr(mixed, "combined", ())) == 3


def test_an_audit_finds_what_a_share_says_wrongly() -> None:
    """The models are named by who showed them, so that what a step makes of them can be written down."""
    talk = Talk.begun()
    rounds = {by: {number: talk.share(by, number).cid for number in range(1, 5)} for by in range(5)}
    made = blob_cid(b"what follows")
    good = tuple(sorted((rounds[0][3], rounds[1][3], rounds[2][2])))
    numbers = count(5)

    def claim(**changes: object) -> Cid:
        return talk.share(0, next(numbers), **({"base": made, "combined": good} | changes)).cid

    def ascending(*records: Cid) -> tuple[Cid, ...]:
        return tuple(sorted(records))

    liar = rounds[3][3]
    double = talk.share(4, 3, examples=11)
    low = min(double.cid, rounds[4][3])
    expected = {
        claim(): None,
        claim(base=blob_cid(b"out of nowhere")): "the model is not what the shares make",
        claim(combined=()): "the model was made of nothing that it names",
        claim(combined=(), base=talk.log().terms.parameters): None,
        claim(combined=ascending(rounds[1][3], rounds[1][2])): "are of one member",
        claim(combined=ascending(rounds[1][3], rounds[2][1])): "too far from each other",
        claim(combined=ascending(*(rounds[by][3] for by in (1, 2, 3, 4)))): "more shares than a step draws",
        claim(combined=ascending(rounds[1][3], liar)): "has the fault 'not-finite'",
        claim(combined=ascending(rounds[1][3], RECORD)): "is not to be had",
        claim(refused=((liar, "not-finite"),)): None,
        claim(refused=((rounds[1][4], "norm"),)): "the evidence does not show",
        claim(refused=((low, DOUBLE),)): None,
    }
    late = talk.share(0, 4, examples=12, base=made, combined=ascending(rounds[1][3], rounds[2][4]))
    expected[late.cid] = "is not older than itself"
    log = talk.log()

    async def verdict_of(shown: Shown, _own: Shown | None) -> str | None:
        return Fault.NOT_FINITE if shown.record == liar else None

    async def base_of(own: Shown | None, others: tuple[Shown, ...]) -> Cid:
        assert own is not None
        assert own.record == rounds[0][3]
        return made if {one.record for one in others} == set(good) - {own.record} else RECORD

    async def problems() -> dict[Cid, str | None]:
        found = {}
        for cid in expected:
            shown = log.shown(cid)
            assert shown is not None
            view = await audit_share(log, shown, verdict_of, base_of)
            assert view.agent == talk.scribes[0].agent
            found[cid] = view.problem
        return found

    for cid, problem in trio.run(problems).items():
        wanted = expected[cid]
        assert (problem is None) == (wanted is None), (problem, wanted)
        assert wanted is None or wanted in (problem or "")
