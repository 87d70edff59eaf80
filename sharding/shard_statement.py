"""Shard statements: the proof that two of a shard's holders decided that it divides or is one again.

Each of the two signs a statement `shard` over the same fields (network, prefix, version, what was decided,
time); the pair of them, ascending by author, is the *proof* that travels and is kept. It says who decided,
and that both did; whether those two were holders is for the receiver to find out (`dht.shards`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chain import canonical
from chain.cid import Cid, is_raw_cid
from chain.errors import ChainError
from chain.identity import AgentId, Identity
from chain.statement import Statement, open_statement, sign_statement
from sharding.errors import ShardStatementError, TreeError
from sharding.growth import Decision
from sharding.tree import Prefix

SHARD = "shard"
SIGNERS = 2
MAX_PROOF = 1024
"""Bytes of a proof; 420 or so are usual."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A decision, who signed it (ascending), and the bytes that prove both. Made by `open_proof`."""

    network: Cid
    decision: Decision
    signers: tuple[AgentId, ...]
    data: bytes


def sign_decision(identity: Identity, network: Cid, decision: Decision) -> Statement:
    """One signer's statement of a decision."""
    return sign_statement(identity, SHARD, _fields(network, decision))


def open_decision(data: bytes) -> tuple[AgentId, Cid, Decision]:
    """Who signed which decision in which network. Raises `ShardStatementError`; one signature is verified."""
    try:
        statement = open_statement(SHARD, data)
        network, decision = _read(statement.fields)
    except (ChainError, TreeError) as error:
        raise ShardStatementError(f"not a statement about a shard: {error}") from error
    return statement.author, network, decision


def proof_of(statements: tuple[bytes, bytes]) -> Proof:
    """The proof that two statements make. Raises `ShardStatementError` where they do not agree."""
    opened = sorted((open_decision(one), one) for one in statements)
    return open_proof(canonical.encode([one for _, one in opened]))


def open_proof(data: bytes) -> Proof:
    """Read a proof and verify both signatures. Raises `ShardStatementError`."""
    try:
        value = canonical.decode(data, MAX_PROOF)
    except ChainError as error:
        raise ShardStatementError(f"a proof of {len(data)} bytes is not canonical: {error}") from error
    if type(value) is not list or len(value) != SIGNERS or not all(type(one) is bytes for one in value):
        raise ShardStatementError(f"a proof about a shard is the array of {SIGNERS} statements")
    (one, network, decision), (other, *rest) = (open_decision(part) for part in value)
    if rest != [network, decision]:
        raise ShardStatementError("the two statements of a proof say different things")
    if not one < other:
        raise ShardStatementError("a proof needs two signers, in ascending order")
    return Proof(network, decision, (one, other), data)


def _fields(network: Cid, decision: Decision) -> list[Any]:
    prefix = decision.prefix
    return [
        network,
        prefix.length,
        prefix.bits,
        prefix.generation,
        decision.version,
        decision.divided,
        decision.at_us,
    ]


def _read(fields: list[Any]) -> tuple[Cid, Decision]:
    if len(fields) != 7 or not is_raw_cid(fields[0]):
        raise ShardStatementError(
            "a statement about a shard is [network, length, bits, generation, version, divided, time]"
        )
    network, length, bits, generation, version, divided, at_us = fields
    return network, Decision(Prefix(bits, length, generation), version, divided, at_us)
