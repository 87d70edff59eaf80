"""What receipts prove: distinct holders of one record, and a link when two of those responsible vouch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chain.cid import raw_cid, record_cid
from chain.receipt import Finding, Found, Receipt
from validation.receipts import accepts_link, validators

NETWORK, RECORD = raw_cid(b"network"), record_cid(b"record")
AUTHOR, *HOLDERS = (bytes([number]) * 32 for number in range(5))
FULL = Receipt(HOLDERS[0], NETWORK, 1, Found(RECORD, NETWORK, (), True), b"")
HEADER = replace(FULL, found=replace(FULL.found, whole=False))


def by(number: int, receipt: Receipt = FULL) -> Receipt:
    return replace(receipt, holder=HOLDERS[number])


def test_each_holder_counts_once_and_the_author_never() -> None:
    receipts = [by(0), by(0, HEADER), by(1, HEADER), by(2), by(2), replace(FULL, holder=AUTHOR)]
    assert validators(receipts, NETWORK, RECORD, author=AUTHOR) == {*HOLDERS[:3]}
    assert validators(receipts, NETWORK, RECORD, author=AUTHOR, whole=True) == {HOLDERS[0], HOLDERS[2]}


WORTHLESS = {
    "a stranger's": by(3),
    "the same holder's once more": by(0),
    "the author's": replace(FULL, holder=AUTHOR),
    "of another network": replace(by(1), network=raw_cid(b"other")),
    "about another record": replace(by(1), found=replace(FULL.found, cid=record_cid(b"other"))),
    "that found it invalid": replace(by(1), found=replace(FULL.found, finding=Finding.INVALID)),
}


@pytest.mark.parametrize("other", WORTHLESS.values(), ids=WORTHLESS)
def test_a_link_needs_two_responsible_holders(other: Receipt) -> None:
    near = HOLDERS[:3]
    assert not accepts_link([by(0, HEADER), other], NETWORK, RECORD, author=AUTHOR, near=near)
    assert accepts_link([by(0, HEADER), other, by(1)], NETWORK, RECORD, author=AUTHOR, near=near)
