"""Layouts: one order of steps for all, and a place in each generation that is nobody else's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dht.records.layouts import (
    ASK_S,
    MAX_FORMER,
    OVERLAP_S,
    SPREAD_S,
    Layouts,
    Places,
    Taking,
    bases_ever,
    places_at,
    shard_named,
)
from dht.records.placement import Layout
from dht.repair.migration import CONFIRM_S, TURN_S, Moved, is_due, is_over, may_begin
from sharding.growth import Decision, Growth
from sharding.shard_life import REST_US
from sharding.tree import FIRST_DEPTH, MAX_DEPTH, MAX_GENERATION, Prefix, ShardTree, shard_at

BITS = 2
EMPTY = (0, bytes(32))
SKEW_S = 60.0
"""Clocks that differ by more park what is published."""


def layout(generation: int) -> Layout:
    return Layout(None, ShardTree.fixed(BITS, generation))


histories = st.lists(st.integers(1, 40), unique=True, max_size=6).map(
    lambda numbers: [layout(number) for number in (0, *sorted(numbers))]
)
ages = st.floats(0, 2 * ASK_S)
digests = st.tuples(st.integers(0, 3), st.binary(min_size=32, max_size=32))


@st.composite
def shards(draw: st.DrawFn) -> Prefix:
    length = draw(st.integers(0, MAX_DEPTH))
    return Prefix(draw(st.integers(0, (1 << length) - 1)), length, draw(st.integers(0, MAX_GENERATION)))


@given(shards(), shards())
def test_a_basis_names_its_shard_and_no_other(one: Prefix, other: Prefix) -> None:
    assert shard_at(one.basis()) == one
    assert (one.basis()[:8] == other.basis()[:8]) == (one == other), "told apart by what ranges look at"


@given(shards(), st.integers(0, MAX_GENERATION))
def test_generations_of_a_shard_differ_where_it_hardly_ever_decides_who_is_nearest(
    one: Prefix, number: int
) -> None:
    other = Prefix(one.bits, one.length, number)
    assert int.from_bytes(one.basis()) >> 207 == int.from_bytes(other.basis()) >> 207


@given(st.binary(min_size=32, max_size=32))
def test_what_is_no_shards_basis_is_none(basis: bytes) -> None:
    shard = shard_at(basis)
    assert shard is None or shard.basis() == basis


@given(histories, ages, st.floats(-SKEW_S, SKEW_S))
def test_nobody_writes_or_drops_where_another_may_not_look_yet(
    history: list[Layout], age: float, skew: float
) -> None:
    mine, theirs = places_at(history, age), places_at(history, max(0.0, age + skew))
    assert mine.current is history[-1]
    assert mine.writes in theirs.asked, "who has heard of an epoch finds what anybody writes"
    if age < SPREAD_S and len(history) > 1:
        assert mine.writes is history[-2], "who has not heard finds it too"
    if mine.open:
        assert theirs.kept, "what is taken at a former shard lies where everybody still asks"
    assert len(mine.asked) <= MAX_FORMER + 1
    assert {one.generation for one in mine.asked} <= set(mine.generations)


@given(histories, ages, st.data())
def test_a_former_shard_takes_records_while_it_is_open_and_then_as_long_as_it_holds_some(
    history: list[Layout], age: float, data: st.DataObject
) -> None:
    full = {data.draw(st.sampled_from([leaf for one in history for leaf in one.tree.leaves])).basis()}
    layouts = Layouts(history[0], lambda basis: basis in full)
    layouts.change(places_at(history, age))
    for generation in (*layouts.places.generations, 41):
        for leaf in ShardTree.fixed(BITS, generation).leaves:
            taking = layouts.taking(leaf.basis())
            newest = generation == history[-1].generation
            former = generation in layouts.places.generations and (age < OVERLAP_S or leaf.basis() in full)
            assert taking is (Taking.TAKES if newest or former else Taking.WAITS)
    assert layouts.taking(Prefix(0, BITS - 1).basis()) is Taking.REFUSES
    assert layouts.taking(Prefix(0, BITS + 1).basis()) is Taking.WAITS, "it may have been divided"
    assert layouts.taking(bytes(32)) is Taking.REFUSES
    left = layouts.left_behind()
    assert {shard.basis() for shard in left} == {basis for basis in full if layouts.is_former(basis)}


@given(histories, st.data())
def test_what_is_finished_is_asked_no_more_and_the_rest_still_is(
    history: list[Layout], data: st.DataObject
) -> None:
    layouts = Layouts(history[0])
    layouts.change(places_at(history, ASK_S))
    before = layouts.former_shards()
    done = data.draw(st.lists(st.sampled_from(before))) if before else []
    seen = layouts.version
    layouts.finish(done)
    assert set(layouts.former_shards()) == set(before) - set(done)
    assert layouts.moving == bool(set(before) - set(done))
    layouts.change(places_at(history, ASK_S + 1))
    assert set(layouts.former_shards()) == set(before) - set(done), "time brings nothing back"
    assert layouts.version - seen <= 2


def test_a_layout_that_stays_tells_nobody() -> None:
    layouts = Layouts(layout(0))
    assert not layouts.change(Places(layouts.current, layouts.current))
    assert (layouts.version, layouts.moving, layouts.former_shards()) == (0, False, ())


@given(histories, st.booleans())
def test_every_basis_that_a_record_may_have_had_is_tried_its_present_one_first(
    history: list[Layout], known: bool
) -> None:
    layouts = Layouts(history[0])
    layouts.change(places_at(history, 0.0))
    present = history[-1].tree.leaves[1].basis() if known else None
    tried = list(bases_ever(present, layouts))
    of_present = 1 if known else 1 << BITS
    assert len(tried) == len(set(tried)) == (len(history) - 1 << BITS) + of_present
    assert not known or tried[0] == present


@given(shards())
def test_only_the_first_shards_of_all_are_not_named(shard: Prefix) -> None:
    plain = shard.generation == 0 and shard.length == FIRST_DEPTH
    assert shard_named(shard.basis()) == (() if plain else (shard.basis(),))
    assert shard_named(None) == ()


@given(digests, digests, ages, st.floats(0, 1_000), st.floats(0, 1_000))
def test_a_former_shard_goes_only_when_it_was_found_elsewhere_twice_and_nobody_writes_there(
    then: tuple[int, bytes], now: tuple[int, bytes], age: float, since: float, at: float
) -> None:
    due = is_due(Moved(then, since), now, age, at)
    assert due == (then == now and at - since >= CONFIRM_S and age >= ASK_S)
    assert not is_due(None, now, age, at)


@given(st.lists(st.none() | st.integers(0, 2), max_size=4), ages)
def test_a_former_shard_is_over_when_all_who_were_asked_have_nothing_there(
    heard: list[int | None], age: float
) -> None:
    over = is_over(heard, age)
    assert over == (bool(heard) and all(count == 0 for count in heard) and age >= ASK_S)


@given(ages, st.integers(0, 5))
def test_nothing_moves_before_everybody_asks_both_and_the_nearest_begins(age: float, rank: int) -> None:
    assert may_begin(age, rank) == (age >= SPREAD_S + rank * TURN_S)
    assert not may_begin(age, rank + 1) or may_begin(age, rank)


# -- shards that divide and are joined --

KEYS = [bytes([first]) + bytes(31) for first in range(0, 256, 8)]
LATER_S = 2 * REST_US // 1_000_000


@st.composite
def changes(draw: st.DrawFn) -> list[Decision]:
    """Decisions as holders make them: about each prefix by turns, with rest between them, up to now."""
    made = []
    for prefix in draw(st.lists(prefixes_near, unique=True, max_size=6)):
        at_s = draw(st.integers(0, LATER_S))
        for version in range(1, draw(st.integers(1, 3)) + 1):
            made.append(Decision(prefix, version, version % 2 == 1, at_s * 1_000_000))
            at_s += REST_US // 1_000_000 + draw(st.integers(0, 600))
    return made


prefixes_near = st.integers(BITS, BITS + 2).flatmap(
    lambda length: st.builds(Prefix, st.integers(0, (1 << length) - 1), st.just(length))
)


@given(changes(), st.integers(0, 2 * LATER_S), st.sampled_from(KEYS), st.floats(0, SKEW_S), st.data())
def test_what_anybody_writes_lies_where_everybody_asks_however_the_tree_changes(
    made: list[Decision], now_s: int, key: bytes, skew: float, data: st.DataObject
) -> None:
    past = [one for one in made if one.at_us <= now_s * 1_000_000]

    def node(late_s: float) -> Layouts:
        """Knows all that has been decided for `SPREAD_S`, and what it has heard of the rest."""
        layouts = Layouts(layout(0), now_us=lambda: int((now_s + late_s) * 1_000_000))
        heard = [
            one for one in past if now_s - one.at_us / 1e6 >= SPREAD_S - late_s or data.draw(st.booleans())
        ]
        layouts.grow(Growth().told(heard))
        return layouts

    writer, reader = node(skew), node(0.0)
    written = writer.writes.tree.leaf_of(key)
    asked = {reader.current.tree.leaf_of(key), *(one for one in reader.settling() if one.contains(key))}
    assert written in asked
    assert writer.taking(written.basis()) is Taking.TAKES
    assert written in reader.shards(), "and its holders see to it that they have everything there"
    operated = {one.tree.leaf_of(key) for one in writer.written()}
    known = {writer.current.tree.leaf_of(key), *(one for one in writer.settling() if one.contains(key))}
    assert operated >= known | {written}, "operations reach all places that are asked"
