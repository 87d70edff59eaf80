"""Finding the peers of our network on the local one, by libp2p's mDNS discovery.

Each node answers multicast questions for `_p2p._udp.local` under a random name with TXT strings
`dnsaddr=MULTIADDR` (libp2p's specification of mDNS discovery, r2), through the zeroconf library. That runs a
thread of its own and reports ourselves too; what it hears is handed to the event loop through a bounded
queue, the newest dropped when it is full. `dht.overlay.sightings` decides whom to try and when; a peer is
introduced to Kademlia only when it says by `hello` that its network is ours.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from chain.cid import Cid
from dht.errors import DhtError
from dht.network import Network
from dht.overlay.hello import UnexpectedNetworkError, require_network
from dht.overlay.kademlia import Kademlia
from dht.overlay.sightings import Sightings, announced, announcement
from dht.ports import Clock, Random, RunBlocking
from dht.wire.addresses import Address, parse_address

if TYPE_CHECKING:
    from zeroconf import ServiceBrowser, Zeroconf

SERVICE: Final = "_p2p._udp.local."
NAME_BYTES: Final = 16
"""Random bytes of our name, written in hexadecimal; new with every start, so that it tells nothing."""
MAX_WAITING: Final = 64
"""Announcements that wait for the event loop."""
LOOK_EVERY_S: Final = 1.0
ASK_TIMEOUT_S: Final = 5.0
REQUEST_MS: Final = 3000
"""How long zeroconf may ask for the TXT data of an announcement that came without."""

log = logging.getLogger(f"roseforest.{__name__}")


def discoverable(addresses: Sequence[str], loopback: bool) -> tuple[str, ...]:
    """Which of our own addresses are announced: those on IP interfaces, on loopback only if asked."""
    return tuple(
        text
        for text in addresses
        if (address := parse_address(text)).kind in ("ip4", "ip6")
        and (loopback or not ipaddress.ip_address(address.host).is_loopback)
    )


async def discover(
    network: Network,
    kademlia: Kademlia,
    network_id: Cid,
    addresses: Sequence[str],
    clock: Clock,
    random: Random,
    run_blocking: RunBlocking,
) -> None:
    """Announce `addresses` on their interfaces, and meet the peers of our network there, until cancelled.

    A machine that allows no multicast is logged, and nothing more: discovery is a comfort. IPv4 multicast
    only; IPv6 addresses are announced by it.
    """
    interfaces = sorted({a.host for a in map(parse_address, addresses) if a.kind == "ip4"})
    if not interfaces:
        log.info("no IPv4 address to look for peers on: mDNS is off")
        return
    send, receive = trio.open_memory_channel[list[Address]](MAX_WAITING)
    token = trio.lowlevel.current_trio_token()
    on_the_way = threading.Semaphore(MAX_WAITING)

    def hear(text: bytes) -> None:
        """On zeroconf's thread."""
        found = announced(text)
        if found and on_the_way.acquire(blocking=False):
            try:
                token.run_sync_soon(offer, found)
            except trio.RunFinishedError:
                return

    def offer(found: list[Address]) -> None:
        on_the_way.release()
        try:
            send.send_nowait(found)
        except (trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            return

    name = random.random_bytes(NAME_BYTES).hex()
    try:
        service = await run_blocking(_open, interfaces, name, announcement(addresses), addresses, hear)
    except OSError as error:
        log.warning("looking for peers on the local network is not possible: %s", error.strerror or error)
        return
    log.info("looking for peers on the local network", extra={"interfaces": " ".join(interfaces)})
    try:
        async with trio.open_nursery() as nursery:
            sightings = Sightings(network.local)
            nursery.start_soon(_listen, receive, sightings, clock)
            await _meet(network, kademlia, network_id, sightings, clock)
    finally:
        send.close()
        with trio.CancelScope(shield=True):
            await run_blocking(_close, *service)


async def _listen(
    receive: trio.MemoryReceiveChannel[list[Address]], sightings: Sightings, clock: Clock
) -> None:
    async with receive:
        async for found in receive:
            sightings.heard(found, clock.monotonic())


async def _meet(
    network: Network, kademlia: Kademlia, network_id: Cid, sightings: Sightings, clock: Clock
) -> None:
    while True:
        await trio.sleep(LOOK_EVERY_S)
        attempt = sightings.take(clock.monotonic(), kademlia.is_member)
        if attempt is None:
            continue
        for address in attempt.addresses:
            try:
                await require_network(network, address, network_id, ASK_TIMEOUT_S)
                await kademlia.meet(address)
            except UnexpectedNetworkError as error:
                log.debug("passed over on the local network: %s", error)
                sightings.foreign(attempt.peer, clock.monotonic())
                break
            except DhtError as error:
                log.debug("announced on the local network, and not met: %s", error)
            else:
                log.info("met on the local network", extra={"address": address})
                break


def _open(
    interfaces: list[str], name: str, text: bytes, addresses: Sequence[str], hear: Callable[[bytes], None]
) -> tuple[Zeroconf, ServiceBrowser]:
    """Start answering and asking; blocking, about two seconds. Raises `OSError`."""
    from zeroconf import Error as ZeroconfError
    from zeroconf import EventLoopBlocked, IPVersion, NotRunningException, ServiceBrowser, ServiceInfo
    from zeroconf import Zeroconf as Responder

    def on_change(zeroconf: Zeroconf, service_type: str, name: str, state_change: Any) -> None:
        if state_change.name == "Removed":
            return
        info = ServiceInfo(service_type, name)
        try:
            if not info.load_from_cache(zeroconf) and not info.text:
                info.request(zeroconf, REQUEST_MS)
        except (ZeroconfError, EventLoopBlocked, NotRunningException):
            return
        hear(info.text or b"")

    responder = Responder(interfaces=interfaces, ip_version=IPVersion.V4Only)
    try:
        places = [parse_address(address) for address in addresses]
        info = ServiceInfo(
            SERVICE,
            f"{name}.{SERVICE}",
            port=places[0].port,
            addresses=[ipaddress.ip_address(host).packed for host in interfaces],
            properties=text,
            server=f"{name}.local.",
        )
        responder.register_service(info)
        return responder, ServiceBrowser(responder, SERVICE, handlers=[on_change])
    except (ZeroconfError, EventLoopBlocked) as error:
        responder.close()
        raise OSError(f"zeroconf: {error or type(error).__name__}") from error


def _close(responder: Zeroconf, browser: ServiceBrowser) -> None:
    browser.cancel()
    responder.close()
