"""Do vector and words together find more than either, and does a network find what one place would?

WordNet glosses are stored, each with its headwords as a dictionary has them; an example sentence asks for its
own gloss, and recall@10 is how often that is among the ten best. A second row has the bare definitions, where
words help little: what hybrid costs where it should not be used. No gloss was in the sample that the atlas
was made of. Questions fall into two halves: weights are chosen on the first, and all figures are of the
second. BM25's numbers, the stems and the scale of the evidence were chosen in trials on 800 sentences of
another draw of the same glosses, so about one in twenty of the second half may have been among them.

Central: exact search over everything, by vector, by words, and by both in three ways: the middle of cosine
and evidence as shipped, the same scaled by each question's best hit (what Bruch et al. 2022 call a convex
combination), and reciprocal ranks (Cormack et al. 2009). Of each way the best weight on the first half
counts. The network is held against the best of all ways and weights on the very questions that it was asked.

Many shards: about 1,024, grown by splitting, with the real choice of shards: sketches for the vector, term
sketches for the words. Network: whole nodes in the simulator, whose holders look up, score and are checked.

    python -m benchmarks.hybrid [--quick] [--wordnet DIR]
"""

from __future__ import annotations

import argparse
import sys
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any, NamedTuple

import numpy as np
import trio
from numpy.typing import NDArray

from benchmarks.report import RESULTS, at_least, at_most, emit, rounded
from chain.cid import Cid, raw_cid
from chain.identity import Identity
from chain.vector import PPM
from node.embedding.build_atlas import SAMPLE, sample_texts
from node.embedding.packaged import packaged_atlas
from node.embedding.static import StaticEmbedder
from node.embedding.wordnet import DATA_FILES, Gloss, read_glosses
from node.models import Added, NewEntry, QueryOptions
from node.node import Node
from node.options import NodeOptions
from node.query.effort import DEFAULT_EFFORT, EFFORTS
from node.query.wording import named_beside
from sharding.atlas import Atlas
from sharding.bm25 import Wanted, scores, wanted
from sharding.expectation import estimate_error, expected_hits
from sharding.key import shard_keys
from sharding.sketch import Rotation, Sketches, sketches
from sharding.term_sketch import TermTable, sketch_of
from sharding.terms import Counted, counted
from sharding.tree import Prefix, ShardTree, key_head
from sharding.word_routing import expected_at, recall_of_both
from sim.network import open_world
from sim.virtual_clock import run_deterministic
from sim.whole_node import found_network, start_node

STORED, QUICK_STORED = 30_000, 3_000
QUESTIONS, QUICK_QUESTIONS = 600, 200
"""Of each half."""
ASKED, QUICK_ASKED = 400, 60
"""Questions of the second half that go through the network, in each mode."""
TOP = 10
SEED = 1
SHARDS = 1_024
MOST_A_LEAF = 1.57
"""A leaf splits beyond so many times the mean of `SHARDS` shards, which gives about so many."""
RECALL = 0.93
"""Of the hits expected by vector, where sketches stop; as at effort medium."""
WANTED = EFFORTS[DEFAULT_EFFORT] / PPM
CALIBRATED = 0.03
"""The recall expected may differ by so much from the recall found, on the mean."""
WEIGHTS = tuple(round(0.1 * step, 1) for step in range(1, 10))
RANK_OFFSETS = (10, 60)
NODES = 6
BATCH = 250
MODES = ("vector", "lexical", "hybrid")
DEADLINE_MS = 60_000
SHARE = 0.95
"""Of the best central hybrid, that the network has to reach."""


class Corpus(NamedTuple):
    """What is stored, and two halves of questions, each with the place of its gloss."""

    headed: list[str]
    bare: list[str]
    first: list[tuple[int, str]]
    second: list[tuple[int, str]]


