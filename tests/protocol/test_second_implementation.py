"""What was written from docs/protocol.md alone makes the same bytes as the project, and refuses the same."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from chain import canonical as ours
from chain.blob import chunk_list
from chain.errors import ChainError
from dht.negentropy.reconciliation import answer
from dht.wire.frames import FrameDecoder, Refusal, Request, Response, encode_frame
from sharding.key import shard_keys
from tests.chain.samples import damage, values
from tests.dht.range_sets import ItemSet
from tests.protocol import second_atlas
from tests.protocol import second_format as second
from tests.protocol import second_ranges as ranges
from tests.protocol.second_format import Record, Refused
from tests.protocol.second_wire import framed
from tests.sharding.test_key import ATLASES, rows

HERE = Path(__file__).parent
VECTORS = json.loads((HERE.parent / "chain" / "vectors.json").read_text())


def value(shown: Any) -> Any:
    """A value of the golden vectors."""
    match shown:
        case list():
            return [value(item) for item in shown]
        case {"bytes": text}:
            return bytes.fromhex(text)
        case {"int": text}:
            return int(text)
        case {"map": pairs}:
            return {key: value(item) for key, item in pairs}
    return shown


def nested(levels: int) -> Any:
    """Arrays in one another."""
    return [nested(levels - 1)] if levels > 1 else []


def test_it_imports_nothing_of_the_project() -> None:
    floors = {"chain", "crdt", "sharding", "validation", "dht", "federated", "node", "sim", "benchmarks"}
    for path in HERE.glob("second_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert name is not None
                assert name.split(".")[0] not in floors, name
                assert not name.startswith("tests.") or name.startswith("tests.protocol.second_"), name


def test_the_golden_vectors() -> None:
    for case in VECTORS["canonical"]:
        assert second.canonical(value(case["value"])).hex() == case["bytes"]
        assert second.value_of(bytes.fromhex(case["bytes"])) == value(case["value"])
    for case in VECTORS["keys"]:
        assert second.agent_of(SigningKey(bytes.fromhex(case["seed"]))).hex() == case["agent"]
        assert second.peer_id(bytes.fromhex(case["agent"])) == case["peer_id"]
    for case in VECTORS["records"]:
        one = Record.read(bytes.fromhex(case["bytes"]))
        assert (one.cid.hex(), second.cid_text(one.cid)) == (case["cid"], case["cid_text"])
        assert one.bare.hex() == case["bytes_without_payload"]
    for case in VECTORS["statements"]:
        assert second.fields_of(bytes.fromhex(case["bytes"]), case["name"]) == value(case["fields"])
    for case in VECTORS["invitations"]["proofs"]:
        invitation, *grants = map(bytes.fromhex, case["proof"])
        network, guest, nonce = second.fields_of(invitation, "invitation")
        assert (guest.hex(), nonce) == (case["guest"], case["nonce"])
        for grant in grants:
            inviter = second.value_of(invitation)[1]
            assert second.fields_of(grant, "grant") == [network, inviter, case["until"]]
    for case in VECTORS["membrane"]:
        network, agent, nonce = bytes.fromhex(case["network"]), bytes.fromhex(case["agent"]), case["nonce"]
        assert second.position(network, agent, nonce).hex() == case["position"]
        assert [second.pays(network, agent, nonce, case["bits"] + more) for more in (0, 1)] == [True, False]
    for case in VECTORS["scores"]:
        a, b = (bytes(code % 256 for code in case[name]) for name in "ab")
        assert second.score(a, b) == case["ppm"]
    for case in VECTORS["refused"]:
        if case["reader"] == "canonical":
            with pytest.raises(Refused):
                second.value_of(bytes.fromhex(case["input"]))


@settings(max_examples=30)
@given(values, st.data())
def test_both_write_the_same_encoding_and_refuse_the_same_bytes(any_value: Any, data: st.DataObject) -> None:
    encoded = ours.encode(any_value)
    assert second.canonical(any_value) == encoded
    damaged = data.draw(damage(encoded))
    try:
        read = ours.decode(damaged, 1 << 20)
    except ChainError:
        with pytest.raises(Refused):
            second.value_of(damaged)
    else:
        assert second.value_of(damaged) == read


@pytest.mark.parametrize(
    ("most", "more"),
    [
        (nested(16), nested(17)),
        ([[]] * 16_383, [[]] * 16_384),
        ([0] * 65_536, [0] * 65_537),
        ([{str(key): key for key in range(65_535)}], [{str(key): key for key in range(65_536)}]),
    ],
    ids=["levels", "arrays", "elements", "pairs"],
)
def test_both_have_the_same_bounds(most: Any, more: Any) -> None:
    assert second.canonical(most) == ours.encode(most)
    with pytest.raises(Refused):
        second.canonical(more)
    with pytest.raises(ChainError):
        ours.encode(more)


@pytest.mark.parametrize("bits", [1, 3])
@given(codes=rows)
def test_shard_keys_are_the_same(bits: int, codes: list[int]) -> None:
    atlas, cid = ATLASES[bits], second.record_cid(b"any")
    (key,) = shard_keys(atlas, np.array([codes], dtype=np.int8), [cid])
    assert second_atlas.shard_key(atlas.encode(), bytes(code % 256 for code in codes), cid) == key


@pytest.mark.parametrize("size", [0, 1, 2**18, 2**18 + 1])
def test_blobs_have_the_same_names(size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    ours_of_it = chunk_list(data[:size])
    assert second.blob(data[:size]) == (ours_of_it.encode(), ours_of_it.cid)


def test_frames() -> None:
    assert framed([7, 0, "peer.ping", b"\x90"]) == encode_frame(Request(7, "peer.ping", b"\x90"))
    assert framed([7, 1, 0, b"\x90"]) == encode_frame(Response(7, b"\x90"))
    assert framed([2**32 - 1, 2, 999, "nö".encode()]) == encode_frame(Refusal(2**32 - 1, 999, "nö"))
    stream = framed([1, 0, "clock", b""]) + framed([1, 1, 0, b"x" * 300])
    decoder, frames = FrameDecoder(), []
    for place in range(0, len(stream), 7):
        frames += decoder.feed(stream[place : place + 7])
    assert frames == [Request(1, "clock", b""), Response(1, b"x" * 300)]


items = st.tuples(st.sampled_from([0, 1, 2**40, 2**64 - 2]), st.integers(0, 60)).map(
    lambda one: (one[0], second.sha256(f"{one}".encode()))
)


@given(st.sets(items, max_size=90), st.sets(items, max_size=90))
def test_comparing_by_ranges_finds_the_differences(mine: set[Any], theirs: set[Any]) -> None:
    here, there = sorted(mine), ItemSet(theirs)
    message, missing, unknown = ranges.question(here, listed=False), set[bytes](), set[bytes]()
    for _ in range(10):
        message, only_here, only_there = ranges.next_message(here, answer(there, message))
        missing, unknown = missing | only_here, unknown | only_there
        if not message:
            break
    assert not message
    for differing, found in ((mine - theirs, missing), (theirs - mine, unknown)):
        assert {item[1] for item in differing} == found
