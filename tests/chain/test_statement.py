"""Statements: signed under their own name, and of no use under another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain import canonical
from chain.errors import ChainError, OversizedError, RecordError, SignatureError
from chain.identity import Identity
from chain.record import RECORD_TAG
from chain.statement import MAX_STATEMENT, domain_tag, open_statement, sign_statement
from tests.chain.samples import ALICE, BOB, damage, identities, values

names = st.sampled_from(["address", "receipt", "shard"])
fields_of = st.lists(values, max_size=4)


@given(identity=identities, name=names, fields=fields_of)
def test_round_trip(identity: Identity, name: str, fields: list[Any]) -> None:
    said = sign_statement(identity, name, fields)
    assert open_statement(name, said.data) == said
    assert said.author == identity.agent


@given(identity=identities, name=names, fields=fields_of)
def test_a_statement_does_not_pass_for_another_name(identity: Identity, name: str, fields: list[Any]) -> None:
    said = sign_statement(identity, name, fields)
    other = "receipt" if name == "address" else "address"
    with pytest.raises(RecordError, match="expected"):
        open_statement(other, said.data)
    parts = canonical.decode(said.data, MAX_STATEMENT)
    with pytest.raises(SignatureError):
        open_statement(other, canonical.encode([other, *parts[1:]]))


@given(data=st.data(), name=names, fields=fields_of)
def test_damaged_statements_are_refused(data: st.DataObject, name: str, fields: list[Any]) -> None:
    said = sign_statement(ALICE, name, fields)
    for damaged in (data.draw(damage(said.data)), data.draw(st.binary(max_size=60))):
        if damaged == said.data:
            continue
        with pytest.raises(ChainError):
            open_statement(name, damaged)


def test_statements_of_another_shape_are_refused() -> None:
    said = sign_statement(ALICE, "address", [1])
    name, author, fields, signature = canonical.decode(said.data, MAX_STATEMENT)
    for bad in (
        [name, author, fields],
        [name, author, fields, signature, 1],
        [name, author[:-1], fields, signature],
        [name, None, fields, signature],
        [name, author, {}, signature],
        [name, author, fields, signature[:-1]],
        [name, author, fields, None],
        [None, author, fields, signature],
        {"name": name},
    ):
        with pytest.raises(RecordError):
            open_statement("address", canonical.encode(bad))
    with pytest.raises(SignatureError):
        open_statement("address", canonical.encode([name, BOB.agent, fields, signature]))


def test_sizes_are_bounded() -> None:
    with pytest.raises(RecordError, match="the limit is"):
        sign_statement(ALICE, "address", [bytes(MAX_STATEMENT)])
    with pytest.raises(OversizedError):
        open_statement("address", bytes(MAX_STATEMENT + 1))


def test_names_have_separate_domains_and_none_is_a_records() -> None:
    tags = {domain_tag(name) for name in ("address", "receipt", "shard", "epoch")}
    assert len(tags) == 4
    assert RECORD_TAG not in {domain_tag(name) for name in ("address", "receipt", "shard")}
    assert replace(sign_statement(ALICE, "address", []), name="x").author == ALICE.agent
