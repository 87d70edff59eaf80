"""Laws of the score by words: exact, monotone, and the same one at a time and all at once."""

from __future__ import annotations

from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.bm25 import (
    MAX_MEAN,
    MAX_TERMS,
    MAX_WEIGHT,
    Wanted,
    blended,
    most,
    score,
    scores,
    wanted,
    weight,
)
from sharding.errors import TermError
from sharding.terms import STEM, counted, term_id

WORDS = ("heron", "reed", "pond", "a", "stands", "grey")
texts = st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join)
questions = st.builds(
    lambda weights, mean: Wanted(
        tuple(sorted((term_id(word), heavy) for word, heavy in weights.items())), mean
    ),
    st.dictionaries(st.sampled_from(WORDS), st.integers(1, MAX_WEIGHT), min_size=1),
    st.integers(1, MAX_MEAN),
)


@given(questions, st.lists(texts, max_size=5))
def test_many_at_once_score_as_each_alone(question: Wanted, some: list[str]) -> None:
    found = [counted(one) for one in some]
    assert scores(question, found).tolist() == [score(question, one) for one in found]


@given(questions, texts)
def test_no_text_is_worth_more_than_its_terms_or_less_than_nothing(question: Wanted, text: str) -> None:
    found = counted(text)
    there = sum(heavy for term, heavy in question.terms if term in set(found.ids.tolist()))
    assert 0 <= score(question, found) <= most(there)
    assert (score(question, found) > 0) <= (there > 0)


@given(questions, texts, st.sampled_from(WORDS))
def test_a_term_in_place_of_a_foreign_one_never_makes_a_text_worse(
    question: Wanted, text: str, word: str
) -> None:
    foreign = "abroad" if len(word) > STEM else "other"  # of as many terms: else the text is longer, too
    assert score(question, counted(f"{text} {word}")) >= score(question, counted(f"{text} {foreign}"))


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_rarer_terms_weigh_more(frequency: int, more: int) -> None:
    assert weight(frequency, 20_000) >= weight(frequency + more, 20_000) >= 1


def test_the_score_is_bm25_of_the_literature() -> None:
    text = counted("heron heron pond and so on")
    question = Wanted(((term_id("heron"), 100_000),), 1_200)
    k = 1.2 * (0.25 + 0.75 * 6 / 12)
    assert score(question, text) == int(100_000 * 2 * 2.2 / (2 + k))
    assert weight(9, 1_000) == round(log(1 + 991.5 / 9.5) / 60 * 1e6)
    assert blended(600_001, 300_000) == 450_000


def test_a_long_question_keeps_its_heaviest_terms() -> None:
    ids = [term_id(f"term{number}") for number in range(2 * MAX_TERMS)]
    common = dict.fromkeys(ids[:MAX_TERMS], 500)
    question = wanted(ids, common, 1_000, 11.5)
    assert question is not None
    assert [one for one, _ in question.terms] == sorted(ids[MAX_TERMS:])
    assert question.mean == 1_150
    assert wanted([], {}, 10, 1.0) is None


@pytest.mark.parametrize(
    ("terms", "mean"),
    [
        ((), 1),
        (((1, 1), (1, 1)), 1),
        (((2, 1), (1, 1)), 1),
        (((1 << 32, 1),), 1),
        (((-1, 1),), 1),
        (((1, 0),), 1),
        (((1, MAX_WEIGHT + 1),), 1),
        (((1, 1),), 0),
        (((1, 1),), MAX_MEAN + 1),
        (tuple((one, 1) for one in range(MAX_TERMS + 1)), 1),
    ],
)
def test_questions_out_of_bounds_are_refused(terms: tuple[tuple[int, int], ...], mean: int) -> None:
    with pytest.raises(TermError):
        Wanted(terms, mean)
