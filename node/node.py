"""The node: one agent's chain, what it holds for others, its place in the DHT, and the query path.

This module only composes: it opens the three databases, builds the floors below on the ports it is given
(network, clock, randomness, blocking work), and answers the verbs of the interface. The daemon runs it over
libp2p and threads, the simulator over a virtual network and inline calls; nothing here knows which. While
`open_node` is open, background tasks publish, catch up and keep the routing table fresh.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import trio

from chain.cid import Cid, to_text
from chain.identity import AGENT_ID_SIZE, AgentId, Identity
from chain.kinds import ENTRY_OPERATIONS, PURGE
from chain.membrane import Passage
from chain.receipt import Found, sign_batch
from chain.record import Record
from chain.source_chain import ChainReport, Draft
from dht.blobs.service import BlobService
from dht.evidence.activity import ActivityWatch
from dht.evidence.attestations import Attestations
from dht.evidence.challenger import Challenger
from dht.evidence.heads import Heads
from dht.evidence.own_history import OwnHistory
from dht.network import Network
from dht.overlay.clock_skew import ClockSkew, Skew
from dht.overlay.hello import Founding, HelloServer
from dht.overlay.kademlia import Kademlia
from dht.overlay.reputation import Standing
from dht.ports import Clock, Random, RunBlocking
from dht.records.intake import Intake
from dht.records.methods import RecordService
from dht.records.placement import Role
from dht.records.proofs import Proofs
from dht.records.record_store import Held
from dht.records.retrial import Retrial
from dht.records.room import NO_QUOTA, Quota, Room
from dht.repair.catch_up import CatchUp
from dht.repair.comparison import Comparisons
from dht.repair.frontiers import Frontiers
from dht.repair.offers import Offers
from dht.repair.publisher import Publisher
from dht.repair.repairer import Repairer
from federated.engagement import Tools
from federated.learning import Learning
from federated.post import Post
from node.agent_life import AgentLife
from node.asker import DEFAULT_DEADLINE_MS, EXTRA_HOLDERS, Asker
from node.authoring import binding_codes, draft_entries, text_codes, vector_codes
from node.derivation import drop_strays, index_missing, purges_of, records_of, records_to_index
from node.editor import Editor
from node.entry_reader import EntryReader
from node.entry_records import EntryRecords
from node.erasing import Erasing
from node.errors import InvalidInput, NotFound, NotReady
from node.founding import Ground, ground_for
from node.freshness import Freshness
from node.governance import Governance
from node.head_guard import HeadGuard
from node.holder import Holder
from node.home import Home
from node.inviting import GRANT_FILE, LINKS_FILE, Inviting
from node.learning import ModelBlobs
from node.models import (
    Added,
    Answer,
    Change,
    Changed,
    EntryView,
    NewEntry,
    PeerView,
    Purge,
    Rejected,
    Status,
    Validated,
)
from node.moderation import Block, Blocklist
from node.opening import ensure_opening
from node.participation import Participation
from node.private import PrivateEntries
from node.receipts import Receipts
from node.search_protocol import MAX_K
from node.steps import Steps
from node.storage.blob_files import BlobFiles
from node.storage.derived_state import DerivedState
from node.storage.errors import StorageError
from node.storage.held_records import HeldRecords
from node.storage.learning_memory import LearningMemory
from node.storage.own_chain import OwnChain
from sharding.tree import Prefix

SOFTWARE = "roseforest/0.1.0"
DEFAULT_BLOBS_BYTES = 2048 << 20
BLOB_FETCH_S = 600.0
"""Seconds that the owner's request for a blob of others may take, before it is told to ask again."""

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
    blocked: Path | None = None
    """What the owner does not want here; None: nothing is remembered."""
    peers: Path | None = None
    """Addresses of peers seen last; None where they are not remembered."""
    blobs: Path | None = None
    """Folder of blobs; None: `blobs` beside the chain."""
    learning: Path | None = None
    """What is remembered of learning tasks; None: `learning.db` beside the chain."""

    @classmethod
    def of(cls, home: Home) -> NodePaths:
        """Where a home folder keeps them."""
        return cls(
            chain=home.chain_db,
            held=home.held_db,
            derived=home.derived_db,
            index=home.index,
            blocked=home.blocked,
            peers=home.peers,
        )


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How this agent takes part. `capacity` 0 holds nothing for others; it still authors and asks."""

    capacity: int = 100
    bootstrap: tuple[str, ...] = ()
    name: str = ""
    recovery: AgentId | None = None
    query_deadline_ms: int = DEFAULT_DEADLINE_MS
    """For queries that set none of their own."""
    why_frozen: Callable[[int], str | None] = lambda records: None
    """Why a chain of so many records takes no more, or None (`node.instance`)."""
    forced: bool = False
    """The owner's word that no other copy of this home writes, and nothing newer was written elsewhere."""
    confirmed: Callable[[int], None] = lambda records: None
    """Called, blocking, when holders confirmed that the chain, of so many records, is whole here."""
    blobs_max_bytes: int = DEFAULT_BLOBS_BYTES
    """Disk space for blobs; the least recently used that nobody pinned go when it is full."""
    quota: Quota = NO_QUOTA
    """What is held for others takes up so much."""
    invitation: tuple[bytes, ...] = ()
    """The proof that lets this agent into a network by invitation; only its first start needs it."""


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
        blobs: BlobFiles,
        remembered: LearningMemory,
        paths: NodePaths,
        passage: Passage,
        ground: Ground,
        embed_blocking: RunBlocking,
        why_frozen: str | None = None,
    ) -> None:
        manifest = founding.manifest
        self.agent = identity.agent
        self.manifest = manifest
        self.network_id = manifest.network_id
        self._network = network
        self._clock = clock
        self._run_blocking = run_blocking
        self._embed_blocking = embed_blocking
        self._options = options
        self._own = own
        self._held = held
        self._derived = derived
        self._find, purges = records_of(own, held), purges_of(own, held)
        self._blocks = Blocklist(paths.blocked)
        self._entries = EntryRecords(own, held, self._blocks)
        self._embedder, self._layout = ground.embedder, ground.layout
        self._started = clock.monotonic()
        self.kademlia = Kademlia(
            network=network,
            identity=identity,
            manifest=manifest,
            nonce=passage.nonce,
            capacity=options.capacity,
            clock=clock,
            rng=random,
            invitation=passage.invitation,
        )
        self._clock_skew = ClockSkew(network, self.kademlia, clock, random.choice)
        self.inviting = Inviting(
            identity,
            manifest,
            network,
            paths.chain.with_name(GRANT_FILE),
            paths.chain.with_name(LINKS_FILE),
            clock,
            random,
            run_blocking,
        )
        """How this agent lets others in."""
        hello = HelloServer(
            network, founding.manifest_bytes, founding.epochs, founding.atlas_bytes, self.inviting.redeem
        )
        self.governance = Governance(identity, manifest, own, held, hello, founding.atlas_bytes)
        ledger = self.governance.ledger
        self._holder = Holder(
            derived,
            self._entries,
            self._layout,
            manifest.space.dim,
            paths.index,
            run_blocking,
            lambda: ledger.standing,
        )
        self._intake = Intake(
            manifest,
            self._find,
            self._opening_of,
            self._layout,
            binding_codes(self._embedder),
            clock,
            lambda: ledger.epochs,
            self.governance.broke_a_rule,
        )
        self._room = Room(self.agent, held, options.quota, lambda: shutil.disk_usage(paths.held.parent).free)

        def sign(found: Sequence[Found]) -> bytes:
            return sign_batch(identity, self.network_id, found, clock.wall_us())

        self._attestations = Attestations(network, self.kademlia, held, self.network_id, sign, run_blocking)
        self._records = RecordService(
            network=network,
            kademlia=self.kademlia,
            store=held,
            own=own.shown_to_others,
            own_opening=own.opening,
            intake=self._intake,
            run_blocking=run_blocking,
            on_held=self._on_held,
            accepts=self._keeps,
            room=self._room,
            blocks=self._blocks,
            purges_of=purges,
            sign=sign,
        )
        self._retrial = Retrial(self.kademlia, self._records, manifest.replication, clock, run_blocking)
        self._records.on_waiting = self._retrial.keep
        proofs = Proofs(network, self.kademlia, self._records, held, random, run_blocking, self._keeps)
        comparisons = Comparisons(network, self.kademlia, held, run_blocking)
        self._repairer = Repairer(
            self.kademlia,
            self._records,
            proofs,
            comparisons,
            Frontiers(network, self.kademlia, held, run_blocking),
            held,
            manifest.replication,
            self._on_dropped,
            lambda entry: self._reader.find(entry),
            run_blocking,
            random,
        )
        self._catch_up = CatchUp(
            self.kademlia,
            self._records,
            comparisons,
            held,
            self._layout.tree,
            manifest.replication,
            random.choice,
        )
        self._publisher = Publisher(
            own,
            self.kademlia,
            self._layout,
            self.network_id,
            manifest.replication,
            self._records.hold,
            self._find,
            run_blocking,
        )
        self._challenger = Challenger(
            own,
            held,
            self.kademlia,
            self._records,
            proofs,
            manifest.replication,
            self._publisher.shard_bases,
            self._publisher.wake,
            run_blocking,
            random,
        )
        self._receipts = Receipts(
            own,
            self._find,
            self._layout,
            self.network_id,
            manifest.replication,
            self._publisher,
            self._attestations,
            run_blocking,
        )
        self.blobs = BlobService(network, self.kademlia, blobs, run_blocking, clock, random.choice)
        self._offers = Offers(
            self.kademlia,
            self._records,
            held,
            self._entries.about,
            self._entries.all_operated_on,
            own.operated_on,
            lambda cids: held.purged_shards(cids) | own.purged_shards(cids),
            lambda entry: self._reader.find(entry),
            self._layout,
            manifest.replication,
            run_blocking,
            random.choice,
            lambda: ledger.standing,
        )
        self.governance.connect(
            network,
            self.kademlia,
            self._records,
            self._intake,
            self._holder,
            lambda entries: self._offers.heard(self._entries.operated_on(entries)),
            self._publisher.wake,
            self._opening_of,
            run_blocking,
            random,
        )
        self._reader = EntryReader(
            self.kademlia,
            self._records,
            self._intake,
            self._entries,
            manifest.replication + EXTRA_HOLDERS,
            run_blocking,
            lambda: ledger.standing,
        )
        self._asker = Asker(
            network=network,
            kademlia=self.kademlia,
            records=self._records,
            holder=self._holder,
            records_of=self._find,
            purges_of=purges,
            entries=self._entries,
            unplaced=own.unplaced,
            freshness=Freshness(
                self.kademlia,
                self._records,
                self._reader,
                self._entries,
                manifest.space.dim,
                manifest.replication,
                run_blocking,
                lambda: ledger.standing,
            ),
            is_complete=self._is_complete,
            intake=self._intake,
            layout=self._layout,
            dim=manifest.space.dim,
            replication=manifest.replication,
            clock=clock,
            run_blocking=run_blocking,
            standing=lambda: ledger.standing,
        )
        self._editor = Editor(
            self.agent,
            self._embedder,
            manifest.limits,
            lambda: self.governance.epochs.rules,
            self._reader,
            self._append,
            embed_blocking,
            lambda: ledger.standing,
        )
        self._heads = Heads(network, self.kademlia, held, manifest.network_id, run_blocking, clock)
        self._activity = ActivityWatch(
            self.kademlia,
            self._heads,
            self._records,
            held,
            held.get_many,
            self.governance.context,
            self.governance.broke_a_rule,
            manifest.replication,
            clock,
            run_blocking,
        )
        self.guard = HeadGuard(
            own,
            self.kademlia,
            self._heads,
            OwnHistory(
                self.kademlia,
                self._heads,
                self._records,
                held.get_many,
                manifest.network_id,
                manifest.replication,
                run_blocking,
            ),
            manifest.replication,
            clock,
            random,
            why=why_frozen,
            forced=options.forced,
            expects_peers=bool(options.bootstrap) or (paths.peers is not None and paths.peers.exists()),
            took=self._took_back,
            confirmed=self._on_confirmed,
        )
        self.life = AgentLife(own, manifest, self.kademlia, self._heads, ledger, self.governance.write)
        """Closing the chain, rotating its key, publishing revocations."""
        own.shard_of = held.shard_of = self._layout.shard_of
        self.private = PrivateEntries(
            identity,
            self.network_id,
            own,
            self._embedder,
            manifest.limits,
            manifest.space.dim,
            lambda: self.governance.epochs.rules,
            random,
            embed_blocking,
            self._publisher.wake,
            self._append,
        )
        """The owner's own entries, and their verbs."""
        self._erasing = Erasing(
            own,
            held,
            derived,
            lambda entry, purge: self._editor.change(entry, purge, None),
            self._holder.refresh,
            self._holder.discard,
            run_blocking,
        )
        self._participation = Participation(
            self.kademlia,
            self._publisher,
            self._catch_up,
            self._repairer,
            self._offers,
            self.guard.run,
            self._challenger.run,
            bootstrap=options.bootstrap,
            stores=options.capacity > 0,
            memory=paths.peers,
            read_only=lambda: self.read_only,
            run_blocking=run_blocking,
            governance=self.governance,
        )
        post = Post(
            network,
            self.kademlia,
            self._records,
            held,
            self._intake.judge,
            self._opening_of,
            manifest.membrane,
            manifest.replication,
            run_blocking,
            lambda task: self.learning.follows(task),
        )
        self.learning = Learning(
            Tools(
                identity=identity,
                kademlia=self.kademlia,
                post=post,
                own=own,
                blobs=ModelBlobs(self.blobs, run_blocking),
                memory=remembered,
                clock=clock,
                random=random,
                run_blocking=run_blocking,
                published=self._publisher.wake,
            ),
            network,
            manifest,
            self._participation.while_writable,
            lambda: self.governance.epochs.rules,
        )
        """The learning tasks that this node follows, and their verbs."""

    # The verbs of the interface.

    async def add(self, entries: Sequence[NewEntry]) -> list[Added | Rejected]:
        """Author entries; each result is durable when this returns, or says why it was rejected.

        Raises `StorageError` (read-only, disk full) or `Forbidden` (under a warrant): then none was added.
        """
        self.governance.require_heard()
        drafted = await self._embed_blocking(draft_entries, self._embedder, self.manifest.limits, entries)
        keys = [entries[place].key for place in drafted.places]
        # A caller that gives up must not leave entries in the chain which the index does not know.
        with trio.CancelScope(shield=True):
            appended = await self._own.append(drafted.drafts, keys)
            new = self._own.get_many([cid for cid, created in appended if created])
            try:
                await self._holder.add([record for record in new if record is not None])
            except StorageError as error:
                # They are in the chain, so they were added; the next start indexes them.
                log.error("%d new entries are kept but not indexed: %s", len(new), error)
        outcomes: dict[int, Added | Rejected] = {one.index: one for one in drafted.rejected}
        for place, (cid, created) in zip(drafted.places, appended, strict=True):
            outcomes[place] = Added(cid, created)
        self._publisher.wake()
        return [outcomes[place] for place in range(len(entries))]

    async def query(
        self,
        text: str | None,
        vector: Sequence[float] | None,
        k: int,
        tags: Sequence[str],
        deadline_ms: int | None,
        fresh: bool = False,
    ) -> Answer:
        """The best `k` entries for a text or vector, carrying all `tags`.

        `fresh`: checked with the holders of the entries found, which costs more.

        Raises `QueryError` or `EmbeddingError` for what cannot be asked.
        """
        if not 1 <= k <= MAX_K:
            raise QueryError(f"k is {k}; ask for 1 to {MAX_K} hits")
        if deadline_ms is not None and deadline_ms < 1:
            raise QueryError(f"the deadline is {deadline_ms} ms; give at least 1")
        if (text is None) == (vector is None):
            raise QueryError("give either a text or a vector to ask for")
        steps = Steps(self._clock)
        with steps.step("embed"):
            if text is not None:
                codes = await self._embed_blocking(text_codes, self._embedder, text)
            else:
                assert vector is not None
                codes = vector_codes(self._embedder, vector)
        deadline_ms = deadline_ms or self._options.query_deadline_ms
        answer = await self._asker.ask(codes, k, tags, deadline_ms, fresh, steps)
        return await self.private.merged(answer, codes, k, tags)

    async def get(self, entry: Cid) -> EntryView | None:
        """An entry as all its known operations fold, from here and its holders; None when nobody has it.

        Raises `NotFound` for one that is blocked here.
        """
        if self._blocks.has(entry):
            raise NotFound(f"the entry {to_text(entry)} is blocked on this node: unblock it to see it")
        return await self.private.get(entry) if entry in self.private else await self._reader.read(entry)

    async def change(self, entry: Cid, change: Change, if_version: str | None = None) -> Changed:
        """Edit, tag, vote on, delete or retract an entry; see `node.editor.Editor.change`."""
        self.governance.require_heard()
        if entry in self.private:
            return await self.private.change(entry, change)
        return await self._editor.change(entry, change, if_version)

    async def block(self, target: AgentId | Cid, reason: str) -> bool:
        """Show and hold nothing of an agent or an entry any more; whether this is new. O(its records).

        Raises `InvalidInput` for this agent itself, or when there are too many blocks.
        """
        if target == self.agent:
            raise InvalidInput("this is your own agent: delete or retract what you do not want to be shown")
        new = self._blocks.add(target, reason, self._clock.wall_us())
        is_agent = len(target) == AGENT_ID_SIZE
        bases = await self._held.expel(
            author=target if is_agent else None, subject=None if is_agent else target
        )
        self._blocks.note_refused(bases)
        for basis in sorted(bases):
            self._catch_up.dropped(basis)
            self._activity.dropped(basis)
        await self._refresh_blocked(target)
        return new

    async def unblock(self, target: AgentId | Cid) -> None:
        """Take a block back; what was let go comes back from its holders. Raises `NotFound`."""
        self._blocks.remove(target)
        self._catch_up.regained(None)
        await self._refresh_blocked(target)

    def standings(self) -> dict[AgentId, Standing]:
        """Peers that are slowed or banned for what they sent, ascending by agent."""
        return self.kademlia.standings()

    def pardon(self, agent: AgentId) -> bool:
        """End the ban of a peer and forget why; whether there was anything to forget."""
        return self.kademlia.pardon(agent)

    def blocked(self) -> list[Block]:
        """What is blocked here, oldest first."""
        return self._blocks.all()

    async def _refresh_blocked(self, target: AgentId | Cid) -> None:
        entries = [target]
        if len(target) == AGENT_ID_SIZE:
            entries = await self._run_blocking(self._held.subjects_of, target)
        await self._holder.refresh(entries)

    async def receipts(self, record: Cid, at_least: int, timeout_s: float) -> Validated:
        """Who has validated an own record; see `node.receipts.Receipts.wait`."""
        return await self._receipts.wait(record, at_least, timeout_s)

    async def purge(self, cid: Cid) -> Changed:
        """Erase what this agent said in an entry or record, for good; see `node.erasing`."""
        if cid in self.private:
            changed = await self.private.change(cid, Purge())
            self._erasing.wake()
            return changed
        return await self._erasing.purge(cid)

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
            pending=self._publisher.pending + self._offers.pending,
            shards_held=0 if self.read_only else self._catch_up.shards_held,
            under_replicated=self._repairer.under_replicated,
            repairing=self._repairer.repairing,
            replication=self.manifest.replication,
            unconfirmed=self._publisher.unconfirmed,
            reachable=bool(self._network.addresses) and bool(self._network.connected()),
            read_only=self.read_only or self._own.ended or self._own.frozen,
            chain=self.guard.line,
            chains=self._activity.counts(),
            waiting={"pending": self._retrial.room.pending, "parked": self._retrial.room.parked},
            refused=dict(self._intake.refused + self._retrial.room.counts.reasons),
            uptime_s=round(self._clock.monotonic() - self._started, 3),
            counters=self._counters(),
            store_bytes=self._held.used_bytes(),
            store_max_bytes=self._options.quota.store,
            full=self._room.full,
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
                    standing=self.kademlia.standing(contact.agent).word,
                )
            )
        return views

    async def clock_skew(self) -> Skew | None:
        """By how much the peers' clocks differ from this node's; None when none could be asked."""
        return await self._clock_skew.measure()

    def chain_log(self, from_seq: int, limit: int) -> list[Record]:
        """Own records from `from_seq` on, ascending."""
        return self._own.read(from_seq, limit)

    async def verify_chain(self) -> ChainReport:
        """Verify the own chain from its first record; raises `ChainBrokenError`."""
        return await self._run_blocking(self._own.verify)

    async def fetch_blob(self, cid: Cid, size_limit: int) -> None:
        """Have a blob here, asking the peers that are known for it; see `BlobService.fetch_to_disk`.

        Raises `NotReady` after `BLOB_FETCH_S`.
        """
        known = [contact.agent for contact in self.kademlia.contacts()]
        usable = [agent for agent in known if not self.kademlia.is_suspect(agent)]
        with trio.move_on_after(BLOB_FETCH_S) as scope:
            await self.blobs.fetch_to_disk(cid, size_limit, usable)
        if scope.cancelled_caught:
            raise NotReady(
                f"the blob {to_text(cid)} did not arrive within {BLOB_FETCH_S:g} s; what did is kept: "
                "ask again"
            )

    async def rebuild_index(self) -> int:
        """Make postings and index again from the records; returns how many postings there are."""
        return await self._holder.rebuild(records_to_index(self._own, self._held, self._layout.tree))

    def without_payload(self, limit: int) -> list[Record]:
        """Own records of which only the header is here, at most `limit`; O(chain)."""
        return self._own.without_payload(limit)

    # What a test or a simulator looks at.

    def unplaced(self, limit: int) -> list[Cid]:
        """Own records that lack holders now, at most `limit` of them, oldest first."""
        return [record.cid for record in self._own.below(max(1, self._publisher.need), -1, limit)]

    def replica(self, basis: bytes) -> tuple[int, bytes]:
        """Count and digest of what is held here at a basis; holders that hold the same have equal ones."""
        return self._held.digest_of(basis)

    def holds(self, cid: Cid) -> bool:
        """Whether the record is on this node's disk, its own or another's."""
        return self._find([cid])[0] is not None

    @property
    def read_only(self) -> str | None:
        """Why this node takes no writes, or None."""
        return self._own.read_only or self._held.read_only or self._derived.read_only

    @property
    def frozen(self) -> str | None:
        """Why nothing is added to the own chain although it could be written, or None."""
        return self._own.frozen

    @property
    def joined(self) -> bool:
        """Whether the node is part of its network: it founded it, or a bootstrap peer answered."""
        return self._participation.joined

    # What `open_node` runs.

    async def start(self) -> None:
        """Load the index, and index what a crash left without postings."""
        await self.governance.load()
        await self._erasing.catch_up()
        await self.private.load()
        await self._holder.open()
        await index_missing(
            self._holder, self._derived, self._own, self._held, self._layout.tree, self._run_blocking
        )
        await drop_strays(self._holder, self._derived, self._held, self.agent, self._run_blocking)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part in the network until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._participation.while_writable, self.governance.show_changes)
            await nursery.start(self._participation.run)
            nursery.start_soon(self._participation.while_writable, self._retrial.run)
            nursery.start_soon(self._participation.while_writable, self._activity.run)
            await nursery.start(self.learning.run)
            nursery.start_soon(self._clock_skew.run)
            nursery.start_soon(self._erasing.run)
            task_status.started()

    async def leave(self, within_s: float) -> int:
        """Hand over what would be short of a copy without this node, then say good-bye; then close it.

        Takes at most `within_s` seconds, and a little for the good-byes; may be cancelled. Returns how many
        bases were left short of a copy.
        """
        return await self._participation.leave(within_s)

    async def finish(self) -> None:
        """Save what makes the next start quick, and let another home of this agent write at once."""
        await self.guard.release()
        await self._erasing.scrub()
        await self._run_blocking(self._save_index)
        await self._run_blocking(self._participation.write_memory)

    # Small parts of the verbs.

    def _save_index(self) -> None:
        try:
            self._holder.save()
        except (OSError, RuntimeError) as error:  # FAISS reports what the system says as RuntimeError
            log.warning("the index is not saved, the next start makes it again: %s", error)

    def _is_complete(self, shard: Prefix) -> bool:
        # What cannot be written was refused, so the others have more.
        basis = shard.basis()
        refused = self.read_only is not None or self._room.is_short(basis) or self._blocks.is_short(basis)
        return not refused and self._catch_up.is_complete(shard)

    def _look_at_room(self) -> None:
        """Say to everybody when this node has become full, or has room again."""
        if self._room.look():
            log.warning(
                "this node is %s", "full: it holds no more for others" if self._room.full else "not full"
            )
            self.kademlia.update_self(full=self._room.full)
            if not self._room.full:
                self._catch_up.regained(self._room.forget_short())

    async def _on_held(self, items: Sequence[Held]) -> None:
        self._look_at_room()
        await self._holder.on_held(items)
        await self.governance.held(items)
        if any(item.record.header.kind == PURGE for item in items):
            self._erasing.wake()
        self.learning.take([item.record for item in items])
        self._retrial.heard(items)
        self._activity.heard(items)
        self._catch_up.note_stored()
        self._offers.heard(
            {
                item.record.subject
                for item in items
                if item.record.header.kind in ENTRY_OPERATIONS
                and any(role & Role.SUBJECT for role, _ in item.bases)
            }
        )

    async def _on_dropped(self, basis: bytes, left: Sequence[tuple[Cid, int]]) -> None:
        """What lies in no shard here any more is not found here any more, unless it is our own."""
        self._catch_up.dropped(basis)
        self._activity.dropped(basis)
        self._look_at_room()
        await self._holder.forget([cid for cid, roles in left if not roles & Role.SHARD])
        # What went may have said something about a value of its entry that is still found here.
        records = [record for record in self._held.get_many([cid for cid, _ in left]) if record is not None]
        await self._holder.refresh(sorted(self._entries.operated_on([record.subject for record in records])))

    async def _took_back(self, records: Sequence[Record]) -> None:
        """Own records came back from the network: they are found here again."""
        self.governance.resume()
        try:
            await self._holder.add(records)
        except StorageError as error:
            log.error("%d own records are kept but not indexed: %s", len(records), error)
        self.learning.take([record for record in records if record.payload is not None])
        await self.private.load()
        self._publisher.wake()

    async def _on_confirmed(self) -> None:
        await self._run_blocking(self._options.confirmed, self._own.count())

    def _keeps(self) -> bool:
        """Whether this node holds things for others, and goes on doing so."""
        return self._options.capacity > 0 and self.read_only is None and not self._repairer.leaving

    def _opening_of(self, author: AgentId) -> tuple[Record, Record] | None:
        return self._own.opening() if author == self.agent else self._held.opening(author)

    async def _append(self, draft: Draft) -> Record:
        """Append one operation and show what it changes here."""
        with trio.CancelScope(shield=True):
            ((cid, _),) = await self._own.append([draft], [None])
            (record,) = [one for one in self._own.get_many([cid]) if one is not None]
            try:
                if draft.kind == PURGE:
                    await self._erasing.carry_out(record)
                await self._holder.add([record])
            except StorageError as error:
                log.error("an operation is kept but not indexed: %s", error)
        self._publisher.wake()
        self._offers.wrote(record.subject)
        return record

    def _counters(self) -> dict[str, int]:
        counters = {
            "queries_total": self._asker.queries,
            "searches_served_total": self._asker.served,
            "searches_waited_us_total": round(self._asker.turn_s * 1_000_000),
            "searches_answered_us_total": round(self._asker.answering_s * 1_000_000),
            "hits_refused_total": self._asker.hits_refused,
            "records_caught_up_total": self._catch_up.fetched,
            "records_repaired_total": self._repairer.sent,
            "bases_dropped_total": self._repairer.dropped,
            "own_records_refused_total": self._publisher.refused,
            "acknowledgements_unsigned_total": self._publisher.unsigned,
            "chain_links_verified_total": self._activity.verified,
            "chain_headers_filled_total": self._activity.filled,
            "records_waited_total": self._retrial.room.counts.waited,
            "records_waited_judged_total": self._retrial.room.counts.judged,
            "records_refused_total": self._intake.refused.total(),
            "postings": len(self._holder),
            "erasing": self._erasing.pending,
            "scrubs_total": self._erasing.scrubs,
            "operations_offered_total": self._offers.offered,
            "records_refused_full_total": self._room.refused_full,
            "records_refused_blocked_total": self._blocks.refused,
            "records_refused_quota_total": self._room.refused_quota,
            "own_records_fetched_back_total": self.guard.refetched,
        }
        counters.update(
            (f"kademlia_{name}_total", value) for name, value in asdict(self.kademlia.counters).items()
        )
        counters.update(self.governance.counters())
        counters.update(
            (f"challenges_{name}_total", value) for name, value in asdict(self._challenger.counters).items()
        )
        counters.update(self.learning.counters())
        counters.update((f"blobs_{name}_total", value) for name, value in asdict(self.blobs.counters).items())
        counters.update((f"network_{name}_total", value) for name, value in self._network.counters().items())
        return counters


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
    write_blocking: RunBlocking | None = None,
    embed_blocking: RunBlocking | None = None,
    ground: Ground | None = None,
) -> AsyncIterator[Node]:
    """Open the databases, write the chain's opening if need be, and run the node until the block ends.

    `write_blocking` runs the databases' writers, where that is not `run_blocking`: an fsync must not wait
    behind judging; `embed_blocking` runs the embedder likewise, when it may be slow. `ground` is what
    `ground_for` gives, for callers that share it between nodes.
    Raises `StorageError` for files that cannot be used and `SpaceError` when the network's space is not ours.
    """
    manifest = founding.manifest
    writing = write_blocking or run_blocking
    async with trio.open_nursery() as nursery:
        own = OwnChain(
            paths.chain, identity, manifest.network_id, manifest.network_id, clock, random, writing
        )
        held = HeldRecords(paths.held, writing)
        derived = DerivedState(paths.derived, writing)
        remembered = LearningMemory(paths.learning or paths.chain.with_name("learning.db"), writing)
        try:
            blobs = await run_blocking(
                BlobFiles,
                paths.blobs or paths.chain.with_name("blobs"),
                options.blobs_max_bytes,
                clock.wall_us,
            )
            for store in (own, held, derived, remembered):
                await nursery.start(_keep_open, store)
            why = own.frozen = options.why_frozen(own.count())
            passage = await ensure_opening(
                own,
                identity,
                manifest,
                manifest.network_id,
                run_blocking,
                nonce_start=int.from_bytes(random.random_bytes(6), "big"),
                recovery=options.recovery,
                name=options.name or "anonymous",
                software=SOFTWARE,
                invitation=options.invitation,
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
                blobs,
                remembered,
                paths,
                passage,
                ground or ground_for(founding),
                embed_blocking or run_blocking,
                why,
            )
            await node.start()
            async with trio.open_nursery() as background:
                await background.start(node.run)
                yield node
                background.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await node.finish()
                blobs.close()
        finally:
            for store in (own, held, derived, remembered):
                store.close()


async def _keep_open(
    store: OwnChain | HeldRecords | DerivedState | LearningMemory,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a database until it is closed: whatever is cancelled, it outlives the tasks that use it."""
    with trio.CancelScope(shield=True):
        await store.run(task_status=task_status)
