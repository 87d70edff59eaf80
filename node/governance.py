"""What the network has decided about agents and rules, as this node acts on it.

It puts the ledger, the notices that fill it and the watch that adds to it together with what depends on them:
when an agent's standing changes, the entries that it wrote to are shown anew and offered anew to those who
show them. Own warrants are records of the own chain like any others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import trio

from chain.cid import Cid
from chain.errors import ChainError
from chain.identity import AgentId, Identity, peer_id
from chain.kinds import CREATE, EPOCH
from chain.manifest import Manifest
from chain.record import Record
from chain.source_chain import Draft
from crdt.standing import Standing
from dht.evidence.notices import Notices
from dht.evidence.watch import Watch
from dht.network import Network
from dht.overlay.hello import HelloServer
from dht.overlay.kademlia import Kademlia
from dht.ports import Random, RunBlocking
from dht.records.intake import Intake
from dht.records.methods import RecordService
from dht.records.record_store import Held
from node.atlases import Atlases
from node.derivation import records_of
from node.epochs import Epochs
from node.errors import Forbidden
from node.storage.errors import StorageError
from node.storage.held_records import HeldRecords
from node.storage.own_chain import OwnChain
from validation.context import Context
from validation.ledger import Ledger
from validation.named import named_by
from validation.rules import judge
from validation.verdict import Invalid

PAGE = 1_000
"""Records of an offender looked at together."""

log = logging.getLogger(f"roseforest.{__name__}")


class Views(Protocol):
    """What shows entries."""

    async def refresh(self, entries: Sequence[Cid]) -> None:
        """Show these entries anew."""
        ...


@dataclass(frozen=True, slots=True)
class WarrantView:
    """A proven offence: the rule ("fork" or the broken one), the offending records, and who accuses.

    `warrants` are pairs of warrant and accuser. `since`: from which seq on the offender does not count now.
    """

    offender: AgentId
    seq: int
    rule: str
    records: tuple[Cid, ...]
    warrants: tuple[tuple[Cid, AgentId], ...]
    lifted: bool
    since: int | None


class Governance:
    """The ledger of one node, and what keeps it true. `ledger` may be read from any thread."""

    def __init__(
        self,
        identity: Identity,
        manifest: Manifest,
        own: OwnChain,
        held: HeldRecords,
        hello: HelloServer,
    ) -> None:
        self._agent = identity.agent
        self._hello = hello
        self._find = records_of(own, held)
        own.fault_of = self.fault_of
        self._manifest = manifest
        self._network_id = manifest.network_id
        self._own = own
        self._held = held
        self.ledger = Ledger(manifest)
        self.epochs = Epochs(identity, manifest, own, self.ledger, self.write, self._find)
        self.atlases: Atlases
        self._doubts: dict[AgentId, int] = {}
        self._excluded: tuple[Standing, frozenset[AgentId]] = self.ledger.standing, frozenset()
        self._shown = self.ledger.standing, self._doubts, self.ledger.standing
        self.on_moved: Callable[[], None] = lambda: None
        """Called when somebody's records count from another place on than before."""
        self._moved: dict[AgentId, int] = {}
        self._wake = trio.Event()
        self.watch: Watch
        self._notices: Notices

    def connect(
        self,
        network: Network,
        kademlia: Kademlia,
        records: RecordService,
        intake: Intake,
        views: Views,
        offer: Callable[[Sequence[Cid]], None],
        published: Callable[[], None],
        opening_of: Callable[[AgentId], tuple[Record, Record] | None],
        run_blocking: RunBlocking,
        random: Random,
    ) -> None:
        """Bind to the other parts of the node; once, before anything else."""
        self._kademlia = kademlia
        self._views = views
        self._offer = offer
        self._published = published
        self._run_blocking = run_blocking
        self._notices = Notices(
            network,
            kademlia,
            records,
            self._held,
            intake,
            self.ledger,
            self._network_id,
            run_blocking,
            random,
            self._on_change,
        )
        self.watch = Watch(
            self._agent, self.context, opening_of, self._held, self.ledger, self._write, run_blocking, random
        )

    def context(self) -> Context:
        """What records are judged by now."""
        return Context(self._manifest, self._network_id, self.ledger.epochs)

    @property
    def standing(self) -> Standing:
        """From where on whose records are not shown here: what the ledger says, and what is doubted here."""
        of, doubts, merged = self._shown
        if of is not self.ledger.standing or doubts is not self._doubts:
            of, doubts = self.ledger.standing, self._doubts
            merged = of.doubting(doubts) if doubts else of
            self._shown = of, doubts, merged
        return merged

    def doubt(self, doubts: Mapping[AgentId, int]) -> None:
        """Show nothing of these agents from these places on, and everything of those doubted before.

        What one node doubts it alone does not show: it keeps and places the same as all others.
        """
        moved = {
            agent: min(seq for seq in (doubts.get(agent), self._doubts.get(agent)) if seq is not None)
            for agent in doubts.keys() | self._doubts.keys()
            if doubts.get(agent) != self._doubts.get(agent)
        }
        self._doubts = dict(doubts)
        self._note_moved(moved)

    def broke_a_rule(self, record: Record, context: Context) -> None:
        """See `Watch.broke_a_rule`."""
        self.watch.broke_a_rule(record, context)

    def require_heard(self) -> None:
        """Raise `Forbidden` when what this agent writes would be shown nowhere."""
        since = self.ledger.earliest(self._agent)
        if self._agent in self.ledger.outsiders.expelled:
            raise Forbidden(
                f"this agent was put out of the network by its stewards: nothing it wrote from seq {since} "
                "on is shown by anybody, and nobody answers it; see roseforest epoch list"
            )
        if since is not None and self.ledger.revoked(self._agent):
            raise Forbidden(
                f"this agent's key is revoked by its recovery key: nothing it wrote from seq {since} on is "
                "shown by anybody; found a new agent with roseforest init in another --home"
            )
        if since is not None:
            raise Forbidden(
                f"this agent is under a warrant: nothing it wrote from seq {since} on is shown by anybody; "
                "see roseforest warrants. The network's stewards can lift it by an epoch"
            )

    def resume(self) -> None:
        """The own chain has grown by what was fetched back: go on in its epoch, or a newer one."""
        self.epochs.resume()
        self.adopt()

    def fault_of(self, record: Record, before: Sequence[Record]) -> str | None:
        """The rule that an own record would break, and how: what breaks one would exclude this agent.

        `before` are those of the same write, which cannot be read yet. Of creates only the size is looked at:
        other limits are kept where they are drafted, and imports write thousands.
        """
        if record.header.kind == CREATE:
            size, most = record.header.payload_size, self._manifest.limits.payload
            return None if size <= most else f"payload-size: {size} bytes, the limit is {most}"
        named = [*(one for one in self._find(named_by(record)) if one is not None), *before]
        context = replace(
            self.context(),
            named={one.cid: one for one in named},
            admitted=frozenset((self._agent,)),
            verified=frozenset(one.cid for one in named),
        )
        verdict = judge(record, context)
        return f"{verdict.rule}: {verdict.reason}" if isinstance(verdict, Invalid) else None

    async def load(self) -> None:
        """Read what is held, before anything is shown or written."""
        self.epochs.resume()
        await self._notices.load()
        await self.atlases.load()
        self.adopt()

    async def show_changes(self) -> None:
        """Show the entries of agents whose standing changes anew, for ever; first those of all offenders.

        A crash may have come between hearing and showing. What does not count is not shown meanwhile either:
        who answers looks at the standing. This brings back what it had replaced, and what was lifted.
        """
        self._note_moved(self.ledger.standing.first)
        while True:
            self._wake = trio.Event()
            moved, self._moved = self._moved, {}
            if moved:
                await self._show(moved)
            else:
                await self._wake.wait()

    async def held(self, items: Sequence[Held]) -> None:
        """Records were stored here."""
        await self.watch.held(items)
        await self._notices.take([item.record for item in items])

    async def met(self, pairs: Sequence[tuple[Record, Record]]) -> None:
        """See `Watch.met`."""
        await self.watch.met(pairs)

    async def compare(self, agent: AgentId) -> None:
        """Fetch what one peer knows of warrants and epochs and this node does not."""
        await self._notices.compare(agent)

    def excluded(self) -> frozenset[AgentId]:
        """The agents of whom something does not count, by warrants, revocations and epochs."""
        of, agents = self._excluded
        if of is not self.ledger.standing:
            of, agents = self.ledger.standing, frozenset(self.ledger.standing.first)
            self._excluded = of, agents
        return agents

    async def meet(self) -> None:
        """See `Notices.meet`; what cannot be written is logged."""
        try:
            await self._notices.meet()
        except StorageError as error:
            log.error("notices are not kept: %s", error)

    async def spread(self) -> None:
        """Tell, compare and watch until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._notices.run)
            nursery.start_soon(self.watch.run)

    async def write(self, draft: Draft) -> Record:
        """Append a notice to the own chain, keep it, and show it to everybody; raises `StorageError`."""
        with trio.CancelScope(shield=True):
            ((cid, _),) = await self._own.append([draft], [None])
            (record,) = [one for one in self._own.get_many([cid]) if one is not None]
            await self._notices.take([record])
        self._published()
        return record

    async def warrants(self) -> list[WarrantView]:
        """All that is proven, by offender and seq."""
        return await self._run_blocking(self._warrants)

    def counters(self) -> dict[str, int]:
        """For `status` and metrics."""
        return {
            "warrants": len(self.ledger),
            "agents_excluded": len(self.ledger.standing.first),
            "epoch": next((one.number for one in self.epochs.known() if one.current), 0),
            "warrants_written_total": self.watch.accused,
            "notices_told_total": self._notices.told,
        }

    def _warrants(self) -> list[WarrantView]:
        offences, lifted = self.ledger.offences, self.ledger.lifted
        records = self._held.get_many(sorted(offences))
        accusers = {one.cid: one.header.author for one in records if one is not None}
        grouped: dict[tuple[AgentId, int, str, tuple[Cid, ...]], list[Cid]] = {}
        for cid, one in sorted(offences.items()):
            grouped.setdefault((one.offender, one.seq, one.rule, one.records), []).append(cid)
        return [
            WarrantView(
                offender,
                seq,
                rule,
                about,
                tuple((cid, accusers[cid]) for cid in cids if cid in accusers),
                all(cid in lifted for cid in cids),
                self.ledger.earliest(offender),
            )
            for (offender, seq, rule, about), cids in sorted(grouped.items())
        ]

    async def _write(self, draft: Draft) -> None:
        try:
            await self.write(draft)
        except (StorageError, ChainError) as error:
            log.warning("a warrant is left to others: %s", error)

    async def _on_change(self, moved: Mapping[AgentId, int], new: Sequence[Record]) -> None:
        for agent in sorted(moved):
            since = self.ledger.earliest(agent)
            if since is None:
                log.warning(
                    "the records of %s are shown again: its warrants are lifted, or it is let in again",
                    peer_id(agent),
                )
            else:
                why = "revoked" if self.ledger.revoked(agent) else "under a warrant"
                why = "put out of the network" if agent in self.ledger.outsiders.expelled else why
                log.warning("%s is %s: nothing from seq %d on is shown", peer_id(agent), why, since)
        if any(one.header.kind == EPOCH for one in new):
            await self.atlases.load()
            self.adopt()
            self._kademlia.put_out()
        self._note_moved(moved)
        self.on_moved()
        await self.watch.heard(new)

    def _note_moved(self, moved: Mapping[AgentId, int]) -> None:
        for agent, seq in moved.items():
            self._moved[agent] = min(seq, self._moved.get(agent, seq))
        self._wake.set()

    def adopt(self) -> None:
        """Go on in the newest epoch that this node can work in, and serve it to newcomers."""
        if self.epochs.adopt():
            log.warning("this node works in epoch %d from now on", self.counters()["epoch"])
        self.atlases.heard()
        lineage = self._held.get_many(self.epochs.lineage())
        if all(one is not None and one.payload is not None for one in lineage):
            self._hello.update([one.encode() for one in lineage if one is not None], self.atlases.served())

    async def _show(self, since: Mapping[AgentId, int]) -> None:
        for agent in sorted(since):
            seq = since[agent]
            while True:
                page = await self._run_blocking(self._records_of, agent, seq)
                if not page:
                    break
                entries = sorted({record.subject for record in page})
                await self._views.refresh(entries)
                self._offer(entries)
                if len(page) < PAGE:
                    break
                # All branches at the last seq may not have fitted; it comes again.
                last = page[-1].header.seq
                seq = last if last > seq else last + 1

    def _records_of(self, agent: AgentId, seq: int) -> list[Record]:
        if agent == self._agent:
            return self._own.read(seq, PAGE)
        return self._held.of_author(agent, seq, PAGE)
