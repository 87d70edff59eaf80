"""What filters cost a holder, and what embedding ten hits again costs an asker.

`python -m benchmarks.filters [--quick]` asks one holder of 20,000 postings of random vectors for the best ten
that pass a filter or bear a tag, which lets one of 2, 50 or 2,000 through, or nothing: over 64 shards, the
worst case, and over eight. The peer, interleaved, is what a holder without a pass over its postings does: it
looks four times deeper until ten pass or nothing is left. Beside it, the same without a filter. Processor
time, medians.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import trio

from benchmarks.report import RESULTS, at_least, at_most, emit, rounded
from chain.cid import raw_cid, record_cid
from chain.identity import Identity
from chain.vector import Codes
from dht.ports import SystemClock, ThreadedBlocking, system_random
from dht.records.layouts import Layouts
from dht.records.placement import Layout
from node.authoring import binding_codes
from node.embedding.static import DIM, StaticEmbedder
from node.entry_records import EntryRecords
from node.holder import WIDEN, Holder
from node.query.filters import ANY, Facts, Filters
from node.storage.derived_state import DerivedState, Posting
from node.storage.held_records import HeldRecords
from node.storage.own_chain import OwnChain
from sharding.tree import Prefix, ShardTree

POSTINGS = 20_000
QUICK_POSTINGS = 4_000
ROUNDS = 9
K = 10
LEAVES = ShardTree.fixed(6).leaves
SOME = 8
BATCH = 4_000
NETWORK = raw_cid(b"benchmark")
ONE_OF = (2, 50, 2_000)
MAX_MS_PER_THOUSAND = 4.0
MAX_EMBED_MS = 10.0
TEXT = (
    "Hit {} of a question about bees: what they see, where they fly, and whom they tell of what they found."
)


def posting(number: int, row: bytes) -> Posting:
    """A posting whose domains and hlc follow from its number."""
    name = sha256(b"%d" % number).digest()
    cid = record_cid(b"%d" % number)
    tags = ("a", "b", "rare") if number % ONE_OF[2] == 0 else ("a", "b")
    domain = (
        "rare" if number % ONE_OF[2] == 0 else "some" if number % ONE_OF[1] == 0 else f"field {number % 40}"
    )
    return Posting(0, name, cid, cid, row, tags, bytes([number % 250]) * 32, number, domain, None)


def filters(postings: int) -> dict[str, tuple[tuple[str, ...], Filters]]:
    """Tags and filters by what they let through."""
    return {
        f"one of {ONE_OF[0]}": ((), Filters(since=postings // 2)),
        f"one of {ONE_OF[1]}": ((), Filters(domains=("some",))),
        f"one of {ONE_OF[2]}": ((), Filters(domains=("rare",))),
        f"one of {ONE_OF[2]} by tag": (("rare",), ANY),
        "nothing": ((), Filters(domains=("none",))),
    }


def widening(
    holder: Holder,
    derived: DerivedState,
    shards: Sequence[Prefix],
    query: Codes,
    tags: tuple[str, ...],
    wanted: Filters,
) -> list[int]:
    """The best that pass by looking deeper: the numbers of their postings."""
    depth = K
    while True:
        found = holder._index.search(shards, query, depth)
        rows = derived.get_many([number for number, _ in found])
        passing = [
            row.number
            for row in rows
            if row is not None
            and set(tags) <= set(row.tags)
            and wanted.admit(Facts(row.author, row.hlc, row.domain, row.confidence))
        ]
        if len(passing) >= K or len(found) >= sum(map(holder._index.size, shards)):
            return passing[:K]
        depth *= WIDEN


def cost_ms(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor milliseconds, and what came of it."""
    began = time.process_time()
    found = work()
    return (time.process_time() - began) * 1_000, found


async def measure(folder: Path, postings: int, rounds: int) -> dict[str, float]:
    """Milliseconds by filter, way and shards."""
    rng = np.random.default_rng(0)
    blocking = ThreadedBlocking(1)
    own = OwnChain(
        folder / "chain.db",
        Identity.from_seed(bytes(32)),
        NETWORK,
        NETWORK,
        SystemClock(),
        system_random(),
        blocking,
    )
    held, derived = HeldRecords(folder / "held.db", blocking), DerivedState(folder / "derived.db", blocking)
    holder = Holder(
        derived, EntryRecords(own, held), Layouts(Layout(None, ShardTree.fixed(6))), DIM, blocking
    )
    times: dict[str, list[float]] = {}
    async with trio.open_nursery() as nursery:
        for store in (own, held, derived):
            await nursery.start(store.run)
        for first in range(0, postings, BATCH):
            rows = rng.integers(-127, 128, (min(BATCH, postings - first), DIM), dtype=np.int8)
            await derived.put([posting(first + place, row.tobytes()) for place, row in enumerate(rows)])
        await holder.open()
        for _ in range(rounds):
            query: Codes = rng.integers(-127, 128, DIM, dtype=np.int8)
            for where, shards in (("64 shards", LEAVES), (f"{SOME} shards", LEAVES[20 : 20 + SOME])):
                ms, _ = cost_ms(partial(holder.search, shards, query, K, (), ANY))
                times.setdefault(f"no filter, {where}", []).append(ms)
                for name, (tags, wanted) in filters(postings).items():
                    ms, found = cost_ms(partial(holder.search, shards, query, K, tags, wanted))
                    times.setdefault(f"{name}, {where}", []).append(ms)
                    ms, others = cost_ms(partial(widening, holder, derived, shards, query, tags, wanted))
                    times.setdefault(f"{name}, {where}, widening", []).append(ms)
                    if {one.number for one, _ in found} != set(others):
                        raise RuntimeError(f"{name}: the two ways do not find the same")
        for store in (own, held, derived):
            await store.aclose()
    return {name: median(some) for name, some in times.items()}


def embedding_ms(rounds: int) -> float:
    """Processor milliseconds to embed ten hits' texts again, one by one as `Intake.verify` does."""
    again = binding_codes(StaticEmbedder())
    assert again is not None
    texts = [TEXT.format(number) for number in range(K)]
    return median(cost_ms(lambda: [again(text) for text in texts])[0] for _ in range(rounds * 5))


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of filters at a holder.")
    parser.add_argument("--quick", action="store_true", help="4,000 postings, not kept")
    arguments = parser.parse_args()
    postings, rounds = (QUICK_POSTINGS, 3) if arguments.quick else (POSTINGS, ROUNDS)
    with tempfile.TemporaryDirectory() as folder:
        times = trio.run(measure, Path(folder), postings, rounds)
    figures: dict[str, Any] = {"postings": postings, "k": K}
    figures.update((f"{name} (ms)", rounded(ms)) for name, ms in times.items())
    rare = f"one of {ONE_OF[2]}, 64 shards"
    figures["rare: times faster than widening"] = rounded(times[f"{rare}, widening"] / times[rare])
    figures["ten texts embedded again (ms)"] = rounded(embedding_ms(rounds))
    worst = max(ms for name, ms in times.items() if "64 shards" in name and "widening" not in name)
    targets = [
        at_most(
            "worst filter, ms for 1,000 postings", MAX_MS_PER_THOUSAND, rounded(worst / postings * 1_000)
        ),
        at_least("rare: times faster than widening", 5.0, figures["rare: times faster than widening"]),
        at_most("ten texts embedded again (ms)", MAX_EMBED_MS, figures["ten texts embedded again (ms)"]),
    ]
    emit("filters", figures, targets, None if arguments.quick else RESULTS / "filters.json")


if __name__ == "__main__":
    main()
