"""Does a question find its answers when it asks only the shards, and the nodes, that routing names?

Texts are stored in about 64, 256 and 1,024 shards, grown by splitting wherever more than B of them lie (B is
chosen to give that many), on 1,000 simulated nodes with three copies of each shard. Recall@10 is the share of
the ten nearest stored texts, found by exact search over the same codes, that lie on the shards asked. Five
orders of shards are compared: at random; outward along the curve from the question's own place; by centroids
(`sharding.routing`); by sketches (`sharding.sketch`, `.expectation` and `.contact`); and an oracle that knows
where the ten lie. Nodes asked are those of the real greedy cover (`node.query.wave`) over the real order of
holders.

A third of the questions say how far each way has to go for a recall of .955; the others are reported, so
that what is promised of .95 was chosen elsewhere. By sketches and by centroids besides at what is shipped,
where nothing is chosen here at all. Everything again with an atlas that was made of a fifth of the sample
drawn evenly, with one of a fifth of the subjects, with a corpus that nothing was tuned on
(`benchmarks.corpora`), and with the atlas of a new epoch after either, made of the sketches that then are
everywhere (`node.query.sketched_sample`). Atlases are compared by what each asks for a recall of .955 over
all questions, between the two masses nearest to it: where one has found more than another it has also asked
more.

    python -m benchmarks.routing [--quick] [--minilm] [--wordnet DIR] [--descriptions FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import minilm
from benchmarks.corpora import WORDNET, Corpus, NoCorpus, debian, wordnet
from benchmarks.holders import REPLICAS, Nodes, Placement, by_distance, capped
from benchmarks.report import RESULTS, Target, at_least, at_most, document, emit, rounded
from chain.cid import raw_cid, to_text
from chain.vector import PPM
from node.embedding.packaged import packaged_atlas
from node.embedding.static import SPACE, StaticEmbedder
from node.query.calibration import error_near
from node.query.effort import DEFAULT_EFFORT, EFFORTS
from node.sketch_rows import sketch_kind
from sharding.atlas import Atlas
from sharding.atlas_build import build_atlas
from sharding.contact import contacts, weigh
from sharding.expectation import expected_hits
from sharding.key import shard_keys
from sharding.routing import CONTACT_MASS_PPM, Scored, route
from sharding.sketch import Rotation, Sketches, restored, sketches
from sharding.tree import MAX_DEPTH, MAX_LEAVES, Prefix, ShardTree, key_head

SHARDS = (64, 256, 1_024)
NODES = 1_000
QUESTIONS = 600
"""Of each kind; the first third tunes, the rest is reported."""
TOP = 10
RECALL = 0.95
TUNED = 0.955
SHIPPED = EFFORTS[DEFAULT_EFFORT] / PPM
"""The recall expected at which routing by sketches stops, as shipped."""
MASSES = tuple(mass / 1_000 for mass in range(860, 991, 5))
"""Those tried for `TUNED`."""
CALIBRATED = (0.5, 0.7, 0.8, 0.9, 0.93, 0.95, 0.97, 0.99)
"""Masses at which the recall expected is held against the recall found."""
SHARES = (0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5)
"""Shares of the shards at which orders are compared."""
WAYS = ("random", "hilbert", "centroids", "sketches", "oracle")
SEED = 1
SCORED = 9_000_000
"""Pairs of a question and a stored vector scored at a time by the exact search: 72 MB of scores."""
SIGMA_SAMPLE = 4_096
"""Stored vectors on which it is measured how far estimates are from the truth, as a node does."""
MOST_COVERED = 8_000
"""Shards for which covers are worked out in all: whoever asks most of the network is covered less often."""
CELLS = 4_096
"""Of an atlas at most, and never more than half as many as the sample has vectors."""
MINILM_SAMPLE = 3
"""One of so many texts of the sample is embedded by MiniLM, which takes its time."""

PART = 5
"""The atlas `fifth` is made of one of so many of the sample's vectors."""

ROWS_AT_ONCE = 4_096
"""Sketches read back at a time."""

