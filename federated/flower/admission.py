"""What an answer must be before a strategy sees it.

Flower's strategies take what they get: they broadcast arrays of another shape, weigh by whatever number of
examples an answer claims, and average NaN into the model. So each answer is held against the message that it
answers and against the task's bounds first, and one that does not fit becomes an answer with an error, which
strategies leave out. A header is read before its array is (`federated.npy_header`), so no size that a sender
writes there is ever allocated.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, RecordDict

from federated.flower.errors import AppFailed
from federated.npy_header import MAX_HEADER, read_header

NUMPY = "numpy.ndarray"
"""What Flower calls an array in NumPy's format."""
KINDS = "fiub"
"""Kinds of dtypes that are taken: floating-point, signed, unsigned, truth values."""


def admit(
    request: RecordDict,
    reply: RecordDict,
    weights: frozenset[str],
    max_examples: int,
    max_abs: float,
) -> str | None:
    """Why an answer is not handed to the strategy, or None.

    Arrays under a key that the request has, too, have its names, shapes and dtypes; all arrays are finite and
    within `max_abs`; each metric named in `weights` is from 1 to `max_examples`.
    """
    asked = _one_form(request)
    try:
        for key, record in reply.array_records.items():
            like = asked.get(key) or (next(iter(asked.values())) if len(asked) == 1 else None)
            fault = _array_fault(record, like, max_abs)
            if fault is not None:
                return f"{key}: {fault}"
    except AppFailed as error:
        return str(error)
    for metrics in reply.metric_records.values():
        for name, value in metrics.items():
            values = value if isinstance(value, list) else [value]
            if not all(np.isfinite(one) for one in values):
                return f"metric {name!r} is not finite"
            if name in weights and not all(1 <= one <= max_examples for one in values):
                return f"metric {name!r} is {value}, outside 1 … {max_examples}"
    return None


def array_of(array: Any) -> np.ndarray[Any, Any]:
    """The values of a Flower array, once its header fits its length; raises `AppFailed`."""
    if array.stype != NUMPY:
        raise AppFailed(f"it is a {array.stype!r:.40}, not an array in NumPy's format")
    header = read_header(array.data[:MAX_HEADER])
    if header is None:
        raise AppFailed("its header is none of NumPy's")
    try:
        dtype = np.dtype(header.dtype)
    except TypeError as error:
        raise AppFailed(f"its dtype {header.dtype!r} is none of NumPy's") from error
    if dtype.kind not in KINDS:
        raise AppFailed(f"its dtype {dtype} is not one of numbers")
    size = prod(header.shape) * dtype.itemsize
    if header.stated != header.offset or len(array.data) != header.offset + size:
        raise AppFailed("its length is not what its header says")
    values: np.ndarray[Any, Any] = array.numpy()
    return values


def _one_form(request: RecordDict) -> Mapping[str, ArrayRecord]:
    return dict(request.array_records.items())


def _array_fault(record: ArrayRecord, like: ArrayRecord | None, max_abs: float) -> str | None:
    if like is not None and list(record) != list(like):
        return f"it has {len(record)} arrays of other names than the {len(like)} that were sent"
    for name, array in record.items():
        try:
            values = array_of(array)
        except AppFailed as error:
            return f"array {name!r:.80}: {error}"
        if like is not None:
            sent = like[name]
            if tuple(values.shape) != tuple(sent.shape):
                return f"array {name!r:.80} came back with shape {values.shape}, it was {tuple(sent.shape)}"
            if str(values.dtype) != str(sent.dtype):
                return f"array {name!r:.80} came back as {values.dtype}, it was {sent.dtype}"
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return f"array {name!r:.80} has a value that is not finite"
        if values.size and float(np.abs(values.astype(np.float64)).max()) > max_abs:
            return f"array {name!r:.80} has a value beyond {max_abs:g}"
    return None
