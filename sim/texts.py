"""What a workload writes and asks: texts and questions that the seed draws.

Generated texts are words of the built-in embedder's own vocabulary, dealt to topics, so that texts of a topic
lie near each other and a question has right answers. The other corpus is the docstrings of the standard
library, which every machine has. Entry number n is the same for the same seed, whoever asks for it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cached_property

from node.corpus import CorpusEntry, entries
from node.embedding.packaged import packaged_text
from node.embedding.static import VOCABULARY_FILE

TOPICS = 64
TOPIC_WORDS = 48
ENTRY_WORDS = 9
QUESTION_WORDS = 5
SHORTEST_WORD = 5
DOMAIN = "generated"


class Texts:
    """Entries by number, and questions."""

    def __init__(self, seed: int, corpus: str) -> None:
        self._seed = seed
        self._make: Callable[[int], CorpusEntry] = (
            self._generated if corpus == "generated" else self._packaged
        )

    def entry(self, number: int) -> CorpusEntry:
        """Entry `number`, from 0; the packaged corpus starts again when it is used up."""
        return self._make(number)

    def question(self, about: CorpusEntry, rng: random.Random) -> str:
        """A question to which `about` is one of the answers: some of its words."""
        words = about.text.split()[:200]
        return " ".join(rng.sample(words, min(QUESTION_WORDS, len(words))))

    def _generated(self, number: int) -> CorpusEntry:
        topic = self._topics[number % TOPICS]
        rng = random.Random(f"{self._seed}/entry/{number}")
        return CorpusEntry(text=" ".join(rng.sample(topic, ENTRY_WORDS)), domain=DOMAIN)

    def _packaged(self, number: int) -> CorpusEntry:
        return self._library[number % len(self._library)]

    @cached_property
    def _topics(self) -> list[list[str]]:
        vocabulary = packaged_text(VOCABULARY_FILE).splitlines()
        words = [
            word for word in vocabulary if len(word) >= SHORTEST_WORD and word.isascii() and word.isalpha()
        ]
        rng = random.Random(f"{self._seed}/topics")
        return [rng.sample(words, TOPIC_WORDS) for _ in range(TOPICS)]

    @cached_property
    def _library(self) -> list[CorpusEntry]:
        library = list(entries())
        random.Random(f"{self._seed}/library").shuffle(library)
        return library
