"""Rules about a payload: that it is the one named, and that what it says is within the rules of its kind."""

from __future__ import annotations

from chain.behalf import content_statement, vote_statement
from chain.cid import Cid
from chain.content import SINCE_5, Content
from chain.epoch import epoch_from_body
from chain.errors import ChainError
from chain.identity import verify
from chain.kinds import (
    BOXES,
    CARRIES_CONTENT,
    CREATE,
    DESCRIBE,
    ENTRY_OPERATIONS,
    EPOCH,
    FIELDS_FROM,
    HEADS,
    LINK,
    PURGEABLE,
    SIGNED_AT_FROM,
    TAG,
    VOTE,
)
from chain.private import check_box
from chain.record import Record, check_payload
from chain.vector import CODE_LIMIT, codes_from_bytes, score_ppm, squared_norm
from crdt.errors import CrdtError
from crdt.operations import Delete, Describe, Purge, Unlink, Untag, Vote, said_by
from validation.context import Context
from validation.named import operation_of, targets
from validation.rule import Finding, Rule
from validation.subject_rules import forged
from validation.verdict import Pending

MIN_SQUARED_NORM = CODE_LIMIT**2
"""A quantised vector reaches ±127 in one component at least; shorter codes waste the int8 range."""
FIXED_ATLAS = 3
"""Up to this rule version nodes could not move postings to where another atlas puts them."""
EXPELS_FROM = 4
"""The rule version from which on an epoch may put agents out, and let them in again."""
MAX_SIGNED_AHEAD_US = 60_000_000
"""How far, in µs, a signed vote's time may be ahead of the clock of the record that carries it: as far as
a record's ahead of its judge's (`validation.rules.MAX_AHEAD_US`)."""
BINDING_PPM = 980_000
"""Cosine that a vector must reach with the re-embedding of its text."""


def payload(record: Record, _context: Context) -> Finding:
    """The payload has the size and hash in the header."""
    if record.payload is None:
        return None
    try:
        check_payload(record.header, record.payload)
    except ChainError as error:
        return str(error)
    return None


def body(record: Record, _context: Context) -> Finding:
    """The payload is a salt and a map, canonically encoded."""
    if record.payload is None:
        return None
    try:
        record.body()
    except ChainError as error:
        return str(error)
    return None


def epoch_body(record: Record, context: Context) -> Finding:
    """A new epoch is signed by enough stewards and follows the epoch that judges it."""
    if record.header.kind != EPOCH or record.payload is None:
        return None
    try:
        epoch = epoch_from_body(record.body(), context.manifest)
    except ChainError as error:
        return str(error)
    if epoch.previous != record.header.epoch:
        return "an epoch is published in the epoch before it, which its header names"
    rules = context.rules_of(epoch.previous)
    if rules is not None and rules < EXPELS_FROM and (epoch.expelled or epoch.readmitted):
        return f"rule version {rules} puts nobody out of a network"
    if rules is not None and rules <= FIXED_ATLAS and epoch.atlas != context.atlas_of(epoch.previous):
        return f"rule version {rules} knows no way from one atlas to another: an epoch keeps the atlas"
    number = context.number_of(epoch.previous)
    if number is not None and epoch.number != number + 1:
        return f"epoch number is {epoch.number}, expected {number + 1}"
    return None


def operation(record: Record, context: Context) -> Finding:
    """The body of an operation on an entry has the shape and keeps the limits of its kind."""
    kind = record.header.kind
    if record.payload is None or not (kind == CREATE or kind in ENTRY_OPERATIONS):
        return None
    try:
        said = said_by(record)
    except (ChainError, CrdtError) as error:
        return str(error)
    rules = context.rules_of(record.header.epoch)
    # A vote's time is no field of its shape before: who knew no rules beyond found this rule broken.
    return untimed(said, rules) if rules is not None and rules < SIGNED_AT_FROM else None


def fields(record: Record, context: Context) -> Finding:
    """What a content value or a vote says was known when the rules of its epoch were made."""
    if record.header.kind not in CARRIES_CONTENT | {VOTE} or record.payload is None:
        return None
    rules = context.rules_of(record.header.epoch)
    if rules is None or rules >= FIELDS_FROM:
        return None
    try:
        newer = min(SINCE_5 & record.body().keys(), default=None)
    except ChainError:
        return None  # `body` names the fault
    return None if newer is None else f"rule version {rules} knows no field {newer!r}"


def behalf(record: Record, _context: Context) -> Finding:
    """Who is said to have signed what an agent passes on has signed it."""
    return unsigned(_content(record) or operation_of(record), record.subject)


def signing_time(record: Record, context: Context) -> Finding:
    """A signed vote has its time from rule version 7 on, and is not of the future of the record around it."""
    said = operation_of(record)
    rules = context.rules_of(record.header.epoch)
    if not isinstance(said, Vote) or rules is None or rules < SIGNED_AT_FROM:
        return None
    fault = untimed(said, rules)
    if fault is None and said.behalf is not None and said.behalf.signed_ms is not None:
        ahead = said.behalf.signed_ms * 1000 - record.header.hlc
        if ahead > MAX_SIGNED_AHEAD_US:
            fault = f"what is said to have been signed is {ahead // 1_000_000} s ahead of its record"
    return fault


def untimed(said: object, rules: int) -> str | None:
    """Why a vote lacks the time of its signature, or has one that these rules know not; None for neither."""
    one = said.behalf if isinstance(said, Vote) else None
    if one is None or one.signature is None:
        return None
    if rules < SIGNED_AT_FROM:
        return None if one.signed_ms is None else f"rule version {rules} knows no field 'signed_ms'"
    return f"in rule version {rules} a signed vote has signed_ms" if one.signed_ms is None else None


