"""Deltas: enough, in causal order, page by page; compact, lossless, and bounded whatever the bytes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chain import canonical
from chain.cid import raw_cid, record_cid_of_digest
from chain.content import Content
from chain.record import MAX_DEPS, MAX_INT, MAX_PAYLOAD, Record, encode_payload, sign_record, verify_signature
from crdt import drafts
from crdt.delta import network_delta, network_version, page_of
from crdt.delta_codec import MAX_DELTA, MAX_RECORDS, PAGE_BYTES, decode_delta, delta_pages, encode_delta
from crdt.entry import EntryState
from crdt.errors import DeltaError
from tests.crdt.delta_laws import DELTA_LAWS, long_line
from tests.crdt.histories import ALICE, BOB, NETWORK, Choose, History, Scribe, histories, history, seen

MAX_OVERHEAD = 200
"""Bytes that an operation may cost in a delta beside what its author said, its signature among them."""


@pytest.mark.parametrize("law", DELTA_LAWS, ids=lambda law: law.__name__)
@settings(max_examples=max(20, settings().max_examples // 5))
@given(told=histories())
def test_law(law: Callable[[History, Choose], None], told: tuple[History, Choose]) -> None:
    law(*told)


@pytest.mark.parametrize("ahead", [1, 5, 60])
def test_who_is_ahead_is_sent_at_most_as_much_again(ahead: int) -> None:
    line = long_line(ALICE, 100)
    here = EntryState(line[0].cid).add_all(line[: 100 - ahead])
    asker = EntryState(line[0].cid).add_all(line)
    assert len(page_of(here, asker.version.spaced()).records) <= ahead
    some, every = ({one.cid: one for one in part} for part in (line[: 100 - ahead], line))
    assert len(network_delta(some, network_version(every))) <= ahead
    assert len(network_delta(every, network_version(some))) == ahead


def test_an_operation_costs_at_most_two_hundred_bytes_in_a_delta() -> None:
    """Two authors who go round the same entries, and each entry's delta by itself."""
    scribes = (Scribe(ALICE), Scribe(BOB))
    creates = [scribes[0].write(drafts.draft_create(Content(f"{n}", bytes(256))), 10**15) for n in range(8)]
    states = [EntryState(one.cid).add(one) for one in creates]
    starts = [state.version for state in states]
    said = 0
    for turn in range(12):
        for place, state in enumerate(states):
            scribe, title = scribes[(turn + place) % 2], f"title {turn} of entry {place}"
            draft = drafts.draft_describe(seen(state), scribe.identity.agent, {"title": title})
            states[place] = state.add(scribe.write(draft, 10**15 + 1_000_003 * (turn * 8 + place)))
            said += len(title)
    pages = [
        page
        for state, start in zip(states, starts, strict=True)
        for _, page in delta_pages(page_of(state, start).records, NETWORK)
    ]
    assert (sum(map(len, pages)) - said) / (12 * 8) <= MAX_OVERHEAD


def test_many_records_make_many_pages_and_a_great_one_has_its_own() -> None:
    line = long_line(ALICE, 20)
    said = encode_payload(bytes(16), {"tag": "x" * (MAX_PAYLOAD - 32)})
    header = replace(line[-1].header, payload=raw_cid(said), payload_size=len(said))
    signed = sign_record(ALICE, header, said)
    records = [*line * 60, signed, *line]
    pages = list(delta_pages(records, NETWORK))
    assert [count for count, _ in pages] == [MAX_RECORDS, 200, 1, 20]
    assert all(len(page) <= MAX_DELTA for _, page in pages)
    assert [one for _, page in pages for one in decode_delta(page, NETWORK)] == records
    with pytest.raises(DeltaError, match="do not fit"):
        encode_delta(records, NETWORK)
    with pytest.raises(DeltaError, match="another network"):
        encode_delta(line, raw_cid(b"another"))
    assert sum(len(one.encode()) for one in records[:MAX_RECORDS]) < PAGE_BYTES


@cache
def told_pages(seed: int) -> tuple[list[Record], bytes]:
    rng = Random(seed)
    story = history(lambda n: rng.randrange(n), 14)
    return story.records, encode_delta(story.records, NETWORK)


