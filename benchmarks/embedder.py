"""How fast and how good the built-in embedder is beside the model that it was distilled from.

Speed: texts a second over WordNet definitions, one process. Quality: recall@10 when each gloss's first
example sentence looks for its own gloss among all sampled ones, once with the headwords standing in the
gloss and once with the bare definition, where nothing but meaning can help. The model runs in the same
process, as a numpy forward pass, if its folder is given; without it only the built-in embedder is measured.

    python -m benchmarks.embedder [--quick] [--wordnet DIR] [--model DIR]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import RESULTS, Target, at_least, emit, rounded
from node.embedding.bert import load_bert
from node.embedding.packaged import packaged_text
from node.embedding.static import VOCABULARY_FILE, StaticEmbedder
from node.embedding.word_pieces import read_vocabulary, word_piece_tokenizer
from node.embedding.wordnet import Gloss, read_glosses

GLOSSES = 12_000
QUICK_GLOSSES = 1_200
BATCH = 64
TOP = 10
SEED = 1
REPEATS = 3

Embed = Callable[[Sequence[str]], NDArray[Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embedder", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_GLOSSES} glosses instead of {GLOSSES}")
    parser.add_argument(
        "--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder with data.noun …"
    )
    parser.add_argument(
        "--model", type=Path, help="folder of all-MiniLM-L6-v2 (model.safetensors, config.json)"
    )
    options = parser.parse_args(arguments)
    if not (options.wordnet / "data.noun").is_file():
        print(
            f"no WordNet in {options.wordnet}: install wordnet-base or name its folder with --wordnet",
            file=sys.stderr,
        )
        return 2

    glosses = sample(options.wordnet, QUICK_GLOSSES if options.quick else GLOSSES)
    figures: dict[str, Any] = {"glosses": len(glosses)}
    figures |= measured("static", StaticEmbedder().embed, glosses, REPEATS)
    targets: list[Target] = []
    if options.model is not None:
        figures |= measured("minilm", minilm(options.model), glosses, 1)
        figures["speed_ratio"] = rounded(figures["static_texts_per_s"] / figures["minilm_texts_per_s"])
        for kind in ("with_headwords", "definition_only"):
            share = figures[f"static_recall10_{kind}"] / figures[f"minilm_recall10_{kind}"]
            figures[f"recall_share_{kind}"] = rounded(share)
        targets.append(at_least("recall_share_with_headwords", 0.95, figures["recall_share_with_headwords"]))
        targets.append(
            at_least("recall_share_definition_only", 0.95, figures["recall_share_definition_only"])
        )
    emit("embedder", figures, targets, None if options.quick else RESULTS / "embedder.json")
    return 0


def sample(wordnet: Path, count: int) -> list[Gloss]:
    """``count`` glosses that have an example, drawn by a fixed seed."""
    usable = [gloss for gloss in read_glosses(wordnet) if gloss.examples]
    chosen = np.random.default_rng(SEED).choice(len(usable), size=min(count, len(usable)), replace=False)
    return [usable[number] for number in chosen.tolist()]


def measured(label: str, embed: Embed, glosses: Sequence[Gloss], repeats: int) -> dict[str, Any]:
    """Speed (the best of ``repeats`` runs) and both recalls of one embedder."""
    definitions = [gloss.definition for gloss in glosses]
    headed = [f"{', '.join(gloss.words)}: {gloss.definition}" for gloss in glosses]
    questions = embed([gloss.examples[0] for gloss in glosses])
    fastest = float("inf")
    for _ in range(repeats):
        begun = time.perf_counter()
        bare = embed(definitions)
        fastest = min(fastest, time.perf_counter() - begun)
    return {
        f"{label}_texts_per_s": rounded(len(glosses) / fastest),
        f"{label}_recall10_with_headwords": rounded(recall(embed(headed), questions)),
        f"{label}_recall10_definition_only": rounded(recall(bare, questions)),
    }


def recall(targets: NDArray[Any], questions: NDArray[Any]) -> float:
    """Share of questions, row i belonging to target i, whose own target is among the `TOP` nearest."""
    units = targets / np.linalg.norm(targets.astype(np.float32), axis=1, keepdims=True)
    found = 0
    for begin in range(0, len(questions), 1000):
        scores = questions[begin : begin + 1000].astype(np.float32) @ units.T
        rows = np.arange(len(scores))
        own = scores[rows, begin + rows]
        found += int(((scores > own[:, None]).sum(axis=1) < TOP).sum())
    return found / len(questions)


def minilm(folder: Path) -> Embed:
    """The model as an embedding function; texts are sorted by length, so that batches need little padding."""
    model = load_bert(folder)
    tokenizer = word_piece_tokenizer(read_vocabulary(packaged_text(VOCABULARY_FILE)))

    def embed(texts: Sequence[str]) -> NDArray[Any]:
        pieces = [
            encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ]
        order = np.argsort([len(ids) for ids in pieces], kind="stable")
        vectors = np.empty(
            (len(texts), model.weights["embeddings.LayerNorm.bias"].shape[0]), dtype=np.float32
        )
        for begin in range(0, len(order), BATCH):
            some = order[begin : begin + BATCH]
            vectors[some] = model.encode([pieces[number] for number in some.tolist()])
        return vectors

    return embed


if __name__ == "__main__":
    sys.exit(main())
