"""Bundles: what goes in comes out, a bad item costs only itself, and nothing from the wire is unbounded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain import canonical
from chain.record import Record
from dht.network import MAX_BODY
from dht.records.bundle import (
    MAX_HEADERS,
    MAX_ITEMS,
    MAX_OPENINGS,
    BadItem,
    BundleError,
    Item,
    bundle_value,
    open_bundle,
)
from tests.dht.authors import Author
from tests.dht.people import MANIFEST, NOW_US

AUTHORS = [Author(number, MANIFEST, NOW_US) for number in range(3)]
RECORDS = [
    author.create(f"entry {number}", bytes([1, 2, 3, 127])) for author in AUTHORS for number in range(3)
]

items = st.lists(
    st.builds(
        Item,
        st.sampled_from(RECORDS).flatmap(lambda record: st.sampled_from([record, record.without_payload()])),
        st.integers(0, 255),
        st.lists(st.binary(min_size=32, max_size=32), unique=True, max_size=3).map(
            lambda bases: tuple(sorted(bases))
        ),
    ),
    max_size=8,
)
authors = st.lists(st.sampled_from(AUTHORS), unique_by=lambda author: author.agent)
headers = st.lists(st.sampled_from(RECORDS), unique_by=lambda record: record.cid)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.binary(max_size=20)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


def wire(value: list[Any]) -> Any:
    return canonical.decode(canonical.encode(value), MAX_BODY)


@given(authors, headers, items)
def test_what_goes_in_comes_out(openings: list[Author], named: list[Record], sent: list[Item]) -> None:
    bundle = open_bundle(wire(bundle_value([author.opening for author in openings], named, sent)))
    assert bundle.openings == {author.agent: author.opening for author in openings}
    assert bundle.headers == {record.cid: record.without_payload() for record in named}
    assert bundle.items == tuple(sent)


@given(items, st.lists(st.tuples(st.integers(0, 8), values), max_size=4))
def test_a_bad_item_costs_only_itself(sent: list[Item], bad: list[tuple[int, Any]]) -> None:
    value = bundle_value([], [], sent)
    expected: list[Item | None] = list(sent)
    for place, garbage in bad:
        value[2].insert(place, garbage)
        expected.insert(place, None)
    found = open_bundle(wire(value)).items
    assert [item if isinstance(item, Item) else None for item in found] == expected
    assert all(item.reason for item in found if isinstance(item, BadItem))


@given(st.sampled_from(RECORDS), st.data())
def test_no_changed_byte_of_a_record_passes_for_the_record(record: Record, data: st.DataObject) -> None:
    raw = bytearray(record.encode())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    (item,) = open_bundle([[], [], [[7, bytes(raw)]]]).items
    # A changed signature decodes, and is the validation's business; any other change makes another record.
    if isinstance(item, Item) and item.record.cid == record.cid:
        assert item.record.payload == record.payload
        assert item.record.signature != record.signature


@given(st.lists(values, max_size=3), st.lists(values, max_size=3))
def test_bad_openings_and_headers_are_left_out(openings: list[Any], named: list[Any]) -> None:
    bundle = open_bundle(wire([openings, named, [[1, RECORDS[0].encode()]]]))
    assert (bundle.openings, bundle.headers) == ({}, {})
    assert bundle.items == (Item(RECORDS[0], 1),)


@given(values)
def test_what_is_no_bundle_is_refused_whole(value: Any) -> None:
    if type(value) is list and len(value) == 3 and all(type(part) is list for part in value):
        open_bundle(value)
    else:
        with pytest.raises(BundleError):
            open_bundle(value)


@pytest.mark.parametrize(("part", "limit"), list(enumerate((MAX_OPENINGS, MAX_HEADERS, MAX_ITEMS))))
def test_counts_are_bounded_before_anything_is_decoded(part: int, limit: int) -> None:
    value: list[list[Any]] = [[], [], []]
    value[part] = [None] * limit
    open_bundle(value)
    value[part].append(None)
    with pytest.raises(BundleError, match=str(limit + 1)):
        open_bundle(value)


@pytest.mark.parametrize(
    "shards",
    [[], [b"short"], [bytes(32), bytes(32)], [b"b" * 32, b"a" * 32], bytes(32), None, [bytes(32)] * 300, [1]],
)
def test_shards_are_a_few_ascending_bases(shards: object) -> None:
    (item,) = open_bundle([[], [], [[4, RECORDS[0].encode(), shards]]]).items
    assert isinstance(item, BadItem)


@pytest.mark.parametrize("roles", [-1, 256, True, None, b"1", 1.0])
def test_roles_are_a_byte(roles: object) -> None:
    (item,) = open_bundle([[], [], [[roles, RECORDS[0].encode()]]]).items
    assert isinstance(item, BadItem)


def test_a_header_in_the_header_list_loses_its_payload() -> None:
    bundle = open_bundle([[], [RECORDS[0].encode()], []])
    assert bundle.headers[RECORDS[0].cid].payload is None
