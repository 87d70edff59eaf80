"""Selectors: who is meant follows from the roster, the seed and the place, and from nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.selection import Roster, SelectionError, check_groups


@given(st.integers(1, 60), st.integers(0, 9), st.integers(0, 99), st.integers(1, 9), st.integers(1, 9))
def test_a_share_has_its_size_and_repeats_by_the_seed(
    nodes: int, observers: int, seed: int, part: int, more: int
) -> None:
    selector = f"{part}/{part + more - 1}"
    roster = Roster(nodes, observers, seed)
    chosen = roster.select(selector, "here")
    assert chosen == Roster(nodes, observers, seed).select(selector, "here")
    assert set(chosen) <= set(roster.storing)
    assert len(chosen) == max(1, round(nodes * part / (part + more - 1)))
    assert [name for name in roster.everybody if name in chosen] == list(chosen)


def test_a_group_is_the_same_nodes_wherever_it_is_named_and_a_share_is_drawn_anew() -> None:
    roster = Roster(40, 2, 7, {"left": "1/2", "few": ("node-3", "observer-1")})
    assert roster.select("left", "faults[0]") == roster.select("left", "workload/x")
    assert roster.select("1/2", "faults[0]") != roster.select("1/2", "workload/x")
    assert roster.select("left", "x") != Roster(40, 2, 8, {"left": "1/2"}).select("left", "x")
    assert roster.select("few", "x") == ("node-3", "observer-1")
    assert roster.select(("few", "node-1", "node-3"), "x") == ("node-1", "node-3", "observer-1")
    assert roster.select("all", "x") == roster.storing + roster.observing


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ("node-6", "'node-6' is no selector here"),
        ("2/1", "more than all"),
        ("observers", "'observers' is nobody here"),
        ((), "nobody"),
        ("Left", "there are all, storing, observers, left"),
    ],
)
def test_what_means_nothing_is_refused(selector: str | tuple[str, ...], said: str) -> None:
    with pytest.raises(SelectionError, match=said):
        Roster(5, 0, 1, {"left": "1/2"}).select(selector, "x")


@pytest.mark.parametrize("groups", [{"all": "1/2"}, {"node-1": "node-2"}, {"a": "b", "b": "1/2"}])
def test_groups_have_names_of_their_own_and_no_groups_in_them(groups: dict[str, str]) -> None:
    with pytest.raises(SelectionError):
        check_groups(groups)
