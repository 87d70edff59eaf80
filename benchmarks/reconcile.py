"""What it costs two holders to find their differences: by ranges, by a full list, by Bloom filters.

`python -m benchmarks.reconcile [--quick]` fills the real store of a holder with 100,000 records, copies it,
and lets 0, 10 and 1,000 records be missing, half of them here and half there. Then one asks the other until
it knows all of them (`dht.negentropy.reconciliation` over `HeldRecords`), with no network: messages, bytes
and processor time are counted. Beside it in the same run the two usual ways: the other sends all its ids (32
bytes each), and both send a Bloom filter with 1 % of false positives and the ids that the other's does not
know, which misses one in a hundred. Two layouts: every record at a basis of its own, and all at one (a
shard).
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

import trio

from benchmarks.report import RESULTS, Target, at_most, emit, rounded
from chain.cid import raw_cid
from chain.identity import Identity
from chain.kinds import CREATE
from chain.record import Record
from chain.source_chain import Draft, Head, head_of, next_record
from dht.negentropy.range_messages import END, START
from dht.negentropy.reconciliation import Reconciliation, answer
from dht.ports import ThreadedBlocking
from dht.records.basis import subject_basis
from dht.records.placement import Role
from dht.records.record_store import Held
from node.storage.database import Options
from node.storage.held_records import HeldRecords

NETWORK = raw_cid(b"benchmark")
AUTHOR = Identity.from_seed(bytes(range(32)))
SHARD = sha256(b"a shard").digest()
HOLD_AT_ONCE = 1_000
BLOOM_HASHES = 7
BLOOM_BITS = 9.6
"""Bits an element for 1 % of false positives."""
DIFFERENCES = (0, 10, 1_000)
MAX_MESSAGES = 5
MAX_BYTES = 20_000


def records(count: int) -> list[Record]:
    """Records of one author, 300 bytes of text each."""
    made: list[Record] = []
    head: Head | None = None
    for number in range(count):
        draft = Draft(CREATE, {"codes": bytes(8), "text": f"{number:012d} ".ljust(300, "x")})
        made.append(next_record(AUTHOR, NETWORK, NETWORK, head, draft, 1_000_000 + number, bytes(16)))
        head = head_of(made[-1])
    return made


def held(record: Record, spread: bool) -> Held:
    """A record where it lies in this layout."""
    role = Role.SUBJECT if spread else Role.SHARD
    return Held(record, ((int(role), subject_basis(record.cid) if spread else SHARD),))


async def with_stores(
    folder: Path, everything: Sequence[Record], missing: int, spread: bool
) -> tuple[dict[str, Any], list[float]]:
    """Compare two stores that lack `missing` records, half each; the figures, and seconds a hold took."""
    half = missing // 2
    holds: list[float] = []
    one, other = folder / "one.db", folder / "other.db"
    both = [held(record, spread) for record in everything[missing:]]
    options = Options(synchronous="OFF")
    async with trio.open_nursery() as nursery:
        store = HeldRecords(one, ThreadedBlocking(1), options)
        await nursery.start(store.run)
        for start in range(0, len(both), HOLD_AT_ONCE):
            began = time.perf_counter()
            await store.hold(both[start : start + HOLD_AT_ONCE])
            holds.append(time.perf_counter() - began)
        await store.aclose()
    shutil.copy(one, other)
    async with trio.open_nursery() as nursery:
        mine, theirs = (HeldRecords(path, ThreadedBlocking(1), options) for path in (one, other))
        await nursery.start(mine.run)
        await nursery.start(theirs.run)
        await mine.hold([held(record, spread) for record in everything[:half]])
        await theirs.hold([held(record, spread) for record in everything[half:missing]])
        figures = reconcile(mine, theirs, half, missing - half)
        with mine.ranges() as asker, theirs.ranges() as answerer:
            lists = [
                [item[1] for item in view.items(START, END, len(everything))] for view in (asker, answerer)
            ]
        figures |= full_list(*lists) | bloom(*lists)
        await mine.aclose()
        await theirs.aclose()
    return figures, holds


def reconcile(mine: HeldRecords, theirs: HeldRecords, have: int, need: int) -> dict[str, Any]:
    """One exchange, each message from a fresh look at the store as in a node; asserts that all was found."""
    samples: list[tuple[float, float]] = []
    for _ in range(3):
        asking = Reconciliation([(START, END)])
        messages, size, asked, answered = 0, 0, 0.0, 0.0
        while True:
            began = time.process_time()
            with mine.ranges() as view:
                question = asking.next_message(view)
            asked += time.process_time() - began
            if question is None:
                break
            began = time.process_time()
            with theirs.ranges() as view:
                said = answer(view, question)
            answered += time.process_time() - began
            began = time.process_time()
            with mine.ranges() as view:
                asking.receive(view, said)
            asked += time.process_time() - began
            messages, size = messages + 2, size + len(question) + len(said)
        assert asking.complete
        assert (len(asking.have), len(asking.need)) == (have, need)
        samples.append((asked, answered))
    return {
        "messages": messages,
        "bytes": size,
        "cpu_asker_ms": rounded(1e3 * median(one for one, _ in samples)),
        "cpu_answerer_ms": rounded(1e3 * median(one for _, one in samples)),
    }


def full_list(mine: Sequence[bytes], theirs: Sequence[bytes]) -> dict[str, Any]:
    """The other sends all ids."""
    began = time.process_time()
    sent = b"".join(theirs)
    there = {sent[at : at + 32] for at in range(0, len(sent), 32)}
    here = set(mine)
    found = len(here - there) + len(there - here)
    took = time.process_time() - began
    return {
        "list_bytes": len(sent),
        "list_messages": 2,
        "list_cpu_ms": rounded(1e3 * took),
        "list_found": found,
    }


def bloom(mine: Sequence[bytes], theirs: Sequence[bytes]) -> dict[str, Any]:
    """Each sends a filter of its ids, and then the ids that the other's filter does not know."""
    began = time.process_time()
    bits = math.ceil(BLOOM_BITS * max(len(mine), len(theirs)))
    filters = [_filter(ids, bits) for ids in (mine, theirs)]
    only_mine = [one for one in mine if not _knows(filters[1], one, bits)]
    only_theirs = [one for one in theirs if not _knows(filters[0], one, bits)]
    took = time.process_time() - began
    size = sum(map(len, filters)) + 32 * (len(only_mine) + len(only_theirs))
    found = len(only_mine) + len(only_theirs)
    return {
        "bloom_bytes": size,
        "bloom_messages": 3,
        "bloom_cpu_ms": rounded(1e3 * took),
        "bloom_found": found,
    }


