"""The node: the verbs of one agent's chain, of what it holds for others, and of the query path.

`open_node` opens the databases and puts the parts together (`node.parts`) on the ports it is given (network,
clock, randomness, blocking work). The daemon runs it over libp2p and threads, the simulator over a virtual
network and inline calls; nothing here knows which. While `open_node` is open, background tasks publish, catch
up and keep the routing table fresh.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from chain.cid import Cid, to_text
from chain.identity import AGENT_ID_SIZE, AgentId, Identity
from chain.record import Record
from chain.source_chain import ChainReport
from dht.network import Network
from dht.overlay.clock_skew import Skew
from dht.overlay.hello import Founding
from dht.overlay.reputation import Standing
from dht.ports import Clock, Random, RunBlocking
from node.authoring import draft_entries, text_codes, vector_codes
from node.counting import counters_of
from node.derivation import drop_strays, index_missing, records_to_index
from node.errors import InvalidInput, NotFound, NotReady
from node.founding import Ground, ground_for
from node.graph.exploration import Graph
from node.graph.walk import explore
from node.models import (
    PLAIN,
    Added,
    Answer,
    Change,
    Changed,
    EntryView,
    NewEntry,
    PeerView,
    Purge,
    QueryOptions,
    Rejected,
    SharedText,
    Status,
    Validated,
)
from node.moderation import Block
from node.opening import ensure_opening
from node.options import NodeOptions, NodePaths
from node.parts import Parts
from node.query.effort import wanted_ppm
from node.query.question import QueryError, Question, mode_of
from node.query.search_protocol import MAX_K
from node.query.steps import Steps
from node.storage.blob_files import BlobFiles
from node.storage.derived_state import DerivedState
from node.storage.errors import StorageError
from node.storage.held_records import HeldRecords
from node.storage.learning_memory import LearningMemory
from node.storage.own_chain import OwnChain
from node.text_engine import engine
from node.writing import shared_text

SOFTWARE = "roseforest/0.1.0"
BLOB_FETCH_S = 600.0
"""Seconds that the owner's request for a blob of others may take, before it is told to ask again."""

log = logging.getLogger(f"roseforest.{__name__}")