QUICK_SHARDS, QUICK_QUESTIONS, QUICK_STORED, QUICK_CELLS = (64, 256), 100, 9_000, 512


class Space(NamedTuple):
    """An embedding space with its texts' codes and its atlases."""

    name: str
    stored: NDArray[np.int8]
    texts: Sequence[str]
    questions: dict[str, NDArray[np.int8]]
    atlases: dict[str, Atlas]


@dataclass(frozen=True, slots=True)
class Asked:
    """One kind of question at one number of shards: each way's order, and where it would stop by itself.

    Orders have shape (questions, shards); `held` counts answers by question and shard; `masses` are the
    running parts of what centroids expect, in their order; `parts` is what sketches expect of each shard.
    """

    orders: dict[str, NDArray[np.int64]]
    masses: NDArray[np.float64]
    held: NDArray[np.int64]
    routes: list[list[Scored]]
    parts: list[dict[Prefix, float]]
    place: dict[Prefix, int]

    def by_sketches(self, question: int, mass: float) -> list[int]:
        """The shards that a daemon asks which has everybody's sketches."""
        asked = contacts(self.parts[question], self.routes[question], mass)
        return [self.place[leaf] for leaf in asked]

    def recall(self, question: int, shards: Sequence[int]) -> float:
        """The share of the answers that lie there."""
        return float(self.held[question, shards].sum()) / TOP


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, keep; exit code 0 whether targets are met or not, 2 where something is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.routing", description="recall against shards and nodes asked"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer of everything; leaves the kept result alone"
    )
    parser.add_argument(
        "--minilm", action="store_true", help="also MiniLM vectors: some 20 minutes once, then kept"
    )
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help="folder with data.noun …")
    parser.add_argument("--descriptions", type=Path, help="an unpacked Translation-en file of Debian main")
    options = parser.parse_args(arguments)
    quick: bool = options.quick
    figures: dict[str, Any] = {"nodes": NODES, "replicas": REPLICAS, "recall_wanted": RECALL}
    figures["questions_reported"] = (QUICK_QUESTIONS if quick else QUESTIONS) * 2 // 3
    try:
        corpus = wordnet(options.wordnet)
        spaces = [built_in(corpus, quick)]
        if options.minilm:
            spaces.append(by_minilm(corpus, quick))
    except (NoCorpus, minilm.NoModel) as error:
        print(error, file=sys.stderr)
        return 2
    try:
        spaces.append(second(debian(options.descriptions), quick))
    except NoCorpus as error:
        print(f"without the second corpus: {error}", file=sys.stderr)
    sizes = QUICK_SHARDS if quick else SHARDS
    nodes = Nodes.drawn(NODES, SEED)
    for space in spaces:
        truth = {kind: nearest(space.stored, codes) for kind, codes in space.questions.items()}
        for age, atlas in space.atlases.items():
            wanted = sizes if space.name != "debian" and age in ("fresh", "drifted") else sizes[-1:]
            for size, measured in over_sizes(space, atlas, truth, nodes, wanted):
                figures[f"{space.name}_{age}_{size}"] = measured
                print(f"{space.name}, {age} atlas, {size} shards: measured", file=sys.stderr, flush=True)
    targets = promised(figures, sizes[-1])
    print(*tables(figures), sep="\n")
    if not quick:
        document("routing", tables(figures))
    emit("routing", figures, targets, None if quick else RESULTS / "routing.json")
    return 0


def renewed(stored: NDArray[np.int8], old: Atlas, quick: bool) -> Atlas:
    """The atlas of an epoch that follows `old`, of all that is stored as its sketches say."""
    rotation = Rotation(old.cid, old.dim)
    rows = sketches(rotation, stored)
    parts = [
        restored(rotation, Sketches.decode(rows[begin : begin + ROWS_AT_ONCE].tobytes(), old.dim))
        for begin in range(0, len(rows), ROWS_AT_ONCE)
    ]
    return made(np.concatenate(parts), old.space, quick)


