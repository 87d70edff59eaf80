"""The `Network` port: the only way one node talks to another.

A node asks (`request`) and answers (`register`); the peer it talks to is always authenticated, because a
`PeerId` *is* the agent's Ed25519 public key and every adapter proves possession of it. The port promises
bounded behaviour rather than success: each call ends within its timeout with a reply or one of the errors in
`dht.errors`, and no peer can make the implementation hang or grow without limit. `dht.wire.libp2p_network` is
the adapter over real sockets; a simulated one serves tests and scenarios.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import trio

PeerId: TypeAlias = bytes
"""An agent's 32-byte Ed25519 public key."""

Handler: TypeAlias = Callable[[PeerId, bytes], Awaitable[bytes]]
"""(authenticated sender, request body) -> reply body. Raise `RequestRefused` to answer with an error code.

A handler may be cancelled at any checkpoint: its asker went away, or it took too long.
"""

PEER_ID_SIZE = 32
"""Bytes in a `PeerId`."""
MAX_METHOD_CHARS = 64
"""Longest method name, in characters (ASCII)."""
MAX_BODY = 1 << 20
"""Largest request or reply body in bytes; a frame adds a little to it (`dht.wire.frames.MAX_FRAME`)."""
EVENT_BACKLOG = 256
"""Events kept for one slow reader of `Network.events`; beyond it the oldest are dropped."""


@dataclass(frozen=True, slots=True)
class PeerUp:
    """The first connection to `peer` stands."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class PeerDown:
    """The last connection to `peer` is gone."""

    peer: PeerId


PeerEvent: TypeAlias = PeerUp | PeerDown


class Screen(Protocol):
    """What a node thinks of peers, for its network to act on. All are O(1) and called for every request."""

    def banned_for(self, peer: PeerId) -> float:
        """Seconds for which `peer` is still banned; 0 for everybody else."""
        ...

    def wait(self, peer: PeerId, method: str, size: int) -> float | None:
        """Seconds to wait before answering a request of `size` bytes; None: refuse it as OVERLOADED."""
        ...

    def garbage(self, peer: PeerId) -> None:
        """`peer` sent bytes that are no frame, or one at the wrong time."""
        ...


class OpenScreen:
    """Nobody is banned, and nothing is remembered."""

    def banned_for(self, peer: PeerId) -> float:
        """0 seconds."""
        return 0.0

    def wait(self, peer: PeerId, method: str, size: int) -> float | None:
        """0 seconds."""
        return 0.0

    def garbage(self, peer: PeerId) -> None:
        """Nothing."""


class Network(Protocol):
    """Ask peers, answer peers, know who is connected.

    Cancelling any of the coroutines is safe at every checkpoint: a cancelled `request` frees its slot and its
    late reply is dropped; a cancelled `dial` leaves a dial that others share running.
    """

    @property
    def local(self) -> PeerId:
        """Our own peer id."""
        ...

    @property
    def addresses(self) -> tuple[str, ...]:
        """Multiaddrs at which others can dial us, each ending in /p2p/<peer id>; empty without a listener."""
        ...

    def learn(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Put addresses of `peer` into the bounded address book, replacing what it held about that peer.

        The caller has verified them (signed address record); an address that worked stays known. Malformed
        or undialable addresses and those naming another peer raise `AddressError` and change nothing.
        """
        ...

    async def dial(self, address: str, timeout: float) -> PeerId:
        """Connect to a multiaddr and return who answered. Seconds.

        A /p2p/ part must match the peer that answers. Raises `AddressError` (malformed, or another
        peer than named), `PeerUnreachable`, `RequestTimeout`.
        """
        ...

    async def request(self, peer: PeerId, method: str, body: bytes, timeout: float) -> bytes:
        """Ask `peer` and return its reply body; connects first if need be. Seconds, all included.

        Raises `RequestTimeout`; `PeerUnreachable` (no address, dial failed or backing off, connection lost);
        `RequestRefused` (the peer's error code, or OVERLOADED when too much is already in flight to it).
        """
        ...

    def register(self, method: str, handler: Handler) -> None:
        """Answer `method` with `handler`; one handler a method (ValueError for a second one)."""
        ...

    def screen(self, screen: Screen) -> None:
        """Refuse every request of a peer that `screen` says is banned, with the code BANNED, answer others
        at the pace it says, and tell it of garbage. A banned peer that goes on asking is disconnected."""
        ...

    def counters(self) -> dict[str, int]:
        """What happened since the start, by name, for metrics; the names are the adapter's own."""
        ...

    def connected(self) -> tuple[PeerId, ...]:
        """Peers with a live connection, sorted."""
        ...

    def events(self) -> trio.MemoryReceiveChannel[PeerEvent]:
        """A new stream of `PeerUp` and `PeerDown` from now on, in order.

        Each holds `EVENT_BACKLOG` events and drops the oldest beyond; `connected()` is the truth to resync
        with. Ends when the network closes.
        """
        ...

    async def aclose(self) -> None:
        """Stop listening, drop all connections, fail what is in flight. Idempotent."""
        ...
