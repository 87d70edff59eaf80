"""A peer that keeps a look waiting, has no room or takes not all is passed over, and not for ever."""

from __future__ import annotations

import pytest

from dht.records.bundle import Item
from dht.records.placement import Role
from dht.records.replies import StoreStatus
from dht.repair import patience
from dht.repair.patience import FAIR_S, FULL_S, SLOW_MOST_S, Patience
from tests.dht.authors import Author
from tests.dht.people import MANIFEST, NOW_US

ONE, OTHER = (bytes([number]) * 32 for number in (1, 2))


def items(count: int) -> list[Item]:
    author = Author(1, MANIFEST, NOW_US)
    return [
        Item(author.create(f"text {number}", bytes([1, 2, 3, 127])), Role.SHARD) for number in range(count)
    ]


def test_what_is_fair_for_its_size_is_never_held_against_a_peer() -> None:
    it = Patience()
    for _ in range(1_000):
        it.answered(ONE, FAIR_S + 1.0, 100_000)
    assert not it.is_slow(ONE)


def test_delays_add_up_within_one_look_and_are_its_own() -> None:
    it = Patience()
    it.answered(ONE, FAIR_S + SLOW_MOST_S, 0)
    assert not it.is_slow(ONE)
    it.kept_waiting(ONE, 0.1)
    assert it.is_slow(ONE)
    assert not it.is_slow(OTHER)
    it.begin(everything=False)
    assert not it.is_slow(ONE)


def test_the_full_are_offered_nothing_for_a_while() -> None:
    it, some = Patience(), items(2)
    it.note(ONE, some, [StoreStatus.HELD, StoreStatus.FULL], 10.0)
    assert it.is_full(ONE, 10.0 + FULL_S - 0.1)
    assert not it.is_full(ONE, 10.0 + FULL_S)
    assert not it.has_refused_some(ONE), "there may be room later"
    it.begin(everything=True)
    assert not it.is_full(ONE, 10.0)


def test_what_was_refused_is_remembered_until_a_look_at_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "MAX_TURNED_AWAY", 3)
    it, some = Patience(), items(4)
    first, second = some[0].record.cid, some[1].record.cid
    it.note(ONE, some, [StoreStatus.BLOCKED, StoreStatus.HELD], 0.0)  # of the first two only
    assert it.has_refused(ONE, {first})
    assert not it.has_refused(ONE, {first, second})
    assert not it.has_refused_some(OTHER)
    assert not it.has_refused(OTHER, {first})
    it.begin(everything=False)
    assert it.has_refused(ONE, {first})
    it.note(OTHER, some, [StoreStatus.BLOCKED] * 3, 0.0)
    assert not it.has_refused_some(ONE), "beyond the bound all are forgotten"
    assert it.has_refused(OTHER, {first, second})
    it.begin(everything=True)
    assert not it.has_refused_some(OTHER)
