"""Rules about learning records: a task's terms, who may say what about it, and that a result is signed.

Each judges by the record's own bytes and the headers that it names. What follows from several payloads
together (that a reveal keeps its commit, that a result continues the chain of results) is for the fold in
`federated.ledger`, which every member computes alike.
"""

from __future__ import annotations

from chain.cid import Cid
from chain.errors import ChainError
from chain.kinds import COMMIT, JOIN, LEARNING_OPERATIONS, START, TASK, TOPOLOGIES_FROM
from chain.learning import Reveal, Start, most_agents
from chain.learning_outcome import GroupResult, Result, quorum
from chain.learning_task import MAX_MEMBERS, task_from_body
from chain.record import Record
from chain.server_app import Call
from validation.context import Context
from validation.named import learning_of
from validation.rule import Finding, Rule
from validation.subject_rules import forged
from validation.verdict import Pending


def task_deps(record: Record, _context: Context) -> Finding:
    """An operation on a task has seen the task, and cites nothing else."""
    header = record.header
    if header.kind not in LEARNING_OPERATIONS or header.deps == (header.subject,):
        return None
    return f"deps of {header.kind!r} are the task alone"


def task_start(record: Record, context: Context) -> Finding:
    """Only the agent who published a task starts it."""
    task = context.record(record.header.subject)
    if record.header.kind != START or task is None or task.header.author == record.header.author:
        return None
    return "only the author of a task can start it"


def task_body(record: Record, context: Context) -> Finding:
    """A task's terms have the shape and keep the limits that every member can meet, by its epoch's rules."""
    if record.header.kind != TASK or record.payload is None:
        return None
    try:
        task = task_from_body(record.body())
    except ChainError as error:
        return str(error)
    rules = context.rules_of(record.header.epoch)
    newer = None if rules is None else task.newer(rules)
    return None if newer is None else f"rule version {rules} knows no {newer[0]}"


def learning_body(record: Record, context: Context) -> Finding:
    """The body of an operation on a task has the shape and keeps the limits of its kind."""
    if record.header.kind not in LEARNING_OPERATIONS or record.payload is None:
        return None
    try:
        said = learning_of(record)
    except ChainError as error:
        return str(error)
    rules = context.rules_of(record.header.epoch)
    if rules is None or rules >= TOPOLOGIES_FROM or said is None:
        return None
    if isinstance(said, Call) and said.wait_ms is not None:
        return f"rule version {rules} knows no calls with a time of their own"
    if most_agents(said) <= MAX_MEMBERS:
        return None
    return f"rule version {rules} knows no more than {MAX_MEMBERS} members"


def reveal_commit(record: Record, context: Context) -> Finding:
    """A reveal keeps a promise that its author made for this task."""
    said = _said(record)
    if not isinstance(said, Reveal):
        return None
    commit = context.record(said.commit)
    if commit is None:
        return Pending((said.commit,))
    if (commit.header.kind, commit.header.author) != (COMMIT, record.header.author):
        return f"commit {said.commit.hex()} is not one of the author's commits"
    if commit.header.subject != record.header.subject:
        return f"commit {said.commit.hex()} is about another task"
    return None


def seats(record: Record, context: Context) -> Finding:
    """Nobody is put in a roster without having asked for it: each seat names its agent's join."""
    said = _said(record)
    roster = (
        said.roster if isinstance(said, Start) else said.outcome.roster if isinstance(said, Result) else ()
    )
    missing: list[Cid] = []
    for agent, cid in roster:
        join = context.record(cid)
        if join is None:
            missing.append(cid)
            continue
        found = (join.header.kind, join.header.author, join.header.subject)
        if found != (JOIN, agent, record.header.subject):
            return f"seat {agent.hex()[:16]} names {cid.hex()}, which is not this agent's join of the task"
        finding = forged(record, cid, context)
        if finding is not None:
            return finding
    return Pending(tuple(sorted(missing))) if missing else None


def result_members(record: Record, _context: Context) -> Finding:
    """A result is published by one of its members, and refuses and is signed by none but members."""
    said = _said(record)
    if not isinstance(said, Result | GroupResult):
        return None
    members = set(said.outcome.members)
    if record.header.author not in members:
        return "a result is published by one of its members"
    for name, pairs in (("refused", said.outcome.refused), ("signatures", said.signatures)):
        if not members.issuperset(agent for agent, _ in pairs):
            return f"{name} names an agent that is no member"
    return None


def result_quorum(record: Record, _context: Context) -> Finding:
    """More than two thirds of the members signed the result."""
    said = _said(record)
    if not isinstance(said, Result | GroupResult) or record.header.subject is None:
        return None
    needed = quorum(len(said.outcome.members))
    if len(said.signatures) < needed:
        return f"result has {len(said.signatures)} signatures, {needed} are needed"
    for agent, signature in said.signatures:
        if not said.outcome.signed_by(record.header.subject, agent, signature):
            return f"the signature of {agent.hex()[:16]} on the result does not verify"
    return None


def _said(record: Record) -> object:
    try:
        return learning_of(record)
    except ChainError:
        return None  # `learning-body` says what is wrong with it


LEARNING_HEADER_RULES: tuple[Rule, ...] = (
    Rule("task-deps", task_deps),
    Rule("task-start", task_start, needs_links=True),
)

LEARNING_RULES: tuple[Rule, ...] = (
    Rule("task-body", task_body, needs_payload=True),
    Rule("learning-body", learning_body, needs_payload=True),
    Rule("reveal-commit", reveal_commit, needs_payload=True, needs_links=True),
    Rule("seats", seats, needs_payload=True, needs_links=True),
    Rule("result-members", result_members, needs_payload=True),
    Rule("result-quorum", result_quorum, needs_payload=True),
)
"""Signatures last: they cost the most."""
