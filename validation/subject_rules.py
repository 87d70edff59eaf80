"""Rules about what an operation says came before it: its subject, its line on it, and its deps."""

from __future__ import annotations

from chain.kinds import (
    CREATE,
    ENTRY_OPERATIONS,
    HEADS,
    LEARNING_OPERATIONS,
    PURGE,
    RETRACT,
    SEALED,
    SUBJECT_OPERATIONS,
    TASK,
)
from chain.record import Record, verify_signature
from validation.context import Context
from validation.rule import Finding, Rule
from validation.verdict import Pending

MAX_OPERATIONS = 1024
"""Operations that one agent makes on one entry; a retract may still follow."""
OPERATIONS_COUNT_FROM = 3
"""The rule version that limits them."""


def subject(record: Record, context: Context) -> Finding:
    """The subject is a create (or a task) of this network, from no later than the operation.

    A purge may be about a sealed record, which is an entry to its author alone.
    """
    header = record.header
    if header.subject is None or header.kind not in SUBJECT_OPERATIONS:
        return None
    create = context.record(header.subject)
    if create is None:
        return Pending((header.subject,))
    expected = TASK if header.kind in LEARNING_OPERATIONS else CREATE
    if create.header.kind != expected and (header.kind, create.header.kind) != (PURGE, SEALED):
        return f"subject is a record of kind {create.header.kind!r}, expected {expected!r}"
    return _not_before("subject", record, create)


def subject_line(record: Record, context: Context) -> Finding:
    """The author's operations on a subject form a line; a create is its author's operation 0 on itself."""
    header = record.header
    if header.kind not in SUBJECT_OPERATIONS:
        return None
    if header.subject_prev is None:
        create = context.record(header.subject)
        if create is not None and create.header.author == header.author:
            return "the author created the subject, so the create comes before and subject_seq starts at 1"
        return None
    before = context.record(header.subject_prev)
    if before is None:
        return Pending((header.subject_prev,))
    if before.header.author != header.author:
        return "subject_prev is by another author"
    if before.subject != header.subject:
        return "subject_prev is about another subject"
    if before.header.subject_seq + 1 != header.subject_seq:
        return f"subject_seq is {header.subject_seq}, but subject_prev's is {before.header.subject_seq}"
    if before.header.seq >= header.seq:
        return f"seq is {header.seq}, but subject_prev's is {before.header.seq}"
    return _not_before("subject_prev", record, before)


def operations(record: Record, context: Context) -> str | None:
    """An agent's operations on an entry are at most `MAX_OPERATIONS`, so that nobody can bury the others'."""
    header = record.header
    rules = context.rules_of(header.epoch)
    limited = rules is not None and rules >= OPERATIONS_COUNT_FROM
    if not limited or header.kind not in ENTRY_OPERATIONS or header.kind == RETRACT:
        return None
    if header.subject_seq <= MAX_OPERATIONS:
        return None
    return f"subject_seq is {header.subject_seq}: an agent makes {MAX_OPERATIONS} operations on an entry"


def deps(record: Record, context: Context) -> Finding:
    """Deps are heads of the same subject, in the causal past."""
    header = record.header
    missing = tuple(cid for cid in header.deps if context.record(cid) is None)
    for dep in (context.record(cid) for cid in header.deps):
        if dep is None:
            continue
        if dep.subject != header.subject:
            return f"dep {dep.cid.hex()} is about another subject"
        if dep.header.kind not in HEADS:
            return f"dep {dep.cid.hex()} is of kind {dep.header.kind!r}, which is no head"
        late = _not_before(f"dep {dep.cid.hex()}", record, dep)
        if late is not None:
            return late
    return Pending(missing) if missing else None


def cited_signatures(record: Record, context: Context) -> Finding:
    """Records of others that the header names are signed by their authors."""
    header = record.header
    for cid in (header.subject, *header.deps):
        finding = forged(record, cid, context)
        if finding is not None:
            return finding
    return None


def retract_by_creator(record: Record, context: Context) -> Finding:
    """Only the agent who created an entry can retract it."""
    create = context.record(record.header.subject)
    if record.header.kind != RETRACT or create is None or create.header.author == record.header.author:
        return None
    return "only the creator of an entry can retract it"


def forged(record: Record, cid: bytes | None, context: Context) -> str | None:
    """Why a named record is not its author's; the author's own records are vouched for by naming them."""
    cited = context.record(cid)
    if cited is None or cited.header.author == record.header.author or cited.cid in context.verified:
        return None
    return None if verify_signature(cited) else f"named record {cited.cid.hex()} is not signed by its author"


def _not_before(name: str, record: Record, cause: Record) -> str | None:
    if cause.header.network != record.header.network:
        return f"{name} belongs to another network"
    if cause.header.lamport >= record.header.lamport:
        return f"lamport is {record.header.lamport}, but that of {name} is {cause.header.lamport}"
    if cause.header.hlc > record.header.hlc:
        return f"hlc is {record.header.hlc}, but that of {name} is {cause.header.hlc}"
    return None


SUBJECT_RULES: tuple[Rule, ...] = (
    Rule("subject", subject, needs_links=True),
    Rule("subject-line", subject_line, needs_links=True),
    Rule("operations", operations),
    Rule("deps", deps, needs_links=True),
    Rule("cited-signatures", cited_signatures, needs_links=True),
    Rule("retract-by-creator", retract_by_creator, needs_links=True),
)
