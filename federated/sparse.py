"""Sparse updates: of every block of 256 elements only those that differ most, each as a place and a quantum.

Top-k sparsification (Aji and Heafield, 2017; Stich et al., 2018), by blocks: the k largest differences of
each block, k being the task's share of 256. So a place is one byte, the length of an update follows from
the terms, and any slice can be read by itself. ‖x − C(x)‖² ≤ (1 − k/256) ‖x‖² holds block by block and so
for the whole, which is all that convergence with error feedback needs (Karimireddy et al., 2019); what is
not sent now is kept and sent when it has grown (`federated.compression`).

The form: `MAGIC`, then for each array its exponents (int8, one a block), its places (uint8, k a block) and
its q (int8, k a block); integer arrays as they are. Places ascend strictly within a block and lie within
the array; a short last block has fewer of them, by the same share. The elements without a place stay as
they were, bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from chain.learning_task import Array
from federated.quanta import BLOCK, CHUNK, blocks_of, in_range, is_whole, moved_by
from federated.update import Fault, Model, UpdateError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAGIC: Final = b"RFtk\x01\x00\x00\x00"


@dataclass(frozen=True, slots=True)
class Part:
    """One array of a sparse update: `whole` its elements where they are integers, else the other three."""

    whole: NDArray[Any] | None
    exponents: NDArray[Any]
    places: NDArray[Any]
    quanta: NDArray[Any]


class Sparse:
    """What the elements of an array stand for; slices cost what they are long."""

    __slots__ = ("_base", "_part", "_per_block")

    def __init__(self, base: NDArray[Any], part: Part, per_block: int) -> None:
        self._base = base
        self._part = part
        self._per_block = per_block

    def __getitem__(self, key: slice, /) -> NDArray[Any]:
        import numpy as np

        start, stop, _ = key.indices(self._base.size)
        first, last = start // BLOCK, -(-stop // BLOCK)
        held = slice(first * self._per_block, last * self._per_block)
        at = self._part.places[held].astype(np.int64)
        block = np.arange(at.size) // self._per_block
        at += block * BLOCK + (first * BLOCK - start)
        there = (at >= 0) & (at < stop - start)
        steps = np.ldexp(1.0, self._part.exponents[first:last].astype(np.int32))[block]
        found = self._base[start:stop].copy()
        at = at[there]
        found[at] = moved_by(found[at], self._part.quanta[held][there], steps[there])
        return found


def per_block(percent: int, elements: int = BLOCK) -> int:
    """How many elements of a block of so many are sent: at least one."""
    return -(-elements * percent // 100)


def sparse_size(arrays: Sequence[Array], percent: int) -> int:
    """Bytes of every sparse update of these arrays."""
    return len(MAGIC) + sum(
        array.size if is_whole(array) else blocks_of(array) + 2 * _sent(array, percent) for array in arrays
    )


def open_sparse(arrays: Sequence[Array], percent: int, data: Model) -> list[Part]:
    """The arrays of an update, as views of `data`, which may still be wrong; raises `UpdateError`."""
    import numpy as np

    if len(data) != sparse_size(arrays, percent) or data[: len(MAGIC)] != MAGIC:
        raise UpdateError(Fault.FORMAT, "it is no sparse update of the task's arrays")
    none = np.zeros(0, np.int8)
    parts: list[Part] = []
    offset = len(MAGIC)
    for array in arrays:
        if is_whole(array):
            parts.append(Part(np.frombuffer(data, array.dtype, array.count, offset), none, none, none))
            offset += array.size
            continue
        blocks, sent = blocks_of(array), _sent(array, percent)
        exponents = np.frombuffer(data, np.int8, blocks, offset)
        places = np.frombuffer(data, np.uint8, sent, offset + blocks)
        quanta = np.frombuffer(data, np.int8, sent, offset + blocks + sent)
        parts.append(Part(None, exponents, places, quanta))
        offset += blocks + 2 * sent
    return parts


def is_canonical(array: Array, percent: int, part: Part) -> bool:
    """Whether exponents and quanta are in range, and places too and strictly ascending. Memory for blocks."""
    if part.whole is not None:
        return True
    if not in_range(part.exponents, part.quanta):
        return False
    k, full = per_block(percent), array.count // BLOCK
    for start in range(0, full, CHUNK // BLOCK):
        rows = part.places[start * k : min(start + CHUNK // BLOCK, full) * k].reshape(-1, k)
        if not (rows[:, 1:] > rows[:, :-1]).all():
            return False
    rest = part.places[full * k :]
    return not rest.size or bool((rest[1:] > rest[:-1]).all() and rest[-1] < array.count % BLOCK)


def largest(moved: NDArray[Any], percent: int) -> NDArray[np.int64]:
    """Where the differences that are sent lie, ascending: of each block those of the largest magnitude."""
    import numpy as np

    full = moved.size // BLOCK
    sizes, k = np.abs(moved), per_block(percent)
    found = []
    if full:
        rows = np.argpartition(-sizes[: full * BLOCK].reshape(full, BLOCK), k - 1, axis=1)[:, :k]
        rows.sort(axis=1)
        found.append((rows + BLOCK * np.arange(full)[:, None]).reshape(-1))
    if moved.size > full * BLOCK:
        rest = sizes[full * BLOCK :]
        found.append(
            full * BLOCK + np.sort(np.argsort(-rest, kind="stable")[: per_block(percent, rest.size)])
        )
    return np.concatenate(found)


def _sent(array: Array, percent: int) -> int:
    full, rest = divmod(array.count, BLOCK)
    return full * per_block(percent) + (per_block(percent, rest) if rest else 0)
