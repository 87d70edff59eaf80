"""Liars: whole nodes that do one thing otherwise, by an overridden method; the rest of them is honest.

Each kind of lie is a function that turns a running node into a liar. It knows the node from inside, as
somebody who alters the program on his own machine does; the network sees a paying member that answers, stores
and authors. What a liar can do is bounded by what its key can sign: it has no other's key, and no more than
its own connections. What it overrides are public methods that all of one kind passes through, and it must
take the same arguments, so that a lie which the program has left behind fails loudly; and it counts its lies,
so that a run can tell that there were any. `sim.faults` says who lies from when on, `docs/simulator.md` what
each kind does.
"""

from __future__ import annotations

import inspect
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from chain.cid import Cid, raw_cid, record_cid
from chain.identity import AgentId, Identity
from chain.kinds import CREATE, FORK_WARRANT, INVALID_WARRANT
from chain.record import Record, decode_payload, encode_payload, sign_record
from chain.source_chain import Draft
from chain.warrant import invalid_body
from dht.errors import NetworkError, RequestRefused
from dht.network import Handler, PeerId
from dht.overlay.peer_messages import EXCHANGE, PING
from dht.records.bundle import Item
from dht.records.placement import Role
from dht.records.record_store import Held
from dht.repair.publisher import Got
from node.node import Node
from sim.faults import Lie
from sim.host import SimNetwork

FORGED_TEXT = "buy my book"
FORK_TAG = "forked"
MAX_ACCUSED = 8
COURTEOUS = frozenset({EXCHANGE, PING})
"""What garbage senders and slow peers still do right, so that they stay members and seem alive."""
MAX_GARBAGE = 2_000
MAX_PUSHING = 4
"""Records that a pusher brings to others at a time."""
SLOWEST_S = 6.0
"""A slow peer takes up to so many seconds to answer: longer than anybody waits."""


@dataclass(frozen=True, slots=True)
class Liar:
    """A node that is to lie: its end of the network, and where its lies get their chances from."""

    name: str
    identity: Identity
    node: Node
    host: SimNetwork
    rng: random.Random
    proofs: set[Cid] = field(default_factory=set)
    """Records by which this agent has put in writing that it lies."""
    told: Counter[str] = field(default_factory=Counter)
    """How many lies each liar has told, by name."""

    def tell(self, lies: int = 1) -> None:
        """So many lies were told."""
        self.told[self.name] += lies


def forger(liar: Liar) -> None:
    """Passes on others' records with another text: some still named as they were, some under a new name.

    All that it serves and all copies that it makes for repair go through one method.
    """
    records = liar.node.parts.records
    honest = records.pack

    def pack(
        wanted_items: Iterable[Item], most: int, named: bool, *, lean: bool = False
    ) -> tuple[list[Any], int]:
        value, sent = honest(map(_forged_item, wanted_items), most, named, lean=lean)
        liar.tell(sent)
        return value, sent

    _override(records, "pack", pack)


def pusher(liar: Liar) -> None:
    """Takes what it is given, and has the other holders store it with another text, unasked."""
    records, kademlia = liar.node.parts.records, liar.node.kademlia
    honest, replication = records.hold, liar.node.parts.manifest.replication
    crowd = trio.CapacityLimiter(MAX_PUSHING)

    async def push(held: Held) -> None:
        async with crowd:
            for role, basis in held.bases:
                shards = (basis,) if role & Role.SHARD else ()
                item = _forged_item(Item(held.record, role, shards))
                for contact in await kademlia.holders(basis, replication + 1):
                    if contact.agent != kademlia.agent:
                        with suppress(NetworkError):
                            await records.store(contact.agent, [item])
                            liar.tell()

    async def hold(items: Sequence[Held]) -> None:
        await honest(items)
        for item in items:
            if item.bases:
                liar.host.nursery.start_soon(push, item)

    _override(records, "hold", hold)


def _forged_item(item: Item) -> Item:
    return replace(item, record=_forged(item.record))


def _forged(record: Record) -> Record:
    """`record` with another payload; by its CID, the header goes on naming the old one or names the new."""
    if record.payload is None or record.header.seq < 3:
        return replace(record, signature=bytes(reversed(record.signature)))
    body = decode_payload(record.payload)
    body["text"] = FORGED_TEXT
    payload = encode_payload(record.payload[-16:], body)
    if record.cid[-1] % 2:
        return replace(record, payload=payload)
    header = replace(record.header, payload=raw_cid(payload), payload_size=len(payload))
    encoded = header.encode()
    return Record(header, record.signature, payload, record_cid(encoded), encoded)


