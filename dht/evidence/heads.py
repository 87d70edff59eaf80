"""Where an author's chain ends, and what is in it: asked of the holders of its activity.

`agent.head` answers with the last headers that a holder has of an author, and keeps the author's own lease
(`dht.evidence.claims`); `agent.headers` with the chain itself, headers only but for the opening, a page at a
time. All that is shown is signed by the author, and is checked here before anybody above sees it. `Heads` is
both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Final, Protocol

from chain import canonical
from chain.cid import Cid
from chain.errors import ChainError
from chain.identity import AGENT_ID_SIZE, AgentId
from chain.record import MAX_HEADER, MAX_INT, Record, decode_record, verify_signature
from dht.errors import FrameError, RefusalCode, RequestRefused
from dht.evidence.claims import SESSION_SIZE, Claims
from dht.evidence.head_check import Answer
from dht.network import MAX_BODY, Network
from dht.overlay.kademlia import Kademlia
from dht.ports import Clock, RunBlocking
from dht.records.methods import ITEM_BYTES, REPLY_BYTES

HEAD: Final = "agent.head"
HEADERS: Final = "agent.headers"
MAX_HEADS: Final = 4
"""Records shown of one place: two prove a fork."""
MAX_HEADERS: Final = 512
"""Records in one answer of `agent.headers`."""
MAX_QUESTION: Final = 128
MAX_AGE_MS: Final = 3_600_000
_MAX_HEADS_REPLY: Final = MAX_HEADS * (MAX_HEADER + ITEM_BYTES) + 64


class Asks(IntEnum):
    """What `agent.head` asks for besides the head. All but `LOOK` are for the author itself, which is told
    by each how long ago another session had the lease."""

    LOOK = 0
    CLAIM = 1
    """The lease, unless another session has it."""
    TAKE = 2
    """The lease, in any case."""
    RELEASE = 3
    """To give the lease back."""


class Activity(Protocol):
    """What a holder has of an author's chain: `node.storage.held_records`."""

    def heads_of(self, author: AgentId, limit: int) -> list[Record]:
        """Up to `limit` headers of the author's highest seq, by CID."""
        ...

    def chain_of(self, author: AgentId, from_seq: int, limit: int) -> list[Record]:
        """Up to `limit` headers from `from_seq` on, forks included, by (seq, CID); the opening whole."""
        ...


