"""Questions and answers over a byte stream in memory, where every write can be held back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from dht.errors import PeerUnreachable, RefusalCode, RequestRefused
from dht.network import PeerId
from dht.wire.exchange import Asker, Shared, answer
from dht.wire.frames import Frame, FrameDecoder, Request, Response, encode_frame
from dht.wire.limits import DEFAULT_LIMITS, WRITE_SIZE

PEER = b"\x01" * 32


class HeldStream:
    """One end of a stream: what is written waits for `open_gate`, what is fed is read."""

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.decoder = FrameDecoder()
        self.written: list[Frame] = []
        self.sizes: list[int] = []
        self._feed, self._read = trio.open_memory_channel[bytes](100)

    async def read(self) -> bytes:
        try:
            return await self._read.receive()
        except trio.EndOfChannel:
            return b""

    async def write(self, data: bytes) -> None:
        await self.gate.wait()
        self.sizes.append(len(data))
        self.written.extend(self.decoder.feed(data))

    def feed(self, *frames: Frame) -> None:
        self._feed.send_nowait(b"".join(map(encode_frame, frames)))

    def end(self) -> None:
        self._feed.close()


async def idle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_a_request_cancelled_before_it_is_written_is_never_written(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shared, stream = Shared(DEFAULT_LIMITS), HeldStream()
    asker = Asker(stream, PEER, shared)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asker.run)
        first = trio.CancelScope()

        async def ask(scope: trio.CancelScope, body: bytes) -> None:
            with scope:
                await asker.ask("m", body)

        nursery.start_soon(ask, first, b"in the writer's hands")
        await idle()
        second = trio.CancelScope()
        nursery.start_soon(ask, second, b"still waiting")
        await idle()
        first.cancel()
        second.cancel()
        await idle()
        stream.gate.set()
        await idle()
        assert [frame.body for frame in stream.written if isinstance(frame, Request)] == [
            b"in the writer's hands"
        ]
        assert shared.budget.used == 0
        nursery.cancel_scope.cancel()


async def test_a_full_queue_refuses_at_once_and_empties_again(autojump_clock: trio.testing.MockClock) -> None:
    shared, stream = Shared(replace(DEFAULT_LIMITS, queue_bytes=1000)), HeldStream()
    asker = Asker(stream, PEER, shared)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asker.run)
        nursery.start_soon(asker.ask, "m", bytes(600))
        await idle()
        with pytest.raises(RequestRefused) as refused:
            await asker.ask("m", bytes(600))
        assert refused.value.code == RefusalCode.OVERLOADED
        stream.gate.set()
        await idle()
        with trio.move_on_after(1):
            await asker.ask("m", bytes(600))
        assert len(stream.written) == 2
        nursery.cancel_scope.cancel()
    assert shared.budget.used == 0


async def test_all_streams_together_hold_no_more_than_their_budget(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shared = Shared(replace(DEFAULT_LIMITS, held_bytes=1000))
    askers = [Asker(HeldStream(), PEER, shared) for _ in range(2)]
    async with trio.open_nursery() as nursery:
        for asker in askers:
            nursery.start_soon(asker.run)
        nursery.start_soon(askers[0].ask, "m", bytes(800))
        await idle()
        with pytest.raises(RequestRefused):
            await askers[1].ask("m", bytes(800))
        assert 800 < shared.budget.used <= 1000
        nursery.cancel_scope.cancel()
    assert shared.budget.used == 0


async def test_small_frames_share_writes_and_large_ones_are_cut(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shared, stream = Shared(DEFAULT_LIMITS), HeldStream()
    asker = Asker(stream, PEER, shared)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asker.run)
        for size in (10, 10, 10, 300_000, 10):
            nursery.start_soon(asker.ask, "m", bytes(size))
            await idle()
        stream.gate.set()
        await idle()
        assert len(stream.written) == 5
        assert len(stream.sizes) == 1 + 1 + 5 + 1
        assert max(stream.sizes) == WRITE_SIZE
        nursery.cancel_scope.cancel()


async def test_the_end_of_the_stream_fails_every_question(autojump_clock: trio.testing.MockClock) -> None:
    stream = HeldStream()
    asker = Asker(stream, PEER, Shared(DEFAULT_LIMITS))
    failed = []

    async def ask() -> None:
        with pytest.raises(PeerUnreachable):
            await asker.ask("m", b"")
        failed.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(asker.run)
        for _ in range(3):
            nursery.start_soon(ask)
        await idle()
        stream.end()
    assert failed == [True] * 3
    with pytest.raises(PeerUnreachable):
        await asker.ask("m", b"")


async def test_answers_come_in_the_order_in_which_handlers_finish(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shared, stream = Shared(DEFAULT_LIMITS), HeldStream()
    stream.gate.set()

    async def wait(_sender: PeerId, body: bytes) -> bytes:
        await trio.sleep(int(body))
        return body

    shared.handlers["wait"] = wait
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, stream, PEER, shared, lambda: None)
        stream.feed(Request(1, "wait", b"3"), Request(2, "wait", b"1"), Request(3, "wait", b"2"))
        await trio.sleep(4)
        assert stream.written == [Response(2, b"1"), Response(3, b"2"), Response(1, b"3")]
        stream.end()
    assert shared.budget.used == 0


async def test_the_end_of_the_stream_cancels_its_handlers(autojump_clock: trio.testing.MockClock) -> None:
    shared, stream = Shared(DEFAULT_LIMITS), HeldStream()
    ended = trio.Event()

    async def forever(_sender: PeerId, body: bytes) -> bytes:
        try:
            await trio.sleep(1_000)
        finally:
            ended.set()
        return body

    shared.handlers["forever"] = forever
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, stream, PEER, shared, lambda: None)
        stream.feed(Request(1, "forever", b"body"))
        await idle()
        assert shared.budget.used == 4
        stream.end()
    assert ended.is_set()
    assert shared.budget.used == 0
    assert all(shared.gate.enter(PEER) for _ in range(DEFAULT_LIMITS.handlers_per_peer))
    assert not shared.gate.enter(PEER)
