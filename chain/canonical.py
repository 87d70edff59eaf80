"""Canonical msgpack: one value, one byte string.

The deterministic subset of msgpack: nil, booleans, integers in their shortest form, UTF-8 strings,
byte strings, arrays, and maps whose keys are strings in ascending code-point order. There are no floats,
no extension types and no duplicate keys. `decode` accepts exactly the bytes that `encode` produces, so a
hash over an encoding identifies the value, and no second encoding of it can be passed around the network.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NoReturn

import msgpack

from chain.errors import EncodingError, NonCanonicalError, OversizedError, TruncatedError

MAX_DEPTH = 16
"""Nesting levels of arrays and maps; deeper values are refused in both directions."""

MAX_CONTAINERS = 16_384
"""Arrays and maps in one value, in both directions. A megabyte of empty arrays would take a second to read,
and honest values, bundles of records included, have a few thousand.
"""

MAX_ELEMENTS = 65_536
"""Elements of all its arrays and maps together, in both directions. A megabyte of small integers would take
half a second; honest values of that size are byte strings, of which there are a few thousand.
"""

Value = Any
"""None | bool | int | str | bytes | list[Value] | dict[str, Value]; mypy has no useful recursive `Any`-free
form.
"""


def encode(value: Value) -> bytes:
    """Return the canonical encoding of `value` (tuples are encoded as arrays).

    Raises:
        EncodingError: a float, another type, a non-string key, an integer outside -2**63 … 2**64-1, a lone
            surrogate, nesting deeper than `MAX_DEPTH`, or more than `MAX_CONTAINERS` arrays and maps or
            `MAX_ELEMENTS` elements.
    """
    try:
        return bytes(msgpack.packb(_canonical(value, 0, _Count()), use_bin_type=True))
    except (OverflowError, UnicodeEncodeError, ValueError) as error:
        if isinstance(error, EncodingError):
            raise
        raise EncodingError(f"value has no canonical encoding: {error}") from error


def decode(data: bytes, limit: int) -> Value:
    """Decode canonical bytes of at most `limit` bytes.

    Raises:
        OversizedError: `data` is longer than `limit`, or holds more than `MAX_CONTAINERS` arrays and maps or
            `MAX_ELEMENTS` elements.
        TruncatedError: `data` ends early, or announces more elements than it has bytes.
        NonCanonicalError: floats, extension types, unsorted or duplicate keys, long integer forms,
            trailing bytes, or anything else that would not re-encode to `data`.
    """
    if len(data) > limit:
        raise OversizedError(f"encoding has {len(data)} bytes, the limit is {limit}")
    count = _Count()
    try:
        # strict_map_key is off so that _sorted_map names a wrong key; no dict is built before it has looked.
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            list_hook=count.array,
            object_pairs_hook=count.sorted_map,
            ext_hook=_no_ext,
        )
    except msgpack.ExtraData as error:
        raise NonCanonicalError("bytes follow the encoded value") from error
    except (msgpack.OutOfData, msgpack.StackError) as error:
        raise TruncatedError("encoding is nested too deeply or ends early") from error
    except EncodingError:
        raise
    except UnicodeDecodeError as error:
        raise NonCanonicalError("a string is not UTF-8") from error
    except ValueError as error:
        raise TruncatedError(f"encoding is truncated or malformed: {error}") from error
    if type(value) not in _TYPES:
        raise NonCanonicalError(_OUTSIDE.format(type(value).__name__))
    if MAX_CONTAINERS - count.containers > MAX_DEPTH and _is_too_deep(value):
        raise NonCanonicalError(f"value is nested deeper than {MAX_DEPTH} levels")
    # Types and the keys' order were looked at as each array and map was read: packing tells the rest.
    if msgpack.packb(value, use_bin_type=True) != data:
        raise NonCanonicalError("encoding is not the shortest, sorted form of its value")
    return value


_LEAVES: Final = frozenset({bytes, str, int, bool, type(None)})
_CONTAINERS: Final = frozenset({list, tuple, dict})
_TYPES: Final = _LEAVES | {list, dict}
"""What msgpack may make of canonical bytes."""
_OUTSIDE: Final = "not the canonical subset of msgpack: type {} has no canonical encoding"


class _Count:
    """Counts the arrays and maps of one value and their elements, as they are read or written."""

    __slots__ = ("containers", "elements")

    def __init__(self) -> None:
        self.containers = MAX_CONTAINERS
        self.elements = MAX_ELEMENTS

    def one(self, elements: int) -> None:
        self.containers -= 1
        self.elements -= elements
        if self.containers < 0:
            raise OversizedError(f"value has more than {MAX_CONTAINERS} arrays and maps")
        if self.elements < 0:
            raise OversizedError(f"value has more than {MAX_ELEMENTS} elements")

    def array(self, items: list[Value]) -> list[Value]:
        self.one(len(items))
        if not _TYPES.issuperset(map(type, items)):
            raise NonCanonicalError(_OUTSIDE.format(_outside(items)))
        return items

    def sorted_map(self, pairs: list[tuple[Any, Any]]) -> dict[str, Value]:
        self.one(len(pairs))
        made = _sorted_map(pairs)
        if not _TYPES.issuperset(map(type, made.values())):
            raise NonCanonicalError(_OUTSIDE.format(_outside(made.values())))
        return made


def _canonical(value: Value, depth: int, count: _Count) -> Value:
    """What msgpack packs into the canonical bytes: `value` itself, as far as its maps are sorted."""
    kind = type(value)
    if kind in _LEAVES:
        return value
    if kind not in _CONTAINERS:
        raise EncodingError(f"type {kind.__name__} has no canonical encoding")
    if depth >= MAX_DEPTH:
        raise EncodingError(f"value is nested deeper than {MAX_DEPTH} levels")
    count.one(len(value))
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise EncodingError(f"map key {key!r} is not a string")
        return {key: _canonical(value[key], depth + 1, count) for key in sorted(value)}
    if _LEAVES.issuperset(map(type, value)):
        return value
    return [item if type(item) in _LEAVES else _canonical(item, depth + 1, count) for item in value]


def _is_too_deep(value: Value) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        parts = [one.values() if type(one) is dict else one for one in level]
        level = [item for part in parts for item in part if type(item) is list or type(item) is dict]
        if not level:
            return False
    return True


def _outside(items: Iterable[Value]) -> str:
    return next(type(item).__name__ for item in items if type(item) not in _TYPES)


def _sorted_map(pairs: list[tuple[Any, Any]]) -> dict[str, Value]:
    previous: str | None = None
    for key, _ in pairs:
        if type(key) is not str:
            raise NonCanonicalError(f"map key {key!r} is not a string")
        if previous is not None and key <= previous:
            raise NonCanonicalError(f"map key {key!r} is a duplicate or out of order")
        previous = key
    return dict(pairs)


def _no_ext(code: int, _data: bytes) -> NoReturn:
    raise NonCanonicalError(f"extension type {code} is not allowed")
