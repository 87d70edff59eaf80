"""Importing an archive of records of the same network: judged like records from a peer, and held like those.

Records come in again under their authors' signatures, so nothing is lost of who said what. They pass the
intake, lie here in every role that their kind has, and the repair brings them to the nodes that they belong
to. What is here already costs a look-up, so an import can be repeated. This agent's own records are not
taken: its chain is written here or restored, never filled in from a file. Memory: a group's headers and one
batch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from chain.archive import ArchiveError
from chain.archive_parts import ArchiveReader, Begun, Group, Part, Stored
from chain.cid import Cid, to_text
from chain.identity import AgentId
from chain.kinds import PURGE
from chain.manifest import Manifest
from chain.record import Record
from dht.ports import RunBlocking
from dht.records.bundle import Bundle, Item, Opening
from dht.records.intake import Judged
from dht.records.placement import ALL_ROLES
from dht.records.replies import StoreStatus
from node.errors import Forbidden, InvalidInput

BATCH: Final = 256
"""Records judged and made durable together."""
BATCH_BYTES: Final = 1 << 20
PIECE: Final = 64 * 1024
"""Bytes of an archive that are taken apart at a time."""
MAX_OPENINGS: Final = 10_000
"""Authors that an archive introduces before any record of theirs is held; then the earliest is forgotten."""
MAX_FAULTS: Final = 1000
"""Records that are told of because they were not taken."""

WHY: Final = {
    StoreStatus.PARKED: "its clock is ahead of this node's",
    StoreStatus.FULL: "this node has no room for it",
    StoreStatus.QUOTA: "its author has no room left on this node",
    StoreStatus.BLOCKED: "it is blocked on this node",
}
OWN: Final = "it is this agent's own and not in its chain: restore a backup or the key instead"


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that was not taken, its place in the archive in bytes, and why."""

    record: Cid
    at: int
    reason: str


@dataclass(slots=True)
class Imported:
    """What became of an archive. `error` says where it broke; what came before was taken.

    An entry is counted with its create record, unless that is not valid or cannot be judged, so that here and
    where an archive is verified the same is counted, also of one that was cut.
    """

    network: Cid | None = None
    entries: int = 0
    records: int = 0
    added: int = 0
    known: int = 0
    refused: int = 0
    faults: list[Refused] = field(default_factory=list)
    error: str | None = None
    whole: bool = False


class ArchiveImport:
    """The imports of one node."""

    def __init__(
        self,
        manifest: Manifest,
        agent: AgentId,
        admit: Callable[[Bundle], Awaitable[list[Judged]]],
        lacking: Callable[[Sequence[Record]], list[Record]],
        keeps: Callable[[], bool],
        run_blocking: RunBlocking,
    ) -> None:
        """`lacking` gives those of some records that are in no role here; `keeps`: whether others' may be."""
        self._manifest = manifest
        self._network = manifest.network_id
        self._agent = agent
        self._admit = admit
        self._lacking = lacking
        self._keeps = keeps
        self._run_blocking = run_blocking

    async def take(self, portions: AsyncIterator[bytes]) -> Imported:
        """Take an archive in; what it says of the records was durable when this returns.

        Raises `InvalidInput` for an archive of another network, `Forbidden` where nothing is held for others,
        and `StorageError`. A broken archive is no error: it is told of in the answer.
        """
        if not self._keeps():
            raise Forbidden("this node holds nothing for others now, so it takes no archive")
        taking = _Taking(self)
        reader = ArchiveReader()
        try:
            async for portion in portions:
                for start in range(0, len(portion), PIECE):
                    for part in reader.feed(portion[start : start + PIECE]):
                        await taking.part(part)
            reader.close()
            taking.told.whole = True
        except ArchiveError as error:
            await taking.flush()
            taking.told.error = str(error)
        return taking.told

    def check(self, begun: Begun) -> None:
        """Raise `InvalidInput` for an archive of another network."""
        if begun.network != self._network:
            raise InvalidInput(
                f"the archive is of the network {begun.manifest.name!r:.80} ({to_text(begun.network)}), and "
                f"this node is in {self._manifest.name!r:.80} ({to_text(self._network)}): export JSON lines "
                "there, and this agent signs for them"
            )

    async def hold(
        self, bundle: Bundle, places: Sequence[int], entry: Cid | None, told: Imported
    ) -> set[AgentId]:
        """Have the items of a bundle judged and held; the authors of whom something is held now."""
        records = [item.record for item in bundle.items if isinstance(item, Item)]
        lacking = {one.cid for one in await self._run_blocking(self._lacking, records)}
        wanted = [
            (at, record)
            for at, record in zip(places, records, strict=True)
            if record.cid in lacking and record.header.author != self._agent
        ]
        told.known += len(records) - len(lacking)
        told.entries += any(one.cid == entry for one in records)
        for at, record in zip(places, records, strict=True):
            if record.cid in lacking and record.header.author == self._agent:
                _refuse(told, Refused(record.cid, at, OWN))
        if not wanted:
            return {record.header.author for record in records if record.cid not in lacking}
        items = tuple(Item(record, int(ALL_ROLES)) for _, record in wanted)
        judged = await self._admit(Bundle(bundle.openings, bundle.headers, items))
        for (at, record), one in zip(wanted, judged, strict=True):
            if one.status is StoreStatus.HELD:
                told.added += 1
            else:
                _refuse(told, Refused(record.cid, at, _why(one)))
                undone = one.status in (StoreStatus.INVALID, StoreStatus.PENDING)
                told.entries -= record.cid == entry and undone
        held = {one.held.record.header.author for one in judged if one.held is not None}
        return held | {record.header.author for record in records if record.cid not in lacking}


