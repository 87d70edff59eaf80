"""The wire of docs/protocol.md (§7) on one blocking socket: libp2p's layers by hand, then frames and methods.

Multistream-select, Noise XX, multistream-select, Yamux and multistream-select, and of them only what
a few streams take. While it waits for an answer it serves the other side's requests; nothing else runs.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from nacl.public import PrivateKey
from nacl.signing import SigningKey, VerifyKey
from noise.connection import Keypair, NoiseConnection

from tests.protocol.second_format import Refused, agent_of, canonical, value_of

MULTISTREAM = "/multistream/1.0.0"
PROTOCOL = "/roseforest/exchange/1"
WINDOW = 256 * 1024
SECONDS = 20.0
DATA, UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
REQUEST, RESPONSE, REFUSAL = range(3)
UNKNOWN_METHOD = 1
Serve = Callable[[str, bytes], bytes | None]


class Declined(Exception):
    """The other side refused a request."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code


def lined(text: str) -> bytes:
    """A line of multistream-select."""
    return bytes([len(text) + 1]) + f"{text}\n".encode()


def framed(value: list[Any]) -> bytes:
    """A frame's bytes."""
    data = canonical(value)
    return struct.pack(">I", len(data)) + data


@dataclass
class Stream:
    """A Yamux stream: what came and was not read, what may be sent, and whether the protocol is agreed."""

    number: int
    received: bytearray = field(default_factory=bytearray)
    credit: int = WINDOW
    agreed: bool = False

    def take(self, size: int) -> bytes:
        data = bytes(self.received[:size])
        del self.received[:size]
        return data


