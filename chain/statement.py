"""Statements: small signed facts that are not links of a chain (addresses, receipts, shard decisions).

A statement is the canonical array [name, author, fields, signature]. The signature covers the domain tag
`roseforest/NAME/1\\0` and the hash of the canonical fields, so a signature for one name never passes for
another, nor for a record.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from chain import canonical
from chain.errors import RecordError, SignatureError
from chain.identity import AGENT_ID_SIZE, SIGNATURE_SIZE, AgentId, Identity, verify

MAX_STATEMENT = 4096


@dataclass(frozen=True, slots=True)
class Statement:
    """A verified statement: who said it, its fields, and the bytes that prove it."""

    name: str
    author: AgentId
    fields: list[Any]
    data: bytes


def domain_tag(name: str) -> bytes:
    """The tag that separates signatures of this name from all others."""
    return f"roseforest/{name}/1\0".encode("ascii")


def sign_statement(identity: Identity, name: str, fields: list[Any]) -> Statement:
    """Sign `fields` under `name`; raises `RecordError` above `MAX_STATEMENT` bytes."""
    digest = sha256(canonical.encode(fields)).digest()
    signature = identity.sign(domain_tag(name) + digest)
    data = canonical.encode([name, identity.agent, fields, signature])
    if len(data) > MAX_STATEMENT:
        raise RecordError(f"statement {name!r} has {len(data)} bytes, the limit is {MAX_STATEMENT}")
    return Statement(name, identity.agent, fields, data)


def open_statement(name: str, data: bytes) -> Statement:
    """Decode and verify a statement of this name.

    Raises:
        EncodingError: not canonical or too large.
        RecordError: another name or shape.
        SignatureError: the signature does not verify.
    """
    parts = canonical.decode(data, MAX_STATEMENT)
    if type(parts) is not list or len(parts) != 4:
        raise RecordError("a statement is the array [name, author, fields, signature]")
    found, author, fields, signature = parts
    if found != name:
        raise RecordError(f"statement is {found!r:.40}, expected {name!r}")
    if type(author) is not bytes or len(author) != AGENT_ID_SIZE or type(fields) is not list:
        raise RecordError(f"statement {name!r} has a malformed author or fields")
    if type(signature) is not bytes or len(signature) != SIGNATURE_SIZE:
        raise RecordError(f"statement {name!r} has a malformed signature")
    if not verify(author, domain_tag(name) + sha256(canonical.encode(fields)).digest(), signature):
        raise SignatureError(f"statement {name!r} is not signed by its author")
    return Statement(name, author, fields, data)
