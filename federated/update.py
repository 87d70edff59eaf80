"""Models as bytes: the arrays of a task in its order, each as one NPY stream, and nothing else.

NPY (NumPy's documented format, version 1.0) because every tool can write it, and because its header is short
text: here it is compared with the one that the task's terms give, before a single element is looked at. There
is no pickle in it, and no size that its sender could choose: the length of the whole is known from the task,
so nothing is allocated for a model that does not fit it. `inspect` says by a fixed code what is wrong, the
same code on every machine, because members refuse each other by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from mmap import mmap
from typing import TYPE_CHECKING, Any, TypeAlias

from chain.learning_task import Array
from federated.npy_header import read_header

if TYPE_CHECKING:
    from numpy.typing import NDArray

Model: TypeAlias = bytes | mmap
"""The bytes of a model, in memory or mapped from disk."""

MAGIC = b"\x93NUMPY\x01\x00"
ALIGN = 64
"""NPY pads its header so that the elements start at a multiple of this."""
MAX_HEADER = 512
"""Bytes of one array's header; `MAX_DIMS` dimensions take less."""
CHUNK = 1 << 16
"""Elements checked at a time."""


class Fault(StrEnum):
    """Why an update cannot be used."""

    FORMAT = "format"
    """No NPY streams, another order of elements, or bytes after the last one."""
    SIZE = "size"
    """Far more bytes than the task's arrays have; they were not fetched."""
    DTYPE = "dtype"
    SHAPE = "shape"
    NOT_FINITE = "not-finite"
    BOUND = "bound"
    """A value beyond the task's `max_abs`."""
    NORM = "norm"
    """Further from what the round began with than the task's `max_norm`."""


class UpdateError(ValueError):
    """A model or update does not match its task; `fault` says how, the message where."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


def update_size(arrays: Sequence[Array]) -> int:
    """Bytes of every model of these arrays."""
    return sum(len(header_of(array)) + array.size for array in arrays)


def header_of(array: Array) -> bytes:
    """The NPY header of an array: magic, version, length, and the padded description."""
    inner = ", ".join(map(str, array.shape)) + ("," if len(array.shape) == 1 else "")
    text = f"{{'descr': '{array.dtype}', 'fortran_order': False, 'shape': ({inner}), }}".encode("ascii")
    padding = -(len(MAGIC) + 2 + len(text) + 1) % ALIGN
    length = len(text) + padding + 1
    return MAGIC + length.to_bytes(2, "little") + text + b" " * padding + b"\n"


def encode(arrays: Sequence[Array], values: Sequence[NDArray[Any]]) -> bytes:
    """The bytes of a model; raises `UpdateError` when `values` are not arrays of these terms.

    Shapes and dtypes must be right as they are: nothing is cast behind the user's back.
    """
    import numpy as np

    if len(arrays) != len(values):
        raise UpdateError(Fault.SHAPE, f"there are {len(values)} arrays, the task has {len(arrays)}")
    parts: list[bytes] = []
    for array, value in zip(arrays, values, strict=True):
        value = np.asarray(value)
        if value.dtype.newbyteorder("<") != np.dtype(array.dtype):
            raise UpdateError(
                Fault.DTYPE, f"array {array.name!r} is {value.dtype}, the task says {array.dtype}"
            )
        if value.shape != array.shape:
            raise UpdateError(
                Fault.SHAPE, f"array {array.name!r} has shape {value.shape}, the task says {array.shape}"
            )
        parts += [header_of(array), value.astype(array.dtype, copy=False).tobytes()]
    return b"".join(parts)


def decode(arrays: Sequence[Array], data: Model, max_abs: int) -> list[NDArray[Any]]:
    """The arrays of a model, as read-only views of `data`; raises `UpdateError`. O(bytes)."""
    views = [view for _, view in _views(arrays, data)]
    for array, view in zip(arrays, views, strict=True):
        _check_values(array, view, max_abs)
    return views


def inspect(arrays: Sequence[Array], data: Model, max_abs: int) -> Fault | None:
    """What is wrong with an update, or None; O(bytes), and no copy larger than `CHUNK` elements."""
    try:
        decode(arrays, data, max_abs)
    except UpdateError as error:
        return error.fault
    return None


def views(arrays: Sequence[Array], data: Model) -> list[NDArray[Any]]:
    """The arrays of a model that was checked before."""
    return [view for _, view in _views(arrays, data)]


def _views(arrays: Iterable[Array], data: Model) -> Iterator[tuple[Array, NDArray[Any]]]:
    import numpy as np

    offset = 0
    for array in arrays:
        expected = header_of(array)
        found = data[offset : offset + len(expected)]
        if found != expected:
            raise _header_fault(array, data[offset : offset + MAX_HEADER])
        offset += len(expected)
        if len(data) - offset < array.size:
            raise UpdateError(Fault.FORMAT, f"array {array.name!r} ends early")
        view: NDArray[Any] = np.frombuffer(data, array.dtype, array.count, offset).reshape(array.shape)
        yield array, view
        offset += array.size
    if offset != len(data):
        raise UpdateError(Fault.FORMAT, f"{len(data) - offset} bytes follow the last array")


def _header_fault(array: Array, start: bytes) -> UpdateError:
    """Why the bytes do not begin with the header of `array`."""
    header = read_header(start) if start.startswith(MAGIC) else None
    if header is None:
        return UpdateError(Fault.FORMAT, f"array {array.name!r} does not begin with an NPY 1.0 header")
    if header.dtype != array.dtype:
        return UpdateError(
            Fault.DTYPE, f"array {array.name!r} is {header.dtype!r}, the task says {array.dtype!r}"
        )
    if header.shape != array.shape:
        return UpdateError(
            Fault.SHAPE, f"array {array.name!r} has shape {header.shape}, the task says {array.shape}"
        )
    order = "is in Fortran order" if header.fortran else "has a header that is padded or spelled another way"
    return UpdateError(Fault.FORMAT, f"array {array.name!r} {order}")


def _check_values(array: Array, view: NDArray[Any], max_abs: int) -> None:
    import numpy as np

    flat = view.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        chunk = flat[start : start + CHUNK]
        low, high = chunk.min(), chunk.max()  # NaN, if there is one
        if low >= -max_abs and high <= max_abs:
            continue
        finite = bool(np.isfinite(low)) and bool(np.isfinite(high))
        if not finite:
            raise UpdateError(Fault.NOT_FINITE, f"array {array.name!r} holds a value that is not finite")
        worst = max(abs(float(low)), abs(float(high)))
        raise UpdateError(
            Fault.BOUND,
            f"array {array.name!r} holds a value of magnitude {worst:g}, the task allows {max_abs}",
        )
