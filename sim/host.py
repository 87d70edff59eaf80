"""One host's end of the simulated network: the `Network` port, made by `sim.network.SimWorld.join`.

It keeps what the real adapter keeps (address book with back-off, connections that requests share, bounded
handlers, refusals) and leaves to the world, as its `Wire`, what lies between hosts: dialling, delay and loss.
The methods under "what the wire brings" are called by the world from the pump and do not wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Generic, Protocol, TypeVar

import trio

from dht.errors import (
    AddressError,
    FrameError,
    NetworkError,
    PeerUnreachable,
    RefusalCode,
    RequestRefused,
    RequestTimeout,
)
from dht.network import (
    EVENT_BACKLOG,
    MAX_BODY,
    Handler,
    OpenScreen,
    PeerDown,
    PeerEvent,
    PeerId,
    PeerUp,
    Screen,
)
from dht.wire.addresses import Address, AddressBook, parse_address
from dht.wire.exchange import Gate, banned_reason, too_fast
from dht.wire.frames import check_method
from dht.wire.limits import Limits
from sim.errors import HostError
from sim.trace import Event

log = logging.getLogger(f"roseforest.{__name__}")

T = TypeVar("T")


class Promise(Generic[T]):
    """A result that comes later, for any number of tasks; the first word counts."""

    def __init__(self) -> None:
        self._done = trio.Event()
        self._outcome: Callable[[], T] | None = None

    @property
    def settled(self) -> bool:
        """Whether the outcome is known."""
        return self._done.is_set()

    def resolve(self, value: T) -> None:
        """Let `wait` return `value`."""
        self._settle(lambda: value)

    def fail(self, kind: Callable[..., NetworkError], *args: object) -> None:
        """Let `wait` raise `kind(*args)`, a fresh one in each task."""

        def outcome() -> T:
            raise kind(*args)

        self._settle(outcome)

    async def wait(self) -> T:
        """Wait for the outcome; cancelling one task that waits changes nothing for the others."""
        await self._done.wait()
        assert self._outcome is not None
        return self._outcome()

    def _settle(self, outcome: Callable[[], T]) -> None:
        if not self._done.is_set():
            self._outcome = outcome
            self._done.set()


class Connection:
    """A connection between two hosts; each end forgets it on its own when it learns that it is gone."""

    __slots__ = ("_dialer", "_listener", "ready_us")

    def __init__(self, dialer: SimNetwork, listener: SimNetwork, ready_us: int) -> None:
        self._dialer = dialer
        self._listener = listener
        self.ready_us = ready_us
        """Virtual µs at which the dialer has it; what the listener sends earlier arrives then."""

    def other(self, end: SimNetwork) -> SimNetwork:
        """The end that is not `end`."""
        return self._listener if end is self._dialer else self._dialer


class Wire(Protocol):
    """What lies between hosts."""

    def dial(self, dialer: SimNetwork, goal: Address, promise: Promise[Connection]) -> None:
        """Begin to connect; `promise` is kept, in any case within `Limits.connect_timeout`."""
        ...

    def send(
        self,
        sender: SimNetwork,
        connection: Connection,
        event: Event,
        method: str,
        body: bytes,
        deliver: Callable[[SimNetwork], None],
    ) -> None:
        """Carry one message over `connection`, or lose it; `deliver` gets the end that it arrives at."""
        ...

    def tell_closed(self, end: SimNetwork, connection: Connection) -> None:
        """Bring the news that `end` has no such connection any more to the other end."""
        ...


class SimNetwork:
    """The `Network` port of one simulated host."""

    def __init__(self, wire: Wire, address: Address, listening: bool, limits: Limits) -> None:
        assert address.peer is not None
        self._wire = wire
        self._peer = address.peer
        self._own = (str(address),) if listening else ()
        self._limits = limits
        self._book = AddressBook(limits)
        self._gate = Gate(limits)
        self._handlers: dict[str, Handler] = {}
        self._open: dict[PeerId, list[Connection]] = {}
        self._dials: dict[tuple[str, int], Promise[Connection]] = {}
        self._numbers = count()
        self._asking: dict[int, tuple[Connection, Promise[bytes]]] = {}
        self._answering: dict[int, tuple[Connection, trio.CancelScope]] = {}
        self._streams: list[
            tuple[trio.MemorySendChannel[PeerEvent], trio.MemoryReceiveChannel[PeerEvent]]
        ] = []
        self._nursery: trio.Nursery | None = None
        self._screen: Screen = OpenScreen()
        self._closed = trio.Event()

    @property
    def local(self) -> PeerId:
        return self._peer

    @property
    def addresses(self) -> tuple[str, ...]:
        return () if self.closed else self._own

    def learn(self, peer: PeerId, addresses: Sequence[str]) -> None:
        if peer != self._peer:
            self._book.learn(peer, addresses)

    async def dial(self, address: str, timeout: float) -> PeerId:
        goal = parse_address(address)
        try:
            with trio.fail_after(max(0.0, timeout)):
                return (await self._dialled(goal)).other(self).local
        except trio.TooSlowError:
            raise RequestTimeout(f"nobody answered at {address} within {timeout:g} s") from None

    async def request(self, peer: PeerId, method: str, body: bytes, timeout: float) -> bytes:
        check_method(method)
        if len(body) > MAX_BODY:
            raise FrameError(f"body of {method!r} has {len(body)} bytes; at most {MAX_BODY} are allowed")
        with trio.CancelScope(deadline=trio.current_time() + max(0.0, timeout)):
            return await self._ask(await self._connection(peer), method, bytes(body))
        raise RequestTimeout(f"peer {short(peer)} did not answer {method!r} within {timeout:g} s")

    def register(self, method: str, handler: Handler) -> None:
        check_method(method)
        if method in self._handlers:
            raise ValueError(f"method {method!r} has a handler already")
        self._handlers[method] = handler

    def screen(self, screen: Screen) -> None:
        self._screen = screen

    def counters(self) -> dict[str, int]:
        return {}  # the world's trace counts for all hosts together

    def connected(self) -> tuple[PeerId, ...]:
        return tuple(sorted(self._open))

    def events(self) -> trio.MemoryReceiveChannel[PeerEvent]:
        send, receive = trio.open_memory_channel[PeerEvent](EVENT_BACKLOG)
        if self.closed:
            send.close()
        else:
            self._streams.append((send, receive))
        return receive

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    # The host's life.

    @property
    def closed(self) -> bool:
        """Whether the host has crashed or closed."""
        return self._closed.is_set()

    @property
    def nursery(self) -> trio.Nursery:
        """The tasks of this host, for whoever runs a node on it; a crash cancels them all."""
        if self._nursery is None:
            raise HostError(f"host {short(self._peer)} has not started")
        return self._nursery

    async def live(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the host's nursery until the network is closed and its tasks have ended."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await self._closed.wait()

    def close(self) -> None:
        """Drop everything at once, without waiting. Idempotent."""
        if self.closed:
            return
        self._closed.set()
        for connection in [connection for open_ in self._open.values() for connection in open_]:
            self.forget(connection)
            self._wire.tell_closed(self, connection)
        for promise in self._dials.values():
            promise.fail(PeerUnreachable, "the network is closed")
        self._dials.clear()
        for send, _ in self._streams:
            send.close()
        self._streams.clear()

    # Asking.

    async def _connection(self, peer: PeerId) -> Connection:
        if self.closed:
            raise PeerUnreachable("the network is closed")
        if peer == self._peer:
            raise PeerUnreachable("this peer is the node itself; ask it without the network")
        if peer in self._open:
            return self._open[peer][-1]
        addresses = self._book.addresses(peer)
        if not addresses:
            raise PeerUnreachable(f"no address of peer {short(peer)} is known; learn its address first")
        wait = self._book.wait(peer, trio.current_time())
        if wait > 0:
            raise PeerUnreachable(
                f"peer {short(peer)} did not answer lately; it can be dialled in {wait:.1f} s"
            )
        failures: list[str] = []
        for address in addresses:
            try:
                return await self._dialled(address)
            except NetworkError as error:
                failures.append(str(error))
        raise PeerUnreachable(f"peer {short(peer)} cannot be reached: {'; '.join(failures)}")

    async def _dialled(self, goal: Address) -> Connection:
        """The connection to whoever is at `goal`; tasks that want it at the same time share one dial."""
        if self.closed:
            raise PeerUnreachable("the network is closed")
        if goal.peer is not None and goal.peer in self._open:
            await trio.lowlevel.checkpoint()
            return self._open[goal.peer][-1]
        place = (goal.host, goal.port)
        promise = self._dials.get(place)
        if promise is None:
            promise = self._dials[place] = Promise()
            self._wire.dial(self, goal, promise)
        connection = await promise.wait()
        found = connection.other(self).local
        if goal.peer not in (None, found):
            raise AddressError(f"peer {short(found)} answered at {goal}; ask for its right address")
        return connection

    async def _ask(self, connection: Connection, method: str, body: bytes) -> bytes:
        under_way = sum(used is connection for used, _ in self._asking.values())
        if under_way >= self._limits.in_flight:
            peer = short(connection.other(self).local)
            reason = f"peer {peer}: {under_way} requests are in flight; ask less at a time"
            raise RequestRefused(RefusalCode.OVERLOADED, reason)
        number, promise = next(self._numbers), Promise[bytes]()

        def deliver(end: SimNetwork) -> None:
            end.asked(connection, number, method, body)

        self._asking[number] = (connection, promise)
        try:
            self._wire.send(self, connection, Event.REQUEST, method, body, deliver)
            return await promise.wait()
        finally:
            del self._asking[number]

    # Answering.

    async def _handle(
        self, connection: Connection, number: int, method: str, handler: Handler, body: bytes
    ) -> None:
        peer, ticket = connection.other(self).local, next(self._numbers)
        deadline = trio.current_time() + self._limits.handler_timeout
        try:
            with trio.CancelScope(deadline=deadline) as scope:
                self._answering[ticket] = (connection, scope)
                self._answer(connection, number, method, await self.answer(handler, peer, method, body))
            if scope.cancelled_caught and self.has(connection):
                log.error("%s took too long", self._who(method, peer))
                refusal = RequestRefused(RefusalCode.INTERNAL, "answering took too long")
                self._answer(connection, number, method, refusal)
        finally:
            del self._answering[ticket]
            self._gate.leave(peer)

    async def answer(
        self, handler: Handler, peer: PeerId, method: str, body: bytes
    ) -> bytes | RequestRefused:
        """Run a handler; what goes wrong in it becomes a refusal, logged if it is the handler's fault.

        Everything that this host answers goes through here.
        """
        try:
            wait = self._screen.wait(peer, method, len(body))
            if wait is None:
                return RequestRefused(RefusalCode.OVERLOADED, too_fast(method))
            if wait:
                await trio.sleep(wait)
            reply = await handler(peer, body)
        except RequestRefused as refusal:
            return refusal
        except Exception:
            log.exception("%s failed", self._who(method, peer))
            return RequestRefused(RefusalCode.INTERNAL, "internal error")
        if not isinstance(reply, bytes) or len(reply) > MAX_BODY:
            log.error("%s returned no bytes, or more than %d", self._who(method, peer), MAX_BODY)
            return RequestRefused(RefusalCode.INTERNAL, "internal error")
        return reply

    def _who(self, method: str, peer: PeerId) -> str:
        return f"handler of {method!r} on {short(self._peer)} for peer {short(peer)}"

    def _answer(
        self, connection: Connection, number: int, method: str, answer: bytes | RequestRefused
    ) -> None:
        def deliver(end: SimNetwork) -> None:
            end.answered(number, answer)

        if isinstance(answer, RequestRefused):
            body = f"{int(answer.code)} {answer.reason}".encode()
            self._wire.send(self, connection, Event.REFUSAL, method, body, deliver)
        else:
            self._wire.send(self, connection, Event.REPLY, method, answer, deliver)

    # What the wire brings.

    def has(self, connection: Connection) -> bool:
        """Whether this end holds the connection open."""
        return connection in self._open.get(connection.other(self).local, ())

    def opened(self, connection: Connection, address: Address | None) -> None:
        """A connection stands; `address` is where we dialled it."""
        peer = connection.other(self).local
        self._book.reached(peer, address)
        connections = self._open.setdefault(peer, [])
        connections.append(connection)
        if len(connections) == 1:
            self._publish(PeerUp(peer))

    def dial_ended(self, goal: Address, promise: Promise[Connection]) -> None:
        """The dial of `goal` is over: the next one starts afresh."""
        place = (goal.host, goal.port)
        if self._dials.get(place) is promise:
            del self._dials[place]

    def dial_failed(self, goal: Address, promise: Promise[Connection], why: str) -> None:
        """Nobody to talk to at `goal`, unless it came about before; its peer is left alone for a while."""
        if promise.settled:
            return
        self.dial_ended(goal, promise)
        if goal.peer is not None:
            self._book.failed(goal.peer, trio.current_time())
        promise.fail(PeerUnreachable, why)

    def forget(self, connection: Connection) -> None:
        """The connection is gone: fail what waits for it, cancel what is being answered on it."""
        peer = connection.other(self).local
        self._open[peer].remove(connection)
        for used, promise in self._asking.values():
            if used is connection:
                promise.fail(PeerUnreachable, f"connection to peer {short(peer)} was lost; try again later")
        for used, scope in self._answering.values():
            if used is connection:
                scope.cancel()
        if not self._open[peer]:
            del self._open[peer]
            self._publish(PeerDown(peer))

    def asked(self, connection: Connection, number: int, method: str, body: bytes) -> None:
        """A request has arrived."""
        handler = self._handlers.get(method)
        banned_s = self._screen.banned_for(connection.other(self).local)
        if banned_s > 0:
            refusal = RequestRefused(RefusalCode.BANNED, banned_reason(banned_s))
            self._answer(connection, number, method, refusal)
        elif handler is None:
            refusal = RequestRefused(RefusalCode.UNKNOWN_METHOD, f"no method {method!r}")
            self._answer(connection, number, method, refusal)
        elif not self._gate.enter(connection.other(self).local):
            refusal = RequestRefused(RefusalCode.OVERLOADED, "too many requests at a time")
            self._answer(connection, number, method, refusal)
        else:
            self.nursery.start_soon(self._handle, connection, number, method, handler, body)

    def answered(self, number: int, answer: bytes | RequestRefused) -> None:
        """The answer to request `number` has arrived; too late when nobody waits for it any more."""
        if number not in self._asking:
            return
        _, promise = self._asking[number]
        if isinstance(answer, RequestRefused):
            promise.fail(partial(RequestRefused, answer.code, answer.reason))
        else:
            promise.resolve(answer)

    def _publish(self, event: PeerEvent) -> None:
        for stream in list(self._streams):
            send, receive = stream
            try:
                if send.statistics().current_buffer_used == EVENT_BACKLOG:
                    receive.receive_nowait()
                send.send_nowait(event)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._streams.remove(stream)


def short(peer: PeerId) -> str:
    """A peer in messages: the first eight hex digits of its key."""
    return peer.hex()[:8]
