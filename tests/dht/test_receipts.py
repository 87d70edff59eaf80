"""Receipts on the way: an author takes only what this holder signed over exactly what it was sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from chain import canonical
from chain.cid import raw_cid
from chain.identity import Identity
from chain.receipt import Finding, Found, sign_batch
from dht.errors import FrameError
from dht.records.bundle import BadItem, Bundle, Item
from dht.records.placement import Role, bases_of
from dht.records.receipts import check_receipts, finding, findings_of
from dht.records.replies import (
    MAX_REPLY,
    StoreStatus,
    read_receipted,
    read_statuses,
    write_receipted,
    write_statuses,
)
from tests.dht.test_publisher import NETWORK, RECORDS

HOLDER, OTHER = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))
SHARD = bytes([7]) * 32
WHOLE, HEADER, BAD, LATER = RECORDS
SENT = [(WHOLE, 7, SHARD), (HEADER.without_payload(), 2, None), (BAD, 1, None), (LATER, 1, None)]
STATUSES = [
    (StoreStatus.HELD, ""),
    (StoreStatus.HELD, ""),
    (StoreStatus.INVALID, "vector"),
    (StoreStatus.PENDING, ""),
]
FOUND = [
    finding(WHOLE, bases_of(WHOLE, Role(7), SHARD), True),
    finding(HEADER.without_payload(), bases_of(HEADER, Role(2), None), True),
    finding(BAD, (), False),
]


def test_both_sides_find_the_same() -> None:
    items: tuple[Item | BadItem, ...] = (
        *(Item(record, roles | 128) for record, roles, _ in SENT),
        BadItem("garbage"),
    )
    outcomes = [
        (status, rule, bases_of(record, Role(roles), shard) if status is StoreStatus.HELD else ())
        for (record, roles, shard), (status, rule) in zip(SENT, STATUSES, strict=True)
    ]
    spoilt = [(StoreStatus.INVALID, rule) for rule in ("malformed", "signature", "payload-missing")]
    items += (Item(WHOLE, 7), Item(HEADER, 1))
    found = findings_of(Bundle({}, {}, items), [*outcomes, *((*one, ()) for one in spoilt)])
    assert found == FOUND, "about what was spoilt on its way nobody signs that it is invalid"
    statuses, sent = [*STATUSES, *spoilt], [*SENT, *[(WHOLE, 7, SHARD)] * len(spoilt)]
    batch = check_receipts(sign_batch(HOLDER, NETWORK, found, 1), HOLDER.agent, NETWORK, sent, statuses)
    assert [(row.cid, row.place, row.roles, row.whole) for row in batch.rows] == [
        (WHOLE.cid, 0, 7, True),
        (HEADER.cid, 1, 2, False),
    ]
    assert batch.leaves == b"".join(one.leaf() for one in FOUND)


LIES: dict[str, Callable[[], bytes]] = {
    "another's": lambda: sign_batch(OTHER, NETWORK, FOUND, 1),
    "for another network": lambda: sign_batch(HOLDER, raw_cid(b"other"), FOUND, 1),
    "of an earlier store": lambda: sign_batch(HOLDER, NETWORK, FOUND[:1], 1),
    "without the payload": lambda: signed(replace(FOUND[0], whole=False)),
    "at other bases": lambda: signed(replace(FOUND[0], bases=())),
    "by another epoch": lambda: signed(replace(FOUND[0], epoch=raw_cid(b"other"))),
    "with another verdict": lambda: signed(replace(FOUND[0], finding=Finding.INVALID)),
    "about another record": lambda: signed(replace(FOUND[0], cid=LATER.cid)),
    "garbage": lambda: b"garbage",
}


def signed(first: Found) -> bytes:
    return sign_batch(HOLDER, NETWORK, [first, *FOUND[1:]], 1)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_receipt_for_anything_else_is_none(lie: Callable[[], bytes]) -> None:
    with pytest.raises(FrameError, match="receipt"):
        check_receipts(lie(), HOLDER.agent, NETWORK, SENT, STATUSES)


def test_a_reply_without_receipts_is_read_as_ever() -> None:
    statement = sign_batch(HOLDER, NETWORK, FOUND, 1)
    assert read_receipted(write_statuses(STATUSES[:2]), 2) == (STATUSES[:2], None)
    assert read_receipted(write_receipted(STATUSES, statement), 4) == (STATUSES, statement)
    assert read_receipted(write_receipted(STATUSES[3:], None), 1) == (STATUSES[3:], None)
    with pytest.raises(FrameError):
        read_statuses(write_receipted(STATUSES, statement), 4)


@pytest.mark.parametrize(
    "value", [[[[0, ""]], bytes(5_000)], [[], b""], [[[9, ""]], None], [[[0, ""]], 1], {}]
)
def test_a_malformed_reply_is_refused(value: Sequence[object]) -> None:
    assert len(canonical.encode(value)) < MAX_REPLY
    with pytest.raises(FrameError):
        read_receipted(canonical.encode(value), 1)
