"""Auditing a round: everything that its members signed is computed again, from the records and the blobs.

Anybody can do it, a member or not, then or later, as long as the blobs can still be had. What cannot be
computed is said so: whether a blob could be had at the time, and what members had not seen yet when they
signed. The audit does not ask what else might have counted; it asks whether what was signed is true.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from chain.cid import Cid
from chain.identity import AgentId
from chain.learning import Reveal
from chain.learning_outcome import GroupOutcome, Outcome
from federated.faults import DOUBLE, EXCLUDED, LATE, UNAVAILABLE, WITHHELD
from federated.grouping import Groups
from federated.ledger import Ledger, Step, Tip, group_of
from federated.proposal import Verdict, eligible_commits, reveal_fault
from federated.views import AuditView, Contributor

AverageOf = Callable[[Cid, tuple[tuple[Cid, int], ...], bool], Awaitable[Cid | None]]
"""The CID of what the task's strategy makes of these (blob, examples), beginning with this model; None when a
blob is missing. True: they are the models of groups.
"""
VerdictOf = Callable[[Reveal], Awaitable[Verdict]]
NOT_THE_MODEL = "the model is not the average of the updates"


@dataclass(frozen=True, slots=True)
class _Part:
    """What the members who exchanged updates did, the roster or a group of it; `parts` are what counted."""

    contributors: tuple[Contributor, ...]
    refused: Mapping[AgentId, str]
    parts: tuple[tuple[Cid, int], ...]
    problem: str | None


async def audit_round(
    ledger: Ledger,
    step: Step,
    verdict_of: VerdictOf,
    average_of: AverageOf,
    excluded: Collection[AgentId] = frozenset(),
) -> AuditView:
    """Compute a finished round again; costs a look at every update and one averaging, and one for each group.

    `excluded` are the agents that the network does not hear now: who is said to have been left out as such
    is one of them, unless it was forgiven since. Who contributed before that did so for good.
    """
    outcome, before = step.outcome, step.before
    groups = ledger.groups_of(before)
    audited: list[_Part] = []
    models: list[tuple[Cid, int]] = []
    problem: str | None = None
    if len(groups) == 1:
        audited.append(await _audit_part(ledger, before, groups[0], outcome, verdict_of, excluded))
        models = list(audited[0].parts)
    else:
        named = [ledger.groups[cid].outcome for cid in outcome.reveals if cid in ledger.groups]
        problem = _groups_problem(ledger, groups, outcome, named, excluded)
        for said in named:
            group = group_of(ledger.terms, groups, said) or ()
            audited.append(await _audit_group(ledger, before, group, said, verdict_of, average_of, excluded))
            if said.examples:
                models.append((said.parameters, said.examples))
    refused = {agent: reason for part in audited for agent, reason in part.refused.items()}
    refused |= dict(outcome.refused)
    contributors = tuple(sorted((one for part in audited for one in part.contributors), key=_agent))
    problem = problem or next((part.problem for part in audited if part.problem), None)
    problem = problem or _seats_problem(step, {one.agent for one in contributors})
    if problem is None:
        average = before.parameters
        if models:
            found = await average_of(before.parameters, tuple(models), len(groups) > 1)
            problem = "an update is not to be had any more" if found is None else None
            average = found or average
        if problem is None and average != outcome.parameters:
            problem = NOT_THE_MODEL
    return AuditView(outcome.round, step.record, contributors, tuple(sorted(refused.items())), problem)


def _groups_problem(
    ledger: Ledger,
    groups: Groups,
    outcome: Outcome,
    named: Sequence[GroupOutcome],
    excluded: Collection[AgentId],
) -> str | None:
    """What does not fit between a result and the outcomes of groups that it names."""
    if len(named) < len(outcome.reveals):
        return f"{len(outcome.reveals) - len(named)} of its groups' outcomes are not to be had"
    if len({group_of(ledger.terms, groups, one) for one in named}) < len(named):
        return "it names two outcomes of one group"
    by_groups = {agent: reason for one in named for agent, reason in one.refused}
    for agent, reason in outcome.refused:
        if by_groups.get(agent) != reason and (reason != EXCLUDED or agent not in excluded):
            return f"{agent.hex()[:16]} was refused for {reason!r}, which its group does not say"
    kept_back = (set(by_groups) & set(outcome.members)) - {agent for agent, _ in outcome.refused}
    return f"its groups refused {len(kept_back)} whom it does not name" if kept_back else None


async def _audit_group(
    ledger: Ledger,
    before: Tip,
    group: tuple[AgentId, ...],
    said: GroupOutcome,
    verdict_of: VerdictOf,
    average_of: AverageOf,
    excluded: Collection[AgentId],
) -> _Part:
    part = await _audit_part(ledger, before, group, said, verdict_of, excluded)
    problem = part.problem
    if problem is None and said.contributors != tuple(one.agent for one in part.contributors):
        problem = "a group names others as its contributors than the evidence shows"
    if problem is None and said.examples != sum(one.examples for one in part.contributors):
        problem = "a group claims another number of examples than its members"
    if problem is None:
        base = before.parameters
        found = await average_of(base, part.parts, False) if part.parts else base
        if found is None:
            problem = "an update is not to be had any more"
        elif found != said.parameters:
            problem = "the model of a group is not the average of its updates"
    return replace(part, problem=problem)


async def _audit_part(
    ledger: Ledger,
    before: Tip,
    agents: tuple[AgentId, ...],
    outcome: Outcome | GroupOutcome,
    verdict_of: VerdictOf,
    excluded: Collection[AgentId],
) -> _Part:
    """Everything about those who exchanged updates except what model they lead to."""
    shown: dict[AgentId, list[Cid]] = {}
    missing = others = 0
    for cid in outcome.reveals:
        if cid in ledger.reveals:
            others += ledger.reveals[cid][1].previous != before.digest
            shown.setdefault(ledger.reveals[cid][0], []).append(cid)
        else:
            missing += 1
    refused = dict(outcome.refused)
    if missing:
        return _Part((), refused, (), f"{missing} of its reveals are not to be had")
    if others:
        return _Part((), refused, (), f"{others} of its reveals are of another round")
    verdicts = {cid: await verdict_of(ledger.reveals[cid][1]) for cids in shown.values() for cid in cids[:1]}
    faults = _faults(ledger, before, agents, shown, verdicts)
    counted = sorted(
        (agent, ledger.reveals[cids[0]][1]) for agent, cids in shown.items() if agent not in refused
    )
    return _Part(
        tuple(Contributor(agent, one.examples, one.metrics, one.size) for agent, one in counted),
        refused,
        tuple((one.blob, one.examples) for _, one in counted),
        _problem(ledger, before, agents, outcome, shown, faults, excluded),
    )


def _faults(
    ledger: Ledger,
    before: Tip,
    agents: tuple[AgentId, ...],
    shown: Mapping[AgentId, list[Cid]],
    verdicts: Mapping[Cid, Verdict],
) -> dict[AgentId, Verdict]:
    """What is wrong with each member's update, as far as the evidence says."""
    faults: dict[AgentId, Verdict] = {}
    single: dict[AgentId, Reveal] = {}
    for agent in agents:
        cids = shown.get(agent, [])
        if len(cids) > 1:
            faults[agent] = DOUBLE
        elif cids:
            reason = reveal_fault(ledger, agent, cids[0], verdicts)
            if reason is not None:
                faults[agent] = reason
            if reason is None or reason == UNAVAILABLE:
                single[agent] = ledger.reveals[cids[0]][1]
    eligible = eligible_commits(list(single.values()))
    for agent, reveal in single.items():
        if agent not in faults and reveal.commit not in eligible:
            faults[agent] = LATE
    for agent in agents:
        if agent not in shown and not eligible.isdisjoint(ledger.commits_of(before, agent)):
            faults[agent] = WITHHELD
    return faults


