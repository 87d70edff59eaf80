"""What the HTTP interface asks of a node; `node.node.Node` offers exactly this.

Errors that methods may raise besides those named: `NotReady` while the node starts or stops, and for writes
`ReadOnly` or the storage's `DiskFull`, after which nothing of that call was kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from chain.cid import Cid
from chain.identity import AgentId
from chain.record import Record
from chain.source_chain import ChainReport
from dht.blobs.blob_store import BlobDraft, BlobStore
from dht.overlay.clock_skew import Skew
from dht.overlay.reputation import Standing
from node.archive_import import ArchiveImport
from node.conflicts import Disputed, DisputedPage
from node.deltas import Deltas
from node.exporting import Exporting
from node.graph.exploration import Graph
from node.models import (
    PLAIN,
    Added,
    Answer,
    Change,
    Changed,
    EntryView,
    NewEntry,
    PeerView,
    QueryOptions,
    Rejected,
    SharedText,
    Status,
    Validated,
)
from node.moderation import Block


class OwnBlobs(Protocol):
    """The blobs that are here; `dht.blobs.service.BlobService` offers this."""

    @property
    def store(self) -> BlobStore:
        """What is on disk."""
        ...

    def drafting(self) -> AbstractAsyncContextManager[BlobDraft]:
        """A blob to be written portion by portion; abandoned unless finished in the block."""
        ...


class OwnPrivate(Protocol):
    """The owner's private entries; `node.private.PrivateEntries` offers this."""

    async def add(self, entry: NewEntry) -> Cid:
        """Add one; durable on return. Raises `InvalidInput` and what the embedder raises."""
        ...

    def __contains__(self, cid: object) -> bool:
        """Whether this is one of them."""
        ...

    async def page(self, after: Cid | None, limit: int) -> list[EntryView]:
        """Up to `limit` of them that are not deleted, by id, above `after`."""
        ...


class Disputes(Protocol):
    """Who knows of conflicts; `node.conflicts.Conflicts` offers this."""

    async def of(self, entry: Cid) -> Disputed | None:
        """The conflicts of one entry, asked of its holders; None when nobody knows the entry."""
        ...

    async def page(self, after: Cid | None, limit: int) -> DisputedPage:
        """The next entries in conflict."""
        ...


class NodeService(Protocol):
    """A node, seen from its owner's side."""

    async def add(self, entries: Sequence[NewEntry]) -> list[Added | Rejected]:
        """Author entries, one result for each in order; the added ones are durable on return."""
        ...

    async def query(
        self,
        text: str | None,
        vector: Sequence[float] | None,
        k: int,
        tags: Sequence[str],
        deadline_ms: int | None,
        fresh: bool = False,
        options: QueryOptions = PLAIN,
    ) -> Answer:
        """Ask the network for the `k` nearest entries that bear all `tags` and pass the options' filters.

        Exactly one of `text` and `vector` is given. Raises `EmbeddingError` when it has no code in the
        network's space. `deadline_ms` None: the node's own setting. `fresh`: checked
        with the holders of the entries.
        """
        ...

    async def get(self, entry: Cid) -> EntryView | None:
        """The entry as the network knows it, or None."""
        ...

    async def graph(self, entry: Cid, depth: int, limit: int, direction: str) -> Graph:
        """The entries related to one, and to those. Raises `NotFound` when nobody shows it."""
        ...

    async def text(self, entry: Cid) -> SharedText | None:
        """The entry's text with what was written apart put together, or None for an unknown entry."""
        ...

    async def change(self, entry: Cid, change: Change, if_version: str | None = None) -> Changed:
        """Edit, tag, vote on, delete or retract an entry; what was written is durable on return.

        Raises `NotFound`, `VersionConflict` when the entry is not at `if_version`, `Forbidden`, `Gone`, and
        `InvalidInput` or `EmbeddingError`.
        """
        ...

    async def receipts(self, record: Cid, at_least: int, timeout_s: float) -> Validated:
        """Who has validated an own record, once `at_least` have in full or after `timeout_s` seconds.

        Raises `NotFound` for a record of another chain, `InvalidInput` for more receipts than can come.
        """
        ...

    @property
    def deltas(self) -> Deltas:
        """What has come of entries since a version."""
        ...

    @property
    def conflicts(self) -> Disputes:
        """The entries in conflict."""
        ...

    @property
    def private(self) -> OwnPrivate:
        """The owner's own entries, which nobody else sees."""
        ...

    @property
    def exporting(self) -> Exporting:
        """The entries and all that is known of them, on their way out."""
        ...

    @property
    def archive_import(self) -> ArchiveImport:
        """Archives of records on their way in."""
        ...

    async def purge(self, cid: Cid) -> Changed:
        """Erase what this agent said in an entry, or in one own record, everywhere and for good.

        Raises `NotFound`, `Forbidden` where this agent has said nothing, and `InvalidInput`.
        """
        ...

    def status(self) -> Status:
        """The node at a glance; cheap."""
        ...

    def peers(self) -> list[PeerView]:
        """The peers of the routing table."""
        ...

    async def block(self, target: AgentId | Cid, reason: str) -> bool:
        """Neither show nor hold anything of an agent or an entry; whether this is new.

        Raises `InvalidInput`.
        """
        ...

    async def unblock(self, target: AgentId | Cid) -> None:
        """Take a block back; raises `NotFound`."""
        ...

    def standings(self) -> dict[AgentId, Standing]:
        """Peers that are slowed or banned, ascending by agent."""
        ...

    def pardon(self, agent: AgentId) -> bool:
        """End the ban of a peer and forget why; whether there was anything to forget."""
        ...

    def blocked(self) -> list[Block]:
        """What is blocked, oldest first."""
        ...

    async def clock_skew(self) -> Skew | None:
        """By how much the peers' clocks differ from this node's; None when none could be asked."""
        ...

    def chain_log(self, from_seq: int, limit: int) -> list[Record]:
        """Up to `limit` records of the node's own chain from `from_seq` on, ascending."""
        ...

    async def verify_chain(self) -> ChainReport:
        """Verify the node's own chain from its first record; raises `ChainBrokenError`."""
        ...

    @property
    def blobs(self) -> OwnBlobs:
        """Large content by CID."""
        ...

    async def fetch_blob(self, cid: Cid, size_limit: int) -> None:
        """Have a blob here, from whatever peers have it; raises `BlobUnavailable` and the blob errors."""
        ...

    async def rebuild_index(self) -> int:
        """Drop and rebuild everything derived; the number of vectors indexed."""
        ...