def forker(liar: Liar) -> None:
    """Signs two records wherever its chain creates an entry; half of the others get each."""
    publisher, identity = liar.node.parts.publisher, liar.identity
    honest = publisher.send
    others: dict[Cid, Cid] = {}

    def other(record: Record) -> Record:
        if record.header.kind != CREATE or record.payload is None:
            return record
        body = decode_payload(record.payload)
        body["tags"] = [FORK_TAG]
        payload = encode_payload(bytes(16), body)
        header = replace(record.header, payload=raw_cid(payload), payload_size=len(payload))
        made = sign_record(identity, header, payload)
        others[made.cid] = record.cid
        liar.proofs.add(made.cid)
        liar.tell()
        return made

    async def send(
        agent: AgentId, batch: list[tuple[Record, int]], shards: Mapping[Cid, bytes], got: Got
    ) -> None:
        if agent[-1] % 2:
            batch = [(other(record), roles) for record, roles in batch]
            places = {made: shards[cid] for made, cid in others.items() if cid in shards}
            shards = {**shards, **places}
        mine = Got()
        await honest(agent, batch, shards, mine)
        got.rows.extend(replace(row, cid=others.get(row.cid, row.cid)) for row in mine.rows)
        got.receipts.extend(mine.receipts)

    _override(publisher, "send", send)


def accuser(liar: Liar) -> None:
    """Writes warrants against whoever has a record here, that prove nothing."""
    governance, opening_of = liar.node.governance, liar.node.parts.opening_of
    accused: set[AgentId] = {liar.node.agent}

    async def held(items: Iterable[Held]) -> None:
        for record in [item.record for item in items]:
            author = record.header.author
            opening = opening_of(author)
            if opening is None or author in accused or len(accused) > MAX_ACCUSED:
                continue
            accused.add(author)
            if liar.rng.random() < 0.5:
                bare = record.without_payload().encode()
                body = {"first": bare, "opening": [one.encode() for one in opening], "second": bare}
                draft = Draft(FORK_WARRANT, body)
            else:
                draft = Draft(INVALID_WARRANT, invalid_body(opening, record, "signature", ()))
            liar.proofs.add((await governance.write(draft)).cid)
            liar.tell()

    _override(liar.node.parts.own, "fault_of", lambda record, before: None)
    _override(governance.watch, "held", held)


def dropper(liar: Liar) -> None:
    """Acknowledges what it is given to store, and stores nothing."""

    async def hold(items: Sequence[Held]) -> None:
        liar.tell(len(items))
        await trio.lowlevel.checkpoint()

    _override(liar.node.parts.records, "hold", hold)


def hollow(liar: Liar) -> None:
    """Keeps the list of what it was given, so that its digests agree, and has thrown the records away."""

    def get_many(cids: Sequence[Cid]) -> list[Record | None]:
        liar.tell()
        return [None] * len(cids)

    _override(liar.node.parts.held, "get_many", get_many)


def garbage(liar: Liar) -> None:
    """Asks and answers garbage: random bytes, or what an honest node would send with some bytes changed."""
    asks, answers = liar.host.request, liar.host.answer

    async def request(peer: PeerId, method: str, body: bytes, timeout: float) -> bytes:
        if method not in COURTEOUS:
            body = _garbled(body, liar.rng)
            liar.tell()
        return await asks(peer, method, body, timeout)

    async def answer(handler: Handler, peer: PeerId, method: str, body: bytes) -> bytes | RequestRefused:
        true = await answers(handler, peer, method, body)
        if method in COURTEOUS or isinstance(true, RequestRefused):
            return true
        liar.tell()
        return _garbled(true, liar.rng)

    _override(liar.host, "request", request)
    _override(liar.host, "answer", answer)


def _garbled(body: bytes, rng: random.Random) -> bytes:
    if not body or rng.random() < 0.5:
        return rng.randbytes(rng.randrange(MAX_GARBAGE))
    altered = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        altered[rng.randrange(len(altered))] = rng.randrange(256)
    return bytes(altered)


def slow(liar: Liar) -> None:
    """Answers a ping at once and everything else after anything up to `SLOWEST_S`."""
    honest = liar.host.answer

    async def answer(handler: Handler, peer: PeerId, method: str, body: bytes) -> bytes | RequestRefused:
        if method not in COURTEOUS:
            liar.tell()
            await trio.sleep(liar.rng.uniform(0, SLOWEST_S))
        return await honest(handler, peer, method, body)

    _override(liar.host, "answer", answer)


LIES: Mapping[Lie, Callable[[Liar], None]] = {
    "forger": forger,
    "pusher": pusher,
    "forker": forker,
    "accuser": accuser,
    "dropper": dropper,
    "hollow": hollow,
    "garbage": garbage,
    "slow": slow,
}


def _override(owner: object, name: str, value: Callable[..., object]) -> None:
    honest = getattr(owner, name, None)
    if honest is None or _arguments(honest) != _arguments(value):
        wanted = "has none" if honest is None else f"takes {_arguments(honest)}, not {_arguments(value)}"
        raise AttributeError(f"{type(owner).__name__}.{name}: it {wanted}; the lie has to follow the program")
    setattr(owner, name, value)


def _arguments(function: Callable[..., object]) -> list[tuple[str, object]]:
    """Names and kinds; how they are written down as types differs."""
    return [(one.name, one.kind) for one in inspect.signature(function).parameters.values()]
