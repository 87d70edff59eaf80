"""What has changed of an entry since a version, and what it came to: for readers outside who keep a copy.

All that can be found of the entry, here and at its holders, is folded, and of what is applied a page is cut
that the reader lacks (`crdt.delta`), or a snapshot taken (`crdt.snapshot`). Between nodes nothing of this is
used: they compare what they hold by ranges and frontiers, exchange whole records, and believe no view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from chain.cid import Cid
from chain.record import Record
from crdt.delta import Page, page_of
from crdt.delta_codec import page_length
from crdt.entry import EntryState
from crdt.snapshot import Snapshot, root_of_set, snapshot_of
from crdt.standing import Standing
from crdt.version_vector import VersionVector
from dht.ports import RunBlocking
from node.conflicts import Reader
from node.errors import NotFound

MAX_SET = 100
"""Entries that one root is asked of."""


class Deltas:
    """Cuts deltas and takes snapshots; all ask the entry's holders."""

    def __init__(
        self,
        reader: Reader,
        network: Cid,
        standing: Callable[[], Standing],
        run_blocking: RunBlocking,
    ) -> None:
        self._reader = reader
        self.network = network
        self._standing = standing
        self._run_blocking = run_blocking

    async def page(self, entry: Cid, since: VersionVector, limit: int) -> Page:
        """Up to `limit` records that a reader with this version lacks, and no more than fit a compact page.

        Raises `NotFound` when nobody shows the entry.
        """
        records = (await self._reader.find(entry)).about(entry)
        return await self._run_blocking(_page, entry, records, since, limit)

    async def snapshot(self, entry: Cid) -> Snapshot:
        """The entry's snapshot; raises `NotFound`, and `SnapshotError` when it is too large."""
        records = (await self._reader.find(entry)).about(entry)
        return await self._run_blocking(_snapshot, entry, records, self._standing())

    async def root(self, entries: Sequence[Cid]) -> tuple[bytes, tuple[Snapshot, ...]]:
        """The root over the snapshots of up to `MAX_SET` entries, and these, ascending. Raises as above."""
        taken = [await self.snapshot(entry) for entry in sorted(set(entries))]
        return root_of_set(taken), tuple(taken)


def _page(entry: Cid, records: Sequence[Record], since: VersionVector, limit: int) -> Page:
    state = EntryState(entry).add_all(records)
    if entry not in state.applied:
        raise NotFound("the entry is not known here or to its holders")
    page = page_of(state, since, limit)
    fits = page_length(page.records)
    return page if fits >= len(page.records) else replace(page_of(state, since, fits), more=True)


def _snapshot(entry: Cid, records: Sequence[Record], standing: Standing) -> Snapshot:
    snapshot = snapshot_of(EntryState(entry).add_all(records), standing)
    if snapshot is None:
        raise NotFound("the entry is not known here or to its holders")
    return snapshot
