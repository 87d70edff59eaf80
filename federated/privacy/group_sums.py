"""Updates as vectors for a secure sum, sums as models, and robust rules over the sums of groups.

A vector holds the integers of `federated.aggregation`, weighted by examples, and behind them the number of
examples, all modulo 2**64. By that module's proof the true sums stay below 2**62, so nothing wraps, and the
model that comes out is FedAvg's, bit for bit.

**Hiding and judging exclude each other**: a robust rule has to see single updates, and a mask hides just
those. What can be had is a rule over **groups**: members sum in secret within small groups, and the rule
looks at the groups' means. One liar spoils its whole group, so with g groups less than g / 2 liars are borne
in all, however many members there are; and what hides a member is its group.

What can be judged is a group's mean: an honest one keeps every bound that updates keep, and weighs as much as
its members claimed. A liar inside those bounds is not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chain.cid import blob_cid
from chain.identity import AgentId
from chain.learning_task import Task
from federated.admission import examine
from federated.aggregation import Accumulator, scale_bits
from federated.robust import combine
from federated.update import Fault, Model

if TYPE_CHECKING:
    from federated.privacy.keystream import Words


@dataclass(frozen=True, slots=True)
class GroupSum:
    """What a group came to: who is in it, the sum of their vectors, and how many examples they claimed."""

    members: tuple[AgentId, ...]
    total: Words
    weight: int


def vector_length(task: Task) -> int:
    """Elements of a vector: those of the model, and the number of examples."""
    return sum(array.count for array in task.arrays) + 1


def vector_of(task: Task, data: Model, examples: int) -> Words:
    """A checked update as a vector; raises `ValueError` for a weight that the task does not allow."""
    import numpy as np

    if not 1 <= examples <= task.max_examples:
        raise ValueError(f"examples is {examples}, outside 1 … {task.max_examples}")
    accumulator = Accumulator(task)
    accumulator.add(data, examples)
    return np.concatenate([*accumulator.sums(), np.array([examples], np.int64)]).view(np.uint64)


def mean_of(task: Task, total: Words, members: int) -> bytes:
    """The model of a sum of so many vectors. Raises `ValueError` for one that allowed updates cannot have."""
    import numpy as np

    integers = total.view(np.int64)
    weight = int(integers[-1])
    if not members <= weight <= members * task.max_examples:
        raise ValueError(f"{members} updates claim {weight} examples together")
    sums, start = [], 0
    for array in task.arrays:
        part = integers[start : start + array.count]
        bits = 0 if array.dtype == "<i8" else scale_bits(task)
        most = weight * task.max_abs << bits
        if int(part.max()) > most or int(part.min()) < -most:
            raise ValueError(f"the sums of array {array.name!r} are beyond those of allowed values")
        sums.append(part)
        start += array.count
    return Accumulator.of(task, sums, members, weight).mean()


def model_of_sums(
    task: Task, base: Model, groups: Sequence[GroupSum]
) -> tuple[bytes | None, dict[int, Fault]]:
    """The model that the task's strategy makes of sums, and which groups (by number) are refused, and why.

    With `fedavg` it is the mean of all updates weighted by their examples, as if they had been seen; a rule
    looks at the means of groups, each of which counts the same. None when no group is left. `base` is what
    the round began with. Raises `ValueError` when a member is in two groups. A pure function.
    """
    everybody = [agent for group in groups for agent in group.members]
    if len(set(everybody)) < len(everybody):
        raise ValueError("a member is in two groups")
    means: list[bytes] = []
    good: list[GroupSum] = []
    refused: dict[int, Fault] = {}
    for number, group in enumerate(groups):
        try:
            mean = mean_of(task, group.total, len(group.members))
        except ValueError:
            refused[number] = Fault.BOUND
            continue
        weighs = int(group.total.view("i8")[-1]) == group.weight
        fault = examine(task, base, mean) if weighs else Fault.BOUND
        if fault is None:
            means.append(mean)
            good.append(group)
        else:
            refused[number] = fault
    if not good:
        return None, refused
    if task.rule is None:
        return _mean_of_all(task, good), refused
    return combine(task, task.rule, base, [(blob_cid(mean), mean) for mean in means]), refused


def _mean_of_all(task: Task, groups: Sequence[GroupSum]) -> bytes:
    """The mean of all members of all groups: the sums are added before they are divided."""
    import numpy as np

    total = np.zeros(vector_length(task), np.uint64)
    for group in groups:
        total += group.total
    return mean_of(task, total, sum(len(group.members) for group in groups))
