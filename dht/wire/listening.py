"""Listening on TCP addresses, with errors that say what to do, and naming the result for others to dial."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Sequence

import psutil
import trio

from dht.errors import ListenError
from dht.wire.addresses import Address


async def listen_on(address: Address) -> list[trio.SocketListener]:
    """Open a listener at an ip4 or ip6 address. Raises `ListenError`."""
    where = f"/{address.kind}/{address.host}/tcp/{address.port}"
    if address.kind not in ("ip4", "ip6"):
        raise ListenError(f"cannot listen on {where}: give an IP address of this machine instead of a name")
    try:
        # Without SO_REUSEPORT a port in use is refused by the kernel, whoever uses it and however.
        return await trio.open_tcp_listeners(address.port, host=address.host)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = "the port is in use; stop the other program or choose another port (0: any free one)"
        elif error.errno == errno.EADDRNOTAVAIL:
            reason = "this machine has no such address; 0.0.0.0 means all it has"
        elif error.errno == errno.EACCES:
            reason = "not permitted; choose a port from 1024 upwards"
        else:
            reason = error.strerror or str(error)
        raise ListenError(f"cannot listen on {where}: {reason}") from error


def bound_addresses(listeners: Sequence[trio.SocketListener]) -> list[Address]:
    """The addresses behind bound sockets; a wildcard stands for all of the machine's, loopback only if
    alone."""
    found: list[Address] = []
    for listener in listeners:
        host, port = listener.socket.getsockname()[:2]
        wildcard = ipaddress.ip_address(host).is_unspecified
        kind = "ip6" if ":" in host else "ip4"
        found.extend(Address(kind, one, port) for one in (_interfaces(kind) if wildcard else [host]))
    return list(dict.fromkeys(found))


def _interfaces(kind: str) -> list[str]:
    hosts: set[ipaddress.IPv4Address | ipaddress.IPv6Address] = set()
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            try:
                host = ipaddress.ip_address(one.address)
            except ValueError:
                continue  # a hardware address, or IPv6 with a zone, which no multiaddr can carry
            if host.version == (4 if kind == "ip4" else 6) and not host.is_link_local:
                hosts.add(host)
    outside = sorted(str(host) for host in hosts if not host.is_loopback)
    return outside or sorted(str(host) for host in hosts)
