"""The words of postings: found by each term, with and without FTS5, and gone from the file when removed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.cid import Cid, record_cid
from node.storage.derived_state import DerivedState, Posting
from sharding.terms import counted, term_id
from tests.node.storage_fixtures import ALICE, UNSYNCED, inline

WORDS = ("heron", "reed", "pond", "grey")
Low, High = bytes(32), b"\xff" * 32


def cid(name: int) -> Cid:
    return record_cid(b"%d" % name)


def posting(name: int, text: str) -> Posting:
    one = cid(name)
    return Posting(0, bytes(31) + bytes([name]), one, one, bytes(8), (), ALICE.agent, 7, words=counted(text))


def with_derived(path: Path, scenario: Callable[[DerivedState], Awaitable[None]], full_text: bool) -> None:
    async def main() -> None:
        derived = DerivedState(path, inline, UNSYNCED, full_text)
        async with trio.open_nursery() as nursery:
            await nursery.start(derived.run)
            await scenario(derived)
            await derived.aclose()

    trio.run(main)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 5), st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)),
        st.tuples(st.integers(0, 5), st.none()),
        st.none(),
    ),
    max_size=10,
)


@given(STEPS, st.lists(st.booleans(), min_size=1, max_size=3))
@settings(max_examples=15, deadline=None)
def test_terms_follow_their_postings_whether_indexed_or_not(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str | None] | None], opened: list[bool]
) -> None:
    path = tmp_path_factory.mktemp("lexicon") / "derived.db"
    model: dict[int, tuple[int, str]] = {}

    async def scenario(derived: DerivedState) -> None:
        for step in steps:
            if step is None:
                await derived.clear()
                model.clear()
            elif step[1] is None:
                await derived.remove([cid(step[0])])
                model.pop(step[0], None)
            else:
                for one in await derived.put([posting(step[0], step[1])]):
                    model[step[0]] = (one.number, step[1])
        numbers = sorted(number for number, _ in model.values())
        assert sorted(derived.numbers_in([(Low, High)])) == numbers
        read = derived.words(numbers)
        for number, text in model.values():
            assert read[number].encode() == counted(text).encode()
        for word in WORDS if derived.indexed else ():
            true = sorted(number for number, text in model.values() if word in text.split())
            assert sorted(derived.with_term(term_id(word))) == true

    for full_text in (*opened, True):
        with_derived(path, scenario, full_text)


def test_what_is_removed_is_in_no_file_once_scrubbed(tmp_path: Path) -> None:
    path = tmp_path / "derived.db"
    told = term_id("whisper")
    traces = (f"{told:08x}".encode(), told.to_bytes(4, "little"))

    def left() -> bool:
        return any(trace in one.read_bytes() for one in tmp_path.iterdir() for trace in traces)

    async def scenario(derived: DerivedState) -> None:
        await derived.put([replace(posting(0, "a whisper in the reeds"))])
        for number in range(1, 40):  # parts of the index enough to be merged among each other
            await derived.put([posting(number, f"heron number{number} stands")])
        assert derived.with_term(told)
        assert left()
        await derived.remove([cid(0)])
        assert derived.with_term(told) == []
        assert await derived.scrub()
        assert not left()
        assert len(derived.with_term(term_id("heron"))) == 39

    with_derived(path, scenario, True)
