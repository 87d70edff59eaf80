"""Records of learning tasks over the network: delivered to members directly, found at the task's basis.

Like all records they are published where their subject lies. That alone would cost a round some seconds, so
members also send theirs to each other at once (`learning.deliver`), judged on arrival like anything from a
peer. Who was away catches up at the holders of the task's basis: a digest says whether there is anything new
(`record.digests`), a list of CIDs what it is. Everything that this node keeps of a task it follows lies at a
basis of its own, so that a restart needs nobody.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import sha256

import trio

from chain import canonical
from chain.cid import Cid, is_record_cid
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import LEARNING_OPERATIONS, TASK
from chain.membrane import Membrane, position
from chain.record import Record, decode_payload
from dht.errors import FrameError, NetworkError, RefusalCode, RequestRefused
from dht.network import MAX_BODY, Network
from dht.overlay.kademlia import Kademlia
from dht.ports import RunBlocking
from dht.records.basis import listing_basis, subject_basis
from dht.records.bundle import BadItem, Bundle, BundleError, Item, open_bundle
from dht.records.intake import Judged
from dht.records.methods import MAX_FETCH, RecordService
from dht.records.placement import Role
from dht.records.record_store import Held, HeldStore
from dht.records.replies import StoreStatus
from federated.messages import DELIVER

MAX_DELIVERED = 64
"""Records of one delivery: a member's latest, or a handful that another lacks."""
MAX_RECEIVERS = 256
"""Agents that a record is delivered to."""
DELIVER_AT_ONCE = 32
"""Of these, how many at a time."""
MAX_LISTED = 256
"""Tasks of the network's list that are read."""
MAX_READ = 16 << 20
"""Bytes of payloads read from one agent about a task that is not followed, or about the tasks there are."""
MAX_PAGES = 64
"""Pages of CIDs read from one holder in one poll."""
DELIVER_TIMEOUT_S = 5.0
MAX_SEEN = 4096
"""Holders of tasks of whom it is remembered what they had: those asked last."""
LOCAL_TAG = b"roseforest/learning-local/1\0"
PAGE = 500
PAGE_OF_ONE = 64

log = logging.getLogger(f"roseforest.{__name__}")


def local_basis(task: Cid) -> bytes:
    """Where this node keeps what it knows of a task it follows."""
    return sha256(LOCAL_TAG + task).digest()


