"""What an answer must be before a strategy sees it.

Flower's strategies take what they get: they broadcast arrays of another shape, weigh by whatever number of
examples an answer claims, and average NaN into the model. So each answer is held against the message that it
answers and against the task's bounds first, and one that does not fit becomes an answer with an error, which
strategies leave out. A header is read before its array is (`federated.npy_header`), so no size that a sender
writes there is ever allocated.
"""

from __future__ import annotations

from collections import Counter
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
BYTES = "uint8"
"""A row of these is a model in a format of its own, a boosted tree's say: its length is the sender's."""


def admit(
    request: RecordDict,
    reply: RecordDict,
    weights: frozenset[str],
    max_examples: int,
    max_abs: float,
) -> str | None:
    """Why an answer is not handed to the strategy, or None.

    Arrays under a key that the request has, too, have its names, shapes and dtypes, and so have those of the
    only record of arrays that answers the only one, and values within `max_abs`; all arrays are finite; each
    metric named in `weights` is from 1 to `max_examples`.
    """
    asked = dict(request.array_records.items())
    alone = len(asked) == len(reply.array_records) == 1
    try:
        for key, record in reply.array_records.items():
            like = asked.get(key) or (next(iter(asked.values())) if alone else None)
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


def odd_ones(
    replies: Mapping[int, RecordDict], kinds: Mapping[int, str], weights: frozenset[str]
) -> list[tuple[int, str]]:
    """Which answers are not of the form that the others have, and why; by place, with their messages' types.

    Of several forms the one that Flower's strategies can use counts, then the one of most answers, then that
    of the first. When no answer is of another form than the rest nobody is odd, whatever the form.
    """
    odd: list[tuple[int, str]] = []
    for kind in sorted(set(kinds.values())):
        forms = {place: _form(replies[place]) for place in sorted(replies) if kinds[place] == kind}
        counts = Counter(forms.values())
        usual = max(counts, key=lambda form: (_usable(form, kind, weights), counts[form]))
        fault = f"it is of another form than {counts[usual]} answers to the same call"
        odd += [(place, fault) for place, form in forms.items() if form != usual]
    return odd


def unreadable(message: RecordDict) -> str | None:
    """Which array of a coordinator's message is not what its header says, before an app allocates for it."""
    for key, record in message.array_records.items():
        for name, array in record.items():
            try:
                _described(array)
            except AppFailed as error:
                return f"{key}, array {name!r:.80}: {error}"
    return None


def array_of(array: Any) -> np.ndarray[Any, Any]:
    """The values of a Flower array, once its header fits its length; raises `AppFailed`."""
    _described(array)
    values: np.ndarray[Any, Any] = array.numpy()
    return values


def _described(array: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Dtype and shape by the header: what the array says beside it may be missing, in the older interface
    say."""
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
    return dtype, tuple(header.shape)


_Form = tuple[tuple[tuple[str, tuple[str, ...]], ...], tuple[tuple[str, tuple[tuple[str, int], ...]], ...]]
"""Records of arrays with the arrays' names, records of metrics with names and lengths; -1: no list."""


def _form(reply: RecordDict) -> _Form:
    arrays = tuple((key, tuple(sorted(record))) for key, record in sorted(reply.array_records.items()))
    metrics = tuple(
        (
            key,
            tuple((name, len(one) if isinstance(one, list) else -1) for name, one in sorted(record.items())),
        )
        for key, record in sorted(reply.metric_records.items())
    )
    return arrays, metrics


def _usable(form: _Form, kind: str, weights: frozenset[str]) -> bool:
    arrays, metrics = form
    enough = len(arrays) == 1 or kind.partition(".")[0] != "train"
    return enough and len(metrics) == 1 and any(name in weights and n < 0 for name, n in metrics[0][1])


def _array_fault(record: ArrayRecord, like: ArrayRecord | None, max_abs: float) -> str | None:
    if like is not None and list(record) != list(like):
        return f"it has {len(record)} arrays of other names than the {len(like)} that were sent"
    for name, array in record.items():
        try:
            values = array_of(array)
        except AppFailed as error:
            return f"array {name!r:.80}: {error}"
        if like is not None:
            dtype, shape = _described(like[name])
            loose = dtype == BYTES and values.ndim == len(shape) == 1
            if values.shape != shape and not loose:
                return f"array {name!r:.80} came back with shape {values.shape}, it was {shape}"
            if values.dtype != dtype:
                return f"array {name!r:.80} came back as {values.dtype}, it was {dtype}"
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return f"array {name!r:.80} has a value that is not finite"
        if like is not None and values.size and float(np.abs(values.astype(np.float64)).max()) > max_abs:
            return f"array {name!r:.80} has a value beyond {max_abs:g}"
    return None
