"""Does a question find its answers when it asks only the shards that routing by meaning names?

WordNet definitions are stored at 64 shards by the packaged atlas; other definitions and example sentences are
the questions. No gloss that is stored or asked was in the sample that the atlas was made of, nothing asked is
stored, and no text occurs twice. Recall@10 is the share of the ten nearest stored definitions, found by exact
search over the same codes, that lie on the shards asked. Four ways to order the shards are compared: at
random; outward along the curve from the question's best cell; routing by centroids as shipped; and an oracle
that knows where the ten lie. Their arithmetic is exact wherever a choice hangs on it, so every machine gets
the same recalls. Shipped routing weighs a cell by its place and by its cosine; beside it stands, in floating
point, what either alone would ask.

Beside that, how it would go at about 1,024 shards, grown by splitting wherever more than `MOST_A_LEAF`
definitions lie: by centroids, and by sketches of two bits a dimension (`sharding.sketch`,
`sharding.expectation`), which the query path does not use yet. Their one number, the error of an estimate, is
measured on what is stored.

    python -m benchmarks.routing [--quick] [--wordnet DIR]
"""

from __future__ import annotations

import argparse
import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import RESULTS, Target, at_least, at_most, emit, rounded
from chain.cid import raw_cid, to_text
from chain.vector import PPM
from node.embedding.build_atlas import SAMPLE, sample_texts
from node.embedding.packaged import packaged_atlas
from node.embedding.static import StaticEmbedder
from node.embedding.wordnet import DATA_FILES, Gloss, read_glosses
from sharding.atlas import SCORE_BITS, Atlas, nearest_cells, scores
from sharding.expectation import estimate_error, expected_hits
from sharding.key import shard_keys
from sharding.routing import CONTACT_MASS_PPM, Scored, contact_set, route
from sharding.sketch import Rotation, Sketches, sketches
from sharding.tree import FIRST_DEPTH, Prefix, ShardTree, key_head

STORED = (36_000, 8_000)
"""Definitions stored; the smaller set is the head of the larger one."""

QUESTIONS = 2_000
QUICK_QUESTIONS = 200
TOP = 10
RECALL = 0.95
COUNTS = (1, 2, 4, 8, 16, 24, 32, 48)
"""Numbers of shards at which the ways are compared."""

MASS_STEP_PPM = 1_000
"""How finely the mass that reaches `RECALL` is searched."""

SEED = 1
BLOCK = 250
"""Questions scored at a time by the exact search: with 36,000 stored, 72 MB of scores."""

PLACE_LAWS = tuple((offset, power) for offset in (1, 3, 8, 16, 32) for power in (1.0, 1.5, 2.0))
COSINE_LAWS = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08)
"""Scales tried where a cell's worth hangs on its place alone, 1 / (offset + place) ** power, or on its cosine
alone, halved with every so much behind the best. The best is kept: chosen on the very questions, it flatters.
"""

WAYS = ("random", "hilbert", "centroids", "oracle")

MOST_A_LEAF = 55
"""Definitions in a leaf before it splits: about 1,024 leaves for 36,000."""

FINE_QUESTIONS = 500
SKETCH_MASSES = (0.90, 0.93, 0.95, 0.97, 0.99)
"""Parts of the expected hits at which routing by sketches stops."""

SIGMA_SAMPLE = 100
"""Stored vectors that ask, to measure how far estimates are from the truth."""

Orders = NDArray[np.int64]
"""Shape (questions, shards): each question's shards in the order in which they are asked."""


