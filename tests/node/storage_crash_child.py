"""The process that `test_crash_durability` kills: many tasks write, and each acknowledgement is printed.

Arguments: which store (chain or held), its file, the `synchronous` setting (`AS_SHIPPED`: its own), the
number of writers. A line is printed, unbuffered, only after the write that it names has returned. Runs until
it is killed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import cast

import trio

from chain.cid import digest, raw_cid
from chain.identity import Identity
from chain.kinds import CREATE, GENESIS, MEMBRANE, PROFILE
from chain.source_chain import Draft, head_of, next_record
from dht.ports import SystemClock, ThreadedBlocking, system_random
from dht.records.record_store import Held
from node.storage.database import Options, Synchronous
from node.storage.held_records import HeldRecords
from node.storage.own_chain import OwnChain

NETWORK = raw_cid(b"crash test")
AS_SHIPPED = "as shipped"
"""In place of a setting: the store is opened as the daemon opens it."""
IDENTITY = Identity.from_seed(bytes(range(32)))
OPENING = (Draft(GENESIS, {}), Draft(MEMBRANE, {"nonce": 1}), Draft(PROFILE, {}))


def acknowledge(*words: object) -> None:
    """One write, so that lines of different tasks never mix and none stays in a buffer."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def append(path: Path, options: Options | None, writers: int) -> None:
    """Open the chain and append to it for ever."""
    run_blocking = ThreadedBlocking(1)
    chain = OwnChain(path, IDENTITY, NETWORK, NETWORK, SystemClock(), system_random(), run_blocking, options)

    async def write(writer: int) -> None:
        number = 0
        while True:
            key = f"{writer}-{number}".encode()
            body = {"codes": bytes(64), "text": f"writer {writer}, text {number}"}
            (done,) = await chain.append([Draft(CREATE, body)], [key])
            acknowledge(done[0].hex(), key.decode())
            number += 1

    async with trio.open_nursery() as nursery:
        await nursery.start(chain.run)
        await chain.append(OPENING, [None] * len(OPENING))
        for writer in range(writers):
            nursery.start_soon(write, writer)


async def hold(path: Path, options: Options | None, writers: int) -> None:
    """Hold records of `writers` authors for ever."""
    held = HeldRecords(path, ThreadedBlocking(1), options)

    async def write(writer: int) -> None:
        author = Identity.from_seed(bytes([writer]) * 32)
        head = None
        while True:
            draft = Draft(CREATE, {"text": "x" * 200})
            record = next_record(author, NETWORK, NETWORK, head, draft, 1_000_000, bytes(16))
            await held.hold([Held(record, ((1, digest(record.cid)), (2, author.agent)))])
            acknowledge(record.cid.hex())
            head = head_of(record)

    async with trio.open_nursery() as nursery:
        await nursery.start(held.run)
        for writer in range(writers):
            nursery.start_soon(write, writer)


if __name__ == "__main__":
    _, store, file, synchronous, count = sys.argv
    trio.run(
        {"chain": append, "held": hold}[store],
        Path(file),
        None if synchronous == AS_SHIPPED else Options(cast(Synchronous, synchronous)),
        int(count),
    )
