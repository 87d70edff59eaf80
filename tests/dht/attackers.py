"""Peers that misbehave, at every layer they can reach: a socket, Noise, Yamux, frames.

Each attacker is a real client over loopback that speaks correctly up to its layer, then says what it likes.
Nothing here ends by itself: tests give every loop a bound or a scope.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import psutil
import trio
from libp2p.exceptions import BaseLibp2pError

from dht.errors import NetworkError
from dht.network import PeerId
from dht.ports import SystemClock
from dht.wire.exchange import ByteStream
from dht.wire.frames import Frame, FrameDecoder, Request, encode_frame
from dht.wire.libp2p_network import LibP2PNetwork, open_libp2p_network
from dht.wire.libp2p_transport import PROTOCOL, SecureConnection, Transport, _Negotiation, _Socket
from dht.wire.limits import DEFAULT_LIMITS, WRITE_SIZE, Limits
from dht.wire.mux_guard import ACK, DATA, HEADER, RST, SYN, WINDOW

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
HANG = 20.0
"""Seconds after which a test that waits for something counts as hung."""
LAWLESS = replace(DEFAULT_LIMITS, streams=100_000, stream_window=1 << 30, held_bytes=1 << 30)
"""Limits of an attacker's own side: none that would get in its way."""
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, BaseLibp2pError, NetworkError, OSError)
"""How an attacker learns that it was dropped."""


def seed(number: int) -> bytes:
    return number.to_bytes(32, "big")


def key(number: int) -> PeerId:
    return Transport(seed(number), LAWLESS).local


async def echo(_sender: PeerId, body: bytes) -> bytes:
    return body


@asynccontextmanager
async def victim(limits: Limits = DEFAULT_LIMITS) -> AsyncIterator[LibP2PNetwork]:
    """A node with an echo method, under attack in a moment."""
    async with open_libp2p_network(seed(1), [LOOPBACK], SystemClock(), limits=limits) as network:
        network.register("echo", echo)
        yield network


def port_of(network: LibP2PNetwork) -> int:
    return int(network.addresses[0].split("/")[4])


@asynccontextmanager
async def socket_to(target: LibP2PNetwork) -> AsyncIterator[trio.SocketStream]:
    """Nothing but a TCP connection."""
    async with await trio.open_tcp_stream("127.0.0.1", port_of(target)) as stream:
        yield stream


async def until_closed(stream: trio.SocketStream) -> bytes:
    """What the other side says until it closes."""
    said = bytearray()
    with trio.fail_after(HANG), suppress(trio.BrokenResourceError):
        while data := await stream.receive_some(65536):
            said += data
    return bytes(said)


@dataclass
class Noise:
    """A secured connection without a multiplexer: whoever holds it is known, and has agreed on nothing."""

    raw: _Socket
    session: Any

    async def send(self, data: bytes) -> None:
        """One Noise message."""
        await self.session.write(data)

    def abort(self) -> None:
        self.raw.abort()


async def noise_to(target: LibP2PNetwork, number: int = 99) -> Noise:
    """Prove to be peer `number`, and stop there."""
    transport = Transport(seed(number), LAWLESS)
    raw = _Socket(await trio.open_tcp_stream("127.0.0.1", port_of(target)), True, LAWLESS)
    session = await transport._security.secure_outbound(raw, cast(Any, None))
    raw.secured()
    return Noise(raw, session)


class Mux(Noise):
    """A connection that has agreed on Yamux and sends frames of its own making."""

    async def frame(self, kind: int, flags: int, stream: int, length: int, body: bytes = b"") -> None:
        await self.send(HEADER.pack(0, kind, flags, stream, length) + body)

    async def data(self, stream: int, body: bytes) -> None:
        await self.frame(DATA, 0, stream, len(body), body)

    async def open(self, stream: int = 1) -> None:
        """Open a stream on which frames may follow, without waiting for a word of the other side."""
        hello = b"".join(
            bytes([len(line) + 1]) + line + b"\n" for line in (b"/multistream/1.0.0", PROTOCOL.encode())
        )
        await self.frame(WINDOW, SYN, stream, 0)
        await self.data(stream, hello)

    async def frames(self, stream: int, *frames: Frame) -> None:
        await self.data(stream, b"".join(map(encode_frame, frames)))

    async def drain(self) -> int:
        """Read until dropped; how many bytes came."""
        count = 0
        with suppress(*GONE):
            while data := await self.session.read():
                count += len(data)
        return count


