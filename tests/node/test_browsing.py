"""Listing what is here: the latest first, as filtered, and never more work than the bounds say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

import node.browsing as browsing
from chain.cid import Cid, record_cid
from node.browsing import Browsing, Listing
from node.models import EntryView
from node.query.filters import ANY, Filters
from node.storage.derived_state import DerivedState
from tests.node.storage_fixtures import ALICE, UNSYNCED, inline
from tests.node.test_storage_derived_state import posting


def view(entry: Cid) -> EntryView:
    return EntryView(entry, ALICE.agent, "text", (), None, None, (), False, False, False, ())


async def test_the_latest_come_first_once_each_within_the_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browsing, "PAGE", 3)
    derived = DerivedState(tmp_path / "derived.db", inline, UNSYNCED)
    cids = [record_cid(b"%d" % n) for n in range(10)]
    folded: list[Cid] = []

    def local(entry: Cid) -> EntryView | None:
        folded.append(entry)
        return None if entry == cids[5] else view(entry)

    listing = Browsing(derived, lambda records: [None] * len(records), local, inline)

    async def latest(tags: tuple[str, ...], filters: Filters, limit: int) -> tuple[list[int], bool]:
        found: Listing = await listing.latest(tags, filters, lambda one: one.id != cids[4], limit)
        return [cids.index(one.id) for one in found.entries], found.whole

    async with trio.open_nursery() as nursery:
        await nursery.start(derived.run)
        assert await latest((), ANY, 5) == ([], True)
        postings = [replace(posting(n, n), domain="even" if n % 2 == 0 else None) for n in range(10)]
        again = replace(posting(70, 70, ("red",)), entry=cids[1])  # a second value of an older entry
        await derived.put([*postings, again])
        assert await latest((), ANY, 9) == ([1, 9, 8, 7, 6, 3, 2, 0], True)
        assert await latest((), ANY, 8) == ([1, 9, 8, 7, 6, 3, 2, 0], True)
        assert await latest((), ANY, 3) == ([1, 9, 8], False)
        assert await latest(("red",), ANY, 3) == ([1], True)
        assert await latest((), Filters(domains=("even",)), 9) == ([8, 6, 2, 0], True)
        folded.clear()
        monkeypatch.setattr(browsing, "MAX_FOLDED", 4)
        assert await latest((), ANY, 9) == ([1, 9, 8, 7], False)
        assert len(folded) == 4
        monkeypatch.setattr(browsing, "MAX_LOOKED_AT", 6)
        assert await latest((), Filters(domains=("odd",)), 9) == ([], False)
        await derived.aclose()
