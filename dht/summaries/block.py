"""Blocks: a shard in short, as rows that have a key, with versions and what changed between two of them.

A block is a set of rows of one length, each with a key of its own, in the order of the keys: so two holders
of the same have the same bytes, and equal digests. Its holder counts changes (`History`). Who has the block
as it was at one count gets keys and rows that take it to the present one, and these may be applied twice, or
to what is newer already. A version names the holder's instance besides its count, so a restart, or another
holder, is told apart; and the digest, so that a block that happens to be the same is not sent again.

The laws (tests/dht/test_summary_blocks.py): any sequence of deltas, in order, gives the whole block; a delta
applied again changes nothing; equal rows have equal digests, whatever way they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise

from dht.errors import DhtError

DIGEST_BYTES = 16
INSTANCE_BYTES = 8
MAX_ROWS = 1 << 14
"""Rows of one block: more than a shard has before it splits, many times."""
MAX_LOGGED = 4_096
"""Keys of changes that a holder remembers for each block; who is further behind gets the whole one."""
_MODULUS = 1 << (8 * DIGEST_BYTES)


class SummaryError(DhtError):
    """Rows that no block has."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a block is about: its name on the wire, and the bytes of a row's key and body."""

    name: str
    key: int
    body: int

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return self.key + self.body


@dataclass(frozen=True, slots=True)
class Version:
    """A block as it was with one holder: `instance` is drawn when a node starts, `counter` only grows."""

    instance: bytes
    counter: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one kind, ascending by key, one after the other in `rows`.

    `total` is the sum of the rows' hashes; `digest` is it in bytes. Made by `of` and `read`, which check.
    """

    kind: Kind
    rows: bytes = b""
    total: int = field(default=0, repr=False)

    @classmethod
    def of(cls, kind: Kind, rows: Mapping[bytes, bytes]) -> Block:
        """The block with these bodies by key; O(n log n). Raises `SummaryError` for other lengths."""
        for key, body in rows.items():
            if len(key) != kind.key or len(body) != kind.body:
                raise SummaryError(
                    f"a row of {len(key)} + {len(body)} bytes: {kind.name!r} has {kind.key} + {kind.body}"
                )
        return cls._sorted(kind, sorted(rows.items()))

    @classmethod
    def read(cls, kind: Kind, rows: bytes) -> Block:
        """The block of these bytes, which anybody may have made. Raises `SummaryError`."""
        return cls(kind, rows, sum(map(_hash, check_rows(kind, rows))) % _MODULUS)

    @classmethod
    def _sorted(cls, kind: Kind, items: Iterable[tuple[bytes, bytes]]) -> Block:
        rows = [key + body for key, body in items]
        return cls(kind, b"".join(rows), sum(map(_hash, rows)) % _MODULUS)

    def __len__(self) -> int:
        return len(self.rows) // self.kind.row

    @property
    def digest(self) -> bytes:
        """The same for the same rows, 16 bytes; it keeps no secret and withstands no forger."""
        return self.total.to_bytes(DIGEST_BYTES, "big")

    def mapping(self) -> dict[bytes, bytes]:
        """Bodies by key, ascending; O(n)."""
        return {row[: self.kind.key]: row[self.kind.key :] for row in split(self.rows, self.kind.row)}

    def get(self, key: bytes) -> bytes | None:
        """The body of a key; O(log n)."""
        start = self._place(key) * self.kind.row
        row = self.rows[start : start + self.kind.row]
        return row[self.kind.key :] if row and row[: self.kind.key] == key else None

    def page(self, after: bytes | None, limit: int) -> tuple[bytes, bool]:
        """Up to `limit` rows with keys above `after`, and whether there are more behind them; O(limit)."""
        place = 0 if after is None else self._place(after) + (self.get(after) is not None)
        end = (place + limit) * self.kind.row
        return self.rows[place * self.kind.row : end], end < len(self.rows)

    def _place(self, key: bytes) -> int:
        """How many rows have smaller keys."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            at = middle * self.kind.row
            if self.rows[at : at + self.kind.key] < key:
                low = middle + 1
            else:
                high = middle
        return low

    def changed(self, removed: Iterable[bytes], added: Mapping[bytes, bytes]) -> Block:
        """This block without the rows of some keys, and with others, which replace those of equal keys.

        What is not there is passed over, what is there already stays. O(n).
        """
        rows = self.mapping()
        total = self.total
        for key in removed:
            body = rows.pop(key, None)
            if body is not None:
                total -= _hash(key + body)
        new = len(rows)
        for key, body in added.items():
            before = rows.get(key)
            if before != body:
                total += _hash(key + body) - (0 if before is None else _hash(key + before))
            rows[key] = body
        if len(rows) > new:
            rows = dict(sorted(rows.items()))
        return Block(self.kind, b"".join(key + body for key, body in rows.items()), total % _MODULUS)


@dataclass(frozen=True, slots=True)
class Delta:
    """Keys whose rows go, ascending, and rows that come, ascending by key."""

    removed: tuple[bytes, ...]
    added: Mapping[bytes, bytes]


class History:
    """A block at its holder, and what has changed lately. Not for several threads at a time."""

    __slots__ = ("_floor", "_log", "_logged", "block", "counter")

    def __init__(self, kind: Kind) -> None:
        self.block = Block(kind)
        self.counter = -1
        """Of which count the block is; -1: it was never made."""
        self._log: deque[tuple[int, frozenset[bytes]]] = deque()
        self._logged = 0
        self._floor = 0

    def become(self, rows: Mapping[bytes, bytes], counter: int) -> None:
        """The block has these rows at this count. O(n log n). Raises `SummaryError`."""
        before, after = self.block.mapping(), Block.of(self.block.kind, rows)
        first = self.counter < 0
        if not first:
            keys = {key for key in before.keys() | rows.keys() if before.get(key) != rows.get(key)}
            if keys:
                self._log.append((counter, frozenset(keys)))
                self._logged += len(keys)
        else:
            self._floor = counter
        while self._logged > MAX_LOGGED:
            self._floor, gone = self._log.popleft()
            self._logged -= len(gone)
        self.block, self.counter = after, counter

    def since(self, counter: int) -> Delta | None:
        """What takes the block of that count to the present one; None when that is not known any more.

        O(changes).
        """
        if not self._floor <= counter <= self.counter:
            return None
        keys = sorted(set().union(*(keys for at, keys in self._log if at > counter)))
        found = {key: self.block.get(key) for key in keys}
        return Delta(
            tuple(key for key, body in found.items() if body is None),
            {key: body for key, body in found.items() if body is not None},
        )


def check_rows(kind: Kind, rows: bytes) -> list[bytes]:
    """The rows in these bytes; raises `SummaryError` unless they are whole, ascending, and not too many."""
    if len(rows) % kind.row or len(rows) > MAX_ROWS * kind.row:
        raise SummaryError(f"{len(rows)} bytes: a block of {kind.name!r} has up to {MAX_ROWS} of {kind.row}")
    found = list(split(rows, kind.row))
    if any(one[: kind.key] >= other[: kind.key] for one, other in pairwise(found)):
        raise SummaryError(f"the rows of a block of {kind.name!r} are not ascending by key")
    return found


def split(data: bytes, size: int) -> Iterator[bytes]:
    """The parts of `size` bytes that follow one another."""
    return (data[at : at + size] for at in range(0, len(data), size))


def _hash(row: bytes) -> int:
    return int.from_bytes(blake2b(row, digest_size=DIGEST_BYTES).digest(), "big")
