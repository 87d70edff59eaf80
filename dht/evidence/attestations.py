"""Attestations: receipts for records that are held already, for whoever asks.

An author gets its receipts with the acknowledgements. Everybody else, and a holder above all that is to judge
a record without having seen the chain before it (`validation.receipts.accepts_link`), asks those responsible:
`record.attest` names records and is answered with what this node found about each that it holds, under one
fresh signature. So holders need not keep the receipts that they have given, and one that has let a record go
cannot point at an old one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import trio

from chain import canonical
from chain.cid import DIGEST_SIZE, Cid, digest, record_cid_of_digest
from chain.errors import ChainError
from chain.identity import AgentId
from chain.receipt import (
    MAX_BASES,
    Found,
    Receipt,
    found_value,
    open_batch,
    open_receipt,
    read_found,
    write_receipt,
)
from chain.statement import MAX_STATEMENT
from dht.errors import FrameError, NetworkError, RefusalCode, RequestRefused
from dht.network import Network
from dht.overlay.kademlia import Kademlia
from dht.ports import RunBlocking
from dht.records.placement import Role
from dht.records.receipts import SignFound, finding
from dht.records.record_store import HeldStore

ATTEST: Final = "record.attest"
MAX_ATTESTED: Final = 64
"""Records of one question."""
_MAX_QUESTION: Final = MAX_ATTESTED * (DIGEST_SIZE + 2) + 8
_MAX_REPLY: Final = MAX_ATTESTED * (MAX_BASES * (DIGEST_SIZE + 2) + 128) + MAX_STATEMENT


class Attestations:
    """Signs for what is held here, and asks others to."""

    def __init__(
        self,
        network: Network,
        kademlia: Kademlia,
        store: HeldStore,
        network_id: Cid,
        sign: SignFound,
        run_blocking: RunBlocking,
    ) -> None:
        self._kademlia = kademlia
        self._store = store
        self._network_id = network_id
        self._sign = sign
        self._run_blocking = run_blocking
        network.register(ATTEST, kademlia.members_only(self._serve, heavy=True))

    async def ask(self, holder: AgentId, cids: Sequence[Cid]) -> list[Receipt]:
        """The receipts of one node for those of at most `MAX_ATTESTED` records that it holds.

        Raises `NetworkError`; a liar is reported.
        """
        wanted = list(cids[:MAX_ATTESTED])
        reply = await self._kademlia.request(
            holder, ATTEST, canonical.encode([digest(cid) for cid in wanted])
        )
        try:
            return await self._run_blocking(read_attested, reply, wanted, holder, self._network_id)
        except (ChainError, FrameError) as error:
            self._kademlia.report(holder)
            raise FrameError(f"{ATTEST} reply does not verify: {error}") from error

    async def gather(self, cid: Cid, basis: bytes, count: int, timeout_s: float) -> list[Receipt]:
        """The receipts of the `count` nodes responsible for a basis, of those that answer in time."""
        receipts: list[Receipt] = []

        async def ask(holder: AgentId) -> None:
            try:
                receipts.extend(await self.ask(holder, [cid]))
            except NetworkError:
                return  # it is one receipt less

        with trio.move_on_after(timeout_s):
            near = await self._kademlia.holders(basis, count)
            async with trio.open_nursery() as nursery:
                for contact in near:
                    if contact.agent != self._kademlia.agent:
                        nursery.start_soon(ask, contact.agent)
        return receipts

    async def _serve(self, _sender: AgentId, body: bytes) -> bytes:
        cids = [record_cid_of_digest(one) for one in _question(body)]
        return await self._run_blocking(self._attested, cids)

    def _attested(self, cids: Sequence[Cid]) -> bytes:
        found: list[Found] = []
        for record, places in zip(self._store.get_many(cids), self._store.places_of(cids), strict=True):
            places = [(role, basis) for role, basis in places if role & ~Role.KEPT]
            if record is not None and places:
                found.append(finding(record, places, valid=True))
        value: list[Any] = [[found_value(one) for one in found], self._sign(found) if found else None]
        return canonical.encode(value)


def read_attested(reply: bytes, cids: Sequence[Cid], holder: AgentId, network: Cid) -> list[Receipt]:
    """Verify a reply to a question about `cids`. Raises `FrameError` or `ChainError`."""
    value = canonical.decode(reply, _MAX_REPLY)
    if type(value) is not list or len(value) != 2 or type(value[0]) is not list:
        raise FrameError(f"{ATTEST} reply is not the array [findings, statement]")
    found = [read_found(one) for one in value[0]]
    if not found:
        return []
    places = {cid: place for place, cid in enumerate(cids)}
    order = [places.get(one.cid, -1) for one in found]
    if min(order) < 0 or any(a >= b for a, b in zip(order, order[1:], strict=False)):
        raise FrameError(f"{ATTEST} reply is about something else than was asked for")
    statement = value[1]
    if type(statement) is not bytes:
        raise FrameError(f"{ATTEST} reply is not signed")
    batch = open_batch(statement)
    if batch.holder != holder or batch.network != network:
        raise FrameError(f"{ATTEST} reply is signed by another, or for another network")
    leaves = [one.leaf() for one in found]
    return [open_receipt(write_receipt(statement, leaves, place, one)) for place, one in enumerate(found)]


def _question(body: bytes) -> list[bytes]:
    try:
        value = canonical.decode(body, _MAX_QUESTION)
    except ChainError as error:
        raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
    if (
        type(value) is not list
        or not 0 < len(value) <= MAX_ATTESTED
        or len(set(map(str, value))) != len(value)
        or not all(type(one) is bytes and len(one) == DIGEST_SIZE for one in value)
    ):
        raise RequestRefused(
            RefusalCode.BAD_REQUEST, f"{ATTEST} takes up to {MAX_ATTESTED} different digests of records"
        )
    return value
