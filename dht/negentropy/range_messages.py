"""The messages of range-based set reconciliation: Negentropy's protocol version 1, byte for byte.

A set of items, each a 64-bit prefix and a 256-bit id, is laid out in that order; a message says something
about contiguous ranges of it: nothing (`SKIP`), a fingerprint of the ids there, or the ids themselves. The
fingerprint is SHA-256 over the sum of the ids modulo 2**256 and their number, so that those of adjoining
ranges can be had from stored sums. Source: D. Hoyte, "Negentropy Protocol V1" (2023), after A. Meyer,
"Range-Based Set Reconciliation" (2022).

Promise: any bytes decode to ranges in ascending order within `MAX_MESSAGE` and `MAX_RANGES`, or raise
`ReconciliationError`; what was encoded decodes to the same. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias

from dht.errors import FrameError

VERSION = 0x61
"""Protocol version 1; the versions are 0x60 + n."""
ID_SIZE = 32
FINGERPRINT_SIZE = 16
MODULUS = 1 << (8 * ID_SIZE)
SKIP, FINGERPRINT, IDS = 0, 1, 2
MAX_MESSAGE = 64 * 1024
"""Bytes of one message, ours or theirs."""
MAX_RANGES = 1_024
"""Ranges in one message; each may cost its reader a look into the store."""
MAX_VARINT = 10
"""Digits of the longest varint: 64 bits."""
LAST_PREFIX = (1 << 64) - 2
"""The greatest prefix an item may have."""
RANGE_BYTES = 2 * MAX_VARINT + ID_SIZE + 1 + FINGERPRINT_SIZE
"""The longest range without ids."""

Item: TypeAlias = tuple[int, bytes]
"""Prefix and id; items are ordered as these tuples are."""
Bound: TypeAlias = tuple[int, bytes]
"""Prefix and the beginning of an id, without zeros at its end: below an item that is not less."""

START: Bound = (0, b"")
END: Bound = ((1 << 64) - 1, b"")
"""Above all items: what the protocol calls infinity."""


class ReconciliationError(FrameError):
    """A message that is none, or that does not answer what was asked."""


@dataclass(frozen=True, slots=True)
class Range:
    """What a message says of the items from the range before it up to `upper`, that excluded."""

    upper: Bound
    mode: int = SKIP
    fingerprint: bytes = b""
    ids: tuple[bytes, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that it takes at most."""
        return RANGE_BYTES + ID_SIZE * len(self.ids)


def fingerprint(total: int, count: int) -> bytes:
    """The fingerprint of `count` items whose ids, as little-endian integers, sum up to `total`."""
    total_bytes = (total % MODULUS).to_bytes(ID_SIZE, "little")
    return sha256(total_bytes + _varint(count)).digest()[:FINGERPRINT_SIZE]


def bound_between(below: Item, above: Item) -> Bound:
    """The shortest bound that separates two adjoining items."""
    if below[0] != above[0]:
        return (above[0], b"")
    shared = next(place for place, (a, b) in enumerate(zip(below[1], above[1], strict=True)) if a != b)
    return (above[0], above[1][: shared + 1])


def bound_at(item: Item) -> Bound:
    """The bound right below an item."""
    return (item[0], item[1].rstrip(b"\0"))


def bound_above(item: Item) -> Bound:
    """A bound right above an item; not one for a message, as it is longer than an id."""
    return (item[0], item[1] + b"\1")


class Draft:
    """A message in the making; ranges are added in ascending order. A skip at its end is left out."""

    def __init__(self) -> None:
        self._out = bytearray([VERSION])
        self._last = 0
        self._upper = START
        self.ranges = 0
        """Ranges in it so far."""

    def __len__(self) -> int:
        return len(self._out)

    def add(self, lower: Bound, one: Range) -> None:
        """Say something of the range from `lower` on, and nothing of what lies before it."""
        if lower != self._upper:
            self._put(Range(lower))
        self._put(one)

    def message(self) -> bytes:
        """The message."""
        return bytes(self._out)

    def _put(self, one: Range) -> None:
        self._upper = one.upper
        self.ranges += 1
        if one.upper == END:
            self._out += b"\0\0"
        else:
            prefix, beginning = one.upper
            self._out += _varint(prefix - self._last + 1) + _varint(len(beginning)) + beginning
            self._last = prefix
        self._out.append(one.mode)
        if one.mode == FINGERPRINT:
            self._out += one.fingerprint
        elif one.mode == IDS:
            self._out += _varint(len(one.ids)) + b"".join(one.ids)


