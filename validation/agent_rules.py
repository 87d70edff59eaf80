"""Rules about rotation and revocation: both sides of a rotation signed, and only the recovery key revokes.

Each record proves what it says from its own bytes: a rotation holds the successor's consent, a continuation
the whole rotation, a revocation the opening of the agent that it is about, whose genesis names the recovery
key. So everybody reaches the same verdict, whatever else they know of the two chains.
"""

from __future__ import annotations

from chain.agent_life import (
    MAX_AGENT_PAYLOAD,
    check_recovery,
    revocation_in,
    rotation_in,
    rotation_of,
)
from chain.errors import ChainError
from chain.kinds import CONTINUE, GENESIS, MEMBRANE, REVOKE, ROTATE
from chain.record import Record, check_payload, verify_signature
from validation.context import Context
from validation.opening_rules import opening_fault
from validation.rule import Finding, Rule

_KINDS = frozenset({ROTATE, CONTINUE, REVOKE})


def agent_size(record: Record, _context: Context) -> Finding:
    """What every node is to keep is short."""
    size = record.header.payload_size
    if record.header.kind not in _KINDS or size <= MAX_AGENT_PAYLOAD:
        return None
    return f"the payload of {record.header.kind} has {size} bytes, the limit is {MAX_AGENT_PAYLOAD}"


def rotation(record: Record, _context: Context) -> Finding:
    """An agent names a successor that agreed to continue it."""
    if record.header.kind != ROTATE or record.payload is None:
        return None
    try:
        rotation_of(record)
    except ChainError as error:
        return str(error)
    return None


def continuation(record: Record, context: Context) -> Finding:
    """Who says that it continues an agent shows that agent's own rotation to it."""
    if record.header.kind != CONTINUE or record.payload is None:
        return None
    try:
        shown = rotation_in(CONTINUE, record.body())
        successor = rotation_of(shown).successor
    except ChainError as error:
        return str(error)
    if shown.header.network != context.network:
        return "the rotation belongs to another network"
    if not verify_signature(shown):
        return "the rotation is not signed by the agent who is continued"
    return None if successor == record.header.author else "the rotation names another successor"


def revocation(record: Record, context: Context) -> Finding:
    """The recovery key that the agent's genesis names signed the revocation."""
    if record.header.kind != REVOKE or record.payload is None:
        return None
    try:
        said, opening = revocation_in(REVOKE, record.body())
        for seq, (one, kind) in enumerate(zip(opening, (GENESIS, MEMBRANE), strict=True)):
            place = (one.header.author, one.header.seq, one.header.kind)
            if place != (said.agent, seq, kind) or one.payload is None or not verify_signature(one):
                return f"the {kind} shown is not that of the agent who is revoked"
            check_payload(one.header, one.payload)
        fault = opening_fault(*opening, context)
        check_recovery(said, opening[0])
    except ChainError as error:
        return str(error)
    if fault is not None:
        return fault
    return None if said.network == context.network else "the revocation is for another network"


AGENT_HEADER_RULES: tuple[Rule, ...] = (Rule("agent-size", agent_size),)

AGENT_RULES: tuple[Rule, ...] = (
    Rule("rotation", rotation, needs_payload=True),
    Rule("continuation", continuation, needs_payload=True),
    Rule("revocation", revocation, needs_payload=True),
)
