"""An address record is believed exactly when its author signed it for this network, paid, and it is fresh."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain import canonical
from chain.membrane import position, work_bits
from chain.statement import sign_statement
from dht.overlay.contact import (
    MAX_ADDRESS,
    MAX_ADDRESSES,
    MAX_AHEAD_US,
    MAX_TTL_S,
    STATEMENT,
    BadAddressError,
    Contact,
    ContactError,
    MalformedContactError,
    StaleContactError,
    UnpaidContactError,
    WrongNetworkError,
    address_groups,
    make_contact,
    open_contact,
)
from tests.dht.people import MANIFEST, NETWORK_ID, NOW_US, address_of, identity, nonce_of, signed

BITS = MANIFEST.join_bits
OTHER_NETWORK = b"\x01\x55\x12\x20" + bytes(32)


def opened(data: bytes, now_us: int = NOW_US, bits: int = BITS) -> Contact:
    return open_contact(data, replace(MANIFEST.membrane, join_bits=bits), now_us)


def forged(**changes: Any) -> bytes:
    """A well-signed record of agent 0 with some of its fields changed."""
    fields = {
        "network": NETWORK_ID,
        "nonce": nonce_of(0),
        "addresses": [address_of(0)],
        "capacity": 1,
        "full": False,
        "issued_us": NOW_US,
        "ttl_s": 3600,
    }
    fields |= changes
    return sign_statement(identity(0), STATEMENT, list(fields.values())).data


@given(
    st.integers(0, 20),
    st.lists(st.sampled_from(["127.0.0.1", "8.8.8.8", "::1", "2001:db8::1"]), max_size=MAX_ADDRESSES),
    st.integers(0, 1 << 40),
    st.booleans(),
    st.integers(1, MAX_TTL_S),
)
def test_what_is_signed_is_what_is_read(
    number: int, hosts: list[str], capacity: int, full: bool, ttl_s: int
) -> None:
    made = signed(number, hosts=tuple(hosts), capacity=capacity, full=full, ttl_s=ttl_s)
    assert opened(made.data) == made
    assert made.agent == identity(number).agent
    assert made.position == position(NETWORK_ID, made.agent, made.nonce)
    assert made.stores == (capacity > 0 and bool(hosts))


@given(st.data())
def test_no_changed_byte_is_believed(data: st.DataObject) -> None:
    good = signed(0).data
    place = data.draw(st.integers(0, len(good) - 1))
    flip = data.draw(st.integers(1, 255))
    bad = good[:place] + bytes([good[place] ^ flip]) + good[place + 1 :]
    with pytest.raises(ContactError):
        opened(bad)


@given(st.binary(max_size=300))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(MalformedContactError):
        opened(data)


def test_another_network_is_named() -> None:
    with pytest.raises(WrongNetworkError, match="another network"):
        opened(signed(0, network_id=OTHER_NETWORK, nonce=0).data)


def test_work_below_the_price_is_refused_and_exact_work_accepted() -> None:
    contact = signed(0)
    paid = work_bits(NETWORK_ID, contact.agent, contact.nonce)
    assert opened(contact.data, bits=paid) == contact
    with pytest.raises(UnpaidContactError, match=f"{paid} bits"):
        opened(contact.data, bits=paid + 1)


def test_a_record_counts_from_shortly_before_its_date_until_its_end() -> None:
    contact = signed(0, ttl_s=10)
    assert opened(contact.data, NOW_US - MAX_AHEAD_US) == contact
    with pytest.raises(StaleContactError, match="ahead"):
        opened(contact.data, NOW_US - MAX_AHEAD_US - 1)
    assert opened(contact.data, NOW_US + 9_999_999) == contact
    with pytest.raises(StaleContactError, match="expired"):
        opened(contact.data, NOW_US + 10_000_000)


@pytest.mark.parametrize(
    "addresses",
    [
        [address_of(1)],
        ["/ip4/127.0.0.1/tcp/4001"],
        [address_of(0), 7],
        [b"/ip4/127.0.0.1"],
        ["no multiaddr" + address_of(0)[-57:]],
        ["//" + address_of(0)[1:]],
        [address_of(0).replace("127", "127\n")],
        [address_of(0, "1" * MAX_ADDRESS)],
        [address_of(0)] * (MAX_ADDRESSES + 1),
        "text",
        None,
    ],
)
def test_bad_addresses_are_refused(addresses: object) -> None:
    with pytest.raises(BadAddressError):
        opened(forged(addresses=addresses))


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": -1},
        {"nonce": True},
        {"capacity": -1},
        {"capacity": 1 << 60},
        {"capacity": None},
        {"full": 1},
        {"issued_us": -1},
        {"ttl_s": 0},
        {"ttl_s": MAX_TTL_S + 1},
        {"extra": 1},
    ],
)
def test_fields_out_of_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(MalformedContactError):
        opened(forged(**changes))


def test_another_statement_of_the_same_author_is_no_address_record() -> None:
    receipt = sign_statement(identity(0), "receipt", canonical.decode(signed(0).data, 4096)[2])
    with pytest.raises(MalformedContactError):
        opened(receipt.data)


def test_the_record_issued_later_counts_and_ties_are_decided_alike_everywhere() -> None:
    old, new = signed(0), signed(0, issued_us=NOW_US + 1)
    assert new.newer_than(old)
    assert not old.newer_than(new)
    tied = signed(0, capacity=2)
    assert tied.newer_than(old) != old.newer_than(tied)
    assert not old.newer_than(old)


def test_we_do_not_sign_what_others_refuse() -> None:
    with pytest.raises(BadAddressError):
        make_contact(identity(0), NETWORK_ID, 0, [address_of(1)], 1, False, NOW_US, 60)


def test_only_public_addresses_have_groups() -> None:
    private = ["127.0.0.1", "10.1.2.3", "192.168.1.1", "169.254.0.1", "::1", "fe80::1", "fd00::1"]
    assert address_groups([address_of(0, host) for host in private]) == ()
    assert address_groups(["/ip4/nonsense/tcp/1", "/ip4", "/dns4", "/dns4/printer.local/tcp/1"]) == ()
    names = ["/dns4/a1.Example.org/tcp/1/p2p/x", "/dns6/b2.example.org/tcp/1", "/dns4/localhost/tcp/1"]
    assert address_groups(names) == ("example.org",), "a domain has as many names as its owner likes"
    public = [
        "8.8.8.8",
        "8.8.8.9",
        "8.8.4.4",
        "2600:1:2:3::1",
        "2600:1:2:4::1",
        "2600:1:3::1",
        "::ffff:8.8.8.1",
    ]
    assert address_groups([address_of(0, host) for host in public]) == (
        "2600:1:2::/48",
        "2600:1:3::/48",
        "8.8.4.0/24",
        "8.8.8.0/24",
    )
