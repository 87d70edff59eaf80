"""`LibP2PNetwork`: the `Network` port over libp2p connections.

A peer is dialled when it is first asked, at the addresses in the book, once however many ask at the same
time; on each connection one long-lived stream per direction carries all requests (`dht.wire.exchange`),
because a new stream costs a negotiation and a frame on an open one does not. When both sides dial at once
they agree on the one to keep (`dht.wire.one_connection`). Either side of a connection may ask, so a node
without a listener is reachable through the connections it has dialled. A dead peer costs one connect timeout,
then fails at once until its back-off ends. Whatever a peer does wrong costs it its connection: one way to
fail, in which everything held for it is freed.

Keeping two daemons out of one home folder is the daemon's lock; here a port that any other process holds is
refused with `ListenError`. libp2p is imported when a network opens (a quarter of a second), quietly.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from chain.identity import peer_id
from dht.errors import (
    AddressError,
    FrameError,
    PeerUnreachable,
    RefusalCode,
    RequestRefused,
    RequestTimeout,
)
from dht.network import EVENT_BACKLOG, MAX_BODY, Handler, PeerDown, PeerEvent, PeerId, PeerUp, Screen
from dht.ports import Clock
from dht.wire.addresses import Address, AddressBook, parse_address
from dht.wire.arrivals import Arrivals, is_local, source_of
from dht.wire.connection import Connection
from dht.wire.exchange import Shared
from dht.wire.frames import check_method
from dht.wire.libp2p_parts import defer_packages
from dht.wire.limits import DEFAULT_LIMITS, Limits
from dht.wire.listening import bound_addresses, listen_on
from dht.wire.one_connection import RETIRE_AFTER, surplus
from dht.wire.pace import Pace

if TYPE_CHECKING:
    from dht.wire.libp2p_transport import SecureConnection, Transport

log = logging.getLogger(f"roseforest.{__name__}")

_CLOSED = "this node's network is closed"


class _Dial:
    """A dial that any number of requests wait for."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error = "no address answered"
        self.paced = False
        """Whether an address was not tried because its host is dialled too often."""


