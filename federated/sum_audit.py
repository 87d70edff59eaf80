"""Auditing a round with secure sums: the sums are computed again, and no update is seen by it.

From the parts that a result names follow all others (`federated.sum_chain`); the vectors are fetched, added
up and unmasked, and the model must be the one that was signed. Anybody can do that. What cannot be decided
afterwards is whether a vector could be had at the time, and it is not claimed: a group may have been left out
for that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from chain.cid import Cid
from chain.identity import AgentId
from federated.faults import EXCLUDED, GROUP, SUM, UNAVAILABLE
from federated.ledger import Ledger, Step
from federated.proposal import Verdict
from federated.sum_chain import Closed, GroupParts, sum_groups
from federated.sum_evidence import WORD
from federated.update import Fault
from federated.views import AuditView, Contributor

VectorVerdict = Callable[[Cid, int], Awaitable[Verdict]]
"""Fetches a vector of so many bytes, and says what is wrong with it."""
ModelOf = Callable[[Cid, Sequence[Closed]], Awaitable[tuple[Cid, frozenset[AgentId]] | None]]
"""What the task's strategy makes of this model and these groups' sums, and the members of the groups whose
sums no updates have; None when something is missing.
"""


async def audit_sums(
    ledger: Ledger,
    step: Step,
    verdict_of: VectorVerdict,
    model_of: ModelOf,
    excluded: Collection[AgentId] = frozenset(),
) -> AuditView:
    """Compute a finished round again; costs the transfer of all its vectors that are not here."""
    outcome, before = step.outcome, step.before
    refused, named = dict(outcome.refused), set(outcome.reveals)
    groups = [GroupParts(ledger, before, members) for members in sum_groups(ledger.terms, before)]
    closed = [one for group in groups if (one := group.closed()) is not None and named.issuperset(one.parts)]
    left_out = [one for one in closed if any(refused.get(a) == GROUP for a in one.session.roster)]
    counts = [one for one in closed if one not in left_out]
    missing = [cid for cid in outcome.reveals if not ledger.has(cid)]
    problem = f"{len(missing)} of its parts are not to be had" if missing else None
    sizes = {one.blob: WORD * group.session.length for group in counts for one in group.counted}
    verdicts = {blob: await verdict_of(blob, size) for blob, size in sizes.items()}
    if problem is None and any(verdict is not None for verdict in verdicts.values()):
        problem = "a masked vector is not to be had any more"
    if problem is None and any(one.opened is None for one in counts):
        problem = "a sum counted that was never opened"
    problem = problem or await _refusals(ledger, step, groups, verdict_of, excluded)
    problem = problem or _seats(step, ledger, counts)
    if problem is None:
        model, spoilt = before.parameters, frozenset[AgentId]()
        if counts:
            found = await model_of(before.parameters, counts)
            problem = "a masked vector is not to be had any more" if found is None else None
            model, spoilt = found or (model, spoilt)
        if problem is None and spoilt:
            problem = "a group counted whose sum is beyond what updates can come to"
        if problem is None and model != outcome.parameters:
            problem = "the model is not what the sums of the groups come to"
    size = WORD * groups[0].session.length if groups else 0
    contributors = tuple(
        Contributor(one.agent, one.examples, one.metrics, size) for group in counts for one in group.counted
    )
    ordered = tuple(sorted(contributors, key=lambda one: one.agent))
    return AuditView(outcome.round, step.record, ordered, outcome.refused, problem)


async def _refusals(
    ledger: Ledger,
    step: Step,
    groups: Sequence[GroupParts],
    verdict_of: VectorVerdict,
    excluded: Collection[AgentId],
) -> str | None:
    """Whether everybody who was refused had earned it."""
    faults = {agent: reason for group in groups for agent, (reason, _) in group.faults().items()}
    vectors = {agent: group for group in groups for agent in group.members}
    for agent, reason in step.outcome.refused:
        if reason in (GROUP, faults.get(agent)) or (reason == EXCLUDED and agent in excluded):
            continue
        if reason == EXCLUDED:
            return f"{agent.hex()[:16]} was left out as excluded, and nothing known now excludes it"
        if (
            reason == SUM
            and agent in vectors
            and await _wrong_size(ledger, vectors[agent], agent, verdict_of)
        ):
            continue
        return f"{agent.hex()[:16]} was refused for {reason!r}, which the evidence does not show"
    return None


async def _wrong_size(ledger: Ledger, group: GroupParts, agent: AgentId, verdict_of: VectorVerdict) -> bool:
    for cid in ledger.book.of(group.previous, agent, 2):
        message = group.message(cid)
        if message is not None:
            verdict = await verdict_of(message.body[1], WORD * group.session.length)
            return verdict in (Fault.SIZE, UNAVAILABLE)
    return False


def _seats(step: Step, ledger: Ledger, counts: Sequence[Closed]) -> str | None:
    """Whether who kept a seat had done its part."""
    refused = dict(step.outcome.refused)
    there = {one.agent for group in counts for one in group.counted}
    there |= {ledger.book.parts[cid][0] for cid in step.outcome.reveals if cid in ledger.book.parts}
    there |= {agent for agent, reason in refused.items() if reason == GROUP}
    if not sum_groups(ledger.terms, step.before):
        return None
    for agent, join in step.outcome.roster:
        if dict(step.before.roster).get(agent) == join and agent not in there:
            return f"{agent.hex()[:16]} kept its seat without contributing"
    return None
