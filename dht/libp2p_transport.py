"""libp2p connections without libp2p's host: TCP, Noise, Yamux and multistream-select, put together here.

The parts are py-libp2p's own and the wire is libp2p's, so any libp2p node can connect. Its `Swarm` and
`BasicHost` are left out on measurement: there every dial waits 250 ms, an inbound connection keeps its place
(of 300) and its task until shutdown even when it closed long ago, listeners set SO_REUSEPORT so that two
daemons share a port unnoticed, cancelling leaks listeners, and identify, auto-connect and pruning run on each
connection. What is added here is bounds that the parts lack: how much a handshake may send, how many streams
and unread bytes a peer may pile up (py-libp2p's Yamux announces a window but does not enforce it), and how
long a write may take.

Noise is the only security protocol offered, Yamux the only muxer. Importing this module imports libp2p, about
a second; `dht.libp2p_network` does so when a network opens.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

import trio
from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.crypto.ed25519 import Ed25519PrivateKey
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as new_noise_key
from libp2p.custom_types import TProtocol
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.security_multistream import SecurityMultistream
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamEOF
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from chain.identity import agent_from_text
from dht.errors import PeerUnreachable
from dht.exchange import ByteStream
from dht.limits import READ_SIZE, Limits
from dht.network import PeerId

if TYPE_CHECKING:
    from multiaddr import Multiaddr

log = logging.getLogger(f"roseforest.{__name__}")

PROTOCOL = TProtocol("/roseforest/exchange/1")
"""The multistream-select name of our streams."""
MAX_HANDSHAKE_READ = 4096
"""Largest message of a handshake; those of Noise XX and multistream-select take a few hundred bytes."""
MAX_NOISE_READ = 65_535
"""Largest read once the connection is secured: one Noise message."""


class _Socket(IRawConnection):  # type: ignore[misc]
    """A TCP stream as libp2p wants it: bounded reads that return exactly what was asked, and timed writes."""

    def __init__(self, stream: trio.SocketStream, initiator: bool, limits: Limits) -> None:
        self.is_initiator = initiator
        self.max_read = MAX_HANDSHAKE_READ
        self._stream = stream
        self._limits = limits
        self._buffer = bytearray()
        self._closed = False

    async def read(self, n: int | None = None) -> bytes:
        if n is None or n > self.max_read:
            raise IOException(f"peer announces {n} bytes, {self.max_read} are allowed")
        while len(self._buffer) < n:
            try:
                data = await self._stream.receive_some(READ_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionClosedError(f"connection lost: {error}", transport="tcp") from error
            if not data:
                break
            self._buffer += data
        result = bytes(self._buffer[:n])
        del self._buffer[:n]
        return result

    async def write(self, data: bytes) -> None:
        try:
            with trio.move_on_after(self._limits.write_timeout) as scope:
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(f"connection lost: {error}", transport="tcp") from error
        if scope.cancelled_caught:
            self.abort()
            raise ConnectionClosedError("peer does not read", transport="tcp")

    async def close(self) -> None:
        self.abort()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Close at once, waking whoever reads or writes."""
        if not self._closed:
            self._closed = True
            self._stream.socket.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        if self._closed:
            return None
        try:
            host, port = self._stream.socket.getpeername()[:2]
        except OSError:
            return None
        return str(host), int(port)

    def get_transport_addresses(self) -> list[Multiaddr]:
        return []

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.DIRECT


class _WindowExceeded(trio.TooSlowError):
    """Unread data beyond every window. Yamux's reader ends the connection on TooSlowError, and on that
    alone."""


class _BoundedYamux(Yamux):  # type: ignore[misc]
    """Yamux that drops a peer which sends more than it was given credit for."""

    max_unread = 0

    async def _read_data_body(self, length: int) -> bytes:
        unread = sum(len(buffer) for buffer in self.stream_buffers.values())
        if unread + length > self.max_unread:
            raise _WindowExceeded
        body: bytes = await super()._read_data_body(length)
        return body


class _Negotiation(ReadWriteCloser):  # type: ignore[misc]
    """A Yamux stream as multistream-select reads it, with a bound on what a line may announce."""

    def __init__(self, stream: YamuxStream) -> None:
        self._stream = stream

    async def read(self, n: int | None = None) -> bytes:
        if n is None or n > MAX_HANDSHAKE_READ:
            raise IOException(f"peer announces {n} bytes, {MAX_HANDSHAKE_READ} are allowed")
        data = bytearray()
        while len(data) < n:
            data += await self._stream.conn.read_stream(self._stream.stream_id, n - len(data))
        return bytes(data)

    async def write(self, data: bytes) -> None:
        await self._stream.write(data)

    async def close(self) -> None:
        await self._stream.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None


class _Stream(ByteStream):
    """A negotiated Yamux stream. Credit is given back in halves of a fixed window.

    (py-libp2p's own `YamuxStream.read` sends an update for every read and grows the window up to 16 MiB.)
    """

    def __init__(self, stream: YamuxStream, limits: Limits) -> None:
        self._stream = stream
        self._credit_at = limits.stream_window // 2
        self._unacknowledged = 0

    async def read(self) -> bytes:
        try:
            data: bytes = await self._stream.conn.read_stream(self._stream.stream_id, READ_SIZE)
            self._unacknowledged += len(data)
            if self._unacknowledged >= self._credit_at:
                credit, self._unacknowledged = self._unacknowledged, 0
                self._stream.recv_window += credit
                await self._stream.send_window_update(credit)
        except MuxedStreamEOF:
            return b""
        except Exception as error:
            raise PeerUnreachable(f"stream broke: {error!r}") from error
        return data

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except Exception as error:
            raise PeerUnreachable(f"stream broke: {error!r}") from error


