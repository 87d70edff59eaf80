"""Links: asks those who walk an author's chain to vouch for records that are held here without it.

The thin driver of `dht.evidence.link_book`, and both sides of `agent.links`. A question names an author and
up to `MAX_ASKED` of its records; a holder of the author's activity answers for each whether it lacks it,
holds it, or has walked the chain up to it, and signs a receipt over the latter. A header that it lacks is
sent to it: so a record that was shown to few is seen by those who see forks, and a chain whose holders were
all lost at once is put together again. Of a fork, or a link that breaks a rule, warrants decide: such a
record is vouched for as well.

What nobody vouches for this node walks itself, a chain at a time, from the nodes near the author's key and
from the author. Only then it is doubted, which `on_doubt` is told. All is memory: after a start everything
that is held is asked about once more, an author a second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import trio

from chain import canonical
from chain.cid import DIGEST_SIZE, Cid, digest, record_cid_of_digest
from chain.errors import ChainError
from chain.identity import AGENT_ID_SIZE, AgentId
from chain.kinds import OPENING
from chain.receipt import Found, Receipt, covers, open_batch
from chain.record import Record
from chain.statement import MAX_STATEMENT
from dht.errors import FrameError, NetworkError, RefusalCode, RequestRefused
from dht.evidence.activity import ActivityWatch
from dht.evidence.heads import Heads
from dht.evidence.link_book import FIRST_S, MAX_ASKED, Heard, Link, LinkBook
from dht.network import Network
from dht.overlay.contact import Contact
from dht.overlay.kademlia import Kademlia
from dht.ports import Clock, RunBlocking
from dht.records.basis import author_basis
from dht.records.bundle import Item
from dht.records.methods import RecordService
from dht.records.placement import Role
from dht.records.receipts import SignFound
from dht.records.record_store import Digest, Held
from validation.chain_walk import linked, walk
from validation.context import Context
from validation.receipts import PREV_RECEIPTS, vouchers

LINKS: Final = "agent.links"
LACKS: Final = 0
HOLDS: Final = 1
WALKED: Final = 2
MAX_QUESTION: Final = MAX_ASKED * DIGEST_SIZE + 64
MAX_REPLY: Final = MAX_ASKED + MAX_STATEMENT + 64
MAX_SENT: Final = 64
"""Headers sent to one holder after one question; the others after the next one."""
MAX_WALKED: Final = 40
"""Pages of up to 512 headers read from one node in a walk: a chain that is longer stays unconfirmed."""
SOURCES: Final = 6
"""Nodes that a chain is read from, besides its author."""
SOURCE_S: Final = 20.0
"""Seconds that one of them has for a walk: who trickles keeps nobody else from being asked about, nor
itself from being doubted."""
WALK_EVERY_S: Final = 30.0
"""No more than one chain is walked in so many seconds, so that nobody's long one keeps this node busy."""
RESCAN_EVERY_S: Final = 1.0
ELSEWHERE: Final = Role.SUBJECT | Role.SHARD | Role.LISTING
"""The roles in which a record is held without its author's chain."""

log = logging.getLogger(f"roseforest.{__name__}")


class LinkStore(Protocol):
    """What is held: `node.storage.held_records`."""

    def headers_in(self, author: AgentId, cids: Sequence[Cid]) -> list[Record]:
        """The signed headers of these records of an author that are here, in any order."""
        ...

    def of_author(self, author: AgentId, from_seq: int = 0, limit: int = ...) -> list[Record]:
        """Up to `limit` signed headers from `from_seq` on, forks included, by (seq, CID)."""
        ...

    def chain_of(self, author: AgentId, from_seq: int, limit: int) -> list[Record]:
        """As `of_author`, the opening whole."""
        ...

    def in_role(self, cids: Sequence[Cid], role: int) -> set[Cid]:
        """Those of `cids` that are held in any of these roles."""
        ...

    def authors(self) -> list[AgentId]:
        """All of whom something is here, ascending."""
        ...

    def digest_of(self, basis: bytes) -> Digest:
        """What lies at a basis in short."""
        ...


