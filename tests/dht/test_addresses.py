"""The address book takes only what can be dialled, stays bounded, and leaves dead peers alone for a while."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.identity import peer_id
from dht.errors import AddressError
from dht.wire.addresses import MAX_ADDRESS_CHARS, AddressBook, parse_address
from dht.wire.limits import DEFAULT_LIMITS

PEER, OTHER = b"\x01" * 32, b"\x02" * 32
KEYS = st.binary(min_size=32, max_size=32)


def at(port: int) -> str:
    return f"/ip4/127.0.0.1/tcp/{port}"


@given(st.ip_addresses(), st.integers(0, 65_535), st.none() | KEYS)
def test_addresses_round_trip(host: object, port: int, peer: bytes | None) -> None:
    kind = "ip6" if ":" in str(host) else "ip4"
    tail = "" if peer is None else f"/p2p/{peer_id(peer)}"
    address = parse_address(f"/{kind}/{host}/tcp/{port}{tail}")
    assert (address.port, address.peer) == (port, peer)
    assert parse_address(str(address)) == address


@given(st.text(max_size=60) | st.text("/ip46dnstcp2:.0129ab", max_size=60))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except AddressError:
        return
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:4001",
        "/ip4/127.0.0.1/udp/4001/quic-v1",
        "/ip4/127.0.0.1/tcp/4001/ws",
        "/ip4/127.0.0.1/tcp/4001/",
        "/ip4/127.0.0.1/tcp/65536",
        "/ip4/127.0.0.1/tcp/-1",
        "/ip4/127.0.0.1/tcp/\u0661",
        "/ip4/127.0.0.256/tcp/1",
        "/ip4/::1/tcp/1",
        "/ip6/fe80::1%eth0/tcp/1/p2p",
        "/dns/a b/tcp/1",
        "/dns4//tcp/1",
        "/dns/a..b/tcp/1",
        "/dns/" + "a" * 64 + ".org/tcp/1",
        "/ip4/127.0.0.1/tcp/1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "/ip4/127.0.0.1/tcp/1/p2p-circuit/x",
        "/dns/" + "a" * MAX_ADDRESS_CHARS + "/tcp/1",
    ],
)
def test_what_cannot_be_dialled_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        parse_address(text)


def test_a_refused_address_changes_nothing() -> None:
    book = AddressBook(DEFAULT_LIMITS)
    book.learn(PEER, [at(1)])
    for bad in (at(0), f"{at(2)}/p2p/{peer_id(OTHER)}", "nonsense"):
        with pytest.raises(AddressError):
            book.learn(PEER, [at(3), bad])
    assert [address.port for address in book.addresses(PEER)] == [1]


@given(st.lists(st.tuples(KEYS, st.lists(st.integers(1, 99), max_size=12)), max_size=30))
def test_the_book_never_exceeds_its_bounds(learned: list[tuple[bytes, list[int]]]) -> None:
    limits = replace(DEFAULT_LIMITS, known_peers=5, addresses_per_peer=3)
    book = AddressBook(limits)
    for peer, ports in learned:
        book.learn(peer, [at(port) for port in ports])
        book.reached(peer, parse_address(at(100)))
        assert len(book) <= 5
        assert 1 <= len(book.addresses(peer)) <= 3


def test_the_peer_learned_longest_ago_is_forgotten_first() -> None:
    book = AddressBook(replace(DEFAULT_LIMITS, known_peers=2))
    book.learn(b"a" * 32, [at(1)])
    book.learn(b"b" * 32, [at(2)])
    book.learn(b"a" * 32, [at(1)])
    book.learn(b"c" * 32, [at(3)])
    assert book.addresses(b"a" * 32)
    assert book.addresses(b"c" * 32)
    assert not book.addresses(b"b" * 32)


def test_what_worked_is_tried_first_while_the_peer_still_names_it_and_last_after() -> None:
    book = AddressBook(DEFAULT_LIMITS)
    book.learn(PEER, [at(1), at(2)])
    book.reached(PEER, parse_address(at(2)))
    book.learn(PEER, [at(1), at(2), at(3)])
    assert [address.port for address in book.addresses(PEER)] == [2, 1, 3]
    book.learn(PEER, [at(8), at(9)])
    assert [address.port for address in book.addresses(PEER)] == [8, 9, 2]


def test_back_off_doubles_up_to_its_cap_and_ends_with_success_or_news() -> None:
    book = AddressBook(replace(DEFAULT_LIMITS, backoff_first=1.0, backoff_cap=5.0))
    book.learn(PEER, [at(1)])
    waits = []
    for _ in range(5):
        book.failed(PEER, 100.0)
        waits.append(book.wait(PEER, 100.0))
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert book.wait(PEER, 104.0) == 1.0
    assert book.wait(PEER, 105.0) == 0.0
    book.learn(PEER, [at(1)])
    assert book.wait(PEER, 100.0) == 5.0, "an address that just failed is no news"
    book.learn(PEER, [at(2)])
    assert book.wait(PEER, 100.0) == 0.0
    book.failed(PEER, 100.0)
    book.reached(PEER, None)
    assert book.wait(PEER, 100.0) == 0.0
    assert book.wait(OTHER, 100.0) == 0.0
