"""Golden vectors: `python -m tests.chain.make_vectors` writes vectors.json beside this file.

Another implementation can check itself against the file without reading our code. Byte strings are hex. Where
a value of the canonical encoding is shown as JSON, bytes are {"bytes": hex}, maps are
{"map": [[key, value], …]} in canonical order, and integers beyond ±2**53 are {"int": decimal}; the rest is as
in JSON. `refused` lists inputs that a reader must refuse, with the name of our error. Keys are made of known
seeds and must never be used.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from chain import canonical
from chain.cid import blob_cid, raw_cid, record_cid, to_text
from chain.content import Content
from chain.epoch import Epoch, Expulsion, epoch_body
from chain.errors import ChainError
from chain.identity import Identity, did_key, peer_id
from chain.invitation import sign_grant, sign_invitation
from chain.kinds import CREATE, EDIT, GENESIS, MEMBRANE, PROFILE
from chain.membrane import find_nonce, position, work_bits
from chain.record import MAX_HEADER, Record, encode_payload
from chain.source_chain import Draft, head_of, next_record
from chain.statement import sign_statement
from chain.vector import score_ppm
from tests.chain.readers import READERS
from tests.chain.samples import ALICE, BOB, IDENTITIES, MANIFEST, STEWARD, changed

FILE = Path(__file__).with_name("vectors.json")
SAFE = 2**53

VALUES: list[Any] = [
    None,
    False,
    True,
    *(0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**53, 2**63, 2**64 - 1),
    *(-1, -32, -33, -128, -129, -32_768, -32_769, -(2**31), -(2**31) - 1, -(2**63)),
    "",
    "rose",
    "é",
    "🌹",
    "x" * 31,
    "x" * 32,
    b"",
    b"\x00\xff",
    [],
    [1, [2, [3]]],
    list(range(16)),
    {},
    {"b": 1, "a": {"Z": b"\x01"}, "ab": None, "é": True},
    {f"{n:02}": n for n in range(16)},
]


def shown(value: Any) -> Any:
    """A canonical value as JSON, in the notation above."""
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, dict):
        return {"map": [[key, shown(value[key])] for key in sorted(value)]}
    if isinstance(value, (list, tuple)):
        return [shown(item) for item in value]
    if type(value) is int and abs(value) > SAFE:
        return {"int": str(value)}
    return value


def unshown(value: Any) -> Any:
    """The value that `shown` showed."""
    if isinstance(value, dict):
        ((form, inner),) = value.items()
        if form == "bytes":
            return bytes.fromhex(inner)
        return int(inner) if form == "int" else {key: unshown(item) for key, item in inner}
    return [unshown(item) for item in value] if isinstance(value, list) else value


def build() -> dict[str, Any]:
    chain = source_chain()
    return {
        "about": __doc__,
        "keys": [
            {
                "seed": one.seed.hex(),
                "agent": one.agent.hex(),
                "peer_id": peer_id(one.agent),
                "did_key": did_key(one.agent),
            }
            for one in (*IDENTITIES, Identity.from_seed(bytes(32)))
        ],
        "canonical": [{"value": shown(value), "bytes": canonical.encode(value).hex()} for value in VALUES],
        "cids": [
            {"form": form, "data": data.hex(), "cid": make(data).hex(), "text": to_text(make(data))}
            for form, make in (("record", record_cid), ("raw", raw_cid), ("blob", blob_cid))
            for data in (b"", b"rose", bytes(range(256)))
        ],
        "payloads": [payload(record) for record in chain],
        "records": [described(record) for record in chain],
        "statements": [
            statement(ALICE, "address", [["/ip4/127.0.0.1/tcp/4001"], 7]),
            statement(BOB, "receipt", []),
        ],
        "manifest": {
            "fields": shown({**asdict(MANIFEST), "stewards": list(MANIFEST.stewards)}),
            "bytes": MANIFEST.encode().hex(),
            "network_id": MANIFEST.network_id.hex(),
            "text": to_text(MANIFEST.network_id),
        },
        "epochs": [epoch(), epoch((Expulsion(bytes([9]) * 32, 7, True),), (bytes(32),))],
        "membrane": [membrane(one, bits) for one in IDENTITIES for bits in (0, 8)],
        "invitations": invitations(),
        "scores": [
            {
                "a": list(a),
                "b": list(b),
                "ppm": score_ppm(np.array(a, dtype=np.int8), np.array(b, dtype=np.int8)),
            }
            for a, b in (
                ((127, 0), (127, 0)),
                ((127, 0), (0, 127)),
                ((127, 0), (-127, 0)),
                ((127, 1), (127, 0)),
                ((1, 2, 3), (-3, 2, 1)),
                ((127, -64, 33, 5), (120, -70, 30, -8)),
            )
        ],
        "refused": [refusal(reader, data) for reader, data in refused(chain)],
    }


def source_chain() -> list[Record]:
    """Alice's opening, a create, and Bob's opening up to an edit of it."""
    network = MANIFEST.network_id
    chain: list[Record] = []

    def write(identity: Identity, head: Record | None, draft: Draft, now_us: int) -> Record:
        salt = bytes([len(chain)]) * 16
        chain.append(
            next_record(identity, network, network, head_of(head) if head else None, draft, now_us, salt)
        )
        return chain[-1]

    heads: list[Record] = []
    for identity, start in ((ALICE, MANIFEST.founded), (BOB, MANIFEST.founded + 1_000_000)):
        nonce = find_nonce(network, identity.agent, MANIFEST.join_bits)
        genesis = write(identity, None, Draft(GENESIS, {"network": network, "recovery": None}), start)
        paid = write(identity, genesis, Draft(MEMBRANE, {"nonce": nonce}), start + 1)
        heads.append(
            write(identity, paid, Draft(PROFILE, {"name": "agent", "software": "vectors 1"}), start + 2)
        )
    content = Content(
        "Roses climb.", b"\x7f\x01\xff\x81", ("garden", "rose"), "botany", 900_000, ("urn:isbn:0",)
    )
    create = write(ALICE, heads[0], Draft(CREATE, content.to_body()), MANIFEST.founded + 2_000_000)
    edit = Content("Roses ramble.", b"\x7f\x02\xfe\x82", over=(create.cid,))
    draft = Draft(
        EDIT, edit.to_body(), create.cid, 0, None, (create.cid,), create.header.lamport, create.header.hlc
    )
    write(BOB, heads[1], draft, 0)
    return chain


def payload(record: Record) -> dict[str, Any]:
    assert record.payload is not None
    salt, body = canonical.decode(record.payload, 1 << 20)
    return {
        "salt": salt.hex(),
        "body": shown(body),
        "bytes": record.payload.hex(),
        "cid": record.header.payload.hex(),
    }


def described(record: Record) -> dict[str, Any]:
    return {
        "header": {name: shown(value) for name, value in asdict(record.header).items()},
        "header_bytes": record.header_bytes.hex(),
        "cid": record.cid.hex(),
        "cid_text": to_text(record.cid),
        "signature": record.signature.hex(),
        "bytes": record.encode().hex(),
        "bytes_without_payload": record.without_payload().encode().hex(),
    }


def statement(identity: Identity, name: str, fields: list[Any]) -> dict[str, Any]:
    data = sign_statement(identity, name, fields).data
    return {"author": identity.agent.hex(), "name": name, "fields": shown(fields), "bytes": data.hex()}


def epoch(expelled: tuple[Expulsion, ...] = (), readmitted: tuple[bytes, ...] = ()) -> dict[str, Any]:
    network = MANIFEST.network_id
    atlas, lifted = blob_cid(b"a second atlas"), (record_cid(b"a warrant"),)
    said = Epoch(network, network, 1, atlas, 1, lifted, expelled, readmitted)
    return {
        "fields": shown(asdict(said)),
        "message": said.message().hex(),
        "body": shown(epoch_body(said, [said.sign(BOB), said.sign(STEWARD)])),
    }


def membrane(identity: Identity, bits: int) -> dict[str, Any]:
    network, agent = MANIFEST.network_id, identity.agent
    nonce = find_nonce(network, agent, bits)
    return {
        "network": network.hex(),
        "agent": agent.hex(),
        "nonce": nonce,
        "bits": work_bits(network, agent, nonce),
        "position": position(network, agent, nonce).hex(),
    }


def invitations() -> dict[str, Any]:
    """A network by invitation of Alice's, who invites Bob and lets him invite the steward."""
    manifest = replace(MANIFEST, join_bits=0, by_invitation=True)
    network = manifest.network_id
    grant = sign_grant(ALICE, network, BOB.agent, 3)
    return {
        "manifest": manifest.encode().hex(),
        "proofs": [
            {
                "guest": guest.agent.hex(),
                "nonce": nonce,
                "until": until,
                "proof": [one.hex() for one in proof],
            }
            for guest, nonce, until, proof in (
                (BOB, 7, None, [sign_invitation(ALICE, network, BOB.agent, 7)]),
                (STEWARD, 1 << 40, 3, [sign_invitation(BOB, network, STEWARD.agent, 1 << 40), grant]),
            )
        ],
    }


