"""Rounds with secure sums: the sum is exact whoever falls silent when, and the round goes on without it."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from chain.cid import Cid, blob_cid
from chain.identity import AgentId
from chain.kinds import PART
from chain.learning_outcome import quorum
from chain.secure_part import Part, part_body
from federated.aggregation import average
from federated.faults import DOUBLE, GROUP, SUM
from federated.ledger import Step
from federated.privacy.group_sums import vector_of
from federated.privacy.keystream import keystream
from federated.privacy.opened_sum import add_mask
from federated.privacy.secure_messages import Phase, read_message, write_message
from federated.sum_chain import GroupParts, sum_groups, summed
from federated.update import encode, views
from tests.federated.models import ARRAYS, model, task_of, values
from tests.federated.privacy.members import plain_sum
from tests.federated.secure_table import SecureTable


def eight(seed: int, rounds: int = 1, **how: float) -> SecureTable:
    terms = task_of(secure=4, min_members=4, max_members=8, rounds=rounds)
    return SecureTable(terms, 8, seed, **how)


def counted(table: SecureTable, step: Step) -> set[AgentId]:
    """Whose vectors a result is made of."""
    ledger = next(member for member in table.members if member.alive).ledger
    return {one.agent for closed in summed(ledger, step.before, step.outcome) for one in closed.counted}


def check_model(table: SecureTable, step: Step) -> None:
    """The result's model is the plain mean of those who counted, bit for bit."""
    agents = counted(table, step)
    terms, number = table.members[0].ledger.terms, step.outcome.round
    updates = [
        (model(100 * place + number), 10)
        for place, member in enumerate(table.members)
        if member.agent in agents
    ]
    expected = average(terms, updates) if updates else None
    blobs = {member.blobs.get(step.outcome.parameters) for member in table.members if member.alive}
    assert expected is None or blobs - {None} == {expected}
    assert expected is not None or step.outcome.parameters == step.before.parameters


@pytest.mark.slow
def test_two_groups_come_to_the_plain_mean_of_all_though_one_member_crashes_between_shares_and_masked() -> (
    None
):
    table = eight(1, rounds=3)
    table.fall([5], Phase.MASKED, 0)
    table.run()
    for step in table.members[0].ledger.steps:
        assert step.outcome.refused == ()
        check_model(table, step)
        assert counted(table, step) == {one.agent for one in table.members} - {table.members[5].agent}
    assert table.now < 40, "it cost the rest of one phase, and the next round's wait for its keys"


@pytest.mark.slow
def test_a_group_with_too_few_left_comes_to_no_sum_and_its_members_keep_their_seats() -> None:
    table = eight(2, rounds=2)
    ledger = table.members[0].ledger
    assert ledger.tip is not None
    groups = sum_groups(ledger.terms, ledger.tip)
    gone = groups[0][:2]
    table.falls = dict.fromkeys(gone, (Phase.MASKED, 0))
    table.run()
    first, second = next(member for member in table.members if member.alive).ledger.steps
    check_model(table, first)
    assert counted(table, first) == set(groups[1])
    assert first.outcome.refused == tuple((agent, GROUP) for agent in groups[0][2:])
    assert {agent for agent, _ in first.outcome.roster} == {*groups[0][2:], *groups[1]}
    assert counted(table, second) == {*groups[0][2:], *groups[1]}, "six are one group of six"
    check_model(table, second)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(st.data())
