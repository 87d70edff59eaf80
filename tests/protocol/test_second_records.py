"""Records, addresses, receipts and questions made from docs/protocol.md alone are what the project makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
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
from dht.negentropy.reconciliation import id_of, mask_of, prefix_of
from dht.overlay.contact import ContactError, make_contact, open_contact
from dht.records.basis import author_basis
from dht.records.bundle import BadItem, open_bundle
from dht.records.placement import Layout, Role, bases_of
from dht.records.receipts import check_receipts as our_check_receipts
from dht.records.replies import StoreStatus
from node.query.search_protocol import decode_request
from sharding.tree import ShardTree
from tests.protocol import second_format as second
from tests.protocol import second_ranges as ranges
from tests.protocol.second_format import AUTHOR, SHARD, SUBJECT, Record, Refused, record
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


OTHER = SigningKey(bytes([8]) * 32)
TWIN = written("entry.create", {**CONTENT, "text": "Roses creep."})
FORK = sorted((CREATE, TWIN), key=lambda one: one.cid)
OPENED = [one.wire for one in CHAIN[:2]]
FALSE = {"first": FORK[0].bare, "second": FORK[0].bare, "opening": OPENED}
TAG = written("entry.tag", {"tag": "red"}, CREATE, subject=OWN, deps=(CREATE,))
KNOWN[TAG.cid] = decode_record(TAG.wire)
AFTER_TAG = (CREATE.cid, 2, TAG.cid)
FIELDS = ("previous", "number", "atlas", "rules", "lifted", "expelled", "readmitted")


def epoch(*said: Any, **wrong: Any) -> Record:
    """The record of an epoch that the steward signs."""
    signature = second.sign(OTHER, "epoch", second.canonical([NETWORK, *said]))
    signatures = [[second.agent_of(OTHER), signature]]
    body = {**dict(zip(FIELDS, said, strict=False)), "signatures": signatures}
    return written("network.epoch", body | wrong)


CONSENT = second.statement(OTHER, "succession", [NETWORK, IDENTITY.agent])
VALID_ONES = [
    TAG,
    written("entry.untag", {"tag": "red", "adds": [TAG.cid]}, TAG, subject=AFTER_TAG, deps=(CREATE,)),
    written("entry.delete", {"seen": [CREATE.cid]}, CREATE, subject=OWN, deps=(CREATE,)),
    written("entry.retract", {}, CREATE, subject=OWN, deps=(CREATE,)),
    written("entry.vote", {"value": -1, "reason": "thorns"}, CREATE, subject=OWN, deps=(CREATE,)),
    written("entry.purge", {"records": [CREATE.cid]}, CREATE, subject=OWN, deps=(CREATE,)),
    written("entry.private", {"box": bytes(296)}),
    written("chain.close", {}),
    epoch(NETWORK, 1, None, 4, []),
    epoch(NETWORK, 1, None, 4, [], [[b"e" * 32, 3, True]], [b"r" * 32]),
    written("agent.rotate", {"successor": second.agent_of(OTHER), "consent": CONSENT}),
    written("warrant.fork", {"first": FORK[0].bare, "second": FORK[1].bare, "opening": OPENED}),
    written(
        "warrant.invalid",
        {"record": BROKEN["vector"].wire, "rule": "vector", "named": [], "opening": OPENED},
    ),
]


@pytest.mark.parametrize("one", VALID_ONES, ids=lambda one: one["kind"])
def test_records_of_other_kinds_are_valid(one: Record) -> None:
    assert verdict(one) == VALID


@pytest.mark.parametrize(
    ("one", "rule"),
    [
        (written("warrant.fork", FALSE), "warrant-proof"),
        (epoch(NETWORK, 1, None, 4, [], number=2), "epoch-body"),
        (epoch(NETWORK, 2, None, 4, []), "epoch-body"),
        (epoch(NETWORK, 1, None, 4, [], [], []), "epoch-body"),
        (epoch(NETWORK, 1, None, 4, [], [[HOLDER.agent, 3, True]], []), "epoch-body"),
        (written("agent.rotate", {"successor": IDENTITY.agent, "consent": CONSENT}), "rotation"),
        (written("entry.private", {"box": bytes(295)}), "private-body"),
        (written("entry.purge", {"records": [CHAIN[2].cid]}, CREATE, subject=OWN, deps=(CREATE,)), "targets"),
    ],
    ids=["fork", "unsigned", "number", "nobody", "founder", "rotate", "private", "purge"],
)
def test_false_ones_are_not(one: Record, rule: str) -> None:
    found = verdict(one)
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


def test_a_search_is_read_as_it_is_meant() -> None:
    asked = decode_request(
        second.canonical([[list(second.shard_of(second.digest_of(CREATE.cid)))], CODES, 5, ["rose"]]), 4
    )
    assert [shard.basis() for shard in asked.shards] == [LAYOUT.shard_of(KNOWN[CREATE.cid])]
    assert (asked.codes.tobytes(), asked.k, asked.tags) == (CODES, 5, ("rose",))
    for other in (bytes([127, 0, 0, 1]), bytes([129, 255, 1, 253]), bytes([0, 127, 128 + 1, 0])):
        theirs = decode_request(second.canonical([[[6, 0]], other, 1, []]), 4).codes
        assert second.score(CODES, other) == score_ppm(asked.codes, theirs)
