"""A campaign against what reads updates: NPY streams, int8 and sparse ones, each with some bytes changed.

Each input is a right update of a small task, in one of the three forms, that was damaged: a header said
otherwise, bytes cut off or put in, floats at the edges of their format. It has to be refused by a fault of
the table or stand for finite arrays of the task's shape within its bounds, of which every rule makes a model
that is right itself. What is read as NPY is what NumPy reads.
"""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from chain.aggregation_rule import ROBUST
from chain.cid import blob_cid
from chain.learning_task import FLOAT16, GOSSIP, INT8, Array, Task
from federated.admission import examine
from federated.aggregation import average
from federated.compression import MAGIC, is_compressed, quantise, rows
from federated.half import halved, is_half, sent_arrays
from federated.npy_header import MAX_HEADER, read_header
from federated.quanta import BLOCK
from federated.robust import round_model
from federated.sparse import MAGIC as SPARSE_MAGIC
from federated.update import Fault, UpdateError, decode, encode, inspect, update_size
from tests.federated.models import task_of
from tests.mutation import Mutator

SHAPES = (
    Array("w", "<f4", (BLOCK + 44, 2)),
    Array("b", "<f8", (3,)),
    Array("n", "<i8", (2,)),
    Array("s", "<f4", ()),
)
PLAIN = task_of(*SHAPES, max_norm=60)
TASKS = (
    PLAIN,
    replace(PLAIN, strategy=ROBUST),
    replace(PLAIN, compression=INT8, strategy=ROBUST),
    replace(PLAIN, compression="topk:5", strategy="median"),
    replace(PLAIN, compression="topk:1", max_norm=None),
    replace(PLAIN, compression=FLOAT16, topology=GOSSIP),
)
HEADERS = (
    b"'<f2'",
    b"'|O'",
    b"'<f4'",
    b"'<f8'",
    b"'>f4'",
    b"'<c16'",
    b"'<U9'",
    b"True",
    b"(3,)",
    b"(300, -2)",
    b"(999999999999, 999999999999)",
    b"(,)",
    b"((), )",
    b"__import__('os')",
    b"\n",
)
FLOATS = tuple(struct.pack("<d", x) for x in (float("nan"), float("inf"), 1e308, -0.0, 5e-324, 100.5))
FLOATS += tuple(struct.pack("<f", x) for x in (float("nan"), -float("inf"), 3.4e38, 1e-45, 100.1))
WORDS = (b"\x7f", b"\x80", b"\xff", b"\x00" * 8, b"\xff" * 8, b"\x80" + b"\x00" * 7, *FLOATS)


def _drawn(seed: int, most: float) -> bytes:
    rng = np.random.default_rng(seed)
    return encode(SHAPES, [np.asarray(rng.uniform(-most, most, a.shape)).astype(a.dtype) for a in SHAPES])


BASE = _drawn(0, 1.0)


def sent(task: Task, seed: int) -> bytes:
    """A right update of the task."""
    update = _drawn(seed, 2.0)
    if is_half(task):
        return halved(SHAPES, update, task.max_abs)
    if not is_compressed(task):
        return update
    return quantise(SHAPES, BASE, update, None, task.max_abs, task.max_norm, task.top_k)[0]


GOOD = [[sent(task, seed) for seed in (1, 2, 3)] for task in TASKS]


def hostile(rng: random.Random, task: Task) -> bytes:
    """A right update of the task with something wrong in it, mostly."""
    data = rng.choice(GOOD[TASKS.index(task)])
    mutator = Mutator(rng, blobs=(*WORDS, *HEADERS, MAGIC, SPARSE_MAGIC))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 5))):
        match rng.randrange(5):
            case 0:
                data = mutator.data(data)
            case 1:
                at, word = rng.randrange(len(data) + 1), rng.choice(WORDS)
                data = data[:at] + word + data[at + len(word) :]
            case 2:
                found = data.find(b"{'descr'")
                old = rng.choice(
                    (b"'<f4'", b"'<f8'", b"False", b"(300, 2)", b"(3,)", b"()", b"shape", b" \n")
                )
                data = data.replace(old, rng.choice(HEADERS), 1) if found >= 0 else mutator.data(data)
            case 3:
                # The bytes of another form, or of another array, in the place of these.
                other = rng.choice(rng.choice(GOOD))
                at = rng.randrange(len(data) + 1)
                data = data[:at] + other[at : len(data)] + data[at + max(0, len(other) - at) :]
            case 4:
                at, to = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
                data = data[:at] + bytes([rng.choice((0, 127, 128, 129, 255))]) * (to - at) + data[to:]
    return data


def check(task: Task, data: bytes) -> bool:
    """Judge an update and, when it passes, what it stands for; whether it passed."""
    verdict = examine(task, BASE, data)
    assert verdict is None or isinstance(verdict, Fault)
    check_header(data)
    if not is_compressed(task):
        check_npy(task, data)
    if verdict is not None:
        return False
    for array, row in zip(sent_arrays(task), rows(task, BASE, data), strict=True):
        flat = row[0 : array.count]
        assert flat.dtype == np.dtype(array.dtype)
        assert flat.shape == (array.count,)
        assert np.isfinite(flat).all()
        assert (np.abs(flat.astype(np.float64)) <= task.max_abs).all()
        for start in (0, 1, BLOCK - 1, BLOCK, array.count - 1):
            part = row[start : start + 3]
            assert (part == flat[start : start + 3]).all(), "a slice is a part of the whole"
    parts = [(blob_cid(data), data, 7)]
    parts += [(blob_cid(one), one, 5) for one in GOOD[TASKS.index(task)] if one != data]
    model = round_model(task, BASE, parts)
    assert inspect(SHAPES, model, task.max_abs) is None
    assert len(model) == update_size(SHAPES)
    if task.rule is None and not is_compressed(task):
        assert model == average(task, [(one, examples) for _, one, examples in parts])
    return True


def check_npy(task: Task, data: bytes) -> None:
    """What is read here as NPY is what NumPy reads, array by array and to the last byte."""
    try:
        found = decode(sent_arrays(task), data, task.max_abs)
    except UpdateError as error:
        lines = str(error).splitlines()
        if len(lines) != 1:
            raise AssertionError("refused in more than one line") from error
        return
    stream = io.BytesIO(data)
    for view in found:
        other = np.load(stream, allow_pickle=False)
        assert other.dtype == view.dtype
        assert other.shape == view.shape
        assert (other == view).all()
    assert not stream.read()


def check_header(data: bytes) -> None:
    """What stands in a header is what NumPy reads there."""
    header = read_header(data[:MAX_HEADER])
    if header is None or header.offset != header.stated or data[6] != 1:
        return
    stream = io.BytesIO(data)
    np.lib.format.read_magic(stream)
    try:
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except ValueError:
        return  # a dtype that is none
    assert (shape, fortran, stream.tell()) == (header.shape, header.fortran, header.offset)
    assert dtype == np.dtype(header.dtype)


def campaign(seed: int, more: Callable[[int], bool]) -> tuple[int, int]:
    """Judge hostile updates as long as `more(how many so far)`; how many there were, and how many passed."""
    number = passed = 0
    while more(number):
        rng = random.Random(f"{seed}/{number}")
        task = rng.choice(TASKS)
        data = hostile(rng, task)
        try:
            passed += check(task, data)
        except Exception as error:
            error.add_note(f"input {number} of seed {seed}: {TASKS.index(task)} {data.hex()}")
            raise
        number += 1
    return number, passed