def test_whoever_falls_silent_the_sum_is_that_of_the_survivors(data: st.DataObject) -> None:
    table = eight(data.draw(st.integers(0, 2**16)), delay=data.draw(st.sampled_from([0.02, 0.2])))
    places = data.draw(st.lists(st.integers(0, 7), max_size=3, unique=True))
    for place in places:
        share = data.draw(st.sampled_from([0.0, 0.5, 1.0]))
        table.fall([place], data.draw(st.sampled_from(list(Phase))), share)
    first = table.members[0].ledger
    assert first.tip is not None
    groups = sum_groups(first.terms, first.tip)
    table.run()
    (step,) = next(member for member in table.members if member.alive).ledger.steps
    check_model(table, step)
    found = counted(table, step)
    for group in groups:
        spoke = {phase: {agent for agent in group if _said(table, agent, phase)} for phase in Phase}
        if any(table.falls.get(agent, (None, 0.0))[1] == 0.5 for agent in group):
            continue  # who was heard of by some counts or does not: the model says that all agree
        if all(len(spoke[phase]) >= quorum(len(group)) for phase in Phase):
            assert found & set(group) == spoke[Phase.MASKED]
        else:
            assert not found & set(group)


def _said(table: SecureTable, agent: AgentId, phase: Phase) -> bool:
    fell, share = table.falls.get(agent, (None, 0.0))
    # A vector is gone with its member, before anybody has it.
    return fell is None or phase < fell or (phase == fell and share > 0 and fell is not Phase.MASKED)


def test_no_record_and_no_blob_that_others_have_shows_one_update() -> None:
    terms = task_of(secure=4, min_members=4, max_members=4, rounds=1)
    table = SecureTable(terms, 4, 3)
    table.run()
    (step,) = table.members[0].ledger.steps
    check_model(table, step)
    (closed,) = summed(table.members[0].ledger, step.before, step.outcome)
    assert closed.opened is not None
    plain, bare = {}, {}
    for place, member in enumerate(table.members):
        update = model(100 * place + 1)
        said = b"".join(record.payload or b"" for record in member.records.values())
        assert blob_cid(update) not in said
        holders = [other for other in table.members if blob_cid(update) in other.blobs]
        assert holders == [member]
        plain[member.agent] = vector_of(terms, update, 10)
    # Everything is opened now; what anybody can take away from a vector are its own mask, no pair's.
    for one, (seed, sign) in zip(closed.counted, closed.opened.masks, strict=True):
        vector = np.frombuffer(table.members[0].blobs[one.blob], "<u8").copy()
        add_mask(vector, seed, sign, keystream)
        bare[one.agent] = vector
    for count in range(1, 5):
        for agents in combinations(bare, count):
            same = plain_sum([bare[a] for a in agents]) == plain_sum([plain[a] for a in agents])
            assert same.all() if count == 4 else not same.any()


def test_a_sum_beyond_the_bounds_costs_its_group_the_round_and_nobody_a_seat() -> None:
    table = eight(4, rounds=1)
    ledger = table.members[0].ledger
    assert ledger.tip is not None
    groups = sum_groups(ledger.terms, ledger.tip)
    table.wrongs[groups[1][2]] = lambda vector: vector + np.uint64(2**61)
    table.run()
    (step,) = ledger.steps
    check_model(table, step)
    assert counted(table, step) == set(groups[0])
    assert step.outcome.refused == tuple(sorted((agent, GROUP) for agent in groups[1]))
    assert len(step.outcome.roster) == 8


@pytest.mark.slow
def test_the_median_of_five_groups_bears_a_liar_within_the_bounds_and_the_mean_does_not() -> None:
    found: dict[str, list[NDArray[Any]]] = {}
    near = [[(v * 0 + 1 + place / 100).astype(v.dtype) for v in values(0)] for place in range(15)]
    for rule in ("median", "fedavg"):
        terms = task_of(secure=3, min_members=3, max_members=15, rounds=1, strategy=rule)
        table = SecureTable(terms, 15, 5)
        for place, member in enumerate(table.members):
            member.update = lambda _, place=place: encode(ARRAYS, near[place])  # type: ignore[misc]
        liar = [np.full_like(v, -100) for v in values(0)]
        table.members[4].update = lambda _, liar=liar: encode(ARRAYS, liar)  # type: ignore[misc]
        table.run()
        (step,) = table.members[0].ledger.steps
        assert len(counted(table, step)) == 15
        found[rule] = views(ARRAYS, table.members[0].blobs[step.outcome.parameters])
    assert all((v >= 1).all() for v in found["median"][:2])
    assert all((v < -4).all() for v in found["fedavg"][:2])


