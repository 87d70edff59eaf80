"""The node: one agent's chain, what it holds for others, its place in the DHT, and the query path.

This module only composes: it opens the three databases, builds the floors below on the ports it is given
(network, clock, randomness, blocking work), and answers the verbs of the interface. The daemon runs it over
libp2p and threads, the simulator over a virtual network and inline calls; nothing here knows which. While
`open_node` is open, background tasks publish, catch up and keep the routing table fresh.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import trio

from chain.cid import Cid
from chain.content import Content
from chain.errors import ChainError
from chain.identity import AgentId, Identity
from chain.kinds import CREATE, SUBJECT_OPERATIONS
from chain.record import Record
from chain.source_chain import ChainReport, Draft
from chain.vector import Codes
from crdt.entry import fold
from dht.basis import subject_basis
from dht.bundle import Bundle, Item
from dht.catch_up import CatchUp
from dht.errors import NetworkError
from dht.hello import Founding, HelloServer
from dht.intake import Intake
from dht.kademlia import BootstrapError, Kademlia
from dht.network import Network
from dht.ports import Clock, Random, RunBlocking
from dht.publisher import Publisher
from dht.record_store import Held
from dht.records import RecordService
from dht.replies import StoreStatus
from node.asker import DEFAULT_DEADLINE_MS, EXTRA_HOLDERS, Asker
from node.derivation import index_missing, records_of, records_to_index
from node.embedding.caller import CallerVectors
from node.embedding.errors import EmbeddingError, TextNotAccepted, WrongSize
from node.errors import HomeError, InvalidInput
from node.founding import embedder_for, layout_for
from node.holder import Holder
from node.models import Added, Answer, EntryView, NewEntry, PeerView, Rejected, Status
from node.opening import ensure_opening
from node.peer_memory import read_peers, write_peers
from node.search_protocol import MAX_K
from node.storage.derived_state import DerivedState
from node.storage.errors import DatabaseCorrupt, DiskFull, ReadOnly
from node.storage.held_records import HeldRecords
from node.storage.own_chain import OwnChain

SOFTWARE = "roseforest/0.1.0"
GET_TIMEOUT_S = 2.0
REJOIN_FIRST_S = 1.0
REJOIN_MOST_S = 60.0
SAVE_INDEX_EVERY_S = 300.0
REMEMBER_EVERY_S = 60.0
PAGE = 500

log = logging.getLogger(f"roseforest.{__name__}")


class QueryError(InvalidInput):
    """A query that cannot be asked; the message says which part is wrong."""


@dataclass(frozen=True, slots=True)
class NodePaths:
    """Where a node keeps its files; `index` is None where the index is not persisted."""

    chain: Path
    held: Path
    derived: Path
    index: Path | None
    peers: Path | None = None
    """Addresses of peers seen last; None where they are not remembered."""


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How this agent takes part. `capacity` 0 holds nothing for others; it still authors and asks."""

    capacity: int = 100
    bootstrap: tuple[str, ...] = ()
    name: str = ""
    recovery: AgentId | None = None
    query_deadline_ms: int = DEFAULT_DEADLINE_MS
    """For queries that set none of their own."""


