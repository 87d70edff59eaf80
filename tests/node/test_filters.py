"""Filters: the same set whether a holder's database, a holder's posting or an asker's record is looked at."""

from __future__ import annotations

import numpy as np
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import canonical
from chain.cid import record_cid
from chain.errors import RecordError
from chain.vector import PPM, codes_from_bytes, score_ppm
from dht.errors import RequestRefused
from node.query.exhaustive import best_of_all, key_ranges
from node.query.filters import ANY, MAX_AUTHORS, MAX_DOMAINS, MAX_US, Facts, Filters, read_filters
from node.query.search_protocol import SearchRequest, decode_request
from node.storage.derived_state import KEY_SIZE, DerivedState, Posting
from sharding.tree import ShardTree
from tests.node.storage_fixtures import UNSYNCED, inline

DIM = 4
LEAVES = ShardTree.fixed(2).leaves
AGENTS = [bytes([n]) * 32 for n in range(3)]
FIELDS = ["bees", "béés", "bee"]
QUERY = np.array([3, -2, 1, 127], dtype=np.int8)

some = st.one_of(st.none(), st.integers(0, 4))
filters = st.builds(
    lambda authors, domains, confidence, since, length: Filters(
        tuple(sorted(authors)),
        tuple(sorted(domains)),
        confidence,
        since,
        None if length is None else (since or 0) + length + 1,
    ),
    st.sets(st.sampled_from(AGENTS)),
    st.sets(st.sampled_from(FIELDS)),
    some,
    some,
    some,
)
postings = st.lists(
    st.builds(
        lambda name, key, row, tags, author, hlc, domain, confidence: Posting(
            0,
            key.to_bytes(1, "big") + record_cid(b"%d" % name)[-31:],
            record_cid(b"%d" % name),
            record_cid(b"%d" % name),
            bytes(row),
            tuple(sorted(tags)),
            author,
            hlc,
            domain,
            confidence,
        ),
        st.integers(0, 99),
        st.sampled_from([0, 63, 64, 200, 255]),
        st.lists(st.integers(1, 3), min_size=DIM, max_size=DIM),
        st.sets(st.sampled_from(["a", "ab", "ü"])),
        st.sampled_from(AGENTS),
        st.integers(0, 5),
        st.one_of(st.none(), st.sampled_from(FIELDS)),
        st.one_of(st.none(), st.integers(0, 5)),
    ),
    max_size=40,
    unique_by=lambda one: one.record,
)


@settings(max_examples=60, deadline=None)
@given(
    postings,
    filters,
    st.sets(st.sampled_from(["a", "ü"])),
    st.sets(st.sampled_from(LEAVES)),
    st.integers(1, 9),
)
def test_the_best_that_pass_are_found_whatever_is_near(
    tmp_path_factory: pytest.TempPathFactory,
    there: list[Posting],
    wanted: Filters,
    tags: set[str],
    shards: set[object],
    k: int,
) -> None:
    """The condition in SQL, the predicate, and a search by exhaustion agree, in one order."""
    leaves = [leaf for leaf in LEAVES if leaf in shards]
    passing = [
        (one.record, score_ppm(QUERY, codes_from_bytes(one.codes, DIM)))
        for one in there
        if any(leaf.contains(one.shard_key) for leaf in leaves)
        and tags <= set(one.tags)
        and wanted.admit(Facts(one.author, one.hlc, one.domain, one.confidence))
    ]

    async def main() -> None:
        derived = DerivedState(tmp_path_factory.mktemp("derived") / "derived.db", inline, UNSYNCED)
        async with trio.open_nursery() as nursery:
            await nursery.start(derived.run)
            await derived.put(there)
            found = best_of_all(derived, leaves, QUERY, k, sorted(tags), wanted)
            assert [(one.record, score) for one, score in found] == sorted(
                passing, key=lambda pair: (-pair[1], pair[0])
            )[:k]
            await derived.aclose()

    trio.run(main)


@given(filters)
def test_filters_come_back_from_a_request_as_they_were(wanted: Filters) -> None:
    request = SearchRequest(LEAVES, QUERY, 3, ("tag",), wanted)
    assert decode_request(request.encode(), DIM).filters == wanted
    assert (len(canonical.decode(request.encode(), 4_096)) == 4) == (not wanted)
    assert bool(wanted) == (wanted != ANY)


@pytest.mark.parametrize(
    "raw",
    [
        {},
        [],
        {"unheard": 1},
        {"authors": []},
        {"authors": [AGENTS[1], AGENTS[0]]},
        {"authors": [AGENTS[0], AGENTS[0]]},
        {"authors": [b"short"]},
        {"authors": ["text"]},
        {"authors": AGENTS[0]},
        {"authors": [bytes([n]) * 32 for n in range(MAX_AUTHORS + 1)]},
        {"domains": [""]},
        {"domains": ["x" * 101]},
        {"domains": [b"bytes"]},
        {"domains": ["a", b"b"]},
        {"domains": [[]]},
        {"domains": [f"{n:02}" for n in range(MAX_DOMAINS + 1)]},
        {"confidence": -1},
        {"confidence": PPM + 1},
        {"confidence": True},
        {"confidence": None},
        {"since": "now"},
        {"since": MAX_US + 1},
        {"since": 5, "until": 5},
    ],
)
def test_a_filter_that_is_not_understood_is_refused_not_passed_over(raw: object) -> None:
    plain = canonical.decode(SearchRequest(LEAVES, QUERY, 3).encode(), 4_096)
    with pytest.raises(RequestRefused):
        decode_request(canonical.encode([*plain, raw]), DIM)
    if isinstance(raw, dict) and raw:
        with pytest.raises(RecordError):
            read_filters(raw)


def test_ranges_of_neighbours_are_one_and_cover_exactly_their_keys() -> None:
    first, second, _, fourth = LEAVES
    whole, rest = key_ranges([fourth, second, first])
    assert whole == (bytes(KEY_SIZE), b"\x7f" + b"\xff" * 31)
    assert rest == (b"\xc0" + bytes(31), b"\xff" * 32)
