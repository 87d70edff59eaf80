"""Arrivals: which inbound connections may prove who they are, before anybody is known.

A handshake costs us a place and a few milliseconds, a connection costs its sender nothing. So each source (an
IPv4 address, or the /64 of an IPv6 one) opens connections at a bounded pace, and when all places are taken
the newcomer is not turned away: the source that waits in most places gives up its oldest. A silent crowd thus
displaces itself, and an honest handshake, which takes milliseconds, gets through. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

from dht.wire.limits import Limits
from dht.wire.pace import Pace


@dataclass(eq=False, slots=True)
class Arrival:
    """One handshake under way; `give_up` ends it."""

    source: str
    give_up: Callable[[], None]


class Arrivals:
    """The handshakes under way, oldest first."""

    def __init__(self, limits: Limits) -> None:
        self._places = limits.handshakes
        self._pace: Pace[str] = Pace(limits.arrivals, limits.sources)
        self._waiting: dict[str, list[Arrival]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def enter(self, host: str, give_up: Callable[[], None], now: float) -> Arrival | None:
        """Take a place for a connection from `host`; None when its source comes too quickly.

        O(sources) when all places are taken, else O(1).
        """
        source = source_of(host)
        if not self._pace.admit(source, now):
            return None
        if self._count >= self._places:
            crowd = max(self._waiting.values(), key=len)
            oldest = crowd[0]
            self.leave(oldest)
            oldest.give_up()
        arrival = Arrival(source, give_up)
        self._waiting.setdefault(source, []).append(arrival)
        self._count += 1
        return arrival

    def leave(self, arrival: Arrival) -> None:
        """Give the place back; idempotent."""
        crowd = self._waiting.get(arrival.source, [])
        if arrival in crowd:
            crowd.remove(arrival)
            self._count -= 1
            if not crowd:
                del self._waiting[arrival.source]


def is_local(host: str) -> bool:
    """Whether `host` is an IP address of this machine or of a private network."""
    try:
        return not ipaddress.ip_address(host.partition("%")[0]).is_global
    except ValueError:
        return False


def source_of(host: str) -> str:
    """The source that an IP address counts for; what is no IP address stands for itself."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