def _problem(
    ledger: Ledger,
    before: Tip,
    agents: tuple[AgentId, ...],
    outcome: Outcome | GroupOutcome,
    shown: Mapping[AgentId, list[Cid]],
    faults: Mapping[AgentId, Verdict],
    excluded: Collection[AgentId],
) -> str | None:
    refused = dict(outcome.refused)
    for agent, reason in refused.items():
        if reason in (UNAVAILABLE, LATE):
            continue  # what could be had, and who counted for whom, depends on what was seen then
        if reason == EXCLUDED:
            if agent in excluded:
                continue
            return f"{agent.hex()[:16]} was left out as excluded, and nothing known now excludes it"
        said = (ledger.commits_of(before, agent), ledger.reveals_of(before, agent))
        if reason == DOUBLE and max(map(len, said)) > 1:
            continue
        if faults.get(agent) != reason:
            return f"{agent.hex()[:16]} was refused for {reason!r}, which the evidence does not show"
    fewer = len(outcome.members) < len(agents)
    for agent in shown:
        fault = faults.get(agent)
        if fault == LATE and fewer:
            continue  # what those saw who could not sign is not in the evidence
        if agent not in refused and fault == UNAVAILABLE:
            return f"the update of {agent.hex()[:16]} is not to be had any more"
        if agent not in refused and fault is not None:
            return f"the update of {agent.hex()[:16]} counted although it has the fault {str(fault)!r}"
    return None


def _seats_problem(step: Step, contributed: Collection[AgentId]) -> str | None:
    for agent, join in step.outcome.roster:
        if dict(step.before.roster).get(agent) == join and agent not in contributed:
            return f"{agent.hex()[:16]} kept its seat without contributing"
    return None


def _agent(one: Contributor) -> AgentId:
    return one.agent