@pytest.mark.slow
def test_who_says_two_things_or_opens_what_was_not_dealt_is_named_and_the_rest_goes_on() -> None:
    def twice(part: Part) -> list[Part]:
        return [part, replace(part, examples=11)] if part.phase == Phase.KEYS else [part]

    table = eight(6)
    ledger = table.members[0].ledger
    assert ledger.tip is not None
    groups = sum_groups(ledger.terms, ledger.tip)
    signers = {member.agent: member.scribe.identity for member in table.members}
    double, opener = groups[0][0], groups[1][0]
    session = GroupParts(ledger, ledger.tip, groups[1]).session

    def wrong(part: Part) -> list[Part]:
        if part.phase != Phase.OPENING:
            return [part]
        view, rows = read_message(session, part.message).body
        changed = [[agent, bytes(len(share))] for agent, share in rows]
        data = write_message(session, signers[opener], Phase.OPENING, [view, changed])
        return [replace(part, message=data)]

    table.lies = {double: twice, opener: wrong}
    table.run()
    (step,) = ledger.steps
    assert dict(step.outcome.refused) == {double: DOUBLE, opener: SUM}
    # Who opens wrongly has given its vector: it is in the sum. Whose keys are double has not come so far.
    assert counted(table, step) == {*groups[0][1:], *groups[1]}
    check_model(table, step)
    assert {agent for agent, _ in step.outcome.roster} == {*groups[0][1:], *groups[1][1:]}


@pytest.mark.slow
def test_a_member_that_restarts_midway_is_out_of_the_sum_and_in_the_next_round() -> None:
    table = eight(7, rounds=2)
    member = table.members[3]
    table.fall([3], Phase.SHARES, 1.0)
    table.at(6.0, lambda: table.restart(member))
    table.run()
    first, second = table.members[0].ledger.steps
    assert member.agent not in counted(table, first)
    assert len(counted(table, first)) == 7
    assert member.ledger.steps == table.members[0].ledger.steps
    check_model(table, first)
    check_model(table, second)
    assert table.now < 60


def test_who_runs_ahead_alone_makes_nobody_look_silent() -> None:
    """One member, whose silence ends a sum of three, would else keep its seat as the only one."""
    table = SecureTable(task_of(secure=3, min_members=3, max_members=3, rounds=1), 3)
    ledger = table.members[0].ledger
    tip = ledger.tip
    assert tip is not None
    group = GroupParts(ledger, tip, tip.agents)
    on: tuple[Cid, ...] = ()
    for phase, members in ((Phase.KEYS, 3), (Phase.SHARES, 2), (Phase.OPENING, 1)):
        cids = []
        for member in table.members[-members:]:
            part = Part(1, tip.digest, int(phase), on, b"something", 10 * (phase == 0))
            record = member.scribe.on(table.task, PART, part_body(part))
            assert ledger.add(record)
            cids.append(record.cid)
        on = on or tuple(sorted(cids))
    assert set(group.latest()) == {member.agent for member in table.members[1:]}


def test_a_roster_that_is_too_small_for_a_sum_waits_and_seats_who_comes() -> None:
    terms = task_of(secure=3, min_members=3, max_members=4, rounds=3)
    table = SecureTable(terms, 4, 8)
    for member in table.members[:2]:
        table.leave(member)
    late = table.members[2]
    for member in table.members[:2]:
        table.at(90.0, lambda member=member: table.join(member))  # type: ignore[misc]
    table.run()
    steps = late.ledger.steps
    assert [len(counted(table, step)) for step in steps] in ([4, 0, 3], [4, 0, 4])
    assert steps[1].outcome.parameters == steps[0].outcome.parameters
    assert len(steps[1].outcome.reveals) <= 2, "the joins of who comes"
