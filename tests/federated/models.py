"""Tasks and models for the tests of `federated`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chain.cid import blob_cid
from chain.learning_task import Array, Task
from federated.update import encode

ARRAYS = (Array("w", "<f4", (3, 2)), Array("b", "<f8", ()), Array("n", "<i8", (2,)))
TASK = Task(
    name="a line",
    arrays=ARRAYS,
    parameters=blob_cid(b"initial"),
    rounds=3,
    min_members=2,
    max_members=4,
    commit_ms=10_000,
    reveal_ms=10_000,
    result_ms=10_000,
    max_examples=1_000,
    max_abs=100,
    config={"lr": "0.1"},
)


def values(seed: int, arrays: Sequence[Array] = ARRAYS, most: float = 100) -> list[NDArray[Any]]:
    """Arrays of these terms that look random; equal seeds give equal ones."""
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.uniform(-most, most, a.shape)).astype(a.dtype) for a in arrays]


def model(seed: int, arrays: Sequence[Array] = ARRAYS) -> bytes:
    return encode(arrays, values(seed, arrays))


def task_of(*arrays: Array, **terms: Any) -> Task:
    return replace(TASK, arrays=arrays or ARRAYS, **terms)
