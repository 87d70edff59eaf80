"""The link book: confirmed by two, doubted only after a walk in vain, never by silence, and bounded."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from chain.cid import Cid, record_cid
from dht.evidence.link_book import (
    DOUBTED_S,
    FIRST_S,
    LEAST_S,
    MAX_ASKED,
    MAX_OF_AUTHOR,
    Heard,
    LinkBook,
)

AUTHOR = bytes(32)
CIDS = [record_cid(bytes([n])) for n in range(6)]


def noted(now: float = 0.0) -> LinkBook:
    book = LinkBook()
    book.noted(AUTHOR, [(cid, seq) for seq, cid in enumerate(CIDS)], now)
    return book


def said(needed: int, answered: int, vouched: Sequence[Cid], by: int = 2) -> Heard:
    return Heard(needed, answered, dict.fromkeys(vouched, by))


def test_what_two_vouch_for_is_settled_in_one_question() -> None:
    book = noted()
    assert book.due(FIRST_S - 0.1) == []
    assert book.due(FIRST_S) == [AUTHOR]
    asked = book.questions(AUTHOR, FIRST_S)
    assert [link.cid for link in asked] == CIDS
    assert not book.answered(AUTHOR, asked, said(2, 2, CIDS), FIRST_S)
    assert (book.unconfirmed, book.confirmed, book.doubts(), book.due(1e9)) == (0, len(CIDS), {}, [])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12))
def test_one_voice_or_silence_settles_nothing_and_doubts_nobody(answers: list[tuple[int, int]]) -> None:
    """Only two of two who answer confirm; only denials by as many lead to a walk, the fourth time."""
    book, now, denied = noted(), 0.0, 0
    for answered, vouching in answers:
        now = book.next_at()
        asked = book.questions(AUTHOR, now)
        to_walk = book.answered(AUTHOR, asked, said(2, answered, CIDS, min(vouching, answered)), now)
        assert book.doubts() == {}
        if min(vouching, answered) >= 2:
            assert book.unconfirmed == 0
            return
        denied += answered >= 2
        assert (len(to_walk) == len(CIDS)) == (denied >= 4)
        assert book.unconfirmed == len(CIDS)


def test_what_no_chain_leads_to_is_doubted_until_it_is_confirmed() -> None:
    book = noted()
    while not (
        to_walk := book.answered(AUTHOR, book.questions(AUTHOR, now := book.next_at()), said(2, 2, []), now)
    ):
        pass
    assert now < 100
    book.walked(AUTHOR, to_walk, set(CIDS[:4]), now)
    assert book.doubts() == {AUTHOR: 4}
    assert book.doubted_now() == set(CIDS[4:])
    assert book.next_at() == now + DOUBTED_S
    late = book.questions(AUTHOR, now + DOUBTED_S)
    book.answered(AUTHOR, late, said(2, 2, [CIDS[4]]), now + DOUBTED_S)
    assert book.doubts() == {AUTHOR: 5}
    book.gone([CIDS[5]])
    assert (book.doubts(), book.unconfirmed) == ({}, 0)


def test_of_too_many_it_keeps_where_to_read_on() -> None:
    book = LinkBook()
    total = MAX_OF_AUTHOR + 3 * MAX_ASKED
    cids = [record_cid(n.to_bytes(4, "big")) for n in range(total)]
    book.noted(AUTHOR, [(cid, seq) for seq, cid in enumerate(cids)], 0.0)
    assert book.unconfirmed == MAX_OF_AUTHOR
    settled: set[Cid] = set()
    for _ in range(100):
        now = book.next_at()
        if now == float("inf"):
            break
        seq = book.to_read(AUTHOR)
        if seq is not None:
            page = [(cids[n], n) for n in range(seq, min(seq + MAX_ASKED, total))]
            book.read(AUTHOR, page, seq + MAX_ASKED if len(page) == MAX_ASKED else None, now)
        asked = book.questions(AUTHOR, now)
        book.answered(AUTHOR, asked, said(2, 2, [link.cid for link in asked]), now)
        settled |= {link.cid for link in asked}
    assert settled == set(cids)
    assert book.unconfirmed == 0


def test_records_that_come_together_are_asked_about_together_and_not_too_soon() -> None:
    book = LinkBook()
    for n, cid in enumerate(CIDS):
        book.noted(AUTHOR, [(cid, n)], n * 0.9)
    assert len(book.questions(AUTHOR, FIRST_S)) == 3
    for link in book.questions(AUTHOR, 1e9):
        assert LEAST_S <= link.due - link.seq * 0.9 <= 2 * FIRST_S - LEAST_S + 1
