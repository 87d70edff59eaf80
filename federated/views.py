"""The nouns of the learning verbs: what people and the HTTP API see of a task. Frozen data, ids in binary."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from chain.cid import Cid
from chain.identity import AgentId
from chain.learning_task import Task
from federated.call_log import CallLog
from federated.faults import EXCLUDED
from federated.ledger import Ledger, Step
from federated.penalties import barred
from federated.sum_chain import named_by_links


@dataclass(frozen=True, slots=True)
class Contributor:
    """A member whose update counted in a round; metrics in ppm of their unit, `size` its bytes."""

    agent: AgentId
    examples: int
    metrics: Mapping[str, int]
    size: int


@dataclass(frozen=True, slots=True)
class RoundView:
    """A finished round. `known` is False while reveals of it have not reached this node."""

    round: int
    record: Cid
    parameters: Cid
    contributors: tuple[Contributor, ...]
    refused: tuple[tuple[AgentId, str], ...]
    absent: tuple[AgentId, ...]
    signers: tuple[AgentId, ...]
    roster: tuple[AgentId, ...]
    known: bool


@dataclass(frozen=True, slots=True)
class Barred:
    """An agent without a seat, the code that it was refused for last, and the last round that it sits out.

    None is for good; where the code is `EXCLUDED`, as long as the network does not hear it.
    """

    agent: AgentId
    reason: str
    until: int | None


UNREAD: Final = "unread"
"""The state of a listed task of which no more than its terms could be had in time."""


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as this node sees it now. `state`: open, running, finished, `UNREAD`. `deadline_s`: from now."""

    id: Cid
    author: AgentId
    terms: Task
    state: str
    round: int
    parameters: Cid
    joined: bool
    own: bool
    members: tuple[AgentId, ...]
    roster: tuple[AgentId, ...]
    history: tuple[RoundView, ...]
    phase: str | None = None
    deadline_s: float | None = None
    coordinator: AgentId | None = None
    """Who runs the ServerApp, in that mode."""
    failed: str | None = None
    """Why the run ended without a result."""
    barred: tuple[Barred, ...] = ()
    """Who may not take part now."""


@dataclass(frozen=True, slots=True)
class AuditView:
    """A round computed again from records and blobs; `problem` says what does not fit."""

    round: int
    result: Cid
    contributors: tuple[Contributor, ...]
    refused: tuple[tuple[AgentId, str], ...]
    problem: str | None
    agent: AgentId | None = None
    """Whose step it is, where each member has its own (`federated.gossip_audit`)."""


def task_view(
    ledger: Ledger,
    me: AgentId,
    phase: str | None = None,
    deadline_s: float | None = None,
    excluded: Collection[AgentId] = frozenset(),
) -> TaskView:
    """The view of a ledger; O(rounds)."""
    tip, terms = ledger.tip, ledger.terms
    state = "open" if tip is None else "finished" if ledger.finished else "running"
    standing = ledger.standings.get(me)
    return TaskView(
        id=ledger.cid,
        author=ledger.task.header.author,
        terms=terms,
        state=state,
        round=0 if tip is None else tip.round - ledger.finished,
        parameters=terms.parameters if tip is None else tip.parameters,
        joined=standing is not None and standing.joins,
        own=ledger.task.header.author == me,
        members=ledger.members(),
        roster=() if tip is None else tip.agents,
        history=tuple(round_view(ledger, step) for step in ledger.steps),
        phase=phase,
        deadline_s=deadline_s,
        barred=barred_from(ledger, excluded),
    )


def barred_from(ledger: Ledger, excluded: Collection[AgentId] = frozenset()) -> tuple[Barred, ...]:
    """Who may not take part in the round under way, ascending; `excluded`: whom the network does not hear."""
    tip = ledger.tip
    out = {} if tip is None else barred(tip.penalties, tip.round)
    found = {
        one.agent: Barred(one.agent, one.reason, None if one.for_good else one.until) for one in out.values()
    }
    found |= {agent: Barred(agent, EXCLUDED, None) for agent in excluded if agent in ledger.standings}
    return tuple(found[agent] for agent in sorted(found))


def run_view(log: CallLog, me: AgentId) -> TaskView:
    """The view of a ServerApp's run; its rounds are its calls."""
    standing = log.standings.get(me)
    ended = log.ended
    return TaskView(
        id=log.cid,
        author=log.task.header.author,
        terms=log.terms,
        state="finished" if ended is not None else "running" if log.steps else "open",
        round=len(log.steps),
        parameters=log.terms.parameters if ended is None or ended.end.result is None else ended.end.result,
        joined=standing is not None and standing.joins,
        own=log.task.header.author == me,
        members=log.members(),
        roster=log.steps[-1].call.nodes if log.steps else (),
        history=(),
        coordinator=log.coordinator,
        failed=None if ended is None else ended.end.failed,
    )


def round_view(ledger: Ledger, step: Step) -> RoundView:
    """One finished round."""
    outcome = step.outcome
    if ledger.terms.secure is not None:
        return _secure_view(ledger, step)
    reveals, missing = ledger.evidence(outcome)
    refused = {
        agent: reason
        for cid in outcome.reveals
        if cid in ledger.groups
        for agent, reason in ledger.groups[cid].outcome.refused
    } | dict(outcome.refused)
    contributors = []
    for cid in reveals:
        agent, reveal = ledger.reveals[cid]
        if agent not in refused:
            contributors.append(Contributor(agent, reveal.examples, reveal.metrics, reveal.size))
    known = not missing
    there = {one.agent for one in contributors} | refused.keys()
    return RoundView(
        round=outcome.round,
        record=step.record,
        parameters=outcome.parameters,
        contributors=tuple(sorted(contributors, key=lambda one: one.agent)),
        refused=tuple(sorted(refused.items())),
        absent=tuple(agent for agent in step.before.agents if agent not in there) if known else (),
        signers=step.signers,
        roster=step.before.agents,
        known=known,
    )


def _secure_view(ledger: Ledger, step: Step) -> RoundView:
    """One with secure sums: who contributed is known, and not what."""
    outcome, terms = step.outcome, ledger.terms
    size = 8 * (1 + sum(array.count for array in terms.arrays))
    counted = named_by_links(ledger, step.before, outcome)
    known = all(ledger.has(cid) for cid in outcome.reveals)
    there = {one.agent for one in counted} | dict(outcome.refused).keys()
    return RoundView(
        round=outcome.round,
        record=step.record,
        parameters=outcome.parameters,
        contributors=tuple(Contributor(one.agent, one.examples, one.metrics, size) for one in counted),
        refused=outcome.refused,
        absent=tuple(agent for agent in step.before.agents if agent not in there) if known else (),
        signers=step.signers,
        roster=step.before.agents,
        known=known,
    )
