"""Addresses of peers: parsing multiaddrs, and a bounded book of who can be dialled where.

Only what this release dials is an address: `/ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT`, optionally followed by
`/p2p/PEER`. The book is pure: it is handed the time, and decides which addresses to try, in which order
(the one that worked last first), and how long to leave a dead peer alone (doubling back-off, capped).
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from chain.errors import ChainError
from chain.identity import agent_from_text, peer_id
from dht.errors import AddressError
from dht.network import PeerId
from dht.wire.limits import Limits

MAX_ADDRESS_CHARS = 320
"""Longest multiaddr that is looked at."""
_HOST_KINDS = ("ip4", "ip6", "dns", "dns4", "dns6")
_MAX_HOST_CHARS = 253
_MAX_LABEL_CHARS = 63


@dataclass(frozen=True, slots=True)
class Address:
    """One place to dial: `kind` is ip4, ip6, dns, dns4 or dns6; `peer` is who must answer there, if known."""

    kind: str
    host: str
    port: int
    peer: PeerId | None = None

    def __str__(self) -> str:
        text = f"/{self.kind}/{self.host}/tcp/{self.port}"
        return text if self.peer is None else f"{text}/p2p/{peer_id(self.peer)}"


def parse_address(text: str) -> Address:
    """Parse a multiaddr. Raises `AddressError` for any other transport, host, port or peer id."""
    if len(text) > MAX_ADDRESS_CHARS:
        raise AddressError(f"address {text[:80]!r}… is longer than {MAX_ADDRESS_CHARS} characters")
    parts = text.split("/")
    if len(parts) not in (5, 7) or parts[0] or parts[1] not in _HOST_KINDS or parts[3] != "tcp":
        raise AddressError(f"address {text!r} cannot be dialled; expected /ip4/HOST/tcp/PORT[/p2p/PEER]")
    host = _host(parts[1], parts[2], text)
    if not (parts[4].isascii() and parts[4].isdecimal() and len(parts[4]) <= 5 and int(parts[4]) <= 65_535):
        raise AddressError(f"address {text!r} has no port from 0 to 65535 but {parts[4]!r}")
    if len(parts) == 5:
        return Address(parts[1], host, int(parts[4]))
    if parts[5] != "p2p":
        raise AddressError(f"address {text!r} cannot be dialled; expected /p2p/PEER at its end")
    try:
        return Address(parts[1], host, int(parts[4]), agent_from_text(parts[6]))
    except ChainError as error:
        raise AddressError(f"address {text!r} names no Ed25519 peer: {error}") from error


def _host(kind: str, host: str, text: str) -> str:
    if kind.startswith("dns"):
        labels = host.split(".")
        spelled = host.isascii() and all(label.replace("-", "").isalnum() for label in labels)
        if not spelled or len(host) > _MAX_HOST_CHARS or max(map(len, labels)) > _MAX_LABEL_CHARS:
            raise AddressError(f"address {text!r} has no host name but {host!r}")
        return host.lower()
    try:
        return str(ipaddress.IPv4Address(host) if kind == "ip4" else ipaddress.IPv6Address(host))
    except ValueError as error:
        raise AddressError(f"address {text!r} has no {kind} host: {error}") from error


@dataclass(slots=True)
class _Entry:
    addresses: list[Address] = field(default_factory=list)
    worked: Address | None = None
    failures: int = 0
    retry_at: float = float("-inf")


class AddressBook:
    """Bounded memory of dialable peers, forgetting the least recently learned or reached first."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._entries: OrderedDict[PeerId, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def learn(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Replace what is known of `peer` by at most `addresses_per_peer` addresses, in this order of
        preference.

        The address that worked last stays: first when it is still among them, else last. A peer with an
        address that was not known before may be dialled at once. Raises `AddressError`, changing nothing, for
        an address that cannot be dialled or names another peer.
        """
        parsed: list[Address] = []
        for text in addresses:
            address = parse_address(text)
            if address.peer not in (None, peer):
                raise AddressError(f"address {text!r} is not of peer {peer.hex()[:8]}")
            if address.port == 0:
                raise AddressError(f"address {text!r} has port 0, where nobody can be dialled")
            parsed.append(Address(address.kind, address.host, address.port, peer))
        entry = self._touch(peer)
        if any(address not in entry.addresses for address in parsed):
            entry.failures, entry.retry_at = 0, float("-inf")
        worked = [] if entry.worked is None else [entry.worked]
        if entry.worked in parsed:
            entry.addresses = list(dict.fromkeys([*worked, *parsed]))[: self._limits.addresses_per_peer]
        else:
            room = self._limits.addresses_per_peer - len(worked)
            entry.addresses = [*list(dict.fromkeys(parsed))[:room], *worked]

    def addresses(self, peer: PeerId) -> tuple[Address, ...]:
        """Where to dial `peer`, best first; empty for an unknown peer."""
        entry = self._entries.get(peer)
        return () if entry is None else tuple(entry.addresses)

    def has_worked(self, address: Address) -> bool:
        """Whether the peer that `address` names was reached there when we last reached it."""
        entry = None if address.peer is None else self._entries.get(address.peer)
        return entry is not None and entry.worked == address

    def wait(self, peer: PeerId, now: float) -> float:
        """Seconds until `peer` may be dialled again; 0 means now."""
        entry = self._entries.get(peer)
        return 0.0 if entry is None else max(0.0, entry.retry_at - now)

    def reached(self, peer: PeerId, address: Address | None) -> None:
        """`peer` has proven its identity, at `address` when we dialled it (None: it came to us)."""
        if address is None:
            entry = self._entries.get(peer)
            if entry is not None:
                entry.failures, entry.retry_at = 0, float("-inf")
            return
        entry = self._touch(peer)
        entry.failures, entry.retry_at = 0, float("-inf")
        known = Address(address.kind, address.host, address.port, peer)
        entry.worked = known
        others = [other for other in entry.addresses if other != known]
        entry.addresses = [known, *others][: self._limits.addresses_per_peer]

    def failed(self, peer: PeerId, now: float) -> None:
        """No address of `peer` answered: leave it alone for a while, longer each time."""
        entry = self._entries.get(peer)
        if entry is None:
            return
        wait = self._limits.backoff_first * 2.0 ** min(entry.failures, 32)
        entry.retry_at = now + min(wait, self._limits.backoff_cap)
        entry.failures += 1

    def _touch(self, peer: PeerId) -> _Entry:
        entry = self._entries.get(peer)
        if entry is None:
            while len(self._entries) >= self._limits.known_peers:
                self._entries.popitem(last=False)
            entry = self._entries[peer] = _Entry()
        self._entries.move_to_end(peer)
        return entry
