"""The pool of memory: never overdrawn but by those that are leaving, and the largest holder pays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dht.network import PeerId
from dht.wire.memory import Budget

A, B, C = b"a", b"b", b"c"
STEPS = st.lists(st.tuples(st.sampled_from([A, B, C]), st.integers(1, 60), st.booleans()), max_size=80)


@given(STEPS)
def test_what_is_held_is_what_was_taken_and_fits(steps: list[tuple[PeerId, int, bool]]) -> None:
    leaving: set[PeerId] = set()
    held: dict[PeerId, int] = {A: 0, B: 0, C: 0}
    budget = Budget(100, leaving.add)
    for peer, count, back in steps:
        if back:
            count = min(count, held[peer])
            budget.give(peer, count)
            held[peer] -= count
        elif budget.take(peer, count):
            assert peer not in leaving
            held[peer] += count
        leaving -= {one for one in leaving if not held[one]}
        assert budget.used == sum(held.values())
        assert sum(count for peer, count in held.items() if peer not in leaving) <= 100
    for peer, count in held.items():
        budget.give(peer, count)
    assert budget.used == 0


def test_the_largest_holder_makes_room_and_is_refused_until_all_came_back() -> None:
    dropped: list[PeerId] = []
    budget = Budget(100, dropped.append)
    assert budget.take(A, 60)
    assert budget.take(B, 30)
    assert budget.take(C, 20), "at the expense of A"
    assert dropped == [A]
    assert not budget.take(A, 1)
    budget.give(A, 60)
    assert budget.take(A, 10)
    assert budget.used == 60


def test_whoever_would_hold_most_is_refused_itself() -> None:
    dropped: list[PeerId] = []
    budget = Budget(100, dropped.append)
    assert budget.take(A, 40)
    assert budget.take(B, 50)
    assert not budget.take(B, 20)
    assert not budget.take(C, 101)
    assert budget.used == 90 or dropped
    assert Budget(10).take(A, 10)
    assert not Budget(10).take(A, 11)
