"""The blob service: large content by CID, fetched in chunks from whoever has it, and served the same way.

    blob.list    [cid]          [chunk list, bitmap of the chunks that are here], or nil for an unknown blob
    blob.chunk   [cid, index]   the bytes of the chunk; none when it is not here

The chunk list is checked against the CID, and its size against the reader's limit, before room is made for
the blob; each chunk is checked against the list before it is kept. So a holder can refuse, be slow or lie,
and costs no more than its own turn: `dht.blobs.chunk_plan` decides whom to ask instead. What arrived stays on
disk (`dht.blobs.blob_store`), and the next fetch of the same blob goes on from there. Only members are
answered, and only so many chunks at a time.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from mmap import mmap
from typing import Any

import trio

from chain import canonical
from chain.blob import (
    CHUNK,
    MAX_BLOB,
    ChunkList,
    WrongChunkListError,
    check_size,
    count_chunks,
    max_list,
    open_chunk_list,
)
from chain.cid import Cid, is_blob_cid, to_text
from chain.errors import CidError, EncodingError
from chain.identity import AgentId
from dht.blobs.blob_store import BitmapError, BlobDraft, BlobInfo, BlobStore, bitmap, read_bitmap
from dht.blobs.chunk_plan import HEDGE_S, ChunkPlan
from dht.errors import (
    DhtError,
    FrameError,
    NetworkError,
    PeerUnreachable,
    RefusalCode,
    RequestRefused,
    RequestTimeout,
)
from dht.network import Network
from dht.overlay.contact_book import MAX_CONTACTS
from dht.overlay.kademlia import Kademlia
from dht.overlay.membership import short
from dht.ports import Clock, RunBlocking
from dht.wire.exchange import Gate
from dht.wire.limits import DEFAULT_LIMITS
from dht.wire.pace import Pace, Rate

LIST = "blob.list"
GET = "blob.chunk"

MAX_AGENTS = 64
"""Agents of one fetch; further ones are not asked."""
AT_ONCE = 8
"""Agents of one fetch asked at a time; the next takes the place of one that has nothing (more) to give."""
STALL_S = 5.0
"""Seconds after which one more agent is asked although no place is free: all the others may be slow."""
PER_AGENT = 3
"""Chunks asked of one agent at a time, over all fetches; also what is served to one at a time."""
FETCHES = 8
"""Fetches at a time; further ones wait their turn. With `AT_ONCE` and `PER_AGENT`: 48 MiB under way."""
LOOK_S = 20.0
"""Seconds between looks at a fetch while others wait for a place."""
LEAST_CHUNKS = 2
"""Chunks that have to come in that time (26 kB/s), or the fetch gives its place up and waits for another;
what it has is kept."""
SERVE_EACH = Rate(per_second=8 << 20, burst=32 << 20)
"""Bytes served to one agent."""
SERVE_ALL = Rate(per_second=32 << 20, burst=128 << 20)
"""Bytes served to all of them."""
SERVE_WAIT_S = 5.0
"""Longest that a chunk is kept back for that; beyond it the asker is refused as overloaded."""
SERVED = 16
"""Chunks being read for others at a time, over all agents: 4 MiB; further ones wait their turn."""
LIST_TIMEOUT = 5.0
"""Seconds for a chunk list."""
LIST_TRIES = 3
CHUNK_TIMEOUT = 10.0
"""Seconds for one chunk; long before it is over, others are asked too."""
RETRY_PAUSE = 0.5
"""Seconds after the first failure of an agent before it is asked again; twice as long after the second."""
MAX_REASONS = 4
"""Agents whose reasons an error repeats."""
_MAX_QUESTION = 64
_MAX_REPLY = max_list(MAX_BLOB) + count_chunks(MAX_BLOB) // 8 + 32

log = logging.getLogger(f"roseforest.{__name__}")


class BlobUnavailable(DhtError):
    """None of the agents asked had what is missing of a blob; `missing` chunks, None when not even the list
    was found."""

    def __init__(self, cid: Cid, missing: int | None, reasons: dict[AgentId, str]) -> None:
        self.missing = missing
        what = "its chunk list" if missing is None else f"{missing} of its chunks"
        some = "; ".join(f"{short(agent)}: {why}" for agent, why in list(reasons.items())[:MAX_REASONS])
        super().__init__(
            f"blob {to_text(cid)} is not to be had: {what} at none of the {len(reasons)} agents asked"
            + (f" ({some})" if some else "")
        )


@dataclass(slots=True)
class BlobCounters:
    """What the service has done since it started."""

    chunks_fetched: int = 0
    chunks_served: int = 0
    chunks_refused: int = 0
    """Requests of others refused because too much was under way."""
    yielded: int = 0
    """Times that a slow fetch gave its place to one that waited."""
    lies: int = 0
    """Lists and chunks of others that did not match."""


@dataclass(slots=True)
class _Lane:
    """The places for requests to one agent, while fetches use it."""

    places: trio.Semaphore
    users: int = 0


@dataclass(slots=True)
class _Fetch:
    """One fetch under way."""

    cid: Cid
    size_limit: int
    reasons: dict[AgentId, str] = field(default_factory=dict)
    chunks: ChunkList | None = None
    plan: ChunkPlan | None = None
    planning: trio.Lock = field(default_factory=trio.Lock)
    changed: trio.Event = field(default_factory=trio.Event)

    @property
    def missing(self) -> int:
        """Chunks that are not here yet; before that is known, more than there can be."""
        return MAX_BLOB if self.plan is None else len(self.plan.missing)

    def change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class BlobService:
    """Serves the blobs of `store` to members, and fetches blobs into it.

    `rng` shuffles the order of chunks, so that several nodes that fetch at once soon have something for each
    other.
    """

    def __init__(
        self,
        network: Network,
        kademlia: Kademlia,
        store: BlobStore,
        run_blocking: RunBlocking,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.store = store
        self.counters = BlobCounters()
        self._kademlia = kademlia
        self._run_blocking = run_blocking
        self._clock = clock
        self._rng = rng
        self._gate = Gate(replace(DEFAULT_LIMITS, handlers_per_peer=PER_AGENT))
        self._reading = trio.Semaphore(SERVED)
        self._to_each: Pace[AgentId] = Pace(SERVE_EACH, MAX_CONTACTS)
        self._to_all: Pace[None] = Pace(SERVE_ALL, 1)
        self._lanes: dict[AgentId, _Lane] = {}
        self._turns = trio.Semaphore(FETCHES)
        self._looking = trio.Lock()
        self._under_way: dict[Cid, trio.Event] = {}
        network.register(LIST, kademlia.members_only(self._serve_list))
        network.register(GET, kademlia.members_only(self._serve_chunk))

    # -- ours --

    async def put(self, data: bytes, *, pin: bool = True) -> BlobInfo:
        """Keep a blob of our own, durably; idempotent. Raises `OversizedBlobError` and the store's errors."""
        async with self.drafting() as draft:
            for at in range(0, len(data), CHUNK):
                await self._run_blocking(draft.write, data[at : at + CHUNK])
            return await self._run_blocking(lambda: draft.finish(pin=pin))

    @asynccontextmanager
    async def drafting(self) -> AsyncIterator[BlobDraft]:
        """A blob of our own, to be written portion by portion; abandoned unless finished in the block."""
        draft = await self._run_blocking(self.store.draft)
        try:
            yield draft
        finally:
            with trio.CancelScope(shield=True):
                await self._run_blocking(draft.abandon)

    async def fetch(self, cid: Cid, size_limit: int, agents: Sequence[AgentId]) -> bytes:
        """The content of a blob, from here or from `agents`; see `fetch_to_disk`. Holds it once in memory."""
        while True:
            await self.fetch_to_disk(cid, size_limit, agents)
            data = await self._run_blocking(self.store.read, cid)
            if data is not None:
                return data
            # Evicted or damaged meanwhile: what is missing is fetched again.

    async def fetch_mapped(self, cid: Cid, size_limit: int, agents: Sequence[AgentId]) -> mmap | bytes:
        """Like `fetch`, but mapped read-only from disk: pages in memory belong to the system's cache."""
        while True:
            await self.fetch_to_disk(cid, size_limit, agents)
            data = await self._run_blocking(self.store.map, cid)
            if data is not None:
                return data

    async def fetch_to_disk(
        self, cid: Cid, size_limit: int, agents: Sequence[AgentId], *, pin: bool = False
    ) -> BlobInfo:
        """Have a blob of at most `size_limit` bytes complete and checked in the store.

        The agents are asked at once, and further ones as earlier ones drop out. There is no limit of time
        here: cancel it, and what has arrived stays for the next time. Fetches of the same blob share one.
        Raises `BlobUnavailable`; `OversizedBlobError` or `MalformedBlobError` for a CID that names what may
        not be fetched; `CidError` for one that names no blob; and the store's errors.
        """
        if not is_blob_cid(cid):
            raise CidError(f"not the CID of a blob: {cid!r:.80}")
        while True:
            info = self.store.info(cid)
            if info is not None and info.complete:
                check_size(info.size, size_limit)
                if pin and not info.pinned:
                    await self._run_blocking(self.store.pin, cid, True)
                    return replace(info, pinned=True)
                return info
            under_way = self._under_way.get(cid)
            if under_way is not None:
                await under_way.wait()
                continue
            done = self._under_way[cid] = trio.Event()
            try:
                async with self._turns:
                    await self._fetch_at_pace(cid, size_limit, agents, pin)
            finally:
                del self._under_way[cid]
                done.set()

    # -- fetching --

    async def _fetch_at_pace(self, cid: Cid, size_limit: int, agents: Sequence[AgentId], pin: bool) -> None:
        """Fetch, but return before the end when too little comes while other fetches wait for a place."""

        fetch = _Fetch(cid, size_limit)

        async def watch() -> None:
            while True:
                before = fetch.missing
                await trio.sleep(LOOK_S)
                others = self._turns.statistics().tasks_waiting > 0
                if others and before - fetch.missing < LEAST_CHUNKS:
                    log.info("the fetch of %s is slow and gives its place to others", to_text(cid))
                    self.counters.yielded += 1
                    nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                await self._fetch(fetch, agents, pin)
                nursery.cancel_scope.cancel()
        except ExceptionGroup as group:
            raise _first(group) from group

    async def _fetch(self, fetch: _Fetch, agents: Sequence[AgentId], pin: bool) -> None:
        cid, size_limit = fetch.cid, fetch.size_limit
        others = [agent for agent in dict.fromkeys(agents) if agent != self._kademlia.agent]
        known = self.store.chunk_list(cid)
        if known is not None:
            check_size(known.size, size_limit)
        try:
            if known is not None:
                await self._plan(fetch, known)
            if fetch.plan is None or not fetch.plan.done:
                await self._draw_from_all(fetch, others[:MAX_AGENTS])
            if fetch.plan is None or not fetch.plan.done:
                missing = None if fetch.plan is None else len(fetch.plan.missing)
                raise BlobUnavailable(cid, missing, fetch.reasons)
            if pin:
                await self._run_blocking(self.store.pin, cid, True)
        finally:
            if fetch.chunks is not None:
                with trio.CancelScope(shield=True):
                    await self._run_blocking(self.store.end, cid)

    async def _plan(self, fetch: _Fetch, chunks: ChunkList) -> None:
        """Make room for the blob, once, and note what is missing."""
        async with fetch.planning:
            if fetch.plan is None:
                # Not cancelled between the store's beginning and our knowing of it: it is to be ended.
                with trio.CancelScope(shield=True):
                    missing = await self._run_blocking(self.store.begin, chunks)
                    fetch.chunks = chunks
                order = sorted(missing)
                self._rng.shuffle(order)
                fetch.plan = ChunkPlan(order)

    async def _draw_from_all(self, fetch: _Fetch, agents: Sequence[AgentId]) -> None:
        places = trio.Semaphore(AT_ONCE)

        async def draw(agent: AgentId, has_place: bool) -> None:
            async with self._lane(agent) as lane:
                await self._draw_from(fetch, agent, lane)
            if has_place:
                places.release()
            if fetch.plan is not None and fetch.plan.done:
                nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                for agent in agents:
                    with trio.move_on_after(STALL_S) as stalled:
                        await places.acquire()
                    nursery.start_soon(draw, agent, not stalled.cancelled_caught)
        except ExceptionGroup as group:
            raise _first(group) from group

    async def _draw_from(self, fetch: _Fetch, agent: AgentId, lane: trio.Semaphore) -> None:
        """Ask one agent for its list and then for chunks, as long as it is of use."""
        fetch.reasons[agent] = "has nothing that is missing"
        try:
            data, bits = _read_list(await self._ask_list(fetch.cid, agent, lane))
        except NetworkError as error:
            if isinstance(error, FrameError):
                self._lied(fetch, agent, str(error))
            fetch.reasons[agent] = str(error)
            return
        if data is None:
            fetch.reasons[agent] = "does not have it"
            return
        try:
            chunks = await self._run_blocking(open_chunk_list, data, fetch.cid, fetch.size_limit)
            has = read_bitmap(len(chunks), bits)
        except (WrongChunkListError, BitmapError) as error:
            self._lied(fetch, agent, str(error))
            return
        await self._plan(fetch, chunks)
        assert fetch.plan is not None
        fetch.plan.offers(agent, has)
        fetch.change()
        async with trio.open_nursery() as nursery:
            for _ in range(PER_AGENT):
                nursery.start_soon(self._draw_chunks, fetch, fetch.plan, chunks, agent, lane)

    async def _ask_list(self, cid: Cid, agent: AgentId, lane: trio.Semaphore) -> bytes:
        """Ask for a chunk list, again when no answer came: nobody else may have the blob."""
        body = canonical.encode([cid])
        tries = 1
        while True:
            try:
                async with lane:
                    return await self._kademlia.request(agent, LIST, body, LIST_TIMEOUT)
            except (RequestTimeout, PeerUnreachable):
                if tries == LIST_TRIES:
                    raise
            await trio.sleep(RETRY_PAUSE * 2 ** (tries - 1))
            tries += 1

    async def _draw_chunks(
        self, fetch: _Fetch, plan: ChunkPlan, chunks: ChunkList, agent: AgentId, lane: trio.Semaphore
    ) -> None:
        while not plan.done and plan.useful(agent):
            async with lane:
                index = plan.take(agent, self._clock.monotonic())
                pause = 0.0 if index is None else await self._draw(fetch, plan, chunks, agent, index)
            if index is None:
                with trio.move_on_after(HEDGE_S / 2):
                    await fetch.changed.wait()
            elif pause:
                await trio.sleep(pause)

    async def _draw(
        self, fetch: _Fetch, plan: ChunkPlan, chunks: ChunkList, agent: AgentId, index: int
    ) -> float:
        """Ask for one chunk and keep it; returns how long to leave the agent alone, in seconds."""
        try:
            data = await self._kademlia.request(
                agent, GET, canonical.encode([fetch.cid, index]), CHUNK_TIMEOUT
            )
        except NetworkError as error:
            fetch.reasons[agent] = str(error)
            busy = isinstance(error, RequestRefused) and error.code == RefusalCode.OVERLOADED
            failures = plan.busy(agent, index) if busy else plan.failed(agent, index)
            fetch.change()
            return float(RETRY_PAUSE * 2 ** max(0, failures - 1))
        if not data:
            plan.lacks(agent, index)
        elif not plan.is_missing(index):
            plan.got(agent, index)  # another agent was faster
        else:
            if await self._run_blocking(self.store.keep, fetch.cid, index, data):
                self.counters.chunks_fetched += 1
                plan.got(agent, index)
            else:
                plan.drop(agent)
                self._lied(fetch, agent, f"chunk {index} of {len(chunks)} is not the one that the list names")
        fetch.change()
        return 0.0

    def _lied(self, fetch: _Fetch, agent: AgentId, what: str) -> None:
        log.warning("%s is left out of the fetch of %s: %s", short(agent), to_text(fetch.cid), what)
        fetch.reasons[agent] = what
        self.counters.lies += 1
        self._kademlia.report(agent)

    @asynccontextmanager
    async def _lane(self, agent: AgentId) -> AsyncIterator[trio.Semaphore]:
        lane = self._lanes.setdefault(agent, _Lane(trio.Semaphore(PER_AGENT)))
        lane.users += 1
        try:
            yield lane.places
        finally:
            lane.users -= 1
            if not lane.users:
                del self._lanes[agent]

    # -- serving --

    async def _serve_list(self, sender: AgentId, body: bytes) -> bytes:
        (cid,) = _question(body, 1)
        with self._place_for(sender):
            info = self.store.info(cid)
            if info is None:
                return canonical.encode(None)
            if info.complete:
                return await self._run_blocking(self._list_of, cid)
            # What is missing of it may have to be found out by reading it: no more than one thread for that.
            async with self._looking:
                return await self._run_blocking(self._list_of, cid)

    async def _serve_chunk(self, sender: AgentId, body: bytes) -> bytes:
        cid, index = _question(body, 2)
        if type(index) is not int or index < 0:
            raise RequestRefused(RefusalCode.BAD_REQUEST, f"{GET} takes [cid, index]")
        with self._place_for(sender):
            await self._serve_in_pace(sender)
            async with self._reading:
                data = await self._run_blocking(self.store.chunk, cid, index)
        if data is None:
            return b""
        self.counters.chunks_served += 1
        return data

    async def _serve_in_pace(self, sender: AgentId) -> None:
        """Keep a chunk back as long as the bytes served are beyond the pace, to this agent or in all."""
        now = self._clock.monotonic()
        if max(self._to_each.delay(sender, 0, now), self._to_all.delay(None, 0, now)) > SERVE_WAIT_S:
            self.counters.chunks_refused += 1
            raise RequestRefused(RefusalCode.OVERLOADED, "too many bytes a second are asked for")
        wait = max(self._to_each.delay(sender, CHUNK, now), self._to_all.delay(None, CHUNK, now))
        if wait:
            await trio.sleep(wait)

    def _list_of(self, cid: Cid) -> bytes:
        chunks, missing = self.store.chunk_list(cid), self.store.missing(cid)
        if chunks is None or missing is None:
            return canonical.encode(None)
        return canonical.encode([chunks.encode(), bitmap(len(chunks), missing)])

    def _place_for(self, sender: AgentId) -> _Place:
        if not self._gate.enter(sender):
            self.counters.chunks_refused += 1
            raise RequestRefused(RefusalCode.OVERLOADED, f"at most {PER_AGENT} chunks at a time")
        return _Place(self._gate, sender)


