"""A seed decides a run down to the last byte on the wire, in whatever process it happens."""

from __future__ import annotations

from collections.abc import Callable

Simulate = Callable[[str, list[tuple[int, int]]], list[list[str]]]


def test_pings_crashes_and_losses_leave_equal_traces_for_equal_seeds_only(simulate: Simulate) -> None:
    one, same, other = simulate("ping_workload.py", [(7, 1), (7, 2), (8, 1)])
    assert one == same
    trace, requests, replies, lost = one[-1].split()
    assert trace != other[-1].split()[0]
    assert int(requests) > 500
    assert int(replies) > 400
    assert int(lost) > 5
