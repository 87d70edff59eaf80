"""The manifest: its hash is the network, so it has one encoding and every field a range."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain import canonical
from chain.cid import is_raw_cid, raw_cid
from chain.errors import ChainError, EncodingError, RecordError
from chain.manifest import MAX_MANIFEST, MAX_REPLICATION, Manifest, Space, decode_manifest
from tests.chain.samples import ALICE, MANIFEST, damage, manifests


@given(manifest=manifests())
def test_round_trip(manifest: Manifest) -> None:
    data = manifest.encode()
    assert decode_manifest(data) == manifest
    assert decode_manifest(data).encode() == data
    assert manifest.network_id == raw_cid(data)
    assert is_raw_cid(manifest.network_id)


@given(a=manifests(), b=manifests())
def test_different_constitutions_are_different_networks(a: Manifest, b: Manifest) -> None:
    assert (a.network_id == b.network_id) == (a == b)


@given(data=st.data(), manifest=manifests())
def test_damaged_manifests_are_refused_or_are_other_networks(data: st.DataObject, manifest: Manifest) -> None:
    for damaged in (data.draw(damage(manifest.encode())), data.draw(st.binary(max_size=60))):
        try:
            found = decode_manifest(damaged)
        except ChainError:
            continue
        assert found.encode() == damaged
        assert (found.network_id == manifest.network_id) == (damaged == manifest.encode())


TWO = tuple(sorted((ALICE.agent, bytes(32))))
BAD: list[dict[str, Any]] = [
    {"name": ""},
    {"name": "x" * 101},
    {"name": 7},
    {"space": Space("", 256)},
    {"space": Space("m", 0)},
    {"space": Space("m", 4097)},
    {"space": Space("m", True)},
    {"space": Space("m", 256, "euclidean")},
    {"founder": bytes(31)},
    {"founder": None},
    {"stewards": ()},
    {"stewards": TWO[::-1]},
    {"stewards": (ALICE.agent, ALICE.agent)},
    {"stewards": (b"short",)},
    {"stewards": tuple(n.to_bytes(32, "big") for n in range(65)), "threshold": 1},
    {"threshold": 0},
    {"threshold": 3},
    {"threshold": True},
    {"join_bits": -1},
    {"join_bits": 41},
    {"by_invitation": True},
    {"replication": 0},
    {"replication": MAX_REPLICATION + 1},
    {"shard_target": 15},
    {"shard_target": (1 << 20) + 1},
    {"atlas": raw_cid(b"x")},
    {"atlas": b""},
    {"rules": 0},
    {"rules": (1 << 16) + 1},
    {"founded": -1},
    {"founded": 1 << 63},
]


@pytest.mark.parametrize("change", BAD, ids=str)
def test_values_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ChainError):
        replace(MANIFEST, **change).encode()


def body(**changes: Any) -> bytes:
    fields = {**canonical.decode(MANIFEST.encode(), MAX_MANIFEST), **changes}
    return canonical.encode({name: value for name, value in fields.items() if value is not ...})


def test_bodies_of_another_shape_are_refused() -> None:
    assert decode_manifest(body()) == MANIFEST
    for bad in (
        body(version=2),
        body(version=True),
        body(more=1),
        body(membrane=["open"]),
        body(membrane=["invitation", 1]),
        body(membrane="open"),
        body(membrane=["invitation", 0]),
        body(membrane=["open", 0, 0]),
        body(membrane=["other", 8]),
        body(space=["m", 256]),
        body(space={"model": "m"}),
        body(stewards="all"),
        body(stewards=[[ALICE.agent]]),
        body(threshold="2"),
        body(name=None),
        canonical.encode([1]),
        canonical.encode({}),
        *(body(**{name: ...}) for name in canonical.decode(MANIFEST.encode(), MAX_MANIFEST)),
    ):
        with pytest.raises(RecordError):
            decode_manifest(bad)
    with pytest.raises(EncodingError):
        decode_manifest(bytes(MAX_MANIFEST + 1))
