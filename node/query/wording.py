"""The words of a question: what each is worth in the whole network, and in which shards they lie.

Both come from the term sketches of all shards (`sharding.term_sketch`), pulled as other blocks are
(`dht.summaries`): their sum weighs the terms, and each by itself says how many of the best answers by words
its shard is expected to hold (`sharding.word_routing`). Those shards are asked beside the ones that the
vector names, up to `MOST_SHARDS`, so that a rare word is found wherever it lies. As long as there are few
sketches, as with a node's first question, terms weigh as in the node's own postings, or alike where there are
none, and the vector alone says where to ask.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from chain.vector import PPM
from dht.ports import RunBlocking
from dht.records.layouts import Layouts
from dht.summaries.block import Block
from dht.summaries.puller import Puller
from node.query.choosing import Choice, expected_recall_ppm
from node.query.question import Question
from node.query.scoring import Words
from node.storage.derived_state import DerivedState
from sharding.bm25 import wanted
from sharding.errors import TermError
from sharding.term_sketch import TermSketch, TermTable, read_rows
from sharding.terms import counted
from sharding.tree import Prefix
from sharding.word_routing import expected_at, least_by_words

MOST_SHARDS: Final = 16
"""Shards that words add to those of the vector."""
MOST_ALONE: Final = 64
"""Shards asked first where the words alone decide."""
MASS: Final = 0.7
"""The part of the expected answers by words that is asked for at least beside a vector; measured, see
docs/sharding.md."""
MASS_ALONE: Final = 0.95
SURE_OF_BEST: Final = 0.4
"""A shard that is expected to hold so much of the one best text by words is asked: at most two are. That text
is one of ten, so what is asked for at least could do without it."""
SOME_LENGTH: Final = 12.0
"""The mean length of a text where nothing is known."""
TOP: Final = 10
"""Answers that are expected somewhere."""
MAX_ROWS_KEPT: Final = 4_000_000
"""Rows of others' sketches kept, 20 MB: some 1,500 shards of 512 short texts."""

log = logging.getLogger(f"roseforest.{__name__}")


class Wording:
    """Weighs words and finds their shards, by the blocks that `puller` brings."""

    def __init__(
        self, layouts: Layouts, puller: Puller, derived: DerivedState, run_blocking: RunBlocking
    ) -> None:
        self._layouts = layouts
        self._derived = derived
        self.puller = puller
        self._run_blocking = run_blocking
        self._sketches: dict[Prefix, tuple[Block, TermSketch]] = {}
        self._table: tuple[tuple[Prefix, ...], TermTable] = ((), TermTable(()))
        self._lock = Lock()  # questions are weighed on threads, and the sketches read are for all of them
        puller.shelf.max_rows = MAX_ROWS_KEPT
        self.on_asked: Callable[[], None] = lambda: None
        """Told of each question by words."""

    async def ask(self, question: Question, choice: Choice, wait_s: float) -> tuple[Words | None, Choice]:
        """The words as they go to the holders, and the shards to ask for them and for the vector's sake.

        None where there are none. Waits at most about `wait_s` for what has changed in others' shards.
        """
        if question.text is None:
            return None, choice
        self.on_asked()
        generation = self._layouts.current.generation
        shards = [one for one in (*choice.likely, *choice.others) if one.generation == generation]
        blocks = await self.puller.blocks(shards, frozenset(shards), wait_s)
        words, hits, best, liars = await self._run_blocking(self._weigh, question, blocks)
        for shard in liars:
            copy = self.puller.shelf.copy(shard)
            if copy is not None:
                self.puller.accuse(copy.holder, f"its terms of shard {shard} are no sketch")
        if words is None:
            return words, choice
        if question.only_words:
            return words, _by_words(choice, hits)
        return words, _by_both(choice, hits, best, question.recall_ppm / PPM)

    def _weigh(
        self, question: Question, blocks: Mapping[Prefix, Block]
    ) -> tuple[Words | None, dict[Prefix, float], dict[Prefix, float], list[Prefix]]:
        """The weighed words, what is expected of each shard that is known, and whose blocks are none.

        Expected are those of the best `TOP` or more that a shard holds, and then those of the best one.
        """
        ids = counted(question.text or "").ids.tolist()
        with self._lock:
            liars = self._read(blocks)
            shards, table = self._joined_table()
        found = table.frequencies(ids)
        texts = int(table.texts.sum())
        sums = dict(zip(ids, found.sum(axis=0).tolist(), strict=True))
        mean = table.length / texts if texts else SOME_LENGTH
        here = self._derived.count() if self._derived.indexed else 0
        if texts < here:  # what lies here says more than the sketches that have come
            sums = {one: len(self._derived.with_term(one)) for one in ids}
            texts, mean = here, self._derived.mean_length() or SOME_LENGTH
        asked = wanted(ids, sums, texts, mean)
        if asked is None:
            return None, {}, {}, liars
        place = {one: column for column, one in enumerate(ids)}
        columns = [place[one] for one, _ in asked.terms]
        weights = [weight for _, weight in asked.terms]
        hits, best = (
            dict(zip(shards, some.tolist(), strict=True))
            for some in expected_at(found[:, columns], table.texts, weights, (max(question.k, TOP), 1))
        )
        return Words(asked, question.only_words), hits, best, liars

    def _read(self, blocks: Mapping[Prefix, Block]) -> list[Prefix]:
        """Decode what is new; the shards whose blocks are no sketches."""
        sketches: dict[Prefix, tuple[Block, TermSketch]] = {}
        liars: list[Prefix] = []
        for shard, block in blocks.items():
            known = self._sketches.get(shard)
            if known is not None and known[0] is block:
                sketches[shard] = known
                continue
            try:
                sketches[shard] = block, read_rows(block.rows)
            except TermError as error:
                log.warning("shard %s: %s", shard, error)
                liars.append(shard)
        if sketches.keys() != self._sketches.keys() or any(
            sketches[shard] is not self._sketches[shard] for shard in sketches
        ):
            self._sketches = sketches
            self._table = ((), TermTable(()))
        return liars

    def _joined_table(self) -> tuple[tuple[Prefix, ...], TermTable]:
        if len(self._table[0]) != len(self._sketches):
            shards = tuple(sorted(self._sketches))
            self._table = (shards, TermTable([self._sketches[shard][1] for shard in shards]))
        return self._table


