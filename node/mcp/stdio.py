"""The server on standard input and output, as a host starts it: one JSON message a line.

The SDK's transport reads its lines through this module's reader, for two reasons: a line is bounded before it
is kept, and a read that waits can be given up, so Ctrl-C ends the server at once instead of with the host's
next line. While it serves, file descriptor 1 is the SDK's alone: whatever else prints goes to standard error.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator
from typing import Any, cast

import anyio
import trio
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server

from node.errors import InvalidInput

MAX_LINE = 4 << 20
"""Bytes of one message: far above the longest text."""
CHUNK = 1 << 16
STDIN = 0

log = logging.getLogger(f"roseforest.{__name__}")


class _Lines:
    """Lines of a descriptor as text."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def __aiter__(self) -> AsyncIterator[str]:
        waiting = bytearray()
        while True:
            more = await trio.to_thread.run_sync(os.read, self._descriptor, CHUNK, abandon_on_cancel=True)
            if not more:
                return
            waiting += more
            while (end := waiting.find(b"\n")) >= 0:
                line = bytes(waiting[:end])
                del waiting[: end + 1]
                yield line.decode("utf-8", "replace")
            if len(waiting) > MAX_LINE:
                raise InvalidInput(f"a message on standard input is over {MAX_LINE} bytes")


async def serve_stdio(server: Server[Any]) -> None:
    """Serve until standard input ends, the host no longer reads, or SIGINT or SIGTERM comes.

    Raises `InvalidInput`, in a group, for a message that is too long.
    """
    lines = cast(anyio.AsyncFile[str], _Lines(STDIN))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_on_signal, nursery.cancel_scope)
        try:
            async with stdio_server(stdin=lines) as (incoming, outgoing):
                await server.run(incoming, outgoing, server.create_initialization_options())
        except* BrokenPipeError:
            log.info("the host is gone")
        nursery.cancel_scope.cancel()


async def _end_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
