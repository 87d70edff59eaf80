"""The word piece tokenizer of BERT's uncased vocabulary, built from the plain vocabulary list.

Lower-cased, accents stripped, split at white space and punctuation, then the longest matching pieces
(Schuster and Nakajima 2012; Devlin et al. 2018). Built without special tokens, so that "[CLS]" or "[SEP]"
in a user's text is text like any other, and without truncation or padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNKNOWN = "[UNK]"
CONTINUING = "##"
MAX_WORD_CHARACTERS = 100
"""A longer run of characters without a break is one unknown piece, as in the original tokenizer."""


def read_vocabulary(text: str) -> list[str]:
    """Pieces by id from a vocab.txt: one a line, the id is the line number from 0.

    Only a line feed ends a line: some pieces are characters that `str.splitlines` would split at.
    """
    return text.removesuffix("\n").split("\n")


def word_piece_tokenizer(vocabulary: Sequence[str]) -> Tokenizer:
    """A tokenizer whose ids are positions in ``vocabulary``."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(
        models.WordPiece(
            vocab={piece: number for number, piece in enumerate(vocabulary)},
            unk_token=UNKNOWN,
            max_input_chars_per_word=MAX_WORD_CHARACTERS,
            continuing_subword_prefix=CONTINUING,
        )
    )
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def carries_meaning(piece: str) -> bool:
    """False for special and unused pieces and for those without a letter or digit."""
    if piece.startswith("[") and piece.endswith("]") and len(piece) > 2:
        return False
    return any(character.isalnum() for character in piece.removeprefix(CONTINUING))
