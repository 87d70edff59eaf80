"""Whether writing stays as cheap, and memory as small, when a store has grown to 100,000 records.

`python -m benchmarks.growth [--quick] [--folder FOLDER]` appends to an own chain and holds records of others,
up to 100,000 each, in batches of the size that group commit makes of many writers. Of each stretch it takes
the median time a record and the resident memory of the process; the peer, interleaved on the same disk, is a
plain SQLite table with one index into which rows of the same size are inserted and synced, for a B-tree too
gets deeper. Flat means: the last tenth takes at most half as long again as the second tenth.
"""

from __future__ import annotations

import argparse
import secrets
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from statistics import median

import psutil
import trio

from benchmarks.report import RESULTS, ROOT, at_most, emit, rounded
from chain.cid import raw_cid
from chain.identity import Identity
from chain.kinds import CREATE
from chain.record import Record
from chain.source_chain import Draft, Head, head_of, next_record
from dht.ports import SystemClock, ThreadedBlocking, system_random
from dht.records.record_store import Held
from node.storage.held_records import HeldRecords
from node.storage.own_chain import OwnChain

RECORDS = 100_000
QUICK_RECORDS = 10_000
BATCH = 128
TEXT_BYTES = 300
CODES = 256
AUTHORS = 50
PEER_ROW = 900
"""Bytes of a row of the peer: about what a record takes."""
STRETCHES = 10
MAX_RATIO = 1.5
MAX_GROWTH_MB = 64.0
MB = 1 << 20

NETWORK = raw_cid(b"benchmark")
IDENTITY = Identity.from_seed(bytes(range(32)))

Write = Callable[[int], Awaitable[None]]


def draft(number: int) -> Draft:
    """A draft of the size of a usual entry; no two are alike."""
    text = f"{number:012d} ".ljust(TEXT_BYTES, "x")
    return Draft(CREATE, {"codes": bytes(CODES), "text": text})


class Others:
    """Records of fifty authors, made as they are needed."""

    def __init__(self) -> None:
        self._authors = [Identity.from_seed(sha256(f"author {n}".encode()).digest()) for n in range(AUTHORS)]
        self._heads: dict[int, Head | None] = dict.fromkeys(range(AUTHORS))

    def batch(self, first: int) -> list[Held]:
        """The next `BATCH` records, each under the three bases that an entry lies at."""
        made: list[Held] = []
        for number in range(first, first + BATCH):
            author = number % AUTHORS
            identity, head = self._authors[author], self._heads[author]
            record: Record = next_record(
                identity, NETWORK, NETWORK, head, draft(number), 1_000_000 + number, secrets.token_bytes(16)
            )
            self._heads[author] = head_of(record)
            shard = sha256(bytes([number % 64])).digest()
            subject = sha256(record.cid).digest()
            made.append(Held(record, ((1, subject), (2, identity.agent), (4, shard))))
        return made


async def measure(folder: Path, records: int) -> dict[str, list[float]]:
    """Microseconds a record of every batch, by what was written, and MB of memory after it."""
    blocking = ThreadedBlocking(1)
    own = OwnChain(folder / "chain.db", IDENTITY, NETWORK, NETWORK, SystemClock(), system_random(), blocking)
    held = HeldRecords(folder / "held.db", blocking)
    plain = sqlite3.connect(folder / "plain.db", isolation_level=None, check_same_thread=False)
    plain.execute("PRAGMA journal_mode=WAL")
    plain.execute("PRAGMA synchronous=FULL")
    plain.execute("CREATE TABLE rows (seq INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, data BLOB)")
    process, others = psutil.Process(), Others()
    found: dict[str, list[float]] = {"append": [], "hold": [], "plain": [], "rss_mb": []}

    def insert() -> None:
        plain.execute("BEGIN")
        rows = [(secrets.token_bytes(36), bytes(PEER_ROW)) for _ in range(BATCH)]
        plain.executemany("INSERT INTO rows (name, data) VALUES (?, ?)", rows)
        plain.execute("COMMIT")

    async def timed(name: str, work: Callable[[], Awaitable[object]]) -> None:
        began = time.perf_counter()
        await work()
        found[name].append((time.perf_counter() - began) / BATCH * 1e6)

    async with trio.open_nursery() as nursery:
        await nursery.start(own.run)
        await nursery.start(held.run)
        for first in range(0, records, BATCH):
            drafts = [draft(number) for number in range(first, first + BATCH)]
            items = others.batch(first)

            async def append(drafts: list[Draft] = drafts) -> None:
                await own.append(drafts, [None] * len(drafts))

            async def hold(items: list[Held] = items) -> None:
                await held.hold(items)

            async def peer() -> None:
                await blocking(insert)

            await timed("append", append)
            await timed("hold", hold)
            await timed("plain", peer)
            found["rss_mb"].append(process.memory_info().rss / MB)
        await own.aclose()
        await held.aclose()
    plain.close()
    return found


def stretch(values: list[float], number: int) -> float:
    """The median of one tenth of the values, counted from 0."""
    size = len(values) // STRETCHES
    return median(values[number * size : (number + 1) * size])


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of a write as the store grows.")
    parser.add_argument("--quick", action="store_true", help="10,000 records, not kept")
    parser.add_argument("--folder", type=Path, default=ROOT, help="on the disk to measure (default: here)")
    arguments = parser.parse_args()
    records = QUICK_RECORDS if arguments.quick else RECORDS
    with tempfile.TemporaryDirectory(prefix=".growth-", dir=arguments.folder) as folder:
        found = trio.run(measure, Path(folder), records)
    figures: dict[str, float] = {"records": len(found["append"]) * BATCH}
    for name in ("append", "hold", "plain"):
        second, last = stretch(found[name], 1), stretch(found[name], STRETCHES - 1)
        figures[f"{name}_us_second_tenth"] = rounded(second)
        figures[f"{name}_us_last_tenth"] = rounded(last)
        figures[f"{name}_ratio"] = rounded(last / second)
    growth = stretch(found["rss_mb"], STRETCHES - 1) - stretch(found["rss_mb"], 1)
    figures["rss_mb_last"] = rounded(found["rss_mb"][-1])
    figures["rss_mb_growth"] = rounded(growth)
    targets = [
        at_most("append_ratio", MAX_RATIO, figures["append_ratio"]),
        at_most("hold_ratio", MAX_RATIO, figures["hold_ratio"]),
        at_most("rss_mb_growth", MAX_GROWTH_MB, rounded(growth)),
    ]
    emit("growth", figures, targets, None if arguments.quick else RESULTS / "growth.json")


if __name__ == "__main__":
    main()
