"""The texts of the routing benchmark: what is stored, what is asked, and what atlases are made of.

WordNet: definitions are stored; other definitions, and example sentences of glosses that are not stored, are
asked. No gloss that is stored or asked is in the packaged atlas's sample. The drifted sample is the part of
that sample whose glosses belong to a fifth of WordNet's subjects (its lexicographer files): whoever made an
atlas of it knew nothing of the other four fifths.

Debian: the first paragraphs of packages' long descriptions are stored, and the one-line synopses of packages
whose paragraph is not stored are asked. Nothing in this project was tuned on the paragraphs or on how the two
find each other.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from node.embedding.build_atlas import SAMPLE, sample_texts
from node.embedding.wordnet import DATA_FILES, Gloss, read_glosses

WORDNET = Path("/usr/share/wordnet")
STORED = 36_000
QUESTIONS = 2_000
SEED = 1

DRIFT_FILES = frozenset({5, 8, 13, 15, 20})
"""Lexicographer files of the drifted sample: animals, bodies, food, places and plants, a fifth of WordNet."""

LISTS = Path("/var/lib/apt/lists")
TRANSLATIONS = "*main_i18n_Translation-en*"
CAT = "/usr/lib/apt/apt-helper"
DEBIAN_STORED = 30_000
LEAST_WORDS = 4
"""Words of a paragraph worth storing and of a synopsis worth asking."""

_BLOCK = re.compile(r"^Description-en: (?P<synopsis>.*)\n(?P<long>(?: .*\n?)*)", re.MULTILINE)


class Corpus(NamedTuple):
    """What is stored, the questions of each kind, and the texts of atlases' samples (empty: none is made)."""

    stored: list[str]
    questions: dict[str, list[str]]
    sample: list[str]
    drifted: list[str]


class NoCorpus(Exception):
    """The texts are not here; the message says how to get them."""


def wordnet(folder: Path) -> Corpus:
    """The texts of WordNet, drawn by a fixed seed. Raises `NoCorpus`."""
    if not all((folder / name).is_file() for name in DATA_FILES):
        raise NoCorpus(
            f"no WordNet in {folder}: install the Debian package wordnet-base or name its folder with "
            "--wordnet"
        )
    glosses = list(read_glosses(folder))
    sample = sample_texts(folder, SAMPLE)
    unseen = _unseen(glosses, set(sample))
    order = np.random.default_rng(SEED).permutation(len(unseen)).tolist()
    stored = [unseen[number].definition for number in order[:STORED]]
    rest = [unseen[number] for number in order[STORED:]]
    taken = set(stored)
    examples = list(
        dict.fromkeys(one.examples[0] for one in rest if one.examples and one.examples[0] not in taken)
    )
    questions = {
        "definitions": [one.definition for one in rest[:QUESTIONS]],
        "sentences": examples[:QUESTIONS],
    }
    if any(len(found) < QUESTIONS for found in questions.values()):
        raise NoCorpus(
            f"the WordNet in {folder} leaves too few unseen glosses: use that of the Debian package "
            "wordnet-base"
        )
    drifted = {
        text
        for text, subject in zip(_texts(glosses), _subjects(folder), strict=True)
        if subject in DRIFT_FILES
    }
    return Corpus(stored, questions, sample, [text for text in sample if text in drifted])


def debian(file: Path | None) -> Corpus:
    """Package descriptions from `file` (a list of translations, unpacked) or from apt's lists.

    Raises `NoCorpus`.
    """
    found: dict[str, str] = {}
    rest: dict[str, None] = {}
    for block in _BLOCK.finditer(_translations(file)):
        paragraph = _first_paragraph(block["long"])
        if len(paragraph.split()) < LEAST_WORDS:
            continue
        if paragraph not in found:
            found[paragraph] = block["synopsis"].strip()
    paragraphs = list(found)
    order = np.random.default_rng(SEED).permutation(len(paragraphs)).tolist()
    stored = [paragraphs[number] for number in order[:DEBIAN_STORED]]
    for number in order[DEBIAN_STORED:]:
        synopsis = found[paragraphs[number]]
        if len(synopsis.split()) >= LEAST_WORDS:
            rest.setdefault(synopsis)
    if len(stored) < DEBIAN_STORED or len(rest) < QUESTIONS:
        raise NoCorpus(
            f"{len(paragraphs)} package descriptions are here, {DEBIAN_STORED + QUESTIONS} are needed: use "
            "those of all of Debian main"
        )
    return Corpus(stored, {"synopses": list(rest)[:QUESTIONS]}, [], [])


def _texts(glosses: Sequence[Gloss]) -> list[str]:
    return ["; ".join((gloss.definition, *gloss.examples)) for gloss in glosses]


def _subjects(folder: Path) -> list[int]:
    """The lexicographer file of each gloss, in the order of `read_glosses` (wndb(5WN), second field)."""
    subjects: list[int] = []
    for name in DATA_FILES:
        with (folder / name).open(encoding="utf-8", errors="replace") as lines:
            subjects.extend(
                int(line.split(None, 2)[1]) for line in lines if not line.startswith("  ") and " | " in line
            )
    return subjects


def _unseen(glosses: Sequence[Gloss], sample: set[str]) -> list[Gloss]:
    """The glosses, each definition once, of which neither text nor definition is in the atlas's sample.

    Raises `NoCorpus` if fewer of them than `SAMPLE` are in it, for then the sample is not what it says.
    """
    sampled = [one for one, text in zip(glosses, _texts(glosses), strict=True) if text in sample]
    if len(sampled) < SAMPLE:
        raise NoCorpus(
            f"only {len(sampled)} of the atlas's {SAMPLE} glosses are in this WordNet: use that of the "
            "Debian package wordnet-base"
        )
    seen = {gloss.definition for gloss in sampled}
    unseen: dict[str, Gloss] = {}
    for gloss in glosses:
        if gloss.definition not in seen:
            unseen.setdefault(gloss.definition, gloss)
    return list(unseen.values())


def _translations(file: Path | None) -> str:
    """apt's English descriptions as text. Raises `NoCorpus`."""
    if file is not None:
        if not file.is_file():
            raise NoCorpus(f"there is no file {file}")
        return file.read_text(encoding="utf-8", errors="replace")
    lists = sorted(one for one in LISTS.glob(TRANSLATIONS) if "security" not in one.name)
    if not lists:
        raise NoCorpus(
            "no package descriptions here: on Debian, apt-get -o Acquire::Languages=en update brings them; "
            "elsewhere unpack a Translation-en file and name it with --descriptions"
        )
    try:
        done = subprocess.run(
            [CAT, "cat-file", *map(str, lists)], capture_output=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NoCorpus(f"apt's lists could not be read: {error}") from error
    return done.stdout.decode("utf-8", errors="replace")


def _first_paragraph(long: str) -> str:
    lines = []
    for line in long.splitlines():
        if line.strip() == ".":
            break
        lines.append(line.strip())
    return " ".join(lines)