class Post:
    """Delivers, fetches and keeps the records of tasks. `follows`: which ones deliveries are taken for."""

    def __init__(
        self,
        network: Network,
        kademlia: Kademlia,
        records: RecordService,
        store: HeldStore,
        judge: Callable[[Bundle], list[Judged]],
        opening_of: Callable[[AgentId], tuple[Record, Record] | None],
        membrane: Membrane,
        replication: int,
        run_blocking: RunBlocking,
        follows: Callable[[Cid], bool],
    ) -> None:
        self._kademlia = kademlia
        self._records = records
        self._store = store
        self._judge = judge
        self._opening_of = opening_of
        self._membrane = membrane
        self._replication = replication
        self._run_blocking = run_blocking
        self._follows = follows
        self._seen: OrderedDict[tuple[AgentId, Cid], tuple[int, bytes]] = OrderedDict()
        self.delivered = 0
        """Records that came by delivery and were valid."""
        network.register(DELIVER, kademlia.members_only(self._serve_deliver, heavy=True))

    # -- here --

    async def keep(self, task: Cid, records: Sequence[Record]) -> None:
        """Keep records (own ones, or ones that were judged) of a task that this node follows."""
        basis = local_basis(task)
        await self._records.hold([Held(record, ((int(Role.KEPT), basis),)) for record in records])

    def kept(self, task: Cid) -> list[Record]:
        """Everything kept of a task, from wherever it came; blocking, O(records)."""
        return list({record.cid: record for page in self.pages(task) for record in page}.values())

    def pages(self, task: Cid) -> Iterator[list[Record]]:
        """The same, some at a time and some of them twice; blocking."""
        for basis in (local_basis(task), subject_basis(task)):
            after: Cid | None = None
            while page := self._store.at_basis(basis, after, PAGE):
                yield [record for record in page if belongs(task, record)]
                after = page[-1].cid

    def kept_by(self, task: Cid, agent: AgentId) -> Iterator[Record]:
        """What an agent said of a task, as far as it is here, the newest of its chain first; blocking."""
        before: tuple[int, Cid] | None = None
        while page := self._store.operations_by(task, agent, before, PAGE_OF_ONE):
            yield from (record for record in page if record.payload is not None and belongs(task, record))
            before = page[-1].header.seq, page[-1].cid

    def records(self, cids: Sequence[Cid]) -> list[Record | None]:
        """Records by CID, with their payload, as far as they are here; blocking."""
        found = self._store.get_many(cids)
        return [None if record is None or record.payload is None else record for record in found]

    # -- to others --

    async def deliver(self, task: Cid, records: Sequence[Record], agents: Iterable[AgentId]) -> None:
        """Send records to these agents at once; whoever does not get them finds them at the task's basis."""
        receivers = list(agents)
        value, _ = await self._run_blocking(self._records.bundle, list(records[:MAX_DELIVERED]))
        await self.tell(DELIVER, canonical.encode([task, value]), receivers)

    async def tell(self, method: str, body: bytes, agents: Iterable[AgentId]) -> None:
        """Send one message to these agents at once, but this one; who cannot be reached goes without."""
        receivers = [agent for agent in dict.fromkeys(agents) if agent != self._kademlia.agent]
        at_once = trio.CapacityLimiter(DELIVER_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for agent in receivers[:MAX_RECEIVERS]:
                nursery.start_soon(self._tell, agent, method, body, at_once)

    async def _tell(self, agent: AgentId, method: str, body: bytes, at_once: trio.CapacityLimiter) -> None:
        try:
            async with at_once:
                await self.reach(agent)
                await self._kademlia.request(agent, method, body, DELIVER_TIMEOUT_S)
        except NetworkError as error:
            log.info("%s to %s failed: %s", method, agent.hex()[:8], error)

    async def reach(self, agent: AgentId) -> None:
        """Find the address of an agent that this node has not met: its opening says where in the DHT."""
        if self._kademlia.contact(agent) is not None:
            return
        opening = self._opening_of(agent)
        if opening is None or opening[1].payload is None:
            return
        passage = self._membrane.open_body(agent, decode_payload(opening[1].payload))
        await self._kademlia.lookup(position(self._membrane.network, agent, passage.nonce), 1)

    async def _serve_deliver(self, sender: AgentId, body: bytes) -> bytes:
        try:
            task, bundle = await self._run_blocking(_open_delivery, body)
        except FrameError as error:
            raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
        if not self._follows(task):
            raise RequestRefused(RefusalCode.FORBIDDEN, "this node does not follow the task")
        judged = await self._admit(task, bundle)
        if any(one.rule for one in judged) or not all(_is_of(task, item) for item in bundle.items):
            self._kademlia.report(sender)
        self.delivered += sum(one.status is StoreStatus.HELD for one in judged)
        return canonical.encode([int(one.status) for one in judged])

    # -- from others --

    async def get(self, task: Cid, agent: AgentId, cids: Sequence[Cid]) -> None:
        """Fetch records of a task from one agent, and keep what is valid. Raises `NetworkError`."""
        for start in range(0, len(cids), MAX_FETCH):
            asked = cids[start : start + MAX_FETCH]
            bundle = await self._records.fetch(agent, asked)
            came = {item.record.cid for item in bundle.items if isinstance(item, Item)}
            judged = await self._admit(task, bundle)
            if any(one.rule for one in judged) or came.isdisjoint(asked):
                self._kademlia.report(agent)
            if came.isdisjoint(asked):
                raise FrameError(f"{agent.hex()[:8]} does not send what it lists")

    async def find_task(self, task: Cid) -> Record | None:
        """The record of a task, from its holders."""
        for contact in await self._kademlia.holders(subject_basis(task), self._replication):
            if contact.agent == self._kademlia.agent:
                continue
            try:
                bundle = await self._records.fetch(contact.agent, [task])
            except NetworkError as error:
                log.info("fetching a task from %s failed: %s", contact.agent.hex()[:8], error)
                continue
            for record in await self._valid(bundle):
                if record.cid == task and record.header.kind == TASK:
                    return record
        return None

    async def poll(self, task: Cid, every_holder: bool, turn: int) -> bool:
        """Fetch what holders of the task's basis have and this node lacks; whether anything came.

        From one holder, another each turn, or from all at once.
        """
        contacts = await self._kademlia.holders(subject_basis(task), self._replication)
        agents = [contact.agent for contact in contacts if contact.agent != self._kademlia.agent]
        if not agents:
            return False
        chosen = agents if every_holder else [agents[turn % len(agents)]]
        came: list[bool] = []
        async with trio.open_nursery() as nursery:
            for agent in chosen:
                nursery.start_soon(self._poll, task, agent, came)
        return any(came)

    async def _poll(self, task: Cid, agent: AgentId, came: list[bool]) -> None:
        basis = subject_basis(task)
        try:
            (there,) = await self._records.digests(agent, [basis])
            if not there[0] or self._seen.get((agent, task)) == there:
                return
            after: Cid | None = None
            for _ in range(MAX_PAGES):
                cids = await self._records.cids(agent, basis, after)
                if not cids:
                    break
                known = await self._run_blocking(self._store.get_many, cids)
                missing = [
                    cid for cid, record in zip(cids, known, strict=True) if not record or not record.payload
                ]
                if missing:
                    came.append(True)
                    await self.get(task, agent, missing)
                after = cids[-1]
            self._seen[agent, task] = there
            self._seen.move_to_end((agent, task))
            if len(self._seen) > MAX_SEEN:
                self._seen.popitem(last=False)
        except NetworkError as error:
            log.info("polling %s for a task failed: %s", agent.hex()[:8], error)

    async def read(self, task: Cid) -> list[Record]:
        """The records of a task that this node does not follow, from its holders; nothing is kept."""
        found: dict[Cid, Record] = {}
        basis = subject_basis(task)
        for contact in await self._kademlia.holders(basis, self._replication):
            if contact.agent != self._kademlia.agent:
                await self._read(contact.agent, basis, found, partial(belongs, task))
        return list(found.values())

    async def listed(self) -> list[Record]:
        """The tasks that the network lists, as far as they can be found now; at most `MAX_LISTED`."""
        basis = listing_basis(self._membrane.network)
        found = {record.cid: record for record in self._store.at_basis(basis, None, MAX_LISTED)}
        contacts = await self._kademlia.holders(basis, self._replication)
        async with trio.open_nursery() as nursery:
            for contact in contacts:
                if contact.agent != self._kademlia.agent:
                    nursery.start_soon(self._read, contact.agent, basis, found, is_task)
        tasks = [r for r in found.values() if r.header.kind == TASK and r.payload is not None]
        return sorted(tasks, key=lambda record: (record.header.hlc, record.cid))[-MAX_LISTED:]

    async def _read(
        self, agent: AgentId, basis: bytes, found: dict[Cid, Record], fits: Callable[[Record], bool]
    ) -> None:
        """Add what one agent has at a basis, up to `MAX_READ` bytes; what does not fit there ends it."""
        after: Cid | None = None
        size = 0
        try:
            for _ in range(MAX_PAGES):
                page = await self._records.at(agent, basis, after)
                records = [item.record for item in page.bundle.items if isinstance(item, Item)]
                if not all(map(fits, records)):
                    self._kademlia.report(agent)
                    log.warning("%s shows records that do not lie where they were asked for", agent.hex()[:8])
                    return
                valid = await self._valid(page.bundle)
                found.update((record.cid, record) for record in valid)
                cids = [record.cid for record in records]
                size += sum(len(record.payload or b"") for record in valid)
                if not page.more or not cids or size > MAX_READ or (after is not None and cids[-1] <= after):
                    return
                after = cids[-1]
        except NetworkError as error:
            log.info("reading from %s failed: %s", agent.hex()[:8], error)

    async def _valid(self, bundle: Bundle) -> list[Record]:
        judged = await self._run_blocking(self._judge, bundle)
        return [one.held.record for one in judged if one.held is not None and one.held.record.payload]

    async def _admit(self, task: Cid, bundle: Bundle) -> list[Judged]:
        items = tuple(
            Item(item.record, 0) for item in bundle.items if isinstance(item, Item) and _is_of(task, item)
        )
        also = ((int(Role.KEPT), local_basis(task)),)
        return await self._records.admit(Bundle(bundle.openings, bundle.headers, items), also)


def is_task(record: Record) -> bool:
    """Whether a record publishes a task."""
    return record.header.kind == TASK


def belongs(task: Cid, record: Record) -> bool:
    """Whether a record is the task or an operation on it."""
    kind = record.header.kind
    return record.subject == task and (kind in LEARNING_OPERATIONS or (kind == TASK and record.cid == task))


def _is_of(task: Cid, item: Item | BadItem) -> bool:
    """Whether an item of a bundle says something about a task."""
    return isinstance(item, Item) and item.record.payload is not None and belongs(task, item.record)


def _open_delivery(body: bytes) -> tuple[Cid, Bundle]:
    """Read a delivery; blocking. Raises `FrameError`."""
    try:
        value = canonical.decode(body, MAX_BODY)
    except ChainError as error:
        raise FrameError(f"a delivery is malformed: {error}") from error
    if type(value) is not list or len(value) != 2 or not is_record_cid(value[0]):
        raise FrameError("a delivery is the array [task, bundle]")
    try:
        bundle = open_bundle(value[1])
    except BundleError as error:
        raise FrameError(str(error)) from error
    if len(bundle.items) > MAX_DELIVERED:
        raise FrameError(f"a delivery holds {len(bundle.items)} records, at most {MAX_DELIVERED} are allowed")
    return value[0], bundle
