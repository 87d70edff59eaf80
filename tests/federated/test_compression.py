"""Compressed updates: what is not sent is not lost, one meaning everywhere, nothing hostile passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from chain.aggregation_rule import ROBUST
from chain.cid import blob_cid
from chain.errors import RecordError
from chain.learning_task import GOSSIP, INT8, SERVER_APP, Array, Task, task_from_body
from federated.admission import announced, examine
from federated.compression import MAGIC, compressed_size, most_sent, quantise, rows, sent_size
from federated.flower.compressing_member import CompressingMember
from federated.flower.participation import Refused
from federated.quanta import BLOCK, CHUNK, LEVELS, LOWEST, exponents_of
from federated.robust import round_model
from federated.sparse import MAGIC as SPARSE_MAGIC
from federated.sparse import per_block
from federated.update import Fault, decode, encode
from tests.chain.samples import damage
from tests.federated.models import TASK, model, task_of

SHAPES = (Array("w", "<f4", (BLOCK + 44, 2)), Array("b", "<f8", (3,)), Array("n", "<i8", (2,)))
ROUGH = task_of(*SHAPES, compression=INT8)
SPARSE = task_of(*SHAPES, compression="topk:5")
SPARSEST = task_of(*SHAPES, compression="topk:1")
FORMS = st.sampled_from([ROUGH, SPARSE, SPARSEST])
PLAIN = replace(ROUGH, compression="none")

Rows = list[NDArray[Any]]


def drawn(seed: int, most: float, arrays: Sequence[Array] = SHAPES) -> Rows:
    rng = np.random.default_rng(seed)
    scale = most * 2.0 ** -rng.integers(0, 20)
    return [np.asarray(rng.uniform(-scale, scale, a.shape)).astype(a.dtype) for a in arrays]


def packed(task: Task, base: bytes, update: bytes, kept: Any = None) -> tuple[bytes, Rows]:
    return quantise(task.arrays, base, update, kept, task.max_abs, task.max_norm, task.top_k)


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


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), rounds=st.integers(1, 9))
def test_the_largest_of_each_block_are_sent_and_the_others_wait(seed: int, rounds: int) -> None:
    """What was meant is what was sent and what is kept."""
    base = encode(SHAPES, drawn(seed, 20))
    origin = decode(SHAPES, base, TASK.max_abs)
    left: Any = None
    for number in range(rounds):
        update = encode(SHAPES, drawn(seed + 1 + number, 5))
        true = decode(SHAPES, update, TASK.max_abs)
        data, kept = packed(SPARSE, base, update, left)
        assert len(data) == sent_size(SPARSE)
        assert examine(SPARSE, base, data) is None
        got = meaning(SPARSE, base, data)
        assert (got[2] == true[2]).all()
        for place in (0, 1):
            start = origin[place].reshape(-1).astype(np.float64)
            meant = true[place].reshape(-1) - start + (0 if left is None else left[place])
            moved = got[place].reshape(-1) - start
            assert np.abs(meant - moved - kept[place]).max() < 1e-9
            for at in range(0, meant.size, BLOCK):
                block, said = meant[at : at + BLOCK], moved[at : at + BLOCK]
                k = per_block(5, block.size)
                bar = np.sort(np.abs(block))[-k]
                chosen = np.abs(block) >= bar
                step = 2 * np.abs(block).max() / 127 + 1e-5
                assert (np.abs(block - said)[chosen] <= step).all()
                assert (said[~chosen] == 0).all()
        left = kept


def test_errors_kept_make_a_sparse_descent_arrive() -> None:
    """Three members, each with a goal of its own: without what is kept, what none ranks high never moves."""
    terms = (Array("w", "<f8", (256,)),)
    task = task_of(*terms, compression="topk:4")
    rng = np.random.default_rng(3)
    common, own = rng.normal(size=256), 2 * rng.normal(size=(3, 256))
    goals = common + own - own.mean(axis=0)
    far = {}
    for keeps in (True, False):
        base = encode(terms, [np.zeros(256)])
        kept: list[Any] = [None] * 3
        for _ in range(150):
            (at,) = decode(terms, base, task.max_abs)
            sent = []
            for place, goal in enumerate(goals):
                update = encode(terms, [at + 0.02 * (goal - at)])
                data, left = packed(task, base, update, kept[place])
                kept[place] = left if keeps else None
                sent.append((blob_cid(data), data, 1))
            base = round_model(task, base, sent)
        far[keeps] = float(np.linalg.norm(decode(terms, base, task.max_abs)[0] - common))
    whole = float(np.linalg.norm(common))
    assert far[True] < 0.2 * whole < 0.8 * whole < far[False]


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    chunk=st.integers(1, 700),
    strategy=st.sampled_from(["fedavg", ROBUST]),
    form=FORMS,
)
def test_rules_make_of_it_what_they_make_of_the_plain_updates_it_stands_for(
    seed: int, chunk: int, strategy: str, form: Task
) -> None:
    base = encode(SHAPES, drawn(seed, 50))
    sent = [packed(form, base, encode(SHAPES, drawn(seed + 1 + i, 50)))[0] for i in range(4)]
    plain = [encode(SHAPES, meaning(form, base, data)) for data in sent]
    for one in rows(form, base, sent[0]):
        assert (np.concatenate([one[i : i + chunk] for i in range(0, 600, chunk)]) == one[0:600]).all()
    rough, exact = (replace(task, strategy=strategy) for task in (form, PLAIN))
    names = [blob_cid(data) for data in sent]  # the order of a rule's ties: the same for both
    assert round_model(rough, base, [(cid, data, 7) for cid, data in zip(names, sent, strict=True)]) == (
        round_model(exact, base, [(cid, data, 7) for cid, data in zip(names, plain, strict=True)])
    )


@settings(max_examples=60)
@given(data=st.data(), form=FORMS)
def test_whatever_arrives_is_named_or_stands_for_a_right_update(data: st.DataObject, form: Task) -> None:
    base = encode(SHAPES, drawn(1, 50))
    right, _ = packed(form, base, encode(SHAPES, drawn(2, 90)))
    sent = data.draw(
        st.one_of(st.binary(max_size=256), damage(right), st.just(model(1)), st.just(right + b"0"))
    )
    fault = examine(form, base, sent)
    if fault is None:
        assert examine(PLAIN, base, encode(SHAPES, meaning(form, base, sent))) is None
    else:
        assert fault in (Fault.FORMAT, Fault.BOUND)


def test_steps_quanta_and_values_out_of_bounds_are_named() -> None:
    terms = (Array("w", "<f4", (2,)),)
    task, base = task_of(*terms, compression=INT8, max_norm=60), encode(terms, [np.zeros(2, "<f4")])

    def judged(exponent: int, *quanta: int) -> Fault | None:
        return examine(task, base, MAGIC + np.array([exponent, *quanta], np.int8).tobytes())

    assert judged(0, 50, -33) is None
    assert judged(0, 50, -34) is Fault.NORM
    assert judged(0, 101, 0) is judged(0, 0, -101) is Fault.BOUND
    wide = replace(task, max_norm=None)
    assert examine(wide, base, MAGIC + np.array([0, 100, -100], np.int8).tobytes()) is None
    assert judged(0, -128, 0) is Fault.FORMAT
    assert judged(16, 0, 0) is judged(-65, 0, 0) is Fault.FORMAT
    assert examine(task, base, base) is Fault.FORMAT
    assert announced(task, 1, most_sent(task)) is None
    assert announced(task, 1, most_sent(task) + 1) is Fault.SIZE
    assert 2 * sent_size(task) <= most_sent(task) <= 3 * sent_size(task) + 4096, "what is wrong can be named"
    with pytest.raises(ValueError, match="needs the model"):
        examine(task, None, base)


def test_places_of_a_sparse_update_are_ascending_and_within_the_array() -> None:
    terms = (Array("w", "<f4", (BLOCK + 40,)),)  # 1 %: three of the first block, one of the rest
    task, base = task_of(*terms, compression="topk:1"), encode(terms, [np.zeros(BLOCK + 40, "<f4")])

    def judged(*places: int, quanta: tuple[int, ...] = (1, -2, 3, 4), exponent: int = 0) -> Fault | None:
        data = SPARSE_MAGIC + np.array([exponent, 1], np.int8).tobytes() + bytes(places)
        return examine(task, base, data + np.array(quanta, np.int8).tobytes())

    assert judged(0, 7, 255, 39) is None
    data = SPARSE_MAGIC + bytes([0, 1, 0, 7, 255, 39, 1, 254, 3, 4])
    (row,) = rows(task, base, data)
    assert {place: row[0:296][place] for place in np.flatnonzero(row[0:296])} == {0: 1, 7: -2, 255: 3, 295: 8}
    for wrong in ((0, 7, 7, 39), (7, 0, 255, 39), (0, 7, 255, 40), (0, 7, 255), (0, 7, 255, 39, 40)):
        assert judged(*wrong) is Fault.FORMAT
    assert judged(0, 7, 255, 39, quanta=(1, -128, 3, 4)) is Fault.FORMAT
    assert judged(0, 7, 255, 39, exponent=16) is Fault.FORMAT
    assert judged(0, 7, 255, 39, exponent=15) is Fault.BOUND
    assert examine(task, base, MAGIC + data[8:]) is Fault.FORMAT


@pytest.mark.parametrize("block", [0, 63, 64, 65, 66])
def test_places_of_every_block_ascend_and_nothing_follows_an_update(block: int) -> None:
    """Of 66 blocks and the rest, whose two places are the last of all."""
    terms = (Array("w", "<f4", (66 * BLOCK + 40,)),)
    task, k = task_of(*terms, compression="topk:5"), per_block(5)
    base = encode(terms, [np.zeros(terms[0].shape, "<f4")])
    right, _ = packed(task, base, encode(terms, drawn(1, 5, terms)))
    assert examine(task, base, right) is None
    first = len(SPARSE_MAGIC) + 67 + block * k
    for places in (right[first : first + 2][::-1], 2 * right[first : first + 1]):
        assert examine(task, base, right[:first] + places + right[first + 2 :]) is Fault.FORMAT


@pytest.mark.parametrize("form", [ROUGH, SPARSE])
def test_of_one_update_there_is_one_length(form: Task) -> None:
    base = encode(SHAPES, drawn(1, 50))
    right, _ = packed(form, base, encode(SHAPES, drawn(2, 90)))
    for wrong in (right + b"\0", right[:-1], b"\0" + right):
        assert examine(form, base, wrong) is Fault.FORMAT


@settings(max_examples=30)
@given(data=st.data(), form=FORMS)
def test_a_slice_of_an_update_is_that_of_the_whole(data: st.DataObject, form: Task) -> None:
    """Each block has another step: its elements are a sixteenth of those in the one before."""
    base = encode(SHAPES, [np.zeros(array.shape, array.dtype) for array in SHAPES])
    moved = drawn(2, 90)
    moved[0] *= (2.0 ** (-4 * (np.arange(moved[0].size) // BLOCK))).reshape(moved[0].shape).astype("<f4")
    sent, _ = packed(form, base, encode(SHAPES, moved))
    for array, row in zip(SHAPES, rows(form, base, sent), strict=True):
        stop = data.draw(st.integers(1, array.count))
        start = data.draw(st.integers(0, stop - 1))
        assert (row[start:stop] == row[0 : array.count][start:stop]).all()


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 63.5, 64, 126.9, 127]), st.integers(-60, 14)), min_size=1))
def test_an_exponent_is_the_least_with_which_all_of_a_block_fits(largest: list[tuple[float, int]]) -> None:
    sizes = [size * 2.0**exponent for size, exponent in largest]
    moved = np.concatenate([np.full(BLOCK, -size / 3) for size in sizes])
    moved[::BLOCK] = sizes
    for size, exponent in zip(sizes, exponents_of(moved).tolist(), strict=True):
        assert size <= LEVELS * 2.0**exponent
        assert exponent == LOWEST or size > LEVELS * 2.0 ** (exponent - 1)


@pytest.mark.parametrize("form", [INT8, "topk:49"])
def test_an_update_beyond_max_norm_stays_there_to_be_refused(form: str) -> None:
    terms = (Array("w", "<f4", (BLOCK,)),)
    task = task_of(*terms, compression=form, max_norm=3)
    base = encode(terms, [np.zeros(BLOCK, "<f4")])
    update = encode(terms, [np.repeat(np.array([1, 0], "<f4"), (BLOCK // 4, 3 * BLOCK // 4))])
    data, _ = packed(task, base, update)
    assert examine(task, base, data) is Fault.NORM
    assert np.allclose(meaning(task, base, data)[0], decode(terms, update, 100)[0], atol=1 / 127)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), norm=st.integers(1, 400), form=st.sampled_from([INT8, "topk:20"]))
def test_rounding_and_errors_kept_never_carry_an_update_over_a_bound(seed: int, norm: int, form: str) -> None:
    terms = (Array("w", "<f4", (CHUNK + 9,)),) if seed % 2 else (Array("w", "<f8", (9,)),)
    task = task_of(*terms, compression=form, max_norm=norm, max_abs=3)
    rng = np.random.default_rng(seed)
    base = encode(terms, [rng.uniform(-3, 3, terms[0].shape).astype(terms[0].dtype)])
    kept: Any = [rng.uniform(-1, 1, terms[0].count)]
    near = rng.uniform(-3, 3, terms[0].shape)
    moved = near - decode(terms, base, 3)[0]
    near -= moved * max(0.0, 1 - 0.999 * norm / float(np.linalg.norm(moved)))
    update = encode(terms, [near.astype(terms[0].dtype)])
    assert examine(replace(task, compression="none"), base, update) is None
    data, _ = packed(task, base, update, kept)
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
    described = {"arrays": [{"name": "w", "dtype": "<f8", "shape": [2]}], "max_abs": 100, "compression": INT8}
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


def test_what_waits_to_be_sent_outlasts_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terms = (Array("w", "<f8", (3,)), Array("n", "<i8", ()))
    desk = Desk(encode(terms, [np.zeros(3), np.array(5)]))
    described = {
        "arrays": [{"name": one.name, "dtype": one.dtype, "shape": list(one.shape)} for one in terms],
        "max_abs": 100,
        "compression": "topk:1",
    }
    file, task = tmp_path / "task.waiting", task_of(*terms, compression="topk:1")
    update = encode(terms, [np.array([1.0, 3.0, 2.0]), np.array(5)])  # one of three each time
    for number in (1, 2, 3):
        member = CompressingMember(desk, described, file)
        member.blob("")
        desk.asked = 0
        member.hand_in(number, update, 1, {})
    sent = [meaning(task, desk.base, data)[0] for data in desk.got]
    assert [int(np.flatnonzero(one)[0]) for one in sent] == [1, 2, 1]
    np.testing.assert_allclose([one.max() for one in sent], [3, 4, 6], rtol=0.01)
    file.write_bytes(b"half")
    assert CompressingMember(desk, described, file)._kept is None
    assert "what had been waiting to be sent is lost" in capsys.readouterr().err


def test_terms_say_the_form_and_older_rules_do_not_know_it() -> None:
    body = ROUGH.to_body()
    assert body["compression"] == INT8
    assert task_from_body(body) == ROUGH
    assert ROUGH.newer(4) == ("compression 'int8'", 5)
    assert "compression" not in PLAIN.to_body()
    assert SPARSE.newer(4) == SPARSE.newer(5) == ("compression 'topk:5'", 6)
    assert task_from_body(SPARSE.to_body()) == SPARSE
    for wrong in (
        "none",
        "zip",
        8,
        None,
        "topk",
        "topk:",
        "topk:0",
        "topk:50",
        "topk:05",
        "topk:٥",
        "int8:5",
    ):
        with pytest.raises(RecordError, match="compression"):
            task_from_body(body | {"compression": wrong})
    with pytest.raises(RecordError, match="compression"):
        task_from_body(body | {"mode": SERVER_APP})
    for terms, why in (
        ({"strategy": "clip|trimmed_mean"}, "put nnm before trimmed_mean"),
        ({"strategy": "median"}, "learns nothing"),
        ({"topology": GOSSIP}, "that all begin with"),
        ({"min_members": 3, "secure": 3}, "no compression"),
    ):
        with pytest.raises(RecordError, match=why):
            task_from_body(SPARSE.to_body() | terms)
