"""The asker's shelf: it ends up with its holder's block, within bounds, and goes by nothing old or false."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dht.summaries.block import MAX_ROWS, Block, History, Kind, SummaryError
from dht.summaries.messages import (
    Item,
    Told,
    changed,
    decode_answer,
    decode_question,
    encode_answer,
    encode_question,
    same,
    whole,
)
from dht.summaries.shelf import ABSENT_S, DISTRUST_S, FRESH_S, STALE_S, Shelf, cover, most_from_few
from sharding.tree import Prefix

KIND = Kind("test", 2, 1)
A, B = bytes([1]) * 32, bytes([2]) * 32
SHARD, OTHER = Prefix(1, 6), Prefix(2, 6)
ROWS = st.dictionaries(
    st.integers(0, 40).map(lambda key: key.to_bytes(2, "big")), st.binary(min_size=1, max_size=1)
)


class Holder:
    """Answers as the service does, a few rows at a time."""

    def __init__(self, instance: int) -> None:
        self.instance = bytes([instance]) * 8
        self.history = History(KIND)
        self.counter = 0

    def become(self, rows: dict[bytes, bytes]) -> None:
        self.counter += 1
        self.history.become(rows, self.counter)

    def tell(self, item: Item, limit: int) -> Told:
        _, (item,) = decode_question(encode_question(KIND, [item]), [KIND])
        block, counter, known = self.history.block, self.history.counter, item.known
        row: list[Any]
        if known is not None and known.digest == block.digest:
            row = same(block, counter)
        elif (
            known is not None
            and known.instance == self.instance
            and (delta := self.history.since(known.counter)) is not None
        ):
            row = changed(block, counter, delta)
        else:
            row = whole(block, counter, *block.page(item.after, limit))
        return decode_answer(encode_answer(self.instance, [row]), KIND, [item])[0]


@settings(max_examples=60)
@given(st.lists(st.tuples(ROWS, st.booleans(), st.booleans(), st.integers(1, 50)), min_size=1, max_size=8))
def test_it_follows_holders_through_changes_pages_restarts_and_each_other(
    steps: list[tuple[dict[bytes, bytes], bool, bool, int]],
) -> None:
    shelf, holders, number, now = Shelf(KIND), {A: Holder(1), B: Holder(2)}, 2, 0.0
    agent = A
    for rows, switch, restart, limit in steps:
        agent = (B if agent == A else A) if switch else agent
        if restart:
            number += 1
            holders[agent] = Holder(number)
        for holder in holders.values():
            holder.become(rows)
        now += 10.0
        for turn in range(60):
            more = shelf.heard(SHARD, agent, holders[agent].tell(shelf.item(SHARD, agent), limit), now)
            if not more:
                break
            if turn == 1:  # while pages come
                rows = {**rows, b"\0\1": b"x", b"\0\x28": b"y"}
                holders[agent].become(rows)
        else:
            raise AssertionError("it never ends")
        copy = shelf.copy(SHARD)
        assert copy is not None
        assert copy.block == holders[agent].history.block == Block.of(KIND, rows)
        assert (copy.holder, copy.version.counter) == (agent, holders[agent].counter)
        assert not copy.wanting
        assert shelf.rows == len(rows)
        assert shelf.blocks([SHARD], now) == {SHARD: copy.block}


def test_what_nobody_confirmed_lately_is_asked_about_and_then_not_gone_by() -> None:
    shelf, holder = Shelf(KIND), Holder(1)
    holder.become({b"aa": b"1"})
    shelf.heard(SHARD, A, holder.tell(shelf.item(SHARD, A), 9), 100.0)
    assert shelf.due([SHARD, OTHER], 100.0 + FRESH_S) == []
    assert shelf.missing([SHARD, OTHER]) == [OTHER]
    assert shelf.due([SHARD, OTHER], 100.1 + FRESH_S) == [SHARD]
    assert shelf.blocks([SHARD], 100.0 + STALE_S)
    assert not shelf.blocks([SHARD], 100.1 + STALE_S)
    shelf.heard(SHARD, A, holder.tell(shelf.item(SHARD, A), 9), 200.0)
    assert shelf.blocks([SHARD], 200.0)
    shelf.doubt(SHARD)
    assert shelf.due([SHARD], 200.0) == [SHARD], "a hit was seen that it does not show"
    shelf.heard(SHARD, A, holder.tell(shelf.item(SHARD, A), 9), 200.0)
    assert shelf.due([SHARD], 200.0) == []
    assert (shelf.counts.hits, shelf.counts.misses) == (2, 1)


def test_what_does_not_add_up_is_dropped_and_who_lied_is_not_asked() -> None:
    shelf, holder = Shelf(KIND), Holder(1)
    holder.become({b"aa": b"1", b"bb": b"2"})
    honest = holder.tell(Item(SHARD), 9)
    shelf.heard(SHARD, A, honest, 0.0)
    holder.become({b"aa": b"1"})
    known = shelf.item(SHARD, A)
    delta = holder.tell(known, 9)
    assert delta.version is not None
    false = Told(delta.state, honest.version, delta.delta)
    with pytest.raises(SummaryError):
        shelf.heard(SHARD, A, false, 1.0)
    assert shelf.copy(SHARD) is None
    with pytest.raises(SummaryError):
        shelf.heard(SHARD, A, delta, 1.0)  # of a block that is not there
    with pytest.raises(SummaryError):
        shelf.heard(SHARD, A, Told(honest.state, delta.version, rows=honest.rows), 1.0)
    assert (len(shelf), shelf.rows) == (0, 0)

    shelf.heard(SHARD, A, honest, 2.0)
    shelf.heard(OTHER, B, honest, 2.0)
    assert shelf.accuse(A, 2.0) == [SHARD]
    assert not shelf.may_ask(SHARD, A, 3.0)
    assert shelf.may_ask(SHARD, A, 2.0 + DISTRUST_S)
    assert shelf.may_ask(SHARD, B, 3.0)
    shelf.failed(SHARD, B, 3.0)
    assert not shelf.may_ask(SHARD, B, 3.0)
    assert shelf.may_ask(OTHER, B, 3.0)
    assert shelf.may_ask(SHARD, B, 3.0 + ABSENT_S)


def test_it_keeps_so_many_rows_and_lets_go_what_was_not_wanted_for_longest() -> None:
    shelf, holder = Shelf(KIND, max_rows=6), Holder(1)
    holder.become({b"aa": b"1", b"bb": b"2"})
    shards = [Prefix(bits, 6) for bits in range(5)]
    for shard in shards[:3]:
        shelf.heard(shard, A, holder.tell(Item(shard), 9), 0.0)
    shelf.blocks(shards[:1], 0.0)
    for shard in shards[3:]:
        shelf.heard(shard, A, holder.tell(Item(shard), 9), 0.0)
    assert shelf.missing(shards) == shards[1:3]
    assert shelf.rows == 6
    shelf.keep_only(shards[4:])
    assert (len(shelf), shelf.rows) == (1, 2)
    many = {number.to_bytes(2, "big"): b"1" for number in range(MAX_ROWS)}
    holder.become(many)
    told = holder.tell(Item(SHARD), MAX_ROWS // 2)
    assert shelf.heard(SHARD, A, told, 0.0)
    more = b"".join((0x8000 + number).to_bytes(2, "big") + b"1" for number in range(MAX_ROWS))
    with pytest.raises(SummaryError):
        shelf.heard(SHARD, A, Told(told.state, told.version, rows=more, more=True), 0.0)


@given(
    st.dictionaries(st.integers(0, 63).map(lambda bits: Prefix(bits, 6)), st.lists(st.sampled_from([A, B])))
)
def test_each_shard_is_asked_of_one_of_its_holders(wanted: dict[Prefix, list[bytes]]) -> None:
    asks = cover(wanted)
    asked = [shard for shards in asks.values() for shard in shards]
    assert sorted(asked) == sorted(shard for shard, holders in wanted.items() if holders)
    assert all(agent in wanted[shard] for agent, shards in asks.items() for shard in shards)
    everywhere = [
        agent for agent in (A, B) if all(agent in holders for holders in wanted.values() if holders)
    ]
    assert len(asks) <= 1 or not everywhere


@given(
    st.dictionaries(st.integers(0, 63), st.integers(0, 30), max_size=64),
    st.sets(st.integers(0, 63)),
    st.integers(1, 8),
)
def test_few_holders_are_asked_and_first_those_of_what_is_urgent(
    of: dict[int, int], urgent: set[int], most: int
) -> None:
    holders = {Prefix(number, 6): bytes([holder]) * 32 for number, holder in of.items()}
    wanted = {Prefix(number, 6) for number in urgent}
    asks = most_from_few(holders, wanted, most)
    assert len(asks) == min(most, len(set(holders.values())))
    for holder, shards in asks.items():
        assert sorted(shards) == sorted(shard for shard, one in holders.items() if one == holder)
    told = [len(shards) for shards in asks.values() if not wanted & set(shards)]
    left = [shard for shard, one in holders.items() if one not in asks]
    if told:
        assert not wanted & set(left), "what is urgent goes before what is not"
        counts = [sum(one == holder for one in holders.values()) for holder in {holders[s] for s in left}]
        assert max(counts, default=0) <= min(told)
