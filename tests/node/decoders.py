"""Every decoder that sees a peer's bytes, by name, and where the program reads such bytes at all.

`test_decoders` gives each arbitrary bytes for a moment, `tests/fuzz.py` for as long as one likes, guided by
coverage. `READ_BY` is the list of all functions that decode, each with the decoder here that reaches it, if
peers' bytes come there; `test_decoders` compares it with the source.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

from chain import canonical
from chain.agent_life import open_revocation, revocation_in, rotation_in
from chain.archive_parts import ArchiveReader, Begun
from chain.blob import open_chunk_list
from chain.cid import blob_cid
from chain.content import content_from_body
from chain.epoch import epoch_from_body
from chain.errors import ChainError
from chain.invitation import check_proof_shape, open_grant, open_invitation, sign_grant, sign_invitation
from chain.kinds import KINDS_BY_RULE_VERSION, WARRANTS
from chain.learning import read_learning
from chain.learning_task import Array, task_from_body
from chain.manifest import decode_manifest
from chain.receipt import open_batch, open_receipt
from chain.record import decode_header, decode_payload, decode_record
from chain.secure_part import read_part
from chain.share import read_share
from chain.warrant import proof_from_body
from crdt.delta_codec import decode_delta, encode_delta
from crdt.errors import CrdtError
from crdt.operations import read_operation
from crdt.snapshot import decode_snapshot
from crdt.version_vector import decode_version_vector
from dht.blobs import service as blobs
from dht.blobs.blob_store import read_bitmap
from dht.errors import DhtError
from dht.evidence import attestations, heads, links, notices
from dht.negentropy import range_messages
from dht.network import MAX_BODY
from dht.overlay import clock_skew, hello
from dht.overlay.contact import open_contact
from dht.overlay.health import decode_health
from dht.overlay.peer_messages import decode_exchange, decode_find, decode_found
from dht.records import methods as records
from dht.records import proofs, replies
from dht.records.bundle import Item, bundle_value, open_bundle
from dht.repair import frontiers
from dht.shards import messages as shard_messages
from dht.summaries import messages as summaries
from dht.summaries.block import Kind, Version
from dht.wire.addresses import parse_address
from dht.wire.frames import FrameDecoder
from dht.wire.limits import DEFAULT_LIMITS
from dht.wire.mux_guard import HEADER, MuxGuard, read_header
from federated import messages, post
from federated.compression import open_parts
from federated.errors import LearningError
from federated.privacy.secure_messages import Phase, SecureSumError, Session, read_message, write_message
from federated.sparse import open_sparse
from federated.update import UpdateError
from federated.update import decode as decode_update
from node import atlases
from node.api.deltas import version_in
from node.corpus.json_lines import read_json_lines
from node.errors import InvalidInput
from node.exchange_formats.json_ld_reading import read_json_ld
from node.invite_text import read_invite
from node.query import search_protocol
from sharding.atlas import Atlas
from sharding.errors import ShardingError
from sharding.shard_statement import open_proof
from sharding.tree import Prefix
from tests.dht.authors import Author
from tests.dht.people import MANIFEST, NETWORK_ID, NOW_US, identity, signed
from tests.validation.archive_samples import pieces
from validation.archive import ArchiveJudge

REFUSED = (
    ChainError,
    CrdtError,
    DhtError,
    InvalidInput,
    LearningError,
    SecureSumError,
    ShardingError,
    UpdateError,
)
"""How a decoder refuses: the errors of the floors, each of which is one line."""
AUTHOR = Author(1, MANIFEST, NOW_US)
INVITED = replace(MANIFEST, founder=identity(0).agent, join_bits=0, by_invitation=True)
PROOF = [
    sign_invitation(identity(1), INVITED.network_id, AUTHOR.agent, 7),
    sign_grant(identity(0), INVITED.network_id, identity(1).agent, 3),
]
ARRAYS = (Array("w", "<f4", (2, 3)), Array("b", "<f4", (3,)))
REQUEST = search_protocol.SearchRequest(((0, 6), (1, 6)), None, 10)  # type: ignore[arg-type]
SUMMARY = Kind("sketch", 2, 3)
SUMMARIES = [summaries.Item(Prefix(0, 6), Version(bytes(8), 1, bytes(16))), summaries.Item(Prefix(1, 6))]
SECURE_SUM = Session(
    blob_cid(b"task"), 1, bytes(32), tuple(sorted(identity(number).agent for number in range(3))), 3, 2
)
KINDS = sorted(KINDS_BY_RULE_VERSION[max(KINDS_BY_RULE_VERSION)])


def mux(data: bytes) -> None:
    guard = MuxGuard(DEFAULT_LIMITS, 1)
    for at in range(0, len(data) - HEADER.size + 1, HEADER.size):
        guard.check(read_header(data[at : at + HEADER.size]), None, 1)


def secure_sum_body(data: bytes) -> None:
    """What a member says in each phase of a secure sum, properly signed."""
    body = canonical.decode(data, 1 << 20)
    for phase in Phase:
        read_message(SECURE_SUM, write_message(SECURE_SUM, identity(0), phase, body))


def archive(data: bytes) -> None:
    """An archive of records, judged part by part."""
    reader = ArchiveReader()
    judge: ArchiveJudge | None = None
    for part in reader.feed(data):
        judge = ArchiveJudge(part) if isinstance(part, Begun) else judge
        assert judge is not None
        judge.take(part)
    reader.close()


def bodies(data: bytes) -> None:
    """What the payload of each kind of record says."""
    body = canonical.decode(data, 1 << 20)
    if type(body) is not dict:
        return
    readers: list[Callable[[dict[str, Any]], object]] = [
        content_from_body,
        task_from_body,
        lambda value: epoch_from_body(value, MANIFEST),
        *(lambda value, kind=kind: read_operation(kind, value) for kind in KINDS),  # type: ignore[misc]
        *(lambda value, kind=kind: read_learning(kind, value) for kind in KINDS),  # type: ignore[misc]
        read_part,
        read_share,
        *(lambda value, kind=kind: proof_from_body(kind, value) for kind in WARRANTS),  # type: ignore[misc]
        *(lambda value, kind=kind: rotation_in(kind, value) for kind in KINDS),  # type: ignore[misc]
        *(lambda value, kind=kind: revocation_in(kind, value) for kind in KINDS),  # type: ignore[misc]
        lambda value: check_proof_shape(value.get("proof")),
    ]
    for read in readers:
        try:
            read(body)
        except REFUSED:
            continue


DECODERS: dict[str, Callable[[bytes], object]] = {
    "value": lambda data: canonical.decode(data, 1 << 20),
    "record": decode_record,
    "header": decode_header,
    "payload": decode_payload,
    "bodies": bodies,
    "manifest": decode_manifest,
    "contact": lambda data: open_contact(data, MANIFEST.membrane, NOW_US),
    "invited contact": lambda data: open_contact(data, INVITED.membrane, NOW_US),
    "passage": lambda data: INVITED.membrane.open(AUTHOR.agent, canonical.decode(data, 4096)),
    "bundle": lambda data: open_bundle(canonical.decode(data, 1 << 20)),
    "page": records._open_page,
    "question": records._request,
    "frames": lambda data: FrameDecoder().feed(data),
    "mux": mux,
    "exchange": decode_exchange,
    "find": decode_find,
    "health": decode_health,
    "found": decode_found,
    "hello": hello._question,
    "statuses": lambda data: replies.read_statuses(data, 3),
    "receipted": lambda data: replies.read_receipted(data, 3),
    "receipt": open_receipt,
    "attested": lambda data: attestations.read_attested(
        data, [AUTHOR.records[0].cid], NETWORK_ID[-32:], NETWORK_ID
    ),
    "attest": attestations._question,
    "links": lambda data: links.read_links(data, AUTHOR.records[:3], NETWORK_ID[-32:], NETWORK_ID),
    "linked": links._question,
    "proofs": proofs._question,
    "chunk list": lambda data: open_chunk_list(data, blob_cid(data), 1 << 30),
    "blob list": blobs._read_list,
    "blob question": lambda data: blobs._question(data, 2),
    "bitmap": lambda data: read_bitmap(16, data),
    "search": lambda data: search_protocol.decode_request(data, 4),
    "hits": lambda data: search_protocol.decode_reply(data, REQUEST),
    "summary": lambda data: summaries.decode_question(data, [SUMMARY]),
    "summaries": lambda data: summaries.decode_answer(data, SUMMARY, SUMMARIES),
    "tree comparison": shard_messages.decode_compare,
    "tree page": shard_messages.decode_page,
    "prefixes": shard_messages.decode_prefixes,
    "shards left": lambda data: shard_messages.decode_counts(data, 2),
    "shard proofs": lambda data: shard_messages.decode_proofs(shard_messages.decode(data), 16),
    "decision": lambda data: shard_messages.read_decision(shard_messages.decode(data)),
    "shard proof": open_proof,
    "delivery": post._open_delivery,
    "sign question": messages.decode_question,
    "sign reply": messages.decode_reply,
    "update": lambda data: decode_update(ARRAYS, data, 1000),
    "secure sum": lambda data: read_message(SECURE_SUM, data),
    "secure sum's body": secure_sum_body,
    "int8 update": lambda data: open_parts(ARRAYS, data),
    "sparse update": lambda data: open_sparse(ARRAYS, 5, data),
    "version vector": decode_version_vector,
    "version in a URL": lambda data: version_in(data.decode("latin-1")),
    "delta": lambda data: decode_delta(data, NETWORK_ID),
    "snapshot": decode_snapshot,
    "clock": lambda data: canonical.decode(data, clock_skew.MAX_REPLY),
    "notices": notices._open,
    "head": lambda data: heads._question(data, heads.HEAD),
    "heads": lambda data: heads._array(data, MAX_BODY, 2, heads.HEAD),
    "ranges": range_messages.decode,
    "frontier question": frontiers._question,
    "frontiers": lambda data: frontiers._frontiers(data, 1),
    "invitation": open_invitation,
    "grant": open_grant,
    "revocation": open_revocation,
    "batch": open_batch,
    "invite": lambda data: read_invite(data.decode("utf-8", "replace")),
    "manifest answer": lambda data: hello._read_manifest("a peer", _array(data)),
    "atlas": Atlas.decode,
    "atlas part": atlases._chunk,
    "archive": archive,
    "json-ld": lambda data: list(read_json_ld(BytesIO(data))),
    "json lines": lambda data: list(read_json_lines(BytesIO(data))),
    "address": lambda data: parse_address(data.decode("utf-8", "surrogateescape")),
}


def _array(data: bytes) -> list[Any]:
    value = canonical.decode(data, 1 << 20)
    return value if type(value) is list else []


NOT_OF_PEERS = "not a peer's bytes"
READ_BY: dict[str, str] = {
    "chain.archive_parts:_value": "archive",
    "chain.blob:open_chunk_list": "chunk list",
    "chain.private:open_private": NOT_OF_PEERS,  # sealed by this agent itself
    "chain.record:decode_header": "header",
    "chain.record:decode_record": "record",
    "chain.record:decode_payload": "payload",
    "chain.statement:open_statement": "contact",
    "chain.receipt:open_receipt": "receipt",
    "chain.manifest:decode_manifest": "manifest",
    "crdt.version_vector:decode_version_vector": "version vector",
    "crdt.delta_codec:decode_delta": "delta",
    "crdt.snapshot:decode_snapshot": "snapshot",
    "dht.records.methods:_request": "question",
    "dht.records.methods:_decode": "page",
    "dht.overlay.clock_skew:_sample": "clock",
    "dht.evidence.notices:_open": "notices",
    "dht.overlay.peer_messages:_array": "find",
    "dht.overlay.health:decode_health": "health",
    "dht.evidence.attestations:read_attested": "attested",
    "dht.evidence.attestations:_question": "attest",
    "dht.evidence.links:_question": "linked",
    "dht.evidence.links:read_links": "links",
    "dht.records.proofs:_question": "proofs",
    "dht.repair.frontiers:_frontiers": "frontiers",
    "dht.repair.frontiers:_question": "frontier question",
    "dht.evidence.heads:_array": "head",
    "dht.summaries.messages:decode_question": "summary",
    "dht.summaries.messages:decode_answer": "summaries",
    "dht.shards.messages:_decoded": "tree comparison",
    "dht.records.replies:_decoded": "statuses",
    "dht.blobs.service:_question": "blob question",
    "dht.blobs.service:_read_list": "blob list",
    "dht.overlay.hello:_ask": "manifest answer",
    "dht.overlay.hello:_question": "hello",
    "federated.messages:_array": "sign question",
    "federated.post:_open_delivery": "delivery",
    "federated.privacy.secure_messages:read_message": "secure sum",
    "node.atlases:_chunk": "atlas part",
    "node.invite_text:read_invite": "invite",
    "node.query.search_protocol:decode_request": "search",
    "node.query.search_protocol:decode_reply": "hits",
    "sharding.atlas:decode": "atlas",
    "sharding.shard_statement:open_proof": "shard proof",
    "sharding.tree:_decoded": NOT_OF_PEERS,  # trees come with a later release
    "node.storage.learning_memory:offer": NOT_OF_PEERS,  # its own disk
    "federated.gossip_run:_remembered": NOT_OF_PEERS,
    "node.storage.derived_state:_posting": NOT_OF_PEERS,
    "node.storage.shard_file:load": NOT_OF_PEERS,
}
"""Functions that call `canonical.decode`, as MODULE:FUNCTION."""

PARTS = [
    *(record.encode() for record in AUTHOR.records),
    *(record.cid for record in AUTHOR.records),
    AUTHOR.agent,
    NETWORK_ID,
    signed(1).data,
    bytes(32),
    bytes(64),
]
KEYS = [
    "network",
    "nonce",
    "text",
    "codes",
    "tags",
    "value",
    "vote",
    "round",
    "arrays",
    "roster",
    "blob",
    "digest",
]
WHOLE = [
    canonical.encode(bundle_value([AUTHOR.opening], [], [Item(record, 1) for record in AUTHOR.records])),
    *(record.encode() for record in AUTHOR.records),
    signed(1).data,
    encode_delta(AUTHOR.records, NETWORK_ID),
    canonical.encode(PROOF),
    b"".join(pieces()),
    summaries.encode_question(SUMMARY, SUMMARIES),
    summaries.encode_answer(bytes(8), [[2, 3, bytes(16)], [4, 3, bytes(16), b"aa111bb222", False]]),
]
