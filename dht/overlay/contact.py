"""Address records: what a node signs about where it is reached, and the verified form everybody keeps.

An address record is the statement "address" of the fields [network id, passage, addresses, capacity, full,
issued, ttl]. It proves three things to whoever reads it, from whomever it came: the key was let into the
network (its passage is a nonce that pays, or an invitation), its position is the one that follows from that,
and it said itself where it is reached and whether it stores for others. What it does not prove is that
anybody is still there (see `dht.overlay.liveness`). Of two records of one agent the one issued later counts.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chain.cid import Cid, is_raw_cid, to_text
from chain.errors import ChainError, MembraneError
from chain.identity import AgentId, Identity, peer_id
from chain.membrane import MAX_NONCE, Membrane, Passage, position
from chain.statement import MAX_STATEMENT, Statement, open_statement, sign_statement
from dht.errors import DhtError

STATEMENT = "address"
LOCAL_NAMES = frozenset({"local", "localhost", "lan", "internal", "home"})
"""Last labels of host names that mean something on one network only."""
FIELDS = 7
MAX_RECORD = MAX_STATEMENT
"""Largest address record in bytes."""
MAX_ADDRESSES = 8
MAX_ADDRESS = 200
"""Longest address in bytes."""
MAX_CAPACITY = (1 << 53) - 1
MAX_TTL_S = 24 * 3600
MAX_AHEAD_US = 60_000_000
"""How far another clock may run ahead of ours."""
MICROSECONDS = 1_000_000


class ContactError(DhtError):
    """An address record that is not believed; the message says whose and why."""


class MalformedContactError(ContactError):
    """Not a canonical address record: its shape, a size or the signature is wrong."""


class WrongNetworkError(ContactError):
    """The address record belongs to another network."""


class UnpaidContactError(ContactError):
    """What the agent shows does not let it into the network: too little work, or no invitation that holds."""


class StaleContactError(ContactError):
    """The address record has expired, or is dated too far in the future."""


class BadAddressError(ContactError):
    """An address is oversized, is no multiaddr, or names another peer than the record's author."""


@dataclass(frozen=True, slots=True)
class Contact:
    """A verified address record.

    `position` is the agent's place in the DHT, `capacity` how much it offers to store (0: nothing, it only
    authors and asks), `full` that it takes no new bases, `issued_us` µs since 1970, `ttl_s` seconds from
    then, `data` the signed bytes to pass on.
    """

    agent: AgentId
    nonce: int
    position: bytes
    addresses: tuple[str, ...]
    capacity: int
    full: bool
    issued_us: int
    ttl_s: int
    data: bytes
    invitation: tuple[bytes, ...] = ()
    inviter: AgentId | None = None
    """Who let the agent in, in a network by invitation; not said of our own record."""

    @property
    def stores(self) -> bool:
        """Whether it may hold anything: it offers capacity and can be reached by strangers."""
        return self.capacity > 0 and bool(self.addresses)

    @property
    def expires_us(self) -> int:
        """When the record lapses, in µs since 1970."""
        return self.issued_us + self.ttl_s * MICROSECONDS

    def newer_than(self, other: Contact) -> bool:
        """Whether this record counts instead of `other` of the same agent; ties fall to the smaller bytes."""
        return (-self.issued_us, self.data) < (-other.issued_us, other.data)


def make_contact(
    identity: Identity,
    network_id: Cid,
    nonce: int,
    addresses: Sequence[str],
    capacity: int,
    full: bool,
    issued_us: int,
    ttl_s: int,
    invitation: tuple[bytes, ...] = (),
) -> Contact:
    """Sign an address record of our own; raises `ContactError` for fields that others would refuse."""
    passage = Passage(nonce, invitation)
    fields = [network_id, passage.shown, list(addresses), capacity, full, issued_us, ttl_s]
    try:
        statement = sign_statement(identity, STATEMENT, fields)
    except ChainError as error:
        raise MalformedContactError(f"own address record cannot be signed: {error}") from error
    return _read(statement, network_id, lambda _agent, _shown: passage)


def open_contact(data: bytes, membrane: Membrane, now_us: int) -> Contact:
    """Verify an address record at the time `now_us` (µs since 1970). One to three signature checks.

    Raises a `ContactError`: `MalformedContactError` (shape, size or signature), `WrongNetworkError`,
    `UnpaidContactError` (it is not let in), `BadAddressError`, or what `check_time` raises.
    """
    try:
        statement = open_statement(STATEMENT, data)
    except ChainError as error:
        raise MalformedContactError(f"not an address record: {error}") from error
    contact = _read(statement, membrane.network, membrane.open)
    check_time(contact, now_us)
    return contact