class SecureConnection:
    """An authenticated, multiplexed connection. `run` must be running for anything else to make progress."""

    def __init__(self, raw: _Socket, muxed: _BoundedYamux, peer: PeerId, transport: Transport) -> None:
        self.peer = peer
        self._raw = raw
        self._muxed = muxed
        self._transport = transport

    async def run(self, serve: Callable[[ByteStream], Awaitable[None]]) -> None:
        """Accept streams, each served in its own task, until the connection ends. Closes the socket.

        Raises `FrameError` when the peer opens too many streams; what `serve` raises ends the connection too.
        Either comes in an exception group.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._muxed.start)
                while True:
                    try:
                        stream = cast(YamuxStream, await self._muxed.accept_stream())
                    except MuxedConnUnavailable:
                        break
                    if len(self._muxed.streams) > self._transport.limits.streams:
                        raise PeerUnreachable(
                            f"peer opened more than {self._transport.limits.streams} streams"
                        )
                    nursery.start_soon(self._serve, stream, serve)
                nursery.cancel_scope.cancel()
        finally:
            self.abort()

    async def open(self) -> ByteStream:
        """Open a stream and agree on our protocol. Raises `PeerUnreachable`. Not to be cancelled midway."""
        try:
            with trio.fail_after(self._transport.limits.stream_timeout):
                await self._muxed.event_started.wait()
                stream = await self._muxed.open_stream()
                communicator = MultiselectCommunicator(_Negotiation(stream))
                await MultiselectClient().select_one_of([PROTOCOL], communicator)
        except Exception as error:
            raise PeerUnreachable(
                f"peer {self.peer.hex()[:8]} does not speak {PROTOCOL}: {error!r}"
            ) from error
        return _Stream(stream, self._transport.limits)

    def abort(self) -> None:
        """Close the socket at once."""
        self._raw.abort()

    async def _serve(self, stream: YamuxStream, serve: Callable[[ByteStream], Awaitable[None]]) -> None:
        if await self._negotiated(stream):
            await serve(_Stream(stream, self._transport.limits))
            await stream.close()
        self._forget(stream)

    async def _negotiated(self, stream: YamuxStream) -> bool:
        """Answer multistream-select; False, with the stream reset, when the peer wants something else."""
        try:
            with trio.fail_after(self._transport.limits.stream_timeout):
                communicator = MultiselectCommunicator(_Negotiation(stream))
                await self._transport.protocols.negotiate(communicator)
        except Exception as error:
            log.debug("peer %s opened a stream for something else: %r", self.peer.hex()[:8], error)
            self._forget(stream)
            await stream.reset()
            return False
        return True

    def _forget(self, stream: YamuxStream) -> None:
        """Drop what Yamux would keep of a finished stream for a minute (data) or for good (its event)."""
        self._muxed.stream_buffers.pop(stream.stream_id, None)
        self._muxed.stream_events.pop(stream.stream_id, None)
        self._muxed.streams.pop(stream.stream_id, None)


class Transport:
    """Turns TCP streams into `SecureConnection`s, with the identity that a 32-byte Ed25519 seed
    determines."""

    def __init__(self, seed: bytes, limits: Limits) -> None:
        private = Ed25519PrivateKey.new(seed)
        pair = KeyPair(private, private.get_public_key())
        noise = NoiseTransport(pair, noise_privkey=new_noise_key().private_key)
        self.limits = limits
        self.local: PeerId = pair.public_key.to_bytes()
        self.protocols = Multiselect({PROTOCOL: None})
        self._security = SecurityMultistream({NOISE: noise})
        self._muxer = MuxerMultistream({TProtocol(YAMUX): _BoundedYamux})

    async def secure(self, stream: trio.SocketStream, initiator: bool) -> SecureConnection:
        """Authenticate the peer at the other end; the caller bounds the time. Closes the socket on failure.

        Raises `PeerUnreachable` when the peer does not offer Noise and Yamux, proves no identity, or one that
        is no Ed25519 key.
        """
        raw = _Socket(stream, initiator, self.limits)
        try:
            _keep_alive(stream, self.limits.keepalive)
            if initiator:
                # The remote's identity is proven whoever was expected; the caller compares it.
                secured = await self._security.secure_outbound(raw, cast(ID, None))
            else:
                secured = await self._security.secure_inbound(raw)
            raw.max_read = MAX_NOISE_READ
            remote = secured.get_remote_peer()
            peer = agent_from_text(remote.to_base58())
            await self._muxer.select_transport(secured)
            muxed = _BoundedYamux(secured, remote, is_initiator=initiator)
            muxed.max_unread = self.limits.streams * self.limits.stream_window
        except Exception as error:
            raw.abort()
            raise PeerUnreachable(f"handshake failed: {error!r}") from error
        except BaseException:
            raw.abort()
            raise
        return SecureConnection(raw, muxed, peer, self)


def _keep_alive(stream: trio.SocketStream, seconds: float) -> None:
    """Have the kernel notice a vanished peer (Linux; elsewhere its defaults stay)."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    probes = 3
    if hasattr(socket, "TCP_KEEPIDLE"):
        interval = max(1, int(seconds / (2 * probes)))
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(seconds / 2)))
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
