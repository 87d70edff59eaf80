"""Both ends of two connections keep the same one, and never close both."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from dht.wire.one_connection import SIMULTANEOUS, surplus

A, B = bytes([1]) * 32, bytes([2]) * 32


@dataclass(frozen=True)
class End:
    name: str
    outbound: bool
    since: float


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 1), st.floats(0, 1))
def test_both_sides_choose_alike_and_keep_one(ours: float, theirs: float, late: float, lag: float) -> None:
    """One connection dialled by each; at the other end each came about a little later."""
    at_a = [End("a", True, ours), End("b", False, theirs + late)]
    at_b = [End("a", False, ours + lag), End("b", True, theirs)]
    closed_by_a = [end.name for end in surplus(A, B, at_a)]
    closed_by_b = [end.name for end in surplus(B, A, at_b)]
    assert len(closed_by_a) == len(closed_by_b) == 1
    apart = abs(ours - theirs)
    if apart <= SIMULTANEOUS - 1:
        assert closed_by_a == closed_by_b == ["b"], "the dial of the smaller key stands"
    elif apart > SIMULTANEOUS + 1:
        assert closed_by_a == closed_by_b == ["a" if ours < theirs else "b"], "the older one is dead"


def test_several_in_one_direction_are_left_alone() -> None:
    assert surplus(A, B, [End("x", True, 1.0), End("y", True, 2.0)]) == []
    assert surplus(A, B, [End("x", False, 1.0), End("y", False, 2.0)]) == []
