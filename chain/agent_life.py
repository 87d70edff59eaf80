"""The life of an agent beyond its first key: rotation, revocation, and what the two sides sign.

- **Rotation**: the last record of the old chain, `agent.rotate`, names the successor and holds the
  successor's consent, a statement that only the new key can sign; so both sign in one record, and it proves
  the succession by itself. Nothing may follow it. The successor says whom it continues by a record of its
  own, `agent.continue`, which holds the whole rotation.
- **Revocation**: the recovery key that the agent's genesis names signs a statement: of this agent nothing
  counts after this record. `agent.revoke` carries it, in the chain of whoever publishes it, with the
  agent's first two records, which name the recovery key. A thief of the signing key has no way to sign one,
  and a rotation that the thief made lies above the last good record, so it does not count either.

Reading checks shapes and the statements' signatures; whether a record is valid is judged by
`validation.agent_rules`. A revocation can be followed by one that names an earlier record, never undone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chain.cid import Cid, is_raw_cid, is_record_cid
from chain.errors import ChainError, RecordError
from chain.identity import AGENT_ID_SIZE, AgentId, Identity
from chain.kinds import GENESIS, ROTATE
from chain.record import MAX_INT, Record, decode_payload, decode_record
from chain.statement import open_statement, sign_statement

CONSENT = "succession"
REVOCATION = "revocation"
MAX_AGENT_STATEMENT = 320
"""Bytes of a consent or a revocation; the longer takes some 240."""
MAX_AGENT_PAYLOAD = 16 * 1024
"""Bytes of the payloads of these kinds: every node keeps them. Two opening records are most of it."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """`agent` goes on as `successor`, by their own word both; `seq` is the last place of the old chain."""

    agent: AgentId
    successor: AgentId
    seq: int
    record: Cid


@dataclass(frozen=True, slots=True)
class Revocation:
    """By the recovery key: of `agent` nothing counts after its record `head`, at place `seq`."""

    recovery: AgentId
    network: Cid
    agent: AgentId
    seq: int
    head: Cid


def sign_consent(successor: Identity, network: Cid, agent: AgentId) -> bytes:
    """The successor's word that it continues `agent` in this network."""
    return sign_statement(successor, CONSENT, [network, agent]).data


def check_consent(consent: object, successor: AgentId, network: Cid, agent: AgentId) -> None:
    """Raise `RecordError` unless this is the word of `successor`, another key, that it continues `agent`."""
    if successor == agent:
        raise RecordError("an agent cannot be its own successor")
    author, fields = _statement(CONSENT, consent)
    if author != successor or fields != [network, agent]:
        raise RecordError("the consent is not the successor's to continue this agent in this network")


def rotation_body(successor: AgentId, consent: bytes) -> dict[str, Any]:
    """The payload body of an `agent.rotate`."""
    return {"consent": consent, "successor": successor}


def rotation_of(record: Record) -> Rotation:
    """What an `agent.rotate` says, its consent checked; raises `ChainError`. The record's own signature is
    not looked at.
    """
    header = record.header
    if header.kind != ROTATE or record.payload is None:
        raise RecordError(f"a rotation is a record of kind {ROTATE} with its payload")
    body = _fields(ROTATE, decode_payload(record.payload), ["consent", "successor"])
    successor = _key("successor", body["successor"])
    check_consent(body["consent"], successor, header.network, header.author)
    return Rotation(header.author, successor, header.seq, record.cid)


def continuation_body(rotation: Record) -> dict[str, Any]:
    """The payload body of an `agent.continue`."""
    return {"rotation": rotation.encode()}


def rotation_in(kind: str, body: dict[str, Any]) -> Record:
    """The record that an `agent.continue` holds; raises `ChainError`."""
    raw = _fields(kind, body, ["rotation"])["rotation"]
    if type(raw) is not bytes:
        raise RecordError("a rotation is a byte string")
    return decode_record(raw)


def sign_revocation(recovery: Identity, network: Cid, agent: AgentId, seq: int, head: Cid) -> bytes:
    """Say with the recovery key that nothing of `agent` counts after the record `head` at `seq`."""
    return sign_statement(recovery, REVOCATION, [network, agent, seq, head]).data


def open_revocation(data: bytes) -> Revocation:
    """Read a revocation and check its signature; raises `ChainError`."""
    author, fields = _statement(REVOCATION, data)
    if len(fields) != 4 or not is_raw_cid(fields[0]) or not is_record_cid(fields[3]):
        raise RecordError("a revocation is [network, agent, seq, head]")
    network, agent, seq, head = fields
    if type(seq) is not int or not 2 <= seq <= MAX_INT:
        raise RecordError(f"a revocation leaves the chain's opening alone: seq is {seq!r:.40}, at least 2")
    return Revocation(author, network, _key("agent", agent), seq, head)


def check_recovery(said: Revocation, genesis: Record) -> None:
    """Raise `ChainError` unless this genesis, of the agent who is revoked, names the key that signed."""
    if genesis.payload is None or genesis.header.author != said.agent or genesis.header.kind != GENESIS:
        raise RecordError("the genesis shown is not that of the agent who is revoked")
    if decode_payload(genesis.payload).get("recovery") != said.recovery:
        raise RecordError("the revocation is not signed by the agent's recovery key")


def revocation_body(statement: bytes, opening: tuple[Record, Record]) -> dict[str, Any]:
    """The payload body of an `agent.revoke`."""
    return {"opening": [record.encode() for record in opening], "statement": statement}


def revocation_in(kind: str, body: dict[str, Any]) -> tuple[Revocation, tuple[Record, Record]]:
    """What an `agent.revoke` holds: the revocation, checked, and the agent's opening; raises `ChainError`."""
    _fields(kind, body, ["opening", "statement"])
    raw = body["opening"]
    if type(raw) is not list or len(raw) != 2 or not all(type(one) is bytes for one in raw):
        raise RecordError("a revocation brings the agent's first two records")
    return open_revocation(body["statement"]), (decode_record(raw[0]), decode_record(raw[1]))


def revocation_of(record: Record) -> Revocation:
    """The revocation in an `agent.revoke`; raises `ChainError`, also without its payload."""
    if record.payload is None:
        raise RecordError("a revocation without its payload says nothing")
    return revocation_in(record.header.kind, decode_payload(record.payload))[0]


def _statement(name: str, data: object) -> tuple[AgentId, list[Any]]:
    if type(data) is not bytes or len(data) > MAX_AGENT_STATEMENT:
        raise RecordError(f"{name} is a statement of at most {MAX_AGENT_STATEMENT} bytes")
    try:
        statement = open_statement(name, data)
    except ChainError as error:
        raise RecordError(f"the {name} does not hold: {error}") from error
    return statement.author, statement.fields


def _fields(kind: str, body: dict[str, Any], expected: list[str]) -> dict[str, Any]:
    if sorted(body) != expected:
        raise RecordError(f"{kind} has exactly the fields {', '.join(expected)}")
    return body


def _key(name: str, value: object) -> AgentId:
    if type(value) is not bytes or len(value) != AGENT_ID_SIZE:
        raise RecordError(f"{name} is not a {AGENT_ID_SIZE}-byte key")
    return value