def built_in(corpus: Corpus, quick: bool) -> Space:
    """WordNet by the built-in embedder, with the packaged atlas and drifted ones."""
    embed = StaticEmbedder().embed
    drifted = made(embed(corpus.drifted), SPACE, quick)
    texts, questions = cut(corpus, quick)
    stored = embed(texts)
    atlases = {
        "fresh": Atlas.decode(packaged_atlas()),
        "drifted": drifted,
        "renewed": renewed(stored, drifted, quick),
    }
    if not quick:
        atlases["fifth"] = made(embed(corpus.sample[::PART]), SPACE, quick)
    return Space("builtin", stored, texts, {kind: embed(some) for kind, some in questions.items()}, atlases)


def by_minilm(corpus: Corpus, quick: bool) -> Space:
    """WordNet by MiniLM, with an atlas of a part of the sample and a drifted one. Raises `NoModel`."""
    cache = minilm.cache_folder()
    sample = corpus.sample[::MINILM_SAMPLE]
    codes = minilm.codes_of(sample, cache)
    narrow = set(corpus.drifted)
    drifted = codes[[number for number, text in enumerate(sample) if text in narrow]]
    atlases = {
        "fresh": made(codes, minilm.SPACE, quick),
        "fifth": made(codes[::PART], minilm.SPACE, quick),
        "drifted": made(drifted, minilm.SPACE, quick),
    }
    texts, kinds = cut(corpus, quick)
    stored = minilm.codes_of(corpus.stored, cache)[: len(texts)]
    questions = {
        kind: minilm.codes_of(corpus.questions[kind], cache)[: len(some)] for kind, some in kinds.items()
    }
    atlases["renewed"] = renewed(stored, atlases["drifted"], quick)
    return Space("minilm", stored, texts, questions, atlases)


def second(corpus: Corpus, quick: bool) -> Space:
    """Package descriptions by the built-in embedder and the packaged atlas."""
    embed = StaticEmbedder().embed
    texts, questions = cut(corpus, quick)
    stored, fresh = embed(texts), Atlas.decode(packaged_atlas())
    atlases = {"fresh": fresh, "renewed": renewed(stored, fresh, quick)}
    return Space("debian", stored, texts, {kind: embed(some) for kind, some in questions.items()}, atlases)


def cut(corpus: Corpus, quick: bool) -> tuple[list[str], dict[str, list[str]]]:
    """As many texts and questions as are used."""
    stored, asked = (QUICK_STORED, QUICK_QUESTIONS) if quick else (len(corpus.stored), QUESTIONS)
    return corpus.stored[:stored], {kind: some[:asked] for kind, some in corpus.questions.items()}


