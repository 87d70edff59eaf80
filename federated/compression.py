"""Updates in a quarter of the bytes, or far less: differences from the round's model, in 8 bits.

An int8 update *stands for* a plain one, element by element: base + q · 2**e, rounded to the array's dtype,
with |q| ≤ 127 and one exponent e for every `BLOCK` elements (`federated.quanta`); a `topk` one for the
model that the round began with, moved in a few elements of each block (`federated.sparse`). All that is
said of plain updates (bounds, norm, rules, audit) is said of what these stand for. Read row by row in
slices (`rows`), they are never expanded as a whole.

What is not sent, for an int8 element at most half a step 2**e, the member keeps and adds to its next update
(`compressed`): **error feedback** (Seide et al., 2014; Karimireddy et al., 2019). So nothing is lost for
good: after any number of rounds the sum of what was sent is the sum of what was meant less what is kept.

The int8 form: `MAGIC`, then for each array its exponents (int8) and its q (int8); integer arrays, which
take no part in this, as they are. The length of both forms follows from the task's terms, so there is no
header to trust, and nothing is allocated for what a sender says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from chain.learning_task import FLOAT16, NO_COMPRESSION, Array, Task
from federated.half import sent_arrays
from federated.quanta import (
    BLOCK,
    CHUNK,
    LEVELS,
    blocks_of,
    exponents_of,
    in_range,
    is_whole,
    moved_by,
    steps_of,
)
from federated.sparse import MAGIC as SPARSE_MAGIC
from federated.sparse import Sparse, is_canonical, largest, open_sparse, per_block, sparse_size
from federated.update import Fault, Model, UpdateError, decode, update_size, views

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAGIC: Final = b"RFq8\x01\x00\x00\x00"
SHRINK: Final = (1.0, 0.98, 0.9, 0.7, 0.4)
"""What is sent is scaled by, in turn, until what rounding makes of it is within `max_norm`."""
NORM_MARGIN: Final = 1 - 1e-6
"""Of `max_norm`: distances are taken in floating point here, in integers where they are judged."""


class Row(Protocol):
    """One array of an update, flat, read in slices."""

    def __getitem__(self, key: slice, /) -> NDArray[Any]: ...


class _Quantised:
    """What int8 elements stand for; slices cost what they are long."""

    __slots__ = ("_base", "_exponents", "_quanta")

    def __init__(self, base: NDArray[Any], exponents: NDArray[Any], quanta: NDArray[Any]) -> None:
        self._base = base
        self._exponents = exponents
        self._quanta = quanta

    def __getitem__(self, key: slice, /) -> NDArray[Any]:
        start, stop, _ = key.indices(self._quanta.size)
        first, last = start // BLOCK, -(-stop // BLOCK)
        steps = steps_of(self._exponents[first:last])[start - first * BLOCK : stop - first * BLOCK]
        return moved_by(self._base[start:stop], self._quanta[start:stop], steps)


def is_compressed(task: Task) -> bool:
    """Whether updates of this task are of a form here: differences from the model that a round began with."""
    return task.compression not in (NO_COMPRESSION, FLOAT16)


def compressed_size(arrays: Sequence[Array]) -> int:
    """Bytes of every int8 update of these arrays."""
    return len(MAGIC) + sum(
        array.size if is_whole(array) else blocks_of(array) + array.count for array in arrays
    )


def sent_size(task: Task) -> int:
    """Bytes of a right update of this task."""
    if task.top_k is not None:
        return sparse_size(task.arrays, task.top_k)
    return compressed_size(task.arrays) if is_compressed(task) else update_size(sent_arrays(task))


def most_sent(task: Task) -> int:
    """Bytes up to which a wrong update is fetched, so that the fault in it can be named."""
    return 2 * sent_size(task) + 4096


def rows(task: Task, base: Model | None, data: Model) -> Sequence[Row]:
    """The arrays of an update that was examined before; `base` is for those that are differences.

    Whole models in `federated.half`'s form are read as they are, each element exact.
    """
    if not is_compressed(task):
        return [view.reshape(-1) for view in views(sent_arrays(task), data)]
    if base is None:
        raise ValueError("a compressed update means nothing without the model that the round began with")
    origins = [view.reshape(-1) for view in views(task.arrays, base)]
    if task.top_k is not None:
        k = per_block(task.top_k)
        return [
            Sparse(origin, part, k) if part.whole is None else part.whole
            for origin, part in zip(origins, open_sparse(task.arrays, task.top_k, data), strict=True)
        ]
    return [
        quanta if exponents is None else _Quantised(origin, exponents, quanta)
        for origin, (exponents, quanta) in zip(origins, open_parts(task.arrays, data), strict=True)
    ]


def inspect_compressed(task: Task, base: Model, data: Model) -> Fault | None:
    """What is wrong with a compressed update, or None. O(elements), memory for some blocks."""
    try:
        right = _is_right(task, data)
    except UpdateError as error:
        return error.fault
    if not right:
        return Fault.FORMAT
    for array, row in zip(task.arrays, rows(task, base, data), strict=True):
        for start in range(0, array.count, CHUNK):
            values = row[start : start + CHUNK]
            if values.min() < -task.max_abs or values.max() > task.max_abs:
                return Fault.BOUND
    return None


def _is_right(task: Task, data: Model) -> bool:
    percent = task.top_k
    if percent is None:
        parts = open_parts(task.arrays, data)
        return all(exponents is None or in_range(exponents, quanta) for exponents, quanta in parts)
    sparse = open_sparse(task.arrays, percent, data)
    return all(is_canonical(array, percent, part) for array, part in zip(task.arrays, sparse, strict=True))


def quantise(
    arrays: Sequence[Array],
    base: Model,
    update: Model,
    kept: Sequence[NDArray[np.float64]] | None,
    max_abs: int,
    max_norm: int | None = None,
    top_k: int | None = None,
) -> tuple[bytes, list[NDArray[np.float64]]]:
    """An update as int8, and what is to be kept for the next one; `kept` is what the last one left. With
    `top_k` it is sparse, of so many per cent of the elements.

    Raises `UpdateError` where `update` is not the task's arrays within `max_abs`. What the error kept would
    carry beyond `max_abs` is cut off; where it or rounding would carry an update beyond `max_norm` that lies
    within it, what is sent is scaled down (`SHRINK`), and with int8 the error kept is dropped. Where `update`
    itself lies beyond, it stays there, to be refused.
    """
    origins = [view.reshape(-1) for view in views(arrays, base)]
    values = [view.reshape(-1) for view in decode(arrays, update, max_abs)]
    data, left, square = _quantised(arrays, origins, values, kept, max_abs, top_k, 1.0)
    if max_norm is None:
        return data, left
    limit = (max_norm * NORM_MARGIN) ** 2
    if square > limit and _square(arrays, origins, values) <= max_norm**2:
        # What waits for its turn is worth keeping; half a step of int8 is not.
        part = (limit / square) ** 0.5
        attempts = [] if top_k is None else [(kept, part * one) for one in SHRINK]
        for error, shrink in (*attempts, *((None, one) for one in SHRINK)):
            data, left, square = _quantised(arrays, origins, values, error, max_abs, top_k, shrink)
            if square <= limit:
                break
    return data, left


def _quantised(
    arrays: Sequence[Array],
    origins: Sequence[NDArray[Any]],
    values: Sequence[NDArray[Any]],
    kept: Sequence[NDArray[np.float64]] | None,
    max_abs: int,
    top_k: int | None,
    shrink: float,
) -> tuple[bytes, list[NDArray[np.float64]], float]:
    """The bytes, the errors, and the square of how far what the bytes stand for lies from `origins`."""
    import numpy as np

    out, left, square = [MAGIC if top_k is None else SPARSE_MAGIC], [], 0.0
    for place, (array, origin, value) in enumerate(zip(arrays, origins, values, strict=True)):
        if is_whole(array):
            out.append(value.tobytes())
            left.append(np.zeros(0))
            continue
        exponents, quanta = np.empty(blocks_of(array), np.int8), np.empty(array.count, np.int8)
        errors = np.zeros(array.count)
        places: list[NDArray[np.int64]] = []
        for start in range(0, array.count, CHUNK):
            part = slice(start, min(start + CHUNK, array.count))
            before = origin[part].astype(np.float64)
            meant = value[part].astype(np.float64)
            if kept is not None:
                meant += kept[place][part]
            np.clip(meant, -max_abs, max_abs, out=meant)
            moved = shrink * (meant - before)
            found = exponents_of(moved)
            steps = steps_of(found)[: moved.size]
            whole = np.clip(np.rint(moved / steps), -LEVELS, LEVELS)
            if top_k is not None:
                places.append(largest(moved, top_k))
                whole[np.delete(np.arange(whole.size), places[-1])] = 0
            sent = moved_by(origin[part], whole, steps)
            # Half a step up may lead over the bound; one step back leads between what was meant and the base.
            whole -= np.sign(whole) * (np.abs(sent) > max_abs)
            sent = moved_by(origin[part], whole, steps)
            exponents[start // BLOCK : start // BLOCK + found.size] = found
            quanta[part] = whole
            errors[part] = meant - sent
            square += float(np.sum((sent - before) ** 2))
        if top_k is None:
            out += [exponents.tobytes(), quanta.tobytes()]
        else:
            held = np.concatenate([start * CHUNK + one for start, one in enumerate(places)])
            out += [exponents.tobytes(), (held % BLOCK).astype(np.uint8).tobytes(), quanta[held].tobytes()]
        left.append(errors)
    return b"".join(out), left, square


def open_parts(arrays: Sequence[Array], data: Model) -> list[tuple[NDArray[Any] | None, NDArray[Any]]]:
    """(exponents, quanta) of each array, (None, elements) of an integer one; raises `UpdateError`."""
    import numpy as np

    if len(data) != compressed_size(arrays) or data[: len(MAGIC)] != MAGIC:
        raise UpdateError(Fault.FORMAT, "it is no int8 update of the task's arrays")
    parts: list[tuple[NDArray[Any] | None, NDArray[Any]]] = []
    offset = len(MAGIC)
    for array in arrays:
        if is_whole(array):
            parts.append((None, np.frombuffer(data, array.dtype, array.count, offset)))
            offset += array.size
            continue
        exponents = np.frombuffer(data, np.int8, blocks_of(array), offset)
        offset += exponents.size
        parts.append((exponents, np.frombuffer(data, np.int8, array.count, offset)))
        offset += array.count
    return parts


def _square(
    arrays: Sequence[Array], origins: Sequence[NDArray[Any]], values: Sequence[NDArray[Any]]
) -> float:
    import numpy as np

    return sum(
        float(np.sum((value.astype(np.float64) - origin) ** 2))
        for array, origin, value in zip(arrays, origins, values, strict=True)
        if not is_whole(array)
    )
