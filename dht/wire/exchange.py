"""Questions and answers over one byte stream: the asking side (`Asker`) and the answering side (`answer`).

The side that opened the stream asks, the other answers; ids let any number of questions share the stream, in
any order. Nobody can make the other wait or grow without limit: both sides always read; what waits to be
written, what is being answered and what is half received is counted against `Limits`; a peer that sends
nonsense, stalls in the middle of a frame or does not read loses its connection. Both sides return when the
peer ends the stream, and raise, in an exception group, `FrameError` when it broke the rules and
`PeerUnreachable` when the stream did; the caller then drops the connection.

This module knows no libp2p: any ordered byte stream will do.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Protocol

import trio

from dht.errors import BrokenTransport, FrameError, PeerUnreachable, RefusalCode, RequestRefused
from dht.network import MAX_BODY, Handler, OpenScreen, PeerId, Screen
from dht.wire.counters import Counters
from dht.wire.frames import MAX_ID, Frame, FrameDecoder, Refusal, Request, Response, encode_frame
from dht.wire.limits import FEED_SIZE, WRITE_SIZE, Limits
from dht.wire.memory import Budget
from dht.wire.pace import Pace

log = logging.getLogger(f"roseforest.{__name__}")

_REFUSAL_ROOM = 64 * 1024
"""Bytes beyond `Limits.queue_bytes` that only refusals may use, so that a full queue can still say so."""


class PeerStalled(PeerUnreachable):
    """A write that the peer left no room for."""


class ByteStream(Protocol):
    """An ordered, reliable stream to an authenticated peer. Cancelling `write` leaves it unusable."""

    async def read(self) -> bytes:
        """The next bytes, at least one; b"" when the peer has ended the stream. Raises `PeerUnreachable`."""
        ...

    async def write(self, data: bytes) -> None:
        """Write at most `WRITE_SIZE` bytes. Raises `PeerUnreachable`, `PeerStalled` of them."""
        ...


class Gate:
    """Counts the requests being answered, per peer and in all.

    A few places are every peer's own, so that a newcomer finds one however many others ask for all they can
    get; the bound on connections bounds these.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._running: Counter[PeerId] = Counter()
        self._total = 0

    def enter(self, peer: PeerId) -> bool:
        """Take a place; False when there is none."""
        running = self._running.get(peer, 0)
        shared = running < self._limits.handlers_per_peer and self._total < self._limits.handlers
        if not shared and running >= self._limits.handlers_own:
            return False
        self._running[peer] += 1
        self._total += 1
        return True

    def running(self, peer: PeerId) -> int:
        """How many requests of `peer` are being answered."""
        return self._running.get(peer, 0)

    def leave(self, peer: PeerId) -> None:
        """Give the place back."""
        self._total -= 1
        self._running[peer] -= 1
        if not self._running[peer]:
            del self._running[peer]