def decode(message: bytes) -> list[Range] | None:
    """The ranges of a message, ascending; None for one of another version. O(message).

    Raises `ReconciliationError`.
    """
    if not 0 < len(message) <= MAX_MESSAGE:
        raise ReconciliationError(
            f"a reconciliation message has 1 to {MAX_MESSAGE} bytes, not {len(message)}"
        )
    if message[0] != VERSION:
        if message[0] >> 4 != VERSION >> 4:
            raise ReconciliationError(f"{message[0]:#x} is no version of the reconciliation protocol")
        return None
    reader = _Reader(message, 1)
    ranges: list[Range] = []
    lower = START
    while reader.left:
        if len(ranges) == MAX_RANGES:
            raise ReconciliationError(f"a reconciliation message has at most {MAX_RANGES} ranges")
        if lower == END:
            raise ReconciliationError("a range lies beyond the end of all ranges")
        upper = reader.bound(lower[0])
        if upper < lower:
            raise ReconciliationError("the ranges are not ascending")
        mode = reader.varint()
        if mode == SKIP:
            ranges.append(Range(upper))
        elif mode == FINGERPRINT:
            ranges.append(Range(upper, mode, reader.take(FINGERPRINT_SIZE)))
        elif mode == IDS:
            ranges.append(Range(upper, mode, ids=reader.ids()))
        else:
            raise ReconciliationError(f"{mode} is no mode of a range")
        lower = upper
    return ranges


def other_version() -> bytes:
    """The answer to a message of a version that we do not speak: the one that we do."""
    return bytes([VERSION])


def sum_of(ids: Sequence[bytes]) -> int:
    """The sum that `fingerprint` takes."""
    return sum(int.from_bytes(one, "little") for one in ids) % MODULUS


class _Reader:
    """Reads a message from its beginning to its end; every method raises `ReconciliationError`."""

    def __init__(self, message: bytes, place: int) -> None:
        self._message = message
        self._place = place

    @property
    def left(self) -> int:
        return len(self._message) - self._place

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise ReconciliationError("a reconciliation message ends in the middle of a range")
        start = self._place
        self._place += size
        return self._message[start : self._place]

    def varint(self) -> int:
        value = 0
        for digit in range(MAX_VARINT):
            byte = self.take(1)[0]
            if digit == 0 and byte == 0x80:
                raise ReconciliationError("a number has leading zeros")
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                if value > END[0]:
                    break
                return value
        raise ReconciliationError("a number has more than 64 bits")

    def bound(self, before: int) -> Bound:
        step, size = self.varint(), self.varint()
        if size > ID_SIZE:
            raise ReconciliationError(f"a bound has at most {ID_SIZE} bytes of an id, not {size}")
        beginning = self.take(size)
        if step == 0:
            if size:
                raise ReconciliationError("the end of all ranges has no id")
            return END
        prefix = before + step - 1
        if prefix > LAST_PREFIX:
            raise ReconciliationError(f"a bound at {prefix} lies beyond {LAST_PREFIX}")
        return (prefix, beginning.rstrip(b"\0"))

    def ids(self) -> tuple[bytes, ...]:
        count = self.varint()
        if count * ID_SIZE > self.left:
            raise ReconciliationError("a list of ids is longer than its message")
        return tuple(self.take(ID_SIZE) for _ in range(count))


def _varint(value: int) -> bytes:
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(value & 0x7F | 0x80)
    return bytes(reversed(digits))
