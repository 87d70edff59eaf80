"""Distil the built-in embedder's table: ``python -m node.embedding.distil --model DIR --out DIR``.

The recipe is that of static distillation (Model2Vec, Tulkens and van Dongen 2024): every word piece of
the vocabulary goes through all-MiniLM-L6-v2 once, alone; the vectors are centred, rotated and cut to 256
dimensions by PCA, half-whitened (each component divided by the square root of its deviation), and
weighted with a/(a+p), a = 1e-3, p the piece's share of a sample of text (Arora et al. 2017). Each row is
then stored as an int8 direction and a 16-bit weight that carries its length. Signs of the components are
fixed, so that two runs differ only where BLAS rounds differently. Takes about a minute on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from node.embedding.bert import Bert, load_bert
from node.embedding.quantise import CODE_MAX, quantise_floats
from node.embedding.static import DIM, TABLE_FILE, VOCABULARY_FILE, WEIGHTS_FILE, tables_digest
from node.embedding.word_pieces import carries_meaning, read_vocabulary, word_piece_tokenizer
from node.embedding.wordnet import read_glosses

SMOOTHING = 1e-3
"""The a of a/(a+p): a piece that makes up this share of the sample counts half."""
WEIGHT_MAX = 2**16 - 1
BATCH = 256


def piece_vectors(model: Bert, count: int) -> NDArray[np.float32]:
    """Unit vectors, shape (count, hidden): each word piece id through the model alone."""
    return np.concatenate(
        [
            model.encode([[piece] for piece in range(at, min(at + BATCH, count))])
            for at in range(0, count, BATCH)
        ]
    )


def piece_shares(vocabulary: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
    """Share of each piece among all pieces of ``texts``, shape (len(vocabulary),)."""
    tokenizer = word_piece_tokenizer(vocabulary)
    counts = np.zeros(len(vocabulary), dtype=np.int64)
    for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
        np.add.at(counts, encoding.ids, 1)
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def project(vectors: NDArray[np.float32], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Centred, PCA to `DIM` components, half-whitened; fitted on the ``kept`` rows, applied to all.

    Each component's sign is chosen such that its largest coefficient is positive.
    """
    wide = vectors.astype(np.float64)
    centred = wide - wide[kept].mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov(centred[kept], rowvar=False))
    order = np.argsort(variances)[::-1][:DIM]
    axes = axes[:, order]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(DIM)])
    projected: NDArray[np.float64] = centred @ axes / variances[order] ** 0.25
    return projected


def to_integers(
    rows: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.int8], NDArray[np.uint16]]:
    """int8 directions and 16-bit weights whose product is proportional to ``rows * weights``.

    A row with a weight above zero keeps at least weight 1.
    """
    table = quantise_floats(rows, DIM)
    scale = np.abs(rows).max(axis=1) / CODE_MAX * weights
    scale = scale / scale.max() * WEIGHT_MAX
    return table, np.where(scale > 0, np.maximum(np.rint(scale), 1), 0).astype(np.uint16)


def distil(
    model: Bert, vocabulary: Sequence[str], sample: Sequence[str]
) -> tuple[NDArray[np.int8], NDArray[np.uint16]]:
    """Table, int8 of shape (pieces, 256), and weights, uint16 of shape (pieces,)."""
    kept = np.array([carries_meaning(piece) for piece in vocabulary])
    rows = project(piece_vectors(model, len(vocabulary)), kept)
    weights = np.where(kept, SMOOTHING / (SMOOTHING + piece_shares(vocabulary, sample)), 0.0)
    return to_integers(rows, weights)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m node.embedding.distil", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="folder with model.safetensors and vocab.txt"
    )
    parser.add_argument(
        "--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder with data.noun …"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder that receives the three files")
    options = parser.parse_args(arguments)

    text = (options.model / VOCABULARY_FILE).read_bytes().decode("utf-8")
    sample = ["; ".join((gloss.definition, *gloss.examples)) for gloss in read_glosses(options.wordnet)]
    table, weights = distil(load_bert(options.model), read_vocabulary(text), sample)
    options.out.mkdir(parents=True, exist_ok=True)
    np.save(options.out / TABLE_FILE, table)
    np.save(options.out / WEIGHTS_FILE, weights)
    (options.out / VOCABULARY_FILE).write_bytes(text.encode())
    print(f"{len(table)} pieces, digest {tables_digest(table, weights, text)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