async def mux_to(target: LibP2PNetwork, number: int = 99) -> Mux:
    """Prove to be peer `number`, agree on Yamux, and stop there."""
    noise = await noise_to(target, number)
    transport = Transport(seed(number), LAWLESS)
    await transport._muxer.select_transport(_Negotiation(noise.session.read, noise.session.write, True))
    return Mux(noise.raw, noise.session)


@asynccontextmanager
async def frames_to(target: LibP2PNetwork, number: int = 99) -> AsyncIterator[SecureConnection]:
    """A whole connection of our own making, of which the streams are the attacker's to write to."""
    transport = Transport(seed(number), LAWLESS)
    secure = await transport.secure(await trio.open_tcp_stream("127.0.0.1", port_of(target)), initiator=True)

    async def ignore(_stream: ByteStream) -> None:
        await trio.sleep_forever()

    async def run() -> None:
        with suppress(*GONE):
            await secure.run(ignore)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield secure
        nursery.cancel_scope.cancel()


async def write_all(stream: ByteStream, data: bytes) -> None:
    for start in range(0, len(data), WRITE_SIZE):
        await stream.write(data[start : start + WRITE_SIZE])


# What the honest get done, and what is left afterwards


@asynccontextmanager
async def honest(
    target: LibP2PNetwork, number: int = 7, known: bool = True
) -> AsyncIterator[Callable[[int], Any]]:
    """An honest peer; yields `ask(n)`, which has `n` requests answered one after the other."""
    async with open_libp2p_network(seed(number), (), SystemClock()) as network:
        await network.dial(target.addresses[0], HANG)
        if known:
            target.learn(network.local, ["/ip4/127.0.0.1/tcp/1"])

        async def ask(count: int) -> None:
            for n in range(count):
                body = b"%d" % n
                assert await network.request(target.local, "echo", body, HANG) == body

        yield ask


async def settled(network: LibP2PNetwork, name: str, value: int, most: bool = False) -> None:
    """Wait until a counter or gauge has this value (`most`: at least it)."""
    with trio.fail_after(HANG):
        while True:
            now = (network.counters() | network.gauges())[name]
            if now == value or (most and now >= value):
                return
            await trio.sleep(0.002)


@dataclass(frozen=True)
class Footprint:
    """What this process holds. `rss` in bytes."""

    descriptors: int
    threads: int
    tasks: int
    objects: int
    rss: int


def footprint() -> Footprint:
    """Measured after a full collection."""
    for _ in range(3):
        gc.collect()
    process = psutil.Process()
    return Footprint(
        descriptors=len(list(Path("/proc/self/fd").iterdir()))
        if Path("/proc/self/fd").exists()
        else process.num_fds(),
        threads=threading.active_count(),
        tasks=trio.lowlevel.current_statistics().tasks_living,
        objects=len(gc.get_objects()),
        rss=process.memory_info().rss,
    )


async def flat_again(before: Footprint, objects: int, rss: int) -> None:
    """Wait for descriptors, threads and tasks as before, and at most `objects` and `rss` bytes more."""
    excess = ["not measured"]
    with trio.move_on_after(HANG):
        while excess:
            await trio.sleep(0.05)
            now = footprint()
            more = {
                "descriptors": now.descriptors - before.descriptors,
                "threads": now.threads - before.threads,
                "tasks": now.tasks - before.tasks,
                "objects": now.objects - before.objects - objects,
                "bytes": now.rss - before.rss - rss,
            }
            excess = [f"{count} {what} too many" for what, count in more.items() if count > 0]
    assert not excess, excess


__all__ = [
    "ACK",
    "DATA",
    "GONE",
    "HANG",
    "LAWLESS",
    "LOOPBACK",
    "RST",
    "SYN",
    "WINDOW",
    "AsyncExitStack",
    "Footprint",
    "FrameDecoder",
    "Mux",
    "Noise",
    "Request",
    "flat_again",
    "footprint",
    "frames_to",
    "honest",
    "key",
    "mux_to",
    "noise_to",
    "settled",
    "socket_to",
    "until_closed",
    "victim",
    "write_all",
]
