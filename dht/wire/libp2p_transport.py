"""libp2p connections without libp2p's host: TCP, Noise, Yamux and multistream-select, put together here.

The parts are py-libp2p's own and the wire is libp2p's, so any libp2p node can connect. Its `Swarm` and
`BasicHost` are left out on measurement: there every dial waits 250 ms, an inbound connection keeps its place
(of 300) and its task until shutdown even when it closed long ago, listeners set SO_REUSEPORT so that two
daemons share a port unnoticed, cancelling leaks listeners, and identify, auto-connect and pruning run on each
connection. What is added here is bounds that the parts lack: how much a handshake may send and which keys it
may prove (an RSA key takes 85 ms to check), how many streams and unread bytes a peer may pile up (py-libp2p's
Yamux announces a window but does not enforce it), how quickly frames may come (`dht.wire.mux_guard`), and how
long a message or a write may take.

Noise is the only security protocol offered, Yamux the only muxer. Importing this module imports libp2p, three
quarters of a second, or a quarter after `dht.wire.libp2p_parts`; `dht.wire.libp2p_network` does so when a
network opens.
"""

from __future__ import annotations

import logging
import math
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
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError, IOException
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.patterns import PatternXX
from libp2p.security.noise.pb import noise_pb2
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.secure_session import SecureSession
from libp2p.security.security_multistream import SecurityMultistream
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamEOF, MuxedStreamError
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from noise.connection import Keypair, NoiseConnection

from chain.identity import agent_from_text
from dht.errors import BrokenTransport, FrameError, PeerUnreachable
from dht.network import PEER_ID_SIZE, PeerId
from dht.wire.exchange import ByteStream, PeerStalled, Shared
from dht.wire.limits import READ_SIZE, UNITS_AT_ONCE, Limits
from dht.wire.mux_guard import MuxGuard, read_header

if TYPE_CHECKING:
    from multiaddr import Multiaddr

MEASURING_S = 5.0
"""How long after its beginning a connection measures what a round trip takes."""

log = logging.getLogger(f"roseforest.{__name__}")

PROTOCOL = TProtocol("/roseforest/exchange/1")
"""The multistream-select name of our streams."""
MAX_HANDSHAKE_READ = 4096
"""Largest message of a handshake, and most that one negotiation may read in all; those of Noise XX and
multistream-select take a few hundred bytes."""
MAX_HANDSHAKE = 4 * MAX_HANDSHAKE_READ
"""Most that a connection may send until it is secured."""
NOISE_LENGTH = 2
"""Bytes of the length before a Noise message."""
ED25519_KEY = b"\x08\x01\x12\x20"
"""How the protobuf of an Ed25519 public key begins (type 1, 32 bytes), canonically; libp2p's peer id of one
holds the same."""
MAX_NOISE_READ = 65_535
"""Largest read once the connection is secured: one Noise message."""


