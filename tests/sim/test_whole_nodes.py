"""Whole nodes in virtual time take the same steps in every process: ten nodes, 500 entries, 50 queries."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Simulate = Callable[[str, list[tuple[int, int]]], list[list[str]]]


@pytest.mark.slow
def test_ten_whole_nodes_leave_equal_traces_and_answers_for_equal_seeds_only(simulate: Simulate) -> None:
    one, same, other = simulate("whole_nodes_workload.py", [(7, 1), (7, 2), (8, 1)])
    assert one == same  # also the counts of every method and the end of virtual time
    trace, answers, hits, _ = one[-1].split()
    other_trace, other_answers, other_hits, _ = other[-1].split()
    assert trace != other_trace
    assert answers != other_answers
    assert hits == other_hits == str(50 * 5)
