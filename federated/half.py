"""Whole models in half the bytes, for members without a common one: floating elements as IEEE 754's binary16.

The other forms (`federated.compression`) send a difference from a model that all have; in gossip there is
none. A number rounded to binary16 needs nothing else to be read: 11 significant bits, so off by at most
2**-11 of itself, and below 2**-14 by at most 2**-25; far less than what separates the models of two members.
It is one of <f4 and <f8, too, so what a half model *stands for* is exact, and all that is said of models
(bounds, norm, rules, audit) is said of that. The form is the task's arrays with another dtype, one NPY
stream each as always (`federated.update`), integer arrays as they are; so it is checked like any model, its
length follows from the terms, and every tool that writes NPY can make it.

Nothing is kept for the next time: what rounding takes away is not owed, since a member's next model begins
with what it has shown, like everybody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from chain.learning_task import FLOAT16, HALF, Array, Task
from federated.quanta import is_whole
from federated.update import Model, decode, encode, views

if TYPE_CHECKING:
    from numpy.typing import NDArray


def is_half(task: Task) -> bool:
    """Whether models of this task travel in this form."""
    return task.compression == FLOAT16


def halves(arrays: Sequence[Array]) -> tuple[Array, ...]:
    """The arrays as they travel."""
    return tuple(array if is_whole(array) else replace(array, dtype=HALF) for array in arrays)


def sent_arrays(task: Task) -> tuple[Array, ...]:
    """The arrays of the models that members of this task show each other, whole."""
    return halves(task.arrays) if is_half(task) else task.arrays


def halved(arrays: Sequence[Array], model: Model, max_abs: int) -> bytes:
    """A model in this form, rounded to the nearest, ties to even, but never beyond `max_abs`.

    Raises `UpdateError` where `model` is not these arrays within `max_abs`, which is `MAX_FLOAT16` at most.
    """
    values = decode(arrays, model, max_abs)
    return encode(halves(arrays), [_rounded(value, max_abs) for value in values])


def expanded(task: Task, data: Model) -> Model:
    """What a model that was examined stands for, in the task's own arrays; the same bytes of a plain one."""
    if not is_half(task):
        return data
    pairs = zip(task.arrays, views(sent_arrays(task), data), strict=True)
    return encode(task.arrays, [value.astype(array.dtype) for array, value in pairs])


def _rounded(value: NDArray[Any], max_abs: int) -> NDArray[Any]:
    import numpy as np

    if value.dtype.kind == "i":
        return value
    half = value.astype(HALF)
    beyond = np.abs(half.astype(np.float64)) > max_abs
    return np.where(beyond, np.nextafter(half, np.float16(0)), half).astype(HALF)