class Texts(NamedTuple):
    """What is stored, and the questions of each kind."""

    stored: list[str]
    questions: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions of one kind: their codes, and how shipped routing and the curve order the shards."""

    codes: NDArray[np.int8]
    routes: list[list[Scored]]
    orders: dict[str, Orders]


class WrongWordNet(Exception):
    """The folder does not hold the WordNet that the packaged atlas was made of."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, keep; exit code 0 whether targets are met or not, 2 without WordNet."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.routing", description="recall of routing by meaning at 64 shards"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_QUESTIONS} questions of each kind, not {QUESTIONS}; leaves the kept result alone",
    )
    parser.add_argument(
        "--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder with data.noun …"
    )
    options = parser.parse_args(arguments)
    count = QUICK_QUESTIONS if options.quick else QUESTIONS
    try:
        texts = draw(options.wordnet, count)
    except WrongWordNet as error:
        print(error, file=sys.stderr)
        return 2

    embedder, atlas, tree = StaticEmbedder(), Atlas.decode(packaged_atlas()), ShardTree.fixed(FIRST_DEPTH)
    codes = embedder.embed(texts.stored)
    shard = placed(atlas, tree, codes, texts.stored)
    figures: dict[str, Any] = {
        "shards": len(tree.leaves),
        "questions": count,
        "default_mass": CONTACT_MASS_PPM / PPM,
        "atlas": to_text(atlas.cid),
        "at_shards": list(COUNTS),
    }
    for size in STORED:
        load = np.bincount(shard[:size], minlength=len(tree.leaves))
        figures[f"{label(size)}_load_max_over_mean"] = rounded(float(load.max() / load.mean()))
        figures[f"{label(size)}_empty_shards"] = int((load == 0).sum())
    targets: list[Target] = []
    for kind, sentences in texts.questions.items():
        asked = prepared(atlas, tree, embedder.embed(sentences))
        for size in STORED:
            row = f"{label(size)}_{kind}"
            hits = shard[nearest(codes[:size], asked.codes)]
            figures |= {f"{row}_{name}": value for name, value in measured(asked, hits).items()}
            targets.append(at_least(f"{row}_recall_at_default", RECALL, figures[f"{row}_recall_at_default"]))
            if size == max(STORED):
                figures |= {f"{row}_{name}": value for name, value in alone(atlas, asked.codes, hits).items()}
    figures |= fine(atlas, embedder, codes, texts, min(count, FINE_QUESTIONS))
    for kind in texts.questions:
        targets.append(at_least(f"fine_{kind}_sketch_recall", RECALL, figures[f"fine_{kind}_sketch_recall"]))
        targets.append(
            at_most(
                f"fine_{kind}_sketch_share",
                0.015,
                figures[f"fine_{kind}_sketch_shards"] / figures["fine_shards"],
            )
        )
        off = abs(figures[f"fine_{kind}_sketch_recall"] - figures[f"fine_{kind}_sketch_expected"])
        targets.append(at_most(f"fine_{kind}_calibration_error", 0.03, round(off, 4)))
    print(
        *tables(figures, [f"{label(size)}_{kind}" for kind in texts.questions for size in STORED]), sep="\n"
    )
    emit("routing", figures, targets, None if options.quick else RESULTS / "routing.json")
    return 0


def fine(
    atlas: Atlas, embedder: StaticEmbedder, codes: NDArray[np.int8], texts: Texts, count: int
) -> dict[str, Any]:
    """The figures at about 1,024 shards, for the first `count` questions of each kind."""
    keys = shard_keys(atlas, codes, [raw_cid(text.encode()) for text in texts.stored])
    tree = grown(sorted(key_head(key) for key in keys))
    number = {leaf: place for place, leaf in enumerate(tree.leaves)}
    shard = np.array([number[tree.leaf_of(key)] for key in keys], dtype=np.int64)
    load = np.bincount(shard, minlength=len(number))
    rotation = Rotation(atlas.cid, atlas.dim)
    data = sketches(rotation, codes).tobytes()
    sketched = Sketches.decode(data, atlas.dim)
    sigma = error_of(rotation, sketched, codes)
    figures: dict[str, Any] = {
        "fine_shards": len(number),
        "fine_load_max_over_mean": rounded(float(load.max() / load.mean())),
        "fine_sketch_bytes": len(data) // len(codes),
        "fine_sketch_error": round(sigma, 5),
        "fine_questions": count,
    }
    for kind, sentences in texts.questions.items():
        asked = embedder.embed(sentences[:count])
        held = counted(shard[nearest(codes, asked)], len(number))
        by_centroids = np.array(
            [[number[scored.prefix] for scored in route(atlas, tree, code)] for code in asked], dtype=np.int64
        )
        reached = np.cumsum(np.take_along_axis(held, by_centroids, axis=1), axis=1).mean(axis=0) / TOP
        figures[f"fine_{kind}_centroids_shards_for_95"] = int(np.argmax(reached >= RECALL)) + 1
        figures[f"fine_{kind}_oracle_shards"] = rounded(float((held > 0).sum(axis=1).mean()))
        hits = np.array(
            [
                expected_hits(sketched.cosines(rotation, code), shard, len(number), TOP, sigma)
                for code in asked
            ]
        )
        order = np.argsort(-hits, axis=1, kind="stable")
        running = np.cumsum(np.take_along_axis(hits, order, axis=1), axis=1) / TOP
        got = np.cumsum(np.take_along_axis(held, order, axis=1), axis=1) / TOP
        rows = np.arange(count)
        table = []
        for mass in SKETCH_MASSES:
            last = (running < mass).sum(axis=1)
            table.append(
                [
                    mass,
                    round(float(got[rows, last].mean()), 4),
                    round(float(running[rows, last].mean()), 4),
                    rounded(float(last.mean()) + 1),
                    int(np.percentile(last, 95, method="higher")) + 1,
                ]
            )
        figures[f"fine_{kind}_sketch_mass_recall_expected_shards_p95"] = table
        _, recall, expected, shards, p95 = table[1]
        figures[f"fine_{kind}_sketch_recall"], figures[f"fine_{kind}_sketch_expected"] = recall, expected
        figures[f"fine_{kind}_sketch_shards"], figures[f"fine_{kind}_sketch_shards_p95"] = shards, p95
    return figures


