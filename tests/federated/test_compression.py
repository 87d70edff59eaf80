"""Int8 updates: half a step of error that is not lost, one meaning everywhere, nothing hostile passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from chain.aggregation_rule import ROBUST
from chain.cid import blob_cid
from chain.errors import RecordError
from chain.learning_task import INT8, SERVER_APP, Array, Task, task_from_body
from federated.admission import announced, examine
from federated.compression import (
    BLOCK,
    CHUNK,
    MAGIC,
    compressed_size,
    most_sent,
    quantise,
    rows,
    sent_size,
)
from federated.flower.compressing_member import CompressingMember
from federated.flower.participation import Refused
from federated.robust import round_model
from federated.update import Fault, decode, encode
from tests.chain.samples import damage
from tests.federated.models import TASK, model, task_of

SHAPES = (Array("w", "<f4", (BLOCK + 44, 2)), Array("b", "<f8", (3,)), Array("n", "<i8", (2,)))
ROUGH = task_of(*SHAPES, compression=INT8)
PLAIN = replace(ROUGH, compression="none")

Rows = list[NDArray[Any]]


def drawn(seed: int, most: float, arrays: Sequence[Array] = SHAPES) -> Rows:
    rng = np.random.default_rng(seed)
    scale = most * 2.0 ** -rng.integers(0, 20)
    return [np.asarray(rng.uniform(-scale, scale, a.shape)).astype(a.dtype) for a in arrays]


def meaning(task: Task, base: bytes, data: bytes) -> Rows:
    """What an update stands for, as the arrays of a plain one."""
    flats = [row[0 : array.count] for array, row in zip(task.arrays, rows(task, base, data), strict=True)]
    return [flat.reshape(array.shape) for array, flat in zip(task.arrays, flats, strict=True)]


def steps(data: bytes, arrays: Sequence[Array] = SHAPES) -> Rows:
    """The step of every element, read from the bytes by another way than the reader's."""
    found, offset = [], len(MAGIC)
    for array in arrays:
        blocks = -(-array.count // BLOCK)
        exponents = [int.from_bytes(data[offset + i : offset + i + 1], signed=True) for i in range(blocks)]
        found.append(np.array([2.0 ** exponents[i // BLOCK] for i in range(array.count)]))
        offset += blocks + array.count if array.dtype != "<i8" else array.size
    return found


@settings(max_examples=30)
@given(seeds=st.tuples(st.integers(0, 2**32), st.integers(0, 2**32)), rounds=st.integers(1, 12))
def test_an_error_is_half_a_step_and_sums_stay_within_one(seeds: tuple[int, int], rounds: int) -> None:
    base = encode(SHAPES, drawn(seeds[0], 20))
    origin = decode(SHAPES, base, TASK.max_abs)
    kept, meant, sent = None, [np.zeros(a.shape) for a in SHAPES], [np.zeros(a.shape) for a in SHAPES]
    for number in range(rounds):
        moves = drawn(seeds[1] + number, 5)
        update = encode(SHAPES, [x + move for x, move in zip(origin, moves, strict=True)])
        data, kept = quantise(SHAPES, base, update, kept, TASK.max_abs)
        assert len(data) == compressed_size(SHAPES) == sent_size(ROUGH)
        assert examine(ROUGH, base, data) is None
        got = meaning(ROUGH, base, data)
        for place, (true, found, step) in enumerate(
            zip(decode(SHAPES, update, TASK.max_abs), got, steps(data), strict=True)
        ):
            if place == 2:
                assert (found == true).all()  # counters go as they are
                continue
            fine = np.spacing(np.abs(found)).astype(np.float64)  # the conversion to the array's dtype
            room = step.reshape(found.shape) / 2 + fine
            assert (np.abs(kept[place].reshape(found.shape)) <= room).all()
            if number == 0:
                assert (np.abs(true.astype(np.float64) - found) <= room).all()
            meant[place] += true.astype(np.float64) - origin[place]
            sent[place] += found.astype(np.float64) - origin[place]
            # However many rounds: what is missing from the sum is what the last one kept.
            assert (np.abs(meant[place] - sent[place]) <= room + 1e-9).all()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), chunk=st.integers(1, 700), strategy=st.sampled_from(["fedavg", ROBUST]))
def test_rules_make_of_it_what_they_make_of_the_plain_updates_it_stands_for(
    seed: int, chunk: int, strategy: str
) -> None:
    base = encode(SHAPES, drawn(seed, 50))
    sent = [
        quantise(SHAPES, base, encode(SHAPES, drawn(seed + 1 + i, 50)), None, TASK.max_abs)[0]
        for i in range(4)
    ]
    plain = [encode(SHAPES, meaning(ROUGH, base, data)) for data in sent]
    for one, data in zip(rows(ROUGH, base, sent[0]), plain[:1] * 3, strict=True):
        del data
        assert (np.concatenate([one[i : i + chunk] for i in range(0, 600, chunk)]) == one[0:600]).all()
    rough, exact = (replace(task, strategy=strategy) for task in (ROUGH, PLAIN))
    names = [blob_cid(data) for data in sent]  # the order of a rule's ties: the same for both
    assert round_model(rough, base, [(cid, data, 7) for cid, data in zip(names, sent, strict=True)]) == (
        round_model(exact, base, [(cid, data, 7) for cid, data in zip(names, plain, strict=True)])
    )


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_arrives_is_named_or_stands_for_a_right_update(data: st.DataObject) -> None:
    base = encode(SHAPES, drawn(1, 50))
    right, _ = quantise(SHAPES, base, encode(SHAPES, drawn(2, 90)), None, TASK.max_abs)
    sent = data.draw(
        st.one_of(st.binary(max_size=300), damage(right), st.just(model(1)), st.just(right + b"0"))
    )
    fault = examine(ROUGH, base, sent)
    if fault is None:
        assert examine(PLAIN, base, encode(SHAPES, meaning(ROUGH, base, sent))) is None
    else:
        assert fault in (Fault.FORMAT, Fault.BOUND)


def test_steps_quanta_and_values_out_of_bounds_are_named() -> None:
    terms = (Array("w", "<f4", (2,)),)
    task, base = task_of(*terms, compression=INT8, max_norm=60), encode(terms, [np.zeros(2, "<f4")])

    def judged(exponent: int, *quanta: int) -> Fault | None:
        return examine(task, base, MAGIC + np.array([exponent, *quanta], np.int8).tobytes())

    assert judged(0, 50, -33) is None
    assert judged(0, 50, -34) is Fault.NORM
    assert judged(0, 101, 0) is Fault.BOUND
    assert judged(0, -128, 0) is Fault.FORMAT
    assert judged(16, 0, 0) is judged(-65, 0, 0) is Fault.FORMAT
    assert examine(task, base, base) is Fault.FORMAT
    assert announced(task, 1, most_sent(task)) is None
    assert announced(task, 1, most_sent(task) + 1) is Fault.SIZE
    with pytest.raises(ValueError, match="needs the model"):
        examine(task, None, base)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), norm=st.integers(1, 400))
def test_rounding_and_errors_kept_never_carry_an_update_over_a_bound(seed: int, norm: int) -> None:
    terms = (Array("w", "<f4", (CHUNK + 9,)),) if seed % 2 else (Array("w", "<f8", (9,)),)
    task = task_of(*terms, compression=INT8, max_norm=norm, max_abs=3)
    rng = np.random.default_rng(seed)
    base = encode(terms, [rng.uniform(-3, 3, terms[0].shape).astype(terms[0].dtype)])
    kept: Any = [rng.uniform(-1, 1, terms[0].count)]
    near = rng.uniform(-3, 3, terms[0].shape)
    moved = near - decode(terms, base, 3)[0]
    near -= moved * max(0.0, 1 - 0.999 * norm / float(np.linalg.norm(moved)))
    update = encode(terms, [near.astype(terms[0].dtype)])
    assert examine(replace(task, compression="none"), base, update) is None
    data, _ = quantise(terms, base, update, kept, 3, norm)
    assert examine(task, base, data) is None


class Desk:
    """A node that takes every other update."""

    def __init__(self, base: bytes) -> None:
        self.base = base
        self.got: list[bytes] = []
        self.asked = 0

    def work(self, wait: int) -> dict[str, Any]:
        return {"state": "wait", "wait": wait}

    def blob(self, cid: str) -> bytes:
        return self.base

    def hand_in(self, number: int, blob: bytes, examples: int, metrics: Any) -> None:
        self.asked += 1
        if self.asked % 2 == 0:
            raise Refused("not now")
        self.got.append(blob)


def test_a_member_keeps_its_error_until_an_update_was_taken() -> None:
    terms = (Array("w", "<f8", (2,)),)
    desk = Desk(encode(terms, [np.zeros(2)]))
    described = {"arrays": [{"name": "w", "dtype": "<f8", "shape": [2]}], "max_abs": 100, "max_norm": None}
    member = CompressingMember(desk, described)
    update = encode(terms, [np.array([100.0, 0.2])])  # a step of 1: 0.2 alone is rounded away
    for number in range(1, 10):
        member.blob("")
        try:
            member.hand_in(number, update, 1, {})
        except Refused:
            assert number % 2 == 0
    task = task_of(*terms, compression=INT8)
    assert [meaning(task, desk.base, data)[0].tolist() for data in desk.got] == [
        [100.0, 0.0], [100.0, 0.0], [100.0, 1.0], [100.0, 0.0], [100.0, 0.0]
    ]  # fmt: skip
    with pytest.raises(Refused, match="not-finite"):
        member.hand_in(10, encode(terms, [np.array([np.nan, 0])]), 1, {})


def test_terms_say_the_form_and_older_rules_do_not_know_it() -> None:
    body = ROUGH.to_body()
    assert body["compression"] == INT8
    assert task_from_body(body) == ROUGH
    assert ROUGH.newer(4) == ("compression 'int8'", 5)
    assert "compression" not in PLAIN.to_body()
    for wrong in ("none", "zip", 8, None):
        with pytest.raises(RecordError, match="compression"):
            task_from_body(body | {"compression": wrong})
    with pytest.raises(RecordError, match="compression"):
        task_from_body(body | {"mode": SERVER_APP})
