"""The wire of docs/protocol.md (§7) on one blocking socket: libp2p's layers by hand, then frames and methods.

Multistream-select, Noise XX, multistream-select, Yamux and multistream-select, and of them only what one
stream takes. While it waits for an answer it serves the other side's requests; nothing else runs.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any, Self

from nacl.public import PrivateKey
from nacl.signing import SigningKey, VerifyKey
from noise.connection import Keypair, NoiseConnection

from tests.protocol.second_format import Refused, agent_of, canonical, value_of

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


def framed(value: list[Any]) -> bytes:
    """A frame's bytes."""
    data = canonical(value)
    return struct.pack(">I", len(data)) + data


class Connection:
    """A dialled peer whose key is known after the handshake; `serve` answers it (None: unknown method)."""

    def __init__(self, place: tuple[str, int], key: SigningKey, serve: Serve) -> None:
        self._socket = socket.create_connection(place, timeout=SECONDS)
        self._serve, self._noise = serve, NoiseConnection.from_name(b"Noise_XX_25519_ChaChaPoly_SHA256")
        self._plain, self._stream = bytearray(), bytearray()
        self._last, self._credit = 0, WINDOW
        self._answers: dict[int, tuple[int, int, bytes]] = {}
        self._select(self._exactly, self._send, "/noise")
        self.agent = self._secure(key)
        self._select(self._read, self._write, "/yamux/1.0.0")
        self._yamux(UPDATE, SYN, 1)
        self._select(self._stream_read, self._stream_write, PROTOCOL)

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
        self.frame([self._last, REQUEST, method, body])
        return self._last

    def answer(self, wanted: int) -> bytes:
        """Wait for the answer to a request."""
        while wanted not in self._answers:
            self._take_frame()
        kind, third, body = self._answers.pop(wanted)
        if kind == REFUSAL:
            raise Declined(third, body.decode())
        return body

    def frame(self, value: list[Any]) -> None:
        """Send one frame."""
        self._stream_write(framed(value))

    def _take_frame(self) -> None:
        (size,) = struct.unpack(">I", self._stream_read(4))
        identifier, kind, third, body = value_of(self._stream_read(size))
        if kind != REQUEST:
            self._answers[identifier] = kind, third, body
        elif (reply := self._serve(third, body)) is None:
            self.frame([identifier, REFUSAL, UNKNOWN_METHOD, b"not here"])
        else:
            self.frame([identifier, RESPONSE, 0, reply])

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
        for line in ("/multistream/1.0.0", protocol):
            text = f"{line}\n".encode()
            write(bytes([len(text)]) + text)
        for line in ("/multistream/1.0.0", protocol):
            said = read(read(1)[0])
            if said != f"{line}\n".encode():
                raise Refused(f"{said!r} instead of {line}")

    # Yamux: the stream 1 is ours; streams that the other side opens are reset

    def _yamux(self, kind: int, flags: int, stream: int, length: int = 0, data: bytes = b"") -> None:
        self._write(struct.pack(">BBHII", 0, kind, flags, stream, length or len(data)) + data)

    def _stream_write(self, data: bytes) -> None:
        while data:
            while not self._credit:
                self._take_yamux()
            part, data = data[: min(self._credit, 16_384)], data[min(self._credit, 16_384) :]
            self._credit -= len(part)
            self._yamux(DATA, 0, 1, data=part)

    def _stream_read(self, size: int) -> bytes:
        while len(self._stream) < size:
            self._take_yamux()
        data = bytes(self._stream[:size])
        del self._stream[:size]
        return data

    def _take_yamux(self) -> None:
        _version, kind, flags, stream, length = struct.unpack(">BBHII", self._read(12))
        data = self._read(length) if kind == DATA else b""
        if kind == PING and flags & SYN:
            self._yamux(PING, ACK, 0, length)
        elif kind == GO_AWAY or (stream == 1 and flags & (FIN | RST)):
            raise EOFError("the other side closed the stream")
        elif stream and stream != 1 and flags & SYN:
            self._yamux(UPDATE, RST, stream)
        elif stream == 1 and kind == UPDATE:
            self._credit += length
        elif stream == 1 and data:
            self._stream += data
            self._yamux(UPDATE, 0, 1, len(data))
