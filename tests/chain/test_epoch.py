"""Epochs: nothing changes in a network without enough of its stewards."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.cid import blob_cid, raw_cid, record_cid
from chain.epoch import MAX_LIFTED, Epoch, Expulsion, epoch_body, epoch_from_body
from chain.errors import ChainError, RecordError, SignatureError
from tests.chain.samples import ALICE, BOB, MANIFEST, STEWARD, blob_cids, record_cids, values

NETWORK = MANIFEST.network_id
agents = st.binary(min_size=32, max_size=32).map(lambda some: b"\0" + some[1:])
epochs = st.builds(
    Epoch,
    network=st.just(NETWORK),
    previous=st.just(NETWORK) | record_cids,
    number=st.integers(1, 1 << 31),
    atlas=st.none() | blob_cids,
    rules=st.integers(1, 1 << 16),
    lifted=st.lists(record_cids, max_size=3).map(tuple),
    expelled=st.sets(agents, max_size=2).flatmap(
        lambda some: st.tuples(
            *(st.builds(Expulsion, st.just(a), st.integers(0, 99), st.booleans()) for a in sorted(some))
        )
    ),
    readmitted=st.sets(st.binary(min_size=32, max_size=32).map(lambda b: b"\1" + b[1:]), max_size=2).map(
        lambda some: tuple(sorted(some))
    ),
)
EPOCH = Epoch(NETWORK, NETWORK, 1, blob_cid(b"another atlas"), 1)
SIGNED = [EPOCH.sign(BOB), EPOCH.sign(STEWARD)]


@given(epoch=epochs)
def test_enough_stewards_make_an_epoch(epoch: Epoch) -> None:
    body = epoch_body(epoch, [epoch.sign(STEWARD), epoch.sign(BOB)])
    assert epoch_from_body(body, MANIFEST) == epoch


@given(epoch=epochs, other=epochs)
def test_signatures_do_not_carry_over_to_another_epoch(epoch: Epoch, other: Epoch) -> None:
    body = epoch_body(other, [epoch.sign(STEWARD), epoch.sign(BOB)])
    if epoch == other:
        assert epoch_from_body(body, MANIFEST) == other
    else:
        with pytest.raises(SignatureError, match="does not verify"):
            epoch_from_body(body, MANIFEST)


@pytest.mark.parametrize(
    ("signatures", "error", "reason"),
    [
        ([], SignatureError, "has 0 steward signatures, the network asks for 2"),
        (SIGNED[:1], SignatureError, "has 1 steward signatures"),
        ([SIGNED[0], SIGNED[0]], RecordError, "not ascending"),
        ([*SIGNED, EPOCH.sign(ALICE)], SignatureError, "not a steward"),
        ([(BOB.agent, bytes(64)), SIGNED[1]], SignatureError, "does not verify"),
        ([(BOB.agent, b"short"), SIGNED[1]], SignatureError, "not a steward"),
    ],
)
def test_bad_signatures_are_refused(signatures: Any, error: type[ChainError], reason: str) -> None:
    with pytest.raises(error, match=reason):
        epoch_from_body(epoch_body(EPOCH, signatures), MANIFEST)


BAD: list[dict[str, Any]] = [
    {"atlas": raw_cid(b"x")},
    {"atlas": "atlas"},
    {"previous": None},
    {"previous": b"x"},
    {"number": 0},
    {"number": (1 << 31) + 1},
    {"number": True},
    {"rules": 0},
    {"rules": (1 << 16) + 1},
    {"rules": None},
    {"lifted": None},
    {"lifted": [raw_cid(b"x")]},
    {"lifted": [record_cid(b"x")] * (MAX_LIFTED + 1)},
    {"signatures": None},
    {"signatures": [[bytes(32), bytes(64)]] * 65},
    {"signatures": [bytes(64)]},
    {"signatures": [[BOB.agent]]},
    {"signatures": [["bob", bytes(64)]]},
    {"signatures": [[BOB.agent, None]]},
    {"more": 1},
    {"expelled": []},
    *(
        {"expelled": expelled, "readmitted": readmitted}
        for expelled, readmitted in (
            ([], []),
            (None, [ALICE.agent]),
            ([[ALICE.agent, 3]], []),
            ([[ALICE.agent, -1, False]], []),
            ([[ALICE.agent, True, False]], []),
            ([[ALICE.agent, 3, 0]], []),
            ([[b"alice", 3, False]], []),
            ([[ALICE.agent, 3, False]] * 2, []),
            ([[ALICE.agent, 3, False]], [ALICE.agent]),
            ([[STEWARD.agent, 3, False]], []),
            ([[MANIFEST.founder, 3, False]], []),
            ([], [ALICE.agent] * 2),
            ([], [7]),
            ([[bytes([n, 1]) * 16, 3, False] for n in range(255)] * 2, []),
        )
    ),
]


@pytest.mark.parametrize("change", BAD, ids=str)
def test_bodies_of_another_shape_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        epoch_from_body({**epoch_body(EPOCH, SIGNED), **change}, MANIFEST)


@given(value=values, name=st.sampled_from(sorted(epoch_body(EPOCH, SIGNED))))
def test_no_value_of_a_field_raises_anything_but_the_floors_errors(value: Any, name: str) -> None:
    body = {**epoch_body(EPOCH, SIGNED), name: value}
    try:
        epoch_from_body(body, MANIFEST)
    except ChainError:
        return
    assert body == epoch_body(EPOCH, SIGNED)
