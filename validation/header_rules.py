"""Rules about a header alone: version, network, signature, epoch, kind, and its place in its chain."""

from __future__ import annotations

from chain.kinds import ENDS, KINDS_BY_RULE_VERSION, OPENING, SUBJECT_OPERATIONS
from chain.record import VERSION, Record, verify_signature
from validation.context import Context
from validation.rule import Finding, Rule
from validation.verdict import Pending, unknown_epochs

EPOCHS_IN_ORDER = 3
"""From this rule version on a chain's epochs have to be in order."""
COUNTED_BY_CLOCK = 3
"""From this rule version on no lamport is above its record's clock."""


def version(record: Record, _context: Context) -> Finding:
    """The header is of the version that this rule table is for."""
    found = record.header.version
    return None if found == VERSION else f"header version is {found}, expected {VERSION}"


def network(record: Record, context: Context) -> Finding:
    """The record belongs to this network."""
    return None if record.header.network == context.network else "record belongs to another network"


def payload_size(record: Record, context: Context) -> Finding:
    """The announced payload is within the network's limit; its hash is checked when it is there."""
    size, limit = record.header.payload_size, context.manifest.limits.payload
    return None if size <= limit else f"payload has {size} bytes, this network's limit is {limit}"


def signature(record: Record, _context: Context) -> Finding:
    """The author signed the header."""
    return None if verify_signature(record) else "the signature is not the author's"


def epoch(record: Record, context: Context) -> Finding:
    """The epoch and its rule version are known; else this node cannot judge."""
    rules = context.rules_of(record.header.epoch)
    if rules is None or rules not in KINDS_BY_RULE_VERSION:
        return unknown_epochs(record.header.epoch)
    return None


def kind(record: Record, context: Context) -> Finding:
    """The kind exists in the rule version of the record's epoch."""
    rules = context.rules_of(record.header.epoch)
    if rules is None or record.header.kind in KINDS_BY_RULE_VERSION[rules]:
        return None
    return f"kind {record.header.kind!r} does not exist in rule version {rules}"


def genesis(record: Record, _context: Context) -> Finding:
    """The record without a predecessor is the one of seq 0, and its clock starts at 0."""
    header = record.header
    if (header.prev is None) != (header.seq == 0):
        return f"seq is {header.seq}, and prev is {'absent' if header.prev is None else 'given'}"
    if header.seq == 0 and header.lamport != 0:
        return f"lamport of seq 0 is {header.lamport}, expected 0"
    return None


def lamport_clock(record: Record, context: Context) -> Finding:
    """Lamport counts records, and nobody writes one a microsecond: it is not above the clock.

    A record can name an invented predecessor, and count on from there. Without this one such record would use
    up all numbers, and the chain of whoever builds on it, knowing no better, could never go on.
    """
    header, rules = record.header, context.rules_of(record.header.epoch)
    if rules is None or rules < COUNTED_BY_CLOCK or header.lamport <= header.hlc:
        return None
    return f"lamport is {header.lamport}, above the record's clock, {header.hlc}"


def opening_order(record: Record, _context: Context) -> Finding:
    """Seq 0, 1, 2 are genesis, membrane and profile, which stand nowhere else."""
    return _misplaced(record)


def subject_shape(record: Record, _context: Context) -> Finding:
    """Operations name a subject and their place among the author's on it; other kinds name neither."""
    header = record.header
    if header.kind not in SUBJECT_OPERATIONS:
        if (
            header.subject is None
            and header.subject_prev is None
            and header.subject_seq == 0
            and not header.deps
        ):
            return None
        return f"kind {header.kind!r} has no subject, subject_seq, subject_prev or deps"
    if header.subject is None:
        return f"kind {header.kind!r} names no subject"
    if (header.subject_prev is None) != (header.subject_seq == 0):
        return f"subject_seq is {header.subject_seq}, and subject_prev does not fit it"
    return None


def prev(record: Record, context: Context) -> Finding:
    """Prev is the author's record just before this one, in the same network and in its own right place."""
    header = record.header
    if header.prev is None:
        return None
    before = context.record(header.prev)
    if before is None:
        return Pending((header.prev,))
    if before.header.author != header.author:
        return "prev is by another author"
    if before.header.network != header.network:
        return "prev belongs to another network"
    if before.header.seq + 1 != header.seq:
        return f"seq is {header.seq}, but prev's is {before.header.seq}"
    misplaced = _misplaced(before)
    return None if misplaced is None else f"prev is misplaced: {misplaced}"


def clock(record: Record, context: Context) -> Finding:
    """The author's clock does not run backwards."""
    before = context.record(record.header.prev)
    if before is None or record.header.hlc >= before.header.hlc:
        return None
    return f"hlc {record.header.hlc} is before prev's {before.header.hlc}"


def closed(record: Record, context: Context) -> Finding:
    """Nothing follows a record that ends a chain."""
    before = context.record(record.header.prev)
    return f"prev is {before.header.kind}" if before is not None and before.header.kind in ENDS else None


def epoch_order(record: Record, context: Context) -> Finding:
    """An author does not go back to an earlier epoch: what is forgiven there must not be done again."""
    before = context.record(record.header.prev)
    rules = context.rules_of(record.header.epoch)
    if before is None or rules is None or rules < EPOCHS_IN_ORDER:
        return None
    then, now = context.number_of(before.header.epoch), context.number_of(record.header.epoch)
    if then is None:
        return unknown_epochs(before.header.epoch)
    return None if now is None or now >= then else f"epoch is number {now}, but prev's is number {then}"


def lamport(record: Record, context: Context) -> Finding:
    """Lamport is 1 + the greatest of prev's and deps'."""
    header = record.header
    if header.prev is None:
        return None
    causes = [context.record(cid) for cid in (header.prev, *header.deps)]
    clocks = [cause.header.lamport for cause in causes if cause is not None]
    if len(clocks) < len(causes):
        return None
    expected = 1 + max(clocks)
    return None if header.lamport == expected else f"lamport is {header.lamport}, expected {expected}"


def _misplaced(record: Record) -> str | None:
    seq, found = record.header.seq, record.header.kind
    if seq < len(OPENING):
        return None if found == OPENING[seq] else f"kind of seq {seq} is {found!r}, expected {OPENING[seq]!r}"
    return f"kind {found!r} stands only at the start of a chain" if found in OPENING else None


HEADER_RULES: tuple[Rule, ...] = (
    Rule("version", version),
    Rule("network", network),
    Rule("payload-size", payload_size),
    Rule("signature", signature),
    Rule("epoch", epoch, gate=True),
    Rule("kind", kind),
    Rule("genesis", genesis),
    Rule("lamport-clock", lamport_clock),
    Rule("opening-order", opening_order),
    Rule("subject-shape", subject_shape),
    Rule("prev", prev, needs_links=True),
    Rule("clock", clock, needs_links=True),
    Rule("closed", closed, needs_links=True),
    Rule("epoch-order", epoch_order, needs_links=True, gate=True),
    Rule("lamport", lamport, needs_links=True),
)
"""Cheap rules first; the signature before anything that has to be looked up. What waits for an epoch comes
before what it may decide: else who knows it would find another rule broken first than who does not.
"""
