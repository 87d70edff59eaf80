"""A node in memory for the tests of its edges: a real signed chain, real scores, no network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from math import sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from chain.blob import check_size
from chain.cid import Cid, raw_cid
from chain.content import Content, content_from_body
from chain.errors import ChainError
from chain.identity import AgentId, Identity
from chain.kinds import CREATE, OPENING, RULE_VERSION
from chain.manifest import Limits
from chain.record import Record, decode_payload
from chain.source_chain import ChainReport, Draft, head_of, next_record, verify_chain
from chain.vector import Codes, codes_from_bytes, score_ppm
from crdt.standing import CLEAR
from crdt.trust import VOTE
from dht.blobs.blob_store import BlobDraft
from dht.blobs.service import BlobUnavailable
from dht.overlay.clock_skew import Skew
from dht.overlay.reputation import Reputation, Standing
from node.api.service import OwnPrivate
from node.archive_import import ArchiveImport
from node.conflicts import Conflicts
from node.deltas import Deltas
from node.editor import Editor
from node.embedding.caller import CallerVectors
from node.embedding.errors import NotFinite, WrongSize, ZeroVector
from node.entry_reader import Found, view_of
from node.errors import InvalidInput, NotFound, NotReady
from node.exporting import Exporting
from node.graph.exploration import Graph
from node.graph.walk import explore
from node.models import (
    PLAIN,
    Added,
    Answer,
    Change,
    Changed,
    Cost,
    EntryView,
    Hit,
    NewEntry,
    PeerView,
    Purge,
    QueryOptions,
    Rejected,
    SharedText,
    Status,
    Validated,
)
from node.moderation import Block, Blocklist
from node.query.filters import facts_of
from node.storage.blob_files import BlobFiles
from node.storage.errors import DiskFull
from node.storage.own_chain import Script
from node.text_engine import engine
from node.writing import shared_text
from sim.virtual_clock import inline_blocking

T = TypeVar("T")
DIM = 8
NETWORK = raw_cid(b"the network of the edge tests")
SEED = bytes(range(32))


class HashVectors(CallerVectors):
    """Takes the caller's vectors, and gives texts without one some code that follows from them."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.int8]:
        return np.stack([_codes(text, None) for text in texts])


