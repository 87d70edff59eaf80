"""Looking up by words finds what going through everything finds, with an index of terms and without."""

from __future__ import annotations

import numpy as np
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.cid import record_cid
from chain.vector import codes_from_bytes, score_ppm
from node.query.exhaustive import best_of_all
from node.query.filters import ANY, Filters
from node.query.scoring import Scores
from node.query.word_search import WordSearch
from node.storage.derived_state import DerivedState, Posting
from sharding.bm25 import score, wanted
from sharding.term_sketch import sketch_of
from sharding.terms import counted
from sharding.tree import ShardTree
from tests.node.storage_fixtures import ALICE, UNSYNCED, inline

WORDS = ("heron", "reed", "pond", "grey", "stands", "a", "a", "a", "the", "the")
LEAVES = ShardTree.fixed(2).leaves


@given(
    seed=st.integers(0, 1_000),
    count=st.integers(0, 90),
    question=st.lists(st.sampled_from((*WORDS, "absent")), min_size=1, max_size=4).map(" ".join),
    k=st.integers(1, 12),
    shards=st.sets(st.sampled_from(LEAVES), min_size=1),
    tagged=st.booleans(),
    filtered=st.booleans(),
    full_text=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_the_best_are_those_of_an_exhaustive_search(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    count: int,
    question: str,
    k: int,
    shards: set[object],
    tagged: bool,
    filtered: bool,
    full_text: bool,
) -> None:
    rng = np.random.default_rng(seed)
    some = [leaf for leaf in LEAVES if leaf in shards]
    tags = ("t",) if tagged else ()
    filters = Filters(confidence=500_000) if filtered else ANY
    codes = rng.integers(-120, 120, 8).astype(np.int8)
    texts = [" ".join(rng.choice(WORDS, rng.integers(0, 7))) for _ in range(count)]
    postings = []
    for number, text in enumerate(texts):
        cid = record_cid(f"{seed}/{number}".encode())
        vector = rng.integers(-120, 120, 8).astype(np.int8)
        vector[0] = 1
        postings.append(
            Posting(
                number=0,
                shard_key=rng.bytes(32),
                entry=cid,
                record=cid,
                codes=vector.tobytes(),
                tags=("t",) if rng.integers(2) else (),
                author=ALICE.agent,
                hlc=7,
                confidence=int(rng.integers(2)) * 900_000,
                words=counted(text),
            )
        )
    whole = sketch_of([counted(text) for text in texts])
    ids = counted(question).ids.tolist()
    asked = wanted(ids, {one: whole.frequency(one) for one in ids}, whole.texts, 4.0)
    assert asked is not None
    tree = ShardTree.fixed(2)
    scored = [
        (posting, Scores(score_ppm(codes, codes_from_bytes(posting.codes, 8)), score(asked, counted(text))))
        for posting, text in zip(postings, texts, strict=True)
        if tree.leaf_of(posting.shard_key) in some
        and set(tags) <= set(posting.tags)
        and (not filtered or (posting.confidence or 0) >= 500_000)
    ]
    by_both = sorted(scored, key=lambda one: (-one[1].score, one[0].record))[:k]
    by_words = sorted(
        (one for one in scored if one[1].lexical), key=lambda one: (-(one[1].lexical or 0), one[0].record)
    )[:k]

    async def main() -> None:
        path = tmp_path_factory.mktemp("words") / "derived.db"
        derived = DerivedState(path, inline, UNSYNCED, full_text)
        async with trio.open_nursery() as nursery:
            await nursery.start(derived.run)
            await derived.put(postings)

            def near(depth: int) -> list[tuple[Posting, int]]:
                return best_of_all(derived, some, codes, depth, tags, filters)

            def search() -> WordSearch:
                return WordSearch(derived, some, codes, asked, tags, filters)

            found = search().by_words(k)
            assert [(one.record, told.lexical) for one, told in found] == [
                (one.record, told.lexical) for one, told in by_words
            ]
            assert all(told.score == told.lexical for _, told in found)
            for depth in (k, None):
                assert [(one.record, told) for one, told in search().by_both(near, k, depth)] == [
                    (one.record, told) for one, told in by_both
                ]
            await derived.aclose()

    trio.run(main)
