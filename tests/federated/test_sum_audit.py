"""Audits of secure sums: what was signed is computed again from the vectors, and lies are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import trio

from chain.cid import Cid, blob_cid
from chain.identity import AgentId
from federated.faults import DOUBLE, UNAVAILABLE
from federated.ledger import Step
from federated.proposal import Verdict
from federated.sum_audit import audit_sums
from federated.sum_chain import Closed
from federated.views import AuditView
from tests.federated.models import task_of
from tests.federated.secure_table import SecureTable


def audited(table: SecureTable, step: Step, gone: Sequence[Cid] = ()) -> AuditView:
    member = table.members[1]

    async def verdict_of(blob: Cid, size: int) -> Verdict:
        return None if blob not in gone and len(member.blobs[blob]) == size else UNAVAILABLE

    async def model_of(base: Cid, groups: Sequence[Closed]) -> tuple[Cid, frozenset[AgentId]]:
        data, spoilt = table.model_of(member, base, groups)
        return (base if data is None else blob_cid(data)), spoilt

    return trio.run(audit_sums, member.ledger, step, verdict_of, model_of)


def test_an_audit_finds_what_was_signed_and_is_not_so() -> None:
    table = SecureTable(task_of(secure=4, min_members=4, max_members=4, rounds=1), 4, 3)
    table.run()
    (step,) = table.members[1].ledger.steps
    good = audited(table, step)
    assert good.problem is None
    assert [one.agent for one in good.contributors] == sorted(member.agent for member in table.members)
    assert {(one.examples, one.size) for one in good.contributors} == {(10, 8 * 10)}
    other = replace(step.outcome, parameters=blob_cid(b"another model"))
    named = replace(step.outcome, refused=((table.members[0].agent, DOUBLE),))
    fewer = replace(step.outcome, reveals=step.outcome.reveals[1:])
    for outcome, problem in (
        (other, "not what the sums"),
        (named, "refused for 'double', which the evidence does not show"),
        (fewer, "kept its seat without contributing"),
    ):
        assert problem in (audited(table, replace(step, outcome=outcome)).problem or "")
    vector = next(blob for blob, data in table.members[0].blobs.items() if len(data) == 8 * 10)
    assert "not to be had any more" in (audited(table, step, [vector]).problem or "")
