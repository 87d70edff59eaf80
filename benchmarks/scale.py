"""How a question, a lookup and a join grow with the network: 1,000, 10,000 and 100,000 nodes.

The event kernel (`sim.kernel`) plays the nodes: their routing tables and lookups are the daemon's code, and
so are the shard tree, the sketches, what is expected of them, the order of holders, the memory of lookups
(`dht.overlay.neighbourhoods`) and the cover of a question's shards (`node.query.wave`). There are 36 entries
a node up to 360,000, and a shard for each node up to 60,000 (a tree has 65,536 at most). WordNet has not so
many definitions, so beyond 36,000 entries are made of halves of two: real words in the embedder's space,
though not real knowledge. Questions are example sentences.

Bytes are those of real messages, frames included: finds with signed contacts, searches with the code and the
shards, answers of ten signed records of a usual size. What Noise, Yamux and TCP put around them is not in it,
nor are the records and sketches that a newcomer takes over, which are given beside it. A cold asker has just
come and looks up every holder that it needs, a warm one knows them. Each size runs in a process of its own.

    python -m benchmarks.scale [--quick] [--wordnet DIR]
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpora import WORDNET, NoCorpus, wordnet
from benchmarks.holders import REPLICAS, Nodes, by_distance
from benchmarks.report import RESULTS, at_most, document, emit, in_own_process, rounded
from benchmarks.routing import SHIPPED, SIGMA_SAMPLE, TOP, nearest, with_shards
from chain.cid import Cid, raw_cid
from chain.identity import Identity, peer_id
from chain.kinds import CREATE
from chain.record import Record
from chain.source_chain import Draft, next_record
from dht.overlay.contact import make_contact
from dht.overlay.neighbourhoods import Neighbourhoods
from dht.overlay.peer_messages import FIND, encode_find, encode_found
from dht.records.bundle import Item, bundle_value
from dht.wire.frames import Request, Response, encode_frame
from node.embedding.packaged import packaged_atlas
from node.embedding.static import StaticEmbedder
from node.query.calibration import error_near
from node.query.search_protocol import METHOD, Ranked, SearchRequest, encode_reply
from node.sketch_rows import sketch_kind
from sharding.atlas import Atlas
from sharding.contact import contacts, weigh
from sharding.expectation import expected_hits
from sharding.key import shard_keys
from sharding.routing import route
from sharding.sketch import Rotation, Sketches, sketches
from sharding.tree import ShardTree, key_head
from sim.kernel import Kernel, summary

SIZES = (1_000, 10_000, 100_000)
QUICK_SIZES = (200, 1_000)
ENTRIES_A_NODE = 36
MOST_ENTRIES = 360_000
MOST_SHARDS = 60_000
QUESTIONS, QUICK_QUESTIONS = 200, 50
LOOKUPS, QUICK_LOOKUPS = 300, 100
JOINS = 20
COLD = 40
"""Questions that a cold asker each asks."""
SEED = 1
NETWORK = raw_cid(b"benchmark")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="200 and 1,000 nodes; leaves the kept result alone"
    )
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help="folder with data.noun …")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    try:
        if arguments.part:
            folder, *values = json.loads(arguments.part)
            print(json.dumps(measured(Path(folder), *values)))
            return 0
        wordnet(arguments.wordnet)
    except NoCorpus as error:
        print(error, file=sys.stderr)
        return 2
    quick: bool = arguments.quick
    figures: dict[str, Any] = {}
    for nodes in QUICK_SIZES if quick else SIZES:
        counts = (QUICK_QUESTIONS, QUICK_LOOKUPS) if quick else (QUESTIONS, LOOKUPS)
        figures[f"nodes_{nodes}"] = in_own_process("scale", str(arguments.wordnet), nodes, *counts)
        print(f"{nodes:,} nodes: measured", file=sys.stderr, flush=True)
    rows = list(figures.values())
    figures["growth_with_doubling"] = {
        name: growth([row["nodes"] for row in rows], [row[group][name] for row in rows])
        for group, name in (
            ("lookup", "hops_mean"),
            ("lookup", "messages_mean"),
            ("question", "nodes_asked"),
            ("question", "shards_asked"),
            ("question", "bytes_warm"),
            ("question", "bytes_cold"),
            ("join", "finds"),
            ("join", "bytes"),
        )
    }
    print(*table(rows), sep="\n")
    if not quick:
        document("scale", table(rows))
    largest = rows[-1]
    targets = [
        at_most("hops_mean_at_the_largest", math.log2(largest["nodes"]) / 2, largest["lookup"]["hops_mean"]),
        at_most("nodes_asked_at_the_largest", TOP + 6, largest["question"]["nodes_asked"]),
        at_most("peak_gb_at_the_largest", 6, largest["peak_gb"]),
    ]
    emit("scale", figures, targets, None if quick else RESULTS / "scale.json")
    return 0


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Lines of the table of docs/sharding.md, as Markdown."""
    yield "| | " + " | ".join(f"{row['nodes']:,} nodes" for row in rows) + " |"
    yield "|---|" + "---|" * len(rows)
    for name, (group, key) in {
        "entries": ("question", "entries"),
        "shards": ("question", "shards"),
        "hops a lookup": ("lookup", "hops_mean"),
        "messages a lookup": ("lookup", "messages_mean"),
        "shards a question asks": ("question", "shards_asked"),
        "nodes a question asks": ("question", "nodes_asked"),
        "its recall": ("question", "recall"),
        "recall expected": ("question", "recall_expected"),
        "bytes a question, holders known": ("question", "bytes_warm"),
        "bytes a question, nobody known": ("question", "bytes_cold"),
        "finds a join makes": ("join", "finds"),
        "bytes of them": ("join", "bytes"),
        "records a joiner takes over, bytes": ("join", "taken_over_bytes"),
        "sketches of all, bytes": ("question", "sketch_bytes_of_all"),
        "fullest node / mean": ("question", "records_max_over_mean"),
        "busiest node's share of requests": ("question", "busiest_share_of_requests"),
    }.items():
        cells = [row[group][key] for row in rows]
        shown = [f"{cell:,.0f}" if cell >= 1_000 else f"{cell:g}" for cell in cells]
        yield f"| {name} | " + " | ".join(shown) + " |"


