"""Which index should a node keep its vectors in? FAISS's kinds up to a million vectors, and the one in use.

WordNet definitions by the built-in embedder; beyond those there are, copies with noise on every component.
They lie in shards of 512, in the order of the packaged atlas's cells. Questions are definitions that are not
stored. Compared are `node.index` (signed bytes, exact), flat floats, bytes trained on the data, HNSW, and IVF
with one bit a dimension (RaBitQ); those that approximate propose more than is wanted, exact integers decide,
and what they propose grows until recall@10 is .99 or they cannot do better. Each question goes to every index
in turn, on one core; times are medians. The eight shards asked are those that hold the best answers. Flat
floats and trained bytes are asked for everything as one index, which spares them the shards. A start is
measured from derived.db, as a node does it, and from a FAISS file a shard.

    python -m benchmarks.local_index [--quick] [--wordnet DIR]
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
import trio
from numpy.typing import NDArray

from benchmarks.report import RESULTS, Target, at_least, at_most, emit, rounded
from chain.cid import raw_cid
from node.embedding.packaged import packaged_atlas
from node.embedding.static import StaticEmbedder
from node.embedding.wordnet import DATA_FILES, read_glosses
from node.index import IndexedPosting, LocalIndex
from node.storage.derived_state import MAX_POSTINGS, DerivedState, Posting
from sharding.atlas import Atlas, nearest_cells
from sharding.tree import Prefix
from sim.virtual_clock import inline_blocking

SIZES = (1_000, 10_000, 100_000, 1_000_000)
QUICK_SIZES = (1_000, 10_000)
A_SHARD = 512
ASKED = 8
TOP = 10
RECALL = 0.99
QUESTIONS = 100
REMOVED = 1_000
NOISE = 0.35
"""Standard deviation of the noise on copies, in that of a vector's components: cosine .94 to the original."""
MOST_HNSW = 100_000
"""Vectors up to which HNSW is built: four times as many take more than ten minutes."""
MOST_LISTS = 1024
BREADTHS = (16, 32, 64, 128, 256, 512)
"""efSearch of HNSW, nprobe of IVF, tried until recall is reached."""
RESCORED = (26, 100, 400)
"""Candidates that are compared exactly."""
SEED = 3

Codes = NDArray[np.int8]
Search = Callable[[Codes, NDArray[np.float32], Sequence[int]], list[int]]


@dataclass(frozen=True, slots=True)
class Stored:
    """Vectors with their unit floats, the shard of each, and questions."""

    codes: Codes
    units: NDArray[np.float32]
    shard: NDArray[np.int64]
    questions: Codes
    question_units: NDArray[np.float32]

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return int(self.shard[-1]) + 1


@dataclass(slots=True)
class Kind:
    """One way to keep vectors: what building it took, its bytes, and its two searches."""

    build_s: float
    bytes_a_vector: float
    everything: Search
    some: Search
    remove: Callable[[NDArray[np.int64]], None] | None = None
    settings: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, keep; exit code 2 without WordNet."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.local_index", description="FAISS's kinds as a node's local index"
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SIZES} vectors; keeps nothing")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    options = parser.parse_args(arguments)
    if not all((options.wordnet / name).exists() for name in DATA_FILES):
        print(f"no WordNet in {options.wordnet}: install Debian's wordnet-base", file=sys.stderr)
        return 2
    faiss.omp_set_num_threads(1)
    sizes = QUICK_SIZES if options.quick else SIZES
    figures: dict[str, Any] = {"sizes": list(sizes), "questions": QUESTIONS, "vectors_a_shard": A_SHARD}
    targets: list[Target] = []
    for size in sizes:
        stored = drawn(options.wordnet, size)
        rows = measured(stored)
        for name, row in rows.items():
            figures |= {f"{size}_{name}_{figure}": value for figure, value in row.items()}
        figures |= {f"{size}_start_{way}": value for way, value in started(stored).items()}
        ours, flat = rows["in_use"], rows["flat"]
        targets += [
            at_least(f"{size}_in_use_recall", 1.0, ours["recall"]),
            at_most(f"{size}_in_use_bytes", 1.5 * stored.codes.shape[1], ours["bytes_a_vector"]),
            at_most(
                f"{size}_everything_to_flat", 1.5, rounded(ours["everything_ms"] / flat["everything_ms"])
            ),
        ]
        print(table(size, rows), flush=True)
        figures["sizes"] = [done for done in sizes if done <= size]
        if size == sizes[-1] or not options.quick:  # a million take long: what is there is kept
            emit("local_index", figures, targets, None if options.quick else RESULTS / "local_index.json")
    return 0