class Links:
    """One node's links. `heard` tells it what is held, `run` drives it."""

    def __init__(
        self,
        network: Network,
        kademlia: Kademlia,
        heads: Heads,
        records: RecordService,
        store: LinkStore,
        activity: ActivityWatch,
        context: Callable[[], Context],
        network_id: Cid,
        replication: int,
        sign: SignFound,
        on_doubt: Callable[[Mapping[AgentId, int]], None],
        clock: Clock,
        run_blocking: RunBlocking,
    ) -> None:
        """`on_doubt` is told from which seq on nothing of whom counts here, whenever that changes."""
        self._kademlia = kademlia
        self._heads = heads
        self._records = records
        self._store = store
        self._activity = activity
        self._context = context
        self._network_id = network_id
        self._replication = replication
        self._sign = sign
        self._on_doubt = on_doubt
        self._clock = clock
        self._run_blocking = run_blocking
        self._wake = trio.Event()
        self._doubts: dict[AgentId, int] = {}
        self._may_walk_at = 0.0
        self.book = LinkBook()
        self.hidden: frozenset[Cid] = frozenset()
        """The records that are doubted now."""
        network.register(LINKS, kademlia.members_only(self._serve, heavy=True))

    def heard(self, items: Sequence[Held]) -> None:
        """These records are held here now."""
        new: dict[AgentId, list[tuple[Cid, int]]] = {}
        for item in items:
            header = item.record.header
            roles = 0
            for role, _ in item.bases:
                roles |= role
            if roles & ELSEWHERE and header.author != self._kademlia.agent:
                new.setdefault(header.author, []).append((item.record.cid, header.seq))
        for author, records in new.items():
            self.book.noted(author, records, self._clock.monotonic())
        if new:
            self._wake.set()

    def dropped(self, cids: Sequence[Cid]) -> None:
        """These are not held here in any role any more; O(authors of whom something is open)."""
        self.book.gone(cids)
        self._tell()

    async def run(self) -> None:
        """Ask for ever, about one author after the other."""
        at = self._clock.monotonic() + FIRST_S
        for author in await self._run_blocking(self._store.authors):
            if author != self._kademlia.agent:
                self.book.rescan(author, at)
                at += RESCAN_EVERY_S
        while True:
            self._wake = trio.Event()
            now = self._clock.monotonic()
            for author in self.book.due(now):
                await self._read(author)
                await self._ask_about(author)
            pause = max(FIRST_S / 5, self.book.next_at() - self._clock.monotonic())
            with trio.move_on_after(pause):
                await self._wake.wait()
                await trio.sleep(FIRST_S / 5)

    # -- asking --

    async def _read(self, author: AgentId) -> None:
        """Take up what is held of an author and was not asked about yet."""
        seq = self.book.to_read(author)
        if seq is None:
            return
        page = await self._run_blocking(self._store.of_author, author, seq, MAX_ASKED)
        last = page[-1].header.seq if len(page) == MAX_ASKED else None
        next_seq = None if last is None else last if last > seq else last + 1
        here = await self._run_blocking(self._store.in_role, [one.cid for one in page], int(ELSEWHERE))
        found = [(one.cid, one.header.seq) for one in page if one.cid in here]
        self.book.read(author, found, next_seq, self._clock.monotonic())

    async def _ask_about(self, author: AgentId) -> None:
        links = self.book.questions(author, self._clock.monotonic())
        if not links:
            return
        walked = {one.cid for one in links if self._is_walked(author, one)}
        left = [one for one in links if one.cid not in walked]
        heard = Heard(1, 0, {}, walked)
        if left:
            heard = await self._question(author, left, walked)
        to_walk = self.book.answered(author, links, heard, self._clock.monotonic())
        if to_walk:
            await self._walk(author, to_walk)
        self._tell()

    def _is_walked(self, author: AgentId, link: Link) -> bool:
        """Whether this node is a holder of the author's activity itself, and has walked that far."""
        settled = self._activity.settled_to(author)
        return settled is not None and link.seq <= settled

    async def _question(self, author: AgentId, links: Sequence[Link], walked: set[Cid]) -> Heard:
        """Ask those responsible for the author's activity; two at first, then all of them."""
        headers = await self._run_blocking(self._store.headers_in, author, [one.cid for one in links])
        asked = {one.cid: one for one in headers}
        gone = [one.cid for one in links if one.cid not in asked]
        if gone:
            self.book.gone(gone)
        near = await self._near(author, self._replication)
        if near is None or not asked:
            return Heard(PREV_RECEIPTS, 0, {}, walked)
        if not near:  # nobody else is there to vouch: its author shows the chain, or has to be back first
            return Heard(1, 1, {}, walked)
        needed = min(PREV_RECEIPTS, len(near))
        receipts: dict[Cid, list[Receipt]] = {cid: [] for cid in asked}
        answered = 0
        again = any(one.tries for one in links)
        for place, contact in enumerate(near):
            if place >= needed and not again and answered >= needed:
                break
            try:
                states, found = await self._ask(contact.agent, author, list(asked.values()))
            except NetworkError as error:
                log.debug("%s does not vouch: %s", contact.agent.hex()[:8], error)
                continue
            answered += 1
            for receipt in found:
                receipts[receipt.found.cid].append(receipt)
            await self._send(contact.agent, [one for one in asked.values() if states[one.cid] == LACKS])
        agents = {contact.agent for contact in near}
        vouched = {
            cid: len(vouchers(some, self._network_id, cid, author=author, near=agents))
            for cid, some in receipts.items()
        }
        return Heard(needed, answered, vouched, walked)

    async def _near(self, author: AgentId, count: int) -> list[Contact] | None:
        """The others responsible for an author's activity, the author left out; None: they are not found."""
        try:
            found = await self._kademlia.holders(author_basis(author), count + 1)
        except NetworkError as error:
            log.debug("no holders of the activity of %s: %s", author.hex()[:8], error)
            return None
        near = [contact for contact in found if contact.agent != author][:count]
        return [contact for contact in near if contact.agent != self._kademlia.agent]

    async def _ask(
        self, holder: AgentId, author: AgentId, headers: Sequence[Record]
    ) -> tuple[dict[Cid, int], list[Receipt]]:
        """One holder's answer. Raises `NetworkError`; a liar is reported."""
        body = canonical.encode([author, b"".join(digest(one.cid) for one in headers)])
        reply = await self._kademlia.request(holder, LINKS, body)
        try:
            return await self._run_blocking(read_links, reply, headers, holder, self._network_id)
        except (ChainError, FrameError) as error:
            self._kademlia.report(holder)
            raise FrameError(f"{LINKS} reply does not verify: {error}") from error

    async def _send(self, holder: AgentId, headers: Sequence[Record]) -> None:
        """Show a holder of the author's activity what it lacks of it."""
        if not headers:
            return
        opening = {
            one.cid: one
            for one in await self._run_blocking(
                self._store.chain_of, headers[0].header.author, 0, len(OPENING)
            )
        }
        items = [Item(opening.get(one.cid, one), int(Role.AUTHOR)) for one in headers[:MAX_SENT]]
        try:
            await self._records.store(holder, items)
        except NetworkError as error:
            log.debug("%s does not take what it lacks: %s", holder.hex()[:8], error)

    async def _walk(self, author: AgentId, links: Sequence[Link]) -> None:
        """Look for a whole chain that leads to these records, whoever shows it; else they are doubted.

        Left open when nobody shows anything, or more than is read of one node.
        """
        now = self._clock.monotonic()
        if now < self._may_walk_at:
            return
        self._may_walk_at = now + WALK_EVERY_S
        near = await self._near(author, SOURCES)
        wanted, found = {one.cid for one in links}, set[Cid]()
        conclusive = False
        for source in (author, *(contact.agent for contact in near or ())):
            shown: tuple[set[Cid], bool] | None = None
            try:
                with trio.move_on_after(SOURCE_S):
                    shown = await self._walk_from(source, author)
            except NetworkError as error:
                log.debug("%s shows no chain: %s", source.hex()[:8], error)
            if shown is None:
                continue
            there, whole = shown
            found |= there & wanted
            conclusive = whole
            if found == wanted or not whole:
                break
        decided = [one for one in links if conclusive or one.cid in found]
        self.book.walked(author, decided, found, self._clock.monotonic())

    async def _walk_from(self, source: AgentId, author: AgentId) -> tuple[set[Cid], bool]:
        """What hangs together from genesis on of the chain that a node shows, and whether that is all of it.

        Raises `NetworkError`.
        """
        tips: tuple[Record, ...] = ()
        found: set[Cid] = set()
        for _ in range(MAX_WALKED):
            seq = tips[0].header.seq + 1 if tips else 0
            page = await self._heads.headers(source, author, seq)
            walked = await self._run_blocking(walk, tips, page, self._context())
            found.update(one.cid for one in linked([tip.cid for tip in tips], page, walked))
            if not walked.verified or walked.broken or walked.gap is not None:
                return found, not walked.waits
            tips = walked.tips
        return found, False

    def _tell(self) -> None:
        doubts = self.book.doubts()
        self.hidden = self.book.doubted_now() if doubts else frozenset()
        if doubts == self._doubts:
            return
        for author in sorted(doubts.keys() - self._doubts.keys()):
            log.warning(
                "nobody shows the chain of %s up to seq %d: nothing from there on is shown until it is found",
                author.hex()[:8],
                doubts[author],
            )
        self._doubts = doubts
        self._on_doubt(doubts)

    # -- answering --

    async def _serve(self, _sender: AgentId, body: bytes) -> bytes:
        author, cids = _question(body)
        settled = self._activity.settled_to(author)
        reply = await self._run_blocking(self._answer, author, cids, -1 if settled is None else settled)
        if settled is None and self._store.digest_of(author_basis(author))[0]:
            self._activity.look_at(author)  # since the start nothing of it came
        return reply

    def _answer(self, author: AgentId, cids: Sequence[Cid], settled: float) -> bytes:
        here = {one.cid: one.header for one in self._store.headers_in(author, cids)}
        states = bytearray(len(cids))
        found: list[Found] = []
        for place, cid in enumerate(cids):
            header = here.get(cid)
            if header is not None:
                states[place] = WALKED if header.seq <= settled else HOLDS
            if header is not None and header.seq <= settled:
                found.append(_finding(cid, header.epoch, author))
        return canonical.encode([bytes(states), self._sign(found) if found else None])