class Node:
    """The verbs of a running node; made by `open_node`."""

    def __init__(
        self,
        identity: Identity,
        founding: Founding,
        network: Network,
        clock: Clock,
        random: Random,
        run_blocking: RunBlocking,
        options: NodeOptions,
        own: OwnChain,
        held: HeldRecords,
        derived: DerivedState,
        paths: NodePaths,
        nonce: int,
    ) -> None:
        manifest = founding.manifest
        self.agent = identity.agent
        self.manifest = manifest
        self.network_id = manifest.network_id
        self._network = network
        self._clock = clock
        self._run_blocking = run_blocking
        self._options = options
        self._own = own
        self._held = held
        self._derived = derived
        self._find = records_of(own, held)
        self._embedder = embedder_for(manifest.space)
        self._layout = layout_for(manifest, founding.atlas_bytes)
        self._paths = paths
        self._joined = False
        self._started = clock.monotonic()
        self.kademlia = Kademlia(
            network=network,
            identity=identity,
            manifest=manifest,
            nonce=nonce,
            capacity=options.capacity,
            clock=clock,
            rng=random,
        )
        HelloServer(network, founding.manifest_bytes, founding.epochs, founding.atlas_bytes)
        self._holder = Holder(derived, self._layout, manifest.space.dim, paths.index, run_blocking)
        self._intake = Intake(manifest, self._find, self._opening_of, self._layout, self._embed_one(), clock)
        self._records = RecordService(
            network=network,
            kademlia=self.kademlia,
            store=held,
            own=own.get_many,
            own_opening=own.opening,
            intake=self._intake,
            run_blocking=run_blocking,
            on_held=self._on_held,
            accepts=lambda: options.capacity > 0 and self.read_only is None,
        )
        self._catch_up = CatchUp(
            self.kademlia, self._records, held, self._layout.tree, manifest.replication, random.choice
        )
        self._publisher = Publisher(
            own, self.kademlia, self._layout, manifest.replication, self._records.hold
        )
        self._asker = Asker(
            network=network,
            kademlia=self.kademlia,
            records=self._records,
            holder=self._holder,
            records_of=self._find,
            is_complete=self._catch_up.is_complete,
            intake=self._intake,
            layout=self._layout,
            dim=manifest.space.dim,
            replication=manifest.replication,
            clock=clock,
            run_blocking=run_blocking,
        )

    # The verbs of the interface.

    async def add(self, entries: Sequence[NewEntry]) -> list[Added | Rejected]:
        """Author entries; each result is durable when this returns, or says why it was rejected.

        Raises `StorageError` (read-only, disk full): then none of them was added.
        """
        outcomes: list[Added | Rejected | None] = [None] * len(entries)
        codes = await self._embed(entries, outcomes)
        drafts: list[Draft] = []
        places: list[int] = []
        for place, entry in enumerate(entries):
            code = codes[place]
            if code is None:
                continue
            try:
                drafts.append(Draft(CREATE, _content(entry, code).to_body()))
                places.append(place)
            except ChainError as error:
                outcomes[place] = Rejected(place, str(error))
        appended = await self._own.append(drafts, [entries[place].key for place in places])
        for place, (cid, created) in zip(places, appended, strict=True):
            outcomes[place] = Added(cid, created)
        new = self._own.get_many([cid for cid, created in appended if created])
        try:
            await self._holder.add([record for record in new if record is not None])
        except (DiskFull, ReadOnly, DatabaseCorrupt) as error:
            # They are in the chain, so they were added; the next start indexes them.
            log.error("%d new entries are kept but not indexed: %s", len(new), error)
        self._publisher.wake()
        return [outcome for outcome in outcomes if outcome is not None]

    async def query(
        self,
        text: str | None,
        vector: Sequence[float] | None,
        k: int,
        tags: Sequence[str],
        deadline_ms: int | None,
    ) -> Answer:
        """The best `k` entries for a text or vector, carrying all `tags`.

        Raises `QueryError` or `EmbeddingError` for what cannot be asked.
        """
        if not 1 <= k <= MAX_K:
            raise QueryError(f"k is {k}; ask for 1 to {MAX_K} hits")
        if deadline_ms is not None and deadline_ms < 1:
            raise QueryError(f"the deadline is {deadline_ms} ms; give at least 1")
        if (text is None) == (vector is None):
            raise QueryError("give either a text or a vector to ask for")
        codes = await self._query_codes(text, vector)
        return await self._asker.ask(codes, k, tags, deadline_ms or self._options.query_deadline_ms)

    async def get(self, entry: Cid) -> EntryView | None:
        """An entry as all its known operations fold, from here and its holders; None when nobody has it."""
        records = {record.cid: record for record in self._local_records(entry)}
        holders = await self.kademlia.holders(subject_basis(entry), self.manifest.replication + EXTRA_HOLDERS)
        with trio.move_on_after(GET_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for contact in holders:
                    if contact.agent != self.agent:
                        nursery.start_soon(self._get_from, contact.agent, entry, records)
        # Not all that has an id is an entry, and not all that names one as its subject is about it.
        records = {cid: record for cid, record in records.items() if _is_of(entry, record)}
        folded = fold(records[cid] for cid in sorted(records))
        if folded is None:
            return None
        shown = folded.contents[0][1] if folded.contents else None
        return EntryView(
            id=entry,
            author=folded.author,
            text=None if shown is None else shown.text,
            tags=folded.tags,
            domain=None if shown is None else shown.domain,
            confidence=None if shown is None else shown.confidence,
            citations=() if shown is None else shown.citations,
            deleted=folded.deleted,
            retracted=folded.retracted,
            conflict=folded.conflict,
            version=tuple(
                (author, max(slot.seq for slot in slots), tuple(slot.cid for slot in slots))
                for author, slots in folded.version.authors
            ),
            records=tuple(sorted(records.values(), key=lambda r: (r.header.lamport, r.cid))),
        )

    def status(self) -> Status:
        """The node at a glance."""
        return Status(
            agent=self.agent,
            network=self.network_id,
            network_name=self.manifest.name,
            space=self.manifest.space.model,
            addresses=self._network.addresses,
            peers=len(self.kademlia.contacts()),
            records=self._own.count(),
            held=self._held.count(),
            pending=self._publisher.pending,
            shards_held=self._catch_up.shards_held,
            reachable=bool(self._network.addresses) and bool(self._network.connected()),
            read_only=self.read_only,
            uptime_s=round(self._clock.monotonic() - self._started, 3),
            counters=self._counters(),
        )

    def peers(self) -> list[PeerView]:
        """The peers that this node knows, by agent id."""
        connected = set(self._network.connected())
        views = []
        for contact in sorted(self.kademlia.contacts(), key=lambda c: c.agent):
            latency = self.kademlia.latency(contact.agent)
            views.append(
                PeerView(
                    agent=contact.agent,
                    addresses=contact.addresses,
                    connected=contact.agent in connected,
                    responsive=not self.kademlia.is_suspect(contact.agent),
                    capacity=contact.capacity,
                    full=contact.full,
                    latency_ms=None if latency is None else round(latency * 1_000, 3),
                )
            )
        return views

    def chain_log(self, from_seq: int, limit: int) -> list[Record]:
        """Own records from `from_seq` on, ascending."""
        return self._own.read(from_seq, limit)

    async def verify_chain(self) -> ChainReport:
        """Verify the own chain from its first record; raises `ChainBrokenError`."""
        return await self._run_blocking(self._own.verify)

    async def rebuild_index(self) -> int:
        """Make postings and index again from the records; returns how many postings there are."""
        return await self._holder.rebuild(records_to_index(self._own, self._held, self._layout.tree))

    @property
    def read_only(self) -> str | None:
        """Why this node takes no writes, or None."""
        return self._own.read_only or self._held.read_only or self._derived.read_only

    @property
    def joined(self) -> bool:
        """Whether the node is part of its network: it founded it, or a bootstrap peer answered."""
        return self._joined

    # Composition and background work.

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.kademlia.run)
            nursery.start_soon(self._enter)
            nursery.start_soon(self._remember)
            nursery.start_soon(self._save_index)

    async def _enter(self) -> None:
        """Join through the configured peers and those known before; then work with who is there.

        A founder has nobody to join and is part of its network at once. With bootstrap addresses the node
        counts as joined when one of them, or any remembered peer, let it in; until then it retries with
        back-off.
        """
        remembered = await self._run_blocking(self._remembered)
        addresses = list(dict.fromkeys([*self._options.bootstrap, *remembered]))
        self._joined = not self._options.bootstrap
        async with trio.open_nursery() as nursery:
            if self._joined and not addresses:
                nursery.start_soon(self._take_part)
                return
            wait = REJOIN_FIRST_S
            while True:
                try:
                    await self.kademlia.join(addresses)
                    break
                except BootstrapError as error:
                    level = logging.WARNING if self._options.bootstrap else logging.INFO
                    log.log(level, "not joined yet, next try in %.0f s: %s", wait, error)
                    with trio.move_on_after(wait):
                        seen = self.kademlia.version
                        while not self.kademlia.contacts():
                            seen = await self.kademlia.wait_changed(seen)
                    if self.kademlia.contacts() or (self._joined and not self._options.bootstrap):
                        break  # somebody joined through us, or nobody of old is left: go on with who is there
                wait = min(wait * 2, REJOIN_MOST_S)
            self._joined = True
            nursery.start_soon(self._take_part)

    async def _take_part(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._while_writable, self._publisher.run)
            nursery.start_soon(self._wake_on_change)
            if self._options.capacity > 0:
                nursery.start_soon(self._while_writable, self._catch_up.run)

    async def _while_writable(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run background work that writes; a full or failing disk ends the work, not the node.

        The databases take no writes until a restart then, and what was not published is still pending.
        """
        try:
            await work()
        except* (DiskFull, ReadOnly, DatabaseCorrupt) as group:
            log.error("the node goes on read-only: %s", self.read_only or group.exceptions[0])

    async def _wake_on_change(self) -> None:
        seen = self.kademlia.version
        while True:
            seen = await self.kademlia.wait_changed(seen)
            self._publisher.wake()

    async def _remember(self) -> None:
        """Keep the addresses of peers, so that a restart does not depend on the bootstrap nodes.

        The first one is kept at once: a founder that is killed early has no other way back.
        """
        seen = self.kademlia.version
        while not self.kademlia.contacts():
            seen = await self.kademlia.wait_changed(seen)
        while True:
            await self._run_blocking(self._write_peers)
            await trio.sleep(REMEMBER_EVERY_S)

    def _remembered(self) -> list[str]:
        return [] if self._paths.peers is None else read_peers(self._paths.peers)

    def _write_peers(self) -> None:
        contacts = self.kademlia.contacts()
        if self._paths.peers is None or not contacts:
            return
        try:
            write_peers(self._paths.peers, [address for contact in contacts for address in contact.addresses])
        except HomeError as error:
            log.warning("the peers are not remembered: %s", error)

    async def _save_index(self) -> None:
        while True:
            await trio.sleep(SAVE_INDEX_EVERY_S)
            await self._run_blocking(self._write_index)

    def _write_index(self) -> None:
        try:
            self._holder.save()
        except (OSError, RuntimeError) as error:  # FAISS reports what the system says as RuntimeError
            log.warning("the index is not saved, the next start makes it again: %s", error)

    async def _open(self) -> None:
        await self._holder.open()
        await index_missing(
            self._holder, self._derived, self._own, self._held, self._layout.tree, self._run_blocking
        )

    # Small parts of the verbs.

    async def _embed(
        self, entries: Sequence[NewEntry], outcomes: list[Added | Rejected | None]
    ) -> list[bytes | None]:
        return await self._run_blocking(self._embed_all, entries, outcomes)

    def _embed_all(
        self, entries: Sequence[NewEntry], outcomes: list[Added | Rejected | None]
    ) -> list[bytes | None]:
        """Codes of each entry, all texts in one call; when one has no code, find it and go on without."""
        codes: list[bytes | None] = [None] * len(entries)
        places: list[int] = []
        for place, entry in enumerate(entries):
            try:
                if isinstance(self._embedder, CallerVectors):
                    if entry.vector is None:
                        self._embedder.embed([entry.text])
                    else:
                        codes[place] = self._embedder.quantise(entry.vector).tobytes()
                elif entry.vector is not None:
                    raise WrongSize(
                        f"the network embeds texts itself ({self._embedder.space}); leave the vector out"
                    )
                else:
                    places.append(place)
            except EmbeddingError as error:
                outcomes[place] = Rejected(place, str(error))
        try:
            for place, row in zip(
                places, self._embedder.embed([entries[p].text for p in places]), strict=True
            ):
                codes[place] = row.tobytes()
        except EmbeddingError:
            for place in places:
                try:
                    codes[place] = self._embedder.embed([entries[place].text])[0].tobytes()
                except EmbeddingError as error:
                    outcomes[place] = Rejected(place, str(error))
        return codes

    async def _query_codes(self, text: str | None, vector: Sequence[float] | None) -> Codes:
        if vector is not None:
            if not isinstance(self._embedder, CallerVectors):
                raise TextNotAccepted(
                    f"the network embeds texts itself ({self._embedder.space}); ask with a text"
                )
            return self._embedder.quantise(vector)
        assert text is not None
        codes: Codes = (await self._run_blocking(self._embedder.embed, [text]))[0]
        return codes

    async def _on_held(self, items: Sequence[Held]) -> None:
        await self._holder.on_held(items)
        self._catch_up.note_stored()

    def _embed_one(self) -> Callable[[str], bytes | None] | None:
        if isinstance(self._embedder, CallerVectors):
            return None
        embedder = self._embedder

        def codes_of(text: str) -> bytes | None:
            try:
                codes: bytes = embedder.embed([text])[0].tobytes()
            except EmbeddingError:
                return None  # a text without a vector: the rule `binding` refuses the record
            return codes

        return codes_of

    def _opening_of(self, author: AgentId) -> tuple[Record, Record] | None:
        return self._own.opening() if author == self.agent else self._held.opening(author)

    def _local_records(self, entry: Cid) -> list[Record]:
        own = [record for record in self._own.get_many([entry]) if record is not None]
        return [*own, *self._held.at_basis(subject_basis(entry), None, PAGE)]

    async def _get_from(self, agent: AgentId, entry: Cid, records: dict[Cid, Record]) -> None:
        after: Cid | None = None
        try:
            while True:
                page = await self._records.at(agent, subject_basis(entry), after)
                about = [i for i in page.bundle.items if isinstance(i, Item) and i.record.subject == entry]
                new = tuple(i for i in about if i.record.payload and i.record.cid not in records)
                judged = await self._run_blocking(
                    self._intake.judge, Bundle(page.bundle.openings, page.bundle.headers, new)
                )
                for item, verdict in zip(new, judged, strict=True):
                    if verdict.status is StoreStatus.HELD:
                        records[item.record.cid] = item.record
                    elif verdict.rule:
                        self.kademlia.report(agent)
                if not page.more or not about:
                    return
                after = about[-1].record.cid
        except NetworkError as error:
            log.info("fetching from %s failed: %s", agent.hex()[:8], error)

    def _counters(self) -> dict[str, int]:
        counters = {
            "queries_total": self._asker.queries,
            "searches_served_total": self._asker.served,
            "hits_refused_total": self._asker.hits_refused,
            "records_caught_up_total": self._catch_up.fetched,
            "own_records_refused_total": sum(self._publisher.refusals.values()),
            "postings": len(self._holder),
        }
        counters.update(
            (f"kademlia_{name}_total", value) for name, value in asdict(self.kademlia.counters).items()
        )
        return counters


def _is_of(entry: Cid, record: Record) -> bool:
    kind = record.header.kind
    if record.cid == entry:
        return kind == CREATE
    return record.subject == entry and kind in SUBJECT_OPERATIONS


def _content(entry: NewEntry, codes: bytes) -> Content:
    return Content(
        text=entry.text,
        codes=codes,
        tags=tuple(sorted(set(entry.tags))),
        domain=entry.domain,
        confidence=entry.confidence,
        citations=entry.citations,
    )


@asynccontextmanager
async def open_node(
    *,
    identity: Identity,
    founding: Founding,
    paths: NodePaths,
    network: Network,
    clock: Clock,
    random: Random,
    run_blocking: RunBlocking,
    options: NodeOptions,
) -> AsyncIterator[Node]:
    """Open the databases, write the chain's opening if need be, and run the node until the block ends.

    Raises `StorageError` for files that cannot be used and `SpaceError` when the network's space is not ours.
    """
    manifest = founding.manifest
    async with trio.open_nursery() as nursery:
        own = OwnChain(
            paths.chain, identity, manifest.network_id, manifest.network_id, clock, random, run_blocking
        )
        held = HeldRecords(paths.held, run_blocking)
        derived = DerivedState(paths.derived, run_blocking)
        try:
            for store in (own, held, derived):
                await nursery.start(store.run)
            nonce = await ensure_opening(
                own,
                identity,
                manifest,
                manifest.network_id,
                run_blocking,
                nonce_start=int.from_bytes(random.random_bytes(6), "big"),
                recovery=options.recovery,
                name=options.name or "anonymous",
                software=SOFTWARE,
            )
            node = Node(
                identity,
                founding,
                network,
                clock,
                random,
                run_blocking,
                options,
                own,
                held,
                derived,
                paths,
                nonce,
            )
            await node._open()
            async with trio.open_nursery() as background:
                background.start_soon(node._run)
                yield node
                background.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await run_blocking(node._write_index)
                await run_blocking(node._write_peers)
        finally:
            for store in (own, held, derived):
                store.close()
            nursery.cancel_scope.cancel()
