"""The built-in embedder: a packaged table of int8 word piece vectors, summed with integer weights.

Each word piece of all-MiniLM-L6-v2's vocabulary went through that model once (`node.embedding.distil`);
a text's vector is the weighted sum of its pieces' rows, with the weights of smooth inverse frequency
(Arora, Liang and Ma, "A simple but tough-to-beat baseline", 2017). Word order is lost; in exchange there
is no model to run. Rows, weights and sums are integers throughout, so the same text has the same code on
every machine, and a validator can recompute it. The packaged files are checked against the digest that
the space's name stands for. numpy and `tokenizers` are imported when the first embedder is made.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from node.embedding.errors import DamagedData, EmbeddingError, TextTooLong, UnknownText
from node.embedding.packaged import packaged_path, packaged_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

SPACE = "roseforest-static-256-v1"
DIM = 256

TABLE_FILE = "table.npy"
"""int8, shape (30522, 256): the direction of each word piece, its largest component ±127."""
WEIGHTS_FILE = "weights.npy"
"""uint16, shape (30522,): what each row counts; 0 for pieces without a meaning of their own."""
VOCABULARY_FILE = "vocab.txt"

DIGEST = "d32b07324b9ef76baa2c5fe6a0f70f3b1123245db1460d0df7ac75bf7ee9322c"
"""sha256 over table, weights and vocabulary as `tables_digest` takes it."""

MAX_TEXT_CHARACTERS = 1 << 20
"""Longest text embedded; it keeps every sum below 2**44, far inside int64."""
BATCH_TEXTS = 1024
"""Texts tokenised at a time; bounds the memory of one call together with `BATCH_PIECES`."""
BATCH_PIECES = 1 << 13
"""Table rows gathered at a time for one text: as int64, 16 MiB."""
ODD = re.compile(r"[^\t\n\r -~]")
"""What takes the tokenizer to read: accents, other scripts, and controls, which it removes inside words."""
WORD = re.compile("[0-9a-z]+")
"""In all other texts the pieces that count are those of these; between them are spaces and punctuation."""
MAX_WORDS = 1 << 16
"""Words whose pieces are remembered, some 20 MB at most; beyond them memory begins anew."""


class StaticEmbedder:
    """Codes of the space `SPACE` from the packaged table. Safe to share between threads."""

    space = SPACE
    dim = DIM
    exact = True

    def __init__(self) -> None:
        """Load the packaged table: about 60 ms, 8 MB. Raises `DamagedData` if it is not the right one."""
        from node.embedding.word_pieces import read_vocabulary, word_piece_tokenizer

        table, weights, vocabulary = load_tables()
        self._table = table
        self._weights = weights
        self._tokenizer: Tokenizer = word_piece_tokenizer(read_vocabulary(vocabulary))
        self._words: dict[str, tuple[int, ...]] = {}

    def embed(self, texts: Sequence[str]) -> NDArray[np.int8]:
        """Codes of ``texts``, shape (n, 256).

        Raises `UnknownText` or `TextTooLong` naming the position of the first such text. Linear in the
        number of word pieces.
        """
        import numpy as np

        from node.embedding.quantise import quantise_integers

        codes = np.empty((len(texts), DIM), dtype=np.int8)
        for start in range(0, len(texts), BATCH_TEXTS):
            pieces = self._pieces(texts[start : start + BATCH_TEXTS], start)
            codes[start : start + len(pieces)] = quantise_integers(self._sums(pieces))
        return codes

    def _pieces(self, texts: Sequence[str], start: int) -> list[list[int]]:
        """Ids of the known pieces of each text; ``start`` is the position of the first for messages."""
        for number, text in enumerate(texts, start):
            if len(text) > MAX_TEXT_CHARACTERS:
                raise TextTooLong(
                    f"text {number} has {len(text)} characters; the embedder takes"
                    f" {MAX_TEXT_CHARACTERS}: split it"
                )
        try:
            odd = [number for number, text in enumerate(texts) if ODD.search(text)]
            read = dict(zip(odd, self._tokenized([texts[number] for number in odd]), strict=True))
            known = [
                read[number] if number in read else self._of_words(text) for number, text in enumerate(texts)
            ]
        except (TypeError, UnicodeEncodeError) as error:
            raise EmbeddingError(
                f"one of the texts {start} to {start + len(texts) - 1} is not valid Unicode text ({error})"
            ) from error
        for number, ids in enumerate(known):
            if not ids:
                which = "the text" if len(texts) == 1 else f"text {start + number}"
                raise UnknownText(
                    f"{which} {texts[number][:40]!r} has no word that the built-in embedder knows;"
                    f" use words with letters or digits"
                )
        return known

    def _of_words(self, text: str) -> list[int]:
        """The known pieces of a text without anything `ODD`, by its words; most have been met before."""
        words = WORD.findall(text.lower())
        memory = self._words
        new = [word for word in dict.fromkeys(words) if word not in memory]
        if len(new) > MAX_WORDS:
            return self._tokenized([text])[0]
        if new:
            if len(memory) + len(new) > MAX_WORDS:
                memory = self._words = {}
                new = list(dict.fromkeys(words))
            memory.update(zip(new, map(tuple, self._tokenized(new)), strict=True))
        return [piece for word in words for piece in memory[word]]

    def _tokenized(self, texts: list[str]) -> list[list[int]]:
        weights = self._weights
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [[piece for piece in encoding.ids if weights[piece]] for encoding in encodings]

    def _sums(self, pieces: list[list[int]]) -> NDArray[np.int64]:
        """Weighted row sums, shape (len(pieces), 256).

        Exact in whatever order they are added: a product is below 2**23 and so many of them below 2**36,
        which float64 holds. Twice as fast as in int64, for which there is no BLAS.
        """
        import numpy as np

        sums = np.zeros((len(pieces), DIM), dtype=np.int64)
        for number, ids in enumerate(pieces):
            for start in range(0, len(ids), BATCH_PIECES):
                some = np.asarray(ids[start : start + BATCH_PIECES], dtype=np.intp)
                added = self._weights[some].astype(np.float64) @ self._table[some].astype(np.float64)
                sums[number] += added.astype(np.int64)
        return sums


def load_tables() -> tuple[NDArray[np.int8], NDArray[np.uint16], str]:
    """Table, weights and vocabulary of the package. Raises `DamagedData` if any of them was altered."""
    import numpy as np

    try:
        with packaged_path(TABLE_FILE) as path:
            table: NDArray[np.int8] = np.load(path, allow_pickle=False)
        with packaged_path(WEIGHTS_FILE) as path:
            weights: NDArray[np.uint16] = np.load(path, allow_pickle=False)
        vocabulary = packaged_text(VOCABULARY_FILE)
    except (OSError, ValueError) as error:
        raise DamagedData(
            f"the packaged embedding table cannot be read ({error}); install roseforest again"
        ) from error
    digest = tables_digest(table, weights, vocabulary)
    if digest != DIGEST:
        raise DamagedData(
            f"the packaged embedding table has digest {digest}, but {SPACE} is {DIGEST};"
            f" install roseforest again"
        )
    return table, weights, vocabulary


def tables_digest(table: NDArray[np.int8], weights: NDArray[np.uint16], vocabulary: str) -> str:
    """sha256 of the three parts' bytes (little-endian, row by row), hexadecimal."""
    digest = hashlib.sha256()
    digest.update(table.astype("<i1").tobytes())
    digest.update(weights.astype("<u2").tobytes())
    digest.update(vocabulary.encode())
    return digest.hexdigest()
