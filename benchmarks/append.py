"""How many durable, signed records a second the own chain takes, and what each part of that costs.

`python -m benchmarks.append [--quick] [--folder FOLDER]` appends entries (300 bytes of text, 256 codes) with
`OwnChain.append`, one draft a call, from 1, 16 and 128 tasks that each wait for the acknowledgement before
they write the next. Beside it, in the same run and interleaved: the disk's sync alone (4 KiB written, then
fdatasync), signing alone (payload, header, hash, signature), and the peer that the target names, unsynced
sign + insert: one plain loop that signs and inserts into the same table, no tasks, no threads, no keys or
levels, `synchronous=OFF`, 128 records a transaction. Figures are medians over the rounds, each on a new file.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

import trio

from benchmarks.report import RESULTS, ROOT, at_least, emit, rounded
from chain.cid import raw_cid
from chain.identity import Identity
from chain.kinds import CREATE
from chain.source_chain import Draft, Head, head_of, next_record
from dht.ports import SystemClock, ThreadedBlocking, system_random
from node.storage.own_chain import OwnChain

WRITERS = (1, 16, 128)
SYNC_BYTES = 4096
TEXT_BYTES = 300
CODES = 256
TRANSACTION = 128
"""Records in one transaction of the unsynced loop, as many as the most writers share."""
TARGET_SHARE = 0.5

NETWORK = raw_cid(b"benchmark")
IDENTITY = Identity.from_seed(bytes(range(32)))


def entry(number: int) -> Draft:
    """A draft of the size of a usual entry; no two are alike."""
    text = f"{number:012d} ".ljust(TEXT_BYTES, "x")
    return Draft(CREATE, {"codes": bytes(CODES), "text": text})


def fsync_alone(folder: Path, count: int) -> float:
    """Syncs a second."""
    handle = os.open(folder / "sync", os.O_RDWR | os.O_CREAT)
    block = secrets.token_bytes(SYNC_BYTES)
    started = time.perf_counter()
    for number in range(count):
        os.pwrite(handle, block, number * SYNC_BYTES)
        os.fdatasync(handle)
    elapsed = time.perf_counter() - started
    os.close(handle)
    return count / elapsed


def sign_alone(_folder: Path, count: int) -> float:
    """Records signed a second, each linked to the one before."""
    head: Head | None = None
    started = time.perf_counter()
    for number in range(count):
        now_us, salt = time.time_ns() // 1_000, secrets.token_bytes(16)
        head = head_of(next_record(IDENTITY, NETWORK, NETWORK, head, entry(number), now_us, salt))
    return count / (time.perf_counter() - started)


def unsynced_sign_insert(folder: Path, count: int) -> float:
    """Records signed and inserted a second by a plain loop that never syncs."""
    with closing(sqlite3.connect(folder / "plain.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute(
            "CREATE TABLE records (seq INTEGER PRIMARY KEY, cid BLOB NOT NULL UNIQUE, author BLOB NOT NULL,"
            " header BLOB NOT NULL, signature BLOB NOT NULL, payload BLOB, UNIQUE (author, seq))"
        )
        head: Head | None = None
        started = time.perf_counter()
        for number in range(count):
            if number % TRANSACTION == 0:
                connection.execute("BEGIN")
            now_us, salt = time.time_ns() // 1_000, secrets.token_bytes(16)
            record = next_record(IDENTITY, NETWORK, NETWORK, head, entry(number), now_us, salt)
            head = head_of(record)
            row = (
                head.seq,
                record.cid,
                IDENTITY.agent,
                record.header_bytes,
                record.signature,
                record.payload,
            )
            connection.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", row)
            if (number + 1) % TRANSACTION == 0 or number + 1 == count:
                connection.execute("COMMIT")
        return count / (time.perf_counter() - started)


def durable(writers: int) -> Callable[[Path, int], float]:
    """Durable appends a second from `writers` tasks."""

    def measure(folder: Path, count: int) -> float:
        return trio.run(_append, folder / "chain.db", writers, count)

    return measure


async def _append(path: Path, writers: int, count: int) -> float:
    chain = OwnChain(path, IDENTITY, NETWORK, NETWORK, SystemClock(), system_random(), ThreadedBlocking(1))
    numbers = iter(range(count))

    async def write() -> None:
        for number in numbers:
            await chain.append([entry(number)], [None])

    async with trio.open_nursery() as nursery:
        await nursery.start(chain.run)
        started = time.perf_counter()
        async with trio.open_nursery() as writing:
            for _ in range(writers):
                writing.start_soon(write)
        elapsed = time.perf_counter() - started
        assert chain.count() == count
        await chain.aclose()
    return count / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description="Durable signed records per second.")
    parser.add_argument("--quick", action="store_true", help="under a minute, not kept")
    parser.add_argument(
        "--folder", type=Path, default=ROOT, help="on the disk to be measured (default: here)"
    )
    arguments = parser.parse_args()
    rounds, scale = (3, 1) if arguments.quick else (7, 4)
    measures: dict[str, tuple[Callable[[Path, int], float], int]] = {
        "fsync_alone_per_s": (fsync_alone, 300 * scale),
        "sign_alone_per_s": (sign_alone, 2_000 * scale),
        "unsynced_sign_insert_per_s": (unsynced_sign_insert, 2_000 * scale),
    }
    for writers in WRITERS:
        measures[f"durable_{writers}_writers_per_s"] = (
            durable(writers),
            (1_000 if writers > 1 else 300) * scale,
        )
    measures["durable_128_writers_per_s"] = (durable(128), 2_000 * scale)
    samples: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, (measure, count) in measures.items():
            with tempfile.TemporaryDirectory(prefix=".append-", dir=arguments.folder) as folder:
                samples[name].append(measure(Path(folder), count))
    figures: dict[str, float | int] = {name: rounded(median(values)) for name, values in samples.items()}
    share = rounded(figures["durable_128_writers_per_s"] / figures["unsynced_sign_insert_per_s"])
    figures["durable_128_to_unsynced"] = share
    figures["text_bytes"], figures["codes"], figures["rounds"] = TEXT_BYTES, CODES, rounds
    target = at_least("durable_128_to_unsynced", TARGET_SHARE, share)
    emit("append", figures, [target], None if arguments.quick else RESULTS / "append.json")


if __name__ == "__main__":
    main()
