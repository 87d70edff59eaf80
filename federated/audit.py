"""Auditing a round: everything that its members signed is computed again, from the records and the blobs.

Anybody can do it, a member or not, then or later, as long as the blobs can still be had. What cannot be
computed is said so: whether a blob could be had at the time, and what members had not seen yet when they
signed. The audit does not ask what else might have counted; it asks whether what was signed is true.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping

from chain.cid import Cid
from chain.identity import AgentId
from chain.learning import Reveal
from federated.faults import DOUBLE, EXCLUDED, LATE, UNAVAILABLE, WITHHELD
from federated.ledger import Ledger, Step
from federated.proposal import Verdict, eligible_commits, reveal_fault
from federated.views import AuditView, Contributor

AverageOf = Callable[[Cid, tuple[tuple[Cid, int], ...]], Awaitable[Cid | None]]
"""The CID of what the task's strategy makes of these (blob, examples), beginning with this model; None when a
blob is missing.
"""


async def audit_round(
    ledger: Ledger,
    step: Step,
    verdict_of: Callable[[Reveal], Awaitable[Verdict]],
    average_of: AverageOf,
    excluded: Collection[AgentId] = frozenset(),
) -> AuditView:
    """Compute a finished round again; costs a look at every update and one averaging.

    `excluded` are the agents that the network does not hear now: who is said to have been left out as such
    is one of them, unless it was forgiven since. Who contributed before that did so for good.
    """
    outcome = step.outcome
    shown: dict[AgentId, list[Cid]] = {}
    missing = 0
    for cid in outcome.reveals:
        if cid in ledger.reveals:
            shown.setdefault(ledger.reveals[cid][0], []).append(cid)
        else:
            missing += 1
    contributors: list[Contributor] = []
    problem = f"{missing} of its reveals are not to be had" if missing else None
    if problem is None:
        verdicts = {
            cid: await verdict_of(ledger.reveals[cid][1]) for cids in shown.values() for cid in cids[:1]
        }
        faults = _faults(ledger, step, shown, verdicts)
        refused = dict(outcome.refused)
        parts: list[tuple[Cid, int]] = []
        for agent, cids in shown.items():
            if agent not in refused:
                reveal = ledger.reveals[cids[0]][1]
                parts.append((reveal.blob, reveal.examples))
                contributors.append(Contributor(agent, reveal.examples, reveal.metrics, reveal.size))
        problem = _problem(ledger, step, shown, faults, excluded)
        if problem is None:
            before = step.before.parameters
            average = await average_of(before, tuple(parts)) if parts else before
            if average is None:
                problem = "an update is not to be had any more"
            elif average != outcome.parameters:
                problem = "the model is not the average of the updates"
    return AuditView(
        outcome.round,
        step.record,
        tuple(sorted(contributors, key=lambda one: one.agent)),
        outcome.refused,
        problem,
    )


def _faults(
    ledger: Ledger, step: Step, shown: Mapping[AgentId, list[Cid]], verdicts: Mapping[Cid, Verdict]
) -> dict[AgentId, Verdict]:
    """What is wrong with each member's update, as far as the evidence says."""
    faults: dict[AgentId, Verdict] = {}
    single: dict[AgentId, Reveal] = {}
    for agent in step.before.agents:
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
    for agent in step.before.agents:
        if agent not in shown and not eligible.isdisjoint(ledger.commits_of(step.before, agent)):
            faults[agent] = WITHHELD
    return faults


def _problem(
    ledger: Ledger,
    step: Step,
    shown: Mapping[AgentId, list[Cid]],
    faults: Mapping[AgentId, Verdict],
    excluded: Collection[AgentId],
) -> str | None:
    outcome = step.outcome
    refused = dict(outcome.refused)
    for agent, reason in refused.items():
        if reason in (UNAVAILABLE, LATE):
            continue  # what could be had, and who counted for whom, depends on what was seen then
        if reason == EXCLUDED:
            if agent in excluded:
                continue
            return f"{agent.hex()[:16]} was left out as excluded, and nothing known now excludes it"
        said = (ledger.commits_of(step.before, agent), ledger.reveals_of(step.before, agent))
        if reason == DOUBLE and max(map(len, said)) > 1:
            continue
        if faults.get(agent) != reason:
            return f"{agent.hex()[:16]} was refused for {reason!r}, which the evidence does not show"
    fewer = len(outcome.members) < len(step.before.roster)
    for agent in shown:
        fault = faults.get(agent)
        if fault == LATE and fewer:
            continue  # what those saw who could not sign is not in the evidence
        if agent not in refused and fault == UNAVAILABLE:
            return f"the update of {agent.hex()[:16]} is not to be had any more"
        if agent not in refused and fault is not None:
            return f"the update of {agent.hex()[:16]} counted although it has the fault {str(fault)!r}"
    contributed = shown.keys() - refused.keys()
    for agent, join in outcome.roster:
        if dict(step.before.roster).get(agent) == join and agent not in contributed:
            return f"{agent.hex()[:16]} kept its seat without contributing"
    return None