class Shared:
    """What all streams of one network have in common."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.counters = Counters()
        self.budget = Budget(limits.held_bytes)
        self.gate = Gate(limits)
        self.requests: Pace[PeerId] = Pace(limits.requests, limits.paced_peers)
        self.units: Pace[PeerId] = Pace(limits.units, limits.paced_peers)
        self.handlers: dict[str, Handler] = {}
        self.screen: Screen = OpenScreen()

    async def keep_pace(self, pace: Pace[PeerId], peer: PeerId, count: int) -> None:
        """Let `peer` wait when it is beyond its pace. Always a checkpoint."""
        wait = pace.delay(peer, count, trio.current_time())
        if wait:
            self.counters.slowed += 1
            await trio.sleep(wait)
        else:
            await trio.lowlevel.checkpoint()


class Outbox:
    """Frames waiting to be written, in order, bounded in bytes; a waiting frame can still be withdrawn."""

    def __init__(self, stream: ByteStream, peer: PeerId, shared: Shared) -> None:
        self._stream = stream
        self._peer = peer
        self._shared = shared
        self._waiting: OrderedDict[int, bytes] = OrderedDict()
        self._size = 0
        self._wake = trio.Event()

    def put(self, number: int, frame: bytes, room: int = 0) -> bool:
        """Queue a frame; False when it does not fit (`room`: extra bytes that may be used)."""
        fits = self._size + len(frame) <= self._shared.limits.queue_bytes + room
        if not fits or number in self._waiting or not self._shared.budget.take(self._peer, len(frame)):
            return False
        self._waiting[number] = frame
        self._size += len(frame)
        self._wake.set()
        return True

    def withdraw(self, number: int) -> bool:
        """Forget a frame if it is still waiting; whether it was."""
        frame = self._waiting.pop(number, None)
        if frame is not None:
            self._release(len(frame))
        return frame is not None

    async def run(self) -> None:
        """Write until cancelled. Raises `PeerUnreachable`, also when the peer does not read in time."""
        try:
            while True:
                while not self._waiting:
                    self._wake = trio.Event()
                    await self._wake.wait()
                await self._write(self._batch())
        finally:
            for number in list(self._waiting):
                self.withdraw(number)

    def _batch(self) -> bytes:
        """Take the first frame and those behind it that fit the same write."""
        batch = bytearray()
        while self._waiting:
            number, frame = next(iter(self._waiting.items()))
            if batch and len(batch) + len(frame) > WRITE_SIZE:
                break
            del self._waiting[number]
            self._shared.counters.frames_out += 1
            batch += frame
        return bytes(batch)

    async def _write(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), WRITE_SIZE):
                with trio.move_on_after(self._shared.limits.write_timeout) as scope:
                    await self._stream.write(data[start : start + WRITE_SIZE])
                if scope.cancelled_caught:
                    raise PeerStalled(f"peer read nothing for {self._shared.limits.write_timeout:g} s")
            self._shared.counters.bytes_out += len(data)
        except PeerStalled:
            self._shared.counters.dropped += 1
            raise
        finally:
            self._release(len(data))

    def _release(self, count: int) -> None:
        self._size -= count
        self._shared.budget.give(self._peer, count)


async def _read_frames(
    stream: ByteStream, peer: PeerId, shared: Shared, receive: Callable[[Frame], None]
) -> None:
    """Hand every frame to `receive` until the peer ends the stream, no quicker than the peer's pace."""
    limits, counters = shared.limits, shared.counters
    decoder = FrameDecoder()
    held = 0
    deadline = math.inf
    try:
        while True:
            with trio.move_on_at(deadline) as scope:
                data = await stream.read()
            if scope.cancelled_caught:
                raise BrokenTransport(
                    f"frame not finished within {limits.frame_timeout:g} s; connection dropped"
                )
            if not data:
                return
            counters.bytes_in += len(data)
            at = 0
            while at < len(data):
                piece = data[at : at + max(FEED_SIZE, decoder.missing)]
                at += len(piece)
                frames = decoder.feed(piece)
                if not shared.budget.take(peer, decoder.buffered - held):
                    counters.dropped += 1
                    raise PeerUnreachable(f"no memory left for frames (limit {limits.held_bytes} bytes)")
                held = decoder.buffered
                counters.frames_in += len(frames)
                for frame in frames:
                    receive(frame)
                if frames:
                    await shared.keep_pace(shared.requests, peer, len(frames))
                if not held:
                    deadline = math.inf
                elif frames or deadline == math.inf:
                    deadline = trio.current_time() + limits.frame_timeout
    finally:
        shared.budget.give(peer, held)


class _Question:
    """One request under way: what will be known when `done` is set."""

    __slots__ = ("done", "reply")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.reply: Response | Refusal | None = None


