"""Terms are cut alike everywhere: a table that pins the rules, and laws for whatever comes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.errors import TermError
from sharding.terms import MAX_WORD, Counted, counted, term_id, terms_of

TABLE = {
    "The heron stands.": ["the", "heron", "stands", "stand*"],
    "Herons' REEDS": ["herons", "heron*", "reeds"],
    "Straße STRASSE": ["strasse", "stras*", "strasse", "stras*"],
    "Café cafe\u0301 ﬁne": ["cafe", "cafe", "fine"],
    "Ωμέγα ὈΔΟΣ": ["ωμεγα", "οδοσ"],
    "İstanbul ISTANBUL": ["istanbul", "istan*", "istanbul", "istan*"],
    "Ёлка ёлка": ["елка", "елка"],
    "CVE-2024-12345, x86_64": ["cve", "2024", "12345", "x86", "64"],
    "１２３ ½": ["123", "1", "2"],
    "日本語 の": ["日本", "本語", "の"],
    "東京tower": ["東京", "tower"],
    "한국어 문법": ["한국어", "문법"],
    "नमस्ते दुनिया": ["नमस्ते", "नमस्त*", "दुनिया", "दुनिय*"],
    "snow\u200bman\u00adly": ["snow", "man", "ly"],
    "\U0001f98a fox\U0001f98a": ["\U0001f98a", "fox\U0001f98a"],
    "Ᲊ ᲊ": ["Ᲊ", "ᲊ"],  # Unicode 16: no Python may fold it
    "... -- !": [],
    "": [],
}


@pytest.mark.parametrize("text", TABLE)
def test_texts_are_cut_as_the_table_says(text: str) -> None:
    assert sorted(terms_of(text)) == sorted(TABLE[text])


def test_ids_are_pinned() -> None:
    assert [term_id(one) for one in ("heron", "stand*", "日本")] == [0x72B872C0, 0x0CDCDF77, 0xCE47DFBA]


def test_ascii_is_cut_as_the_long_way_would() -> None:
    every = "".join(map(chr, range(128)))
    assert terms_of(every) == terms_of(every + "\u0301")


@given(st.text(max_size=200))
def test_case_and_form_and_what_stands_around_make_no_difference(text: str) -> None:
    terms = terms_of(text)
    assert all(0 < len(one) <= MAX_WORD for one in terms)
    assert sorted(terms_of(f" «{text}» ")) == sorted(terms)
    if text.isascii():
        assert sorted(terms_of(text.upper())) == sorted(terms_of(text.lower())) == sorted(terms)


@given(st.text(max_size=200))
def test_counted_terms_survive_being_written(text: str) -> None:
    once = counted(text)
    again = Counted.decode(once.encode())
    assert once.length == again.length == len(terms_of(text))
    assert np.array_equal(once.ids, again.ids)
    assert np.array_equal(once.times, again.times)
    assert bool((once.ids[1:] > once.ids[:-1]).all())


@pytest.mark.parametrize("data", [b"", b"abc", b"abcd" + b"x", b"abcd" + b"x" * 6])
def test_what_is_no_counted_text_is_refused(data: bytes) -> None:
    with pytest.raises(TermError):
        Counted.decode(data)