class Heads:
    """Serves the activity of authors that is held here, and asks others for it."""

    def __init__(
        self,
        network: Network,
        kademlia: Kademlia,
        activity: Activity,
        network_id: Cid,
        run_blocking: RunBlocking,
        clock: Clock,
        own: Callable[[int, int], list[Record]] = lambda _seq, _limit: [],
    ) -> None:
        """`own` gives headers of this agent's own chain, as `Activity.chain_of` does."""
        self._own = own
        self._kademlia = kademlia
        self._activity = activity
        self._network_id = network_id
        self._run_blocking = run_blocking
        self._clock = clock
        self._claims = Claims()
        network.register(HEAD, kademlia.members_only(self._serve_head, heavy=True))
        network.register(HEADERS, kademlia.members_only(self._serve_headers, heavy=True))

    # -- asking --

    async def head(self, holder: AgentId, author: AgentId, asks: Asks, session: bytes) -> Answer:
        """Ask one holder where the chain of `author` ends. Raises `NetworkError`; a liar is reported."""
        body = canonical.encode([author, int(asks), session])
        reply = await self._kademlia.request(holder, HEAD, body)
        try:
            value = _array(reply, _MAX_HEADS_REPLY, 2, HEAD)
            heads = await self._run_blocking(self._checked, value[0], MAX_HEADS, author)
            other = value[1]
            if other is not None and (type(other) is not int or not 0 <= other <= MAX_AGE_MS):
                raise FrameError(f"{HEAD} says {other!r:.40}, which is no age in ms")
        except FrameError:
            self._kademlia.report(holder)
            raise
        return Answer(
            holder,
            tuple((record.header.seq, record.cid) for record in heads),
            None if other is None else other / 1_000,
        )

    async def headers(self, holder: AgentId, author: AgentId, from_seq: int) -> list[Record]:
        """Ask one holder for a page of an author's chain, ascending by seq; empty at its end.

        Signed by the author, but nothing says that they hang together. Raises `NetworkError`.
        """
        body = canonical.encode([author, from_seq, MAX_HEADERS])
        reply = await self._kademlia.request(holder, HEADERS, body)
        try:
            value = _array(reply, MAX_BODY, 2, HEADERS)
            more = value[0]
            records = await self._run_blocking(self._checked, value[1], MAX_HEADERS, author)
            seqs = [record.header.seq for record in records]
            if type(more) is not bool or seqs != sorted(seqs) or (seqs and seqs[0] < from_seq):
                raise FrameError(f"{HEADERS} reply is not in order")
        except FrameError:
            self._kademlia.report(holder)
            raise
        # What comes last may have siblings on the next page; a fork must not be taken for a chain.
        return [
            record for record in records if not more or seqs[0] == seqs[-1] or record.header.seq < seqs[-1]
        ]

    def here(self, author: AgentId, from_seq: int) -> list[Record]:
        """What this node itself holds of an author's chain, as `headers` gives it; blocking."""
        return self._activity.chain_of(author, from_seq, MAX_HEADERS)

    def last_here(self, author: AgentId) -> list[Record]:
        """The last headers that this node itself holds of an author's chain; blocking."""
        return self._activity.heads_of(author, MAX_HEADS)

    # -- answering --

    async def _serve_head(self, sender: AgentId, body: bytes) -> bytes:
        author, asks, session = _question(body, HEAD)
        if asks not in set(Asks) or type(session) is not bytes or len(session) != SESSION_SIZE:
            raise RequestRefused(RefusalCode.BAD_REQUEST, f"{HEAD} takes [author, what, session]")
        other: float | None = None
        now = self._clock.monotonic()
        if sender != author:
            if asks != Asks.LOOK:
                raise RequestRefused(RefusalCode.FORBIDDEN, "only its author speaks for a chain")
        elif asks == Asks.LOOK:
            other = self._claims.other(author, session, now)
        elif asks == Asks.RELEASE:
            self._claims.release(author, session)
        else:
            other = self._claims.claim(author, session, asks == Asks.TAKE, now)
        heads = await self._run_blocking(self._activity.heads_of, author, MAX_HEADS)
        return canonical.encode(
            [
                [record.without_payload().encode() for record in heads],
                None if other is None else round(other * 1_000),
            ]
        )

    async def _serve_headers(self, _sender: AgentId, body: bytes) -> bytes:
        author, from_seq, limit = _question(body, HEADERS)
        if not all(type(number) is int and 0 <= number <= MAX_INT for number in (from_seq, limit)):
            raise RequestRefused(RefusalCode.BAD_REQUEST, f"{HEADERS} takes [author, from_seq, limit]")
        return await self._run_blocking(self._page, author, from_seq, max(1, min(limit, MAX_HEADERS)))

    def _page(self, author: AgentId, from_seq: int, limit: int) -> bytes:
        mine = self._own(from_seq, limit) if author == self._kademlia.agent else []
        records = mine or self._activity.chain_of(author, from_seq, limit)
        sent: list[bytes] = []
        size = 0
        for record in records:
            data = record.encode()
            size += len(data) + ITEM_BYTES
            if sent and size > REPLY_BYTES:
                break
            sent.append(data)
        return canonical.encode([len(sent) == limit or len(sent) < len(records), sent])

    def _checked(self, value: object, limit: int, author: AgentId) -> list[Record]:
        """Records of a reply, all of this author and network, and signed; raises `FrameError`. Blocking."""
        if type(value) is not list or len(value) > limit:
            raise FrameError(f"a reply holds no list of at most {limit} records")
        records: list[Record] = []
        for data in value:
            if type(data) is not bytes:
                raise FrameError("a record is a byte string")
            try:
                record = decode_record(data)
            except ChainError as error:
                raise FrameError(f"a record is malformed: {error}") from error
            header = record.header
            if (header.author, header.network) != (author, self._network_id) or not verify_signature(record):
                raise FrameError("a record is not of the author who was asked for")
            records.append(record)
        return records


def _array(message: bytes, limit: int, size: int, method: str) -> list[Any]:
    try:
        value = canonical.decode(message, limit)
    except ChainError as error:
        raise FrameError(f"{method} message is malformed: {error}") from error
    if type(value) is not list or len(value) != size:
        raise FrameError(f"{method} message is not an array of {size}")
    return value


def _question(body: bytes, method: str) -> Sequence[Any]:
    try:
        fields = _array(body, MAX_QUESTION, 3, method)
    except FrameError as error:
        raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
    if type(fields[0]) is not bytes or len(fields[0]) != AGENT_ID_SIZE:
        raise RequestRefused(RefusalCode.BAD_REQUEST, f"{method} asks about an agent")
    return fields
