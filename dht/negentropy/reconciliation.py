"""Range-based set reconciliation: two nodes find out in few messages what one has and the other lacks.

Who asks names ranges and the fingerprints of what it has there; who answers is silent about those that are
equal, cuts the others in sixteen, and lists the ids once few are left. So the bytes grow with the difference
and the logarithm of the set, not with the set (A. Meyer, "Range-Based Set Reconciliation", 2022; on the wire
Negentropy V1, `dht.negentropy.range_messages`). Who answers remembers nothing from message to message; who
asks keeps what is open, and takes no answer to anything else.

An item stands for a record at a basis: its prefix is the first 64 bits of the basis, its id the CID's digest
xor a hash of the basis. (With the digest alone, a record that one lacks at one basis and the other at a
neighbouring one would add up to equal sums.) What is restricted to the bases that both should hold is a
matter of the ranges asked about.

Promises. For any two sets that stay as they are, who asks ends with the exact differences. Whatever comes
from the other side is a declared error or progress: no range is cut more than `MAX_DEPTH` times, an answer
that stops early is a full one, and an exchange ends after `MAX_ROUNDS` messages of `MAX_MESSAGE` bytes. What
cannot be noticed is one who says that everything is equal. Pure: the store is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from hashlib import sha256
from typing import Protocol

from chain.cid import Cid, digest, record_cid_of_digest
from dht.negentropy.range_messages import (
    END,
    FINGERPRINT,
    ID_SIZE,
    IDS,
    LAST_PREFIX,
    MAX_MESSAGE,
    MAX_RANGES,
    RANGE_BYTES,
    SKIP,
    START,
    VERSION,
    Bound,
    Draft,
    Item,
    Range,
    ReconciliationError,
    bound_above,
    bound_at,
    bound_between,
    decode,
    fingerprint,
    other_version,
)

BUCKETS = 16
"""Parts that a range which differs is cut into."""
FEW = 2 * BUCKETS
"""Fewer items than this are listed."""
ARC_FINGERPRINTS = 64
"""Fingerprints in the first message, when it is about several arcs, unless there are more arcs."""
MAX_ROUNDS = 64
"""Messages of ours in one exchange: some 130,000 ids may be listed to us."""
MAX_DEPTH = 24
"""How often a range may be cut by the two sides: sixteen to the twelfth for each."""
MAX_DIFFERENCES = 200_000
"""Items that only one side has, found in one exchange; it ends early beyond it."""
LIST_PAGE = 4_096
"""Own items read at a time."""
ITEM_TAG = b"roseforest/item/1\0"


@dataclass(frozen=True, slots=True)
class Total:
    """How many items there are below a bound, and the sum of their ids as little-endian integers."""

    count: int
    total: int


class RangeStore(Protocol):
    """One unchanging view of a set of items; each call O(log n)."""

    def below(self, bound: Bound) -> Total:
        """What lies below a bound."""
        ...

    def pair(self, place: int) -> tuple[Item, Item]:
        """The items at the places `place - 1` and `place`, counted from 0; both exist."""
        ...

    def items(self, lower: Bound, upper: Bound, limit: int) -> list[Item]:
        """The first `limit` items from `lower` on and below `upper`, ascending. O(limit) besides."""
        ...


def mask_of(basis: bytes) -> int:
    """What the digests of the CIDs at a basis are xored with to be ids."""
    return int.from_bytes(sha256(ITEM_TAG + basis).digest(), "little")


def prefix_of(basis: bytes) -> int:
    """The prefix of the items at a basis."""
    return min(int.from_bytes(basis[:8], "big"), LAST_PREFIX)


def id_of(cid: Cid, mask: int) -> bytes:
    """The id of the item of a record at a basis with this mask."""
    return (int.from_bytes(digest(cid), "little") ^ mask).to_bytes(ID_SIZE, "little")


def cid_of(item_id: bytes, mask: int) -> Cid:
    """The CID of the record whose item at a basis with this mask has this id."""
    return record_cid_of_digest((int.from_bytes(item_id, "little") ^ mask).to_bytes(ID_SIZE, "little"))


def bounds_of(basis: bytes) -> tuple[Bound, Bound]:
    """The range in which the items of one basis lie (and those of no other, if 64 bits tell them apart)."""
    prefix = prefix_of(basis)
    return (prefix, b""), (END if prefix == LAST_PREFIX else (prefix + 1, b""))


def answer(store: RangeStore, message: bytes) -> bytes:
    """The answer to a message of one who asks. O(ranges · log n + ids), at most `MAX_MESSAGE` bytes.

    Raises `ReconciliationError` for what is no message.
    """
    asked = decode(message)
    if asked is None:
        return other_version()
    out = Draft()
    lower = START
    for one in asked:
        if one.mode == FINGERPRINT:
            if _print(store, lower, one.upper) != one.fingerprint:
                parts = _split(store, lower, one.upper)
                if not _fits(out, parts):
                    break
                lower = _add(out, lower, parts)
        elif one.mode == IDS and lower < one.upper:
            most = (MAX_MESSAGE - len(out) - 3 * RANGE_BYTES) // ID_SIZE
            if most < 1 or out.ranges + 4 > MAX_RANGES:
                break
            found = store.items(lower, one.upper, most + 1)
            cut = bound_at(found[most]) if len(found) > most else one.upper
            out.add(lower, Range(cut, IDS, ids=tuple(item[1] for item in found[:most])))
            lower = cut
            if cut != one.upper:
                break
        lower = one.upper
    else:
        return out.message()
    # No more fits: the rest as one range, so that it will be asked about again.
    out.add(lower, Range(END, FINGERPRINT, _print(store, lower, END)))
    return out.message()


class _How(Enum):
    """How an open range is asked about."""

    FIRST = auto()
    """By few fingerprints: it is most likely equal."""
    AGAIN = auto()
    """As it was: it has not been answered."""
    CUT = auto()
    """In parts: it is known to differ."""


@dataclass(frozen=True, slots=True)
class _Open:
    """A range of which it is not known yet what differs; `listed`: it was asked about by ids."""

    lower: Bound
    upper: Bound
    how: _How
    depth: int = 0
    listed: bool = False


class Reconciliation:
    """The side that asks: send `next_message`, `receive` the answer, until there is no next message.

    `arcs` are the ranges to compare, ascending and apart. Of what was found `have` are the items that only
    this side has, `need` the ids that only the other has, each with the prefix at which the range began that
    it was listed in. Unless `complete`, nothing is known of `open_ranges`.
    """

    def __init__(
        self,
        arcs: Sequence[tuple[Bound, Bound]],
        *,
        max_rounds: int = MAX_ROUNDS,
        max_differences: int = MAX_DIFFERENCES,
    ) -> None:
        self._open = deque(_Open(lower, upper, _How.FIRST) for lower, upper in arcs if lower < upper)
        self._asked: deque[_Open] = deque()
        self._first = min(BUCKETS, max(1, ARC_FINGERPRINTS // max(1, len(self._open))))
        self._max_rounds = max_rounds
        self._max_differences = max_differences
        self.have: list[Item] = []
        self.need: list[Item] = []
        self.rounds = 0
        """Messages made so far."""

    @property
    def complete(self) -> bool:
        """Whether everything has been compared."""
        return not self._open and not self._asked

    @property
    def open_ranges(self) -> list[tuple[Bound, Bound]]:
        """What has not been compared, ascending."""
        return sorted((one.lower, one.upper) for one in (*self._asked, *self._open))

    def next_message(self, store: RangeStore) -> bytes | None:
        """What to ask now; None at the end, or when a limit is reached. O(ranges · log n)."""
        enough = len(self.have) + len(self.need) >= self._max_differences
        if not self._open or self._asked or enough or self.rounds >= self._max_rounds:
            return None
        self.rounds += 1
        out = Draft()
        while self._open:
            one = self._open[0]
            parts = self._parts(store, one)
            if not _fits(out, parts):
                break
            self._open.popleft()
            lower = one.lower
            for part in parts:
                listed = part.mode == IDS
                self._asked.append(_Open(lower, part.upper, _How.AGAIN, one.depth, listed))
                lower = part.upper
            _add(out, one.lower, parts)
        return out.message()

    def receive(self, store: RangeStore, message: bytes) -> None:
        """Take the answer to the last message. O(ranges · log n + ids).

        Raises `ReconciliationError` for what is no answer to it; the exchange is over then.
        """
        ranges = decode(message)
        if ranges is None:
            raise ReconciliationError(
                f"the other side speaks version {message[0] - VERSION + 1} of the protocol"
            )
        left: list[_Open] = []
        lower = START
        for one in ranges:
            if one.mode == SKIP:
                self._pass_over(one.upper)
            elif one.mode == FINGERPRINT and one.upper == END and not self._asked_to_the_end(lower):
                if len(message) < MAX_MESSAGE // 4 and len(ranges) < MAX_RANGES // 4:
                    raise ReconciliationError("an answer stops although there was room for more")
                left += self._asked
                self._asked.clear()
            elif lower < one.upper:
                asked = self._take(lower, one.upper)
                if one.mode == IDS:
                    left += self._compare(store, lower, one)
                elif asked.listed:
                    raise ReconciliationError("a list of ids is answered by a fingerprint")
                elif _print(store, lower, one.upper) != one.fingerprint:
                    if asked.depth >= MAX_DEPTH:
                        raise ReconciliationError(f"a range is cut more than {MAX_DEPTH} times")
                    left.append(_Open(lower, one.upper, _How.CUT, asked.depth + 1))
            lower = one.upper
        self._pass_over(END)
        self._open.extendleft(reversed(left))

    def _parts(self, store: RangeStore, one: _Open) -> list[Range]:
        if one.how is _How.CUT:
            return _split(store, one.lower, one.upper)
        below, upper = store.below(one.lower), store.below(one.upper)
        count = upper.count - below.count
        if count == 0 or (one.listed and count < FEW):
            return [_listed(store, one.lower, one.upper)]
        buckets = self._first if one.how is _How.FIRST and count >= FEW else 1
        return _cut(store, one.upper, below, upper, buckets)

    def _pass_over(self, upper: Bound) -> None:
        """Nothing is said of what was asked about below `upper`: it is equal."""
        while self._asked and self._asked[0].lower < upper:
            one = self._asked[0]
            if one.listed:
                raise ReconciliationError("a list of ids is not answered")
            if one.upper > upper:
                self._asked[0] = replace(one, lower=upper)
                return
            self._asked.popleft()

    def _take(self, lower: Bound, upper: Bound) -> _Open:
        """The range asked about of which the one from `lower` to `upper` is the first part left."""
        if not self._asked or self._asked[0].lower != lower or upper > self._asked[0].upper:
            raise ReconciliationError("an answer is about a range that was not asked about")
        one = self._asked[0]
        if one.upper == upper:
            self._asked.popleft()
        else:
            self._asked[0] = replace(one, lower=upper)
        return one

    def _asked_to_the_end(self, lower: Bound) -> bool:
        """Whether all from `lower` on was asked about by one fingerprint."""
        first = self._asked[0] if self._asked else None
        return first is not None and first.lower == lower and first.upper == END and not first.listed

    def _compare(self, store: RangeStore, lower: Bound, said: Range) -> list[_Open]:
        """Note what differs in a range of which the ids were listed; returns what was too much to note."""
        theirs = set(said.ids)
        only_theirs = set(theirs)
        room = max(0, self._max_differences - len(self.have))
        left: list[_Open] = []
        at = lower
        while page := store.items(at, said.upper, LIST_PAGE):
            for item in page:
                if item[1] in theirs:
                    only_theirs.discard(item[1])
                elif room:
                    self.have.append(item)
                    room -= 1
                elif not left:
                    left.append(_Open(bound_at(item), said.upper, _How.FIRST))
            if len(page) < LIST_PAGE:
                break
            at = bound_above(page[-1])
        self.need += [(lower[0], one) for one in sorted(only_theirs)]
        return left


def _print(store: RangeStore, lower: Bound, upper: Bound) -> bytes:
    below, above = store.below(lower), store.below(upper)
    return fingerprint(above.total - below.total, above.count - below.count)


def _listed(store: RangeStore, lower: Bound, upper: Bound) -> Range:
    return Range(upper, IDS, ids=tuple(item[1] for item in store.items(lower, upper, FEW)))


def _split(store: RangeStore, lower: Bound, upper: Bound) -> list[Range]:
    """What to say of a range that differs: its ids when they are few, else the fingerprints of its parts."""
    below, above = store.below(lower), store.below(upper)
    if above.count - below.count < FEW:
        return [_listed(store, lower, upper)]
    return _cut(store, upper, below, above, BUCKETS)


def _cut(store: RangeStore, upper: Bound, below: Total, above: Total, parts: int) -> list[Range]:
    """The fingerprints of a range in parts of equal counts, the first of them one larger; none is empty."""
    count = above.count - below.count
    ranges: list[Range] = []
    before = below
    for part in range(1, parts + 1):
        if part == parts:
            bound, here = upper, above
        else:
            place = count // parts * part + min(part, count % parts)
            bound = bound_between(*store.pair(below.count + place))
            here = store.below(bound)
        ranges.append(
            Range(bound, FINGERPRINT, fingerprint(here.total - before.total, here.count - before.count))
        )
        before = here
    return ranges


def _fits(out: Draft, parts: Sequence[Range]) -> bool:
    """Whether a message takes these, with what stands before and may have to follow them."""
    size = len(out) + sum(part.size for part in parts) + 2 * RANGE_BYTES
    return size <= MAX_MESSAGE and out.ranges + len(parts) + 2 <= MAX_RANGES


def _add(out: Draft, lower: Bound, parts: Sequence[Range]) -> Bound:
    for part in parts:
        out.add(lower, part)
        lower = part.upper
    return lower