class _Taking:
    """One archive on its way in."""

    def __init__(self, of: ArchiveImport) -> None:
        self.told = Imported()
        self._of = of
        self._entry: Cid | None = None
        self._openings: dict[AgentId, Opening] = {}
        self._headers: dict[Cid, Record] = {}
        self._purges: dict[Cid, Record] = {}
        self._bare: list[tuple[int, Record]] = []
        self._batch: list[tuple[int, Record]] = []
        self._bytes = 0

    async def part(self, part: Part) -> None:
        """Take the next part in."""
        if isinstance(part, Begun):
            self._of.check(part)
            self.told.network = part.network
        elif isinstance(part, Group):
            self._headers = {one.cid: one.without_payload() for one in part.companions}
            for genesis, membrane in part.openings:
                self._openings[genesis.header.author] = (genesis, membrane)
            while len(self._openings) > MAX_OPENINGS:
                del self._openings[next(iter(self._openings))]
            self._entry = part.entry
        elif isinstance(part, Stored):
            self._add(part.at, part.record)
            if len(self._batch) >= BATCH or self._bytes >= BATCH_BYTES:
                await self._hold(self._batch)
        else:
            await self.flush()

    async def flush(self) -> None:
        """The group is over: take what is left of it, and at last what its authors erased."""
        await self._hold(self._batch)
        self._headers |= self._purges
        bare, self._bare = self._bare, []
        for start in range(0, len(bare), BATCH):
            await self._hold(bare[start : start + BATCH])
        self._headers, self._purges = {}, {}

    def _add(self, at: int, record: Record) -> None:
        self.told.records += 1
        if record.header.kind == PURGE:
            self._purges[record.cid] = record
        if record.payload is None:
            self._headers[record.cid] = record
            self._bare.append((at, record))
        else:
            self._batch.append((at, record))
            self._bytes += len(record.header_bytes) + len(record.payload)

    async def _hold(self, batch: Sequence[tuple[int, Record]]) -> None:
        self._batch, self._bytes = [], 0
        if not batch:
            return
        items = tuple(Item(record, int(ALL_ROLES)) for _, record in batch)
        authors = {record.header.author for _, record in batch}
        openings = {author: self._openings[author] for author in authors if author in self._openings}
        bundle = Bundle(openings, self._headers, items)
        for author in await self._of.hold(bundle, [at for at, _ in batch], self._entry, self.told):
            self._openings.pop(author, None)
        self._headers.update((record.cid, record.without_payload()) for _, record in batch)


def _refuse(told: Imported, one: Refused) -> None:
    told.refused += 1
    if len(told.faults) < MAX_FAULTS:
        told.faults.append(one)


def _why(judged: Judged) -> str:
    if judged.status is StoreStatus.INVALID:
        return f"it breaks the rule {judged.rule}"
    if judged.status is StoreStatus.PENDING:
        needs = judged.needs
        if needs is not None and needs.missing:
            return f"it names {to_text(needs.missing[0])}, which is neither here nor in the archive"
        return "this node cannot judge it yet: its author's first records, an epoch or a shard is not known"
    return WHY.get(judged.status, judged.status.name.lower())