def drawn(wordnet: Path, size: int) -> Stored:
    """`size` vectors in the order of their shards, and questions that are not among them."""
    rng = np.random.default_rng(SEED)
    texts = list(dict.fromkeys(gloss.definition for gloss in read_glosses(wordnet)))
    texts = [texts[place] for place in rng.permutation(len(texts))[: size + QUESTIONS].tolist()]
    embedded = StaticEmbedder().embed(texts)
    questions, base = embedded[:QUESTIONS], embedded[QUESTIONS:]
    cells = nearest_cells(Atlas.decode(packaged_atlas()), base)
    copies = np.resize(np.arange(len(base)), size)
    codes = base[copies]
    for begin in range(len(base), size, 1 << 16):
        block = slice(begin, begin + (1 << 16))
        wide = codes[block].astype(np.float32)
        wide += rng.normal(scale=NOISE * wide.std(axis=1, keepdims=True), size=wide.shape)
        codes[block] = np.rint(wide * (127 / np.abs(wide).max(axis=1, keepdims=True)))
    order = np.argsort(cells[copies], kind="stable")
    shard = np.arange(size, dtype=np.int64) // A_SHARD
    return Stored(codes[order], unit(codes[order]), shard, questions, unit(questions))


def unit(codes: Codes) -> NDArray[np.float32]:
    """Unit floats of codes."""
    floats = codes.astype(np.float32)
    floats /= np.linalg.norm(floats, axis=1, keepdims=True)
    return floats