class _Socket(IRawConnection):  # type: ignore[misc]
    """A TCP stream as libp2p wants it: bounded reads that return exactly what was asked, and timed writes."""

    def __init__(self, stream: trio.SocketStream, initiator: bool, limits: Limits) -> None:
        self.is_initiator = initiator
        self.max_read = MAX_HANDSHAKE_READ
        self._allowance = MAX_HANDSHAKE
        self._secured = False
        self._stream = stream
        self._limits = limits
        self._buffer = bytearray()
        self._closed = False

    async def read(self, n: int | None = None) -> bytes:
        if n is None or n > self.max_read:
            raise IOException(f"peer announces {n} bytes, {self.max_read} are allowed")
        if not self._secured:
            self._allowance -= n
            if self._allowance < 0:
                raise IOException(f"handshake of more than {MAX_HANDSHAKE} bytes")
        # A Noise message is its length, two bytes that may be long in coming, and at once the rest.
        begun = bool(self._buffer) or n > NOISE_LENGTH
        deadline = trio.current_time() + self._limits.frame_timeout if begun else math.inf
        while len(self._buffer) < n:
            try:
                with trio.move_on_at(deadline) as scope:
                    data = await self._stream.receive_some(READ_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionClosedError(f"connection lost: {error}", transport="tcp") from error
            if scope.cancelled_caught:
                raise IOException(f"message not finished within {self._limits.frame_timeout:g} s")
            if not data:
                break
            self._buffer += data
            if not begun:
                begun, deadline = True, trio.current_time() + self._limits.frame_timeout
        result = bytes(self._buffer[:n])
        del self._buffer[:n]
        return result

    def secured(self) -> None:
        """The handshake is over: Noise messages of any size may come."""
        self._secured, self.max_read = True, MAX_NOISE_READ

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


class _Ended(trio.TooSlowError):
    """Nothing more comes to Yamux. Its reader ends the connection on TooSlowError, and on that alone."""


class _Guarded:
    """The secured connection as Yamux reads it: header by header, each judged, paced and in time.

    Yamux's own reader never waits between the frames of one Noise message, and survives many errors; here
    every header is a checkpoint, and the first error is the end. `violation` says what the peer did wrong.
    """

    def __init__(self, secured: SecureSession, limits: Limits, shared: Shared, peer: PeerId) -> None:
        self.violation: FrameError | None = None
        self.is_initiator = secured.is_initiator
        self._secured = secured
        self._limits = limits
        self._shared = shared
        self._peer = peer
        self._parity = 0 if secured.is_initiator else 1
        self._guard = MuxGuard(limits, self._parity)
        self._buffer = bytearray()
        self._body = 0
        self._ended = False
        self._units = 0
        self._unread = 0
        self._deadline = math.inf
        self.muxed: Yamux | None = None

    async def read(self, n: int) -> bytes:
        """The next header, when Yamux asks for one, or the body that it announced."""
        if self._ended:
            raise _Ended
        try:
            await self._fill(n)
            data = bytes(self._buffer[:n])
            if self._body == 0:
                await self._judge(data)
            else:
                self._body = 0
        except Exception as error:
            self._ended = True
            clean = isinstance(error, (ConnectionClosedError, IncompleteReadError, PeerUnreachable))
            if self.violation is None and not clean:
                # only what Noise has authenticated is the peer's own doing
                broken = BrokenTransport(str(error) or repr(error))
                self.violation = error if isinstance(error, FrameError) else broken
            raise _Ended from error
        del self._buffer[:n]
        self._deadline = math.inf if not self._buffer else trio.current_time() + self._limits.frame_timeout
        return data

    async def _fill(self, n: int) -> None:
        while len(self._buffer) < n:
            begun = self._buffer or self._body
            if begun and self._deadline == math.inf:
                self._deadline = trio.current_time() + self._limits.frame_timeout
            with trio.move_on_at(self._deadline if begun else math.inf) as scope:
                message: bytes = await self._secured.read()
            if scope.cancelled_caught:
                raise BrokenTransport(f"Yamux frame not finished within {self._limits.frame_timeout:g} s")
            self._buffer += message
            await self._keep_pace()

    async def _keep_pace(self) -> None:
        """Count a unit against the peer; others get their turn now and then, also while it is within its
        pace."""
        self._units += 1
        if self._units == UNITS_AT_ONCE:
            await self._shared.keep_pace(self._shared.units, self._peer, self._units)
            self._units = 0

    async def _judge(self, data: bytes) -> None:
        header = read_header(data)
        assert self.muxed is not None
        buffers = self.muxed.stream_buffers
        unread = buffers.get(header.stream)
        theirs = sum(number % 2 == self._parity for number in self.muxed.streams)
        wrong = self._guard.check(header, None if unread is None else len(unread), theirs)
        if wrong is not None:
            raise FrameError(wrong)
        self._body = header.body
        self.count_unread()
        await self._keep_pace()

    def count_unread(self) -> None:
        """Take what waits in Yamux's buffers from the pool of memory, or give it back."""
        assert self.muxed is not None
        now = 0 if self._ended else self._body + sum(map(len, self.muxed.stream_buffers.values()))
        if not self._shared.budget.take(self._peer, now - self._unread):
            self._shared.counters.dropped += 1
            raise PeerUnreachable("no memory left for stream data")
        self._unread = now

    def release(self) -> None:
        """Give all memory back: nothing is read any more."""
        self._ended = True
        self._buffer.clear()
        self.count_unread()

    async def write(self, data: bytes) -> None:
        """Send; after a failure nothing is read either: Yamux would go on with all that it has."""
        try:
            await self._secured.write(data)
        except Exception:
            self._ended = True
            raise

    async def close(self) -> None:
        self._ended = True
        await self._secured.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None


class _CheckedNoise(NoiseConnection):  # type: ignore[misc]
    """A Noise handshake that refuses an identity which is no Ed25519 key before any work is done on it."""

    def read_message(self, data: bytes) -> bytearray:
        payload: bytearray = super().read_message(data)
        if payload:  # the first message has none
            key = noise_pb2.NoiseHandshakePayload.FromString(bytes(payload)).identity_key
            if len(key) != len(ED25519_KEY) + PEER_ID_SIZE or not key.startswith(ED25519_KEY):
                raise ValueError("the identity is no Ed25519 key")
        return payload


class _Pattern(PatternXX):  # type: ignore[misc]
    """libp2p's XX pattern on `_CheckedNoise`."""

    def create_noise_state(self, prologue: bytes | None = None) -> NoiseConnection:
        state = _CheckedNoise.from_name(self.protocol_name)
        state.set_keypair_from_private_bytes(Keypair.STATIC, self.noise_static_key.to_bytes())
        state.set_prologue(prologue or b"")
        return state


class _Noise(NoiseTransport):  # type: ignore[misc]
    """libp2p's Noise for Ed25519 identities only."""

    def get_pattern(self) -> PatternXX:
        return _Pattern(self.local_peer, self.libp2p_privkey, self.noise_privkey)


class _Negotiation(ReadWriteCloser):  # type: ignore[misc]
    """A connection as multistream-select reads it, with a bound on what a line may announce and on all lines
    together."""

    def __init__(
        self,
        read: Callable[[int], Awaitable[bytes]],
        write: Callable[[bytes], Awaitable[None]],
        is_initiator: bool,
    ) -> None:
        self.is_initiator = is_initiator
        self._read = read
        self._write = write
        self._left = MAX_HANDSHAKE_READ

    async def read(self, n: int | None = None) -> bytes:
        if n is None or n > self._left:
            raise IOException(f"peer announces {n} bytes, {self._left} are allowed")
        self._left -= n
        data = bytearray()
        while len(data) < n:
            data += await self._read(n - len(data))
        return bytes(data)

    async def write(self, data: bytes) -> None:
        await self._write(data)

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None


class _Stream(ByteStream):
    """A negotiated Yamux stream. Credit is given back in halves of a fixed window.

    (py-libp2p's own `YamuxStream.read` sends an update for every read and grows the window up to 16 MiB.)
    """

    def __init__(self, stream: YamuxStream, guarded: _Guarded, limits: Limits) -> None:
        self._stream = stream
        self._guarded = guarded
        self._credit_at = limits.stream_window // 2
        self._unacknowledged = 0

    async def read(self) -> bytes:
        try:
            data: bytes = await self._stream.conn.read_stream(self._stream.stream_id, READ_SIZE)
            self._guarded.count_unread()
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
        except MuxedStreamError as error:
            if self._stream.send_window <= 0 and not self._stream.closed:
                raise PeerStalled("peer gives no window to write into") from error
            raise PeerUnreachable(f"stream broke: {error!r}") from error
        except Exception as error:
            raise PeerUnreachable(f"stream broke: {error!r}") from error


class SecureConnection:
    """An authenticated, multiplexed connection. `run` must be running for anything else to make progress."""

    def __init__(
        self, raw: _Socket, muxed: Yamux, guarded: _Guarded, peer: PeerId, transport: Transport
    ) -> None:
        self.peer = peer
        self._raw = raw
        self._muxed = muxed
        self._guarded = guarded
        self._transport = transport

    async def run(self, serve: Callable[[ByteStream], Awaitable[None]]) -> None:
        """Accept streams, each served in its own task, until the connection ends. Closes the socket.

        Raises `FrameError` for what the peer did wrong below our streams; what `serve` raises ends the
        connection too, in an exception group.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._muxed.start)
                while True:
                    try:
                        stream = cast(YamuxStream, await self._muxed.accept_stream())
                    except MuxedConnUnavailable:
                        break
                    nursery.start_soon(self._serve, stream, serve)
                nursery.cancel_scope.cancel()
        finally:
            self.abort()
            self._guarded.release()
        if self._guarded.violation is not None:
            raise self._guarded.violation

    async def open(self) -> ByteStream:
        """Open a stream and agree on our protocol. Raises `PeerUnreachable`. Not to be cancelled midway."""
        try:
            with trio.fail_after(self._transport.limits.stream_timeout):
                await self._muxed.event_started.wait()
                stream = await self._muxed.open_stream()
                communicator = MultiselectCommunicator(self._negotiation(stream))
                await MultiselectClient().select_one_of([PROTOCOL], communicator)
        except Exception as error:
            raise PeerUnreachable(
                f"peer {self.peer.hex()[:8]} does not speak {PROTOCOL}: {error!r}"
            ) from error
        return _Stream(stream, self._guarded, self._transport.limits)

    def abort(self) -> None:
        """Close the socket at once."""
        self._raw.abort()

    async def _serve(self, stream: YamuxStream, serve: Callable[[ByteStream], Awaitable[None]]) -> None:
        if await self._negotiated(stream):
            await serve(_Stream(stream, self._guarded, self._transport.limits))
            await stream.close()
        self._forget(stream)

    async def _negotiated(self, stream: YamuxStream) -> bool:
        """Answer multistream-select; False, with the stream reset, when the peer wants something else."""
        try:
            with trio.fail_after(self._transport.limits.stream_timeout):
                communicator = MultiselectCommunicator(self._negotiation(stream))
                await self._transport.protocols.negotiate(communicator)
        except Exception as error:
            log.debug("peer %s opened a stream for something else: %r", self.peer.hex()[:8], error)
            self._forget(stream)
            await stream.reset()
            return False
        return True

    def _negotiation(self, stream: YamuxStream) -> _Negotiation:
        async def read(n: int) -> bytes:
            data: bytes = await self._muxed.read_stream(stream.stream_id, n)
            self._guarded.count_unread()
            return data

        return _Negotiation(read, stream.write, stream.is_initiator)

    def _forget(self, stream: YamuxStream) -> None:
        """Drop what Yamux would keep of a finished stream for a minute (data) or for good (its event)."""
        self._muxed.stream_buffers.pop(stream.stream_id, None)
        self._muxed.stream_events.pop(stream.stream_id, None)
        self._muxed.streams.pop(stream.stream_id, None)
        self._guarded.count_unread()


class Transport:
    """Turns TCP streams into `SecureConnection`s, with the identity that a 32-byte Ed25519 seed
    determines."""

    def __init__(self, seed: bytes, limits: Limits, shared: Shared | None = None) -> None:
        private = Ed25519PrivateKey.new(seed)
        pair = KeyPair(private, private.get_public_key())
        noise = _Noise(pair, noise_privkey=new_noise_key().private_key)
        self.limits = limits
        self.shared = Shared(limits) if shared is None else shared
        self.local: PeerId = pair.public_key.to_bytes()
        self.protocols = Multiselect({PROTOCOL: None})
        self._security = SecurityMultistream({NOISE: noise})
        self._muxer = MuxerMultistream({TProtocol(YAMUX): Yamux})

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
            raw.secured()
            remote = secured.get_remote_peer()
            peer = agent_from_text(remote.to_base58())
            await self._muxer.select_transport(_Negotiation(secured.read, secured.write, initiator))
            guarded = _Guarded(secured, self.limits, self.shared, peer)
            muxed = guarded.muxed = _Muxer(guarded, remote, is_initiator=initiator)
        except Exception as error:
            raw.abort()
            raise PeerUnreachable(f"handshake failed: {error!r}") from error
        except BaseException:
            raw.abort()
            raise
        return SecureConnection(raw, muxed, guarded, peer, self)


class _Muxer(Yamux):  # type: ignore[misc]  # libp2p has no types
    """Yamux that measures its round-trip time once, for its windows, and not twice a minute for ever.

    A node with hundreds of idle connections spent a seventh of its time so; who is alive our own pings tell.
    """

    async def _measure_rtt_loop(self) -> None:
        with trio.move_on_after(MEASURING_S):
            await super()._measure_rtt_loop()


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
