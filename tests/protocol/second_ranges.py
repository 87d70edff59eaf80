"""The client of `record.ranges` in docs/protocol.md (§8): Negentropy V1, as its author specifies it."""

from __future__ import annotations

from collections.abc import Sequence

from tests.protocol.second_format import Refused, sha256

Item = tuple[int, bytes]
INFINITY = 2**64 - 1
SKIP = b"\0"


def range_item(basis: bytes, digest: bytes) -> Item:
    """Timestamp and id of a record at one of its bases."""
    mask = sha256(b"roseforest/item/1\0", basis)
    return min(int.from_bytes(basis[:8], "big"), 2**64 - 2), bytes(
        a ^ b for a, b in zip(digest, mask, strict=True)
    )


def varint(number: int) -> bytes:
    digits = [number & 127]
    while number := number >> 7:
        digits.append(number & 127 | 128)
    return bytes(reversed(digits))


def fingerprint(items: Sequence[Item]) -> bytes:
    total = sum(int.from_bytes(item[1], "little") for item in items) % 2**256
    return sha256(total.to_bytes(32, "little"), varint(len(items)))[:16]


def bounds(ranges: Sequence[tuple[Item, bytes]]) -> bytes:
    """A message of ranges (each up to a bound, with its mode and what follows); those skipped become one."""
    message, last, skipped = b"\x61", 0, None
    for upper, said in ranges:
        for bound, text in (
            [(skipped, b"\0"), (upper, said)] if skipped and said != b"\0" else [(upper, said)]
        ):
            if text == b"\0" and bound == upper:
                skipped = upper
                continue
            time, prefix = bound
            message += (
                (b"\0" if time == INFINITY else varint(time - last + 1)) + varint(len(prefix)) + prefix + text
            )
            last, skipped = time, None
    return message


def question(items: Sequence[Item], *, listed: bool) -> bytes:
    """One range up to infinity, by its ids or by their fingerprint."""
    return bounds([((INFINITY, b""), ids(items) if listed else b"\1" + fingerprint(items))])


def ids(items: Sequence[Item]) -> bytes:
    return b"\2" + varint(len(items)) + b"".join(item[1] for item in sorted(items))


def ranges_of(message: bytes) -> list[tuple[Item, int, list[bytes]]]:
    """The ranges of a message: upper bound, mode, and the fingerprint or the ids."""
    if message[:1] != b"\x61":
        raise Refused("another version of Negentropy")
    at, time, ranges = 1, 0, []

    def number() -> int:
        nonlocal at
        value = 0
        while True:
            digit, at = message[at], at + 1
            value = value << 7 | digit & 127
            if digit < 128:
                return value

    def take(size: int) -> bytes:
        nonlocal at
        at += size
        return message[at - size : at]

    while at < len(message):
        step = number()
        time = INFINITY if step == 0 else time + step - 1
        bound, mode = (time, take(number())), number()
        ranges.append(
            (bound, mode, [take(32) for _ in range(number())] if mode == 2 else [take(16)] * (mode == 1))
        )
    return ranges


def next_message(items: Sequence[Item], answer: bytes) -> tuple[bytes, set[bytes], set[bytes]]:
    """What to say next (nothing when done), the ids that only we have, and those that only they have."""
    say, ours, theirs = [], set[bytes](), set[bytes]()
    lower: Item = (0, b"")
    for upper, mode, there in ranges_of(answer):
        here = [item for item in items if lower <= item < upper]
        differs = mode == 1 and there != [fingerprint(here)]
        say.append((upper, ids(here) if differs else SKIP))
        if mode == 2:
            known = {item[1] for item in here}
            ours, theirs = ours | (known - set(there)), theirs | (set(there) - known)
        lower = upper
    return bounds(say) if any(said != SKIP for _, said in say) else b"", ours, theirs
