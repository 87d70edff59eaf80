"""Sightings: whatever is shouted on the local network costs bounded memory and one attempt a second."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chain.identity import Identity, peer_id
from dht.overlay.mdns import discoverable
from dht.overlay.sightings import (
    FOREIGN_S,
    MAX_ADDRESSES,
    MAX_PEERS,
    MAX_TEXT,
    RETRY_FIRST_S,
    RETRY_MOST_S,
    SPACING_S,
    Sightings,
    announced,
    announcement,
)
from dht.wire.addresses import Address, parse_address

OWN = bytes(32)
PEER = Identity.from_seed(bytes(range(32))).agent


def peer(number: int) -> bytes:
    return number.to_bytes(32, "big")


def at(number: int, port: int = 4001) -> Address:
    return Address("ip4", "192.168.1.7", port, peer(number))


def nobody(_: bytes) -> bool:
    return False


addresses = st.builds(
    Address,
    st.just("ip4"),
    st.ip_addresses(v=4).filter(lambda ip: not (ip.is_multicast or ip.is_unspecified)).map(str),
    st.integers(1, 65_535),
    st.binary(min_size=32, max_size=32),
)


@given(st.lists(addresses, max_size=MAX_ADDRESSES))
def test_what_is_announced_is_heard(places: list[Address]) -> None:
    assert announced(announcement([str(place) for place in places])) == places


@given(st.binary(max_size=2 * MAX_TEXT))
def test_any_bytes_are_read_within_bounds(text: bytes) -> None:
    assert len(announced(text)) <= MAX_ADDRESSES


def test_only_what_can_be_dialled_as_it_stands_is_heard() -> None:
    good = f"/ip4/192.168.1.7/tcp/4001/p2p/{peer_id(PEER)}"
    bad = [
        "/ip4/192.168.1.7/tcp/4001",
        f"/ip4/192.168.1.7/tcp/0/p2p/{peer_id(PEER)}",
        f"/ip4/224.0.0.251/tcp/4001/p2p/{peer_id(PEER)}",
        f"/ip4/0.0.0.0/tcp/4001/p2p/{peer_id(PEER)}",
        f"/dns4/victim.example/tcp/80/p2p/{peer_id(PEER)}",
        f"/ip4/192.168.1.7/udp/4001/quic-v1/p2p/{peer_id(PEER)}",
        "",
    ]
    entries = [b"dnsaddr=" + text.encode() for text in bad] + [b"other=1", b"dnsaddr=\xff", b"dnsaddr"]
    text = b"".join(bytes([len(entry)]) + entry for entry in entries)
    assert announced(text + announcement([good])) == [parse_address(good)]
    assert announced(announcement([good])[:-1]) == [], "a string that is cut off names no peer"


def test_an_announcement_is_bounded() -> None:
    many = [f"/ip4/192.168.1.7/tcp/{port}/p2p/{peer_id(PEER)}" for port in range(1, 30)]
    assert len(announcement(many)) < MAX_TEXT
    assert len(announced(announcement(many))) == MAX_ADDRESSES


def test_we_do_not_meet_ourselves() -> None:
    sightings = Sightings(OWN)
    sightings.heard([Address("ip4", "192.168.1.7", 4001, OWN)], 0.0)
    assert len(sightings) == 0


def test_one_attempt_a_second_whoever_shouts() -> None:
    sightings = Sightings(OWN)
    sightings.heard([at(number) for number in range(1, 9)], 0.0)
    assert sightings.take(0.0, nobody) is not None
    assert sightings.take(SPACING_S / 2, nobody) is None
    assert sightings.take(SPACING_S, nobody) is not None


def test_a_peer_that_fails_is_tried_again_later_and_later() -> None:
    sightings = Sightings(OWN)
    sightings.heard([at(1)], 0.0)
    times: list[float] = []
    now = 0.0
    while len(times) < 10:
        if sightings.take(now, nobody) is not None:
            times.append(now)
            sightings.heard([at(1)], now)  # shouting again hastens nothing
        now += SPACING_S
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert gaps[0] == RETRY_FIRST_S
    assert gaps == sorted(gaps)
    assert gaps[-1] == RETRY_MOST_S


def test_a_peer_of_another_network_is_left_alone_for_an_hour() -> None:
    sightings = Sightings(OWN)
    sightings.heard([at(1)], 0.0)
    assert sightings.take(0.0, nobody) is not None
    sightings.foreign(peer(1), 0.0)
    assert sightings.take(FOREIGN_S - 1, nobody) is None
    assert sightings.take(FOREIGN_S, nobody) is not None


def test_peers_that_are_known_are_not_tried() -> None:
    sightings = Sightings(OWN)
    sightings.heard([at(1), at(2)], 0.0)
    attempt = sightings.take(0.0, lambda one: one == peer(1))
    assert attempt is not None
    assert attempt.peer == peer(2)
    assert len(sightings) == 1


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 65_535)), max_size=600))
def test_memory_is_bounded_and_the_newest_news_counts(news: list[tuple[int, int]]) -> None:
    sightings = Sightings(OWN)
    for number, port in news:
        sightings.heard([at(number, port)] * 20, 0.0)
    assert len(sightings) <= MAX_PEERS
    if news:
        number, port = news[-1]
        newest = None
        for now in range(MAX_PEERS):
            attempt = sightings.take(float(now), nobody)
            assert attempt is not None
            assert len(attempt.addresses) <= MAX_ADDRESSES
            if attempt.peer == peer(number):
                newest = attempt
                break
        assert newest is not None
        assert newest.addresses == (str(at(number, port)),)


def test_loopback_is_announced_only_when_asked_for() -> None:
    loopback, outside, named = "/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.7/tcp/1", "/dns4/example/tcp/1"
    assert discoverable([loopback, outside, named], loopback=False) == (outside,)
    assert discoverable([loopback, outside, named], loopback=True) == (loopback, outside)
