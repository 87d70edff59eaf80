"""What it costs a question to have the sketches of an eighth of the shards, as where there are too many rows.

A node keeps the blocks of a million rows (`dht.summaries.shelf`). In a network that has more, it wants only
those of the shards that the atlas puts first for a question, one in eight (`node.query.choosing`). Here are
1,050,000 entries in shards of 512 at most: the same questions choose their shards with all blocks, with those
of the best eighth, and with none, by the daemon's own law (`sharding.contact`), and the ten best are found by
exact search. WordNet has not so many definitions, so beyond 36,000 entries are halves of two. The second
part is the 36,000 definitions alone, in shards of 18, as many shards of real knowledge as there.

    python -m benchmarks.tiers [--quick] [--wordnet DIR]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpora import WORDNET, NoCorpus, wordnet
from benchmarks.report import RESULTS, at_least, at_most, document, emit, in_own_process, rounded
from benchmarks.routing import SHIPPED, SIGMA_SAMPLE, TOP, grown, nearest
from benchmarks.scale import entries
from chain.cid import raw_cid
from dht.summaries.shelf import MAX_ROWS_KEPT
from node.embedding.packaged import packaged_atlas
from node.embedding.static import StaticEmbedder
from node.query.calibration import error_near
from node.query.choosing import BEST
from sharding.atlas import Atlas
from sharding.contact import contacts, weigh
from sharding.expectation import expected_hits
from sharding.key import shard_keys
from sharding.routing import route
from sharding.sketch import Rotation, Sketches, sketches
from sharding.tree import Prefix, ShardTree, key_head

SIZES = ((MAX_ROWS_KEPT * 21 // 20, 512), (36_000, 18))
QUICK_SIZES = ((9_000, 18),)
"""Entries, and the most of them in a shard."""
QUESTIONS, QUICK_QUESTIONS = 300, 60
ROWS_AT_ONCE = 20_000
WAYS = ("all", "eighth", "none")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="9,000 entries; leaves the kept result alone")
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
    figures: dict[str, Any] = {"questions": QUICK_QUESTIONS if quick else QUESTIONS, "recall_wanted": SHIPPED}
    for count, most in QUICK_SIZES if quick else SIZES:
        part = in_own_process("tiers", str(arguments.wordnet), count, most, figures["questions"])
        figures[f"entries_{count}"] = part
        print(f"{count:,} entries: measured", file=sys.stderr, flush=True)
    print(*table(figures), sep="\n")
    if not quick:
        document("tiers", table(figures))
    targets = []
    for name, row in figures.items():
        if isinstance(row, dict):
            eighth = row["eighth"]
            targets.append(at_least(f"{name}_recall_with_an_eighth", 0.95, eighth["recall"]))
            off = abs(eighth["recall_expected"] - eighth["recall"])
            targets.append(at_most(f"{name}_calibration_error_with_an_eighth", 0.03, rounded(off)))
    emit("tiers", figures, targets, None if quick else RESULTS / "tiers.json")
    return 0


def table(figures: dict[str, Any]) -> Iterator[str]:
    """Lines of the table of docs/sharding.md, as Markdown."""
    yield "| entries, shards | blocks of | rows | recall found, expected | shards asked (95th percentile) |"
    yield "|---|---|---|---|---|"
    for row in figures.values():
        if not isinstance(row, dict):
            continue
        for way, named in zip(WAYS, ("all shards", f"the best {row['wanted']:,}", "none"), strict=True):
            one = row[way]
            yield (
                f"| {row['entries']:,}, {row['shards']:,} | {named} | {one['rows']:,} | "
                f"{one['recall']}, {one['recall_expected']} | {one['shards']} ({one['shards_p95']}) |"
            )


def measured(folder: Path, count: int, most: int, questions: int) -> dict[str, Any]:
    """All figures of so many entries in shards of at most so many."""
    texts, sentences = entries(folder, count)
    embed = StaticEmbedder().embed
    codes, asking = in_pieces(embed, texts), embed(sentences[:questions])
    atlas = Atlas.decode(packaged_atlas())
    heads = [key_head(key) for key in shard_keys(atlas, codes, [raw_cid(text.encode()) for text in texts])]
    tree = ShardTree.of(grown(sorted(heads), most))
    shards = np.searchsorted([leaf.start for leaf in tree.leaves], heads, "right") - 1
    right = shards[nearest(codes, asking)]
    rotation = Rotation(atlas.cid, atlas.dim)
    sketched = Sketches.decode(sketches(rotation, codes).tobytes(), atlas.dim)
    sigma = error_near(atlas.cid, codes[:SIGMA_SAMPLE])
    wanted = -(-len(tree.leaves) // BEST)
    place = {leaf: number for number, leaf in enumerate(tree.leaves)}
    seen: dict[str, list[tuple[int, float, float, int]]] = {way: [] for way in WAYS}
    for code, hits in zip(asking, right, strict=True):
        estimates = sketched.cosines(rotation, code)
        scored = route(atlas, tree, code)
        best = [place[one.prefix] for one in scored]
        for way, numbers in zip(WAYS, (best, best[:wanted], []), strict=True):
            known = expected(tree, estimates, shards, numbers, sigma)
            parts = weigh(scored, known)
            asked = contacts(parts, scored, SHIPPED)
            found = float(np.isin(hits, [place[leaf] for leaf in asked]).mean())
            rows = int(np.isin(shards, numbers).sum())
            seen[way].append((len(asked), found, sum(parts[leaf] for leaf in asked), rows))
    return {
        "entries": len(texts),
        "shards": len(tree.leaves),
        "most_a_leaf": most,
        "wanted": wanted,
        "shards_with_hits": rounded(fmean(len(set(some)) for some in right.tolist())),
    } | {way: told(some) for way, some in seen.items()}


def in_pieces(embed: Any, texts: Sequence[str]) -> NDArray[np.int8]:
    """The codes of many texts."""
    return np.concatenate(
        [embed(texts[begin : begin + ROWS_AT_ONCE]) for begin in range(0, len(texts), ROWS_AT_ONCE)]
    )


def expected(
    tree: ShardTree,
    estimates: NDArray[np.float32],
    shards: NDArray[np.int64],
    numbers: Sequence[int],
    sigma: float,
) -> dict[Prefix, float]:
    """The expected hits of these shards, from the rows of their blocks alone, as an asker has them."""
    if not numbers:
        return {}
    at = np.full(len(tree.leaves), -1, dtype=np.int64)
    at[list(numbers)] = np.arange(len(numbers))
    here = at[shards]
    rows = np.flatnonzero(here >= 0)
    hits = expected_hits(estimates[rows], here[rows], len(numbers), TOP, sigma)
    return {tree.leaves[number]: float(hit) for number, hit in zip(numbers, hits, strict=True)}


def told(some: Sequence[tuple[int, float, float, int]]) -> dict[str, Any]:
    """Means over the questions of one way."""
    sizes, found, expected_recall, rows = zip(*some, strict=True)
    return {
        "recall": round(fmean(found), 4),
        "recall_expected": round(fmean(expected_recall), 4),
        "shards": rounded(fmean(sizes)),
        "shards_p95": int(np.percentile(sizes, 95, method="higher")),
        "rows": int(fmean(rows)),
    }


if __name__ == "__main__":
    sys.exit(main())
