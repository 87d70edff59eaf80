"""The record methods: how peers store, fetch and compare records, all of it bounded and checked.

`record.store` takes a bundle and answers with one status a record, and receipts for those who take them;
`record.fetch` serves records by CID, `record.at` all records at a basis, `record.about` those of a subject in
the order of reading; by `record.digests`, `record.cids` and `record.lacks` two holders find out what the
other lacks. Only members are answered (an address record that pays the network's price).
Whatever comes in, as a request or as a reply, goes through `Intake` before it is kept or believed.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from chain import canonical
from chain.cid import DIGEST_SIZE, Cid, digest, is_record_cid, record_cid_of_digest
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import PURGEABLE
from chain.record import Record
from crdt.operations import Purge
from dht.errors import FrameError, RefusalCode, RequestRefused
from dht.network import MAX_BODY, Network
from dht.overlay.kademlia import Kademlia
from dht.overlay.reputation import Misdeed
from dht.ports import RunBlocking
from dht.records.bundle import MAX_ITEMS, Bundle, BundleError, Item, bundle_value, open_bundle
from dht.records.intake import Intake, Judged, PurgesOf
from dht.records.receipts import SignFound, findings_of
from dht.records.record_store import Digest, Held, HeldStore
from dht.records.replies import WANTS_RECEIPT, StoreStatus, read_statuses, write_receipted, write_statuses
from dht.records.room import Room
from validation.named import named_by, operation_of

MAX_FETCH = 128
MAX_AT = 256
MAX_SKIP = 1 << 20
"""Operations on a subject that are skipped at most: paging costs their number."""
MAX_DIGESTS = 256
MAX_CIDS = 4096
MAX_LACKS = 200
"""(basis, record) pairs in one question of `record.lacks`."""
HAS, LACKS, HAS_ERASED = 0, 1, 2
STATES = frozenset({HAS, LACKS, HAS_ERASED})
MAX_QUESTION = 16 * 1024
"""Bytes of a question: the longest names `MAX_DIGESTS` bases. It is decoded on the event loop."""
MAX_DIGESTS_REPLY = MAX_DIGESTS * 64
MAX_CIDS_REPLY = MAX_CIDS * DIGEST_SIZE + 8
REPLY_BYTES = 800_000
"""A reply stops before it exceeds this; the asker asks again for the rest."""
FRAME_BYTES = 100_000
"""Target size of one store request: large enough to amortise it, small enough to share the stream."""
STORE_TIMEOUT_S = 10.0
"""Longest wait, more than for a question: a busy holder judges and fsyncs a whole frame, maybe behind those
of others. What stores at this holder, or at others, took so far decides (`dht.overlay.liveness`)."""
ITEM_BYTES = 200
"""Bytes that an item or header takes beside its header and payload, rounded up."""
READ_AT_ONCE = 16
"""Records read from disk at a time for a reply: most often fewer fit than were asked for."""
HOLD_AT_ONCE = 1_000
"""Records written in one transaction: what becomes ready together may name thousands of others."""
BASIS_SIZE = 32
MAX_BLAME = 2
"""Bad records in one message count at most so often: a peer with an older release is not an attacker."""

log = logging.getLogger(f"roseforest.{__name__}")

OnHeld = Callable[[Sequence[Held]], Awaitable[None]]
OnWaiting = Callable[[Bundle, Sequence[Judged], AgentId], Awaitable[None]]
WAITS = frozenset({StoreStatus.PENDING, StoreStatus.PARKED})
"""What is not decided yet."""


class Blocks(Protocol):
    """What this node's owner does not want here."""

    def hides(self, record: Record) -> bool:
        """Whether the record is not to be held."""
        ...

    def note_refused(self, bases: Iterable[bytes]) -> None:
        """Such a record, which belongs to these bases, was refused."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """Part of what lies at a basis; `more` when there is another page."""

    bundle: Bundle
    more: bool


class RecordService:
    """Serves the record methods from `store`, and asks other nodes by them.

    `on_held` is told what became durable through this service, after the fact.
    """

    def __init__(
        self,
        network: Network,
        kademlia: Kademlia,
        store: HeldStore,
        own: Callable[[Sequence[Cid]], list[Record | None]],
        own_opening: Callable[[], tuple[Record, Record] | None],
        intake: Intake,
        run_blocking: RunBlocking,
        on_held: OnHeld,
        accepts: Callable[[], bool],
        room: Room,
        blocks: Blocks,
        sign: SignFound,
        purges_of: PurgesOf,
    ) -> None:
        """`sign` signs receipts with this node's key."""
        self._purges_of = purges_of
        self._kademlia = kademlia
        self._store = store
        self._room = room
        self._blocks = blocks
        self._own = own
        self._own_opening = own_opening
        self._intake = intake
        self._run_blocking = run_blocking
        self._on_held = on_held
        self._accepts = accepts
        self._sign = sign
        self.hidden: Callable[[], Collection[Cid]] = frozenset
        """Records that are held and passed on, but not shown to who reads an entry: this node doubts them."""
        self.on_waiting: OnWaiting = _let_go
        """Told of bundles some records of which are pending or parked, and who sent them."""
        self.on_stale: Callable[[AgentId], None] = lambda agent: None
        """Told of a peer that may know of other shards than we do."""
        for method, handler, heavy in (
            ("record.store", self._serve_store, True),
            ("record.fetch", self._serve_fetch, True),
            ("record.at", self._serve_at, True),
            ("record.about", self._serve_about, True),
            ("record.digests", self._serve_digests, True),
            ("record.cids", self._serve_cids, True),
            ("record.lacks", self._serve_lacks, True),
        ):
            network.register(method, kademlia.members_only(handler, heavy=heavy))

    async def hold(self, items: Sequence[Held]) -> None:
        """Make valid records durable here and tell `on_held`, both or neither.

        Not cancelled in between: a sender that hangs up must not leave records here which no query finds.
        Many are written in parts, in order: what others name comes first.
        """
        for start in range(0, len(items), HOLD_AT_ONCE):
            part = items[start : start + HOLD_AT_ONCE]
            await trio.lowlevel.checkpoint_if_cancelled()
            with trio.CancelScope(shield=True):
                await self._store.hold(part)
                await self._on_held(part)

    async def admit(
        self, bundle: Bundle, also: Sequence[tuple[int, bytes]] = (), sender: AgentId | None = None
    ) -> list[Judged]:
        """Judge a bundle off the event loop and hold what is valid.

        `also`: (role, basis) pairs under which its items are held besides their own, for reasons of this
        node. `sender`: what is pending or parked waits here, and was brought by this agent.
        """
        judged, held = await self._run_blocking(self._judge, bundle, tuple(also))
        if held:
            await self.hold(held)
        if sender is not None and any(one.status in WAITS for one in judged):
            await self.on_waiting(bundle, judged, sender)
        return judged

    # Asking.

    async def store(self, agent: AgentId, items: Sequence[Item]) -> tuple[list[StoreStatus], int]:
        """Have one node store the first of `items`, as many as fit a frame of `FRAME_BYTES`.

        Returns a status for each that was sent (at least one) and the bytes it took; raises `NetworkError`.
        """
        body, sent = await self._run_blocking(self._frame, items)
        reply = await self._kademlia.request(agent, "record.store", body, most=STORE_TIMEOUT_S)
        statuses = [status for status, _ in read_statuses(reply, sent)]
        self.note_statuses(agent, statuses)
        return statuses, len(body)

    def note_statuses(self, agent: AgentId, statuses: Iterable[StoreStatus]) -> None:
        """What a holder said of what it was sent: one that waits may know of other shards than we do."""
        if StoreStatus.PENDING in statuses:
            self.on_stale(agent)

    def _frame(self, items: Sequence[Item]) -> tuple[bytes, int]:
        value, sent = self.pack(items, FRAME_BYTES, True, lean=True)
        return canonical.encode(value), sent

    async def fetch(self, agent: AgentId, cids: Sequence[Cid]) -> Bundle:
        """Ask one node for up to `MAX_FETCH` records; it may send fewer. Raises `NetworkError`."""
        body = canonical.encode([digest(cid) for cid in cids[:MAX_FETCH]])
        reply = await self._kademlia.request(agent, "record.fetch", body)
        return await self._run_blocking(_open, reply)

    async def at(self, agent: AgentId, basis: bytes, after: Cid | None, limit: int = MAX_AT) -> Page:
        """Ask one node for a page of the records at a basis. Raises `NetworkError`."""
        body = canonical.encode([basis, after, limit])
        reply = await self._kademlia.request(agent, "record.at", body)
        return await self._run_blocking(_open_page, reply)

    async def about(self, agent: AgentId, subject: Cid, skip: int) -> tuple[Bundle, int | None]:
        """Ask one node for what it holds of a subject: the create, then operations in the order of reading.

        Returns a page and what to skip for the next one, None after the last. Raises `NetworkError`.
        """
        reply = await self._kademlia.request(agent, "record.about", canonical.encode([digest(subject), skip]))
        value = await self._run_blocking(_decode, reply, MAX_BODY)
        if type(value) is not list or len(value) != 2 or not (value[0] is None or type(value[0]) is int):
            raise FrameError("record.about reply is not the array [next, bundle]")
        if value[0] is not None and value[0] <= skip:
            raise FrameError("record.about reply does not go on")
        return await self._run_blocking(_opened, value[1]), value[0]

    async def digests(self, agent: AgentId, bases: Sequence[bytes]) -> list[Digest]:
        """Ask one node how much it holds at each of up to `MAX_DIGESTS` bases. Raises `NetworkError`."""
        body = canonical.encode(list(bases))
        value = _decode(await self._kademlia.request(agent, "record.digests", body), MAX_DIGESTS_REPLY)
        if type(value) is not list or len(value) != len(bases):
            raise FrameError(f"record.digests reply does not hold {len(bases)} digests")
        digests: list[Digest] = []
        for pair in value:
            if (
                type(pair) is not list
                or len(pair) != 2
                or type(pair[0]) is not int
                or type(pair[1]) is not bytes
            ):
                raise FrameError("a digest is the array [count, sum]")
            digests.append((pair[0], pair[1]))
        return digests

    async def cids(self, agent: AgentId, basis: bytes, after: Cid | None) -> list[Cid]:
        """Ask one node for the next CIDs at a basis, at most `MAX_CIDS`, ascending. Raises `NetworkError`."""
        body = canonical.encode([basis, after, MAX_CIDS])
        value = _decode(await self._kademlia.request(agent, "record.cids", body), MAX_CIDS_REPLY)
        if type(value) is not bytes or len(value) % DIGEST_SIZE or len(value) > MAX_CIDS * DIGEST_SIZE:
            raise FrameError("record.cids reply is not a string of digests")
        found = [value[i : i + DIGEST_SIZE] for i in range(0, len(value), DIGEST_SIZE)]
        floor = b"" if after is None else digest(after)
        if any(a >= b for a, b in zip([floor, *found], found, strict=False)):
            raise FrameError("record.cids reply is not ascending")
        return [record_cid_of_digest(one) for one in found]

    async def lacks(self, agent: AgentId, pairs: Sequence[tuple[bytes, Cid]]) -> list[bool]:
        """Ask one node for each (basis, CID), at most `MAX_LACKS`, whether it lacks that record there.

        Raises `NetworkError`.
        """
        return [state == LACKS for state in await self.states(agent, pairs)]

    async def states(self, agent: AgentId, pairs: Sequence[tuple[bytes, Cid]]) -> bytes:
        """Ask as `lacks`: for each pair `HAS`, `LACKS`, or `HAS_ERASED` where its author has purged it."""
        body = canonical.encode([[basis, digest(cid)] for basis, cid in pairs[:MAX_LACKS]])
        value = _decode(await self._kademlia.request(agent, "record.lacks", body), MAX_LACKS + 8)
        if type(value) is not bytes or len(value) != len(pairs[:MAX_LACKS]) or set(value) - STATES:
            raise FrameError("record.lacks reply is not a string of as many states")
        return value

    # Answering.

    async def _serve_store(self, sender: AgentId, body: bytes) -> bytes:
        try:
            bundle = await self._run_blocking(_open, body)
        except FrameError as error:
            raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
        if not self._accepts() and not await self._run_blocking(self._only_erases, bundle):
            raise RequestRefused(RefusalCode.FORBIDDEN, "this node stores nothing for others")
        judged = await self.admit(bundle, sender=sender)
        if self._intake.tree_missing:
            self._intake.tree_missing = False
            self.on_stale(sender)
        refused = [one for one in judged if one.rule]
        if refused:
            self._kademlia.report(sender, Misdeed.INVALID_RECORD, min(len(refused), MAX_BLAME))
            log.warning(
                "%d of %d records from %s refused: %s",
                len(refused),
                len(judged),
                sender.hex()[:8],
                refused[0].rule,
            )
        statuses = [(one.status, one.rule) for one in judged]
        if not any(isinstance(item, Item) and item.roles & WANTS_RECEIPT for item in bundle.items):
            return write_statuses(statuses)
        return await self._run_blocking(self._receipted, bundle, judged)

    def _receipted(self, bundle: Bundle, judged: Sequence[Judged]) -> bytes:
        outcomes = [(one.status, one.rule, () if one.held is None else one.held.bases) for one in judged]
        found = findings_of(bundle, outcomes)
        statement = self._sign(found) if found else None
        return write_receipted([(one.status, one.rule) for one in judged], statement)

    def _only_erases(self, bundle: Bundle) -> bool:
        """Whether a bundle brings purges alone, of payloads that are here: who stores nothing takes those.

        Whoever has edited an entry keeps what it edited.
        """
        for item in bundle.items:
            said = operation_of(item.record) if isinstance(item, Item) else None
            found = self._store.get_many(said.records) if isinstance(said, Purge) else []
            if not any(one is not None and one.payload is not None for one in found):
                return False
        return bool(bundle.items)

    async def _serve_fetch(self, _sender: AgentId, body: bytes) -> bytes:
        digests = _request(body)
        if len(digests) > MAX_FETCH or not all(
            type(one) is bytes and len(one) == DIGEST_SIZE for one in digests
        ):
            raise RequestRefused(RefusalCode.BAD_REQUEST, f"record.fetch takes up to {MAX_FETCH} digests")
        cids = [record_cid_of_digest(one) for one in digests]
        return await self._run_blocking(self._fetched, cids)

    def _fetched(self, cids: Sequence[Cid]) -> bytes:
        return canonical.encode(self.bundle(self._each(cids))[0])

    async def _serve_at(self, _sender: AgentId, body: bytes) -> bytes:
        basis, after, limit = self._range(body, "record.at", MAX_AT)
        return await self._run_blocking(self._page, basis, after, limit)

    async def _serve_about(self, _sender: AgentId, body: bytes) -> bytes:
        fields = _request(body)
        if (
            len(fields) != 2
            or type(fields[0]) is not bytes
            or len(fields[0]) != DIGEST_SIZE
            or type(fields[1]) is not int
            or not 0 <= fields[1] <= MAX_SKIP
        ):
            raise RequestRefused(
                RefusalCode.BAD_REQUEST, f"record.about takes [subject, skip], skip ≤ {MAX_SKIP}"
            )
        return await self._run_blocking(self._about, record_cid_of_digest(fields[0]), fields[1])

    def _about(self, subject: Cid, skip: int) -> bytes:
        hidden = self.hidden()
        first = [] if skip or subject in hidden else list(self._each([subject]))
        operations = self._store.operations(subject, skip, MAX_AT)
        shown = [cid for cid in operations if cid not in hidden] if hidden else operations
        value, sent = self.bundle(itertools.chain(first, self._each(shown)))
        done = sent - len(first)
        done = len(operations) if done == len(shown) else operations.index(shown[done])
        more = done < len(operations) or len(operations) == MAX_AT
        return canonical.encode([skip + done if more else None, value])

    def _page(self, basis: bytes, after: Cid | None, limit: int) -> bytes:
        cids = self._store.cids_at(basis, after, limit)
        value, sent = self.bundle(self._each(cids))
        return canonical.encode([sent < len(cids) or len(cids) == limit, value])

    def _each(self, cids: Sequence[Cid]) -> Iterator[Record]:
        """The records that are here, own ones first, read a few at a time as they are taken."""
        for start in range(0, len(cids), READ_AT_ONCE):
            part = cids[start : start + READ_AT_ONCE]
            for own, held in zip(self._own(part), self._store.get_many(part), strict=True):
                found = held if own is None else own
                if found is not None:
                    yield found

    async def _serve_digests(self, _sender: AgentId, body: bytes) -> bytes:
        bases = _request(body)
        if len(bases) > MAX_DIGESTS or not all(
            type(one) is bytes and len(one) == BASIS_SIZE for one in bases
        ):
            raise RequestRefused(RefusalCode.BAD_REQUEST, f"record.digests takes up to {MAX_DIGESTS} bases")
        return await self._run_blocking(self._digests_of, bases)

    def _digests_of(self, bases: Sequence[bytes]) -> bytes:
        return canonical.encode([list(self._store.digest_of(basis)) for basis in bases])

    async def _serve_lacks(self, _sender: AgentId, body: bytes) -> bytes:
        pairs = _request(body)
        if len(pairs) > MAX_LACKS or not all(_is_place(pair) for pair in pairs):
            raise RequestRefused(
                RefusalCode.BAD_REQUEST, f"record.lacks takes up to {MAX_LACKS} pairs [basis, digest]"
            )
        asked = [(basis, record_cid_of_digest(one)) for basis, one in pairs]
        return canonical.encode(await self._run_blocking(self._states, asked))

    def _states(self, asked: Sequence[tuple[bytes, Cid]]) -> bytes:
        purged = self._purges_of([cid for _, cid in asked])
        return bytes(
            LACKS if lacks else HAS_ERASED if cid in purged else HAS
            for (_, cid), lacks in zip(asked, self._store.lacking(asked), strict=True)
        )

    async def _serve_cids(self, _sender: AgentId, body: bytes) -> bytes:
        basis, after, limit = self._range(body, "record.cids", MAX_CIDS)
        return await self._run_blocking(self._cids_of, basis, after, limit)

    def _cids_of(self, basis: bytes, after: Cid | None, limit: int) -> bytes:
        return canonical.encode(b"".join(map(digest, self._store.cids_at(basis, after, limit))))

    def bundle(self, records: Iterable[Record], *, named: bool = True) -> tuple[list[Any], int]:
        """The bundle array of as many records as fit `REPLY_BYTES` (at least one), and their number.

        `named`: bring the headers that the records name, too. Blocking. One record with all that it may name
        fits a body of `MAX_BODY`, so a reply always can be sent.
        """
        return self.pack((Item(record, 0) for record in records), REPLY_BYTES, named)

    def pack(
        self, wanted_items: Iterable[Item], most: int, named: bool, *, lean: bool = False
    ) -> tuple[list[Any], int]:
        """The bundle array of as many items as fit `most` bytes (at least one), and their number. Blocking.

        All that this node serves, and the copies that it makes for repair, pass here. `named` as in `bundle`;
        `lean`: of what an item names leave out the items before it; who judges them all finds it there.
        """
        items: list[Item] = []
        there: set[Cid] = set()
        openings: dict[AgentId, tuple[Record, Record]] = {}
        headers: dict[Cid, Record] = {}
        size = 0
        for item in wanted_items:
            record = item.record
            author = record.header.author
            opening = None if author in openings else self._opening(author)
            is_bare = record.payload is None and record.header.kind in PURGEABLE
            purges = self._purges_of([record.cid]) if is_bare else {}
            names = {cid for one in (record, *purges.values()) for cid in named_by(one)} if named else set()
            wanted = [cid for cid in sorted(names - headers.keys()) if not (lean and cid in there)]
            brought = {
                found.cid: found.without_payload()
                for found in (*self._own(wanted), *self._store.get_many(wanted))
                if found is not None
            } | {purge.cid: purge for purge in purges.values()}
            cost = sum(map(size_of, (record, *(opening or ()), *brought.values())))
            if items and (size + cost > most or len(items) == MAX_ITEMS):
                break
            size += cost
            items.append(item)
            there.add(record.cid)
            headers.update(brought)
            if opening is not None:
                openings[author] = opening
        return bundle_value(openings.values(), headers.values(), items), len(items)

    def _judge(self, bundle: Bundle, also: tuple[tuple[int, bytes], ...]) -> tuple[list[Judged], list[Held]]:
        """The verdicts, and what is to be held for them, companions first."""
        judged = self._intake.judge(bundle)
        for place, one in enumerate(judged):
            if one.held is not None and self._blocks.hides(one.held.record):
                self._blocks.note_refused(basis for _, basis in one.held.bases)
                judged[place] = Judged(StoreStatus.BLOCKED)
            elif one.held is not None and not (one.held.bases or also or self._concerns(one.held.record)):
                judged[place] = Judged(StoreStatus.BLOCKED)  # nothing would ever drop what lies nowhere
        valid = [(place, one.held) for place, one in enumerate(judged) if one.held is not None]
        refusals = self._room.refusals([held for _, held in valid]) if valid else []
        kept = []
        for (place, held), refusal in zip(valid, refusals, strict=True):
            if refusal is None:
                kept.append(Held(held.record, (*held.bases, *also)))
            else:
                judged[place] = Judged(refusal)
        return judged, [*self._intake.companions(bundle, judged), *kept] if kept else []

    def _concerns(self, record: Record) -> bool:
        """Whether this is a purge of something that is here."""
        said = operation_of(record)
        return isinstance(said, Purge) and any(one is not None for one in self._store.get_many(said.records))

    def _opening(self, author: AgentId) -> tuple[Record, Record] | None:
        return self._own_opening() if author == self._kademlia.agent else self._store.opening(author)

    @staticmethod
    def _range(body: bytes, method: str, most: int) -> tuple[bytes, Cid | None, int]:
        fields = _request(body)
        if (
            len(fields) != 3
            or type(fields[0]) is not bytes
            or len(fields[0]) != BASIS_SIZE
            or not (fields[1] is None or is_record_cid(fields[1]))
            or type(fields[2]) is not int
            or fields[2] < 1
        ):
            raise RequestRefused(RefusalCode.BAD_REQUEST, f"{method} takes [basis, after, limit]")
        return fields[0], fields[1], min(fields[2], most)


