"""One live connection to a peer: who it is, the stream that we ask on, and how it ends.

The asking stream is opened when first needed and kept; the peer's asking stream is answered. Everything on a
connection runs in one nursery, so that there is one way to end: whatever goes wrong cancels it all, closes
the socket, and fails what was awaited.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from dht.errors import BrokenTransport, FrameError, PeerUnreachable
from dht.wire.exchange import Asker, ByteStream, Shared, answer

if TYPE_CHECKING:
    from dht.wire.libp2p_transport import SecureConnection

log = logging.getLogger(f"roseforest.{__name__}")


class Connection:
    """A live connection and our asking stream on it, opened when first needed."""

    def __init__(self, secure: SecureConnection, shared: Shared, now: float, outbound: bool) -> None:
        self.peer = secure.peer
        self.outbound = outbound
        self.since = now
        self.last_used = now
        self.retiring = False
        self.scope = trio.CancelScope()
        self._secure = secure
        self._shared = shared
        self._asker: Asker | None = None
        self._answering: list[set[int]] = []
        self._wanted = trio.Event()
        self._ready = trio.Event()

    @property
    def busy(self) -> bool:
        """Whether an answer is awaited on it."""
        return self._asker is not None and self._asker.busy

    @property
    def answering(self) -> bool:
        """Whether a request that came on it is being answered."""
        return any(self._answering)

    async def asker(self) -> Asker:
        """The asking side; cancelling leaves the stream opening for whoever else waits."""
        self._wanted.set()
        await self._ready.wait()
        if self._asker is None:
            raise PeerUnreachable(
                f"connection to peer {self.peer.hex()[:8]} was lost before it could be used"
            )
        return self._asker

    async def run(self, touch: Callable[[], None]) -> None:
        """Serve and ask until the connection ends or `scope` is cancelled; frees everything."""
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._ask)
                    await self._secure.run(partial(self._answer, touch))
                    nursery.cancel_scope.cancel()
        except* FrameError as group:
            self._shared.counters.bad_frames += 1
            error = _first(group)
            log.info("dropped peer %s: %s", self.peer.hex()[:8], error)
            if not isinstance(error, BrokenTransport):
                self._shared.screen.garbage(self.peer)
        except* PeerUnreachable as group:
            log.debug("connection to peer %s ended: %s", self.peer.hex()[:8], _first(group))
        finally:
            self._secure.abort()
            self._ready.set()

    async def _ask(self) -> None:
        await self._wanted.wait()
        stream = await self._secure.open()
        self._asker = Asker(stream, self.peer, self._shared)
        self._ready.set()
        await self._asker.run()
        raise PeerUnreachable("the peer ended the stream")

    async def _answer(self, touch: Callable[[], None], stream: ByteStream) -> None:
        running: set[int] = set()
        self._answering.append(running)
        try:
            await answer(stream, self.peer, self._shared, touch, running)
        finally:
            self._answering.remove(running)


def _first(group: BaseException) -> BaseException:
    """The first real error in a nest of exception groups."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