def growth(nodes: Sequence[int], values: Sequence[float]) -> dict[str, float]:
    """Least squares of value = at_1000 + each_doubling · log2(nodes / 1,000)."""
    slope, start = np.polyfit(np.log2(np.array(nodes) / 1_000), np.array(values, dtype=np.float64), 1)
    return {"at_1000": rounded(float(start)), "each_doubling": rounded(float(slope))}


def measured(folder: Path, nodes: int, questions: int, lookups: int) -> dict[str, Any]:
    """All figures of one size."""
    began = time.perf_counter()
    kernel = Kernel(nodes, SEED)
    kernel.fill()
    filled = time.perf_counter() - began
    lookup = summary(kernel.lookups(lookups))
    sizes = Bytes()
    question = asked(folder, kernel, questions, sizes)
    joins = [kernel.newcomer() for _ in range(JOINS)]
    finds = [sum(one.finds for one in made) for made in joins]
    cost = [sum(sizes.finds(one.finds, one.named) for one in made) for made in joins]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "nodes": nodes,
        "fill_s": round(filled, 1),
        "lookup": lookup | {"bytes": rounded(sizes.finds(1, 20) * (lookup["messages_mean"] / 2))},
        "question": question,
        "join": {
            "lookups": rounded(fmean(len(made) for made in joins)),
            "finds": rounded(fmean(finds)),
            "bytes": rounded(fmean(cost)),
            "taken_over_entries": rounded(REPLICAS * question["entries"] / nodes),
            "taken_over_bytes": rounded(REPLICAS * question["entries"] / nodes * sizes.record),
        },
        "message_bytes": sizes.told(),
        "seconds": round(time.perf_counter() - began, 1),
        "peak_gb": rounded(peak / (2**20 if sys.platform != "darwin" else 2**30)),
    }


