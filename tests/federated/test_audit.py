"""Audits: a true round passes on any node, and whatever its signers made up is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from chain.cid import Cid, blob_cid
from chain.learning import Reveal
from chain.learning_outcome import Outcome
from federated.audit import audit_round
from federated.faults import DOUBLE, UNAVAILABLE
from federated.ledger import Ledger, Step
from federated.proposal import Verdict
from federated.robust import round_model
from federated.update import Fault, inspect
from federated.views import AuditView
from tests.federated.models import TASK
from tests.federated.table import Table, initial
from tests.federated.test_round import LIES


def played(*lies: str) -> Table:
    """A task whose last members lie in the first round; everybody's blobs are with the first member."""
    table = Table(TASK, members=4)
    for member, name in zip(reversed(table.members), lies, strict=False):
        LIES[name][0](member)
    table.run()
    for member in table.members:
        table.members[0].blobs.update(member.blobs)
    return table


async def audited(table: Table, step: Step, ledger: Ledger | None = None) -> AuditView:
    blobs = table.members[0].blobs

    async def verdict_of(reveal: Reveal) -> Verdict:
        data = blobs.get(reveal.blob)
        if data is None:
            return UNAVAILABLE
        return Fault.SIZE if len(data) != reveal.size else inspect(TASK.arrays, data, TASK.max_abs)

    async def average_of(base: Cid, parts: tuple[tuple[Cid, int], ...], _models: bool) -> Cid | None:
        if any(blob not in blobs for blob, _ in parts):
            return None
        start = blobs.get(base, initial(TASK))
        return blob_cid(round_model(TASK, start, [(blob, blobs[blob], weight) for blob, weight in parts]))

    return await audit_round(ledger or table.members[0].ledger, step, verdict_of, average_of)


@pytest.mark.parametrize("lie", [None, *LIES])
async def test_a_true_round_passes_whoever_was_refused_in_it(lie: str | None) -> None:
    table = played(*([] if lie is None else [lie]))
    onlooker = Ledger(table.task)
    onlooker.add_all(table.members[0].records.values())
    for step in table.members[0].ledger.steps:
        view = await audited(table, step, onlooker)
        assert view.problem is None
        assert view.refused == step.outcome.refused
        assert len(view.contributors) + len(view.refused) == len(step.before.agents)


def with_outcome(step: Step, change: Callable[[Outcome], Outcome]) -> Step:
    return replace(step, outcome=change(step.outcome))


async def test_what_the_signers_made_up_is_found() -> None:
    table = played("NaN")
    step = table.members[0].ledger.steps[0]
    honest, liar = table.members[0].agent, table.members[3].agent
    made_up: list[tuple[Callable[[Outcome], Outcome], str]] = [
        (lambda o: replace(o, parameters=TASK.parameters), "not the average"),
        (lambda o: replace(o, refused=()), "counted although it has the fault 'not-finite'"),
        (lambda o: replace(o, refused=((liar, "shape"),)), "refused for 'shape'"),
        (
            lambda o: replace(o, refused=tuple(sorted([*o.refused, (honest, "weight")]))),
            "refused for 'weight'",
        ),
        (lambda o: replace(o, refused=tuple(sorted([*o.refused, (honest, DOUBLE)]))), "refused for 'double'"),
        (lambda o: replace(o, reveals=(table.task.cid,)), "not to be had"),
        (lambda o: replace(o, roster=step.before.roster), "kept its seat without contributing"),
    ]
    for change, problem in made_up:
        view = await audited(table, with_outcome(step, change))
        assert view.problem is not None
        assert problem in view.problem


async def test_an_update_that_is_gone_is_said_to_be() -> None:
    table = played()
    step = table.members[0].ledger.steps[0]
    gone = table.members[0].ledger.reveals[step.outcome.reveals[0]][1].blob
    del table.members[0].blobs[gone]
    view = await audited(table, step)
    assert view.problem is not None
    assert "not to be had any more" in view.problem
