"""Values, keys and whole structures for the tests of `chain`, and ways of damaging their bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from chain.cid import blob_cid, raw_cid, record_cid
from chain.content import MAX_TAGS, MAX_TEXT
from chain.identity import Identity
from chain.manifest import MAX_REPLICATION, MIN_PAYLOAD_LIMIT, Limits, Manifest, Space
from chain.record import MAX_INT, MAX_PAYLOAD, VERSION, Header, Record, encode_payload, sign_record

IDENTITIES = tuple(Identity.from_seed(bytes([number]) * 32) for number in range(1, 4))
ALICE, BOB, STEWARD = IDENTITIES
NETWORK = raw_cid(b"a network for tests of the chain")

plain_text = st.text(st.characters(codec="utf-8"), max_size=12)
integers = st.integers(-(2**63), 2**64 - 1) | st.sampled_from(
    [
        edge + near
        for edge in (0, -32, 127, -128, 255, 2**15, -(2**15), 2**16, 2**31, -(2**31), 2**32)
        for near in (-1, 0, 1)
    ]
)
scalars = st.none() | st.booleans() | integers | plain_text | st.binary(max_size=40)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain_text, inner, max_size=4),
    max_leaves=12,
)
seeds = st.binary(min_size=32, max_size=32)
identities = st.sampled_from(IDENTITIES)
naturals = st.integers(0, MAX_INT)
record_cids = st.binary(min_size=1, max_size=4).map(record_cid)
raw_cids = st.binary(max_size=4).map(raw_cid)
blob_cids = st.binary(max_size=4).map(blob_cid)
bodies = st.dictionaries(plain_text, values, max_size=4)


@st.composite
def records(draw: st.DrawFn, author: st.SearchStrategy[Identity] = identities) -> Record:
    """Any record that decodes, valid or not."""
    identity = draw(author)
    payload = encode_payload(draw(st.binary(min_size=16, max_size=16)), draw(bodies))
    header = Header(
        version=VERSION,
        network=draw(raw_cids),
        epoch=draw(raw_cids | record_cids),
        author=identity.agent,
        seq=draw(naturals),
        prev=draw(st.none() | record_cids),
        subject=draw(st.none() | record_cids),
        subject_seq=draw(naturals),
        subject_prev=draw(st.none() | record_cids),
        deps=tuple(sorted(draw(st.sets(record_cids, max_size=4)))),
        lamport=draw(naturals),
        hlc=draw(naturals),
        kind=draw(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64)),
        payload=raw_cid(payload),
        payload_size=len(payload),
    )
    return sign_record(identity, header, payload)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    stewards = draw(st.sets(identities, min_size=1))
    by_invitation = draw(st.booleans())
    name = st.text(st.characters(codec="utf-8"), min_size=1, max_size=25)
    return Manifest(
        name=draw(name),
        space=Space(draw(name), draw(st.integers(1, 4096))),
        founder=draw(identities).agent,
        stewards=tuple(sorted(one.agent for one in stewards)),
        threshold=draw(st.integers(1, len(stewards))),
        join_bits=0 if by_invitation else draw(st.integers(0, 40)),
        replication=draw(st.integers(1, MAX_REPLICATION)),
        shard_target=draw(st.integers(16, 1 << 20)),
        atlas=draw(st.none() | blob_cids),
        rules=draw(st.integers(1, 1 << 16)),
        founded=draw(naturals),
        limits=Limits(
            draw(st.integers(MIN_PAYLOAD_LIMIT, MAX_PAYLOAD)),
            draw(st.integers(1, MAX_TEXT)),
            draw(st.integers(0, MAX_TAGS)),
        ),
        by_invitation=by_invitation,
    )


MANIFEST = Manifest(
    name="roses",
    space=Space("built-in", 256),
    founder=ALICE.agent,
    stewards=tuple(sorted((BOB.agent, STEWARD.agent))),
    threshold=2,
    join_bits=8,
    replication=3,
    shard_target=512,
    atlas=blob_cid(b"an atlas"),
    rules=1,
    founded=1_700_000_000_000_000,
)


@st.composite
def damage(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with one change: a byte replaced, inserted, removed or repeated, or an end cut off."""
    place = draw(st.integers(0, max(len(data) - 1, 0)))
    some = draw(st.binary(min_size=1, max_size=3))
    return draw(
        st.sampled_from(
            [
                data[:place],
                data[place:],
                data[:place] + some + data[place + 1 :],
                data[:place] + some + data[place:],
                data[:place] + data[place + 1 :],
                data[: place + 1] + data[place:],
                data + some,
            ]
        )
    )


def changed(record: Record, **fields: Any) -> Record:
    """The record with other header fields, signed again."""
    assert record.payload is not None
    identity = next(one for one in IDENTITIES if one.agent == record.header.author)
    return sign_record(identity, replace(record.header, **fields), record.payload)
