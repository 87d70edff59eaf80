"""learning.db: tasks and promised updates are there after a restart, of each task only the newest promise."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from chain.cid import blob_cid, record_cid
from federated.actions import Offer
from node.storage.errors import DatabaseCorrupt
from node.storage.learning_memory import LearningMemory
from sim.virtual_clock import inline_blocking

ONE, OTHER = record_cid(b"one task"), record_cid(b"another")
OFFER = Offer(
    blob_cid(b"update"), 123, 45, {"x" * 100 + str(n): -(10**12) for n in range(32)}, bytes(range(32))
)


async def test_what_is_remembered_survives(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        memory = LearningMemory(tmp_path / "learning.db", inline_blocking)
        await nursery.start(memory.run)
        assert memory.tasks() == []
        await memory.follow(ONE, False)
        await memory.follow(OTHER, True)
        await memory.follow(ONE, True)
        await memory.keep_offer(ONE, bytes(32), OFFER)
        await memory.keep_offer(OTHER, bytes(32), OFFER)
        await memory.keep_lock(ONE, bytes(32), b"first" * 6, 5)
        await memory.keep_lock(ONE, bytes(32), b"digest" * 5, 1 << 60)
        await memory.keep_mixed(ONE, b"first")
        await memory.keep_mixed(ONE, b"second")
        await memory.aclose()
    async with trio.open_nursery() as nursery:
        memory = LearningMemory(tmp_path / "learning.db", inline_blocking)
        await nursery.start(memory.run)
        assert memory.tasks() == sorted([(ONE, True), (OTHER, True)])
        assert memory.offer(ONE, bytes(32)) == OFFER
        assert memory.offer(ONE, b"\1" * 32) is None
        assert memory.lock(ONE, bytes(32)) == (b"digest" * 5, 1 << 60)
        assert memory.lock(ONE, b"\1" * 32) is None
        assert memory.lock(OTHER, bytes(32)) is None
        assert (memory.mixed(ONE), memory.mixed(OTHER)) == (b"second", None)
        await memory.keep_offer(ONE, b"\1" * 32, OFFER)
        assert memory.offer(ONE, bytes(32)) is None
        assert memory.offer(ONE, b"\1" * 32) == OFFER
        assert memory.offer(OTHER, bytes(32)) == OFFER
        await memory.aclose()


async def test_a_damaged_promise_is_named(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        memory = LearningMemory(tmp_path / "learning.db", inline_blocking)
        await nursery.start(memory.run)
        await memory.keep_offer(ONE, bytes(32), OFFER)
        await memory._writer.submit(lambda connection: connection.execute("UPDATE offers SET offer = x'00'"))
        with pytest.raises(DatabaseCorrupt, match="an update handed in cannot be read"):
            memory.offer(ONE, bytes(32))
        await memory.aclose()
