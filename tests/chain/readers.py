"""Every way in for bytes from outside, by the names that vectors.json uses; with a record's signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chain import canonical
from chain.cid import from_text
from chain.errors import CidError, IdentityError, SignatureError
from chain.identity import agent_from_text
from chain.manifest import decode_manifest
from chain.record import Record, decode_header, decode_payload, decode_record, verify_signature
from chain.statement import open_statement


def signed_record(data: bytes) -> Record:
    record = decode_record(data)
    if not verify_signature(record):
        raise SignatureError("the record's signature does not verify")
    return record


def cid(data: bytes) -> bytes:
    try:
        return from_text(data.decode())
    except UnicodeDecodeError as error:
        raise CidError("not text") from error


def agent(data: bytes) -> bytes:
    try:
        return agent_from_text(data.decode())
    except UnicodeDecodeError as error:
        raise IdentityError("not text") from error


READERS: dict[str, Callable[[bytes], Any]] = {
    "canonical": lambda data: canonical.decode(data, 1 << 20),
    "cid": cid,
    "agent": agent,
    "header": decode_header,
    "record": signed_record,
    "payload": decode_payload,
    "manifest": decode_manifest,
    "statement address": lambda data: open_statement("address", data),
    "statement receipt": lambda data: open_statement("receipt", data),
}