class MemoryBlobs:
    """Blobs in a temporary folder, within 4 MiB, that goes with the object."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory()
        self.store = BlobFiles(Path(self._folder.name), 4 << 20, lambda: 0)

    @asynccontextmanager
    async def drafting(self) -> AsyncIterator[BlobDraft]:
        draft = self.store.draft()
        try:
            yield draft
        finally:
            draft.abandon()


class MemoryNode:
    """Keeps `NodeService`'s promises for one process; `full` and `starting` provoke the rare answers."""

    def __init__(self) -> None:
        self.identity = Identity.from_seed(SEED)
        self.records: list[Record] = []
        self.keys: dict[bytes, Cid] = {}
        self.full = False
        self.reputation = Reputation()
        self.starting = False
        self.blocks = Blocklist(None)
        self.editor = Editor(
            self.identity.agent,
            HashVectors("hash", DIM),
            Limits(tags=4),
            lambda: RULE_VERSION,
            self,
            self.write,
            inline_blocking,
        )
        self.blobs = MemoryBlobs()
        self.elsewhere: dict[Cid, bytes] = {}
        """Blobs that a fetch finds at peers."""
        for kind in OPENING:
            self._append(Draft(kind, {}))

    async def add(self, entries: Sequence[NewEntry]) -> list[Added | Rejected]:
        if self.full:
            raise DiskFull(Path("chain.db"), "database or disk is full")
        outcomes: list[Added | Rejected] = []
        for index, entry in enumerate(entries):
            if entry.key is not None and entry.key in self.keys:
                outcomes.append(Added(self.keys[entry.key], False))
                continue
            try:
                codes = _codes(entry.text, entry.vector)
                tags = tuple(sorted(set(entry.tags)))
                content = Content(
                    entry.text,
                    codes.tobytes(),
                    tags,
                    entry.domain,
                    entry.confidence,
                    entry.citations,
                    format=entry.format,
                    generated_by=entry.generated_by,
                    references=entry.references,
                    fields=entry.fields,
                    behalf=entry.behalf,
                )
                record = self._append(Draft(CREATE, content.to_body()))
            except (ChainError, ValueError) as error:
                outcomes.append(Rejected(index, str(error)))
                continue
            if entry.key is not None:
                self.keys[entry.key] = record.cid
            outcomes.append(Added(record.cid, True))
        return outcomes

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
        if self.starting:
            raise NotReady("the node is still joining; try again in a moment")
        asked = _codes(text or "", vector)
        hits = []
        for record in self._creates():
            content = _content(record)
            if set(tags) <= set(content.tags) and options.filters.admit(facts_of(record, content)):
                score = score_ppm(asked, codes_from_bytes(content.codes, DIM))
                author = record.header.author
                hits.append(Hit(record.cid, score, author, content.text, content.tags, record, author))
        hits.sort(key=lambda hit: (-hit.score, hit.id))
        return Answer(tuple(hits[:k]), Cost(1, 1, 1, 0.5, 0, False, steps={"own": 0.5}))

    async def get(self, entry: Cid) -> EntryView | None:
        return view_of(entry, (await self.find(entry)).about(entry), root={self.identity.agent: VOTE})

    async def graph(self, entry: Cid, depth: int, limit: int, direction: str) -> Graph:
        return await explore(entry, depth, limit, direction, self.get, self.relating_to, inline_blocking)

    def relating_to(self, target: Cid, limit: int) -> list[Cid]:
        return sorted({one.subject for one in self.records if target in (one.payload or b"")})[:limit]

    async def text(self, entry: Cid) -> SharedText | None:
        view = await self.get(entry)
        return None if view is None else shared_text(view, CLEAR, engine())

    async def change(self, entry: Cid, change: Change, if_version: str | None = None) -> Changed:
        if self.full:
            raise DiskFull(Path("chain.db"), "database or disk is full")
        return await self.editor.change(entry, change, if_version)

    @property
    def conflicts(self) -> Conflicts:
        return Conflicts(self, self, lambda: CLEAR, inline_blocking)

    @property
    def deltas(self) -> Deltas:
        return Deltas(self, NETWORK, lambda: CLEAR, inline_blocking)

    def about(self, entry: Cid) -> dict[Cid, Record]:
        return {record.cid: record for record in self.records if record.subject == entry}

    def subjects_after(self, subject: Cid, limit: int) -> list[tuple[Cid, bool]]:
        found = {one.subject for one in self.records if one.subject != one.cid and one.subject > subject}
        return [(one, False) for one in sorted(found)[:limit]]

    @property
    def exporting(self) -> Exporting:
        raise NotReady("this node has nothing to export")

    @property
    def archive_import(self) -> ArchiveImport:
        raise NotReady("this node takes no archive")

    @property
    def private(self) -> OwnPrivate:
        raise NotReady("this node keeps nothing private")

    async def purge(self, cid: Cid) -> Changed:
        return await self.change(cid, Purge())

    async def find(self, entry: Cid) -> Found:
        return Found(self.about(entry))

    async def keep(self, found: Found) -> None:
        assert all(record in self.records for record in found.records.values())

    async def append(self, draft: Draft) -> Record:
        return self._append(draft)

    async def write(self, script: Script[T]) -> T:
        """As a chain does it: what raises leaves nothing."""
        before = len(self.records)
        steps = script()
        try:
            draft = next(steps)
            while True:
                draft = steps.send(self._append(draft))
        except StopIteration as stop:
            told: T = stop.value
            return told
        except BaseException:
            del self.records[before:]
            raise

    async def receipts(self, record: Cid, at_least: int, timeout_s: float) -> Validated:
        if at_least > 3:
            raise InvalidInput("more receipts than copies")
        if record not in [one.cid for one in self.records]:
            raise NotFound("not of this chain")
        return Validated(record, (), (), ())

    def status(self) -> Status:
        return Status(
            agent=self.identity.agent,
            network=NETWORK,
            network_name="edges",
            space="hash-8",
            addresses=(),
            peers=0,
            records=len(self.records),
            held=0,
            pending=0,
            shards_held=0,
            under_replicated=0,
            repairing=0,
            replication=3,
            unconfirmed=0,
            reachable=False,
            read_only="the disk is full" if self.full else None,
            uptime_s=1.0,
            counters={"queries": 3},
        )

    def peers(self) -> list[PeerView]:
        return [PeerView(bytes(32), ("/ip4/127.0.0.1/tcp/1",), True, True, 100, False, 1.25)]

    async def block(self, target: AgentId | Cid, reason: str) -> bool:
        return self.blocks.add(target, reason, 1_000_000)

    async def unblock(self, target: AgentId | Cid) -> None:
        self.blocks.remove(target)

    def standings(self) -> dict[AgentId, Standing]:
        return self.reputation.known(0.0)

    def pardon(self, agent: AgentId) -> bool:
        return self.reputation.pardon(agent)

    def blocked(self) -> list[Block]:
        return self.blocks.all()

    async def clock_skew(self) -> Skew | None:
        return Skew(-250_000, 3)

    def chain_log(self, from_seq: int, limit: int) -> list[Record]:
        return self.records[from_seq : from_seq + limit]

    async def verify_chain(self) -> ChainReport:
        return verify_chain(self.records, NETWORK)

    async def rebuild_index(self) -> int:
        return len(self._creates())

    async def fetch_blob(self, cid: Cid, size_limit: int) -> None:
        data = self.elsewhere.get(cid)
        if data is None:
            raise BlobUnavailable(cid, None, {})
        check_size(len(data), size_limit)
        async with self.blobs.drafting() as draft:
            draft.write(data)
            draft.finish(pin=False)

    def _append(self, draft: Draft) -> Record:
        head = head_of(self.records[-1]) if self.records else None
        salt = sha256(len(self.records).to_bytes(8, "big")).digest()[:16]
        record = next_record(
            self.identity, NETWORK, NETWORK, head, draft, 1_000_000 + len(self.records), salt
        )
        self.records.append(record)
        return record

    def records_of(self, entry: Cid) -> list[Record]:
        """The records about an entry."""
        return [record for record in self.records if record.subject == entry]

    def creates(self) -> list[Record]:
        """The records that begin an entry, oldest first."""
        return self._creates()

    def _creates(self) -> list[Record]:
        return [record for record in self.records if record.header.kind == CREATE]


def _content(record: Record) -> Content:
    assert record.payload is not None
    return content_from_body(decode_payload(record.payload))


def _codes(text: str, vector: Sequence[float] | None) -> Codes:
    if vector is None:
        return np.frombuffer(sha256(text.encode()).digest()[:DIM], dtype=np.uint8).astype(np.int8) | 1
    if len(vector) != DIM:
        raise WrongSize(f"the vector has {len(vector)} dimensions, the space has {DIM}")
    values = np.asarray(vector, dtype=np.float64)
    if not np.isfinite(values).all():
        raise NotFinite("the vector holds a value that is not finite")
    length = sqrt(float(values @ values))
    if length == 0:
        raise ZeroVector("the vector is zero")
    return np.rint(values / length * 127).astype(np.int8)
