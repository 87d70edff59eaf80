"""Rounds with secure sums: the sum is exact whoever falls silent when, and the round goes on without it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.identity import AgentId
from chain.learning import quorum
from federated.aggregation import average
from federated.faults import GROUP
from federated.ledger import Step
from federated.privacy.secure_messages import Phase
from federated.sum_chain import sum_groups, summed
from tests.federated.models import model, task_of
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
    blobs = [member.blobs.get(step.outcome.parameters) for member in table.members if member.alive]
    assert expected is None or blobs.count(expected) == len(blobs)
    assert expected is not None or step.outcome.parameters == step.before.parameters


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
