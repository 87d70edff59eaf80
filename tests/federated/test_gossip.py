"""Gossip: a step waits, replaces and refuses as it says, and an audit finds what a share says wrongly."""

from __future__ import annotations

from itertools import count

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.aggregation_rule import ROBUST
from chain.cid import Cid, blob_cid, record_cid
from chain.identity import AgentId
from chain.kinds import LEAVE
from chain.learning_task import FEDAVG
from chain.share import MAX_REFUSED
from federated.errors import UnknownTask
from federated.faults import DOUBLE, UNAVAILABLE, WEIGHT
from federated.gossip import Combine, Look, Mixing, audience, draw, fanout
from federated.gossip_audit import audit_share, own_model, own_steps, step_view
from federated.lies import MAX_LIARS, Lies
from federated.share_log import MAX_KEPT, Shown
from federated.update import Fault
from federated.waiting import FLOOR_S, PATIENCE
from tests.federated.table import Scribe
from tests.federated.talk import ME, Talk
from tests.node.storage_fixtures import inline

LIMIT_S = 10.0
RECORD = record_cid(b"nobody's")


class Step:
    """The step of `ME` after a round, driven by hand: what is looked at is right unless `faults` says so."""

    def __init__(self, talk: Talk, number: int = 1, own: bool = True) -> None:
        self.talk, self.log = talk, talk.log()
        me = talk.scribes[ME].agent
        mine = self.log.share_of(me, number) if own else None
        self.machine = Mixing(self.log, me, number, mine, 0.0)
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


def test_each_round_member_and_task_draws_an_order_of_its_own() -> None:
    agents = [bytes([n]) * 32 for n in range(9)]
    one, other = agents[:2]

    def drawn(task: bytes, number: int, me: bytes) -> tuple[bytes, ...]:
        order = draw(blob_cid(task), number, me, agents)
        assert sorted([*order, me]) == agents
        return tuple(agent for agent in order if agent not in (one, other))

    orders = {drawn(b"a task", number, me) for number in range(1, 5) for me in (one, other)}
    assert len(orders | {drawn(b"another", 1, one)}) == 9


def test_of_many_faults_so_many_are_named_as_fit() -> None:
    talk = Talk.begun(MAX_REFUSED + 4)
    for by in range(MAX_REFUSED + 4):
        talk.share(by, 1, **({"examples": 0} if by != ME else {}))
    step = Step(talk)
    assert step.at(0.5) is None
    shares = [step.log.share_of(talk.scribes[by].agent, 1) for by in range(1, MAX_REFUSED + 4)]
    lowest = sorted(one.record for one in shares if one is not None)[:MAX_REFUSED]
    assert [cid for cid, _ in step.machine.refused] == lowest


def test_whom_the_network_does_not_hear_is_not_drawn() -> None:
    talk = Talk.begun()
    order = talk.order(1)
    for by in (ME, *order):
        talk.share(by, 1)
    step = Step(talk)
    step.log.exclude(frozenset({talk.scribes[order[0]].agent}))
    assert step.at(0.5) == order[1:4]


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
    own = talk.told(talk.share(ME, 2, base=mixed.base, combined=mixed.combined, refused=mixed.refused))
    lies = Lies()
    for named in talk.book().lies_named(own.share):
        lies.told(*named)
    barred = [number for number in range(1, 9) if lies.barred(number)]
    assert barred == [1, 2, 3, 4], "for three rounds after the one in which it was found"
    assert lies.barred(4) == {talk.scribes[liar].agent}


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
    book = talk.book()

    async def verdict_of(shown: Shown, _own: Shown | None, _by: AgentId) -> str | None:
        return Fault.NOT_FINITE if shown.record == liar else None

    async def base_of(own: Shown | None, others: tuple[Shown, ...]) -> Cid:
        assert own is not None
        assert own.record == rounds[0][3]
        return made if {one.record for one in others} == set(good) - {own.record} else RECORD

    async def problems() -> dict[Cid, str | None]:
        found = {}
        for record in talk.records:
            if record.cid in expected:
                step = book.evidence(talk.told(record))
                view = await audit_share(inline, book, step, verdict_of, base_of)
                assert view.agent == talk.scribes[0].agent
                found[record.cid] = view.problem
        return found

    found = trio.run(problems)
    assert found.keys() == expected.keys()
    for cid, problem in found.items():
        wanted = expected[cid]
        assert (problem is None) == (wanted is None), (problem, wanted)
        assert wanted is None or wanted in (problem or "")


def test_steps_long_past_are_read_from_the_records() -> None:
    """Many rounds more than are kept in memory; of a round that said two things the first on the chain."""
    talk = Talk.begun(3)
    far = 5 * MAX_KEPT
    made = {number: blob_cid(b"made in %d" % number) for number in range(1, far)}
    before = [talk.share(by, 1).cid for by in range(3)]
    for number in range(2, far):
        step = {"base": made[number - 1], "combined": tuple(sorted(before))}
        before = [talk.share(by, number, **step).cid for by in range(3)]
        if number == 7:
            talk.share(1, 7, base=made[1], combined=(before[0],))
    book, agent = talk.book(), talk.scribes[1].agent
    assert talk.log().rounds_of(agent)[0] == far - MAX_KEPT
    for number in (1, 6, far - 2):
        step_ = book.step_in(agent, number)
        assert step_ is not None
        assert step_.told.shown.base == made[number]
        assert step_view(step_).known
        assert own_model(book, agent, number)[:2] == (number, made[number])
    assert book.step_in(agent, far - 1) is None
    views = own_steps(book, agent)
    assert [view.round for view in views] == list(range(1, far - 1))
    assert own_model(book, agent, None) == (far - 2, made[far - 2], views[-1].record)
    with pytest.raises(UnknownTask, match="no result"):
        own_model(book, agent, far)
    with pytest.raises(UnknownTask, match="this node has none"):
        own_model(book, Scribe(9).agent, None)


def test_a_liar_sits_out_longer_each_time_and_then_for_good() -> None:
    lies, liar = Lies(), Scribe(1).agent
    for number in (30, 2, 30):
        lies.told(liar, number, Fault.NORM)
    assert [number for number in range(1, 60) if lies.barred(number)] == [*range(1, 36)]
    lies.told(liar, 50, UNAVAILABLE)
    assert not lies.barred(50), "what could not be had is no lie"
    lies.told(liar, 51, Fault.BOUND)
    assert lies.barred(10_000) == {liar}


def test_of_more_liars_than_are_kept_those_are_forgotten_that_lied_longest_ago() -> None:
    lies = Lies()
    for number in range(1, MAX_LIARS + 3):
        lies.told(number.to_bytes(32, "big"), number, Fault.NORM)
    assert len(lies.barred(1)) == MAX_LIARS
    assert min(lies.barred(1)) == (3).to_bytes(32, "big")


def test_who_is_far_ahead_is_not_waited_for() -> None:
    """What it showed in this round is kept no more: it is neither drawn nor away."""
    talk = Talk.begun()
    order = talk.order(1)
    for by in (ME, *order[1:]):
        talk.share(by, 1)
    for number in range(1, 3 * MAX_KEPT):
        talk.share(order[0], number)
    step = Step(talk)
    assert step.at(0.0) == order[1:4]
    assert not step.machine.away
