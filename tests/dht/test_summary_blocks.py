"""Blocks of shards: deltas in order give the whole, equal rows equal digests, no answer breaks its bounds.

A holder's block changes at random while an asker follows it: whole, in pages that overlap changes, and by
deltas. What goes over the wire is read as it was written, or refused.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import canonical
from dht.errors import FrameError, RequestRefused
from dht.summaries import block as blocks
from dht.summaries.block import Block, History, Kind, SummaryError, Version, check_rows
from dht.summaries.messages import (
    MAX_ITEMS,
    Item,
    State,
    Told,
    changed,
    decode_answer,
    decode_question,
    encode_answer,
    encode_question,
    same,
    whole,
)
from sharding.tree import Prefix

KIND = Kind("test", 2, 3)
SHARD = Prefix(5, 6)
INSTANCE = bytes(8)
ROWS = st.dictionaries(
    st.binary(min_size=2, max_size=2).map(lambda key: key[:1] + b"\0"), st.binary(min_size=3, max_size=3)
)


@given(st.lists(ROWS, min_size=1, max_size=12), st.data())
def test_any_sequence_of_deltas_gives_the_whole_block(states: list[dict[bytes, bytes]], data: Any) -> None:
    history = History(KIND)
    seen: list[tuple[int, Block]] = []
    for counter, rows in enumerate(states):
        history.become(rows, counter)
        assert history.block == Block.of(KIND, rows), "whatever came before, the bytes are those of its rows"
        seen.append((counter, history.block))
    for counter, block in seen:
        delta = history.since(counter)
        assert delta is not None
        once = block.changed(delta.removed, delta.added)
        assert once == history.block
        assert once.changed(delta.removed, delta.added) == once, "applied again it changes nothing"
    # In steps, to whatever counts, and each step late.
    history, mine, at = History(KIND), Block(KIND), -1
    for counter, rows in enumerate(states):
        history.become(rows, counter)
        if at < 0:
            mine, at = history.block, counter
        elif data.draw(st.booleans()):
            delta = history.since(at)
            assert delta is not None
            mine, at = mine.changed(delta.removed, delta.added), counter
            assert mine == history.block
            assert mine.digest == history.block.digest


def test_who_is_too_far_behind_gets_no_delta(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_LOGGED", 3)
    history = History(KIND)
    for counter in range(6):
        history.become({bytes([counter, 0]): b"abc"}, counter)  # two keys change each time
    assert history.since(3) is None
    delta = history.since(4)
    assert delta is not None
    assert (delta.removed, dict(delta.added)) == ((b"\4\0",), {b"\5\0": b"abc"})
    assert history.since(6) is None, "a count that never was"
    assert History(KIND).since(0) is None


@given(ROWS)
def test_a_block_is_read_as_it_was_written(rows: dict[bytes, bytes]) -> None:
    block = Block.of(KIND, rows)
    assert Block.read(KIND, block.rows) == block
    assert block.mapping() == rows
    assert len(block) == len(rows)
    for key in [*rows, b"zz", b"\0\0"]:
        assert block.get(key) == rows.get(key)
    after: bytes | None = None
    found = b""
    for _ in range(len(rows) + 1):
        page, more = block.page(after, 2)
        found += page
        if not more:
            break
        after = page[-KIND.row :][: KIND.key]
    assert found == block.rows


def test_what_no_block_has_is_refused() -> None:
    for bad in (b"x", b"bbXXXaaXXX", b"aaXXXaaYYY"):
        with pytest.raises(SummaryError):
            check_rows(KIND, bad)
    with pytest.raises(SummaryError):
        Block.of(KIND, {b"a": b"abc"})
    with pytest.raises(SummaryError):
        check_rows(KIND, b"".join(n.to_bytes(3, "big") + b"ab" for n in range(blocks.MAX_ROWS + 1)))


def test_a_question_says_what_was_meant() -> None:
    version = Version(INSTANCE, 7, bytes(16))
    items = [Item(SHARD, version), Item(Prefix(1, 3, 2), None, b"ab"), Item(Prefix(0, 0))]
    assert decode_question(encode_question(KIND, items), [KIND]) == (KIND, items)
    full = [Item(Prefix(number, 48, 9), Version(INSTANCE, 1 << 62, bytes(16))) for number in range(MAX_ITEMS)]
    assert decode_question(encode_question(KIND, full), [KIND])[1] == full
    for bad in (
        encode_question(Kind("other", 2, 3), items),
        encode_question(KIND, [items[0], items[0]]),
        encode_question(KIND, []),
        encode_question(KIND, [*full, items[0]]),
        encode_question(KIND, [Item(SHARD, None, b"abc")]),
        canonical.encode(["test", [[[6, 5, 0], None, None]]]),
        canonical.encode(["test", [[[6, 64], None, None]]]),
        canonical.encode(["test", [[[6, 5], [INSTANCE, True, bytes(16)], None]]]),
    ):
        with pytest.raises(RequestRefused):
            decode_question(bad, [KIND])


def test_an_answer_says_only_what_was_asked() -> None:
    block = Block.of(KIND, {b"aa": b"111", b"bb": b"222"})
    has = Item(SHARD, Version(INSTANCE, 3, block.digest))
    new, goes_on = Item(SHARD), Item(SHARD, None, b"aa")

    def answer(item: Item, row: list[Any], instance: bytes = INSTANCE) -> Told:
        return decode_answer(encode_answer(instance, [row]), KIND, [item])[0]

    assert answer(new, [0]) == Told(State.ABSENT)
    assert answer(has, same(block, 9)).version == Version(INSTANCE, 9, block.digest)
    told = answer(new, whole(block, 9, block.rows, False))
    assert (told.rows, told.more) == (block.rows, False)
    history = History(KIND)
    history.become(block.mapping(), 3)
    history.become({b"aa": b"111", b"cc": b"333"}, 5)
    delta = history.since(3)
    assert delta is not None
    assert answer(has, changed(history.block, 5, delta)).delta == delta
    for item, row in (
        (new, same(block, 9)),  # of a block that the asker has not
        (Item(SHARD, Version(INSTANCE, 3, bytes(16))), same(block, 9)),
        (new, changed(block, 9, delta)),
        (Item(SHARD, Version(INSTANCE, 6, block.digest)), changed(block, 5, delta)),  # backwards
        (goes_on, whole(block, 9, block.rows, False)),  # begins anew
        (new, whole(block, 9, b"", True)),
        (new, [4, 9, block.digest, block.rows[5:] + block.rows[:5], False]),
        (has, [3, 9, block.digest, b"bbaa", b""]),
        (has, [3, 9, block.digest, b"aa", b"aa111"]),
        (has, [3, 9, block.digest, b"a", b""]),
        (new, [2]),
        (new, [7, 9, block.digest]),
        (new, [4, -1, block.digest, b"", False]),
    ):
        with pytest.raises(FrameError):
            answer(item, row)
    with pytest.raises(FrameError):
        answer(has, changed(block, 9, delta), instance=bytes([1]) * 8)
    with pytest.raises(FrameError):
        decode_answer(encode_answer(INSTANCE, []), KIND, [new])


@settings(max_examples=50)
@given(st.lists(ROWS, min_size=1, max_size=6), st.integers(1, 3))
def test_pages_during_changes_and_a_delta_after_them_give_the_whole(
    states: list[dict[bytes, bytes]], limit: int
) -> None:
    history, counter = History(KIND), 0
    history.become(states[0], counter)
    first, after, came = counter, None, b""
    while True:
        rows, more = history.block.page(after, limit)
        came += rows
        if not more:
            break
        after = rows[-KIND.row :][: KIND.key]
        counter += 1
        history.become(states[counter % len(states)], counter)
        if counter > 60:
            states = states[:1]
    delta = history.since(first)
    assert delta is not None
    assert Block.read(KIND, came).changed(delta.removed, delta.added) == history.block
