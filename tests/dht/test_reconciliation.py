"""Range-based set reconciliation: exact differences for any two sets, the public wire format, bounded cost.

The transcripts in `data/negentropy_v1.json` were made by running the protocol author's C++ implementation
against itself and against this one; the sets follow from seeds.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.cid import record_cid_of_digest
from dht.negentropy import reconciliation
from dht.negentropy.range_messages import (
    END,
    FINGERPRINT,
    IDS,
    LAST_PREFIX,
    MAX_MESSAGE,
    MAX_RANGES,
    START,
    Bound,
    Draft,
    Item,
    Range,
    ReconciliationError,
    decode,
)
from dht.negentropy.reconciliation import MAX_ROUNDS, Reconciliation, Total, answer, cid_of, id_of, mask_of
from tests.dht.range_sets import EVERYTHING, ItemSet, exchange, item

TRANSCRIPTS = json.loads((Path(__file__).parent / "data" / "negentropy_v1.json").read_text())
PREFIXES = st.one_of(st.integers(0, 3), st.integers(0, LAST_PREFIX))
ITEMS = st.sets(
    # An id is made of the basis too: no two items at different prefixes have the same.
    st.builds(lambda prefix, number: item(prefix, prefix << 16 | number), PREFIXES, st.integers(0, 10_000)),
    max_size=60,
)


def seeded(transcript: dict) -> tuple[set[Item], set[Item], set[Item]]:
    """Items of both, and of the asker and the answerer alone."""
    rng = random.Random(transcript["seed"])
    both, mine, theirs = (
        {item(rng.randrange(transcript["spread"]), start + n) for n in range(transcript[name])}
        for name, start in (("both", 0), ("only_asker", 10**6), ("only_answerer", 2 * 10**6))
    )
    return both, mine, theirs


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda one: f"set {one['seed']}")
def test_the_reference_implementation_is_answered_and_understood_byte_for_byte(transcript: dict) -> None:
    both, mine, theirs = seeded(transcript)
    store = ItemSet(both | theirs)
    said = [bytes.fromhex(one) for one in transcript["reference_asks"]]
    for asked, answered in zip(said[::2], said[1::2], strict=True):
        assert answer(store, asked) == answered
    asking, store = Reconciliation(EVERYTHING), ItemSet(both | mine)
    said = [bytes.fromhex(one) for one in transcript["we_ask"]]
    for asked, answered in zip(said[::2], said[1::2], strict=True):
        assert asking.next_message(store) == asked
        asking.receive(store, answered)
    assert asking.next_message(store) is None
    assert set(asking.have) == mine
    assert {one for _, one in asking.need} == {one for _, one in theirs}


@given(ITEMS, ITEMS, ITEMS, st.lists(PREFIXES, max_size=6))
@settings(max_examples=60, deadline=None)
def test_any_two_sets_end_with_the_exact_differences_in_the_arcs_asked_about(
    both: set[Item], mine: set[Item], theirs: set[Item], cuts: list[int]
) -> None:
    arcs: tuple[tuple[Bound, Bound], ...] = EVERYTHING
    if cuts:
        edges = [(prefix, b"") for prefix in sorted(set(cuts))]
        arcs = tuple(zip(edges[::2], [*edges[1::2], END], strict=False))
    inside = {one for one in both | mine | theirs if any(low <= one < high for low, high in arcs)}
    mine, theirs = both | mine, both | theirs
    asking = Reconciliation(arcs)
    messages = exchange(ItemSet(mine), ItemSet(theirs), asking)
    assert asking.complete
    assert sorted(asking.have) == sorted((mine - theirs) & inside)
    assert {one for _, one in asking.need} == {one for _, one in (theirs - mine) & inside}
    assert len(messages) <= 8
    assert sum(map(len, messages)) < 5_000 + 40 * (len(both) + 32 * len(mine ^ theirs))


@pytest.mark.parametrize(("mine", "theirs"), [(9_000, 0), (0, 9_000), (9_000, 9_000)])
def test_large_differences_come_in_bounded_messages(mine: int, theirs: int) -> None:
    rng = random.Random(1)
    ours = [item(rng.randrange(LAST_PREFIX), n) for n in range(mine)]
    others = [item(rng.randrange(LAST_PREFIX), 10**6 + n) for n in range(theirs)]
    asking = Reconciliation(EVERYTHING)
    messages = exchange(ItemSet(ours), ItemSet(others), asking)
    assert asking.complete
    assert sorted(asking.have) == sorted(ours)
    assert sorted(one for _, one in asking.need) == sorted(one for _, one in others)
    assert max(map(len, messages)) <= MAX_MESSAGE
    assert len(messages) <= 8 + 2 * (32 * theirs // MAX_MESSAGE) * 2
    assert sum(map(len, messages)) < 10_000 + 2 * 32 * (mine + theirs)


def test_an_exchange_that_reaches_a_limit_says_what_is_left() -> None:
    ours = [item(n << 40, n) for n in range(9_000)]
    few = Reconciliation(EVERYTHING, max_differences=500)
    exchange(ItemSet(ours), ItemSet([]), few)
    assert not few.complete
    assert 500 <= len(few.have) < 1_000
    told = set(few.have)
    left = [one for one in ours if one not in told]
    assert all(any(low <= one < high for low, high in few.open_ranges) for one in left)
    short = Reconciliation(EVERYTHING, max_rounds=1)
    exchange(ItemSet(ours), ItemSet(ours[1:]), short)
    assert not short.complete
    assert short.rounds == 1


class Hostile:
    """Answers whatever the lie says, forever; the cost to the asker is counted in looks at its store."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def splits_without_end(self, message: bytes) -> bytes:
        out = Draft()
        lower = START
        for one in decode(message) or []:
            if one.mode == FINGERPRINT:
                middle = self._between(lower, one.upper)
                out.add(lower, Range(middle, FINGERPRINT, self.rng.randbytes(16)))
                out.add(middle, Range(one.upper, FINGERPRINT, self.rng.randbytes(16)))
            elif one.mode == IDS:
                out.add(lower, Range(one.upper, IDS, ids=()))
            lower = one.upper
        return out.message()

    def lists_what_nobody_has(self, message: bytes) -> bytes:
        out = Draft()
        lower = START
        for one in decode(message) or []:
            if one.mode and len(out) < MAX_MESSAGE - 2_000:
                out.add(lower, Range(one.upper, IDS, ids=tuple(self.rng.randbytes(32) for _ in range(40))))
            lower = one.upper
        return out.message()

    def leaves_everything_for_later(self, _: bytes) -> bytes:
        out = Draft()
        out.add(START, Range(END, FINGERPRINT, bytes(16)))
        return out.message()

    def is_silent_about_lists(self, _: bytes) -> bytes:
        return Draft().message()

    @staticmethod
    def _between(lower: Bound, upper: Bound) -> Bound:
        low = int.from_bytes(lower[1].ljust(32, b"\0"), "big") + (lower[0] << 256)
        high = int.from_bytes(upper[1].ljust(32, b"\0"), "big") + (upper[0] << 256)
        middle = (low + high) // 2
        if not low < middle < high:
            return upper
        return (middle >> 256, (middle & (1 << 256) - 1).to_bytes(32, "big").rstrip(b"\0"))


