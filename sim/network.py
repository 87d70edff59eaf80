"""A simulated network: many hosts in one process, in virtual time.

`open_world` gives a `SimWorld`, which owns the hosts, the pump and the trace; each `SimNetwork` (`sim.host`)
is one host's `Network` port. The `Link` decides for each message how long it takes or that it is lost. A
lost request or reply shows as `RequestTimeout`; the packets of a handshake and the news of a closed
connection are sent again until they arrive, as TCP does. Connecting takes two round trips; who dials a host
that is down is refused after one. A crashed host loses all its tasks at once and its peers learn of it one
delay later, like a killed process on a machine that stays up. Everything that nodes can see goes into the
trace.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from dht.network import PEER_ID_SIZE, PeerId
from dht.wire.addresses import Address
from dht.wire.limits import DEFAULT_LIMITS, Limits
from sim.errors import HostError
from sim.host import Connection, Promise, SimNetwork, short
from sim.links import LatencyLink, Link
from sim.pump import Pump
from sim.trace import Event, Trace
from sim.virtual_clock import virtual_us

__all__ = ["SimNetwork", "SimWorld", "open_world"]

PORT = 4001
"""TCP port of every host; their addresses are 10.0.0.1, 10.0.0.2, … in order of first mention."""
RETRANSMIT_US = 1_000_000
"""Wait before a lost handshake or closing packet is sent again; doubles each time (as RFC 6298 starts)."""
MAX_HOSTS = 1 << 20
"""Hosts in one world."""


class SimWorld:
    """The hosts of one simulation, and the `Wire` between them. Made by `open_world`."""

    def __init__(self, nursery: trio.Nursery, seed: int, link: Link, trace: Trace, limits: Limits) -> None:
        self.trace = trace
        self._nursery = nursery
        self._rng = random.Random(f"{seed}/links")
        self._link = link
        self._limits = limits
        self._pump = Pump()
        self._places: dict[PeerId, Address] = {}
        self._hosts: dict[tuple[str, int], SimNetwork] = {}
        nursery.start_soon(self._pump.run)

    def address(self, peer: PeerId) -> str:
        """The multiaddr of `peer`, the same through all its restarts; it need not have joined yet."""
        return str(self._place(peer))

    def running(self) -> tuple[PeerId, ...]:
        """Peers whose host is up, sorted. O(hosts)."""
        return tuple(sorted(host.local for host in self._hosts.values() if not host.closed))

    def open_connections(self) -> int:
        """Connections of all running hosts, each counted at both of its ends."""
        return sum(len(host.connected()) for host in self._hosts.values() if not host.closed)

    async def join(self, peer: PeerId, *, listening: bool = True) -> SimNetwork:
        """Start a host for `peer`; without `listening` it has no address and can only dial out.

        Raises `HostError` when it runs already. After a crash or `aclose` this restarts the host: nothing of
        the former one is left, neither handlers nor known addresses.
        """
        place = self._place(peer)
        former = self._hosts.get((place.host, place.port))
        if former is not None and not former.closed:
            raise HostError(f"host {short(peer)} runs already; crash or close it first")
        host = SimNetwork(self, place, listening, self._limits)
        await self._nursery.start(host.live)
        self._hosts[place.host, place.port] = host
        return host

    def crash(self, peer: PeerId) -> None:
        """Kill the process of `peer`: its tasks are cancelled, its connections reset. Raises `HostError`."""
        place = self._place(peer)
        host = self._hosts.get((place.host, place.port))
        if host is None or host.closed:
            raise HostError(f"host {short(peer)} does not run, so it cannot crash")
        host.close()
        host.nursery.cancel_scope.cancel()

    # The wire, for `SimNetwork`.

    def send(
        self,
        sender: SimNetwork,
        connection: Connection,
        event: Event,
        method: str,
        body: bytes,
        deliver: Callable[[SimNetwork], None],
    ) -> None:
        if not sender.has(connection):
            return
        receiver = connection.other(sender)
        delay = self._link(sender.local, receiver.local, len(body), self._rng)
        if delay is None:
            self.trace.record(virtual_us(), Event.LOST, sender.local, receiver.local, method, body)
            return

        def arrive() -> None:
            if receiver.has(connection):
                self.trace.record(virtual_us(), event, sender.local, receiver.local, method, body)
                deliver(receiver)
            else:
                self.tell_closed(receiver, connection)

        self._pump.after(max(delay, connection.ready_us - virtual_us()), arrive)

    def tell_closed(self, end: SimNetwork, connection: Connection) -> None:
        other = connection.other(end)

        def arrive() -> None:
            if connection.ready_us > virtual_us():
                self._pump.after(connection.ready_us - virtual_us(), arrive)
            elif other.has(connection):
                self.trace.record(virtual_us(), Event.DISCONNECT, end.local, other.local)
                other.forget(connection)

        self._send_patiently(end.local, other.local, arrive)

    def dial(self, dialer: SimNetwork, goal: Address, promise: Promise[Connection]) -> None:
        limit = round(self._limits.connect_timeout * 1_000_000)
        self._pump.after(limit, partial(dialer.dial_failed, goal, promise, f"nobody answered at {goal}"))
        host = self._hosts.get((goal.host, goal.port))
        if host is None:
            return  # no machine has this address
        there = partial(self._send_patiently, dialer.local, host.local)
        back = partial(self._send_patiently, host.local, dialer.local)

        def refuse() -> None:
            back(partial(dialer.dial_failed, goal, promise, f"connection refused at {goal}"))

        def knock() -> None:
            listener = self._hosts[goal.host, goal.port]
            if listener.addresses and listener is not dialer:
                back(lambda: there(partial(accept, listener)))
            else:
                refuse()

        def accept(listener: SimNetwork) -> None:
            delay = self._patient_delay(listener.local, dialer.local)
            if listener.closed:
                refuse()
            elif delay is not None and not promise.settled:
                self.trace.record(virtual_us(), Event.CONNECT, dialer.local, listener.local)
                connection = Connection(dialer, listener, virtual_us() + delay)
                listener.opened(connection, None)
                self._pump.after(delay, partial(ready, connection))

        def ready(connection: Connection) -> None:
            if promise.settled:
                self.tell_closed(dialer, connection)
                return
            dialer.opened(connection, goal)
            dialer.dial_ended(goal, promise)
            promise.resolve(connection)

        there(knock)

    def _send_patiently(self, sender: PeerId, receiver: PeerId, arrive: Callable[[], None]) -> None:
        """Send a packet again, ever less often, until it arrives or it takes too long.

        The link is asked at each attempt, so that a packet gets through once a partition has healed.
        """

        def attempt(waited: int, wait: int) -> None:
            delay = self._link(sender, receiver, 0, self._rng)
            if delay is not None:
                self._pump.after(delay, arrive)
            elif waited + wait < self._limits.connect_timeout * 1_000_000:
                self._pump.after(wait, partial(attempt, waited + wait, 2 * wait))

        attempt(0, RETRANSMIT_US)

    def _patient_delay(self, sender: PeerId, receiver: PeerId) -> int | None:
        """One-way delay, known at once, of a packet that is sent until it arrives; None when too long."""
        waited, wait = 0, RETRANSMIT_US
        while waited < self._limits.connect_timeout * 1_000_000:
            delay = self._link(sender, receiver, 0, self._rng)
            if delay is not None:
                return waited + delay
            waited, wait = waited + wait, 2 * wait
        return None

    def _place(self, peer: PeerId) -> Address:
        if len(peer) != PEER_ID_SIZE:
            raise HostError(f"a peer id has {PEER_ID_SIZE} bytes, not {len(peer)}")
        if peer not in self._places:
            index = len(self._places) + 1
            if index > MAX_HOSTS:
                raise HostError(f"a world holds at most {MAX_HOSTS:,} hosts")
            host = f"10.{index >> 16}.{index >> 8 & 0xFF}.{index & 0xFF}"
            self._places[peer] = Address("ip4", host, PORT, peer)
        return self._places[peer]


@asynccontextmanager
async def open_world(
    seed: int, link: Link | None = None, trace: Trace | None = None, limits: Limits = DEFAULT_LIMITS
) -> AsyncIterator[SimWorld]:
    """A world whose every draw comes from `seed`; all its hosts end with the block.

    To be opened inside `sim.virtual_clock.run_deterministic` for a run that repeats exactly. What a host's
    task raises comes out here, in trio's exception groups.
    """
    async with trio.open_nursery() as nursery:
        yield SimWorld(nursery, seed, link or LatencyLink(seed), trace or Trace(), limits)
        nursery.cancel_scope.cancel()
