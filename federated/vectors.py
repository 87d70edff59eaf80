"""Masked vectors of a task with secure sums, as a node fetches them and adds them up.

The counterpart of `federated.models` where no update is ever seen: a vector has the right number of bytes or
it has not, the sum of a group is unmasked with what its members opened (`federated.sum_chain`), and the
model is made of the groups' sums. A round and its audit compute the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chain.cid import Cid
from chain.identity import AgentId
from chain.kinds import PART
from chain.learning_task import Task
from chain.secure_part import Part
from federated.faults import UNAVAILABLE
from federated.following import Tools
from federated.ledger import Ledger
from federated.models import Models
from federated.ports import TooLarge
from federated.privacy.group_sums import GroupSum, model_of_sums
from federated.privacy.opened_sum import unmask
from federated.proposal import Verdict
from federated.sum_chain import Closed
from federated.sum_evidence import WORD
from federated.update import Fault, Model
from validation.named import learning_of

if TYPE_CHECKING:
    from federated.privacy.keystream import Words


async def vector_verdict(models: Models, blob: Cid, size: int, agents: Sequence[AgentId]) -> Verdict:
    """What is wrong with a masked vector, once it is here; `UNAVAILABLE` when it cannot be had in time."""
    try:
        data = await models.in_time(blob, size, agents)
    except TooLarge:
        return Fault.SIZE
    if data is None:
        return UNAVAILABLE
    return None if len(data) == size else Fault.SIZE


async def model_of_groups(
    tools: Tools, terms: Task, base: Cid, groups: Sequence[Closed]
) -> tuple[bytes | None, frozenset[AgentId]] | None:
    """The model that the task's strategy makes of the groups' sums (None: no group is good), and the
    members of groups whose sum no updates have. None when a vector, or the base, is not here.
    """
    start = await tools.blobs.map(base)
    if start is None:
        return None
    sums: list[GroupSum] = []
    for closed in groups:
        vectors = [await tools.blobs.map(one.blob) for one in closed.counted]
        here = [data for data in vectors if data is not None]
        size = WORD * closed.session.length
        if len(here) < len(vectors) or any(len(data) != size for data in here):
            return None
        total = await tools.run_blocking(_added, closed, here)
        sums.append(GroupSum(tuple(one.agent for one in closed.counted), total, closed.weight))
    data, refused = await tools.run_blocking(model_of_sums, terms, start, sums)
    return data, frozenset(agent for number in refused for agent in sums[number].members)


async def bring_back(tools: Tools, ledger: Ledger, previous: bytes) -> None:
    """Have the messages of the round that builds on `previous` in memory, those that were let go of."""
    if not ledger.book.is_whole(previous):
        kept = await tools.run_blocking(tools.post.kept, ledger.cid)
        said = [(record.cid, learning_of(record)) for record in kept if record.header.kind == PART]
        ledger.book.restore(
            (cid, part) for cid, part in said if isinstance(part, Part) and part.previous == previous
        )


def _added(closed: Closed, vectors: Sequence[Model]) -> Words:
    """The sum of a group; blocking."""
    import numpy as np

    assert closed.opened is not None
    return unmask(closed.session, closed.opened, (np.frombuffer(data, "<u8") for data in vectors))