def check_time(contact: Contact, now_us: int) -> None:
    """Raise `StaleContactError` when the record has expired or is dated over `MAX_AHEAD_US` ahead."""
    if contact.issued_us > now_us + MAX_AHEAD_US:
        ahead = (contact.issued_us - now_us) // MICROSECONDS
        raise StaleContactError(
            f"address record of {_short(contact.agent)} is dated {ahead} s ahead; check both clocks"
        )
    if contact.expires_us <= now_us:
        ago = (now_us - contact.expires_us) // MICROSECONDS
        raise StaleContactError(f"address record of {_short(contact.agent)} expired {ago} s ago")


def address_groups(addresses: Sequence[str]) -> tuple[str, ...]:
    """The groups of public addresses among these multiaddrs: /24 of IPv4, /48 of IPv6, and of a host name its
    last two labels; ascending.

    One owner gets many addresses of one group cheaply, so tables admit few of each. Loopback, private,
    link-local and other special ranges, and names of the local network, belong to no group.
    """
    groups: set[str] = set()
    for address in addresses:
        parts = address.split("/")
        if len(parts) >= 3 and parts[1].startswith("dns"):
            labels = parts[2].lower().split(".")[-2:]
            if len(labels) == 2 and labels[1] not in LOCAL_NAMES:
                groups.add(sys.intern(".".join(labels)))  # tables keep it by contact: one string for all
            continue
        if len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
            continue
        try:
            ip = ipaddress.ip_address(parts[2])
        except ValueError:
            continue
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if ip.is_global:
            width = 24 if ip.version == 4 else 48
            groups.add(sys.intern(str(ipaddress.ip_network((ip, width), strict=False))))
    return tuple(sorted(groups))


def _read(statement: Statement, network_id: Cid, admit: Callable[[AgentId, object], Passage]) -> Contact:
    agent, fields = statement.author, statement.fields
    if len(fields) != FIELDS:
        raise MalformedContactError(
            f"address record of {_short(agent)} has {len(fields)} fields, not {FIELDS}"
        )
    network, shown, addresses, capacity, full, issued_us, ttl_s = fields
    if network != network_id:
        theirs = to_text(network) if is_raw_cid(network) else f"{network!r:.40}"
        raise WrongNetworkError(
            f"agent {_short(agent)} belongs to another network: {theirs}, not {to_text(network_id)}"
        )
    for name, value, low, high in (
        ("nonce", 0 if type(shown) is list else shown, 0, MAX_NONCE),
        ("capacity", capacity, 0, MAX_CAPACITY),
        ("issued_us", issued_us, 0, MAX_NONCE),
        ("ttl_s", ttl_s, 1, MAX_TTL_S),
    ):
        if type(value) is not int or not low <= value <= high:
            raise MalformedContactError(
                f"address record of {_short(agent)} has {name} {value!r:.40}, outside {low} … {high}"
            )
    if type(full) is not bool:
        raise MalformedContactError(f"address record of {_short(agent)} has the flag full {full!r:.40}")
    if type(addresses) is not list or len(addresses) > MAX_ADDRESSES:
        raise BadAddressError(f"address record of {_short(agent)} lists more than {MAX_ADDRESSES} addresses")
    ending = f"/p2p/{peer_id(agent)}"
    for address in addresses:
        _check_address(address, ending, agent)
    try:
        passage = admit(agent, shown)
    except MembraneError as error:
        raise UnpaidContactError(f"agent {_short(agent)} is not let in: {error}") from error
    return Contact(
        agent,
        passage.nonce,
        position(network_id, agent, passage.nonce),
        tuple(addresses),
        capacity,
        full,
        issued_us,
        ttl_s,
        statement.data,
        passage.invitation,
        passage.inviter,
    )


def _check_address(address: object, ending: str, agent: AgentId) -> None:
    if type(address) is not str or len(address.encode()) > MAX_ADDRESS:
        raise BadAddressError(f"an address of {_short(agent)} is no text of at most {MAX_ADDRESS} bytes")
    head = address.removesuffix(ending)
    if head == address:
        raise BadAddressError(f"address {address!r} of {_short(agent)} does not end with {ending}")
    parts = head.split("/")
    if len(parts) < 3 or parts[0] or not all(parts[1:]) or not (head.isascii() and head.isprintable()):
        raise BadAddressError(
            f"address {address!r} of {_short(agent)} is not a multiaddr like /ip4/HOST/tcp/PORT"
        )


def _short(agent: AgentId) -> str:
    return agent.hex()[:8]