def measured(stored: Stored) -> dict[str, dict[str, Any]]:
    """The figures of every kind."""
    truth = exact(stored)
    asked = [eight(stored, row) for row in truth]
    kinds = dict(built(stored, truth))
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in kinds}
    hits = dict.fromkeys(kinds, 0)
    for place, (codes, floats) in enumerate(zip(stored.questions, stored.question_units, strict=True)):
        for name, kind in kinds.items():
            for search, took in zip((kind.everything, kind.some), times[name], strict=True):
                began = time.perf_counter()
                found = search(codes, floats, asked[place])
                took.append(time.perf_counter() - began)
                if search is kind.everything:
                    hits[name] += len(set(found) & set(truth[place].tolist()))
    rng = np.random.default_rng(SEED)
    gone = rng.choice(len(stored.codes), min(REMOVED, len(stored.codes) // 2), replace=False)
    rows: dict[str, dict[str, Any]] = {}
    for name, kind in kinds.items():
        rows[name] = {
            "build_s": rounded(kind.build_s),
            "bytes_a_vector": rounded(kind.bytes_a_vector),
            "everything_ms": rounded(median(times[name][0]) * 1e3),
            "eight_shards_ms": rounded(median(times[name][1]) * 1e3),
            "recall": round(hits[name] / TOP / QUESTIONS, 4),
            "settings": kind.settings,
            "remove_us": None,
        }
        if kind.remove is not None:
            began = time.perf_counter()
            kind.remove(gone)
            rows[name]["remove_us"] = rounded((time.perf_counter() - began) / len(gone) * 1e6)
    return rows


def exact(stored: Stored) -> NDArray[np.int64]:
    """The ten nearest of each question, by float64 cosines of exact products, of equals the first."""
    lengths = np.linalg.norm(stored.codes.astype(np.float32), axis=1).astype(np.float64)
    found = np.empty((len(stored.questions), TOP), dtype=np.int64)
    columns = stored.questions.astype(np.float32).T
    products = np.concatenate(
        [
            stored.codes[at : at + 4096].astype(np.float32) @ columns
            for at in range(0, len(stored.codes), 4096)
        ]
    )
    for place in range(len(found)):
        cosines = products[:, place] / lengths
        able = np.flatnonzero(cosines >= np.partition(cosines, -TOP)[-TOP])
        found[place] = able[np.argsort(-cosines[able], kind="stable")[:TOP]]
    return found


def eight(stored: Stored, answers: NDArray[np.int64]) -> list[int]:
    """The shards of the answers, and their neighbours up to eight."""
    best = list(dict.fromkeys(stored.shard[answers].tolist()))[:ASKED]
    rest = (shard for shard in sorted(range(stored.shards), key=lambda s: abs(s - best[0])))
    for shard in rest:
        if len(best) == min(ASKED, stored.shards):
            break
        if shard not in best:
            best.append(shard)
    return best


def built(stored: Stored, truth: NDArray[np.int64]) -> Iterator[tuple[str, Kind]]:
    """Every kind of index, with settings that reach the recall wanted."""
    size, dim = stored.codes.shape
    yield "in_use", in_use(stored)
    yield "flat", by_shard(stored, lambda: faiss.IndexFlatIP(dim), 4 * dim, 1)
    yield (
        "trained_bytes",
        tuned(
            lambda depth: by_shard(stored, lambda: trained(stored), dim + dim, depth), RESCORED, stored, truth
        ),
    )
    lists = min(MOST_LISTS, max(16, 1 << (int(4 * size**0.5).bit_length() - 1)))
    ivf = faiss.index_factory(dim, f"IVF{lists},RaBitQ", faiss.METRIC_INNER_PRODUCT)
    began = time.perf_counter()
    ivf.train(stored.units[:: max(1, size // (40 * lists))])
    ivf.add(stored.units)
    took = time.perf_counter() - began
    held = len(faiss.serialize_index(ivf)) / size + dim
    yield (
        "ivf_rabitq",
        tuned(
            lambda pair: graph_or_lists(stored, ivf, took, held, "nprobe", *pair),
            [(breadth, depth) for depth in RESCORED for breadth in BREADTHS if breadth <= lists],
            stored,
            truth,
        ),
    )
    if size <= MOST_HNSW:
        hnsw = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
        began = time.perf_counter()
        hnsw.add(stored.units)
        took = time.perf_counter() - began
        held = len(faiss.serialize_index(hnsw)) / size
        yield (
            "hnsw",
            tuned(
                lambda breadth: graph_or_lists(stored, hnsw, took, held, "efSearch", breadth, TOP),
                BREADTHS,
                stored,
                truth,
            ),
        )


def tuned(
    make: Callable[[Any], Kind], settings: Sequence[Any], stored: Stored, truth: NDArray[np.int64]
) -> Kind:
    """The kind at the first settings that reach the recall wanted, else at the last."""
    for setting in settings:
        kind = make(setting)
        kind.settings += f" {setting}"
        right = sum(
            len(set(kind.everything(codes, floats, [])) & set(row.tolist()))
            for codes, floats, row in zip(stored.questions, stored.question_units, truth, strict=True)
        )
        if right >= RECALL * truth.size:
            break
    return kind


def in_use(stored: Stored) -> Kind:
    """`node.index`."""
    index = LocalIndex(stored.codes.shape[1])
    shards = [name_of(number) for number in range(stored.shards)]
    began = time.perf_counter()
    index.add(
        [
            IndexedPosting(number, shards[shard], row.tobytes())
            for number, (row, shard) in enumerate(zip(stored.codes, stored.shard.tolist(), strict=True))
        ]
    )
    took = time.perf_counter() - began

    def search(codes: Codes, floats: NDArray[np.float32], asked: Sequence[int]) -> list[int]:
        return [number for number, _ in index.search([shards[one] for one in asked], codes, TOP)[:TOP]]

    everything = list(range(stored.shards))
    return Kind(
        took,
        index.nbytes / len(index),
        lambda codes, floats, asked: search(codes, floats, everything),
        search,
        lambda numbers: index.remove(numbers.tolist()),
    )


def by_shard(stored: Stored, make: Callable[[], Any], size: int, rescored: int) -> Kind:
    """An index a shard; everything is asked of one index, which is kinder to it."""
    began = time.perf_counter()
    whole = make()
    whole.add(stored.units)
    took = time.perf_counter() - began
    parts = []
    for shard in range(stored.shards):
        part = make()
        part.add(stored.units[shard * A_SHARD : (shard + 1) * A_SHARD])
        parts.append(part)
    depth = max(TOP, rescored)

    def all_of(codes: Codes, floats: NDArray[np.float32], asked: Sequence[int]) -> list[int]:
        near = whole.search(floats[None], min(depth, whole.ntotal))[1][0]
        return near.tolist() if rescored <= TOP else rescore(stored, codes, near)

    def some(codes: Codes, floats: NDArray[np.float32], asked: Sequence[int]) -> list[int]:
        near: list[tuple[float, int]] = []
        for shard in asked:
            scores, rows = parts[shard].search(floats[None], min(depth, parts[shard].ntotal))
            near.extend(zip(scores[0].tolist(), (rows[0] + shard * A_SHARD).tolist(), strict=True))
        near.sort(reverse=True)
        best = [row for _, row in near[:depth]]
        return best if rescored <= TOP else rescore(stored, codes, np.array(best))

    return Kind(took, size + 8, all_of, some, lambda gone: whole.remove_ids(faiss.IDSelectorBatch(gone)))


def trained(stored: Stored) -> Any:
    """FAISS's scalar quantizer of eight bits, trained on the first vectors."""
    index = faiss.IndexScalarQuantizer(
        stored.codes.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.train(stored.units[:10_000])
    return index


def graph_or_lists(
    stored: Stored, index: Any, took: float, held: float, setting: str, breadth: int, depth: int
) -> Kind:
    """HNSW or IVF at one breadth; some shards are asked by a filter on the vectors' numbers."""

    def ask(codes: Codes, floats: NDArray[np.float32], selector: Any) -> list[int]:
        name = "SearchParametersHNSW" if setting == "efSearch" else "SearchParametersIVF"
        make: Any = getattr(faiss, name)  # FAISS's own type hints lack both
        near = index.search(floats[None], depth, params=make(sel=selector, **{setting: breadth}))[1][0]
        near = near[near >= 0]
        return near.tolist() if depth <= TOP else rescore(stored, codes, near)

    def some(codes: Codes, floats: NDArray[np.float32], asked: Sequence[int]) -> list[int]:
        wanted = np.concatenate(
            [np.arange(one * A_SHARD, min((one + 1) * A_SHARD, len(stored.codes))) for one in asked]
        )
        return ask(codes, floats, faiss.IDSelectorBatch(wanted))

    remove = None if setting == "efSearch" else lambda gone: index.remove_ids(faiss.IDSelectorBatch(gone))
    return Kind(
        took,
        held,
        lambda codes, floats, asked: ask(codes, floats, None),
        some,
        remove,
        f"{setting}, rescored",
    )


def rescore(stored: Stored, codes: Codes, near: NDArray[np.int64]) -> list[int]:
    """The ten best of these rows by exact products."""
    rows = stored.codes[near].astype(np.float64)
    cosines = rows @ codes.astype(np.float64) / np.sqrt(np.einsum("nd,nd->n", rows, rows))
    best: list[int] = near[np.argsort(-cosines, kind="stable")[:TOP]].tolist()
    return best


def started(stored: Stored) -> dict[str, float]:
    """Processor seconds until an index can be asked, and bytes of files: derived.db, or a file a shard."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "derived.db")
        trio.run(fill, path, stored)
        before = path.stat().st_size
        derived = DerivedState(path, inline_blocking)
        began = time.process_time()
        index, leaves = LocalIndex(stored.codes.shape[1]), [name_of(shard) for shard in range(stored.shards)]
        for rows in derived.vectors(1 << 16):
            index.fill(leaves, rows)
        from_database = time.process_time() - began
        assert len(index) == len(stored.codes)
        files = []
        for shard in range(stored.shards):
            part = faiss.IndexFlatIP(stored.codes.shape[1])
            part.add(stored.units[shard * A_SHARD : (shard + 1) * A_SHARD])
            files.append(str(Path(folder, f"{shard}.faiss")))
            faiss.write_index(part, files[-1])
        size = sum(os.path.getsize(file) for file in files)
        began = time.process_time()
        parts = [faiss.read_index(file) for file in files]
        from_files = time.process_time() - began
        assert sum(part.ntotal for part in parts) == len(stored.codes)
    return {
        "database_cpu_s": rounded(from_database),
        "float_files_cpu_s": rounded(from_files),
        "database_bytes_a_vector": rounded(before / len(stored.codes)),
        "float_files_bytes_a_vector": rounded(size / len(stored.codes)),
    }


async def fill(path: Path, stored: Stored) -> None:
    """A derived.db with a posting for every vector, in the order in which they might have come."""
    derived = DerivedState(path, inline_blocking)
    order = np.random.default_rng(SEED).permutation(len(stored.codes))
    async with trio.open_nursery() as nursery:
        await nursery.start(derived.run)
        for at in range(0, len(order), MAX_POSTINGS):
            postings = []
            for row in order[at : at + MAX_POSTINGS].tolist():
                cid = raw_cid(row.to_bytes(8, "big"))
                key = name_of(int(stored.shard[row])).start.to_bytes(6, "big") + cid[-26:]
                codes = stored.codes[row].tobytes()
                postings.append(Posting(0, key, cid, cid, codes, ("a tag",), bytes(32), row))
            await derived.put(postings)
        await derived.aclose()


def name_of(shard: int) -> Prefix:
    """The prefix that stands for a shard."""
    return Prefix(shard, 16)


def table(size: int, rows: dict[str, dict[str, Any]]) -> str:
    """One size's figures for people."""
    lines = [f"\n{size:,} vectors    build s  bytes  everything ms  8 shards ms  recall  remove us"]
    lines += [
        f"{name:<15} {row['build_s']:>8} {row['bytes_a_vector']:>6} {row['everything_ms']:>13} "
        f"{row['eight_shards_ms']:>12} {row['recall']:>7} {row['remove_us']!s:>9} {row['settings']}"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