def _by_words(choice: Choice, hits: Mapping[Prefix, float]) -> Choice:
    """The shards that hold the words, and what is not known."""
    named = set(named_first(hits, MASS_ALONE, MOST_ALONE))
    every = sorted((*choice.likely, *choice.others))
    unknown = {shard for shard in every if shard not in hits}
    some = [shard for shard in every if hits.get(shard, 1.0) > 0]
    asked = named | (unknown & set(choice.likely))
    return replace(
        choice,
        likely=tuple(shard for shard in some if shard in asked),
        others=tuple(shard for shard in some if shard not in asked),
        expected_ppm=_parts_ppm(hits),
        idle=tuple(shard for shard in every if hits.get(shard, 1.0) <= 0),
    )


def _by_both(
    choice: Choice, hits: Mapping[Prefix, float], best: Mapping[Prefix, float], recall: float
) -> Choice:
    """The shards of the vector, and so many of the words' that the recall of both is what was asked for."""
    by_vector = expected_recall_ppm(choice, frozenset(choice.likely)) / PPM
    asked = named_beside(hits, best, by_vector, recall) - choice.here | set(choice.likely)
    every = sorted((*choice.likely, *choice.others))
    return replace(
        choice,
        likely=tuple(shard for shard in every if shard in asked),
        others=tuple(shard for shard in every if shard not in asked),
        words_ppm=_parts_ppm(hits) or None,
    )


def _parts_ppm(hits: Mapping[Prefix, float]) -> dict[Prefix, int]:
    """The part of all that each shard is expected to hold; empty when nothing is expected anywhere."""
    total = sum(hits.values())
    return {shard: int(one / total * PPM) for shard, one in hits.items()} if total > 0 else {}


def named_beside(
    hits: Mapping[Prefix, float], best: Mapping[Prefix, float], by_vector: float, recall: float
) -> set[Prefix]:
    """The shards that words add, where the vector's are expected to hold that part of the best by it.

    A shard where the `best` text by words is expected is asked in any case: so a rare word is found.
    """
    mass = min(1.0, max(MASS, least_by_words(by_vector, recall)))
    sure = {shard for shard, part in best.items() if part >= SURE_OF_BEST}
    return {*named_first(hits, mass, MOST_SHARDS), *sure}


def named_first(hits: Mapping[Prefix, float], mass: float, most: int) -> Sequence[Prefix]:
    """The shards of most expected answers until this part of all is reached."""
    shards = sorted(hits, key=lambda shard: (-hits[shard], shard))
    running: NDArray[np.float64] = np.cumsum([hits[shard] for shard in shards])
    if not len(running) or running[-1] <= 0:
        return ()
    return shards[: min(int(np.searchsorted(running, mass * running[-1])) + 1, most)]