def read_links(
    reply: bytes, headers: Sequence[Record], holder: AgentId, network: Cid
) -> tuple[dict[Cid, int], list[Receipt]]:
    """A holder's word on each of `headers`, and its receipts for those whose chain it has walked.

    Raises `FrameError` or `ChainError`. The receipts hold together with the batch that was signed alone.
    """
    value = canonical.decode(reply, MAX_REPLY)
    if (
        type(value) is not list
        or len(value) != 2
        or type(value[0]) is not bytes
        or len(value[0]) != len(headers)
        or not set(value[0]) <= {LACKS, HOLDS, WALKED}
    ):
        raise FrameError(f"{LINKS} reply is not the array [states, statement]")
    states = {one.cid: state for one, state in zip(headers, value[0], strict=True)}
    found = [
        _finding(one.cid, one.header.epoch, one.header.author) for one in headers if states[one.cid] == WALKED
    ]
    if not found:
        return states, []
    if type(value[1]) is not bytes:
        raise FrameError(f"{LINKS} reply is not signed")
    batch = open_batch(value[1])
    if batch.holder != holder or batch.network != network or not covers(batch, [one.leaf() for one in found]):
        raise FrameError(f"{LINKS} reply is signed by another, or over something else")
    return states, [Receipt(holder, network, batch.issued_us, one, batch.data) for one in found]


def _finding(cid: Cid, epoch: Cid, author: AgentId) -> Found:
    """What is signed about a record as a link of its author's chain."""
    return Found(cid, epoch, (author_basis(author),), whole=False)


def _question(body: bytes) -> tuple[AgentId, list[Cid]]:
    try:
        value = canonical.decode(body, MAX_QUESTION)
    except ChainError as error:
        raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
    if (
        type(value) is not list
        or len(value) != 2
        or type(value[0]) is not bytes
        or len(value[0]) != AGENT_ID_SIZE
        or type(value[1]) is not bytes
        or not 0 < len(value[1]) <= MAX_ASKED * DIGEST_SIZE
        or len(value[1]) % DIGEST_SIZE
    ):
        raise RequestRefused(
            RefusalCode.BAD_REQUEST, f"{LINKS} takes [author, digests of up to {MAX_ASKED} records]"
        )
    found = [value[1][at : at + DIGEST_SIZE] for at in range(0, len(value[1]), DIGEST_SIZE)]
    return value[0], [record_cid_of_digest(one) for one in found]
