"""Glosses of WordNet's data files, the sample from which token weights and the atlas are made.

A data line is ``offset file type w_cnt word lex_id … | gloss``, w_cnt in hexadecimal; a gloss is a
definition followed by example sentences in double quotes (wndb(5WN)). Definitions and examples of one
synset say the same thing in different words, which also makes them an honest retrieval test. Files are
read in a fixed order, so the sample is reproducible.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DATA_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")

_EXAMPLE = re.compile(r'"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Gloss:
    """One synset: its words, its definition, and the sentences that show its use."""

    words: tuple[str, ...]
    definition: str
    examples: tuple[str, ...]


def read_glosses(directory: Path) -> Iterator[Gloss]:
    """Every gloss in ``directory``, about 117,000, in file order. Raises OSError for a missing file."""
    for name in DATA_FILES:
        with (directory / name).open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("  "):
                    continue
                head, bar, text = line.partition(" | ")
                if bar:
                    yield _parse(head.split(), text.strip())


def _parse(head: list[str], text: str) -> Gloss:
    count = int(head[3], 16)
    words = tuple(word.partition("(")[0].replace("_", " ") for word in head[4 : 4 + 2 * count : 2])
    definition = text.partition('"')[0].rstrip(" ;:,-")
    examples = tuple(found.strip() for found in _EXAMPLE.findall(text) if found.strip())
    return Gloss(words, definition or text, examples)
