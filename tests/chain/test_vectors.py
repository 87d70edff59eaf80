"""The golden vectors: the file is what our code makes, and each entry holds when read from it."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain import canonical
from chain.cid import blob_cid, from_text, raw_cid, record_cid, to_text
from chain.epoch import epoch_from_body
from chain.errors import ChainError
from chain.identity import Identity, agent_from_text, did_key, peer_id, verify
from chain.manifest import decode_manifest
from chain.membrane import position, work_bits
from chain.record import decode_header, decode_payload, decode_record
from chain.source_chain import verify_chain
from chain.statement import open_statement
from chain.vector import score_ppm
from tests.chain.make_vectors import FILE, VALUES, build, shown, unshown
from tests.chain.readers import READERS
from tests.chain.samples import damage, values

VECTORS: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
unhex = bytes.fromhex


def test_the_file_is_what_the_code_makes() -> None:
    """A difference means that stored records and other nodes no longer agree with this code."""
    assert json.loads(json.dumps(build())) == VECTORS


def test_keys() -> None:
    for key in VECTORS["keys"]:
        agent = Identity.from_seed(unhex(key["seed"])).agent
        assert (
            agent == unhex(key["agent"]) == agent_from_text(key["peer_id"]) == agent_from_text(key["did_key"])
        )
        assert (peer_id(agent), did_key(agent)) == (key["peer_id"], key["did_key"])


def test_canonical_values() -> None:
    assert len(VECTORS["canonical"]) == len(VALUES)
    for vector in VECTORS["canonical"]:
        value, data = unshown(vector["value"]), unhex(vector["bytes"])
        assert canonical.encode(value) == data
        assert canonical.decode(data, 1 << 16) == value


def test_cids() -> None:
    makers = {"record": record_cid, "raw": raw_cid, "blob": blob_cid}
    for vector in VECTORS["cids"]:
        cid = makers[vector["form"]](unhex(vector["data"]))
        assert cid == unhex(vector["cid"]) == from_text(vector["text"])


def test_records_from_their_fields_alone() -> None:
    """Header bytes, CID and signature again from the JSON fields, not through our record code."""
    seeds = {unhex(key["agent"]): unhex(key["seed"]) for key in VECTORS["keys"]}
    for vector in VECTORS["records"]:
        fields = {name: unshown(value) for name, value in vector["header"].items()}
        header = canonical.encode(list(fields.values()))
        assert header == unhex(vector["header_bytes"])
        assert unhex("0181041220") + sha256(header).digest() == unhex(vector["cid"])
        message = b"roseforest/record/1\0" + sha256(header).digest()
        signature = Identity.from_seed(seeds[fields["author"]]).sign(message)
        assert signature == unhex(vector["signature"])
        assert verify(fields["author"], message, signature)
        record = decode_record(unhex(vector["bytes"]))
        assert record.header == decode_header(header)
        assert (record.cid, to_text(record.cid)) == (unhex(vector["cid"]), vector["cid_text"])
        assert record.without_payload().encode() == unhex(vector["bytes_without_payload"])


def test_payloads() -> None:
    for vector in VECTORS["payloads"]:
        data = unhex(vector["bytes"])
        assert canonical.encode([unhex(vector["salt"]), unshown(vector["body"])]) == data
        assert decode_payload(data) == unshown(vector["body"])
        assert raw_cid(data) == unhex(vector["cid"])


def test_each_authors_records_are_a_chain() -> None:
    records = [decode_record(unhex(vector["bytes"])) for vector in VECTORS["records"]]
    network = unhex(VECTORS["manifest"]["network_id"])
    for author in {record.header.author for record in records}:
        assert verify_chain([one for one in records if one.header.author == author], network).length == 4


def test_statements() -> None:
    for vector in VECTORS["statements"]:
        said = open_statement(vector["name"], unhex(vector["bytes"]))
        assert said.author == unhex(vector["author"])
        assert said.fields == unshown(vector["fields"])


def test_manifest_and_epochs() -> None:
    vector = VECTORS["manifest"]
    manifest = decode_manifest(unhex(vector["bytes"]))
    assert manifest.network_id == unhex(vector["network_id"]) == from_text(vector["text"])
    assert manifest.name == unshown(vector["fields"])["name"]
    for published in VECTORS["epochs"]:
        epoch = epoch_from_body(unshown(published["body"]), manifest)
        assert epoch.message() == unhex(published["message"])


def test_membrane_and_scores() -> None:
    for vector in VECTORS["membrane"]:
        place = unhex(vector["network"]), unhex(vector["agent"]), vector["nonce"]
        assert work_bits(*place) == vector["bits"]
        assert position(*place) == unhex(vector["position"])
    manifest = decode_manifest(unhex(VECTORS["invitations"]["manifest"]))
    for vector in VECTORS["invitations"]["proofs"]:
        passage = manifest.membrane.open(unhex(vector["guest"]), [unhex(one) for one in vector["proof"]])
        assert (passage.nonce, passage.until) == (vector["nonce"], vector["until"])
    for vector in VECTORS["scores"]:
        a, b = (np.array(vector[name], dtype=np.int8) for name in ("a", "b"))
        assert score_ppm(a, b) == vector["ppm"]


@pytest.mark.parametrize(
    "vector", VECTORS["refused"], ids=lambda vector: f"{vector['reader']} {vector['input'][:16]}"
)
def test_what_must_be_refused(vector: dict[str, str]) -> None:
    with pytest.raises(ChainError) as caught:
        READERS[vector["reader"]](unhex(vector["input"]))
    assert type(caught.value).__name__ == vector["error"]


def test_every_reader_has_something_to_refuse() -> None:
    assert {vector["reader"] for vector in VECTORS["refused"]} == set(READERS)


@given(value=values)
def test_the_notation_loses_nothing(value: Any) -> None:
    assert unshown(json.loads(json.dumps(shown(value)))) == value


@given(data=st.data())
def test_no_reader_raises_anything_but_an_error_of_this_floor(data: st.DataObject) -> None:
    """Fuzzing with noise and with damaged records, manifests, statements and vectors of all kinds."""
    whole = data.draw(
        st.sampled_from(
            [
                unhex(vector["bytes"])
                for name in ("records", "statements", "canonical", "payloads")
                for vector in VECTORS[name]
            ]
            + [unhex(VECTORS["manifest"]["bytes"])]
        )
    )
    for noise in (
        data.draw(damage(whole)),
        data.draw(damage(data.draw(damage(whole)))),
        data.draw(st.binary(max_size=80)),
    ):
        for name in sorted(READERS):
            try:
                READERS[name](noise)
            except ChainError:
                continue