@dataclass(frozen=True, slots=True)
class _Place:
    """A place at the gate, given back at the end of the block."""

    gate: Gate
    sender: AgentId

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.gate.leave(self.sender)


def _question(body: bytes, count: int) -> list[Any]:
    """The fields of a question, of which the first is a blob's CID."""
    try:
        fields = canonical.decode(body, _MAX_QUESTION)
    except EncodingError as error:
        raise RequestRefused(RefusalCode.BAD_REQUEST, f"not a question: {error}") from error
    if type(fields) is not list or len(fields) != count or not is_blob_cid(fields[0]):
        raise RequestRefused(RefusalCode.BAD_REQUEST, "a question about a blob begins with its CID")
    return fields


def _read_list(reply: bytes) -> tuple[bytes | None, bytes]:
    """(chunk list, bitmap), neither checked yet; (None, b"") for an unknown blob. Raises `FrameError`."""
    try:
        value = canonical.decode(reply, _MAX_REPLY)
    except EncodingError as error:
        raise FrameError(f"answer to {LIST!r} is malformed: {error}") from error
    if value is None:
        return None, b""
    if type(value) is not list or len(value) != 2 or not all(type(one) is bytes for one in value):
        raise FrameError(f"answer to {LIST!r} is not the array [list, bitmap]")
    return value[0], value[1]


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """The first error in a group: workers of one fetch fail for the same reason."""
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
