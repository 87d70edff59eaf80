"""The parts of a node, put together: each floor below on the ports it is given, and what one tells another.

Nothing is decided here. `Parts` builds every service in the order in which they need each other, and holds
the few callbacks in which news goes from one to several others: what came to be held, what was let go, what
was written, what came back. The verbs that people use are in `node.node`; tests, liars and benchmarks reach a
part by its name.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from typing import TypeVar

import trio

from chain.cid import Cid
from chain.identity import AgentId, Identity
from chain.kinds import ENTRY_OPERATIONS, PURGE
from chain.membrane import Passage
from chain.receipt import Found, sign_batch
from chain.record import Record
from chain.source_chain import Draft
from dht.blobs.service import BlobService
from dht.evidence.activity import ActivityWatch
from dht.evidence.attestations import Attestations
from dht.evidence.challenger import Challenger
from dht.evidence.heads import Heads
from dht.evidence.links import Links
from dht.evidence.own_history import OwnHistory
from dht.network import Network
from dht.overlay.clock_skew import ClockSkew
from dht.overlay.heartbeat import Heartbeats
from dht.overlay.hello import Founding, HelloServer
from dht.overlay.kademlia import Kademlia
from dht.ports import Clock, Random, RunBlocking
from dht.records.intake import Intake
from dht.records.layouts import Layouts
from dht.records.methods import RecordService
from dht.records.placement import Layout, Role
from dht.records.proofs import Proofs
from dht.records.record_store import Held
from dht.records.retrial import Retrial
from dht.records.room import LOOK_EVERY_S, Room
from dht.repair.catch_up import CatchUp
from dht.repair.comparison import Comparisons
from dht.repair.emptied import Emptied
from dht.repair.frontiers import Frontiers
from dht.repair.guests import Guests
from dht.repair.looks import Looks
from dht.repair.migration import Migration
from dht.repair.offers import Offers
from dht.repair.publisher import Publisher
from dht.repair.repairer import Repairer
from dht.repair.transfers import Transfers
from dht.shards.decisions import Decisions
from dht.shards.proposer import Proposer
from dht.summaries.block import INSTANCE_BYTES
from dht.summaries.puller import Puller
from dht.summaries.service import SummaryService
from federated.following import Tools
from federated.learning import Learning
from federated.post import Post
from node.agent_life import AgentLife
from node.archive_import import ArchiveImport
from node.atlases import FOLDER, Atlases
from node.authoring import binding_codes
from node.browsing import Browsing
from node.conflicts import Conflicts
from node.deltas import Deltas
from node.derivation import purges_of, records_of
from node.editor import Editor
from node.entry_reader import EntryReader
from node.entry_records import EntryRecords
from node.erasing import Erasing
from node.exporting import Exporting
from node.founding import Ground
from node.governance import Governance
from node.head_guard import HeadGuard
from node.holder import Holder
from node.inviting import GRANT_FILE, LINKS_FILE, Inviting
from node.learning import ModelBlobs
from node.moderation import Blocklist
from node.options import NodeOptions, NodePaths
from node.participation import Participation
from node.private import PrivateEntries
from node.query.asker import EXTRA_HOLDERS, Asker
from node.query.calibration import FILE as CALIBRATION_FILE
from node.query.freshness import Freshness
from node.query.result_cache import ResultCache
from node.query.serving import SearchService
from node.query.sketched import SketchedRouting
from node.query.term_audits import TermAudits
from node.query.text_check import TextCheck, embedder_to_check
from node.query.verifying import Verifier
from node.query.wording import Wording
from node.receipts import Receipts
from node.sketch_rows import key_range, sketch_kind, sketch_source
from node.storage.blob_files import BlobFiles
from node.storage.derived_state import DerivedState
from node.storage.errors import StorageError
from node.storage.held_records import HeldRecords
from node.storage.learning_memory import LearningMemory
from node.storage.own_chain import OwnChain, Script
from node.storage.shard_file import FILE as SHARD_FILE
from node.storage.shard_file import ShardFile
from node.supervision import Supervisor
from node.term_rows import TERMS, term_source
from node.trust_root import trust_root
from node.vitals import Vitals
from sharding.tree import Prefix

T = TypeVar("T")

log = logging.getLogger(f"roseforest.{__name__}")


class Parts:
    """Every service of a node by name; made by `node.node.open_node`."""

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
        emptied: bool = False,
    ) -> None:
        """`emptied`: what this node held for others was lost, and its own chain was not."""
        manifest = founding.manifest
        self.agent = identity.agent
        self.manifest = manifest
        self.network_id = manifest.network_id
        self.network = network
        self.clock = clock
        self.run_blocking = run_blocking
        self.embed_blocking = embed_blocking
        self.options = options
        self.own = own
        self.held = held
        self.derived = derived
        self.find, purges = records_of(own, held), purges_of(own, held)
        self.blocks = Blocklist(paths.blocked)
        self.entries = EntryRecords(own, held, self.blocks)
        self.embedder = ground.embedder
        self.layouts = Layouts(ground.layout, lambda basis: held.digest_of(basis)[0] > 0, clock.wall_us)
        self.started = clock.monotonic()
        self.kademlia = Kademlia(
            network=network,
            identity=identity,
            manifest=manifest,
            nonce=passage.nonce,
            capacity=options.capacity,
            clock=clock,
            rng=random,
            invitation=passage.invitation,
            bars=lambda agent, inviter: self.governance.ledger.outsiders.bars(agent, inviter),
        )
        self.clock_skew = ClockSkew(network, self.kademlia, clock, random.choice)
        self.vitals = Vitals(clock, options.usage, held.count)
        self.heartbeats = Heartbeats(network, self.kademlia, clock, random, self.vitals.health)
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
        self.governance = Governance(identity, manifest, own, held, hello)
        self.atlases = self.governance.atlases = Atlases(
            manifest,
            paths.chain.with_name(FOLDER),
            ground.layout,
            self.layouts,
            self.governance.epochs,
            self.kademlia,
            clock,
            run_blocking,
            random,
        )
        self.governance.epochs.usable = self.atlases.usable
        self.atlases.adopt = self.governance.adopt
        hello.atlas_of = self.atlases.read
        ledger = self.governance.ledger
        self.holder = Holder(
            derived,
            self.entries,
            self.layouts,
            manifest.space.dim,
            run_blocking,
            lambda: self.governance.standing,
        )
        self.atlases.follow = self.holder.follow_layout
        self.decisions = Decisions(
            network,
            self.kademlia,
            self.layouts,
            self.network_id,
            manifest.founded,
            manifest.replication,
            ShardFile(paths.chain.with_name(SHARD_FILE)),
            lambda basis: held.digest_of(basis)[0],
            clock,
            run_blocking,
            random,
        )
        """What is known about shards that were divided or joined."""
        self.decisions.on_changed = self.atlases.heard
        self.intake = Intake(
            manifest,
            self.find,
            self.opening_of,
            self.layouts,
            binding_codes(self.embedder),
            clock,
            lambda: ledger.epochs,
            self.governance.broke_a_rule,
        )
        self.room = Room(self.agent, held, options.quota, lambda: shutil.disk_usage(paths.held.parent).free)

        def sign(found: Sequence[Found]) -> bytes:
            return sign_batch(identity, self.network_id, found, clock.wall_us())

        self.attestations = Attestations(network, self.kademlia, held, self.network_id, sign, run_blocking)
        self.records = RecordService(
            network=network,
            kademlia=self.kademlia,
            store=held,
            own=own.shown_to_others,
            own_opening=own.opening,
            intake=self.intake,
            run_blocking=run_blocking,
            on_held=self.on_held,
            accepts=self.keeps,
            room=self.room,
            blocks=self.blocks,
            purges_of=purges,
            sign=sign,
        )
        self.retrial = Retrial(self.kademlia, self.records, manifest.replication, clock, run_blocking)
        self.records.on_waiting = self.retrial.keep
        proofs = Proofs(network, self.kademlia, self.records, held, random, run_blocking, self.keeps)
        self.transfers = Transfers(random)
        comparisons = Comparisons(network, self.kademlia, self.transfers, held, run_blocking)
        looks = Looks(
            self.kademlia,
            self.records,
            proofs,
            self.transfers,
            comparisons,
            Frontiers(network, self.kademlia, self.transfers, held, run_blocking),
            held,
            manifest.replication,
            self.layouts,
            self.on_dropped,
            lambda entry: self.reader.find(entry),
            run_blocking,
            random,
        )
        self.repairer = Repairer(looks, self.kademlia, self.transfers, comparisons, random)
        self.emptied = Emptied(network, self.kademlia, emptied, self.repairer.emptied)
        self.catch_up = CatchUp(
            self.kademlia,
            self.records,
            self.transfers,
            comparisons,
            held,
            self.layouts,
            manifest.replication,
            random.choice,
        )
        self.publisher = Publisher(
            own,
            self.kademlia,
            self.layouts,
            self.network_id,
            manifest.replication,
            self.records.hold,
            self.find,
            run_blocking,
            random,
        )
        self.challenger = Challenger(
            own,
            held,
            self.kademlia,
            self.records,
            proofs,
            manifest.replication,
            self.publisher.shard_bases,
            self.publisher.wake,
            run_blocking,
            random,
        )
        self.receipts = Receipts(
            own,
            self.find,
            self.layouts,
            self.network_id,
            manifest.replication,
            self.publisher,
            self.attestations,
            run_blocking,
        )
        self.blobs = BlobService(network, self.kademlia, blobs, run_blocking, clock, random.choice)
        self.offers = Offers(
            self.kademlia,
            self.records,
            self.transfers,
            held,
            self.entries.about,
            self.entries.all_operated_on,
            own.operated_on,
            lambda cids: held.purged_shards(cids) | own.purged_shards(cids),
            lambda entry: self.reader.find(entry),
            self.layouts,
            manifest.replication,
            run_blocking,
            random.choice,
            lambda: ledger.standing,
        )
        self.migration = Migration(
            self.kademlia,
            self.records,
            proofs,
            self.transfers,
            self.offers,
            held,
            held,
            self.layouts,
            lambda: self.atlases.age_s,
            self.decisions.left,
            manifest.replication,
            self.on_dropped,
            run_blocking,
            random,
        )
        self.guests = Guests(
            self.kademlia,
            self.catch_up,
            self.heartbeats.book,
            self.layouts,
            manifest.replication,
            lambda shard: options.capacity > 0 and not self._is_short(shard),
            clock,
            random,
        )
        self.vitals.copies = manifest.replication
        self.vitals.is_holder = self.is_complete
        self.vitals.records_at = lambda shard: held.digest_of(shard.basis())[0]
        self.heartbeats.also = lambda: self.guests.helpers(self.vitals.hot())
        self.proposer = Proposer(
            network,
            self.kademlia,
            self.records,
            self.decisions,
            self.layouts,
            identity,
            self.network_id,
            manifest.replication,
            manifest.shard_target if options.divides_shards and options.capacity else 0,
            lambda shard: derived.count_in(*key_range(shard)),
            lambda shard: derived.heads_in(*key_range(shard)),
            self.is_complete,
            clock,
            run_blocking,
            random,
        )
        self.records.on_stale = self.publisher.on_stale = self.decisions.stale
        self.governance.connect(
            network,
            self.kademlia,
            self.records,
            self.intake,
            self.holder,
            lambda entries: self.offers.heard(self.entries.operated_on(entries)),
            self.publisher.wake,
            self.opening_of,
            run_blocking,
            random,
        )
        self.reader = EntryReader(
            self.kademlia,
            self.records,
            self.intake,
            self.entries,
            manifest.replication + EXTRA_HOLDERS,
            run_blocking,
            lambda: self.governance.standing,
            trust_root(options.trust_roots, manifest, self.agent),
            lambda pairs: self.governance.met(pairs),
        )
        self.verifier = Verifier(
            agent=self.kademlia.agent,
            records=self.records,
            holder=self.holder,
            records_of=self.find,
            purges_of=purges,
            entries=self.entries,
            intake=self.intake,
            layouts=self.layouts,
            run_blocking=run_blocking,
            standing=lambda: self.governance.standing,
        )
        self.texts = TextCheck(
            embedder_to_check(self.embedder, options.check_texts), manifest.space.dim, embed_blocking
        )
        """Whether the vectors of hits are their texts', where that is not validated."""
        self.results = ResultCache(
            clock,
            options.query_cache_s,
            lambda: (self.governance.standing, self.layouts.places),
            self.blocks.hides,
        )
        """Answers to questions that may be asked again."""
        self.summaries = SummaryService(
            network,
            self.kademlia,
            [
                sketch_source(derived, self.layouts, manifest.space.dim, lambda: self.holder.moving),
                term_source(derived, self.layouts, lambda: self.holder.moving),
            ],
            self.is_complete,
            random.random_bytes(INSTANCE_BYTES),
            run_blocking,
            lambda: self.layouts.version,
        )
        self.holder.on_changed = self.summaries.changed
        self.holder.on_changed_all = self.summaries.changed_all
        self.routing = SketchedRouting(
            self.kademlia,
            self.summaries,
            self.records,
            self.intake,
            self.layouts,
            derived,
            self.is_complete,
            manifest.space.dim,
            manifest.replication,
            paths.chain.with_name(CALIBRATION_FILE),
            clock,
            random,
            run_blocking,
        )
        """Which shards are asked; others' blocks, of which it knows that."""
        self.atlases.sample = self.routing.sampling.sample
        self.wording = Wording(
            self.layouts,
            Puller(
                self.kademlia,
                self.summaries,
                TERMS,
                self.is_complete,
                manifest.replication,
                clock,
                random,
                run_blocking,
            ),
            derived,
            run_blocking,
        )
        """What words are worth, and where they lie."""
        self.audits = TermAudits(
            self.wording.puller,
            sketch_kind(manifest.space.dim),
            self.kademlia,
            self.records,
            self.intake,
            clock,
            random,
            run_blocking,
        )
        self.wording.on_asked = self.audits.noted
        self.wording.puller.on_changed = lambda shard: self.results.heard([shard.basis()])
        self.routing.puller.on_changed = lambda shard: self.results.heard([shard.basis()])
        self.asker = Asker(
            kademlia=self.kademlia,
            choice=self.routing.choice,
            spots=self.routing.spots,
            wording=self.wording,
            verifier=self.verifier,
            unplaced=own.unplaced,
            freshness=Freshness(
                self.kademlia,
                self.records,
                self.reader,
                self.entries,
                manifest.replication,
                run_blocking,
                lambda: self.governance.standing,
            ),
            texts=self.texts,
            results=self.results,
            is_complete=self.is_complete,
            layouts=self.layouts,
            finished=self.migration.finished,
            heard=self.decisions.take,
            replication=manifest.replication,
            clock=clock,
            run_blocking=run_blocking,
            heartbeats=self.heartbeats,
            rng=random,
        )
        self.searches = SearchService(
            network=network,
            kademlia=self.kademlia,
            records=self.records,
            holder=self.holder,
            records_of=self.find,
            entries=self.entries,
            is_complete=self.is_complete,
            serves=lambda shard: self.is_complete(shard) or self.guests.serves(shard),
            intake=self.intake,
            dim=manifest.space.dim,
            clock=clock,
            run_blocking=run_blocking,
            vitals=self.vitals,
            standing=lambda: self.governance.standing,
            moved=self.decisions.proofs_about,
        )
        self.editor = Editor(
            self.agent,
            self.embedder,
            manifest.limits,
            lambda: self.governance.epochs.rules,
            self.reader,
            self.write,
            embed_blocking,
            lambda: self.governance.standing,
        )
        self.browsing = Browsing(derived, self.find, self.reader.local, run_blocking)
        self.conflicts = Conflicts(self.reader, self.entries, lambda: self.governance.standing, run_blocking)
        self.archive_import = ArchiveImport(
            manifest, self.agent, self.records.admit, self.entries.to_take, self.keeps, run_blocking
        )
        self.exporting = Exporting(
            manifest,
            self.reader,
            self.entries,
            held,
            self.find,
            self.opening_of,
            ledger,
            lambda: self.governance.standing,
            trust_root(options.trust_roots, manifest, self.agent),
            run_blocking,
        )
        self.deltas = Deltas(self.reader, manifest.network_id, lambda: self.governance.standing, run_blocking)
        self.heads = Heads(
            network, self.kademlia, held, manifest.network_id, run_blocking, clock, own.headers
        )
        self.activity = ActivityWatch(
            self.kademlia,
            self.heads,
            self.records,
            held,
            held.get_many,
            self.governance.context,
            self.governance.broke_a_rule,
            manifest.replication,
            clock,
            run_blocking,
        )
        self.links = Links(
            network,
            self.kademlia,
            self.heads,
            self.records,
            held,
            self.activity,
            self.governance.context,
            self.network_id,
            manifest.replication,
            sign,
            self.governance.doubt,
            clock,
            run_blocking,
        )
        self.records.hidden = lambda: self.links.hidden
        self.guard = HeadGuard(
            own,
            self.kademlia,
            self.heads,
            OwnHistory(
                self.kademlia,
                self.heads,
                self.records,
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
            took=self.took_back,
            confirmed=self.on_confirmed,
        )
        self.life = AgentLife(
            own,
            manifest,
            self.kademlia,
            self.heads,
            ledger,
            self.governance.write,
            lambda: self.governance.epochs.rules,
        )
        """Closing the chain, rotating its key, publishing revocations."""
        own.shard_of = held.shard_of = lambda record: self.layouts.writes.shard_of(record)
        self.private = PrivateEntries(
            identity,
            self.network_id,
            own,
            self.embedder,
            manifest.limits,
            manifest.space.dim,
            lambda: self.governance.epochs.rules,
            random,
            embed_blocking,
            self.publisher.wake,
            self.append_all,
        )
        """The owner's own entries, and their verbs."""
        self.erasing = Erasing(
            own,
            held,
            derived,
            lambda entry, purge: self.editor.change(entry, purge, None),
            self.holder.refresh,
            run_blocking,
        )
        self.supervisor = Supervisor(clock, options.failures_allowed)
        self.participation = Participation(
            self.kademlia,
            self.publisher,
            self.catch_up,
            self.repairer,
            self.offers,
            self.guard.run,
            self.challenger.run,
            bootstrap=options.bootstrap,
            stores=options.capacity > 0,
            memory=paths.peers,
            read_only=lambda: self.read_only,
            run_blocking=run_blocking,
            governance=self.governance,
            decisions=self.decisions,
            supervisor=self.supervisor,
            beat=self.heartbeats.run,
            guests=self.guests,
        )
        post = Post(
            network,
            self.kademlia,
            self.records,
            held,
            self.intake.judge,
            self.opening_of,
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
                published=self.publisher.wake,
                excluded=self.governance.excluded,
                compare=self.governance.compare,
            ),
            network,
            manifest,
            self.supervisor.keep,
            lambda: self.governance.epochs.rules,
        )
        """The learning tasks that this node follows, and their verbs."""
        self.governance.on_moved = self.learning.heed

    @property
    def layout(self) -> Layout:
        """Where content lies now."""
        return self.layouts.current

    @property
    def read_only(self) -> str | None:
        """Why this node takes no writes, or None."""
        return self.own.read_only or self.held.read_only or self.derived.read_only

    def is_complete(self, shard: Prefix) -> bool:
        return self.catch_up.is_complete(shard) and not self._is_short(shard)

    def _is_short(self, shard: Prefix) -> bool:
        # What cannot be written was refused, so the others have more.
        basis = shard.basis()
        return self.read_only is not None or self.room.is_short(basis) or self.blocks.is_short(basis)

    def look_at_room(self) -> None:
        """Say to everybody when this node has become full, or has room again."""
        if self.room.look():
            log.warning(
                "this node is %s", "full: it holds no more for others" if self.room.full else "not full"
            )
            self.kademlia.update_self(full=self.room.full)
            if not self.room.full:
                self.catch_up.regained(self.room.forget_short())

    async def look_after_room(self) -> None:
        """Look at the disk for ever: what the address record says of it has to be true."""
        while True:
            await trio.sleep(LOOK_EVERY_S)
            self.look_at_room()

    async def on_held(self, items: Sequence[Held]) -> None:
        self.look_at_room()
        await self.holder.on_held(items)
        self.results.heard(
            [item.record.subject for item in items]
            + [basis for item in items for role, basis in item.bases if role & Role.SHARD]
        )
        await self.governance.held(items)
        if any(item.record.header.kind == PURGE for item in items):
            self.erasing.wake()
        self.learning.take([item.record for item in items])
        self.retrial.heard(items)
        self.activity.heard(items)
        self.links.heard(items)
        self.repairer.note_stored()
        self.catch_up.note_stored(basis for item in items for role, basis in item.bases if role & Role.SHARD)
        self.offers.heard(
            {
                item.record.subject
                for item in items
                if item.record.header.kind in ENTRY_OPERATIONS
                and any(role & Role.SUBJECT for role, _ in item.bases)
            }
        )

    async def on_dropped(self, basis: bytes, left: Sequence[tuple[Cid, int]]) -> None:
        """What lies in no shard here any more is not found here any more, unless it is our own."""
        self.catch_up.dropped(basis)
        self.activity.dropped(basis)
        self.results.heard([basis])
        self.look_at_room()
        await self.holder.forget([cid for cid, roles in left if not roles & Role.SHARD])
        self.links.dropped([cid for cid, roles in left if not roles])
        # What went may have said something about a value of its entry that is still found here.
        records = [record for record in self.held.get_many([cid for cid, _ in left]) if record is not None]
        await self.holder.refresh(sorted(self.entries.operated_on([record.subject for record in records])))

    async def took_back(self, records: Sequence[Record]) -> None:
        """Own records came back from the network: they are found here again."""
        self.governance.resume()
        try:
            await self.holder.add(records)
        except StorageError as error:
            log.error("%d own records are kept but not indexed: %s", len(records), error)
        self.results.clear()
        self.learning.take([record for record in records if record.payload is not None])
        await self.private.load()
        self.publisher.wake()

    async def on_confirmed(self) -> None:
        await self.run_blocking(self.options.confirmed, self.own.count())

    def keeps(self) -> bool:
        """Whether this node holds things for others, and goes on doing so."""
        return self.options.capacity > 0 and self.read_only is None and not self.repairer.leaving

    def opening_of(self, author: AgentId) -> tuple[Record, Record] | None:
        return self.own.opening() if author == self.agent else self.held.opening(author)

    async def append(self, draft: Draft) -> Record:
        """Append one operation and show what it changes here."""
        (record,) = await self.append_all([draft])
        return record

    async def append_all(self, drafts: Sequence[Draft]) -> list[Record]:
        """Append operations, all or none, and show what they change here."""
        written: list[Record] = []
        with trio.CancelScope(shield=True):
            appended = await self.own.append(drafts, [None] * len(drafts))
            written += await self._show_written([cid for cid, _ in appended])
        return written

    async def write(self, script: Script[T]) -> T:
        """Append all operations that a script drafts, or none, and show what they change here."""
        with trio.CancelScope(shield=True):
            written, told = await self.own.write(script)
            await self._show_written([one.cid for one in written])
        return told

    async def _show_written(self, cids: Sequence[Cid]) -> list[Record]:
        records = [one for one in self.own.get_many(cids) if one is not None]
        try:
            for record in records:
                if record.header.kind == PURGE:
                    await self.erasing.carry_out(record)
            await self.holder.add(records)
        except StorageError as error:
            log.error("%d operations are kept but not indexed: %s", len(records), error)
        self.results.clear()
        self.publisher.wake()
        for record in records:
            self.offers.wrote(record.subject)
        return records