class Connection:
    """A dialled peer whose key is known after the handshake; `serve` answers it (None: unknown method).

    We ask on the stream that we open; what the other side asks comes, and is answered, on what it opens.
    """

    def __init__(self, place: tuple[str, int], key: SigningKey, serve: Serve) -> None:
        self._socket = socket.create_connection(place, timeout=SECONDS)
        self._serve, self._noise = serve, NoiseConnection.from_name(b"Noise_XX_25519_ChaChaPoly_SHA256")
        self._plain, self._last = bytearray(), 0
        self._own = Stream(1)
        self._streams = {1: self._own}
        self._answers: dict[int, tuple[int, int, bytes]] = {}
        self._select(self._exactly, self._send, "/noise")
        self.agent = self._secure(key)
        self._select(self._read, self._write, "/yamux/1.0.0")
        self._yamux(UPDATE, SYN, 1)
        self._select(self._own_read, self._own_write, PROTOCOL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, method: str, body: bytes) -> bytes:
        """The answer to a request, as bytes."""
        return self.answer(self.begin(method, body))

    def begin(self, method: str, body: bytes) -> int:
        """Send a request without waiting; returns its id."""
        self._last += 1
        self._own_write(framed([self._last, REQUEST, method, body]))
        return self._last

    def answer(self, wanted: int) -> bytes:
        """Wait for the answer to a request."""
        while wanted not in self._answers:
            (size,) = struct.unpack(">I", self._own_read(4))
            identifier, *said = value_of(self._own_read(size))
            self._answers[identifier] = (said[0], said[1], said[2])
        kind, third, body = self._answers.pop(wanted)
        if kind == REFUSAL:
            raise Declined(third, body.decode())
        if kind != RESPONSE:
            raise Refused("a question on the stream that we ask on")
        return body

    def serve_until(self, done: Callable[[], bool]) -> None:
        """Answer requests until something is so."""
        while not done():
            self._take_yamux()

    def _answer(self, stream: Stream) -> None:
        """Answer what is complete on a stream that the other side opened."""
        while stream.received:
            if not stream.agreed:
                if len(stream.received) <= (size := stream.received[0]):
                    return
                line = stream.take(size + 1)
                stream.agreed = line == lined(PROTOCOL)
                if line != lined(MULTISTREAM):
                    self._stream_write(stream, line if stream.agreed else lined("na"))
                continue
            size = int.from_bytes(stream.received[:4], "big")
            if len(stream.received) < 4 + size:
                return
            identifier, _, method, body = value_of(stream.take(4 + size)[4:])
            reply = self._serve(method, body)
            answer = [REFUSAL, UNKNOWN_METHOD, b"not here"] if reply is None else [RESPONSE, 0, reply]
            self._stream_write(stream, framed([identifier, *answer]))

    # TCP, Noise

    def _send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise EOFError("the other side closed")
            data += more
        return data

    def _secure(self, key: SigningKey) -> bytes:
        """Noise XX; returns the agent that the other side proves to be."""
        static = PrivateKey.generate()
        noise = self._noise
        noise.set_as_initiator()
        noise.set_keypair_from_private_bytes(Keypair.STATIC, bytes(static))
        noise.start_handshake()
        self._packet(noise.write_message())
        said = bytes(noise.read_message(self._exactly(struct.unpack(">H", self._exactly(2))[0])))
        theirs = noise.noise_protocol.handshake_state.rs.public_bytes
        ours = key.sign(b"noise-libp2p-static-key:" + bytes(static.public_key)).signature
        self._packet(noise.write_message(b"\x0a\x24\x08\x01\x12\x20" + agent_of(key) + b"\x12\x40" + ours))
        if said[:6] != b"\x0a\x24\x08\x01\x12\x20" or said[38:40] != b"\x12\x40":
            raise Refused("an identity that is not Ed25519")
        VerifyKey(said[6:38]).verify(b"noise-libp2p-static-key:" + theirs, said[40:104])
        return said[6:38]

    def _packet(self, data: bytes) -> None:
        self._send(struct.pack(">H", len(data)) + data)

    def _read(self, size: int) -> bytes:
        while len(self._plain) < size:
            (length,) = struct.unpack(">H", self._exactly(2))
            self._plain += self._noise.decrypt(self._exactly(length))
        data = bytes(self._plain[:size])
        del self._plain[:size]
        return data

    def _write(self, data: bytes) -> None:
        for at in range(0, len(data), 60_000):
            self._packet(self._noise.encrypt(data[at : at + 60_000]))

    # Multistream-select

    def _select(self, read: Callable[[int], bytes], write: Callable[[bytes], None], protocol: str) -> None:
        for line in (MULTISTREAM, protocol):
            write(lined(line))
        for line in (MULTISTREAM, protocol):
            said = read(read(1)[0])
            if said != lined(line)[1:]:
                raise Refused(f"{said!r} instead of {line}")

    # Yamux

    def _yamux(self, kind: int, flags: int, stream: int, length: int = 0, data: bytes = b"") -> None:
        self._write(struct.pack(">BBHII", 0, kind, flags, stream, length or len(data)) + data)

    def _own_read(self, size: int) -> bytes:
        while len(self._own.received) < size:
            self._take_yamux()
        return self._own.take(size)

    def _own_write(self, data: bytes) -> None:
        self._stream_write(self._own, data)

    def _stream_write(self, stream: Stream, data: bytes) -> None:
        while data:
            while not stream.credit:
                self._take_yamux()
            part, data = data[: min(stream.credit, 16_384)], data[min(stream.credit, 16_384) :]
            stream.credit -= len(part)
            self._yamux(DATA, 0, stream.number, data=part)

    def _take_yamux(self) -> None:
        _version, kind, flags, number, length = struct.unpack(">BBHII", self._read(12))
        data = self._read(length) if kind == DATA else b""
        if kind == PING and flags & SYN:
            self._yamux(PING, ACK, 0, length)
        elif kind == GO_AWAY or (number == 1 and flags & (FIN | RST)):
            raise EOFError("the other side closed the stream")
        elif flags & SYN:
            self._streams[number] = Stream(number)
            self._yamux(UPDATE, ACK, number)
            self._stream_write(self._streams[number], lined(MULTISTREAM))
        stream = self._streams.get(number)
        if stream is None:
            return
        if kind == UPDATE:
            stream.credit += length
        elif data:
            stream.received += data
            self._yamux(UPDATE, 0, number, len(data))
            if stream is not self._own:
                self._answer(stream)
