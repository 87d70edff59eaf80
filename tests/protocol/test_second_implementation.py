"""What was written from docs/protocol.md alone makes the same bytes as the project, and refuses the same."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from chain import canonical as ours
from chain.errors import ChainError
from chain.identity import Identity
from chain.manifest import Limits, Manifest, Space
from chain.membrane import Membrane, find_nonce
from chain.membrane import position as our_position
from chain.receipt import Finding, Found, open_receipt, sign_batch
from chain.record import Record as OurRecord
from chain.record import decode_record
from chain.source_chain import Draft, head_of, next_record
from chain.vector import score_ppm
from dht.negentropy.reconciliation import answer, id_of, mask_of, prefix_of
from dht.overlay.contact import ContactError, make_contact, open_contact
from dht.records.basis import author_basis
from dht.records.bundle import BadItem, open_bundle
from dht.records.placement import Layout, Role, bases_of
from dht.records.receipts import check_receipts as our_check_receipts
from dht.records.replies import StoreStatus
from dht.wire.frames import FrameDecoder, Refusal, Request, Response, encode_frame
from node.search_protocol import decode_request
from sharding.tree import ShardTree
from tests.chain.samples import damage, values
from tests.dht.range_sets import ItemSet
from tests.protocol import second_format as second
from tests.protocol import second_ranges as ranges
from tests.protocol.second_format import AUTHOR, SHARD, SUBJECT, Record, Refused, record
from tests.protocol.second_wire import framed
from validation.context import Context
from validation.rules import judge
from validation.verdict import VALID, Invalid, Pending

HERE = Path(__file__).parent
VECTORS = json.loads((HERE.parent / "chain" / "vectors.json").read_text())
SEED, NOW = bytes([7]) * 32, 1_800_000_000_000_000
KEY, IDENTITY, HOLDER = SigningKey(SEED), Identity.from_seed(SEED), Identity.from_seed(bytes([8]) * 32)
MANIFEST = Manifest(
    name="two",
    space=Space("caller-vectors", 4),
    founder=HOLDER.agent,
    stewards=(HOLDER.agent,),
    threshold=1,
    join_bits=4,
    replication=3,
    shard_target=512,
    atlas=None,
    rules=4,
    founded=NOW,
    limits=Limits(),
)
NETWORK = second.raw_cid(MANIFEST.encode())
NONCE = second.mined(NETWORK, IDENTITY.agent, 4)
SALTS = [bytes([number]) * 16 for number in range(10)]
CODES = bytes([127, 1, 255, 3])
CHAIN = second.opening(KEY, NETWORK, NONCE, NOW, SALTS)
CONTENT = {"codes": CODES, "tags": ["rose"], "text": "Roses climb."}


def written(kind: str, body: dict[str, Any], prev: Record = CHAIN[-1], **more: Any) -> Record:
    """A record of `KEY` after its opening."""
    return record(KEY, NETWORK, kind, body, prev=prev, hlc=more.pop("hlc", NOW + 5), salt=SALTS[4], **more)


CREATE = written("entry.create", CONTENT)
OWN = (CREATE.cid, 1, CREATE.cid)
EDIT = written(
    "entry.edit",
    {**CONTENT, "over": [CREATE.cid]},
    CREATE,
    subject=(CREATE.cid, 1, CREATE.cid),
    deps=(CREATE,),
)
KNOWN = {one.cid: decode_record(one.wire) for one in (*CHAIN, CREATE, EDIT)}


def verdict(one: Record) -> Any:
    """What the project says of a record."""
    opening = (KNOWN[CHAIN[0].cid], KNOWN[CHAIN[1].cid])
    return judge(decode_record(one.wire), Context(MANIFEST, NETWORK, named=KNOWN, opening=opening))


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


def test_a_chain_is_the_same_and_valid() -> None:
    head, bodies = None, [one.body for one in (*CHAIN, CREATE)]
    for one, body in zip((*CHAIN, CREATE), bodies, strict=True):
        salt = second.value_of(one.payload or b"")[0]
        again = next_record(IDENTITY, NETWORK, NETWORK, head, Draft(one["kind"], body), one["hlc"], salt)
        assert (one.wire, one.cid, one.bare) == (again.encode(), again.cid, again.without_payload().encode())
        head = head_of(again)
        assert verdict(one) == VALID
    assert verdict(EDIT) == VALID
    assert Record.read(KNOWN[EDIT.cid].encode()) == EDIT


ELSEWHERE = second.raw_cid(b"another network")
BROKEN = {
    "genesis-body": record(KEY, NETWORK, "chain.genesis", {}, prev=None, hlc=NOW, salt=SALTS[0]),
    "membrane-body": written("chain.membrane", {"nonce": NONCE - 1 if NONCE else NONCE + 1}, CHAIN[0]),
    "opening-order": written("entry.create", CONTENT, CHAIN[1]),
    "clock": written("entry.create", CONTENT, hlc=NOW - 1),
    "vector": written("entry.create", {**CONTENT, "codes": bytes([126, 0, 0, 0])}),
    "operation": written("entry.create", {**CONTENT, "tags": ["b", "a"]}),
    "subject-shape": written("entry.create", CONTENT, subject=(CREATE.cid, 0, None)),
    "subject-line": written("entry.delete", {"seen": [CREATE.cid]}, CREATE, subject=(CREATE.cid, 0, None)),
    "delete-seen": written("entry.delete", {"seen": [CREATE.cid]}, CREATE, subject=OWN),
    "network": record(KEY, ELSEWHERE, "entry.create", CONTENT, prev=CHAIN[-1], hlc=NOW, salt=SALTS[0]),
    "kind": written("entry.wish", CONTENT),
    "signature": Record(CREATE.header, EDIT.signature, CREATE.payload),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_what_breaks_a_rule_is_invalid_by_that_rule(rule: str) -> None:
    found = verdict(BROKEN[rule])
    assert isinstance(found, Invalid), found
    assert found.rule == rule, found


def test_what_names_the_unknown_is_pending() -> None:
    stranger = written("entry.vote", {"value": 1}, EDIT, subject=(second.record_cid(b"?"), 0, None))
    assert isinstance(verdict(stranger), Pending)


def test_address_records() -> None:
    places = [f"/ip4/127.0.0.1/tcp/4001/p2p/{second.peer_id(IDENTITY.agent)}"]
    made = second.address(KEY, NETWORK, NONCE, places, NOW, 3_600)
    assert made == make_contact(IDENTITY, NETWORK, NONCE, places, 0, False, NOW, 3_600).data
    membrane = Membrane(NETWORK, MANIFEST.founder, MANIFEST.join_bits, False)
    assert open_contact(made, membrane, NOW).agent == IDENTITY.agent
    assert second.position(NETWORK, IDENTITY.agent, NONCE) == our_position(NETWORK, IDENTITY.agent, NONCE)
    assert find_nonce(NETWORK, IDENTITY.agent, MANIFEST.join_bits) == NONCE
    for wrong in (
        second.address(KEY, NETWORK, NONCE, ["/ip4/127.0.0.1/tcp/4001"], NOW, 3_600),
        second.address(KEY, NETWORK, NONCE, places, NOW, 86_401),
        second.address(KEY, NETWORK, NONCE, places * 9, NOW, 3_600),
        second.address(KEY, NETWORK, NONCE, places, NOW + 60_000_001, 3_600),
        second.address(KEY, ELSEWHERE, NONCE, places, NOW, 3_600),
        second.statement(KEY, "receipt", second.fields_of(made, "address")),
    ):
        with pytest.raises((ContactError, ChainError)):
            open_contact(wrong, membrane, NOW)


LAYOUT = Layout(None, ShardTree.fixed(6))


def test_bundles_bases_and_receipts() -> None:
    sent = [(AUTHOR, CHAIN[0].wire), (AUTHOR, CREATE.bare), (SUBJECT | SHARD, CREATE.wire)]
    held = [Record.read(wire) for _, wire in sent]
    bundle = [[[one.wire for one in CHAIN[:2]]], [CHAIN[2].bare], [list(item) for item in sent]]
    read = open_bundle(ours.decode(second.canonical(bundle), 1 << 20))
    assert (set(read.openings), set(read.headers)) == ({IDENTITY.agent}, {CHAIN[2].cid})
    findings, theirs, as_sent = [], [], list[tuple[OurRecord, int, bytes | None]]()
    for (roles, _), item, one in zip(sent, read.items, held, strict=True):
        assert not isinstance(item, BadItem)
        shard = LAYOUT.shard_of(item.record)
        bases = bases_of(item.record, Role(item.roles), shard)
        assert second.bases_of(one, roles) == [basis for _, basis in bases]
        for _, basis in bases:
            theirs_at = prefix_of(basis), id_of(item.record.cid, mask_of(basis))
            assert ranges.range_item(basis, second.digest_of(one.cid)) == theirs_at
        findings.append([one.cid, NETWORK, sorted(second.bases_of(one, roles)), one.payload is not None, 0])
        found = tuple(sorted(basis for _, basis in bases))
        theirs.append(Found(one.cid, NETWORK, found, item.record.payload is not None, Finding.VALID))
        as_sent.append((item.record, roles, shard))
    assert second.author_basis(IDENTITY.agent) == author_basis(IDENTITY.agent)

    # theirs is taken here, ours there, and nothing that differs in anything
    for count in (1, 2, 3):
        said = sign_batch(HOLDER, NETWORK, theirs[:count], NOW)
        second.check_receipts(said, findings[:count], HOLDER.agent, NETWORK)
        root = second.tree(findings[:count])[-1][0]
        fields = [NETWORK, NOW, count, root]
        assert second.statement(SigningKey(bytes([8]) * 32), "receipt", fields) == said
        statuses = [(StoreStatus.HELD, "")] * count
        our_check_receipts(said, HOLDER.agent, NETWORK, as_sent[:count], statuses)
        for place in range(count):
            alone = open_receipt(second.receipt(said, findings[:count], place))
            assert (alone.found, alone.holder) == (theirs[place], HOLDER.agent)
    first, *rest = findings
    for other in ([*first[:4], 1], [*first[:2], [], *first[3:]], rest[0]):
        with pytest.raises(Refused):
            second.check_receipts(said, [other, *rest], HOLDER.agent, NETWORK)
    for signed, holder, network in (
        (findings[:2], HOLDER.agent, NETWORK),
        (findings, IDENTITY.agent, NETWORK),
        (findings, HOLDER.agent, ELSEWHERE),
    ):
        with pytest.raises(Refused):
            second.check_receipts(said, signed, holder, network)


def test_frames() -> None:
    assert framed([7, 0, "peer.ping", b"\x90"]) == encode_frame(Request(7, "peer.ping", b"\x90"))
    assert framed([7, 1, 0, b"\x90"]) == encode_frame(Response(7, b"\x90"))
    assert framed([2**32 - 1, 2, 999, "nö".encode()]) == encode_frame(Refusal(2**32 - 1, 999, "nö"))
    stream = framed([1, 0, "clock", b""]) + framed([1, 1, 0, b"x" * 300])
    decoder, frames = FrameDecoder(), []
    for place in range(0, len(stream), 7):
        frames += decoder.feed(stream[place : place + 7])
    assert frames == [Request(1, "clock", b""), Response(1, b"x" * 300)]


def test_a_search_is_read_as_it_is_meant() -> None:
    asked = decode_request(second.canonical([[list(second.shard_of(CREATE.cid))], CODES, 5, ["rose"]]), 4)
    assert [shard.basis() for shard in asked.shards] == [LAYOUT.shard_of(KNOWN[CREATE.cid])]
    assert (asked.codes.tobytes(), asked.k, asked.tags) == (CODES, 5, ("rose",))
    for other in (bytes([127, 0, 0, 1]), bytes([129, 255, 1, 253]), bytes([0, 127, 128 + 1, 0])):
        theirs = decode_request(second.canonical([[[6, 0]], other, 1, []]), 4).codes
        assert second.score(CODES, other) == score_ppm(asked.codes, theirs)


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
