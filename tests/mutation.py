"""Hostile variants of valid messages: `Mutator` changes a field, a type, a length, a number, a nesting.

What is mutated are values as they are before they are encoded (JSON, or the canonical encoding), and bytes.
A campaign begins with messages that real code made, so that most of a variant is right and what reads it gets
far enough to stumble. Everything follows from the random numbers that the mutator is given.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

Place = tuple[Any, Any]
"""Something that holds a value, and under which index or key."""

NUMBERS: tuple[int, ...] = (
    *(0, 1, -1, 2, 3, 15, 16, 17, 127, 128, 255, 256, 257, 10_000, 10_001),
    *((1 << bits) + more for bits in (31, 32, 53, 63, 64, 128) for more in (-1, 0, 1)),
    *(-(1 << 31), -(1 << 63), -(1 << 63) - 1),
)
TEXTS = (
    "",
    "\0",
    " ",
    "\n",
    "a\nb\r\nc",
    "x" * 65,
    "x" * 5_000,
    "\u202e\u0000\ufeff",
    "\U0001f339" * 20,
    "e\u0301" * 50,
    "NaN",
    "-1",
    "../../etc/passwd",
    "%00",
    "None",
)
BYTES = (b"", b"\0", bytes(32), bytes(64), b"\xff" * 36, b"\x93NUMPY\x01\x00", bytes(5_121))


class Mutator:
    """`others` are values that stand well in other places: they are put where they do not belong."""

    def __init__(
        self,
        rng: random.Random,
        others: Sequence[Any] = (),
        numbers: Sequence[Any] = NUMBERS,
        texts: Sequence[str] = TEXTS,
        blobs: Sequence[bytes] = BYTES,
        is_json: bool = False,
    ) -> None:
        self._rng = rng
        self._others = others
        self._numbers = numbers
        self._texts = texts
        self._blobs = blobs
        self._is_json = is_json

    def value(self, value: Any) -> Any:
        """A copy of a value with one to three changes, seldom with none."""
        root = [copy.deepcopy(value)]
        for _ in range(self._rng.choice((0, 1, 1, 1, 1, 1, 2, 3))):
            self._change(root)
        return root[0] if root else None

    def data(self, data: bytes) -> bytes:
        """A copy of some bytes: cut off, flipped, doubled, overwritten, or with something put in."""
        rng = self._rng
        at = rng.randrange(len(data) + 1)
        to = min(len(data), at + rng.choice((1, 1, 2, 4, 8, 64)))
        match rng.randrange(7):
            case 0:
                return data[:at]
            case 1:
                return data[:at] + rng.randbytes(to - at) + data[to:]
            case 2 if data:
                flipped = bytearray(data)
                flipped[at % len(data)] ^= 1 << rng.randrange(8)
                return bytes(flipped)
            case 3:
                return data[:at] + data[to:]
            case 4:
                return data[:at] + rng.choice(self._blobs) + data[at:]
            case 5:
                return data + data[at:to]
        edge = rng.choice((b"\0", b"\x7f", b"\x80", b"\xff"))
        return data[:at] + edge * (to - at) + data[to:]

    # -- parts --

    def _change(self, root: list[Any]) -> None:
        rng = self._rng
        places = list(_places(root))
        if not places:
            return
        holder, key = rng.choice(places)
        old = holder[key]
        changes: list[Callable[[], None]] = [
            lambda: self._put(holder, key, self._near(old)),
            lambda: self._put(holder, key, self._near(old)),
            lambda: self._put(holder, key, self._junk()),
            lambda: self._put(holder, key, copy.deepcopy(_at(rng.choice(places)))),
            lambda: self._remove(holder, key),
            lambda: self._double(holder, key),
            lambda: self._rename(holder, key),
            lambda: self._put(holder, key, _nested(old, rng.choice((1, 2, 15, 20)))),
        ]
        rng.choice(changes)()

    def _near(self, value: Any) -> Any:
        """A value of the same type, at an edge."""
        rng = self._rng
        match value:
            case bool():
                return not value
            case int():
                return rng.choice((value + 1, value - 1, -value, value * 2, rng.choice(self._numbers)))
            case float():
                return rng.choice((value * 2, -value, float(rng.choice((0, 1e-320, 1e308)))))
            case str():
                return rng.choice((value[:-1], value + "a", value.upper(), rng.choice(self._texts)))
            case bytes():
                return self.data(value)
            case list():
                changed = [*value, *rng.sample(value, len(value) and 1)]
                rng.shuffle(changed)
                return rng.choice((changed, value[: len(value) // 2], value[::-1], value * 3, value * 300))
            case dict():
                return dict(rng.sample(list(value.items()), len(value) // 2))
        return self._junk()

    def _junk(self) -> Any:
        rng = self._rng
        kinds: list[Callable[[], Any]] = [
            lambda: None,
            lambda: rng.choice((True, False)),
            lambda: rng.choice(self._numbers),
            lambda: rng.choice(self._texts),
            lambda: None if self._is_json else rng.choice(self._blobs),
            lambda: rng.choice(([], {}, [[]], [None], {"": 0})),
            lambda: copy.deepcopy(rng.choice(self._others)) if self._others else [],
        ]
        return rng.choice(kinds)()

    def _put(self, holder: Any, key: Any, value: Any) -> None:
        holder[key] = value

    def _remove(self, holder: Any, key: Any) -> None:
        del holder[key]

    def _double(self, holder: Any, key: Any) -> None:
        if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            holder[self._rng.choice(("more", "", str(key) + "s", "round"))] = copy.deepcopy(holder[key])

    def _rename(self, holder: Any, key: Any) -> None:
        if isinstance(holder, dict):
            holder[self._rng.choice((str(key).upper(), "\0", "x" * 300))] = holder.pop(key)
        else:
            holder.append(holder.pop(key))


def _places(value: Any) -> list[Place]:
    """All that can be changed in a value, from the outside in."""
    found: list[Place] = []
    todo = [value]
    while todo:
        one = todo.pop()
        keys = range(len(one)) if isinstance(one, list) else list(one) if isinstance(one, dict) else ()
        for key in keys:
            found.append((one, key))
            todo.append(one[key])
    return found


def _at(place: Place) -> Any:
    return place[0][place[1]]


def _nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value
