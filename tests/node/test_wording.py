"""What words add to the shards of a vector, and what may be expected of both."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chain.vector import PPM
from node.query.choosing import Choice, expected_recall_ppm
from node.query.wording import MASS, MOST_SHARDS, SURE_OF_BEST, named_beside
from sharding.tree import Prefix
from sharding.word_routing import least_by_words, recall_of_both

SHARDS = tuple(Prefix(number, 6) for number in range(64))
parts = st.lists(st.integers(0, 1_000), min_size=64, max_size=64)
shares = st.floats(0.01, 1.0)


def as_ppm(counts: list[int]) -> dict[Prefix, int]:
    total = max(1, sum(counts))
    return {shard: count * PPM // total for shard, count in zip(SHARDS, counts, strict=True)}


@given(shares, shares)
def test_the_least_by_words_is_what_the_recall_of_both_takes(by_vector: float, wanted: float) -> None:
    least = least_by_words(by_vector, wanted)
    if 0.0 <= least <= 1.0:
        assert abs(recall_of_both(by_vector, least) - wanted) < 1e-9
    assert recall_of_both(by_vector, 0.0) < recall_of_both(by_vector, 1.0) == by_vector


@given(parts, parts, st.sets(st.sampled_from(SHARDS)), st.sampled_from(SHARDS))
def test_more_is_expected_of_more_shards_and_all_of_all(
    near: list[int], worded: list[int], answered: set[Prefix], other: Prefix
) -> None:
    by_vector = Choice(SHARDS[:8], SHARDS[8:], as_ppm(near))
    both = Choice(SHARDS[:8], SHARDS[8:], as_ppm(near), words_ppm=as_ppm(worded))
    some = expected_recall_ppm(both, answered)
    assert some <= expected_recall_ppm(by_vector, answered)
    assert some <= expected_recall_ppm(both, answered | {other})
    assert expected_recall_ppm(both, frozenset(SHARDS)) == PPM


@given(parts, parts, shares, shares)
def test_words_add_shards_until_enough_is_expected_of_both_and_the_best_by_them(
    worded: list[int], weighed: list[int], by_vector: float, wanted: float
) -> None:
    best = {shard: count / max(1, sum(weighed)) for shard, count in zip(SHARDS, weighed, strict=True)}
    hits = {shard: float(count) for shard, count in zip(SHARDS, worded, strict=True)}
    total = sum(hits.values())
    named = named_beside(hits, best, by_vector, wanted)
    sure = {shard for shard, part in best.items() if part >= SURE_OF_BEST}
    assert sure <= named
    held = sum(hits[shard] for shard in named) / total if total else 1.0
    assert len(named) <= MOST_SHARDS + 2
    if len(named) < MOST_SHARDS:
        assert held >= MASS - 1e-9
        assert recall_of_both(by_vector, held) >= min(wanted, by_vector) - 1e-9
