"""Rosters that are divided: how they are drawn, and that all end with one model made of all groups'."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.aggregation_rule import ROBUST
from chain.cid import Cid, blob_cid
from chain.learning_task import FEDAVG, GROUPS, MAX_MEMBERS, MAX_SEATS
from federated.aggregation import average
from federated.faults import HASH
from federated.grouping import groups_of, place_of
from federated.robust import round_model
from federated.update import decode
from tests.federated.models import ARRAYS, model, task_of
from tests.federated.table import Table
from tests.federated.test_round import agree

MANY = replace(task_of(max_members=16), topology=GROUPS, max_members=MAX_SEATS, rounds=2)


@settings(max_examples=30)
@given(st.sets(st.binary(min_size=32, max_size=32), min_size=1, max_size=MAX_SEATS), st.binary(min_size=32))
def test_groups_are_few_and_nearly_equal_and_hold_everybody_once(agents: set[bytes], previous: bytes) -> None:
    roster = tuple(sorted(agents))
    groups = groups_of(MANY, previous, roster)
    assert sorted(agent for group in groups for agent in group) == list(roster)
    assert len(groups) == -(-len(roster) // MAX_MEMBERS)
    sizes = sorted(map(len, groups))
    assert sizes[-1] <= MAX_MEMBERS
    assert sizes[-1] - sizes[0] <= 1
    assert all(list(group) == sorted(group) for group in groups)
    assert groups_of(replace(MANY, topology="all-to-all"), previous, roster) == (roster,)


def test_each_round_draws_other_groups_and_names_them_anew() -> None:
    roster = tuple(bytes([number]) * 32 for number in range(2 * MAX_MEMBERS))
    drawn = [groups_of(MANY, bytes([number]) * 32, roster) for number in range(4)]
    assert len({groups[0] for groups in drawn}) == 4
    assert {len(groups) for groups in drawn} == {2}, "full ones are not divided further"
    assert groups_of(MANY, bytes(32), roster[:MAX_MEMBERS]) == (roster[:MAX_MEMBERS],)
    places = {place_of(bytes([number]) * 32, group) for number in range(4) for group in drawn[0]}
    assert len(places) == 4 * 2


@pytest.mark.parametrize("strategy", [FEDAVG, ROBUST])
def test_all_groups_end_with_the_model_of_their_models(strategy: str) -> None:
    terms = replace(MANY, strategy=strategy)
    table = Table(terms, 20)
    table.members[3].examples = 40
    liar = table.members[7]
    liar.alter = lambda reveal: [replace(reveal, examples=terms.max_examples + 1)]
    table.run()
    agree(table)
    first, second = table.members[0].ledger.steps
    ledger = table.members[0].ledger
    assert len(ledger.groups_of(first.before)) == 2
    assert ledger.groups_of(first.before) != ledger.groups_of(second.before)
    assert dict(first.outcome.refused) == {liar.agent: HASH}
    assert len(second.before.roster) == 19
    models: list[tuple[Cid, bytes, int]] = []
    everybody: list[tuple[bytes, int]] = []
    for cid in first.outcome.reveals:
        said = ledger.groups[cid].outcome
        numbers = [n for n, member in enumerate(table.members) if member.agent in said.contributors]
        updates = [
            (blob_cid(data), data, table.members[n].examples)
            for n in numbers
            for data in [model(100 * n + 1)]
        ]
        everybody += [(data, examples) for _, data, examples in updates]
        of_group = round_model(terms, model(0), updates)
        assert said.parameters == blob_cid(of_group)
        assert said.examples == sum(examples for _, _, examples in updates)
        models.append((said.parameters, of_group, said.examples))
    assert first.outcome.parameters == blob_cid(round_model(terms, model(0), models))
    if strategy == FEDAVG:  # the mean of the means is the mean, but for the grid
        joined, flat = (
            decode(ARRAYS, data, terms.max_abs)
            for data in (round_model(terms, model(0), models), average(terms, everybody))
        )
        for one, other in zip(joined, flat, strict=True):
            np.testing.assert_allclose(one, other, atol=1 if one.dtype.kind == "i" else 1e-5)


@pytest.mark.slow
@settings(max_examples=10)
@given(seed=st.integers(0, 1 << 16), loss=st.sampled_from([0.0, 0.1, 0.2]))
def test_whatever_is_lost_and_whoever_goes_the_groups_agree(seed: int, loss: float) -> None:
    table = Table(MANY, 18, seed=seed, loss=loss, delay=0.3)
    for member in table.members:
        member.trains_s = table.rng.uniform(0.1, 4.0)
    gone = table.members[1 + seed % 17]
    table.at(table.rng.uniform(0, 8), lambda: table.crash(gone))
    table.run(limit=3_000)
    agree(table)


def test_a_group_that_has_no_majority_left_is_done_without_and_its_members_come_back() -> None:
    table = Table(replace(MANY, rounds=4), 18)
    ledger = table.members[1].ledger
    assert ledger.tip is not None
    # The first member joined first and published the task; let it be in the group that lives.
    lost = next(g for g in ledger.groups_of(ledger.tip) if table.members[0].agent not in g)
    dead, alive = lost[:5], lost[5:]
    for agent in dead:
        table.at(0.5, lambda agent=agent: table.crash(table.member(agent)))  # type: ignore[misc]
    table.run(limit=3_000)
    agree(table)
    first, second, *_, last = table.members[0].ledger.steps
    assert len(first.outcome.reveals) == 1
    assert not set(lost) & {agent for agent, _ in first.outcome.roster}
    assert len(second.before.roster) == 9
    assert set(alive) <= set(last.before.agents)
    assert not set(dead) & set(last.before.agents)
