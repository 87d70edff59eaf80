"""How good an atlas does a sample of some size make, and what is t-SNE worth?

WordNet definitions are stored, other definitions are asked, and others again are the sample: by the built-in
embedder, or, with `--vectors`, whatever space a file has (`numpy.savez` of `sample`, `stored` and
`definitions`, one vector a row). For each size of the sample an atlas is made both ways, as `network new
--sample` makes it. Compared are the shards that hold the ten best answers, since no routing can ask fewer,
and the shards that routing by centroids asks for recall .95, of 64 shards and of a tree grown to at most a
hundred vectors a shard.

    python -m benchmarks.atlas [--quick] [--vectors FILE.npz --name SPACE] [--wordnet DIR]
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import RESULTS, Target, at_most, emit, rounded
from chain.cid import raw_cid
from node.atlas_making import cells_for
from node.embedding.quantise import quantise_floats
from node.embedding.static import StaticEmbedder
from node.embedding.wordnet import DATA_FILES, read_glosses
from sharding.atlas import Atlas
from sharding.atlas_build import build_atlas
from sharding.key import shard_keys
from sharding.routing import route
from sharding.tree import FIRST_DEPTH, ShardTree, key_head, split

SIZES = (300, 2_000, 6_000)
QUICK_SIZES = (300, 1_000)
STORED = 8_000
QUESTIONS = 500
QUICK_QUESTIONS = 100
A_SHARD = 100
"""Vectors at which a leaf of the grown tree splits."""
TOP = 10
RECALL = 0.95
SEED = 2

Codes = NDArray[np.int8]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, keep; exit code 2 without WordNet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.atlas", description="atlases of samples")
    parser.add_argument("--quick", action="store_true", help="small samples, few questions; keeps nothing")
    parser.add_argument("--vectors", type=Path, metavar="FILE.npz")
    parser.add_argument("--name", default="built_in", help="what to call the space of --vectors")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    options = parser.parse_args(arguments)
    if options.vectors is None and not all((options.wordnet / name).exists() for name in DATA_FILES):
        print(f"no WordNet in {options.wordnet}: install Debian's wordnet-base", file=sys.stderr)
        return 2
    sample, stored, asked = drawn(options.wordnet) if options.vectors is None else given(options.vectors)
    stored, asked = stored[:STORED], asked[: QUICK_QUESTIONS if options.quick else QUESTIONS]
    answers = nearest(stored, asked)
    out = RESULTS / "atlas.json"
    figures: dict[str, Any] = {}
    if options.vectors is not None and out.exists() and not options.quick:
        figures = json.loads(out.read_text())["figures"]  # another space, beside those that are there
    for size in QUICK_SIZES if options.quick else SIZES:
        for learned in (True, False):
            row = measured(sample[:size], stored, asked, answers, learned)
            way = "tsne" if learned else "components"
            figures |= {f"{options.name}_{size}_{way}_{figure}": value for figure, value in row.items()}
            print(options.name, size, way, row, flush=True)
    emit("atlas", figures, targets_of(figures), None if options.quick else out)
    return 0


def targets_of(figures: dict[str, Any]) -> list[Target]:
    """That a map of t-SNE spreads answers over no more shards than one of principal components."""
    return [
        at_most(
            name.replace("components_grown_holding", "tsne_to_components"),
            1.0,
            rounded(figures[name.replace("components", "tsne")] / figures[name]),
        )
        for name in figures
        if name.endswith("components_grown_holding")
    ]


def drawn(wordnet: Path) -> tuple[Codes, Codes, Codes]:
    """Codes of the sample, of what is stored and of what is asked, by the built-in embedder."""
    texts = list(dict.fromkeys(gloss.definition for gloss in read_glosses(wordnet)))
    wanted = max(SIZES) + STORED + QUESTIONS
    order = np.random.default_rng(SEED).permutation(len(texts))[:wanted].tolist()
    codes = StaticEmbedder().embed([texts[place] for place in order])
    return codes[: max(SIZES)], codes[max(SIZES) : max(SIZES) + STORED], codes[-QUESTIONS:]


def given(path: Path) -> tuple[Codes, Codes, Codes]:
    """The same of vectors in a file."""
    with np.load(path, allow_pickle=False) as file:
        parts = [file[name] for name in ("sample", "stored", "definitions")]
    dim = parts[0].shape[1]
    sample, stored, asked = (quantise_floats(part, dim) for part in parts)
    return sample, stored, asked


def nearest(stored: Codes, asked: Codes) -> NDArray[np.int64]:
    """The ten nearest stored vectors of each question by cosine, shape (questions, TOP)."""
    wide = stored.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return np.argsort(-(asked.astype(np.float64) @ wide.T), axis=1, kind="stable")[:, :TOP]


def measured(
    sample: Codes, stored: Codes, asked: Codes, answers: NDArray[np.int64], learned: bool
) -> dict[str, Any]:
    """The figures of one atlas."""
    cells = cells_for(len(sample))
    began = time.perf_counter()
    atlas = build_atlas(sample, "measured", cells=cells, learned_map=learned)
    figures: dict[str, Any] = {"cells": cells, "build_s": rounded(time.perf_counter() - began)}
    keys = shard_keys(atlas, stored, [raw_cid(number.to_bytes(8, "big")) for number in range(len(stored))])
    for name, tree in (("64", ShardTree.fixed(FIRST_DEPTH)), ("grown", grown(keys))):
        number = {leaf: place for place, leaf in enumerate(tree.leaves)}
        shard = np.array([number[tree.leaf_of(key)] for key in keys])
        load = np.bincount(shard, minlength=len(number))
        held = np.zeros((len(asked), len(number)))
        np.add.at(held, (np.arange(len(asked))[:, None], shard[answers]), 1)
        order = ordered(atlas, tree, number, asked)
        reached = np.cumsum(np.take_along_axis(held, order, axis=1), axis=1).mean(axis=0) / TOP
        figures |= {
            f"{name}_shards": len(number),
            f"{name}_load_max_over_mean": rounded(float(load.max() / load.mean())),
            f"{name}_holding": rounded(float((held > 0).sum(axis=1).mean())),
            f"{name}_centroids_for_95": int(np.argmax(reached >= RECALL)) + 1,
        }
    return figures


def ordered(atlas: Atlas, tree: ShardTree, number: dict[Any, int], asked: Codes) -> NDArray[np.int64]:
    """The shards in the order in which centroids have each question ask them."""
    return np.array([[number[scored.prefix] for scored in route(atlas, tree, code)] for code in asked])


def grown(keys: Sequence[bytes]) -> ShardTree:
    """The tree whose leaves hold at most `A_SHARD` of these keys."""
    tree, heads = ShardTree.fixed(0), np.sort([key_head(key) for key in keys])
    waiting = list(tree.leaves)
    while waiting:
        leaf = waiting.pop()
        within = np.searchsorted(heads, leaf.end) - np.searchsorted(heads, leaf.start)
        if within > A_SHARD:
            tree = split(tree, leaf)
            waiting += leaf.children()
    return tree


if __name__ == "__main__":
    sys.exit(main())