@settings(max_examples=30)
@given(seed=st.integers(0, 9), at=st.integers(0, 1 << 20), by=st.binary(min_size=0, max_size=3))
def test_spoiled_bytes_are_refused_or_are_other_records(seed: int, at: int, by: bytes) -> None:
    """No record of another author or content ever verifies: what decodes is the record, or is not signed."""
    records, page = told_pages(seed)
    place = at % len(page)
    spoiled = page[:place] + by + page[place + len(by) or None :]
    try:
        got = decode_delta(spoiled, NETWORK)
    except DeltaError:
        return
    known = {(one.cid, one.payload) for one in records}
    for one in got:
        same = (one.cid, one.payload) in known or (one.payload is None and one.cid in dict(known))
        assert same or not verify_signature(one)
    again = [one for _, part in delta_pages(got, NETWORK) for one in decode_delta(part, NETWORK)]
    assert again == list(got)


SIGNATURE = bytes(64)


def delta(rows: object, **tables: object) -> bytes:
    names = {"authors": bytes(32), "outside": bytes(32), "epochs": [], "kinds": ["entry.tag"], **tables}
    return canonical.encode([1, *(names[name] for name in ("authors", "outside", "epochs", "kinds")), rows])


def row(**different: object) -> list[object]:
    fields: dict[str, object] = {
        **dict.fromkeys(("author", "kind", "epoch", "seq", "prev", "subject", "subject_seq"), 0),
        "subject_prev": 0,
        "deps": [],
        "lamport": 0,
        "hlc": 0,
        "signature": SIGNATURE,
        "said": b"",
    }
    return list((fields | different).values())


def test_a_row_reads_as_it_says() -> None:
    named = record_cid_of_digest(bytes(32))
    (one,) = decode_delta(delta([row(subject=1, seq=3, said=[b"it is ", 1, b"!"])]), NETWORK)
    assert one.payload == b"it is \xc4\x25" + named + b"!"
    assert (one.header.payload, one.header.payload_size) == (raw_cid(one.payload), len(one.payload))
    assert (one.header.subject, one.header.prev, one.header.seq) == (named, None, 3)
    assert not verify_signature(one)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        canonical.encode([]),
        canonical.encode([2, b"", b"", [], [], []]),
        delta([row()], authors=bytes(31)),
        delta([row()], outside=bytes(33)),
        delta([row()], epochs=[b"x"]),
        delta([row()], kinds=["é"]),
        delta([row()], kinds=["x"] * 65),
        delta([row()[:-1]]),
        delta([7]),
        delta([row(author=1)]),
        delta([row(author=-1)]),
        delta([row(kind=1)]),
        delta([row(epoch=1)]),
        delta([row(seq=-1)]),
        delta([row(seq=MAX_INT + 1)]),
        delta([row(hlc=-1)]),
        delta([row(prev=2)]),
        delta([row(prev=-2)]),
        delta([row(prev=True)]),
        delta([row(deps=0)]),
        delta([row(deps=[1, 1])]),
        delta([row(deps=[0])]),
        delta([row(deps=[1] * (MAX_DEPS + 1))]),
        delta([row(signature=bytes(63))]),
        delta([row(said="")]),
        delta([row(said=None)]),
        delta([row(said=[bytes(31), 1])]),
        delta([row(said=[bytes(32), -1])]),
        delta([row(said=[b"", 1, b"", 1])]),
        delta([row(said=[b"", 0, b""])]),
        delta([row(said=[b"", 1, 1])]),
        delta([row(said=[b""] * 131)]),
        delta([row()] * (MAX_RECORDS + 1)),
        delta([row(said=bytes(1 << 20)), row(said=bytes(1 << 20)), row(said=b"")]),
        delta([row(said=bytes(1 << 20)), *[row(said=[b"", *[1, b""] * 64])] * 400]),
    ],
)
def test_malformed_deltas_are_refused(data: bytes) -> None:
    with pytest.raises(DeltaError):
        decode_delta(data, NETWORK)


@example(b"\x96\x01\xc4\x00\xc4\x00\x90\x90\xdd\xff\xff\xff\xff")
@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    with suppress(DeltaError):
        decode_delta(data, NETWORK)
