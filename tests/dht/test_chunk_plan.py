"""The plan of a fetch: everything is asked for, of somebody who has it, and late chunks of a second agent."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from dht.blobs.chunk_plan import HEDGE_S, MAX_ASKED, MAX_FAILURES, ChunkPlan

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


def test_a_chunk_is_asked_of_one_agent_and_not_again_while_it_is_not_late() -> None:
    plan = ChunkPlan([2, 0, 1])
    plan.offers(A, None)
    plan.offers(B, None)
    assert [plan.take(A, 0), plan.take(B, 0)] == [2, 0]
    plan.got(B, 0)
    assert plan.take(B, 0) == 1
    assert plan.take(B, HEDGE_S - 0.01) is None
    assert plan.useful(B)


def test_who_has_not_delivered_or_failed_last_time_is_asked_for_one_at_a_time() -> None:
    plan = ChunkPlan(range(9))
    plan.offers(A, None)
    assert plan.take(A, 0) == 0
    assert plan.take(A, 0) is None
    plan.got(A, 0)
    assert [plan.take(A, 0), plan.take(A, 0), plan.take(A, 0)] == [1, 2, 3]
    plan.failed(A, 1)
    assert plan.take(A, 0) is None
    plan.got(A, 2)
    assert plan.take(A, 0) == 4


def test_a_late_chunk_is_asked_of_a_second_agent_but_of_no_third() -> None:
    plan = ChunkPlan([0])
    for agent in (A, B, C):
        plan.offers(agent, None)
    assert plan.take(A, 0) == 0
    assert plan.take(A, HEDGE_S) is None
    assert plan.take(B, HEDGE_S) == 0
    assert MAX_ASKED == 2
    assert plan.take(C, 100) is None
    plan.got(B, 0)
    assert plan.done
    assert not plan.is_missing(0)


def test_agents_that_do_not_deliver_keep_nothing_from_one_that_does() -> None:
    plan = ChunkPlan([0, 1])
    for agent in (A, B, C, b"d" * 32):
        plan.offers(agent, None)
    assert [plan.take(A, 0), plan.take(B, 0)] == [0, 1]
    assert [plan.take(C, HEDGE_S)] == [0]
    plan.got(C, 0)
    assert plan.take(b"d" * 32, 9) is None
    assert plan.take(A, 9) is None
    assert plan.take(C, 9) == 1
    plan.got(C, 1)
    assert plan.done


def test_what_a_dropped_agent_was_asked_goes_to_the_others() -> None:
    plan = ChunkPlan([0, 1, 2])
    plan.offers(A, None)
    plan.offers(B, None)
    assert [plan.take(A, 0), plan.take(B, 0)] == [0, 1]
    plan.got(B, 1)
    assert plan.take(B, 0) == 2
    plan.drop(A)
    assert not plan.useful(A)
    assert plan.take(A, 0) is None
    assert plan.take(B, 0) == 0


def test_an_agent_is_dropped_after_failures_in_a_row_only() -> None:
    plan = ChunkPlan(range(10))
    plan.offers(A, None)
    for _ in range(3):
        for count in range(1, MAX_FAILURES):
            index = plan.take(A, 0)
            assert index is not None
            assert plan.failed(A, index) == count
        index = plan.take(A, 0)
        assert index is not None
        plan.got(A, index)
    for _ in range(MAX_FAILURES):
        index = plan.take(A, 0)
        assert index is not None
        plan.failed(A, index)
    assert plan.take(A, 0) is None
    assert not plan.useful(A)
    assert len(plan.missing) == 7


def test_an_agent_that_lacks_what_it_offered_is_not_asked_for_it_again() -> None:
    plan = ChunkPlan([0, 1])
    plan.offers(A, None)
    assert plan.take(A, 0) == 0
    plan.lacks(A, 0)
    assert plan.take(A, 0) == 1
    plan.lacks(A, 1)
    assert not plan.useful(A)
    assert plan.missing == [0, 1]


@given(
    count=st.integers(0, 12),
    halves=st.lists(st.frozensets(st.integers(0, 11)), min_size=1, max_size=4),
    seed=st.integers(0, 1 << 16),
)
def test_whatever_happens_all_that_somebody_has_arrives_unless_all_who_have_it_are_dropped(
    count: int, halves: list[frozenset[int]], seed: int
) -> None:
    rng = random.Random(seed)
    plan = ChunkPlan(range(count))
    agents = {bytes([number]) * 32: has for number, has in enumerate(halves)}
    for agent, has in agents.items():
        plan.offers(agent, has)
    asked: list[tuple[bytes, int]] = []
    dropped: set[bytes] = set()
    now = 0.0
    for _ in range(10_000):
        if not any(plan.useful(agent) for agent in agents):
            break
        now += rng.choice([0, 0.1, HEDGE_S])
        agent = rng.choice(list(agents))
        index = plan.take(agent, now)
        if index is not None:
            assert index in agents[agent]
            asked.append((agent, index))
        if asked and rng.random() < 0.5:
            agent, index = asked.pop(rng.randrange(len(asked)))
            fate = rng.random()
            if fate < 0.1:
                plan.drop(agent)
                dropped.add(agent)
            elif fate < 0.2:
                if plan.failed(agent, index) == MAX_FAILURES:
                    dropped.add(agent)
            else:
                plan.got(agent, index)  # also when another agent was faster, as the service does
    had = {index for agent, has in agents.items() if agent not in dropped for index in has}
    assert not had & set(plan.missing)
    assert plan.done == (not plan.missing)
