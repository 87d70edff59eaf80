"""Receipts: one signature for many findings, each of which proves itself and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import canonical
from chain.cid import record_cid
from chain.errors import ChainError, RecordError, SignatureError
from chain.identity import Identity
from chain.merkle import leaf_hash, path_of, root_along, root_of
from chain.receipt import (
    BASIS_SIZE,
    MAX_BASES,
    MAX_FINDINGS,
    MAX_RECEIPT,
    Finding,
    Found,
    covers,
    open_batch,
    open_receipt,
    sign_batch,
    verified_receipt,
    write_receipt,
)
from chain.statement import sign_statement
from tests.chain.samples import ALICE, BOB, NETWORK, damage, identities, raw_cids, record_cids

bases = st.sets(st.binary(min_size=BASIS_SIZE, max_size=BASIS_SIZE), max_size=4)
found = st.builds(
    Found,
    record_cids,
    raw_cids | record_cids,
    bases.map(lambda some: tuple(sorted(some))),
    st.booleans(),
    st.sampled_from(Finding),
)
batches = st.lists(found, min_size=1, max_size=9)


@given(identity=identities, batch=batches, now=st.integers(0, 1 << 61), data=st.data())
@settings(max_examples=50)
def test_every_finding_of_a_batch_stands_alone(
    identity: Identity, batch: list[Found], now: int, data: st.DataObject
) -> None:
    statement = sign_batch(identity, NETWORK, batch, now)
    leaves = [one.leaf() for one in batch]
    assert covers(open_batch(statement), leaves)
    place = data.draw(st.integers(0, len(batch) - 1))
    receipt = open_receipt(write_receipt(statement, leaves, place, batch[place]))
    assert (receipt.holder, receipt.network, receipt.issued_us) == (identity.agent, NETWORK, now)
    assert receipt.found == batch[place]
    damaged = data.draw(damage(receipt.data))
    assert damaged == receipt.data or verified_receipt(damaged) is None


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=20), st.data())
def test_a_path_leads_to_the_root_from_its_own_place_alone(leaves: list[bytes], data: st.DataObject) -> None:
    hashes = [leaf_hash(leaf) for leaf in leaves]
    place = data.draw(st.integers(0, len(leaves) - 1))
    path = path_of(hashes, place)
    assert root_along(hashes[place], place, len(leaves), path) == root_of(hashes)
    assert root_along(leaf_hash(b"other"), place, len(leaves), path) != root_of(hashes)
    assert root_along(hashes[place], place, len(leaves), [*path, bytes(32)]) is None
    assert root_along(hashes[place], len(leaves), len(leaves), path) is None
    for other, leaf in enumerate(hashes):
        if leaf != hashes[place]:
            assert root_along(leaf, other, len(leaves), path) != root_of(hashes)


def some(number: int) -> Found:
    return Found(record_cid(bytes([number])), NETWORK, (bytes(BASIS_SIZE),), True)


def test_nothing_passes_for_a_receipt_but_what_its_holder_signed() -> None:
    batch = [some(number) for number in range(5)]
    leaves = [one.leaf() for one in batch]
    statement = sign_batch(ALICE, NETWORK, batch, 1)
    for forged in (some(9), replace(batch[2], whole=False), replace(batch[2], finding=Finding.INVALID)):
        with pytest.raises(SignatureError, match="not among"):
            open_receipt(write_receipt(statement, leaves, 2, forged))
    with pytest.raises(SignatureError, match="not among"):
        open_receipt(write_receipt(statement, leaves, 3, batch[2]))
    other = sign_batch(BOB, NETWORK, batch[:3], 1)
    with pytest.raises(SignatureError):
        open_receipt(write_receipt(other, leaves, 2, batch[2]))
    assert not covers(open_batch(statement), leaves[:4])
    assert not covers(open_batch(statement), [*leaves[1:], leaves[0]])
    address = sign_statement(ALICE, "address", [NETWORK, 1, 1, leaves[0]])
    with pytest.raises(RecordError, match="expected"):
        open_batch(address.data)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [NETWORK, 1, 0, bytes(32)],
        [NETWORK, -1, 1, bytes(32)],
        [NETWORK, 1, MAX_FINDINGS + 1, bytes(32)],
        [NETWORK, 1, 1, bytes(31)],
        [record_cid(b""), 1, 1, bytes(32)],
        [NETWORK, True, 1, bytes(32)],
    ],
)
def test_a_statement_of_another_shape_is_none(fields: list[object]) -> None:
    with pytest.raises(RecordError, match="statement"):
        open_batch(sign_statement(ALICE, "receipt", fields).data)


def test_sizes_are_bounded_and_the_largest_receipt_fits() -> None:
    largest = replace(some(0), bases=tuple(bytes([n]) * BASIS_SIZE for n in range(MAX_BASES)))
    batch = [largest] * MAX_FINDINGS
    leaves = [one.leaf() for one in batch]
    statement = sign_batch(ALICE, NETWORK, batch, 1)
    assert len(write_receipt(statement, leaves, 7, largest)) < MAX_RECEIPT
    with pytest.raises(RecordError, match="512"):
        sign_batch(ALICE, NETWORK, [*batch, largest], 1)
    with pytest.raises(RecordError, match="512"):
        sign_batch(ALICE, NETWORK, [], 1)
    wide = replace(largest, bases=(*largest.bases, b"\xff" * BASIS_SIZE))
    leaves = [wide.leaf()]
    with pytest.raises(ChainError):
        open_receipt(write_receipt(sign_batch(ALICE, NETWORK, [wide], 1), leaves, 0, wide))
    assert verified_receipt(canonical.encode([statement, 0, [], []])) is None
