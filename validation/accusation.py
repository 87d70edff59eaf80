"""Accusing: the warrant that can be made of what a node has seen, or none.

The accuser puts into the proof what its judges will need and nothing else, judges it as they will, and keeps
quiet when it would not convince them: a false warrant is an offence of its author.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from chain.errors import ChainError
from chain.kinds import FORK_WARRANT, INVALID_WARRANT
from chain.record import SALT_SIZE, Record, encode_payload
from chain.source_chain import Draft
from chain.warrant import MAX_NAMED, MAX_WARRANT, fork_body, invalid_body, proof_from_body
from validation.context import Context
from validation.named import named_by
from validation.rules import RULES, judge
from validation.verdict import Invalid
from validation.warrant_rules import PROVABLE, bare, unproven

_BY_NAME = {rule.name: rule for rule in RULES}


def accuse_fork(opening: tuple[Record, Record], one: Record, other: Record, context: Context) -> Draft | None:
    """The draft of a warrant that `one` and `other` fork their author's chain; None if that is not proven."""
    return _draft(FORK_WARRANT, fork_body(opening, one, other), context)


def accuse_invalid(opening: tuple[Record, Record], record: Record, context: Context) -> Draft | None:
    """The draft of a warrant that `record` breaks a rule; None if it does not, or cannot be shown to.

    `context` is what the record is judged by, with the records that it names.
    """
    brought = [context.named[cid] for cid in named_by(record) if cid in context.named]
    alone = replace(context, embed=None, opening=opening, named={one.cid: one for one in brought})
    verdict = judge(record, alone)
    if not isinstance(verdict, Invalid) or verdict.rule not in PROVABLE or len(brought) > MAX_NAMED:
        return None
    rule = _BY_NAME[verdict.rule]
    if not rule.needs_payload:
        record = record.without_payload()
    headers = [one.without_payload() for one in brought] if rule.needs_links else []
    return _draft(INVALID_WARRANT, invalid_body(opening, record, rule.name, headers), context)


def _draft(kind: str, body: dict[str, Any], context: Context) -> Draft | None:
    most = min(MAX_WARRANT, context.manifest.limits.payload)
    try:
        size = len(encode_payload(bytes(SALT_SIZE), body))
        proof = proof_from_body(kind, body)
    except ChainError:
        return None
    if size > most or unproven(proof, bare(context), judge) is not None:
        return None
    return Draft(kind, body)
