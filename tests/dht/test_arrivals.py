"""Arrivals: the crowd displaces itself, and no source comes quicker than its pace."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dht.wire.arrivals import Arrivals, source_of
from dht.wire.limits import DEFAULT_LIMITS
from dht.wire.pace import Rate

LIMITS = replace(DEFAULT_LIMITS, handshakes=4, arrivals=Rate(1.0, 100.0))


def test_the_source_that_waits_in_most_places_gives_up_its_oldest() -> None:
    gone: list[str] = []
    arrivals = Arrivals(LIMITS)
    lone = arrivals.enter("192.0.2.1", lambda: gone.append("lone"), 0.0)
    for number in range(6):
        arrivals.enter("198.51.100.7", lambda number=number: gone.append(f"crowd {number}"), 0.0)  # type: ignore[misc]
    assert gone == ["crowd 0", "crowd 1", "crowd 2"]
    assert len(arrivals) == 4
    assert lone is not None
    arrivals.leave(lone)
    arrivals.leave(lone)
    assert len(arrivals) == 3


def test_a_source_has_its_pace_and_others_theirs() -> None:
    arrivals = Arrivals(replace(LIMITS, arrivals=Rate(1.0, 2.0)))
    came = [arrivals.enter("192.0.2.1", lambda: None, 0.0) is not None for _ in range(4)]
    assert came == [True, True, False, False]
    assert arrivals.enter("192.0.2.2", lambda: None, 0.0) is not None
    assert arrivals.enter("192.0.2.1", lambda: None, 1.0) is not None


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("somewhere", "somewhere"),
    ],
)
def test_a_source_is_an_address_or_what_one_owner_gets_of_ipv6(host: str, source: str) -> None:
    assert source_of(host) == source