def _places(one: bytes, bits: int) -> list[int]:
    a, b = int.from_bytes(one[:8], "big"), int.from_bytes(one[8:16], "big") | 1
    return [(a + number * b) % bits for number in range(BLOOM_HASHES)]


def _filter(ids: Sequence[bytes], bits: int) -> bytes:
    made = bytearray(bits // 8 + 1)
    for one in ids:
        for place in _places(one, bits):
            made[place >> 3] |= 1 << (place & 7)
    return bytes(made)


def _knows(made: bytes, one: bytes, bits: int) -> bool:
    return all(made[place >> 3] >> (place & 7) & 1 for place in _places(one, bits))


def main() -> None:
    parser = argparse.ArgumentParser(description="Finding the differences of two holders.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the records, not kept")
    arguments = parser.parse_args()
    count = 10_000 if arguments.quick else 100_000
    everything = records(count)
    figures: dict[str, Any] = {"records": count}
    for spread in (True, False):
        layout = "spread" if spread else "one_basis"
        for missing in DIFFERENCES:
            with tempfile.TemporaryDirectory(prefix="reconcile-") as folder:
                found, holds = trio.run(with_stores, Path(folder), everything, missing, spread)
            figures |= {f"{layout}_{missing}_{name}": value for name, value in found.items()}
            if missing == 0:
                tenth = max(1, len(holds) // 10)
                first, last = median(holds[:tenth]), median(holds[-tenth:])
                figures[f"{layout}_hold_us_first_tenth"] = rounded(1e6 * first / HOLD_AT_ONCE)
                figures[f"{layout}_hold_us_last_tenth"] = rounded(1e6 * last / HOLD_AT_ONCE)
    targets: list[Target] = []
    for layout in ("spread", "one_basis"):
        for name, limit in (("messages", MAX_MESSAGES), ("bytes", MAX_BYTES)):
            figure = f"{layout}_10_{name}"
            targets.append(at_most(figure, limit, figures[figure]))
    emit("reconcile", figures, targets, None if arguments.quick else RESULTS / "reconcile.json")


if __name__ == "__main__":
    main()
