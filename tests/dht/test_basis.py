"""A basis is a function of what it is for, and no subject can be made to fall on an author's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.cid import digest, raw_cid, record_cid
from chain.errors import ChainError
from dht.records.basis import BASIS_SIZE, author_basis, subject_basis


@given(st.binary(max_size=40))
def test_a_subject_lies_at_the_hash_in_its_cid(data: bytes) -> None:
    assert subject_basis(record_cid(data)) == digest(record_cid(data))
    assert len(subject_basis(raw_cid(data))) == BASIS_SIZE


@given(st.binary(min_size=32, max_size=32))
def test_an_author_lies_elsewhere_than_the_key_and_any_record_of_the_key(agent: bytes) -> None:
    assert len(author_basis(agent)) == BASIS_SIZE
    assert author_basis(agent) not in (agent, subject_basis(record_cid(agent)))


def test_an_authors_basis_never_changes() -> None:
    # sha256("roseforest/author/1" 00 ‖ 32 zero bytes)
    assert author_basis(bytes(32)).hex() == "1d1672d98f4cd7055be895057e0b91dec68513ec2c8f0d82e6222e8e768df38b"


@pytest.mark.parametrize("bad", [b"", bytes(31), bytes(36)])
def test_what_is_neither_cid_nor_agent_has_no_basis(bad: bytes) -> None:
    with pytest.raises(ChainError):
        subject_basis(bad)
    with pytest.raises(ChainError):
        author_basis(bad)
