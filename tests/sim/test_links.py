"""Links: delays lie where they should, losses are as frequent as they should be, all by the seed."""

from __future__ import annotations

import random
from statistics import fmean

from hypothesis import given
from hypothesis import strategies as st

from sim.links import LatencyLink

PEERS = st.binary(min_size=32, max_size=32)


@given(st.integers(), PEERS, PEERS, st.integers(0, 50_000), st.integers(0, 50_000), st.integers(0, 9_000))
def test_delays_lie_within_base_and_jitter(
    seed: int, one: bytes, other: bytes, low: int, span: int, jitter: int
) -> None:
    link = LatencyLink(seed, (low, low + span), jitter)
    base = link.base(one, other)
    assert low <= base <= low + span
    assert base == link.base(other, one)
    rng = random.Random(seed)
    for _ in range(5):
        delay = link(one, other, 0, rng)
        assert delay is not None
        assert base <= delay <= base + jitter


def test_bases_spread_evenly_over_the_pairs() -> None:
    link = LatencyLink(1, (10_000, 50_000))
    peers = [bytes([number]) * 32 for number in range(60)]
    bases = [link.base(one, other) for one in peers for other in peers if one < other]
    assert abs(fmean(bases) - 30_000) < 1_000
    for quarter in range(4):
        within = [base for base in bases if 10_000 * quarter <= base - 10_000 < 10_000 * (quarter + 1)]
        assert 0.2 < len(within) / len(bases) < 0.3


def test_jitter_is_uniform_and_losses_are_as_frequent_as_asked() -> None:
    link = LatencyLink(1, (1_000, 1_000), 8_000, loss=0.2)
    rng = random.Random(2)
    delays = [link(b"a" * 32, b"b" * 32, 0, rng) for _ in range(20_000)]
    arrived = [delay for delay in delays if delay is not None]
    assert abs(len(arrived) / len(delays) - 0.8) < 0.01
    assert abs(fmean(arrived) - 5_000) < 100
    assert (min(arrived), max(arrived)) == (1_000, 9_000)


def test_a_link_without_loss_loses_nothing_and_one_with_full_loss_everything() -> None:
    rng = random.Random(3)
    assert None not in [LatencyLink(1)(b"a" * 32, b"b" * 32, 0, rng) for _ in range(1_000)]
    assert {LatencyLink(1, loss=1.0)(b"a" * 32, b"b" * 32, 0, rng) for _ in range(1_000)} == {None}
