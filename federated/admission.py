"""What an update must be before any rule or strategy sees it; whatever fails here has no influence at all.

Strategies trust what they are given: NumPy broadcasts a wrong shape silently, a weight of 1e9 outvotes
everybody, and one NaN spoils every average. So all of this is decided first, by a fixed code that every
member computes alike (`federated.faults`), in the order of its cost:

1. the reveal's terms: one update of each member and round, the number of examples within `max_examples`,
   the announced size within `compression.most_sent` (`federated.proposal`, before a byte is fetched);
2. the bytes: their number is the announced one, every header is the one that the task's terms give, and
   nothing is allocated for what a header says (`federated.update`);
3. the values: finite, within `max_abs`;
4. the distance from what the round began with, within `max_norm` where the task says one: the Euclidean
   norm on the grid of `federated.differences`, in integers, so that an update at the edge is judged alike
   everywhere.
"""

from __future__ import annotations

from chain.learning_task import Task
from federated.compression import inspect_compressed, is_compressed, most_sent
from federated.differences import Differences, grid_bits
from federated.faults import WEIGHT
from federated.half import sent_arrays
from federated.update import Fault, Model, inspect


def announced(task: Task, examples: int, size: int) -> Fault | str | None:
    """What is wrong with what a reveal says of its update, before the update is there."""
    if not 1 <= examples <= task.max_examples:
        return WEIGHT
    return None if 0 < size <= most_sent(task) else Fault.SIZE


def needs_base(task: Task) -> bool:
    """Whether updates are judged against what the round began with."""
    return task.max_norm is not None or is_compressed(task)


def examine(task: Task, base: Model | None, data: Model) -> Fault | None:
    """What is wrong with an update, or None. O(elements), memory for some blocks.

    `base`, which was examined itself, is what the round began with; only a task that `needs_base` needs it.
    """
    if not is_compressed(task):
        fault = inspect(sent_arrays(task), data, task.max_abs)
    elif base is None:
        raise ValueError("a compressed update needs the model that the round began with")
    else:
        fault = inspect_compressed(task, base, data)
    if fault is not None or task.max_norm is None:
        return fault
    if base is None:
        raise ValueError("a task with max_norm needs the model that the round began with")
    square = Differences(task, base, [data]).gram()[0][0]
    return Fault.NORM if square > task.max_norm**2 << 2 * grid_bits(task) else None
