"""Proofs of possession: nobody has them without the bytes, and who has given one keeps what it proved."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.cid import record_cid_of_digest
from chain.record import Record
from dht.records import proofs
from dht.records.proofs import CYCLE_S, PINNABLE_S, UNPROVEN, VOUCHED_S, Vouchers, answerable, proof_of
from tests.dht.test_publisher import RECORDS

CIDS = [record_cid_of_digest(bytes([number]) * 32) for number in range(4)]
HOLDER = bytes(32)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["vouch", "let_go", "gone", "wait"]),
        st.sampled_from(CIDS),
        st.floats(0, 2 * VOUCHED_S),
    )
)


@given(STEPS)
def test_what_was_vouched_for_a_moment_ago_never_goes_and_what_goes_is_not_vouched_for(
    steps: list[tuple[str, bytes, float]],
) -> None:
    vouchers, now = Vouchers(), 0.0
    until: dict[bytes, float] = {}
    wanted: dict[bytes, float] = {}
    going: set[bytes] = set()
    for step, cid, seconds in steps:
        if step == "vouch":
            given_ = vouchers.vouch(cid, now)
            if cid in wanted and wanted[cid] + CYCLE_S <= now:
                del wanted[cid]
            assert given_ == (cid not in going and now < wanted.get(cid, now) + PINNABLE_S)
            if given_:
                until[cid] = now + VOUCHED_S
        elif step == "let_go":
            gone = vouchers.let_go([cid], now)
            assert gone == (until.get(cid, now) <= now)
            assert gone != vouchers.promised([cid], now)
            if gone:
                going.add(cid)
            else:
                wanted.setdefault(cid, now)
        elif step == "gone":
            vouchers.gone([cid])
            going.discard(cid)
        else:
            now += seconds


def test_of_several_records_one_promise_holds_all() -> None:
    vouchers = Vouchers()
    assert vouchers.vouch(CIDS[1], 0.0)
    assert not vouchers.let_go(CIDS, 1.0)
    assert vouchers.vouch(CIDS[0], 1.0), "nothing has begun to go"


def test_promises_are_bounded_and_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "MAX_VOUCHED", 2)
    vouchers = Vouchers()
    assert [vouchers.vouch(cid, 0.0) for cid in CIDS] == [True, True, False, False]
    assert vouchers.vouch(CIDS[0], 1.0), "one that is there may be renewed"
    assert vouchers.vouch(CIDS[3], CYCLE_S), "the other has run out"


def test_no_more_is_asked_than_an_answer_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def size(record: Record) -> int:
        return len(record.header_bytes) + len(record.payload or b"")

    ordered = sorted(RECORDS, key=lambda record: record.cid)
    asked = [(record, True) for record in reversed(ordered)]
    monkeypatch.setattr(proofs, "MAX_PROOF_BYTES", size(ordered[0]) + 1)
    assert answerable(asked) == [(record, True) for record in ordered[:2]], "as `Proofs._proofs` has it"
    monkeypatch.setattr(proofs, "MAX_PROOF_BYTES", size(ordered[0]))
    assert answerable(asked) == [(ordered[0], True)]


def test_nobody_pins_a_record_for_ever_however_often_it_is_asked_for() -> None:
    vouchers, free = Vouchers(), 0
    for second in range(round(10 * CYCLE_S)):
        vouchers.vouch(CIDS[0], float(second))
        free += not vouchers.promised([CIDS[0]], second + 0.5)
    assert free >= 9 * (CYCLE_S - PINNABLE_S - VOUCHED_S) - 1


def test_a_proof_is_of_these_bytes_this_nonce_and_this_holder_alone() -> None:
    first, second = RECORDS[:2]
    nonce, other = bytes(16), b"\1" * 16
    all_ = {
        proof_of(nonce, first, True, HOLDER),
        proof_of(nonce, first, True, other * 2),
        proof_of(nonce, first, True, None),
        proof_of(other, first, True, HOLDER),
        proof_of(nonce, first, False, HOLDER),
        proof_of(nonce, second, True, HOLDER),
        UNPROVEN,
    }
    assert len(all_) == 7
    bare = first.without_payload()
    assert proof_of(nonce, bare, True, HOLDER) == UNPROVEN
    assert proof_of(nonce, bare, False, HOLDER) == proof_of(nonce, first, False, HOLDER)