class Central:
    """Everything in one place: exact scores of questions against all texts."""

    def __init__(self, texts: Sequence[str], embedder: StaticEmbedder) -> None:
        self.codes = embedder.embed(texts)
        self._embedder = embedder
        wide = self.codes.astype(np.float32)
        self._unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
        self.counted = [counted(text) for text in texts]
        ids = np.concatenate([one.ids for one in self.counted])
        place = np.repeat(np.arange(len(texts)), [len(one.ids) for one in self.counted])
        order = np.argsort(ids, kind="stable")
        self._ids, self._place = ids[order], place[order]
        self.mean = float(np.mean([one.length for one in self.counted]))

    def cosines(self, questions: Sequence[str]) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
        """Codes of the questions, and their cosines in ppm with all texts."""
        codes = self._embedder.embed(questions)
        asked = codes.astype(np.float32)
        asked /= np.linalg.norm(asked, axis=1, keepdims=True)
        return codes, np.rint(asked @ self._unit.T * 1e6).astype(np.int64)

    def wanted(self, question: str) -> Wanted | None:
        """The question's words with the weights of all texts."""
        ids = counted(question).ids.tolist()
        return wanted(ids, {one: len(self._with(one)) for one in ids}, len(self.counted), self.mean)

    def lexical(self, asked: Wanted | None) -> NDArray[np.int64]:
        """The scores by words of all texts."""
        found = np.zeros(len(self.counted), dtype=np.int64)
        if asked is not None:
            some = np.unique(np.concatenate([self._with(one) for one, _ in asked.terms]))
            found[some] = scores(asked, [self.counted[place] for place in some.tolist()])
        return found

    def _with(self, term: int) -> NDArray[np.int64]:
        first, last = np.searchsorted(self._ids, [term, term + 1])
        return self._place[first:last]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, keep; exit code 0 whether targets are met or not, 2 without WordNet."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hybrid", description="recall by vector, by words and by both"
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STORED} glosses; keeps no result")
    parser.add_argument(
        "--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder with data.noun …"
    )
    options = parser.parse_args(arguments)
    if not all((options.wordnet / name).is_file() for name in DATA_FILES):
        print("no WordNet: install the Debian package wordnet-base or name its folder", file=sys.stderr)
        return 2
    stored, count, asked = (
        (QUICK_STORED, QUICK_QUESTIONS, QUICK_ASKED) if options.quick else (STORED, QUESTIONS, ASKED)
    )
    corpus = draw(options.wordnet, stored, count)
    embedder = StaticEmbedder()
    figures: dict[str, Any] = {"stored": stored, "questions": count, "asked_of_the_network": asked}
    headed = Central(corpus.headed, embedder)
    figures |= central(headed, corpus, "headed")
    figures |= central(Central(corpus.bare, embedder), corpus, "bare")
    figures |= sharded(headed, corpus)
    share = figures["sharded_hybrid"] / figures["headed_best_of_all"]
    figures["sharded_share_of_central_best"] = rounded(share)
    figures |= network(corpus, asked)
    figures |= same_questions(headed, corpus.second[:asked])
    best = figures["network_central_best"]
    targets = [at_least("sharded_share_of_central_best", SHARE, figures["sharded_share_of_central_best"])]
    for mode in ("vector", "hybrid"):
        error = abs(figures[f"sharded_{mode}_expected_recall"] - figures[f"sharded_{mode}_found_recall"])
        targets.append(at_most(f"sharded_{mode}_calibration_error", CALIBRATED, round(error, 4)))
    targets.append(
        at_least("network_share_of_central_best", SHARE, rounded(figures["network_hybrid"] / best))
    )
    for mode in ("vector", "lexical"):
        gain = figures["network_hybrid"] - figures[f"network_{mode}"]
        targets.append(at_least(f"network_hybrid_above_{mode}", 0.001, round(gain, 4)))
    emit("hybrid", figures, targets, None if options.quick else RESULTS / "hybrid.json")
    return 0