class LibP2PNetwork:
    """See `dht.network.Network`; made by `open_libp2p_network`."""

    def __init__(
        self, transport: Transport, clock: Clock, shared: Shared, addresses: tuple[str, ...]
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._shared = shared
        self._limits = shared.limits
        self._addresses = addresses
        self._book = AddressBook(shared.limits)
        self._connections: dict[PeerId, list[Connection]] = {}
        self._dials: dict[PeerId, _Dial] = {}
        self._dial_places = trio.CapacityLimiter(shared.limits.dials)
        self._new_dials: Pace[str] = Pace(shared.limits.new_dials, shared.limits.sources)
        self._new_dials_local: Pace[str] = Pace(shared.limits.new_dials_local, shared.limits.sources)
        self._arrivals = Arrivals(shared.limits)
        shared.budget.drop = self._drop_largest
        self._subscribers: list[
            tuple[trio.MemorySendChannel[PeerEvent], trio.MemoryReceiveChannel[PeerEvent]]
        ] = []
        self._nursery: trio.Nursery | None = None
        self._finished = trio.Event()
        self._closed = False

    @property
    def local(self) -> PeerId:
        """Our own peer id."""
        return self._transport.local

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others can dial us; empty without a listener."""
        return self._addresses

    def counters(self) -> dict[str, int]:
        """Counters since the start, see `dht.wire.counters.Counters`."""
        return self._shared.counters.snapshot()

    def gauges(self) -> dict[str, int]:
        """What is held now: connections, handshakes, known_peers, held_bytes."""
        return {
            "handshakes": len(self._arrivals),
            "connections": sum(map(len, self._connections.values())),
            "known_peers": len(self._book),
            "held_bytes": self._shared.budget.used,
        }

    def learn(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Put verified addresses into the book; raises `AddressError`."""
        if peer != self.local:
            self._book.learn(peer, addresses)

    def register(self, method: str, handler: Handler) -> None:
        """Answer `method` with `handler`; ValueError when it has one, `FrameError` for a bad name."""
        check_method(method)
        if method in self._shared.handlers:
            raise ValueError(f"method {method!r} already has a handler")
        self._shared.handlers[method] = handler

    def screen(self, screen: Screen) -> None:
        """Refuse whom `screen` says is banned, and tell it of garbage."""
        self._shared.screen = screen

    def connected(self) -> tuple[PeerId, ...]:
        """Peers with a live connection, sorted."""
        return tuple(sorted(self._connections))

    def events(self) -> trio.MemoryReceiveChannel[PeerEvent]:
        """A new stream of peer events; the oldest are dropped when `EVENT_BACKLOG` wait."""
        send, receive = trio.open_memory_channel[PeerEvent](EVENT_BACKLOG)
        if self._closed:
            send.close()
        else:
            self._subscribers.append((send, receive.clone()))
        return receive

    async def dial(self, address: str, timeout: float) -> PeerId:
        """Connect to a multiaddr and return who answered; see `Network.dial`."""
        parsed = parse_address(address)
        if parsed.port == 0:
            raise AddressError(f"address {address!r} has port 0, where nobody can be dialled")
        if parsed.peer is not None and parsed.peer in self._connections:
            await trio.lowlevel.checkpoint()
            return parsed.peer
        with trio.move_on_after(timeout):
            return (await self._connect(parsed)).peer
        raise RequestTimeout(f"{address} did not answer within {timeout:g} s; is the node there running?")

    async def request(self, peer: PeerId, method: str, body: bytes, timeout: float) -> bytes:
        """Ask `peer`, connecting first if need be; see `Network.request`.

        Raises `FrameError` for a bad method name or a body over `MAX_BODY`, before anything is sent.
        """
        check_method(method)
        if len(body) > MAX_BODY:
            raise FrameError(f"body of {method!r} has {len(body)} bytes; at most {MAX_BODY} are allowed")
        with trio.move_on_after(timeout):
            connection = await self._connection(peer)
            connection.last_used = self._clock.monotonic()
            return await (await connection.asker()).ask(method, body)
        raise RequestTimeout(f"peer {peer.hex()[:8]} did not answer {method!r} within {timeout:g} s")

    async def aclose(self) -> None:
        """Stop listening, drop all connections, fail what is in flight; returns when all tasks have ended."""
        self._closed = True
        if self._nursery is None:
            await trio.lowlevel.checkpoint()
            return
        self._nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await self._finished.wait()

    async def run(
        self,
        listeners: list[trio.SocketListener],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve `listeners` and all connections until `aclose`; closes the listeners."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                if listeners:
                    await trio.serve_listeners(self._accept, listeners, handler_nursery=nursery)
                await trio.sleep_forever()
        finally:
            self._closed = True
            for listener in listeners:
                listener.socket.close()
            for dial in self._dials.values():
                dial.done.set()
            for send, receive in self._subscribers:
                send.close()
                receive.close()
            self._subscribers.clear()
            self._finished.set()

    # Getting a connection

    async def _connection(self, peer: PeerId) -> Connection:
        """A live connection to `peer`: the newest, or the one that a shared dial brings."""
        if self._closed:
            raise PeerUnreachable(_CLOSED)
        if peer == self.local:
            raise PeerUnreachable("this peer is the node itself; ask it without the network")
        live = self._connections.get(peer)
        if live:
            await trio.lowlevel.checkpoint_if_cancelled()
            return live[-1]
        dial = self._dials.get(peer) or self._start_dial(peer)
        await dial.done.wait()
        live = self._connections.get(peer)
        if not live and dial.paced:
            raise RequestRefused(
                RefusalCode.OVERLOADED, f"peer {peer.hex()[:8]} was not dialled: {dial.error}"
            )
        if not live:
            raise PeerUnreachable(f"peer {peer.hex()[:8]} cannot be reached: {dial.error}")
        return live[-1]

    def _start_dial(self, peer: PeerId) -> _Dial:
        addresses = self._book.addresses(peer)
        if not addresses:
            raise PeerUnreachable(f"no address of peer {peer.hex()[:8]} is known; look it up first")
        wait = self._book.wait(peer, self._clock.monotonic())
        if wait > 0:
            raise PeerUnreachable(
                f"peer {peer.hex()[:8]} did not answer lately; it is tried again in {wait:.1f} s"
            )
        if self._nursery is None:
            raise PeerUnreachable(_CLOSED)
        dial = self._dials[peer] = _Dial()
        self._nursery.start_soon(self._run_dial, peer, addresses, dial)
        return dial

    async def _run_dial(self, peer: PeerId, addresses: tuple[Address, ...], dial: _Dial) -> None:
        """Try the addresses, each with a head start before the next; the first that answers wins."""
        errors: list[str] = []

        async def attempt(address: Address, failed: trio.Event) -> None:
            try:
                await self._connect(address)
            except (AddressError, PeerUnreachable) as error:
                errors.append(str(error))
                failed.set()
            except Exception as error:
                # A bug of ours or of libp2p's must cost this attempt, not the node.
                log.exception("dialling %s failed", address)
                errors.append(repr(error))
                failed.set()
            else:
                nursery.cancel_scope.cancel()

        try:
            async with self._dial_places:
                with trio.move_on_after(self._limits.connect_timeout):
                    async with trio.open_nursery() as nursery:
                        for address in addresses:
                            if not self._may_dial(address):
                                dial.paced = True
                                errors.append(f"{address.host} is dialled too often; try again later")
                                continue
                            failed = trio.Event()
                            nursery.start_soon(attempt, address, failed)
                            with trio.move_on_after(self._limits.attempt_delay):
                                await failed.wait()
            if peer not in self._connections:
                dial.error = errors[-1] if errors else f"no answer within {self._limits.connect_timeout:g} s"
                if not dial.paced:
                    self._book.failed(peer, self._clock.monotonic())
        finally:
            self._dials.pop(peer, None)
            dial.done.set()

    def _may_dial(self, address: Address) -> bool:
        """Whether the pace towards this host allows one more dial of an address that others named."""
        if self._book.has_worked(address):
            return True
        now = self._clock.monotonic()
        if is_local(address.host):
            return self._new_dials_local.admit(address.host, now)
        name = "" if address.kind.startswith("dns") else source_of(address.host)
        allowed = self._new_dials.admit(name, now)
        self._shared.counters.dials_withheld += not allowed
        return allowed

    async def _connect(self, address: Address) -> Connection:
        """One dial of one address; the caller bounds the time. Raises `PeerUnreachable`, `AddressError`."""
        counters = self._shared.counters
        counters.dials += 1
        connection: Connection | None = None
        try:
            stream = await trio.open_tcp_stream(address.host, address.port)
            secure = await self._transport.secure(stream, initiator=True)
            if address.peer is not None and secure.peer != address.peer:
                secure.abort()
                raise AddressError(f"peer {peer_id(secure.peer)} answered at {address}; correct the address")
            connection = self._admit(secure, outbound=True)
        except (OSError, UnicodeError) as error:
            raise PeerUnreachable(f"{address} cannot be reached: {error}") from error
        finally:
            if connection is None:
                counters.dial_failures += 1
        if self._nursery is None:
            raise PeerUnreachable(_CLOSED)
        self._nursery.start_soon(self._keep, connection)
        self._book.reached(secure.peer, address)
        return connection

    async def _accept(self, stream: trio.SocketStream) -> None:
        """Serve an inbound TCP stream to its end; trio closes it when this returns."""
        connection = await self._welcome(stream)
        if connection is not None:
            await self._keep(connection)

    async def _welcome(self, stream: trio.SocketStream) -> Connection | None:
        """Have an inbound peer prove its identity, within time and room; None when it does not."""
        counters = self._shared.counters
        connection: Connection | None = None
        with trio.move_on_after(self._limits.connect_timeout) as scope:
            host = _host_of(stream)
            arrival = (
                None if host is None else self._arrivals.enter(host, scope.cancel, self._clock.monotonic())
            )
            if arrival is None:
                counters.turned_away += 1
            else:
                try:
                    secure = await self._transport.secure(stream, initiator=False)
                    connection = self._admit(secure, outbound=False)
                    self._book.reached(secure.peer, None)
                except PeerUnreachable as error:
                    log.debug("inbound connection failed: %s", error)
                finally:
                    self._arrivals.leave(arrival)
        if connection is None:
            counters.handshake_failures += 1
        else:
            counters.accepted += 1
        return connection

    # Keeping connections

    def _admit(self, secure: SecureConnection, outbound: bool) -> Connection:
        """Take a connection in, making room for it; the caller starts `_keep`.

        Raises `PeerUnreachable` when there is no room or the peer is this node itself.
        """
        if self._closed:
            secure.abort()
            raise PeerUnreachable(_CLOSED)
        if secure.peer == self.local:
            secure.abort()
            raise PeerUnreachable("the peer is this node itself; name another node")
        own = self._connections.get(secure.peer, [])
        if len(own) >= self._limits.connections_per_peer:
            self._drop(own[0])
        elif sum(map(len, self._connections.values())) >= self._limits.connections:
            idle = [one for live in self._connections.values() for one in live if not one.busy]
            if not idle:
                secure.abort()
                raise PeerUnreachable(f"all {self._limits.connections} connections are busy; try again later")
            self._drop(min(idle, key=self._worth))
        connection = Connection(secure, self._shared, self._clock.monotonic(), outbound)
        live = self._connections.setdefault(secure.peer, [])
        live.append(connection)
        if len(live) == 1:
            self._emit(PeerUp(secure.peer))
        for other in surplus(self.local, secure.peer, live):
            live.remove(other)
            live.insert(0, other)  # the last one is used
            if not other.retiring and self._nursery is not None:
                other.retiring = True
                self._nursery.start_soon(self._retire, other)
        dial = self._dials.get(secure.peer)
        if dial is not None:
            dial.done.set()
        return connection

    async def _keep(self, connection: Connection) -> None:
        def touch() -> None:
            connection.last_used = self._clock.monotonic()

        try:
            await connection.run(touch)
        except Exception:
            # A bug of ours or of libp2p's must cost this connection, not the node.
            log.exception("connection to peer %s failed", connection.peer.hex()[:8])
        finally:
            self._remove(connection)

    async def _retire(self, connection: Connection) -> None:
        """Close a connection that is not used any more, when nothing is under way on it for a while."""
        while connection in self._connections.get(connection.peer, []):
            idle = self._clock.monotonic() - connection.last_used
            if idle >= RETIRE_AFTER and not connection.busy and not connection.answering:
                self._shared.counters.retired += 1
                self._drop(connection)
                return
            await trio.sleep(RETIRE_AFTER)

    def _worth(self, connection: Connection) -> tuple[bool, bool, float, PeerId]:
        """What speaks for keeping a connection: the peer's address is verified and it is not banned, it is
        being answered, it was used lately. An identity costs nothing, so strangers go before all others."""
        peer = connection.peer
        known = bool(self._book.addresses(peer)) and not self._shared.screen.banned_for(peer)
        return known, self._shared.gate.running(peer) > 0, connection.last_used, peer

    def _drop_largest(self, peer: PeerId) -> None:
        """The peer that holds most memory goes, as there is none left."""
        self._shared.counters.evicted += 1
        log.info("dropped peer %s: it holds most when memory runs out", peer.hex()[:8])
        for connection in list(self._connections.get(peer, [])):
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        connection.scope.cancel()
        self._remove(connection)

    def _remove(self, connection: Connection) -> None:
        live = self._connections.get(connection.peer, [])
        if connection in live:
            live.remove(connection)
            if not live:
                del self._connections[connection.peer]
                self._emit(PeerDown(connection.peer))

    def _emit(self, event: PeerEvent) -> None:
        kept = []
        for send, ours in self._subscribers:
            if send.statistics().open_receive_channels == 1:
                send.close()
                ours.close()
                continue
            try:
                send.send_nowait(event)
            except trio.WouldBlock:
                ours.receive_nowait()
                send.send_nowait(event)
            kept.append((send, ours))
        self._subscribers = kept


@asynccontextmanager
async def open_libp2p_network(
    seed: bytes,
    listen: Sequence[str],
    clock: Clock,
    *,
    announce: Sequence[str] = (),
    limits: Limits = DEFAULT_LIMITS,
) -> AsyncIterator[LibP2PNetwork]:
    """A running network, closed at the end of the block.

    `seed`: the agent's 32-byte Ed25519 seed. `listen`: multiaddrs such as /ip4/0.0.0.0/tcp/4001 (port 0:
    any); empty for a node that only dials out. `announce`: addresses to give to others instead of the bound
    ones, for a node behind a port forwarding. Raises `ListenError`, `AddressError`, ValueError for a seed of
    another size. An exception of the block leaves it as it is, not in a group.
    """
    if len(seed) != 32:
        raise ValueError(f"an Ed25519 seed has 32 bytes, not {len(seed)}")
    shared = Shared(limits)
    transport = _transport(seed, limits, shared)
    listeners: list[trio.SocketListener] = []
    raised: BaseException | None = None
    try:
        for text in listen:
            listeners.extend(await listen_on(parse_address(text)))
        own = [parse_address(text) for text in announce] if announce else bound_addresses(listeners)
        addresses = tuple(str(Address(one.kind, one.host, one.port, transport.local)) for one in own)
        network = LibP2PNetwork(transport, clock, shared, addresses)
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run, listeners)
            try:
                yield network
            except BaseException as error:
                raised = error
                raise
            finally:
                await network.aclose()
    except BaseExceptionGroup as group:
        if raised is not None and group.exceptions == (raised,):
            raise raised from raised.__cause__
        raise
    finally:
        for listener in listeners:
            listener.socket.close()


def _host_of(stream: trio.SocketStream) -> str | None:
    """The IP address at the other end; None when it has gone already."""
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return None


def _transport(seed: bytes, limits: Limits, shared: Shared) -> Transport:
    """Import what is used of libp2p, a quarter of a second, and keep it from writing to stderr.

    Its logger is taken out of the hierarchy; without a handler there its warnings, which any stranger can
    provoke, would reach Python's handler of last resort. `Counters` tells the same. LIBP2P_DEBUG still works.
    """
    if "LIBP2P_DEBUG" not in os.environ:
        defer_packages()
    from dht.wire.libp2p_transport import Transport

    libp2p = logging.getLogger("libp2p")
    if not libp2p.handlers:
        libp2p.propagate = False
        libp2p.setLevel(logging.WARNING)
        libp2p.addHandler(logging.NullHandler())
    return Transport(seed, limits, shared)