def grown(heads: Sequence[int]) -> ShardTree:
    """The tree in which no leaf holds more than `MOST_A_LEAF` of these key heads, given ascending."""
    leaves: list[Prefix] = []
    waiting = [Prefix(0, 0)]
    while waiting:
        prefix = waiting.pop()
        if bisect_left(heads, prefix.end) - bisect_left(heads, prefix.start) > MOST_A_LEAF:
            waiting.extend(prefix.children())
        else:
            leaves.append(prefix)
    return ShardTree.of(leaves)


def error_of(rotation: Rotation, sketched: Sketches, codes: NDArray[np.int8]) -> float:
    """The error of an estimate, from stored vectors that ask for all stored ones but themselves."""
    lengths = np.linalg.norm(codes.astype(np.float64), axis=1)
    wide = codes.astype(np.float32)
    errors = []
    for number in np.random.default_rng(SEED).choice(len(codes), SIGMA_SAMPLE, replace=False):
        others = np.arange(len(codes)) != number
        true = (wide @ wide[number]).astype(np.float64) / lengths / lengths[number]
        errors.append(estimate_error(sketched.cosines(rotation, codes[number])[others], true[others]))
    return float(np.sqrt(np.mean(np.square(errors))))


def label(size: int) -> str:
    """36,000 as 36k."""
    return f"{size // 1000}k"


def draw(wordnet: Path, count: int) -> Texts:
    """The texts, drawn by a fixed seed from glosses that the atlas has not seen. Raises `WrongWordNet`.

    Example sentences belong to glosses that are not stored either.
    """
    if not all((wordnet / name).is_file() for name in DATA_FILES):
        raise WrongWordNet(
            f"no WordNet in {wordnet}: install the Debian package wordnet-base "
            "or name its folder with --wordnet"
        )
    unseen = unseen_glosses(list(read_glosses(wordnet)), set(sample_texts(wordnet, SAMPLE)))
    order = np.random.default_rng(SEED).permutation(len(unseen)).tolist()
    stored = [unseen[number].definition for number in order[: max(STORED)]]
    rest = [unseen[number] for number in order[max(STORED) :]]
    taken = set(stored)
    examples = list(
        dict.fromkeys(
            gloss.examples[0] for gloss in rest if gloss.examples and gloss.examples[0] not in taken
        )
    )
    questions = {"glosses": [gloss.definition for gloss in rest[:count]], "examples": examples[:count]}
    if any(len(found) < count for found in questions.values()):
        raise WrongWordNet(
            f"the WordNet in {wordnet} leaves too few unseen glosses: "
            "use that of the Debian package wordnet-base"
        )
    return Texts(stored, questions)


def unseen_glosses(glosses: Sequence[Gloss], sample: set[str]) -> list[Gloss]:
    """The glosses, each definition once, of which neither text nor definition is in the atlas's sample.

    Raises `WrongWordNet` if fewer of them than `SAMPLE` are in it, for then the sample is not what it says.
    """
    sampled = [gloss for gloss in glosses if "; ".join((gloss.definition, *gloss.examples)) in sample]
    if len(sampled) < SAMPLE:
        raise WrongWordNet(
            f"only {len(sampled)} of the atlas's {SAMPLE} glosses are in this WordNet: "
            "use that of the Debian package wordnet-base"
        )
    seen = {gloss.definition for gloss in sampled}
    unseen: dict[str, Gloss] = {}
    for gloss in glosses:
        if gloss.definition not in seen:
            unseen.setdefault(gloss.definition, gloss)
    return list(unseen.values())


def placed(atlas: Atlas, tree: ShardTree, codes: NDArray[np.int8], texts: Sequence[str]) -> NDArray[np.int64]:
    """Number of the shard under which each text's key falls, shape (n,)."""
    keys = shard_keys(atlas, codes, [raw_cid(text.encode()) for text in texts])
    return np.array([tree.leaf_of(key).bits for key in keys], dtype=np.int64)


