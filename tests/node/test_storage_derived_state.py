"""Derived postings: numbered once, found by range of keys, stamped by content, thrown away at will."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.cid import record_cid
from node.storage.derived_state import MAX_POSTINGS, DerivedState, Posting
from node.storage.errors import StorageLimit
from tests.node.storage_fixtures import ALICE, UNSYNCED, inline


def posting(name: int, key: int = 0, tags: tuple[str, ...] = ()) -> Posting:
    """The posting of content record `name`, at a shard key."""
    cid = record_cid(b"%d" % name)
    return Posting(0, key.to_bytes(32, "big"), cid, cid, bytes([name % 127] * 8), tags, ALICE.agent, 7 + name)


KEY = st.sampled_from([0, 1, 255, 1 << 200, (1 << 256) - 1])
PUT = st.tuples(
    st.just("put"),
    st.lists(
        st.builds(posting, st.integers(0, 12), KEY, st.sampled_from([(), ("a",), ("a", "ü")])), max_size=6
    ),
)
REMOVE = st.tuples(st.just("remove"), st.lists(st.integers(0, 12), max_size=4))
CLEAR = st.tuples(st.just("clear"))


@given(steps=st.lists(st.one_of(PUT, PUT, REMOVE, CLEAR), max_size=8), low=KEY, high=KEY)
@settings(max_examples=40, deadline=None)
def test_any_sequence_equals_the_model(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]], low: int, high: int
) -> None:
    path = tmp_path_factory.mktemp("derived") / "derived.db"
    model: dict[bytes, Posting] = {}
    given_out: list[int] = []
    stamps: dict[str, list[Posting]] = {}

    def check(derived: DerivedState) -> None:
        by_number = sorted(model.values(), key=lambda p: p.number)
        assert [p for page in derived.all(2) for p in page] == by_number
        assert derived.count() == len(model)
        bounds = low.to_bytes(32, "big"), high.to_bytes(32, "big")
        inside = [p for p in by_number if bounds[0] <= p.shard_key <= bounds[1]]
        assert derived.in_range(*bounds) == sorted(inside, key=lambda p: (p.shard_key, p.number))
        numbers = [p.number for p in by_number]
        assert derived.get_many([0, *reversed(numbers)]) == [None, *reversed(by_number)]
        assert stamps.setdefault(derived.stamp(), by_number) == by_number

    async def main() -> None:
        derived = DerivedState(path, inline, UNSYNCED)
        async with trio.open_nursery() as nursery:
            await nursery.start(derived.run)
            for name, *arguments in steps:
                before = derived.stamp()
                content = dict(model)
                if name == "put":
                    added = await derived.put(arguments[0])
                    fresh = {p.record: p for p in reversed(arguments[0]) if p.record not in model}
                    assert {p.record for p in added} == set(fresh)
                    model.update((p.record, p) for p in added)
                    given_out.extend(p.number for p in added)
                    assert len(set(given_out)) == len(given_out), "a number was given twice"
                elif name == "remove":
                    records = [record_cid(b"%d" % number) for number in arguments[0]]
                    gone = [model.pop(record).number for record in dict.fromkeys(records) if record in model]
                    assert await derived.remove(records) == gone
                else:
                    await derived.clear()
                    model.clear()
                assert (derived.stamp() == before) == (model == content)
                check(derived)
            await derived.aclose()

    trio.run(main)
    reopened = DerivedState(path, inline, UNSYNCED)
    check(reopened)
    reopened.close()


async def test_rebuilding_starts_empty_whatever_the_file_was(tmp_path: Path) -> None:
    path = tmp_path / "derived.db"
    async with trio.open_nursery() as nursery:
        derived = DerivedState(path, inline)
        await nursery.start(derived.run)
        await derived.put([posting(1)])
        await derived.aclose()
    fresh = DerivedState.rebuild(path, inline)
    assert list(fresh.all(10)) == []
    assert fresh.stamp() == f"0-{'00' * 32}"
    fresh.close()


async def test_malformed_keys_and_too_many_postings_are_refused(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        derived = DerivedState(tmp_path / "derived.db", inline, UNSYNCED)
        await nursery.start(derived.run)
        short = Posting(0, b"short", b"", b"", b"", (), ALICE.agent, 0)
        with pytest.raises(StorageLimit, match="32"):
            await derived.put([posting(1), short])
        with pytest.raises(StorageLimit, match="in parts"):
            await derived.put([posting(1)] * (MAX_POSTINGS + 1))
        with pytest.raises(StorageLimit, match="in parts"):
            await derived.remove([b""] * (MAX_POSTINGS + 1))
        assert derived.count() == 0
        await derived.aclose()