class Asker:
    """The asking side of one stream. `run` must be running for `ask` to make progress."""

    def __init__(self, stream: ByteStream, peer: PeerId, shared: Shared) -> None:
        self._stream = stream
        self._peer = peer
        self._shared = shared
        self._outbox = Outbox(stream, peer, shared)
        self._questions: dict[int, _Question] = {}
        self._abandoned: OrderedDict[int, None] = OrderedDict()
        self._next = 0
        self._open = True

    @property
    def busy(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._questions)

    async def ask(self, method: str, body: bytes) -> bytes:
        """Ask and wait for the answer, however long it takes; cancelling frees the slot.

        Raises `RequestRefused` (by the peer, or OVERLOADED when too much is under way already) and
        `PeerUnreachable` as soon as the stream is gone.
        """
        counters = self._shared.counters
        if not self._open:
            raise self._lost()
        if len(self._questions) >= self._shared.limits.in_flight:
            counters.refused_out += 1
            raise self._overloaded(f"{len(self._questions)} requests are in flight")
        number = self._next
        self._next = (self._next + 1) & MAX_ID
        self._abandoned.pop(number, None)
        frame = encode_frame(Request(number, method, body))
        if number in self._questions or not self._outbox.put(number, frame):
            counters.refused_out += 1
            raise self._overloaded("its queue is full")
        question = self._questions[number] = _Question()
        counters.requests_out += 1
        try:
            await question.done.wait()
        finally:
            del self._questions[number]
            if not self._outbox.withdraw(number) and question.reply is None:
                self._abandon(number)
        if question.reply is None:
            raise self._lost()
        if isinstance(question.reply, Refusal):
            raise RequestRefused(question.reply.code, question.reply.reason)
        return question.reply.body

    async def run(self) -> None:
        """Send and receive until the stream ends, then fail every open question."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._outbox.run)
                await _read_frames(self._stream, self._peer, self._shared, self._receive)
                nursery.cancel_scope.cancel()
        finally:
            self._open = False
            for question in self._questions.values():
                question.done.set()

    def _receive(self, frame: Frame) -> None:
        if isinstance(frame, Request):
            raise FrameError("peer asks on the stream that it should answer on")
        question = self._questions.get(frame.id)
        if question is not None and not question.done.is_set():
            question.reply = frame
            question.done.set()
        elif frame.id in self._abandoned:
            del self._abandoned[frame.id]
            self._shared.counters.late += 1
        else:
            raise FrameError(f"peer answers request {frame.id}, which is not open")

    def _abandon(self, number: int) -> None:
        """The answer to `number` is no longer wanted, and may still come once."""
        self._abandoned[number] = None
        while len(self._abandoned) > self._shared.limits.abandoned:
            self._abandoned.popitem(last=False)

    def _lost(self) -> PeerUnreachable:
        return PeerUnreachable(f"connection to peer {self._peer.hex()[:8]} was lost; try again later")

    def _overloaded(self, what: str) -> RequestRefused:
        return RequestRefused(
            RefusalCode.OVERLOADED, f"peer {self._peer.hex()[:8]}: {what}; ask less at a time"
        )


async def answer(
    stream: ByteStream,
    peer: PeerId,
    shared: Shared,
    touch: Callable[[], None],
    running: set[int] | None = None,
) -> None:
    """Answer the requests of `peer` on `stream` until it ends the stream; `touch` is called for each.

    `running`, when given, holds the numbers of those that are being answered.

    Requests are answered side by side. Handlers still running when the stream ends are cancelled.
    """
    outbox = Outbox(stream, peer, shared)
    limits, counters = shared.limits, shared.counters
    running = set() if running is None else running
    refused_banned = 0

    def refuse(number: int, code: int, reason: str) -> None:
        counters.refused_in += 1
        frame = encode_frame(Refusal(number, code & 0xFFFF, reason))
        if not outbox.put(number, frame, room=_REFUSAL_ROOM):
            counters.dropped += 1
            raise PeerUnreachable("peer sends requests without reading the answers")

    async def in_pace(request: Request) -> None:
        """Wait as the screen says; raises `RequestRefused` when the peer asks too fast."""
        wait = shared.screen.wait(peer, request.method, len(request.body))
        if wait is None:
            raise RequestRefused(RefusalCode.OVERLOADED, too_fast(request.method))
        if wait:
            counters.slowed += 1
            await trio.sleep(wait)

    def turn_away(number: int, seconds: float) -> None:
        nonlocal refused_banned
        counters.banned += 1
        refused_banned += 1
        refuse(number, RefusalCode.BANNED, banned_reason(seconds))
        if refused_banned > limits.banned_requests:
            counters.dropped += 1
            raise PeerUnreachable("peer is banned and goes on asking")

    async def handle(request: Request, handler: Handler) -> None:
        try:
            refusal: tuple[int, str] | None = None
            body = b""
            try:
                await in_pace(request)
                body = await _call(handler, peer, request, limits)
            except RequestRefused as error:
                refusal = (error.code, error.reason)
            if refusal is None and not outbox.put(request.id, encode_frame(Response(request.id, body))):
                refusal = (RefusalCode.OVERLOADED, "answers are not read fast enough")
            if refusal is not None:
                refuse(request.id, *refusal)
        finally:
            running.discard(request.id)
            shared.gate.leave(peer)
            shared.budget.give(peer, len(request.body))

    def receive(frame: Frame) -> None:
        if not isinstance(frame, Request):
            raise FrameError("peer answers on the stream that it should ask on")
        if frame.id in running:
            raise FrameError(f"peer asks request {frame.id} again while it is being answered")
        touch()
        counters.requests_in += 1
        handler = shared.handlers.get(frame.method)
        banned_s = shared.screen.banned_for(peer)
        if banned_s > 0:
            turn_away(frame.id, banned_s)
        elif handler is None:
            refuse(frame.id, RefusalCode.UNKNOWN_METHOD, f"no method {frame.method!r}")
        elif not shared.gate.enter(peer):
            refuse(frame.id, RefusalCode.OVERLOADED, "too many requests at a time")
        elif not shared.budget.take(peer, len(frame.body)):
            shared.gate.leave(peer)
            refuse(frame.id, RefusalCode.OVERLOADED, "too many bytes at a time")
        else:
            running.add(frame.id)
            nursery.start_soon(handle, frame, handler)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        await _read_frames(stream, peer, shared, receive)
        nursery.cancel_scope.cancel()


def too_fast(method: str) -> str:
    """What a peer beyond its pace is told."""
    return f"you ask {method!r} too fast; ask less a second"


def banned_reason(seconds: float) -> str:
    """What a banned peer is told."""
    return f"banned for {max(1, round(seconds))} s more: what you sent did not verify"


async def _call(handler: Handler, peer: PeerId, request: Request, limits: Limits) -> bytes:
    """Run a handler; whatever goes wrong in it becomes a `RequestRefused`, and is logged if it is our
    fault."""
    who = f"handler of {request.method!r} for peer {peer.hex()[:8]}"
    try:
        with trio.move_on_after(limits.handler_timeout) as scope:
            body = await handler(peer, request.body)
        if scope.cancelled_caught:
            log.error("%s was cancelled after %g s", who, limits.handler_timeout)
            raise RequestRefused(RefusalCode.INTERNAL, "answering took too long")
    except RequestRefused:
        raise
    except Exception as error:
        log.exception("%s failed", who)
        raise RequestRefused(RefusalCode.INTERNAL, "internal error") from error
    if not isinstance(body, bytes) or len(body) > MAX_BODY:
        log.error("%s returned no bytes, or more than %d", who, MAX_BODY)
        raise RequestRefused(RefusalCode.INTERNAL, "internal error")
    return body
