"""Admission: an update at the edge of the norm bound is judged alike everywhere; nothing wrong passes."""

from __future__ import annotations

from dataclasses import replace
from mmap import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.learning_task import INT8, Array
from federated.admission import announced, examine, needs_base
from federated.compression import most_sent
from federated.faults import WEIGHT
from federated.update import Fault, encode
from tests.chain.samples import damage
from tests.federated.models import ARRAYS, TASK, model, task_of, values
from tests.federated.test_update import LIES

WIDE = replace(task_of(Array("w", "<f4", (9,)), Array("n", "<i8", ())), max_norm=3)


def moved(*steps: float, count: int = 0) -> bytes:
    row = np.zeros(9, "<f4")
    row[: len(steps)] = steps
    return encode(WIDE.arrays, [row + 1, np.array(count)])


def test_the_norm_bound_is_inclusive_and_exact() -> None:
    base = moved()
    for inside in ((3.0,), (-3.0,), (2, 2, -1), (1,) * 9, (2**-20, 2)):
        assert examine(WIDE, base, moved(*inside)) is None
    for outside in ((3.0 + 2**-20,), (2, 2, 1, 2**-11), (-2, -2, -2)):
        assert examine(WIDE, base, moved(*outside)) is Fault.NORM
    assert examine(replace(WIDE, max_norm=None), None, moved(99)) is None


def test_integers_do_not_count_and_the_base_is_needed() -> None:
    assert examine(WIDE, moved(), moved(count=100)) is None
    with pytest.raises(ValueError, match="max_norm needs"):
        examine(WIDE, None, moved())


def test_what_a_reveal_says_is_taken_up_to_its_bounds() -> None:
    most, size = TASK.max_examples, most_sent(TASK)
    for examples, length, fault in (
        (0, 1, WEIGHT),
        (1, 1, None),
        (most, size, None),
        (most + 1, 1, WEIGHT),
        (1, 0, Fault.SIZE),
        (1, size + 1, Fault.SIZE),
    ):
        assert announced(TASK, examples, length) == fault


def test_distances_and_differences_are_from_what_the_round_began_with() -> None:
    assert not needs_base(TASK)
    for terms in ({"max_norm": 1}, {"compression": INT8}, {"compression": "topk:1"}):
        assert needs_base(replace(TASK, **terms))


@settings(max_examples=40)
@given(data=st.data())
def test_whatever_arrives_is_named_before_its_distance_is_looked_at(data: st.DataObject) -> None:
    task, base = replace(TASK, max_norm=1), model(1)
    lies = [lie for _, lie, _ in LIES]
    sent = data.draw(st.one_of(st.binary(max_size=300), damage(base), st.sampled_from(lies)))
    fault = examine(replace(task, max_norm=None), None, sent)
    assert examine(task, base, sent) in ((fault,) if fault is not None else (None, Fault.NORM))


def test_a_mapped_update_is_judged_as_its_bytes_are() -> None:
    task = replace(TASK, max_norm=1)
    far = encode(ARRAYS, values(2))
    mapped = mmap(-1, len(far))
    mapped[:] = far
    assert examine(task, model(1), mapped) is examine(task, model(1), far) is Fault.NORM