class Counting(ItemSet):
    looks = 0

    def below(self, bound: Bound) -> Total:
        self.looks += 1
        return super().below(bound)


@pytest.mark.parametrize("lie", [name for name in vars(Hostile) if name[0] != "_"])
def test_a_hostile_answerer_costs_a_bounded_number_of_looks_and_rounds(lie: str) -> None:
    store = Counting(item(n << 40, n) for n in range(2_000))
    asking = Reconciliation(EVERYTHING)
    liar = Hostile(1)
    try:
        while (message := asking.next_message(store)) is not None:
            asking.receive(store, getattr(liar, lie)(message))
    except ReconciliationError:
        pass
    assert asking.rounds <= MAX_ROUNDS
    assert store.looks <= 12 * MAX_RANGES * asking.rounds
    assert len(asking.need) <= 2_048 * asking.rounds


def _random_message(rng: random.Random, like: bytes) -> bytes:
    """A message with a few bytes changed, cut short, or nothing but noise."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.randrange(60))
    changed = bytearray(like)
    for _ in range(rng.randrange(4)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed[: rng.randrange(len(changed) + 1)] if kind == 1 else changed)


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_a_declared_error_or_progress(seed: int) -> None:
    rng = random.Random(seed)
    mine = ItemSet(item(rng.choice([n, n << 50]), n) for n in range(rng.randrange(200)))
    theirs = ItemSet([*mine.all, *(item(n, 10**6 + n) for n in range(rng.randrange(80)))])
    asking = Reconciliation(EVERYTHING, max_rounds=8)
    try:
        while (message := asking.next_message(mine)) is not None:
            rounds = asking.rounds
            message = _random_message(rng, message) if rng.random() < 0.3 else message
            said = answer(theirs, message)
            assert len(said) <= MAX_MESSAGE
            asking.receive(mine, _random_message(rng, said) if rng.random() < 0.5 else said)
            assert asking.rounds == rounds
    except ReconciliationError:
        assert asking.next_message(mine) is None or asking.rounds <= 8


def _message(*ranges: tuple[bytes, ...]) -> bytes:
    return b"\x61" + b"".join(b"".join(one) for one in ranges)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"", "0"),
        (bytes(MAX_MESSAGE + 1), "bytes"),
        (b"\x51", "no version"),
        (b"\x61\x80\x01\x00\x00", "leading zeros"),
        (b"\x61" + b"\xff" * 10 + b"\x01\x00\x00", "64 bits"),
        (_message((b"\x05\x00\x00",), (b"\x01\x21" + bytes(33) + b"\x00",)), "32 bytes"),
        (_message((b"\x05\x01\x09\x00",), (b"\x01\x01\x08\x00",)), "not ascending"),
        (_message((b"\x00\x00\x00",), (b"\x00\x00\x00",)), "beyond the end"),
        (_message((b"\x00\x01\x00\x00",)), "has no id"),
        (_message((b"\x00\x00\x03",)), "no mode"),
        (_message((b"\x00\x00\x02\x7f",)), "longer than"),
        (_message((b"\x00\x00\x01", bytes(15))), "middle"),
        (_message((b"\x81" + b"\xff" * 8 + b"\x7f\x00\x00",), (b"\x7f\x00\x00",)), "beyond"),
        (b"\x61" + b"\x02\x00\x00" * (MAX_RANGES + 1), f"{MAX_RANGES} ranges"),
    ],
)
def test_what_is_no_message_is_refused_with_its_reason(message: bytes, says: str) -> None:
    with pytest.raises(ReconciliationError, match=says):
        decode(message)


def test_another_version_is_answered_with_ours_and_refused_by_who_asks() -> None:
    store = ItemSet([])
    assert answer(store, b"\x62\x01\x02") == b"\x61"
    asking = Reconciliation(EVERYTHING)
    assert asking.next_message(store) is not None
    with pytest.raises(ReconciliationError, match="version 2"):
        asking.receive(store, b"\x62")


@given(st.binary(min_size=32, max_size=32), st.integers(0, 1000))
def test_the_id_of_an_item_tells_its_record_and_differs_from_basis_to_basis(basis: bytes, seed: int) -> None:
    cid = record_cid_of_digest(item(0, seed)[1])
    one = id_of(cid, mask_of(basis))
    assert cid_of(one, mask_of(basis)) == cid
    assert one != id_of(cid, mask_of(basis[::-1] + b"x"))
    assert reconciliation.prefix_of(b"\xff" * 32) == LAST_PREFIX
