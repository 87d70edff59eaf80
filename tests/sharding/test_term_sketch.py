"""Laws of term sketches, and shards found by the terms that they have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.errors import TermError
from sharding.term_sketch import (
    MAX_IDS,
    RESERVED,
    TermSketch,
    TermTable,
    contradiction,
    read_rows,
    short_id,
    sketch_of,
    summed,
)
from sharding.terms import Counted, counted, term_id, terms_of
from sharding.word_routing import expected_by_words

WORDS = ("heron", "reed", "pond", "a", "stands", "grey", "nest", "cranes")
shards = st.lists(
    st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), max_size=5), max_size=4
)


def written(sketch: TermSketch) -> bytes:
    return b"".join(key + body for key, body in sorted(sketch.rows().items()))


@given(shards)
def test_the_sum_of_the_shards_is_the_sketch_of_all(parts: list[list[str]]) -> None:
    every = sketch_of([counted(text) for part in parts for text in part])
    parted = [sketch_of([counted(text) for text in part]) for part in parts]
    assert written(summed(parted)) == written(summed(reversed(parted))) == written(every)
    table = TermTable(parted)
    ids = [term_id(word) for word in WORDS]
    assert table.frequencies(ids).sum(axis=0).tolist() == [every.frequency(one) for one in ids]
    assert int(table.texts.sum()) == every.texts
    assert table.length == every.length


@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), min_size=1, max_size=6))
def test_frequencies_are_exact_and_no_text_makes_one_smaller(texts: list[str]) -> None:
    before, after = (sketch_of([counted(one) for one in some]) for some in (texts[:-1], texts))
    for word in WORDS:
        true = sum(word in terms_of(text) for text in texts)
        assert after.frequency(term_id(word)) == true
        assert before.frequency(term_id(word)) <= true
    again = read_rows(written(after))
    assert written(again) == written(after)
    assert (again.texts, again.length) == (len(texts), sum(len(terms_of(text)) for text in texts))


@given(
    st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join), min_size=1, max_size=6),
    st.data(),
)
def test_the_texts_prove_each_change_of_a_sketch_and_no_true_one(
    texts: list[str], data: st.DataObject
) -> None:
    every = [counted(text) for text in texts]
    true = sketch_of(every)
    seen = data.draw(st.integers(0, len(every)))
    assert contradiction(true, every[:seen], len(every) - seen) is None
    place = data.draw(st.integers(0, len(true.ids) - 1))
    counts = true.counts.copy()
    counts[place] += data.draw(st.sampled_from((-1, 1)))
    false = TermSketch(true.texts, true.length, true.ids, counts)
    assert contradiction(false, every, 0) is not None
    without = TermSketch(true.texts, true.length, np.delete(true.ids, place), np.delete(true.counts, place))
    assert contradiction(without, every, 0) is not None
    assert contradiction(TermSketch(true.texts, true.length, true.ids, true.counts, 20), every, 0) is not None


def test_a_shard_of_too_many_terms_stays_within_bounds_and_misses_none() -> None:
    rng = np.random.default_rng(1)
    ids = np.unique(rng.integers(0, 1 << 32, 3 * MAX_IDS, dtype=np.uint32))
    half = len(ids) // 2
    texts = [Counted(9, part, np.ones(len(part), dtype=np.uint8)) for part in (ids[:half], ids[half:])]
    sketch = sketch_of(texts)
    assert len(sketch.ids) <= MAX_IDS
    assert sketch.bits < 24
    assert all(sketch.frequency(int(one)) >= 1 for one in ids[::97])
    assert int(sketch.counts.max()) <= 2
    again = read_rows(written(sketch))
    assert written(again) == written(sketch)
    fine = sketch_of([counted("heron pond")])
    table = TermTable([fine, again])
    assert table.frequencies([term_id("heron"), int(ids[0])])[0].tolist() == [1, 0]
    assert table.frequencies([int(ids[0])])[1].tolist() == [again.frequency(int(ids[0]))]
    assert summed([fine, again]).bits == again.bits


def test_ids_of_terms_stay_clear_of_what_is_reserved() -> None:
    assert short_id(0) == short_id(255) == RESERVED
    assert short_id(0xFFFFFFFF) == 0xFFFFFF


GOOD = written(sketch_of([counted("heron pond"), counted("heron")]))


@pytest.mark.parametrize(
    "rows",
    [
        b"",
        GOOD[:-1],
        GOOD[5:],
        GOOD[:20] + GOOD[25:20:-1],
        GOOD + GOOD[-5:],
        GOOD[:-2] + b"\0\0",
        GOOD[:-2] + b"\0\3",
        GOOD[:15] + b"\0\0\3\0\0" + GOOD[20:],
        GOOD[:15] + b"\0\0\3\0\x19" + GOOD[20:],
        GOOD[:15] + b"\0\0\3\0\1" + GOOD[20:],
    ],
)
def test_rows_that_are_no_sketch_are_refused(rows: bytes) -> None:
    with pytest.raises(TermError):
        read_rows(rows)


def test_a_rare_term_points_at_its_shard_and_all_together_give_k() -> None:
    frequencies = np.array([[40, 0, 3], [30, 0, 0], [50, 1, 2], [0, 0, 0]])
    texts = np.array([100, 100, 100, 100])
    hits = expected_by_words(frequencies, texts, (5, 100, 20), 10)
    assert int(np.argmax(hits)) != 3
    assert hits.sum() == pytest.approx(10)
    only = expected_by_words(frequencies, texts, (5, 100, 20), 1)
    assert int(np.argmax(only)) == 2
    assert only[2] == pytest.approx(1)
    assert expected_by_words(frequencies[:, 1:2], texts, (100,), 10).tolist() == pytest.approx([0, 0, 1, 0])
    assert expected_by_words(np.zeros((0, 1), dtype=np.int64), texts[:0], (1,), 10).tolist() == []
