"""What was heard of peers on the local network: bounded, and tried no faster than one a second.

Anybody on the network can shout any number of names and addresses. So a sighting is a hint and nothing more:
it is parsed within bounds, kept for a limited number of peers (the one heard of longest ago goes first), and
handed out to be tried one at a time, each peer again only after a back-off. Peers of another network are
left alone for an hour. Pure: times are arguments, in seconds.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from dht.errors import AddressError
from dht.network import PeerId
from dht.wire.addresses import Address, parse_address

MAX_PEERS: Final = 256
MAX_ADDRESSES: Final = 8
"""Addresses kept of one peer, and read from one announcement."""
MAX_TEXT: Final = 4096
"""Bytes of one announcement that are looked at."""
SPACING_S: Final = 1.0
"""Between two attempts, whoever they go to."""
RETRY_FIRST_S: Final = 5.0
RETRY_MOST_S: Final = 600.0
FOREIGN_S: Final = 3600.0
"""How long a peer of another network is left alone."""
KEY: Final = b"dnsaddr="


@dataclass(slots=True)
class _Seen:
    addresses: tuple[Address, ...]
    due: float
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """A peer to try, at these multiaddrs in order."""

    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(slots=True)
class Sightings:
    """The peers heard of; `own` is never among them."""

    own: PeerId
    _seen: OrderedDict[PeerId, _Seen] = field(default_factory=OrderedDict)
    _next: float = float("-inf")

    def __len__(self) -> int:
        return len(self._seen)

    def heard(self, addresses: Sequence[Address], now: float) -> None:
        """Somebody announced these addresses; each names its peer."""
        by_peer: dict[PeerId, list[Address]] = {}
        for address in addresses:
            if address.peer is not None and address.peer != self.own:
                by_peer.setdefault(address.peer, []).append(address)
        for peer, places in by_peer.items():
            fresh = tuple(dict.fromkeys(places))[:MAX_ADDRESSES]
            seen = self._seen.get(peer)
            if seen is None:
                while len(self._seen) >= MAX_PEERS:
                    self._seen.popitem(last=False)
                self._seen[peer] = _Seen(fresh, now)
            else:
                seen.addresses = fresh
                self._seen.move_to_end(peer)

    def take(self, now: float, known: Callable[[PeerId], bool]) -> Attempt | None:
        """Whom to try now, or None; the caller says how it went. Peers that are `known` are forgotten."""
        for peer in [peer for peer in self._seen if known(peer)]:
            del self._seen[peer]
        due = [(seen.due, peer) for peer, seen in self._seen.items() if seen.due <= now]
        if not due or now < self._next:
            return None
        self._next = now + SPACING_S
        _, peer = min(due)
        seen = self._seen[peer]
        seen.due = now + min(RETRY_FIRST_S * 2.0 ** min(seen.failures, 16), RETRY_MOST_S)
        seen.failures += 1
        return Attempt(peer, tuple(map(str, seen.addresses)))

    def foreign(self, peer: PeerId, now: float) -> None:
        """`peer` belongs to another network."""
        if (seen := self._seen.get(peer)) is not None:
            seen.due = now + FOREIGN_S


def announcement(addresses: Sequence[str]) -> bytes:
    """The TXT data that announces these multiaddrs: `dnsaddr=MULTIADDR` each, behind its length."""
    text = b""
    for address in addresses[:MAX_ADDRESSES]:
        entry = KEY + address.encode()
        if len(entry) <= 255:
            text += bytes([len(entry)]) + entry
    return text


def announced(text: bytes) -> list[Address]:
    """The addresses in somebody's TXT data; what cannot be dialled is passed over.

    Only IP addresses with a port and a peer count: a name would let a stranger make us look it up.
    """
    found: list[Address] = []
    place = 0
    text = text[:MAX_TEXT]
    while place < len(text) and len(found) < MAX_ADDRESSES:
        entry = text[place + 1 : place + 1 + text[place]]
        place += 1 + text[place]
        if not entry.startswith(KEY):
            continue
        try:
            address = parse_address(entry.removeprefix(KEY).decode("ascii"))
        except (AddressError, UnicodeDecodeError):
            continue
        if address.kind in ("ip4", "ip6") and address.peer is not None and address.port:
            host = ipaddress.ip_address(address.host)
            if not (host.is_multicast or host.is_unspecified):
                found.append(address)
    return found