def refused(chain: list[Record]) -> list[tuple[str, bytes]]:
    """Inputs that a reader must refuse."""
    record, wire, header = chain[-1], chain[-1].encode(), chain[-1].header_bytes
    row = canonical.decode(header, MAX_HEADER)
    manifest = MANIFEST.encode()
    said = sign_statement(ALICE, "address", [1]).data
    text = to_text(record.cid)
    assert record.payload is not None
    return [
        *(("canonical", bytes.fromhex(data)) for data in (
            "cc01", "d005", "cf0000000000000001", "cb3ff0000000000000", "ca3f800000", "d90161", "c5000178",
            "dc000101", "82a16201a16101", "82a16101a16102", "810101", "d40500", "c0c0", "a1ff", "a3eda080",
            "91", "ddffffffff", "cd01", "", "91" * 17 + "c0",
        )),
        *(("cid", spelled.encode()) for spelled in (text.upper(), text[:-1], text + "a", "z" + text[1:], "")),
        *(("agent", spelled.encode()) for spelled in (peer_id(ALICE.agent)[:-1], "did:key:z6M", "00", "")),
        ("header", header[:-1]),
        ("header", header + b"\0"),
        ("header", canonical.encode(row[:-1])),
        ("header", canonical.encode([2, *row[1:]])),
        ("header", canonical.encode([*row[:4], -1, *row[5:]])),
        ("header", canonical.encode([*row[:9], [row[9][0], row[9][0]], *row[10:]])),
        ("header", canonical.encode([*row[:12], "", *row[13:]])),
        ("header", bytes(MAX_HEADER + 1)),
        ("record", wire[:-1]),
        ("record", canonical.encode([header, record.signature])),
        ("record", canonical.encode([header, record.signature[:-1], None])),
        ("record", canonical.encode([header, record.signature, record.payload + b"\0"])),
        ("record", canonical.encode([header, record.signature, bytes(len(record.payload))])),
        ("record", canonical.encode([header, bytes(64), record.payload])),
        ("record", canonical.encode([header, chain[0].signature, record.payload])),
        ("record", canonical.encode([changed(record, hlc=0).header_bytes, record.signature, None])),
        ("payload", encode_payload(bytes(16), {})[:-1]),
        ("payload", canonical.encode([bytes(15), {}])),
        ("payload", canonical.encode([bytes(16), []])),
        ("manifest", manifest[:-1]),
        ("manifest", replace(MANIFEST, name="rosés").encode()[:-1] + b"\x02"),
        ("manifest", canonical.encode({**canonical.decode(manifest, 1 << 14), "more": 1})),
        ("manifest", canonical.encode({**canonical.decode(manifest, 1 << 14), "threshold": 3})),
        ("statement address", said[:-1] + bytes([said[-1] ^ 1])),
        ("statement receipt", said),
        ("statement address", canonical.encode(["address", BOB.agent, *canonical.decode(said, 4096)[2:]])),
    ]  # fmt: skip


def refusal(reader: str, data: bytes) -> dict[str, str]:
    try:
        READERS[reader](data)
    except ChainError as error:
        return {"reader": reader, "input": data.hex(), "error": type(error).__name__}
    raise AssertionError(f"{reader} accepts {data.hex()}")


def main() -> None:
    FILE.write_text(json.dumps(build(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