def made(codes: NDArray[np.int8], space: str, quick: bool) -> Atlas:
    """The atlas of a sample by the project's own builder; kept, for it takes minutes."""
    cells = min(QUICK_CELLS if quick else CELLS, 1 << ((len(codes) // 2).bit_length() - 1))
    name = hashlib.sha256(codes.tobytes() + space.encode() + cells.to_bytes(4, "big")).hexdigest()[:24]
    file = minilm.cache_folder() / f"atlas-{name}.bin"
    if file.is_file():
        return Atlas.decode(file.read_bytes())
    print(f"making an atlas of {len(codes)} vectors", file=sys.stderr, flush=True)
    atlas = build_atlas(codes, space, cells=cells, learned_map=not quick)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(atlas.encode())
    return atlas


def over_sizes(
    space: Space, atlas: Atlas, truth: dict[str, NDArray[np.int64]], nodes: Nodes, sizes: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The figures of one atlas at every number of shards."""
    keys = shard_keys(atlas, space.stored, [raw_cid(text.encode()) for text in space.texts])
    heads = sorted(key_head(key) for key in keys)
    rotation = Rotation(atlas.cid, atlas.dim)
    sketched = Sketches.decode(sketches(rotation, space.stored).tobytes(), atlas.dim)
    sigma = error_near(atlas.cid, space.stored[:SIGMA_SAMPLE])
    grown = {size: with_shards(heads, size) for size in sizes}
    shards = {
        size: np.searchsorted([leaf.start for leaf in tree.leaves], [key_head(key) for key in keys], "right")
        - 1
        for size, (_, tree) in grown.items()
    }
    expected: dict[tuple[int, str], list[NDArray[np.float64]]] = {}
    for kind, codes in space.questions.items():
        for code in codes:
            estimates = sketched.cosines(rotation, code)
            for size, (_, tree) in grown.items():
                hits = expected_hits(estimates, shards[size], len(tree.leaves), TOP, sigma)
                expected.setdefault((size, kind), []).append(hits)
    for size, (most, tree) in grown.items():
        loads = np.bincount(shards[size], minlength=len(tree.leaves))
        placement = by_distance(nodes, tree.leaves)
        evened, moved = capped(placement, tree.leaves, loads)
        figures: dict[str, Any] = {
            "atlas": to_text(atlas.cid),
            "stored": len(keys),
            "shards": len(tree.leaves),
            "most_a_leaf": most,
            "shard_max_over_mean": rounded(float(loads.max() / loads.mean())),
            "empty_shards": int((loads == 0).sum()),
            "node_records_max_over_mean": over_mean(placement.loads(loads)),
            "node_records_max_over_mean_capped": over_mean(evened.loads(loads)),
            "copies_moved_by_the_cap": round(moved, 4),
            "sketch_error": round(sigma, 5),
            "metadata_bytes_a_node": {
                "sketches": len(keys) * sketch_kind(atlas.dim).row,
                "tree": len(tree.encode()),
                "atlas": len(atlas.encode()),
            },
        }
        for kind, codes in space.questions.items():
            asked = prepared(atlas, tree, codes, shards[size][truth[kind]], np.array(expected[size, kind]))
            figures[kind] = measured(asked, tree.leaves, placement, evened)
        yield size, figures


def over_mean(loads: NDArray[np.int64]) -> float:
    """The fullest over the mean."""
    return rounded(float(loads.max() / loads.mean()))


def with_shards(heads: Sequence[int], size: int) -> tuple[int, ShardTree]:
    """B and its tree of about `size` leaves: the largest B with so many, or the next if that is nearer."""
    low, high = 1, len(heads)
    while high - low > 1:
        middle = (low + high) // 2
        if len(grown(heads, middle)) >= size:
            low = middle
        else:
            high = middle
    most, leaves = min(
        ((most, grown(heads, most)) for most in (low, high)),
        key=lambda found: (len(found[1]) > MAX_LEAVES, abs(len(found[1]) - size)),
    )
    return most, ShardTree.of(leaves)


def grown(heads: Sequence[int], most: int) -> list[Prefix]:
    """The leaves where none holds more than `most` of these key heads, given ascending."""
    leaves: list[Prefix] = []
    waiting = [Prefix(0, 0)]
    while waiting:
        prefix = waiting.pop()
        held = bisect_left(heads, prefix.end) - bisect_left(heads, prefix.start)
        if held > most and prefix.length < MAX_DEPTH:
            waiting.extend(prefix.children())
        else:
            leaves.append(prefix)
    return leaves


def nearest(stored: NDArray[np.int8], questions: NDArray[np.int8]) -> NDArray[np.int64]:
    """The `TOP` stored rows nearest to each question by cosine, shape (questions, TOP), by exact search."""
    lengths = np.sqrt(np.einsum("nd,nd->n", stored, stored, dtype=np.int64))
    columns = np.ascontiguousarray(stored.T, dtype=np.float32)
    found = np.empty((len(questions), TOP), dtype=np.int64)
    rows = max(1, SCORED // max(1, len(stored)))
    for begin in range(0, len(questions), rows):
        scores = questions[begin : begin + rows].astype(np.float32) @ columns / lengths
        found[begin : begin + rows] = np.argpartition(-scores, TOP - 1, axis=1)[:, :TOP]
    return found


def prepared(
    atlas: Atlas,
    tree: ShardTree,
    codes: NDArray[np.int8],
    hits: NDArray[np.int64],
    expected: NDArray[np.float64],
) -> Asked:
    """All orders of one kind of question; `hits` are the shards on which the answers lie."""
    count = len(tree.leaves)
    held = np.zeros((len(codes), count), dtype=np.int64)
    np.add.at(held, (np.arange(len(codes))[:, None], hits), 1)
    numbers = np.tile(np.arange(count, dtype=np.int64), (len(codes), 1))
    place = {leaf: number for number, leaf in enumerate(tree.leaves)}
    routes = [route(atlas, tree, code) for code in codes]
    by_centroids = np.array([[place[one.prefix] for one in some] for some in routes], dtype=np.int64)
    own = np.array(
        [place[tree.leaf_of(key)] for key in shard_keys(atlas, codes, [raw_cid(b"asked")] * len(codes))]
    )
    parts = [
        weigh(scored, dict(zip(tree.leaves, hits.tolist(), strict=True)))
        for scored, hits in zip(routes, expected, strict=True)
    ]
    return Asked(
        orders={
            "random": np.random.default_rng(SEED).permuted(numbers, axis=1),
            "hilbert": np.argsort(np.abs(numbers - own[:, None]), axis=1, kind="stable"),
            "centroids": by_centroids,
            "sketches": np.argsort(-expected, axis=1, kind="stable"),
            "oracle": np.argsort(-held, axis=1, kind="stable"),
        },
        masses=np.cumsum([[one.mass_ppm / PPM for one in some] for some in routes], axis=1),
        held=held,
        routes=routes,
        parts=parts,
        place=place,
    )


def measured(
    asked: Asked, leaves: Sequence[Prefix], placement: Placement, evened: Placement
) -> dict[str, Any]:
    """What each way asks for a recall of .95, and as shipped, on the questions that nothing was tuned on.

    `nodes_capped`: asked by sketches if shards lay as they do with a cap.
    """
    tuned = range(len(asked.held) // 3)
    rows = range(len(tuned), len(asked.held))
    reached = {
        way: np.cumsum(np.take_along_axis(asked.held, order, axis=1), axis=1) / TOP
        for way, order in asked.orders.items()
    }  # recall of each question after its first, second, … shard
    figures: dict[str, Any] = {
        "recall_at_shares": {
            way: [
                round(float(got[rows.start :, max(1, round(share * len(leaves))) - 1].mean()), 3)
                for share in SHARES
            ]
            for way, got in reached.items()
        }
    }

    def heads(way: str, sizes: NDArray[np.int64]) -> dict[str, Any]:
        sets = [asked.orders[way][row, : sizes[row]].tolist() for row in rows]
        return cost(asked, rows, sets, leaves, placement)

    for way in ("random", "hilbert"):
        curve = reached[way][: rows.start].mean(axis=0)
        figures[way] = heads(way, np.full(len(asked.held), int(np.argmax(curve >= TUNED)) + 1))
    mass = enough(asked.masses[tuned], reached["centroids"][tuned])
    figures["centroids"] = heads("centroids", stopped(asked.masses, mass)) | {"mass": mass}
    at = CONTACT_MASS_PPM / PPM
    figures["centroids_shipped"] = heads("centroids", stopped(asked.masses, at)) | {"mass": at}
    figures["oracle"] = heads("oracle", (asked.held > 0).sum(axis=1))
    for name, mass in (("sketches", for_recall(asked, tuned)), ("sketches_shipped", SHIPPED)):
        sets = [asked.by_sketches(row, mass) for row in rows]
        figures[name] = cost(asked, rows, sets, leaves, placement) | {
            "mass": mass,
            "nodes_capped": cost(asked, rows, sets, leaves, evened)["nodes"],
        }
    figures["sketches_at_equal_recall"] = at_equal_recall(asked, leaves, placement)
    figures["calibration"] = calibrated(asked)
    return figures


def for_recall(asked: Asked, tuned: range) -> float:
    """The least of `MASSES` at which these questions reach `TUNED`, or the greatest."""
    for mass in MASSES:
        if np.mean([asked.recall(row, asked.by_sketches(row, mass)) for row in tuned]) >= TUNED:
            return mass
    return MASSES[-1]


def at_equal_recall(asked: Asked, leaves: Sequence[Prefix], placement: Placement) -> dict[str, Any]:
    """What all questions ask by sketches for a recall of exactly `TUNED`, between two of `MASSES`."""
    rows = range(len(asked.held))
    below = above = None
    for mass in MASSES:
        sets = [asked.by_sketches(row, mass) for row in rows]
        above = (np.mean([asked.recall(row, some) for row, some in zip(rows, sets, strict=True)]), sets)
        if above[0] >= TUNED:
            break
        below = above
    found = [one for one in (below, above) if one is not None]
    costs = [cost(asked, rows, sets, leaves, placement) for _, sets in found]
    recalls = [float(recall) for recall, _ in found]
    return {
        name: rounded(float(np.interp(TUNED, recalls, [one[name] for one in costs])), 4)
        for name in ("recall", "shards", "nodes", "nodes_p95")
    }


def stopped(masses: NDArray[np.float64], mass: float) -> NDArray[np.int64]:
    """How many shards each question asks to reach this mass."""
    most = masses.shape[1]
    sizes: NDArray[np.int64] = np.minimum((masses < mass).sum(axis=1) + 1, most)
    return sizes


def enough(masses: NDArray[np.float64], reached: NDArray[np.float64]) -> float:
    """The smallest mass, in thousandths, at which mean recall is `TUNED`."""
    rows = np.arange(len(masses))
    low, high = 0, 1_000  # recall never falls as the mass grows
    while low < high:
        middle = (low + high) // 2
        if reached[rows, stopped(masses, middle / 1_000) - 1].mean() >= TUNED:
            high = middle
        else:
            low = middle + 1
    return high / 1_000


def cost(
    asked: Asked,
    rows: Sequence[int],
    sets: Sequence[Sequence[int]],
    leaves: Sequence[Prefix],
    placement: Placement,
) -> dict[str, Any]:
    """Recall, shards and nodes of these questions, each asking these shards."""
    sizes = [len(one) for one in sets]
    covered = sets[: max(10, int(MOST_COVERED // np.mean(sizes)))]
    nodes = [len(placement.asked(leaves, one)) for one in covered]
    return {
        "recall": round(
            float(np.mean([asked.recall(row, one) for row, one in zip(rows, sets, strict=True)])), 4
        ),
        "shards": rounded(float(np.mean(sizes))),
        "share": rounded(float(np.mean(sizes) / len(leaves))),
        "shards_p95": int(np.percentile(sizes, 95, method="higher")),
        "nodes": rounded(float(np.mean(nodes))),
        "nodes_p95": int(np.percentile(nodes, 95, method="higher")),
    }


def calibrated(asked: Asked) -> dict[str, Any]:
    """The recall expected beside the recall found, over all questions, at several masses."""
    rows = range(len(asked.held))
    leaves = list(asked.place)
    table = []
    for mass in CALIBRATED:
        sets = [asked.by_sketches(row, mass) for row in rows]
        expected = [
            sum(asked.parts[row][leaves[one]] for one in some) for row, some in zip(rows, sets, strict=True)
        ]
        found = [asked.recall(row, some) for row, some in zip(rows, sets, strict=True)]
        table.append([mass, round(float(np.mean(expected)), 4), round(float(np.mean(found)), 4)])
    shipped = table[CALIBRATED.index(SHIPPED)]
    off = [abs(expected - found) for _, expected, found in table]
    return {
        "mass_expected_found": table,
        "error_shipped": round(abs(shipped[1] - shipped[2]), 4),
        "error_mean": round(float(np.mean(off)), 4),
        "error_most": round(max(off), 4),
    }


def promised(figures: dict[str, Any], size: int) -> list[Target]:
    """The targets, at the greatest number of shards."""
    targets: list[Target] = []
    share = {"builtin": 0.015, "minilm": 0.01, "debian": 0.015}
    for space in share:
        for age in ("fresh", "fifth", "drifted", "renewed"):
            row = figures.get(f"{space}_{age}_{size}")
            if row is None:
                continue
            name = f"{space}_{age}"
            if age in ("fresh", "renewed"):
                targets.append(at_most(f"{name}_shard_max_over_mean", 1.5, row["shard_max_over_mean"]))
                capped_load = row["node_records_max_over_mean_capped"]
                targets.append(at_most(f"{name}_node_records_max_over_mean_capped", 1.6, capped_load))
            for kind in [kind for kind in ("definitions", "sentences", "synopses") if kind in row]:
                found = row[kind]["sketches"]
                targets.append(at_least(f"{name}_{kind}_recall", RECALL, found["recall"]))
                shipped = row[kind]["sketches_shipped"]["recall"]
                targets.append(at_least(f"{name}_{kind}_recall_shipped", RECALL, shipped))
                error = row[kind]["calibration"]["error_shipped"]
                targets.append(at_most(f"{name}_{kind}_calibration_error", 0.03, error))
                if age != "fresh" and space != "debian":  # whose fresh atlas is a foreign one
                    fresh, here = (
                        figures[f"{space}_{one}_{size}"][kind]["sketches_at_equal_recall"]["shards"]
                        for one in ("fresh", age)
                    )
                    targets.append(at_most(f"{name}_{kind}_shards_over_fresh", 1.2, rounded(here / fresh)))
                    continue
                targets.append(at_most(f"{name}_{kind}_share", share[space], found["share"]))
                targets.append(at_most(f"{name}_{kind}_nodes", 8, found["nodes"]))
                targets.append(at_most(f"{name}_{kind}_nodes_p95", 14, found["nodes_p95"]))
    return targets


def tables(figures: dict[str, Any]) -> Iterator[str]:
    """Lines of the tables of docs/sharding.md, as Markdown."""
    rows = {name: row for name, row in figures.items() if isinstance(row, dict)}
    yield (
        "| stored, atlas, shards | fullest shard / mean | fullest node / mean | with a cap, copies moved "
        "| sketches, bytes a node |"
    )
    yield "|---|---|---|---|---|"
    for name, row in rows.items():
        yield (
            f"| {title(name, row)} | {row['shard_max_over_mean']} | {row['node_records_max_over_mean']} "
            f"| {row['node_records_max_over_mean_capped']}, {row['copies_moved_by_the_cap']:.1%} "
            f"| {row['metadata_bytes_a_node']['sketches']:,} |"
        )
    yield ""
    yield (
        "| stored, atlas, shards | asked | sketches: recall, shards (share), nodes (p95) | as shipped "
        "| shards for .955 | nodes with a cap | centroids | along the curve | random | oracle |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, row in rows.items():
        for kind in [kind for kind in ("definitions", "sentences", "synopses") if kind in row]:
            found = row[kind]
            shares = " | ".join(
                f"{found[way]['share']:.1%}" for way in ("centroids", "hilbert", "random", "oracle")
            )
            yield (
                f"| {title(name, row)} | {kind} | {said(found['sketches'])} "
                f"| {said(found['sketches_shipped'])} | {found['sketches_at_equal_recall']['shards']:.2f} "
                f"| {found['sketches']['nodes_capped']} | {shares} |"
            )
    yield ""
    yield "| stored, atlas, shards | asked | order | " + " | ".join(f"{share:.2%}" for share in SHARES) + " |"
    yield "|---|---|---|" + "---|" * len(SHARES)
    for name, row in rows.items():
        if row["shards"] < max(one["shards"] for one in rows.values()) // 2 or "_fresh_" not in name:
            continue
        for kind in [kind for kind in ("sentences", "synopses") if kind in row]:
            for way, recalls in row[kind]["recall_at_shares"].items():
                shown = " | ".join(f"{value:.3f}".removeprefix("0") for value in recalls)
                yield f"| {title(name, row)} | {kind} | {way} | {shown} |"
    yield ""


def said(one: dict[str, Any]) -> str:
    """Recall, shards and nodes of one way in a few words."""
    recall = f"{one['recall']:.3f}".removeprefix("0")
    return f"{recall}, {one['shards']} ({one['share']:.2%}), {one['nodes']} ({one['nodes_p95']})"


def title(name: str, row: dict[str, Any]) -> str:
    """A row's name in words."""
    space, age, _ = name.split("_")
    return f"{space}, {age}, {row['shards']:,}"


if __name__ == "__main__":
    sys.exit(main())