def draw(wordnet: Path, stored: int, count: int) -> Corpus:
    """Glosses that the atlas has not seen, drawn by a fixed seed, and the example sentences of some."""
    sample = set(sample_texts(wordnet, SAMPLE))
    unseen: dict[str, Gloss] = {}
    for gloss in read_glosses(wordnet):
        if "; ".join((gloss.definition, *gloss.examples)) not in sample:
            unseen.setdefault(gloss.definition, gloss)
    order = np.random.default_rng(SEED).permutation(len(unseen)).tolist()
    glosses = [list(unseen.values())[place] for place in order[:stored]]
    questions = [(place, gloss.examples[0]) for place, gloss in enumerate(glosses) if gloss.examples]
    questions = [questions[place] for place in np.random.default_rng(SEED + 1).permutation(len(questions))]
    return Corpus(
        [f"{', '.join(gloss.words)}: {gloss.definition}" for gloss in glosses],
        [gloss.definition for gloss in glosses],
        questions[:count],
        questions[count : 2 * count],
    )


def found_at(score: NDArray[Any], place: int) -> bool:
    """Whether a text is among the ten best, of equal ones those stored first."""
    above = int((score > score[place]).sum()) + int((score[:place] == score[place]).sum())
    return above < TOP


def fusions(cosine: NDArray[np.int64], lexical: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """The ways of fusing, by name, with all their weights."""
    found: dict[str, NDArray[Any]] = {}
    for weight in WEIGHTS:
        found[f"evidence {weight}"] = weight * cosine + (1 - weight) * lexical
        top = max(int(lexical.max()), 1)
        found[f"scaled {weight}"] = weight * cosine / cosine.max() + (1 - weight) * lexical / top
    by_vector = np.argsort(np.argsort(-cosine, kind="stable"), kind="stable")
    by_words = np.argsort(np.argsort(-lexical, kind="stable"), kind="stable")
    for offset in RANK_OFFSETS:
        found[f"ranks {offset}"] = 1 / (offset + 1 + by_vector) + 1 / (offset + 1 + by_words)
    return found


def recalls(place: Central, questions: Sequence[tuple[int, str]]) -> dict[str, float]:
    """Recall@10 of every way, in one place."""
    hits: dict[str, int] = {}
    for start in range(0, len(questions), BATCH):
        part = questions[start : start + BATCH]
        _, cosines = place.cosines([text for _, text in part])
        for (true, text), cosine in zip(part, cosines, strict=True):
            lexical = place.lexical(place.wanted(text))
            ways = {"vector": cosine, "lexical": lexical, "hybrid": (cosine + lexical) // 2}
            for name, score in (ways | fusions(cosine, lexical)).items():
                hits[name] = hits.get(name, 0) + found_at(score, true)
    return {name: count / len(questions) for name, count in hits.items()}


def central(place: Central, corpus: Corpus, label: str) -> dict[str, Any]:
    """Every way on the second half, at the weight that was best on the first."""
    first, second = recalls(place, corpus.first), recalls(place, corpus.second)
    figures: dict[str, Any] = {f"{label}_{mode}": round(second[mode], 4) for mode in MODES}
    chosen = {}
    for way in ("evidence", "scaled", "ranks"):
        chosen[way] = max((name for name in first if name.startswith(way)), key=lambda name: first[name])
        figures[f"{label}_{way}"] = round(second[chosen[way]], 4)
        figures[f"{label}_{way}_weight"] = float(chosen[way].split()[1])
    figures[f"{label}_best_of_all"] = round(best_of(second), 4)
    return figures


def sharded(place: Central, corpus: Corpus) -> dict[str, Any]:
    """Recall where only the shards that vector and words name are asked, of about `SHARDS`."""
    atlas = Atlas.decode(packaged_atlas())
    keys = shard_keys(atlas, place.codes, [raw_cid(text.encode()) for text in corpus.headed])
    tree = grown(sorted(key_head(key) for key in keys), round(MOST_A_LEAF * len(keys) / SHARDS))
    number = {leaf: at for at, leaf in enumerate(tree.leaves)}
    shard = np.array([number[tree.leaf_of(key)] for key in keys], dtype=np.int64)
    texts: list[list[Counted]] = [[] for _ in tree.leaves]
    for at, one in zip(shard.tolist(), place.counted, strict=True):
        texts[at].append(one)
    parts = [sketch_of(some) for some in texts]
    table = TermTable(parts)
    rotation = Rotation(atlas.cid, atlas.dim)
    sketched = Sketches.decode(sketches(rotation, place.codes).tobytes(), atlas.dim)
    sigma = error_of(rotation, sketched, place.codes)
    rows = sum(len(one.rows()) for one in parts)
    figures: dict[str, Any] = {
        "sharded_shards": len(tree.leaves),
        "sharded_term_sketch_bytes": rounded(5 * rows / len(tree.leaves)),
    }
    hits = dict.fromkeys(("vector", "hybrid"), 0)
    asked = dict.fromkeys(("vector", "hybrid"), 0)
    promised = dict.fromkeys(("vector", "hybrid"), 0.0)
    held = dict.fromkeys(("vector", "hybrid"), 0.0)
    for start in range(0, len(corpus.second), BATCH):
        part = corpus.second[start : start + BATCH]
        codes, cosines = place.cosines([text for _, text in part])
        for (true, text), code, cosine in zip(part, codes, cosines, strict=True):
            expected = expected_hits(sketched.cosines(rotation, code), shard, len(number), TOP, sigma)
            order = np.argsort(-expected, kind="stable")
            last = int((np.cumsum(expected[order]) < RECALL * TOP).sum()) + 1
            near = set(order[:last].tolist())
            question = place.wanted(text)
            named: set[int] = set()
            leaves: dict[Prefix, float] = {}
            if question is not None:
                ids = [one for one, _ in question.terms]
                leaves, best = (
                    dict(zip(tree.leaves, some.tolist(), strict=True))
                    for some in expected_at(
                        table.frequencies(ids),
                        table.texts,
                        [weight for _, weight in question.terms],
                        (TOP, 1),
                    )
                )
                by_vector = float(expected[list(near)].sum()) / TOP
                named = {number[leaf] for leaf in named_beside(leaves, best, by_vector, WANTED)}
            lexical = place.lexical(question)
            for mode, score, some in (
                ("vector", cosine, near),
                ("hybrid", (cosine + lexical) // 2, near | named),
            ):
                there = np.isin(shard, list(some))
                hits[mode] += bool(there[true]) and found_at(np.where(there, score, -(10**9)), true)
                asked[mode] += len(some)
                held[mode] += float(there[np.argsort(-score, kind="stable")[:TOP]].mean())
                by_vector = min(1.0, float(expected[list(some)].sum()) / TOP)
                if mode == "hybrid" and (every := sum(leaves.values())) > 0:
                    there_by_words = sum(leaves[tree.leaves[one]] for one in some)
                    by_vector = recall_of_both(by_vector, there_by_words / every)
                promised[mode] += by_vector
    for mode in hits:
        figures[f"sharded_{mode}"] = round(hits[mode] / len(corpus.second), 4)
        figures[f"sharded_{mode}_shards_asked"] = rounded(asked[mode] / len(corpus.second))
        figures[f"sharded_{mode}_expected_recall"] = round(promised[mode] / len(corpus.second), 4)
        figures[f"sharded_{mode}_found_recall"] = round(held[mode] / len(corpus.second), 4)
    return figures


def best_of(found: dict[str, float]) -> float:
    """The best that any way of fusing reached: chosen on the very questions, it flatters."""
    return max(count for name, count in found.items() if name not in ("vector", "lexical"))


def same_questions(place: Central, questions: Sequence[tuple[int, str]]) -> dict[str, Any]:
    """In one place, what the network was asked."""
    found = recalls(place, questions)
    figures = {f"network_central_{mode}": round(found[mode], 4) for mode in MODES}
    figures["network_central_best"] = round(best_of(found), 4)
    return figures


def network(corpus: Corpus, count: int) -> dict[str, Any]:
    """Recall of whole nodes in the simulator, and what the questions cost."""
    with TemporaryDirectory() as folder:
        return run_deterministic(lambda: _network(corpus, count, Path(folder)), seed=SEED)


async def _network(corpus: Corpus, count: int, folder: Path) -> dict[str, Any]:
    agents = [Identity.from_seed(bytes([number + 1]) * 32) for number in range(NODES + 1)]
    async with open_world(SEED) as world:
        founding = found_network(agents[0])
        nodes: list[Node] = []
        for number, agent in enumerate(agents):
            (folder / str(number)).mkdir()
            options = NodeOptions(
                bootstrap=(world.address(agents[0].agent),) if number else (),
                capacity=0 if number == NODES else 100,
                query_cache_s=0.0,
            )
            nodes.append(await start_node(world, agent, founding, folder / str(number), SEED, options))
        await trio.sleep(10)
        place: dict[Cid, int] = {}
        for start in range(0, len(corpus.headed), BATCH):
            part = corpus.headed[start : start + BATCH]
            author = nodes[start // BATCH % NODES]
            for at, outcome in enumerate(await author.add([NewEntry(text) for text in part])):
                if isinstance(outcome, Added):
                    place[outcome.id] = start + at
        while any(node.status().pending for node in nodes):  # noqa: ASYNC110 - virtual time
            await trio.sleep(1)
        asker = nodes[NODES]
        await asker.query(corpus.first[0][1], None, TOP, (), DEADLINE_MS, options=QueryOptions(mode="hybrid"))
        await trio.sleep(60)
        figures: dict[str, Any] = {}
        for mode in MODES:
            hits, asked, refused, began = 0, 0, 0, process_time()
            for true, text in corpus.second[:count]:
                answer = await asker.query(
                    text, None, TOP, (), DEADLINE_MS, options=QueryOptions(mode=mode, cache=False)
                )
                hits += true in [place[hit.id] for hit in answer.hits]
                asked += answer.cost.shards_contacted
                refused += answer.cost.hits_refused
            figures[f"network_{mode}"] = round(hits / count, 4)
            figures[f"network_{mode}_shards_asked"] = rounded(asked / count)
            figures[f"network_{mode}_hits_refused"] = refused
            figures[f"network_{mode}_cpu_ms"] = rounded((process_time() - began) / count * 1_000)
        figures["network_shards"] = answer.cost.shards_total
        return figures


def grown(heads: Sequence[int], most: int) -> ShardTree:
    """The tree in which no leaf holds more than `most` of these key heads, given ascending."""
    leaves: list[Prefix] = []
    waiting = [Prefix(0, 0)]
    while waiting:
        prefix = waiting.pop()
        if bisect_left(heads, prefix.end) - bisect_left(heads, prefix.start) > most:
            waiting.extend(prefix.children())
        else:
            leaves.append(prefix)
    return ShardTree.of(leaves)


def error_of(rotation: Rotation, sketched: Sketches, codes: NDArray[np.int8]) -> float:
    """The error of an estimate, from some stored vectors that ask for the others."""
    wide = codes.astype(np.float32)
    lengths = np.linalg.norm(wide, axis=1)
    errors = []
    for number in np.random.default_rng(SEED).choice(len(codes), 100, replace=False):
        others = np.arange(len(codes)) != number
        true = (wide @ wide[number]).astype(np.float64) / lengths / lengths[number]
        errors.append(estimate_error(sketched.cosines(rotation, codes[number])[others], true[others]))
    return float(np.sqrt(np.mean(np.square(errors))))


if __name__ == "__main__":
    sys.exit(main())
