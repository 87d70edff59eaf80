"""The source chain: what is appended verifies, and any single tampering is found where it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.cid import raw_cid, record_cid
from chain.errors import ChainBrokenError, ChainError, OversizedError
from chain.kinds import CLOSE, CREATE, GENESIS, MEMBRANE, OPENING, PROFILE
from chain.record import MAX_INT, MAX_PAYLOAD, Record, decode_record, sign_record, verify_signature
from chain.source_chain import MAX_FORWARD, MAX_LEAP, Draft, Head, head_of, next_record, verify_chain
from tests.chain.samples import ALICE, BOB, NETWORK, bodies, changed, damage, records


def chain_of(length: int, *, closed: bool = False) -> list[Record]:
    """Alice's chain: the opening, then creates, at the end a close."""
    records: list[Record] = []
    for seq in range(length):
        kind = OPENING[seq] if seq < 3 else CLOSE if closed and seq == length - 1 else CREATE
        head = head_of(records[-1]) if records else None
        draft = Draft(kind, {"seq": seq})
        records.append(
            next_record(ALICE, NETWORK, NETWORK, head, draft, 1_000 * seq, seq.to_bytes(16, "big"))
        )
    return records


@given(length=st.integers(0, 8), closed=st.booleans())
def test_what_is_appended_verifies(length: int, closed: bool) -> None:
    records = chain_of(length, closed=closed)
    report = verify_chain(records, NETWORK)
    assert report.length == length == sum(report.kinds.values())
    assert report.head == (records[-1].cid if records else None)
    assert report.author == (ALICE.agent if records else None)
    assert report.closed == (closed and length > 3)
    assert verify_chain([record.without_payload() for record in records], NETWORK) == report
    assert verify_chain([decode_record(record.encode()) for record in records], NETWORK) == report


@given(data=st.data(), length=st.integers(1, 6))
def test_any_change_of_a_records_bytes_is_found_at_its_seq(data: st.DataObject, length: int) -> None:
    """Damage that still decodes as a record breaks the chain exactly there, whichever byte it hit."""
    chain = chain_of(length)
    seq = data.draw(st.integers(0, length - 1))
    row = chain[seq]
    header = data.draw(damage(row.header_bytes))
    signature = data.draw(st.just(row.signature) | st.binary(min_size=64, max_size=64))
    try:
        found = decode_record(Record(row.header, signature, None, row.cid, header).encode())
    except ChainError:
        return
    if found == row.without_payload():
        return
    with pytest.raises(ChainBrokenError) as caught:
        verify_chain([*chain[:seq], found, *chain[seq + 1 :]], NETWORK)
    assert caught.value.seq == seq


@given(data=st.data(), length=st.integers(2, 6))
def test_dropped_repeated_swapped_or_foreign_records_are_found(data: st.DataObject, length: int) -> None:
    chain = chain_of(length)
    place = data.draw(st.integers(0, length - 2))
    other = data.draw(records())
    for broken, at in (
        (chain[:place] + chain[place + 1 :], place),
        (chain[: place + 1] + chain[place:], place + 1),
        ([*chain[:place], chain[place + 1], chain[place], *chain[place + 2 :]], place),
        ([*chain[:place], other, *chain[place:]], place),
    ):
        with pytest.raises(ChainBrokenError) as caught:
            verify_chain(broken, NETWORK)
        assert caught.value.seq == at


@given(data=st.data(), length=st.integers(2, 6))
def test_an_author_who_rewrites_their_past_is_found_at_the_next_record(
    data: st.DataObject, length: int
) -> None:
    """Signed again by the author themselves: the link from the next record does not fit."""
    chain = chain_of(length)
    seq = data.draw(st.integers(0, length - 2))
    rewritten = changed(chain[seq], epoch=record_cid(b"another epoch"))
    assert verify_signature(rewritten)
    with pytest.raises(ChainBrokenError, match="prev is not the record before it") as caught:
        verify_chain([*chain[:seq], rewritten, *chain[seq + 1 :]], NETWORK)
    assert caught.value.seq == seq + 1