def prepared(atlas: Atlas, tree: ShardTree, codes: NDArray[np.int8]) -> Asked:
    """The questions' routes, and the orders that do not depend on what is stored."""
    routes = [route(atlas, tree, code) for code in codes]
    shards = len(tree.leaves)
    numbers = np.tile(np.arange(shards, dtype=np.int64), (len(codes), 1))
    orders = {
        "random": np.random.default_rng(SEED).permuted(numbers, axis=1),
        "hilbert": along_the_curve(nearest_cells(atlas, codes), atlas.cells // shards, shards),
        "centroids": np.array([[scored.prefix.bits for scored in one] for one in routes], dtype=np.int64),
    }
    return Asked(codes, routes, orders)


def along_the_curve(ranks: NDArray[np.int64], width: int, shards: int) -> Orders:
    """Shards of `width` cells each, the nearest to the cell of that rank first; of equals, the lower."""
    begins = np.arange(shards, dtype=np.int64) * width
    before, after = begins - ranks[:, None], ranks[:, None] - (begins + width - 1)
    return np.argsort(np.maximum(np.maximum(before, after), 0), axis=1, kind="stable")


def nearest(stored: NDArray[np.int8], questions: NDArray[np.int8]) -> NDArray[np.int64]:
    """Rows of the `TOP` stored codes nearest to each question by cosine; of equals, the first stored."""
    columns = stored.T.astype(np.float32)  # dot products of 256 components within 127 are exact in float32
    lengths = np.sqrt(np.einsum("nd,nd->n", stored, stored, dtype=np.int64).astype(np.float64))
    found = np.empty((len(questions), TOP), dtype=np.int64)
    for begin in range(0, len(questions), BLOCK):
        scores = (questions[begin : begin + BLOCK].astype(np.float32) @ columns) / lengths
        floors = np.partition(scores, -TOP, axis=1)[:, -TOP]
        for number, (row, floor) in enumerate(zip(scores, floors, strict=True), begin):
            able = np.flatnonzero(row >= floor)
            found[number] = able[np.argsort(-row[able], kind="stable")[:TOP]]
    return found


def measured(asked: Asked, hits: NDArray[np.int64]) -> dict[str, Any]:
    """Every figure of one row; `hits`, shape (questions, TOP), are the shards on which the answers lie."""
    held = counted(hits, asked.orders["centroids"].shape[1])
    orders = asked.orders | {"oracle": np.argsort(-held, axis=1, kind="stable")}
    reached = {
        way: np.cumsum(np.take_along_axis(held, orders[way], axis=1), axis=1) / TOP for way in WAYS
    }  # recall of each question after its first, second, … shard

    sizes = heads(asked.routes, CONTACT_MASS_PPM)
    recalls = reached["centroids"][np.arange(len(hits)), sizes - 1]
    mass, enough = needed_mass(asked.routes, reached["centroids"])
    figures: dict[str, Any] = {
        "recall_at_default": float(recalls.mean().round(5)),
        "recall_standard_error": float((recalls.std() / np.sqrt(len(recalls))).round(4)),
        "shards_at_default": rounded(float(sizes.mean())),
        "shards_at_default_p95": int(np.percentile(sizes, 95, method="higher")),
        "mass_for_95": mass,
        "shards_for_95_by_mass": rounded(enough),
        "shards_with_hits": rounded(float((held > 0).sum(axis=1).mean())),
    }
    for way in WAYS:
        curve = reached[way].mean(axis=0)
        figures[f"{way}_recall"] = [round(float(curve[number - 1]), 3) for number in COUNTS]
        figures[f"{way}_shards_for_95"] = int(np.argmax(curve >= RECALL)) + 1
    return figures


def heads(routes: Sequence[Sequence[Scored]], mass_ppm: int) -> NDArray[np.int64]:
    """How many shards each question asks at this mass."""
    return np.array([len(contact_set(scored, mass_ppm)) for scored in routes], dtype=np.int64)


def needed_mass(routes: Sequence[Sequence[Scored]], reached: NDArray[np.float64]) -> tuple[float, float]:
    """The smallest mass at which mean recall is `RECALL`, and the mean number of shards asked there."""
    rows = np.arange(len(routes))
    low, high = 0, PPM // MASS_STEP_PPM  # recall never falls as the mass grows, and is 1 at the top
    while low < high:
        middle = (low + high) // 2
        if reached[rows, heads(routes, middle * MASS_STEP_PPM) - 1].mean() >= RECALL:
            high = middle
        else:
            low = middle + 1
    return high * MASS_STEP_PPM / PPM, float(heads(routes, high * MASS_STEP_PPM).mean())


def alone(atlas: Atlas, codes: NDArray[np.int8], hits: NDArray[np.int64]) -> dict[str, float]:
    """Shards that `RECALL` needs if a cell's worth hangs on its place alone, and on its cosine alone."""
    lengths = np.linalg.norm(codes.astype(np.float64), axis=1, keepdims=True)
    cosines = scores(atlas, codes) / lengths / (1 << SCORE_BITS)
    behind = cosines.max(axis=1, keepdims=True) - cosines
    place = np.argsort(np.argsort(behind, axis=1, kind="stable"), axis=1, kind="stable")
    by_place = (needed(1 / (offset + place) ** power, hits) for offset, power in PLACE_LAWS)
    by_cosine = (needed(np.exp2(-behind / halving), hits) for halving in COSINE_LAWS)
    return {
        "place_alone_shards_for_95": rounded(min(by_place)),
        "cosine_alone_shards_for_95": rounded(min(by_cosine)),
    }


def needed(weights: NDArray[np.float64], hits: NDArray[np.int64]) -> float:
    """Mean number of shards asked at the smallest mass that reaches `RECALL`; `weights` has a row a question
    and a column a cell.
    """
    shards = 1 << FIRST_DEPTH
    masses = weights.reshape(len(weights), shards, -1).sum(axis=2)
    order = np.argsort(-masses, axis=1, kind="stable")
    running = np.cumsum(np.take_along_axis(masses, order, axis=1), axis=1)
    running /= running[:, -1:]
    reached = np.cumsum(np.take_along_axis(counted(hits, shards), order, axis=1), axis=1) / TOP
    rows = np.arange(len(hits))
    low, high = 0, PPM // MASS_STEP_PPM
    while low < high:
        middle = (low + high) // 2
        asked = (running[:, :-1] < middle * MASS_STEP_PPM / PPM).sum(axis=1)
        if reached[rows, asked].mean() >= RECALL:
            high = middle
        else:
            low = middle + 1
    return float((running[:, :-1] < high * MASS_STEP_PPM / PPM).sum(axis=1).mean()) + 1


def counted(hits: NDArray[np.int64], shards: int) -> NDArray[np.int64]:
    """How many of each question's answers every shard holds, shape (questions, shards)."""
    held = np.zeros((len(hits), shards), dtype=np.int64)
    np.add.at(held, (np.arange(len(hits))[:, None], hits), 1)
    return held


def tables(figures: dict[str, Any], rows: Sequence[str]) -> Iterator[str]:
    """Lines of the two tables of docs/sharding.md, as Markdown."""
    shards = figures["shards"]
    yield (
        "| stored, asked | recall at the default | standard error | shards asked | shards that .95 needs "
        "| shards that hold the ten |"
    )
    yield "|---|---|---|---|---|---|"
    for row in rows:
        asked, enough = figures[f"{row}_shards_at_default"], figures[f"{row}_shards_for_95_by_mass"]
        yield (
            f"| {title(row)} | {decimals(figures[f'{row}_recall_at_default'])} "
            f"| {decimals(figures[f'{row}_recall_standard_error'])} | {asked} ({asked / shards:.0%}) "
            f"| {enough} ({enough / shards:.0%}) | {figures[f'{row}_shards_with_hits']} |"
        )
    yield ""
    heading = " | ".join(f"{number} ({number / shards:.0%})" for number in COUNTS)
    yield f"| stored, asked | order of shards | {heading} | .95 needs |"
    yield "|---|---|" + "---|" * (len(COUNTS) + 1)
    for row in rows:
        for way in WAYS:
            recalls = " | ".join(decimals(value) for value in figures[f"{row}_{way}_recall"])
            yield f"| {title(row)} | {way} | {recalls} | {figures[f'{row}_{way}_shards_for_95']} |"
    yield ""


def title(row: str) -> str:
    """A row's name in words."""
    size, _, kind = row.partition("_")
    asked = {"glosses": "other definitions", "examples": "example sentences"}[kind]
    return f"{size.removesuffix('k')},000 definitions, {asked}"


def decimals(value: float) -> str:
    """Three decimals; the nought before the point is left out."""
    return f"{value:.3f}".removeprefix("0")


if __name__ == "__main__":
    sys.exit(main())
