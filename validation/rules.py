"""The ordered table of rules, and judging by it.

`judge` asks every rule in turn. The first broken one makes the record invalid, also when something else is
still missing: what is broken stays broken. If none is broken and something is missing, the record is pending
on all of it at once, so that one fetch suffices. A bad payload breaks its own record only: successors see the
header. A clock that runs ahead never invalidates, it parks (`parks`), because time passes and verdicts stay.
"""

from __future__ import annotations

from collections.abc import Iterable

from chain.cid import Cid
from chain.identity import AgentId
from chain.record import Record
from validation.agent_rules import AGENT_HEADER_RULES, AGENT_RULES
from validation.context import Context
from validation.header_rules import HEADER_RULES
from validation.learning_rules import LEARNING_HEADER_RULES, LEARNING_RULES
from validation.opening_rules import OPENING_BODY_RULES, OPENING_RULE
from validation.payload_rules import OPERATION_RULES, PAYLOAD_RULES
from validation.rule import Rule
from validation.subject_rules import SUBJECT_RULES
from validation.verdict import VALID, Invalid, Pending, Verdict
from validation.warrant_rules import WARRANT_HEADER_RULES, WARRANT_RULES, proof_rule

__all__ = ["MAX_AHEAD_US", "RULES", "Rule", "judge", "judge_header", "judge_link", "parks"]

MAX_AHEAD_US = 60_000_000
"""How far, in µs, a record's clock may be ahead of the judge's before the record is parked."""


def judge(record: Record, context: Context, *, links: bool = True) -> Verdict:
    """Judge a record; one without its payload is judged by its header alone.

    With `links` False only the record's own bytes are judged (and its epoch), as an asker does who leaves
    chain and causal order to the holders. Cost: one signature check, a few for records of others that it
    names, and the re-embedding if the context can; see `Context.verified` and `Context.admitted`.
    """
    return _apply(_HEADER_ONLY if record.payload is None else RULES, record, context, links)


def judge_header(record: Record, context: Context) -> Verdict:
    """Judge a record by its header, its links and its author's opening, whatever its payload says."""
    return _apply(_HEADER_ONLY, record, context, links=True)


def judge_link(record: Record, context: Context) -> Verdict:
    """Judge a signed header as a link of its chain, by its own bytes and the header before it alone.

    The signature was checked where the header was taken in. Some 10 µs.
    """
    return _apply(_LINK, record, context, links=True)


def parks(record: Record, now_us: int) -> bool:
    """Whether the record's clock is too far ahead of `now_us` to be acknowledged yet."""
    return record.header.hlc > now_us + MAX_AHEAD_US


def _apply(rules: Iterable[Rule], record: Record, context: Context, links: bool) -> Verdict:
    missing: set[Cid] = set()
    epochs: set[Cid] = set()
    opening_of: AgentId | None = None
    for rule in rules:
        if rule.needs_links and not links:
            continue
        finding = rule.check(record, context)
        if isinstance(finding, str):
            return Invalid(rule.name, finding)
        if finding is not None:
            missing.update(finding.missing)
            epochs.update(finding.epochs)
            opening_of = finding.opening_of or opening_of
            if rule.gate:
                break
    if missing or opening_of is not None:
        return Pending(tuple(sorted(missing)), opening_of, tuple(sorted(epochs)))
    return VALID


RULES: tuple[Rule, ...] = (
    *HEADER_RULES,
    *SUBJECT_RULES,
    *LEARNING_HEADER_RULES,
    *WARRANT_HEADER_RULES,
    *AGENT_HEADER_RULES,
    *PAYLOAD_RULES,
    OPENING_RULE,
    *OPENING_BODY_RULES,
    *OPERATION_RULES,
    *LEARNING_RULES,
    *WARRANT_RULES,
    *AGENT_RULES,
    proof_rule(judge),
)

_LINK = tuple(rule for rule in HEADER_RULES if rule.name != "signature")
_HEADER_ONLY = tuple(rule for rule in RULES if not rule.needs_payload)