TAMPERED: dict[str, tuple[Record, str]] = {
    "seq": (changed(chain_of(5)[4], seq=5), "found seq 5"),
    "network": (changed(chain_of(5)[4], network=raw_cid(b"x")), "another network"),
    "prev": (changed(chain_of(5)[4], prev=record_cid(b"x")), "prev is not the record before it"),
    "no prev": (changed(chain_of(5)[4], prev=None), "prev is not the record before it"),
    "clock": (changed(chain_of(5)[4], hlc=2_999), "clock runs backwards"),
    "lamport": (changed(chain_of(5)[4], lamport=3), "lamport does not grow"),
    "kind": (changed(chain_of(5)[4], kind=PROFILE), "belongs to the chain's opening"),
    "author": (
        sign_record(BOB, replace(chain_of(5)[4].header, author=BOB.agent), b""),
        "the author changes",
    ),
    "signature": (replace(chain_of(5)[4], signature=bytes(64)), "signature does not verify"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_each_check_of_a_link_says_what_is_wrong(name: str) -> None:
    record, reason = TAMPERED[name]
    with pytest.raises(ChainBrokenError, match=reason) as caught:
        verify_chain([*chain_of(4), record], NETWORK)
    assert caught.value.seq == 4


def test_the_opening_is_in_order() -> None:
    chain = chain_of(4)
    for seq, kind in ((0, CREATE), (1, PROFILE), (2, MEMBRANE), (3, GENESIS)):
        with pytest.raises(ChainBrokenError) as caught:
            verify_chain([*chain[:seq], changed(chain[seq], kind=kind)], NETWORK)
        assert caught.value.seq == seq
    with pytest.raises(ChainBrokenError, match="names a predecessor"):
        verify_chain([changed(chain[0], prev=record_cid(b"x"))], NETWORK)


def test_nothing_follows_a_close() -> None:
    closed = chain_of(5, closed=True)
    late = next_record(ALICE, NETWORK, NETWORK, head_of(closed[-1]), Draft(CREATE, {}), 9_000, bytes(16))
    with pytest.raises(ChainBrokenError, match=r"follows chain\.close") as caught:
        verify_chain([*closed, late], NETWORK)
    assert caught.value.seq == 5


@given(
    body=bodies,
    now=st.integers(0, 100),
    head=st.builds(
        Head, st.integers(0, 9), st.just(record_cid(b"x")), st.integers(0, 9), st.integers(0, 100)
    ),
    deps_lamport=st.integers(0, 20),
    deps_hlc=st.integers(0, 100),
)
def test_clocks_follow_what_was_seen(
    body: dict[str, object], now: int, head: Head, deps_lamport: int, deps_hlc: int
) -> None:
    draft = Draft(CREATE, body, deps=(record_cid(b"dep"),), deps_lamport=deps_lamport, deps_hlc=deps_hlc)
    header = next_record(ALICE, NETWORK, NETWORK, head, draft, now, bytes(16)).header
    assert header.lamport == 1 + max(head.lamport, deps_lamport)
    assert header.hlc == max(now, head.hlc, deps_hlc, header.lamport)
    assert (header.seq, header.prev) == (head.seq + 1, head.cid)
    first = next_record(ALICE, NETWORK, NETWORK, None, Draft(GENESIS, body), now, bytes(16)).header
    assert (first.seq, first.prev, first.lamport, first.hlc) == (0, None, 0, now)


def test_a_draft_beyond_the_limits_is_refused_before_it_is_signed() -> None:
    with pytest.raises(OversizedError):
        next_record(ALICE, NETWORK, NETWORK, None, Draft(CREATE, {"x": bytes(MAX_PAYLOAD)}), 0, bytes(16))
    with pytest.raises(ChainError):
        next_record(ALICE, NETWORK, NETWORK, None, Draft(CREATE, {"x": 0.5}), 0, bytes(16))
    with pytest.raises(ChainError):
        next_record(ALICE, NETWORK, NETWORK, None, Draft(CREATE, {}), 0, b"short")


def test_nothing_is_built_on_what_comes_from_the_future() -> None:
    """Else the whole chain would come from there, and be acknowledged by nobody before."""
    head, now = Head(5, record_cid(b"x"), 7, 9), 1 << 40
    for ahead, head_hlc in ((MAX_FORWARD, 9), (MAX_FORWARD, now + 1), (MAX_INT - now, 9)):
        draft = Draft(CREATE, {}, deps=(record_cid(b"dep"),), deps_lamport=1, deps_hlc=now + ahead)
        if ahead == MAX_FORWARD:
            record = next_record(ALICE, NETWORK, NETWORK, replace(head, hlc=head_hlc), draft, now, bytes(16))
            assert record.header.hlc == now + ahead
            draft = replace(draft, deps_hlc=draft.deps_hlc + 2)
        with pytest.raises(ChainError, match="ahead of this clock"):
            next_record(ALICE, NETWORK, NETWORK, head, draft, now, bytes(16))


@pytest.mark.parametrize("lamport", [2 * MAX_LEAP, MAX_INT - 1, MAX_INT])
def test_nothing_is_built_on_what_counts_more_records_than_can_exist(lamport: int) -> None:
    """The record after the next one could not be encoded any more: the chain would be lost."""
    head = Head(5, record_cid(b"x"), 7, 9)
    draft = Draft(CREATE, {}, deps=(record_cid(b"dep"),), deps_lamport=lamport, deps_hlc=10)
    with pytest.raises(ChainError, match="more than can exist"):
        next_record(ALICE, NETWORK, NETWORK, head, draft, 10, bytes(16))
