"""The contact set: sketches where there are blocks, centroids where there are none, nothing lost between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.vector import PPM
from sharding.contact import ALWAYS, LEAST, contacts, weigh
from sharding.errors import RoutingError
from sharding.routing import Scored, contact_set
from sharding.tree import Prefix, ShardTree

LEAVES = ShardTree.fixed(6).leaves


@st.composite
def routes(draw: st.DrawFn) -> list[Scored]:
    """What `route` gives: all leaves, most mass first, together at most 1,000,000 ppm."""
    weights = sorted(draw(st.lists(st.integers(0, 1_000), min_size=64, max_size=64)), reverse=True)
    weights[0] += 1
    order = draw(st.permutations(LEAVES))
    return [Scored(leaf, weight * PPM // sum(weights)) for leaf, weight in zip(order, weights, strict=True)]


@given(routes(), st.dictionaries(st.sampled_from(LEAVES), st.floats(0, 10)), st.floats(0, 1))
def test_all_parts_are_one_and_the_first_of_them_are_asked(
    scored: list[Scored], known: dict[Prefix, float], recall: float
) -> None:
    parts = weigh(scored, known)
    total = sum(parts.values())
    assert parts.keys() == set(LEAVES)
    if sum(known.values()) > LEAST or not known:
        assert total == pytest.approx(1.0, abs=1e-6)
    chosen = contacts(parts, scored, recall)
    always = {one.prefix for one in scored[:ALWAYS]}
    assert always <= chosen
    assert sum(part for shard, part in parts.items() if shard in chosen) >= recall * total - 1e-9
    least = min((parts[shard] for shard in chosen - always), default=1.0)
    assert all(parts[shard] <= least for shard in set(LEAVES) - chosen), "the best are asked first"
    without_last = sum(part for shard, part in parts.items() if shard in chosen) - least
    assert recall == 1 or chosen == always or without_last < recall * total + 1e-9, (
        "and no more than it takes"
    )


@given(routes(), st.integers(0, 999_999))
def test_without_blocks_it_is_what_centroids_choose(scored: list[Scored], mass: int) -> None:
    chosen = contacts(weigh(scored, {}), scored, mass / PPM)
    given_ppm = sum(one.mass_ppm for one in scored)
    by_mass = contact_set(scored, mass * given_ppm // PPM)
    assert len(chosen) <= max(ALWAYS, len(by_mass) + 1)
    assert chosen | {by_mass[-1]} >= set(by_mass)


def test_blocks_decide_between_what_they_know() -> None:
    scored = [Scored(leaf, PPM // 64) for leaf in LEAVES]
    known = dict.fromkeys(LEAVES, 0.0) | {LEAVES[40]: 9.0, LEAVES[50]: 1.0}
    parts = weigh(scored, known)
    assert list(parts)[:2] == [LEAVES[40], LEAVES[50]]
    assert contacts(parts, scored, 0.9) == {*LEAVES[:ALWAYS], LEAVES[40]}
    assert contacts(parts, scored, 1.0) == set(LEAVES)
    # What lies here counts without being asked; of the others only what is still lacking is.
    assert contacts(parts, scored, 0.95, {LEAVES[40]}) == {*LEAVES[:ALWAYS], LEAVES[40], LEAVES[50]}
    assert contacts(parts, scored, 0.9, {LEAVES[40]}) == set(LEAVES[:ALWAYS])
    # Half of the shards without blocks: what they are worth by centroids stays.
    half = {leaf: hits for leaf, hits in known.items() if leaf.bits >= 32}
    parts = weigh(scored, half)
    assert sum(part for leaf, part in parts.items() if leaf.bits < 32) == pytest.approx(0.5)
    assert parts[LEAVES[40]] == pytest.approx(0.45)
    with pytest.raises(RoutingError):
        contacts({}, [], 1.1)
