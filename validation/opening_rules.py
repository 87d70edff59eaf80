"""Rules about the start of a chain: that its author belongs to this network and paid to join.

Genesis names the network and a recovery key, the membrane record carries what lets its author in (work or an
invitation), the profile says who this is. Every later record of the author is judged with the first two at
hand.
"""

from __future__ import annotations

from typing import Any

from chain.errors import ChainError
from chain.identity import AGENT_ID_SIZE
from chain.kinds import CLOSE, GENESIS, MEMBRANE, PROFILE
from chain.membrane import Membrane
from chain.record import Record, check_payload, verify_signature
from chain.text import check_text
from validation.context import Context
from validation.rule import Finding, Rule
from validation.verdict import Pending, unknown_epochs

MAX_NAME = 100
"""Bytes of UTF-8 of an agent's name."""
MAX_SOFTWARE = 100
"""Bytes of UTF-8 of the name and version of an agent's software."""


def opening(record: Record, context: Context) -> Finding:
    """The author's genesis and membrane records, when they come before this one, hold.

    An opening that its author did not sign says nothing about the author, so it counts as missing.
    """
    header = record.header
    if header.seq < 2 or header.author in context.admitted:
        return None
    wanted = Pending(opening_of=header.author)
    if context.opening is None:
        return wanted
    for seq, (found, expected) in enumerate(zip(context.opening, (GENESIS, MEMBRANE), strict=True)):
        place = (found.header.author, found.header.seq, found.header.kind)
        if place != (header.author, seq, expected) or found.payload is None or not verify_signature(found):
            return wanted
        try:
            check_payload(found.header, found.payload)
        except ChainError:
            return wanted
    return opening_fault(*context.opening, context)


def opening_fault(genesis: Record, membrane: Record, context: Context) -> Finding:
    """Why an author's own first two records, signatures and payload hashes aside, do not admit the author.

    Pending when an epoch that the membrane record is judged by is not known here.
    """
    for name, found in (("genesis", genesis), ("membrane", membrane)):
        if found.header.network != context.network:
            return f"the author's {name} belongs to another network"
    if genesis.header.prev is not None or membrane.header.prev != genesis.cid:
        return "the author's membrane record does not follow the genesis"
    for found in (genesis, membrane):
        try:
            found.body()
        except ChainError as error:
            return f"the author's {found.header.kind} has an unreadable payload: {error}"
    fault = genesis_body(genesis, context) or membrane_body(membrane, context)
    return f"the author's opening does not hold: {fault}" if isinstance(fault, str) else fault


def genesis_body(record: Record, context: Context) -> str | None:
    """Genesis names this network, and a 32-byte recovery key or none."""
    body = _body(record, GENESIS)
    if body is None:
        return None
    if sorted(body) != ["network", "recovery"]:
        return f"{GENESIS} has exactly the fields network and recovery"
    if body["network"] != context.network:
        return f"{GENESIS} names another network"
    recovery = body["recovery"]
    if recovery is None or (type(recovery) is bytes and len(recovery) == AGENT_ID_SIZE):
        return None
    return f"recovery is not a {AGENT_ID_SIZE}-byte key"


def membrane_body(record: Record, context: Context) -> Finding:
    """The nonce pays the network's price for this key, or an invitation lets it in."""
    body = _body(record, MEMBRANE)
    if body is None:
        return None
    terms = context.manifest
    membrane = Membrane(context.network, terms.founder, terms.join_bits, terms.by_invitation)
    try:
        passage = membrane.open_body(record.header.author, body)
    except ChainError as error:
        return str(error)
    if passage.until is None:
        return None
    number = context.number_of(record.header.epoch)
    if number is None:
        return unknown_epochs(record.header.epoch)
    if number <= passage.until:
        return None
    return f"the inviter's grant ended with epoch {passage.until}, and this chain begins in epoch {number}"


def profile_body(record: Record, _context: Context) -> str | None:
    """The profile holds a name and the software, both short."""
    body = _body(record, PROFILE)
    if body is None:
        return None
    if sorted(body) != ["name", "software"]:
        return f"{PROFILE} has exactly the fields name and software"
    try:
        check_text("name", body["name"], MAX_NAME)
        check_text("software", body["software"], MAX_SOFTWARE)
    except ChainError as error:
        return str(error)
    return None


def close_body(record: Record, _context: Context) -> str | None:
    """Closing a chain says nothing more."""
    return f"{CLOSE} has an empty body" if _body(record, CLOSE) else None


def _body(record: Record, kind: str) -> dict[str, Any] | None:
    if record.header.kind != kind or record.payload is None:
        return None
    try:
        return record.body()
    except ChainError:
        return None  # the rule `body` names the fault


OPENING_RULE = Rule("opening", opening, needs_links=True)

OPENING_BODY_RULES: tuple[Rule, ...] = (
    Rule("genesis-body", genesis_body, needs_payload=True),
    Rule("membrane-body", membrane_body, needs_payload=True),
    Rule("profile-body", profile_body, needs_payload=True),
    Rule("close-body", close_body, needs_payload=True),
)
