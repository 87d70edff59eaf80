"""Health is a hint: what was measured decides, what was said moves it by a fifth, nobody gets everything."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain import canonical
from dht.errors import FrameError
from dht.overlay.health import (
    HINT_MOST,
    LIMITS,
    MAX_HOT,
    SPREAD,
    STALE_S,
    Health,
    HealthBook,
    clipped,
    decode_health,
    encode_health,
)
from sharding.tree import Prefix

healths = st.builds(Health, **{name: st.integers(0, most) for name, most in LIMITS.items()})
A, B = b"a" * 32, b"b" * 32


@given(healths, st.lists(st.integers(0, 9), max_size=3))
def test_a_heartbeat_reads_as_it_was_written_and_later_fields_are_passed_over(
    health: Health, more: list[int]
) -> None:
    body = encode_health(health)
    assert decode_health(body) == health
    assert decode_health(canonical.encode([*canonical.decode(body, 128), *more])) == health


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        [0] * 5,
        [1001, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, -1],
        [0, 0, True, 0, 0, 0],
        [b"", 0, 0, 0, 0, 0],
    ],
)
def test_what_is_out_of_bounds_is_refused(value: object) -> None:
    with pytest.raises(FrameError):
        decode_health(canonical.encode(value))
    with pytest.raises(FrameError):
        decode_health(b"\xdc\xff\xff" + b"\0" * 200)


@given(st.dictionaries(st.sampled_from(sorted(LIMITS)), st.floats(-1e18, 1e18)))
def test_what_a_node_measures_is_clipped_to_what_can_be_said(values: dict[str, float]) -> None:
    health = clipped((), **values)
    assert decode_health(encode_health(health)) == health


@given(healths, healths, st.floats(0.001, 5), st.floats(0, 1), st.floats(0, 2 * STALE_S))
def test_whatever_is_said_moves_a_cost_by_a_fifth_at_most(
    said: Health, before: Health, usual: float, draw: float, age: float
) -> None:
    book = HealthBook()
    unknown = book.cost(A, usual, draw, age)
    book.hear(A, before, -1.0)
    book.hear(A, said, 0.0)
    known = book.cost(A, usual, draw, age)
    assert 1 / HINT_MOST <= known / unknown <= HINT_MOST
    assert age <= STALE_S or known == pytest.approx(unknown)


@given(st.floats(0.001, 1), healths, st.floats(0, 1), st.floats(0, 1))
def test_who_says_it_is_idle_and_takes_much_longer_is_never_preferred(
    seconds: float, busy: Health, draw: float, other_draw: float
) -> None:
    book = HealthBook()
    book.hear(A, Health(), 0.0)
    book.hear(B, busy, 0.0)
    for _ in range(3):
        book.answered(B, seconds, 0.0)
        book.answered(A, seconds * SPREAD * HINT_MOST + 0.03, 0.0)
    assert book.cost(A, None, draw, 1.0) > book.cost(B, None, other_draw, 1.0)


def test_who_fails_is_asked_last_until_it_answers_again_or_that_is_long_ago() -> None:
    book = HealthBook()
    for _ in range(4):
        book.answered(A, 0.01, 0.0)
        book.answered(B, 0.01, 0.0)
        book.failed(A, 2.0, 0.0)
    assert book.cost(A, None, 0.0, 0.0) > book.cost(B, None, 1.0, 0.0)
    assert book.measured(A, STALE_S + 1) == (None, 0.0)
    for _ in range(60):
        book.answered(A, 0.01, 0.0)
    assert book.cost(A, None, 0.0, 0.0) < book.cost(B, None, 1.0, 0.0)


def test_alike_nodes_share_the_questions() -> None:
    book, rng = HealthBook(), random.Random(1)
    nodes = [bytes([number]) * 32 for number in range(3)]
    for node in nodes[1:]:
        book.hear(node, Health(cpu=1000), 0.0)
    book.hear(nodes[0], Health(), 0.0)  # the liar
    first = [min(nodes, key=lambda node: book.cost(node, 0.02, rng.random(), 1.0)) for _ in range(3_000)]
    shares = [first.count(node) / len(first) for node in nodes]
    assert 0.5 < shares[0] < 0.66
    assert min(shares[1:]) > 0.17


def test_a_bounded_number_of_peers_is_remembered() -> None:
    book = HealthBook(max_peers=8)
    for number in range(100):
        book.hear(bytes([number]) * 32, Health(), 0.0)
        book.failed(bytes([100 + number]) * 32, 1.0, 0.0)
    assert len(book) == 8


@given(st.sets(st.integers(0, 63), max_size=MAX_HOT))
def test_hot_shards_come_through_as_they_are(numbers: set[int]) -> None:
    shards = [Prefix(number, 6, number % 2) for number in numbers]
    assert decode_health(encode_health(clipped(shards, cpu=1))) == Health(cpu=1, hot=tuple(sorted(shards)))


@pytest.mark.parametrize(
    "hot",
    [
        7,
        [[6, 1, 0]] * 2,
        [[6, 2, 0], [6, 1, 0]],
        [[6, 64, 0]],
        [[6, 1]],
        [[6, True, 0]],
        [[49, 0, 0]],
        [[8, number, 0] for number in range(MAX_HOT + 1)],
    ],
)
def test_hot_shards_that_are_none_are_refused(hot: object) -> None:
    with pytest.raises(FrameError):
        decode_health(canonical.encode([0, 0, 0, 0, 0, 0, hot]))  # type: ignore[list-item]


def test_people_are_shown_numbers() -> None:
    shown = Health(cpu=120, latency_ms=7, hot=(Prefix(1, 6), Prefix(2, 6))).numbers
    assert (shown["cpu"], shown["latency_ms"]) == (120, 7)
    assert shown["hot"] == 2
    assert {type(value) for value in shown.values()} == {int}
