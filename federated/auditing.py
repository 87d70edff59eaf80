"""What a node looks back at in a task: audits, which are computed again, and in gossip its own steps.

What an audit computes again is fetched here, from whoever has it.

What is asked of a finished round is decided by `audit` (rounds of a roster), `sum_audit` (secure sums) and
`gossip_audit`, none of which waits. A node can audit a task that it does not follow, from the records that
the task's holders have; where it follows the task, what it has looked at before is not looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence

from chain.cid import Cid
from chain.identity import AgentId
from chain.learning import Reveal
from chain.learning_task import Task
from federated.audit import audit_round
from federated.call_log import CallLog
from federated.compression import most_sent
from federated.engagement import Engagement
from federated.errors import UnknownTask, WrongState
from federated.following import Tools
from federated.gossip_audit import audit_steps, own_model, own_steps
from federated.gossip_run import GossipRun
from federated.ledger import Ledger, Step
from federated.models import Models, builds_on_base, of_models
from federated.modes import Followed, Log, result_of
from federated.ports import TooLarge
from federated.proposal import Verdict
from federated.share_book import ShareBook, book_in
from federated.share_log import ShareLog
from federated.sum_audit import audit_sums
from federated.sum_chain import Closed
from federated.vectors import bring_back, model_of_groups, vector_verdict
from federated.views import AuditView, RoundView


async def audit(tools: Tools, log: Log, followed: Followed | None, number: int | None) -> list[AuditView]:
    """Compute finished rounds again, all of them or one; costs a look at every update of each.

    `followed` is what follows the task here, if anything does. Raises `UnknownTask` for a round without a
    result, `WrongState` for a ServerApp's run.
    """
    if isinstance(log, CallLog):
        raise WrongState("a ServerApp's run is computed again by the app itself: fl audit with its PATH")
    if isinstance(log, ShareLog):
        run = followed if isinstance(followed, GossipRun) else GossipRun(tools, log.task, False)
        run.ledger = log
        book = await _book(tools, log, followed)
        agents = sorted(log.standings)
        return await audit_steps(tools.run_blocking, book, agents, number, run.verdict, run.base_of)
    steps = [step for step in log.steps if number is None or step.outcome.round == number]
    if number is not None and not steps:
        raise UnknownTask(f"round {number} has no result")
    models = followed.models if isinstance(followed, Engagement) else Models(tools, log.terms)
    if log.terms.secure is None:
        return [await _audit_round(tools, models, log, step) for step in steps]
    kept = followed is not None and followed.ledger is log
    return [await _audit_sums(tools, models, log, step, kept) for step in steps]


async def own_rounds(tools: Tools, log: Log, followed: Followed | None) -> list[RoundView]:
    """The steps of this node in gossip, which its log does not keep; none of any other task."""
    me = tools.identity.agent
    if not isinstance(log, ShareLog) or log.newest(me) is None:
        return []
    return await tools.run_blocking(own_steps, await _book(tools, log, followed), me)


async def result(
    tools: Tools, log: Log, followed: Followed | None, number: int | None
) -> tuple[int, Cid, Cid]:
    """(round, parameters, record) of a finished round, the last one for None; in gossip of an own step.

    Raises `UnknownTask`.
    """
    if not isinstance(log, ShareLog):
        return result_of(log, number)
    book = await _book(tools, log, followed)
    return await tools.run_blocking(own_model, book, tools.identity.agent, number)


async def _book(tools: Tools, log: ShareLog, followed: Followed | None) -> ShareBook:
    """The shares of a task in full: on disk where it is followed here, else what its holders have."""
    if isinstance(followed, GossipRun):
        return followed.book
    return book_in(log.task, log.terms, await tools.post.read(log.cid))


def _sources(ledger: Ledger, step: Step) -> list[AgentId]:
    """Who may have what a round was made of."""
    return [*step.signers, *step.before.agents, ledger.task.header.author]


async def _audit_round(tools: Tools, models: Models, ledger: Ledger, step: Step) -> AuditView:
    sources = _sources(ledger, step)

    async def verdict_of(reveal: Reveal) -> Verdict:
        return await models.verdict(reveal.blob, reveal.size, sources, step.before.parameters, sources)

    async def average_of(base: Cid, parts: tuple[tuple[Cid, int], ...], of_groups: bool) -> Cid | None:
        terms = of_models(ledger.terms) if of_groups else ledger.terms
        return await _average_of(tools, models, terms, base, parts, sources)

    return await audit_round(ledger, step, verdict_of, average_of, tools.excluded())


async def _average_of(
    tools: Tools,
    models: Models,
    terms: Task,
    base: Cid,
    parts: tuple[tuple[Cid, int], ...],
    sources: Sequence[AgentId],
) -> Cid | None:
    """The CID of what the terms' strategy makes of parts that may have to be fetched; nothing is kept."""
    if builds_on_base(terms) and await models.start(base, sources) is None:
        return None
    for blob, _ in parts:
        try:
            if await tools.blobs.fetch_mapped(blob, most_sent(terms), sources) is None:
                return None
        except TooLarge:
            return None
    data = await models.model_of(terms, base, parts)
    return None if data is None else tools.blobs.cid_of(data)


async def _audit_sums(tools: Tools, models: Models, ledger: Ledger, step: Step, kept: bool) -> AuditView:
    """`kept`: the ledger is one that goes on, and has let go of the messages of rounds that are over."""
    sources = _sources(ledger, step)
    if kept:
        await bring_back(tools, ledger, step.before.digest)

    async def verdict_of(blob: Cid, size: int) -> Verdict:
        return await vector_verdict(models, blob, size, sources)

    async def model_of(base: Cid, groups: Sequence[Closed]) -> tuple[Cid, frozenset[AgentId]] | None:
        if await models.start(base, sources) is None:
            return None
        found = await model_of_groups(tools, ledger.terms, base, groups)
        if found is None:
            return None
        return base if found[0] is None else tools.blobs.cid_of(found[0]), found[1]

    view = await audit_sums(ledger, step, verdict_of, model_of, tools.excluded())
    if kept and ledger.tip is not None:
        ledger.book.trim(ledger.tip.round)
    return view