def unsigned(said: object, entry: Cid) -> str | None:
    """Why the signature of the one on whose behalf a content or vote is said is not good; None for none."""
    one = said.behalf if isinstance(said, Content | Vote) else None
    if one is None or one.key is None or one.signature is None:
        return None
    if isinstance(said, Vote):
        statement = vote_statement(one.name, entry, said.value, said.confidence, said.reason, one.signed_ms)
    else:
        assert isinstance(said, Content)
        statement = content_statement(one.name, said.text)
    if verify(one.key, statement, one.signature):
        return None
    return f"what {one.name!r:.80} is said to have signed has another signature"


def limits(record: Record, context: Context) -> Finding:
    """A content value keeps the network's own limits, which may be below what every node can decode."""
    content = _content(record)
    return None if content is None else context.manifest.limits.fault(content)


def vector(record: Record, context: Context) -> Finding:
    """The codes have the space's dimension and a norm that quantisation gives."""
    content = _content(record)
    if content is None:
        return None
    try:
        norm = squared_norm(codes_from_bytes(content.codes, context.manifest.space.dim))
    except ChainError as error:
        return str(error)
    most = CODE_LIMIT**2 * context.manifest.space.dim
    if MIN_SQUARED_NORM <= norm <= most:
        return None
    return f"the vector's squared norm is {norm}, outside {MIN_SQUARED_NORM} … {most}"


def binding(record: Record, context: Context) -> Finding:
    """The vector is its text's: no spam under borrowed vectors."""
    content = _content(record)
    if content is None or context.embed is None:
        return None
    expected = context.embed(content.text)
    if expected is None:
        return "the text has no vector in the network's space"
    dim = context.manifest.space.dim
    score = score_ppm(codes_from_bytes(content.codes, dim), codes_from_bytes(expected, dim))
    return (
        None if score >= BINDING_PPM else f"the vector agrees with its text to {score} ppm, not {BINDING_PPM}"
    )


def operation_targets(record: Record, context: Context) -> Finding:
    """Edits overwrite contents, untags remove adds, deletes list deps, purges erase words; of one subject.

    Naming them by hash proves that they came before; a tag, which is no head, may have as high a lamport.
    """
    said = operation_of(record)
    kinds = _target_kinds(said)
    missing: list[Cid] = []
    for cid in targets(said):
        target = context.record(cid)
        if target is None:
            missing.append(cid)
            continue
        if target.subject != record.header.subject:
            return f"target {cid.hex()} is about another subject"
        if target.header.kind not in kinds:
            return f"{record.header.kind} cannot act on {cid.hex()}, of kind {target.header.kind!r}"
        finding = forged(record, cid, context)
        if finding is not None:
            return finding
    return Pending(tuple(missing)) if missing else None


def private_body(record: Record, _context: Context) -> Finding:
    """A private record is one box, of a size that its owner can have made; nobody else looks inside."""
    if record.header.kind not in BOXES or record.payload is None:
        return None
    try:
        check_box(record.body())
    except ChainError as error:
        return str(error)
    return None


def purge_own(record: Record, context: Context) -> Finding:
    """Nobody erases what another one said."""
    said = operation_of(record)
    if not isinstance(said, Purge):
        return None
    for cid in said.records:
        target = context.record(cid)
        if target is not None and target.header.author != record.header.author:
            return f"record {cid.hex()} is another author's"
    return None  # `targets` waits for what is missing


def delete_seen(record: Record, _context: Context) -> Finding:
    """A delete deletes what its header says it saw."""
    said = operation_of(record)
    if isinstance(said, Delete) and not set(said.seen) <= set(record.header.deps):
        return "seen lists a record that is not among the deps"
    return None


def _content(record: Record) -> Content | None:
    if record.payload is None or record.header.kind not in CARRIES_CONTENT:
        return None
    try:
        said = said_by(record)
    except (ChainError, CrdtError):
        return None  # `operation` names the fault
    return said if isinstance(said, Content) else None


def _target_kinds(said: object) -> frozenset[str]:
    if isinstance(said, Content):
        return CARRIES_CONTENT
    if isinstance(said, Untag):
        return CARRIES_CONTENT | {TAG}
    if isinstance(said, Unlink):
        return CARRIES_CONTENT | {LINK}
    if isinstance(said, Describe):
        return frozenset({CREATE, DESCRIBE})
    if isinstance(said, Purge):
        return PURGEABLE
    return HEADS


PAYLOAD_RULES: tuple[Rule, ...] = (
    Rule("payload", payload, needs_payload=True),
    Rule("body", body, needs_payload=True),
)

OPERATION_RULES: tuple[Rule, ...] = (
    Rule("epoch-body", epoch_body, needs_payload=True),
    Rule("operation", operation, needs_payload=True),
    Rule("fields", fields, needs_payload=True),
    Rule("limits", limits, needs_payload=True),
    Rule("private-body", private_body, needs_payload=True),
    Rule("vector", vector, needs_payload=True),
    Rule("delete-seen", delete_seen, needs_payload=True),
    Rule("purge-own", purge_own, needs_payload=True, needs_links=True),
    Rule("targets", operation_targets, needs_payload=True, needs_links=True),
    Rule("behalf", behalf, needs_payload=True),
    Rule("signing-time", signing_time, needs_payload=True),
    Rule("binding", binding, needs_payload=True),
)
"""The re-embedding last: it costs the most."""