def entries(folder: Path, count: int) -> tuple[list[str], list[str]]:
    """So many texts to store, no two alike, and the questions."""
    corpus = wordnet(folder)
    texts = dict.fromkeys(corpus.stored[:count])
    generator = np.random.default_rng(SEED)
    while len(texts) < count:
        pairs = generator.integers(0, len(corpus.stored), size=(count - len(texts), 2)).tolist()
        for one, other in pairs:
            head, tail = corpus.stored[one].split(), corpus.stored[other].split()
            texts.setdefault(" ".join(head[: -(-len(head) // 2)] + tail[len(tail) // 2 :]))
    return list(texts), corpus.questions["sentences"]


def asked(folder: Path, kernel: Kernel, questions: int, sizes: Bytes) -> dict[str, Any]:
    """What questions cost in the kernel's network, and how evenly it holds what it holds."""
    count = len(kernel.nodes)
    texts, sentences = entries(folder, min(ENTRIES_A_NODE * count, MOST_ENTRIES))
    embed = StaticEmbedder().embed
    codes, asking = embed(texts), embed(sentences[:questions])
    atlas = Atlas.decode(packaged_atlas())
    heads = [key_head(key) for key in shard_keys(atlas, codes, [raw_cid(text.encode()) for text in texts])]
    most, tree = with_shards(sorted(heads), min(count, MOST_SHARDS))
    shards = np.searchsorted([leaf.start for leaf in tree.leaves], heads, "right") - 1
    chosen, expected = contact_sets(atlas, tree, codes, shards, asking)
    right = nearest(codes, asking)
    hits = [len(set(shards[some].tolist()) & set(made)) for some, made in zip(right, chosen, strict=True)]
    found = [float(np.isin(shards[some], made).mean()) for some, made in zip(right, chosen, strict=True)]
    nodes = Nodes.at({node.contact.agent: node.contact.position for node in kernel.nodes}, SEED)
    placement = by_distance(nodes, tree.leaves)
    loads = placement.loads(np.bincount(shards, minlength=len(tree.leaves)))
    waves = [placement.asked(tree.leaves, made) for made in chosen]
    warm = [
        sum(sizes.search(SearchRequest(ask.shards, code, TOP)) for ask in wave)
        for wave, code in zip(waves, asking, strict=True)
    ]
    cold = [
        lookups_of(kernel, [tree.leaves[shard].basis() for shard in made], sizes) for made in chosen[:COLD]
    ]
    times = np.zeros(count, dtype=np.int64)
    place = {agent: number for number, agent in enumerate(nodes.agents)}
    for wave in waves:
        for ask in wave:
            times[place[ask.node]] += 1
    return {
        "entries": len(texts),
        "shards": len(tree.leaves),
        "most_a_leaf": most,
        "recall": round(fmean(found), 4),
        "recall_expected": round(fmean(expected), 4),
        "shards_asked": rounded(fmean(len(made) for made in chosen)),
        "shards_with_hits": rounded(fmean(hits)),
        "nodes_asked": rounded(fmean(len(wave) for wave in waves)),
        "nodes_asked_p95": int(np.percentile([len(wave) for wave in waves], 95, method="higher")),
        "share_of_nodes": rounded(fmean(len(wave) for wave in waves) / count),
        "bytes_warm": rounded(fmean(warm)),
        "lookups_cold": rounded(fmean(made for made, _ in cold)),
        "bytes_cold": rounded(fmean(warm) + fmean(cost for _, cost in cold)),
        "sketch_bytes_of_all": len(texts) * sketch_kind(atlas.dim).row,
        "records_max_over_mean": rounded(float(loads.max() / loads.mean())),
        "nodes_without_records": rounded(float((loads == 0).mean())),
        "busiest_share_of_requests": rounded(float(times.max() / times.sum())),
    }


def contact_sets(
    atlas: Atlas,
    tree: ShardTree,
    codes: NDArray[np.int8],
    shards: NDArray[np.int64],
    asking: NDArray[np.int8],
) -> tuple[list[list[int]], list[float]]:
    """The shards that each question asks, and the recall that it expects."""
    rotation = Rotation(atlas.cid, atlas.dim)
    sketched = Sketches.decode(sketches(rotation, codes).tobytes(), atlas.dim)
    sigma = error_near(atlas.cid, codes[:SIGMA_SAMPLE])
    place = {leaf: number for number, leaf in enumerate(tree.leaves)}
    chosen, expected = [], []
    for code in asking:
        hits = expected_hits(sketched.cosines(rotation, code), shards, len(tree.leaves), TOP, sigma)
        scored = route(atlas, tree, code)
        parts = weigh(scored, dict(zip(tree.leaves, hits.tolist(), strict=True)))
        asked = contacts(parts, scored, SHIPPED)
        chosen.append(sorted(place[leaf] for leaf in asked))
        expected.append(sum(parts[leaf] for leaf in asked))
    return chosen, expected


def lookups_of(kernel: Kernel, bases: Sequence[bytes], sizes: Bytes) -> tuple[int, float]:
    """(lookups, their bytes) by which somebody who remembers none finds the holders of these bases."""
    asker = kernel.nodes[int.from_bytes(bases[0], "big") % len(kernel.nodes)]
    memory = Neighbourhoods()
    made, cost = 0, 0.0
    for basis in bases:
        if memory.covering(basis, REPLICAS, lambda contact: True, 0.0) is not None:
            continue
        found = kernel.find(asker, basis)
        made += 1
        cost += sizes.finds(found.finds, found.named)
        if found.complete:
            memory.remember(basis, found.contacts, found.radius, 0.0)
    return made, cost


class Bytes:
    """Lengths of real messages, frames included."""

    def __init__(self) -> None:
        identity = Identity.from_seed(bytes(range(32)))
        address = f"/ip4/203.0.113.77/tcp/40123/p2p/{peer_id(identity.agent)}"
        contact = make_contact(
            identity, NETWORK, 1 << 20, [address], 1 << 20, False, 1_700_000_000_000_000, 3_600
        )
        text = "a usual entry says what it knows in a sentence or two, of some two hundred letters " * 3
        draft = Draft(CREATE, {"codes": bytes(256), "text": text[:200]})
        self._record: Record = next_record(
            identity, NETWORK, NETWORK, None, draft, 1_700_000_000_000_000, bytes(16)
        )
        self.record = float(len(self._record.encode()))
        self._find = self._request(FIND, encode_find(bytes(32), contact.data))
        one, none = (self._response(encode_found([contact.data] * number)) for number in (1, 0))
        self._answer, self._named = none, one - none
        self._hit = self._reply(2) - self._reply(1)
        self._empty = self._reply(1) - self._hit

    def finds(self, count: int, named: int) -> float:
        """Bytes of so many finds and their answers, which name so many contacts in all."""
        return count * (self._find + self._answer) + named * self._named

    def search(self, request: SearchRequest) -> float:
        """Bytes of a search and an answer of `TOP` hits, each with its record."""
        return self._request(METHOD, request.encode()) + self._empty + TOP * self._hit

    def told(self) -> dict[str, float]:
        """The lengths that the others are made of."""
        return {
            "find": self._find,
            "contact_in_an_answer": self._named,
            "hit_in_an_answer": self._hit,
            "record": self.record,
        }

    def _reply(self, hits: int) -> float:
        cid: Cid = self._record.cid
        bundle = bundle_value([], [], [Item(self._record, 0)] * hits)
        return self._response(encode_reply([0], [Ranked(cid, 900_000)] * hits, bundle))

    def _request(self, method: str, body: bytes) -> float:
        return float(len(encode_frame(Request(1_000, method, body))))

    def _response(self, body: bytes) -> float:
        return float(len(encode_frame(Response(1_000, body))))


if __name__ == "__main__":
    sys.exit(main())
