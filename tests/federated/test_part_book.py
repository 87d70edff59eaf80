"""The parts of secure sums in memory: what is said later takes the place of nothing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chain.cid import record_cid
from chain.secure_part import Part
from federated.part_book import MAX_OF_ONE, PartBook

AGENT = b"\1" * 32
PREVIOUS = b"\2" * 32


def part(number: int) -> Part:
    return Part(1, PREVIOUS, 4, (), b"%d" % number)


@settings(max_examples=20)
@given(st.permutations(range(6)), st.binary(max_size=4))
def test_the_first_on_their_authors_chain_are_kept(order: list[int], salt: bytes) -> None:
    cids = [record_cid(salt + b"%d" % place) for place in range(6)]
    book = PartBook()
    for place in [*order, *order]:
        kept = book.add(cids[place], AGENT, place, part(place))
        assert not kept or cids[place] in book.of(PREVIOUS, AGENT, 4)
    assert list(book.of(PREVIOUS, AGENT, 4)) == cids[:MAX_OF_ONE]
    assert set(book.parts) == set(cids[:MAX_OF_ONE])
    before = book.changes
    assert not book.add(cids[5], AGENT, 5, part(5))
    assert book.changes == before, "what is not kept makes nobody look again"