async def _let_go(_bundle: Bundle, _judged: Sequence[Judged], _sender: AgentId) -> None:
    """Where nobody lets records wait, they are sent again."""


def size_of(record: Record) -> int:
    return len(record.header_bytes) + len(record.payload or b"") + ITEM_BYTES


def _is_place(pair: object) -> bool:
    return (
        type(pair) is list
        and len(pair) == 2
        and all(type(part) is bytes and len(part) == DIGEST_SIZE for part in pair)
    )


def _request(body: bytes) -> list[Any]:
    try:
        value = canonical.decode(body, MAX_QUESTION)
    except ChainError as error:
        raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
    if type(value) is not list:
        raise RequestRefused(RefusalCode.BAD_REQUEST, "a request body is an array")
    return value


def _decode(message: bytes, limit: int) -> Any:
    try:
        return canonical.decode(message, limit)
    except ChainError as error:
        raise FrameError(f"message is malformed: {error}") from error


def _opened(value: Any) -> Bundle:
    try:
        return open_bundle(value)
    except BundleError as error:
        raise FrameError(str(error)) from error


def _open(message: bytes) -> Bundle:
    """Read a bundle; blocking, as it may hold thousands of records and headers."""
    return _opened(_decode(message, MAX_BODY))


def _open_page(reply: bytes) -> Page:
    value = _decode(reply, MAX_BODY)
    if type(value) is not list or len(value) != 2 or type(value[0]) is not bool:
        raise FrameError("record.at reply is not the array [more, bundle]")
    return Page(_opened(value[1]), value[0])