class Node:
    """The verbs of a running node; made by `open_node`."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.agent = parts.agent
        self.manifest = parts.manifest
        self.network_id = parts.network_id
        self.kademlia = parts.kademlia
        self.inviting = parts.inviting
        self.governance = parts.governance
        self.blobs = parts.blobs
        self.guard = parts.guard
        self.life = parts.life
        self.private = parts.private
        self.conflicts = parts.conflicts
        self.deltas = parts.deltas
        self.browsing = parts.browsing
        self.exporting = parts.exporting
        self.archive_import = parts.archive_import
        self.learning = parts.learning

    # The verbs of the interface.

    async def add(self, entries: Sequence[NewEntry]) -> list[Added | Rejected]:
        """Author entries; each result is durable when this returns, or says why it was rejected.

        Raises `StorageError` (read-only, disk full) or `Forbidden` (under a warrant): then none was added.
        """
        parts = self.parts
        self.governance.require_heard()
        rules = self.governance.epochs.rules
        limits = self.manifest.limits
        drafted = await parts.embed_blocking(draft_entries, parts.embedder, limits, entries, rules)
        keys = [entries[place].key for place in drafted.places]
        # A caller that gives up must not leave entries in the chain which the index does not know.
        with trio.CancelScope(shield=True):
            appended = await parts.own.append(drafted.drafts, keys)
            new = parts.own.get_many([cid for cid, created in appended if created])
            try:
                await parts.holder.add([record for record in new if record is not None])
            except StorageError as error:
                # They are in the chain, so they were added; the next start indexes them.
                log.error("%d new entries are kept but not indexed: %s", len(new), error)
            parts.results.clear()
        outcomes: dict[int, Added | Rejected] = {one.index: one for one in drafted.rejected}
        for place, (cid, created) in zip(drafted.places, appended, strict=True):
            outcomes[place] = Added(cid, created)
        parts.publisher.wake()
        return [outcomes[place] for place in range(len(entries))]

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
        """The best `k` entries for a text or vector, carrying all `tags`, as `options` narrow and weigh it.

        `fresh`: checked with the holders of the entries found, which costs more, and never a kept answer.

        Raises `QueryError` or `EmbeddingError` for what cannot be asked.
        """
        if not 1 <= k <= MAX_K:
            raise QueryError(f"k is {k}; ask for 1 to {MAX_K} hits")
        if deadline_ms is not None and deadline_ms < 1:
            raise QueryError(f"the deadline is {deadline_ms} ms; give at least 1")
        mode = mode_of(options.mode, text is not None, vector is not None)
        steps = Steps(self.parts.clock)
        with steps.step("embed"):
            if vector is None:
                assert text is not None
                codes = await self.parts.embed_blocking(text_codes, self.parts.embedder, text)
            else:
                codes = vector_codes(self.parts.embedder, vector)
        question = Question(
            codes=codes,
            k=k,
            tags=tuple(tags),
            filters=options.filters,
            recall_ppm=wanted_ppm(options),
            deadline_ms=deadline_ms or self.parts.options.query_deadline_ms,
            fresh=fresh,
            explain=options.explain,
            cache=options.cache,
            text=None if mode == "vector" else text,
            only_words=mode == "lexical",
        )
        answer = self.parts.results.answer(question, steps) or await self.parts.asker.ask(question, steps)
        return await self.private.merged(answer, question)

    async def get(self, entry: Cid) -> EntryView | None:
        """An entry as all its known operations fold, from here and its holders; None when nobody has it.

        Raises `NotFound` for one that is blocked here.
        """
        if self.parts.blocks.has(entry):
            raise NotFound(f"the entry {to_text(entry)} is blocked on this node: unblock it to see it")
        return await self.private.get(entry) if entry in self.private else await self.parts.reader.read(entry)

    async def graph(self, entry: Cid, depth: int, limit: int, direction: str) -> Graph:
        """The entries related to one, up to `depth` relations away; see `node.graph.walk.explore`.

        Raises `NotFound` when nobody shows the entry.
        """
        parts = self.parts
        return await explore(
            entry, depth, limit, direction, self.get, parts.entries.relating_to, parts.run_blocking
        )

    async def text(self, entry: Cid) -> SharedText | None:
        """An entry's text with what was written apart put together; None when nobody has the entry."""
        view = await self.get(entry)
        if view is None:
            return None
        return await self.parts.run_blocking(shared_text, view, self.governance.standing, engine())

    async def change(self, entry: Cid, change: Change, if_version: str | None = None) -> Changed:
        """Edit, tag, vote on, delete or retract an entry; see `node.editor.Editor.change`."""
        self.governance.require_heard()
        if entry in self.private:
            return await self.private.change(entry, change)
        return await self.parts.editor.change(entry, change, if_version)

    async def block(self, target: AgentId | Cid, reason: str) -> bool:
        """Show and hold nothing of an agent or an entry any more; whether this is new. O(its records).

        Raises `InvalidInput` for this agent itself, or when there are too many blocks.
        """
        if target == self.agent:
            raise InvalidInput("this is your own agent: delete or retract what you do not want to be shown")
        new = self.parts.blocks.add(target, reason, self.parts.clock.wall_us())
        is_agent = len(target) == AGENT_ID_SIZE
        bases = await self.parts.held.expel(
            author=target if is_agent else None, subject=None if is_agent else target
        )
        self.parts.blocks.note_refused(bases)
        for basis in sorted(bases):
            self.parts.catch_up.dropped(basis)
            self.parts.activity.dropped(basis)
        await self._refresh_blocked(target)
        return new

    async def unblock(self, target: AgentId | Cid) -> None:
        """Take a block back; what was let go comes back from its holders. Raises `NotFound`."""
        self.parts.blocks.remove(target)
        self.parts.catch_up.regained(None)
        await self._refresh_blocked(target)

    def standings(self) -> dict[AgentId, Standing]:
        """Peers that are slowed or banned for what they sent, ascending by agent."""
        return self.kademlia.standings()

    def pardon(self, agent: AgentId) -> bool:
        """End the ban of a peer and forget why; whether there was anything to forget."""
        return self.kademlia.pardon(agent)

    def blocked(self) -> list[Block]:
        """What is blocked here, oldest first."""
        return self.parts.blocks.all()

    async def _refresh_blocked(self, target: AgentId | Cid) -> None:
        entries = [target]
        if len(target) == AGENT_ID_SIZE:
            entries = await self.parts.run_blocking(self.parts.held.subjects_of, target)
        await self.parts.holder.refresh(entries)
        self.parts.results.clear()

    async def receipts(self, record: Cid, at_least: int, timeout_s: float) -> Validated:
        """Who has validated an own record; see `node.receipts.Receipts.wait`."""
        return await self.parts.receipts.wait(record, at_least, timeout_s)

    async def purge(self, cid: Cid) -> Changed:
        """Erase what this agent said in an entry or record, for good; see `node.erasing`."""
        if cid in self.private:
            changed = await self.private.change(cid, Purge())
            self.parts.erasing.wake()
            return changed
        return await self.parts.erasing.purge(cid)

    def status(self) -> Status:
        """The node at a glance."""
        return Status(
            agent=self.agent,
            network=self.network_id,
            network_name=self.manifest.name,
            space=self.manifest.space.model,
            addresses=self.parts.network.addresses,
            peers=len(self.kademlia.contacts()),
            records=self.parts.own.count(),
            held=self.parts.held.count(),
            pending=self.parts.publisher.pending + self.parts.offers.pending,
            shards_held=0 if self.read_only else self.parts.catch_up.shards_held,
            under_replicated=self.parts.repairer.under_replicated,
            repairing=self.parts.repairer.repairing,
            replication=self.manifest.replication,
            unconfirmed=self.parts.publisher.unconfirmed,
            reachable=bool(self.parts.network.addresses) and bool(self.parts.network.connected()),
            read_only=self.read_only or self.parts.own.ended or self.parts.own.frozen,
            chain=self.guard.line,
            chains=self.parts.activity.counts(),
            waiting={"pending": self.parts.retrial.room.pending, "parked": self.parts.retrial.room.parked},
            refused=dict(self.parts.intake.refused + self.parts.retrial.room.counts.reasons),
            uptime_s=round(self.parts.clock.monotonic() - self.parts.started, 3),
            counters=counters_of(self.parts),
            store_bytes=self.parts.held.used_bytes(),
            store_max_bytes=self.parts.options.quota.store,
            full=self.parts.room.full,
            health=self.parts.vitals.health().numbers,
        )

    def peers(self) -> list[PeerView]:
        """The peers that this node knows, by agent id."""
        connected = set(self.parts.network.connected())
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
        return await self.parts.clock_skew.measure()

    def chain_log(self, from_seq: int, limit: int) -> list[Record]:
        """Own records from `from_seq` on, ascending."""
        return self.parts.own.read(from_seq, limit)

    async def verify_chain(self) -> ChainReport:
        """Verify the own chain from its first record; raises `ChainBrokenError`."""
        return await self.parts.run_blocking(self.parts.own.verify)

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
        parts = self.parts
        shards = parts.layouts.every_shard()
        return await parts.holder.rebuild(records_to_index(parts.own, parts.held, shards))

    def without_payload(self, limit: int) -> list[Record]:
        """Own records of which only the header is here, at most `limit`; O(chain)."""
        return self.parts.own.without_payload(limit)

    # What a test or a simulator looks at.

    def unplaced(self, limit: int) -> list[Cid]:
        """Own records that lack holders now, at most `limit` of them, oldest first."""
        return [record.cid for record in self.parts.own.below(max(1, self.parts.publisher.need), -1, limit)]

    def replica(self, basis: bytes) -> tuple[int, bytes]:
        """Count and digest of what is held here at a basis; holders that hold the same have equal ones."""
        return self.parts.held.digest_of(basis)

    def holds(self, cid: Cid) -> bool:
        """Whether the record is on this node's disk, its own or another's."""
        return self.parts.find([cid])[0] is not None

    @property
    def frozen(self) -> str | None:
        """Why nothing is added to the own chain although it could be written, or None."""
        return self.parts.own.frozen

    @property
    def joined(self) -> bool:
        """Whether the node is part of its network: it founded it, or a bootstrap peer answered."""
        return self.parts.participation.joined

    # What `open_node` runs.

    async def start(self) -> None:
        """Load the index, and index what a crash left without postings."""
        parts = self.parts
        await self.governance.load()
        await parts.decisions.load()
        await parts.erasing.catch_up()
        await self.private.load()
        await parts.holder.open()
        await parts.holder.follow_layout()
        await index_missing(
            parts.holder,
            parts.derived,
            parts.own,
            parts.held,
            parts.layouts.every_shard(),
            parts.run_blocking,
        )
        await drop_strays(parts.holder, parts.derived, parts.held, self.agent, parts.run_blocking)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part in the network until cancelled."""
        parts = self.parts
        keep = parts.supervisor.keep
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep, self.governance.show_changes)
            await nursery.start(parts.participation.run)
            for work in (
                parts.atlases.run,
                parts.migration.run,
                parts.decisions.run,
                parts.proposer.run,
                parts.retrial.run,
                parts.activity.run,
                parts.links.run,
                parts.clock_skew.run,
                parts.look_after_room,
                parts.emptied.run,
                parts.erasing.run,
                parts.texts.run,
                parts.routing.puller.run,
                parts.wording.puller.run,
                parts.routing.spots.run,
                parts.audits.run,
            ):
                nursery.start_soon(keep, work)
            await nursery.start(self.learning.run)
            task_status.started()

    async def leave(self, within_s: float) -> int:
        """Hand over what would be short of a copy without this node, then say good-bye; then close it.

        Takes at most `within_s` seconds, and a little for the good-byes; may be cancelled. Returns how many
        bases were left short of a copy.
        """
        return await self.parts.participation.leave(within_s)

    async def finish(self) -> None:
        """Save what makes the next start quick, and let another home of this agent write at once."""
        parts = self.parts
        await self.guard.release()
        await parts.erasing.scrub()
        await parts.run_blocking(parts.participation.write_memory)

    @property
    def read_only(self) -> str | None:
        """Why this node takes no writes, or None."""
        return self.parts.read_only


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
            emptied = held.is_new and own.count() > 0
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
            parts = Parts(
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
                emptied,
            )
            node = Node(parts)
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
