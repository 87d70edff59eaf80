"""The event kernel: lookups find the nearest nodes there are, grown or filled, healthy or with many dead."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from dht.overlay.distance import as_int, distance
from dht.overlay.routing_table import K
from sim.kernel import HOLDERS, Kernel, KernelError, summary


@pytest.mark.parametrize("joined", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_lookups_are_exact_and_take_few_hops(joined: bool) -> None:
    kernel = Kernel(100, 1)
    if joined:
        kernel.join_all()
    else:
        kernel.fill()
    figures = summary(kernel.lookups(40))
    assert figures["nearest_found"] == figures["holders_exact"] == 1
    assert figures["unanswered_mean"] == 0
    assert 1 <= figures["hops_mean"] <= math.log2(100)
    assert figures["messages_mean"] >= 2 * HOLDERS


def test_a_filled_table_has_full_buckets_wherever_there_are_enough_nodes() -> None:
    kernel = Kernel(120, 2)
    kernel.fill()
    for node in kernel.nodes[::10]:
        own = as_int(node.contact.position)
        others = [as_int(other.contact.position) for other in kernel.nodes if other is not node]
        depths = [256 - (own ^ other).bit_length() for other in others]
        expected = sum(min(K, depths.count(depth)) for depth in set(depths))
        assert len(node.table) == expected


def test_with_a_third_dead_lookups_still_end_at_the_nearest_who_live() -> None:
    kernel = Kernel(200, 3)
    kernel.fill()
    assert kernel.kill(1 / 3) == 66
    outcomes = kernel.lookups(40)
    figures = summary(outcomes)
    assert figures["nearest_found"] >= 0.97
    assert figures["unanswered_mean"] > 1
    assert all(one.seconds > 0 for one in outcomes)


def test_what_a_silent_third_costs_a_fresh_asker_is_about_one_timeout_a_lookup() -> None:
    """They are some 15 in a lookup, and cost 8.8 s when each of them held up a place until its timeout."""
    healthy, kernel = Kernel(400, 3), Kernel(400, 3)
    for one in (healthy, kernel):
        one.fill()
    kernel.kill(1 / 3)
    base, figures = summary(healthy.lookups(25)), summary(kernel.lookups(25))
    assert figures["unanswered_mean"] > 12
    assert figures["holders_exact"] == 1
    assert figures["seconds_p50"] < base["seconds_p50"] + 1.0
    assert figures["seconds_p95"] < base["seconds_p95"] + 2.0


def test_a_kernel_repeats_by_its_seed() -> None:
    def outcomes(seed: int) -> list[object]:
        kernel = Kernel(80, seed)
        kernel.fill()
        kernel.kill(0.2)
        return [*kernel.lookups(10), kernel.events, kernel.now_us]

    assert outcomes(4) == outcomes(4)
    assert outcomes(4) != outcomes(5)


def test_a_suspect_is_asked_no_more_by_whom_it_failed() -> None:
    kernel = Kernel(40, 6)
    kernel.fill()
    kernel.kill(0.5)
    first = summary(kernel.lookups(200))
    later = summary(kernel.lookups(40))
    assert later["unanswered_mean"] < first["unanswered_mean"] / 2
    assert later["seconds_p50"] < first["seconds_p95"]


def test_the_truth_is_the_truth() -> None:
    from sim.kernel import _Truth

    kernel = Kernel(60, 7)
    truth = _Truth(kernel.nodes)
    for number in range(30):
        target, asker = number.to_bytes(1, "big") * 32, kernel.nodes[number]
        right = truth.nearest(target, asker)
        others = [node.contact for node in kernel.nodes if node is not asker]
        exhaustive = sorted(others, key=lambda one: distance(one.position, target))[:HOLDERS]
        assert right == [one.agent for one in exhaustive]
        gaps = [distance(one.position, target) for one in exhaustive]
        assert all(one < more for one, more in pairwise(gaps))


def test_a_kernel_of_one_is_refused() -> None:
    with pytest.raises(KernelError, match="2 to 1,000,000 nodes, not 1"):
        Kernel(1, 1)


def test_who_comes_in_later_finds_its_neighbours_and_is_found() -> None:
    kernel = Kernel(100, 4)
    kernel.fill()
    made = kernel.newcomer()
    newcomer = kernel.nodes[-1]
    own = newcomer.contact.position
    nearest = sorted((distance(own, one.contact.position), one.contact) for one in kernel.nodes[:-1])
    assert list(made[0].contacts) == [contact for _, contact in nearest[:K]]
    assert made[0].complete
    assert sum(one.finds for one in made) >= K
    assert sum(one.named for one in made) > sum(one.finds for one in made)
    assert kernel.find(kernel.nodes[0], own).contacts[0] == newcomer.contact
