"""Invites as lines of text, and links that let in one guest each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.cid import raw_cid
from node.errors import Forbidden, HomeDamaged, InvalidInput
from node.invite_links import MAX_LINKS, LinkBook, read_link_book
from node.invite_text import MAX_ADDRESSES, PREFIX, SECRET_SIZE, Invite, is_invite, read_invite, write_invite

NOW, LATER = 1_000_000, 9_000_000
statements = st.binary(min_size=1, max_size=256)
invites = st.builds(
    Invite,
    st.binary(max_size=4).map(raw_cid),
    st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=MAX_ADDRESSES).map(
        tuple
    ),
    st.lists(statements, max_size=2).map(tuple),
    st.none() | statements,
    st.none() | st.binary(min_size=SECRET_SIZE, max_size=SECRET_SIZE),
)


@given(invite=invites, at=st.integers(0, 10_000))
def test_an_invite_is_one_line_and_comes_through_a_mail(invite: Invite, at: int) -> None:
    text = write_invite(invite)
    assert is_invite(text)
    assert text.isascii()
    assert len(text.split()) == 1
    at %= len(text)
    assert read_invite(f"  {text[:at]}\r\n {text[at:]}\n") == invite


@given(invite=invites, at=st.integers(0, 10_000), put=st.sampled_from(["", "A", "_", "é", "."]))
def test_a_mistyped_invite_is_told_from_a_good_one(invite: Invite, at: int, put: str) -> None:
    text = write_invite(invite)
    at = len(PREFIX) + at % (len(text) - len(PREFIX))
    changed = text[:at] + put + text[at + 1 :]
    if changed == text:
        return
    with pytest.raises(InvalidInput, match="copy the whole line"):
        read_invite(changed)


@pytest.mark.parametrize("text", ["", "rose", "/ip4/127.0.0.1/tcp/1", PREFIX, PREFIX + "A" * 5000])
def test_what_is_no_invite_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        read_invite(text)


def test_a_link_lets_in_one_guest_and_answers_it_again() -> None:
    book = LinkBook().add(b"secret", LATER, NOW)
    assert book.open_at(NOW) == 1
    assert b"secret" not in book.write()
    used, proof = book.redeem(b"secret", b"anna", NOW, lambda: (b"for anna",))
    assert (proof, used.open_at(NOW)) == ((b"for anna",), 0)
    again, same = read_link_book(used.write()).redeem(b"secret", b"anna", NOW, lambda: (b"another",))
    assert (again, same) == (used, proof)
    with pytest.raises(Forbidden, match="used by somebody else"):
        used.redeem(b"secret", b"bert", NOW, lambda: (b"for bert",))


def test_a_link_that_has_lapsed_or_is_unknown_lets_nobody_in() -> None:
    book = LinkBook().add(b"secret", LATER, NOW)
    for secret, now in ((b"other", NOW), (b"secret", LATER)):
        with pytest.raises(Forbidden, match="lapsed"):
            book.redeem(secret, b"anna", now, lambda: (b"proof",))


def test_open_links_are_bounded_and_lapsed_ones_make_room() -> None:
    book = LinkBook()
    for number in range(MAX_LINKS):
        book = book.add(bytes([number]), LATER, NOW)
    with pytest.raises(InvalidInput, match="wait until some lapse"):
        book.add(b"one more", LATER, NOW)
    assert len(book.add(b"one more", LATER + 1, LATER).links) == 1


@pytest.mark.parametrize("data", [b"", b"{}x", b"[1]", b'[{"digest": "zz"}]', b'[{"digest": "00"}]', b"\xff"])
def test_a_damaged_list_of_links_is_reported(data: bytes) -> None:
    with pytest.raises(HomeDamaged, match="invite links"):
        read_link_book(data)
