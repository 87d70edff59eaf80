"""Comparing what two nodes hold, range by range: the method `record.ranges`, and who asks by it.

A question and its answer are one message of `dht.negentropy.reconciliation` each; who answers keeps nothing
from one to the next. So a comparison can be given up at any time, and what came from it before counts. Peers
of earlier releases do not know the method: they are compared with basis by basis, as before.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from chain.identity import AgentId
from dht.errors import RefusalCode, RequestRefused
from dht.negentropy.range_messages import MAX_MESSAGE, Bound, Item, ReconciliationError
from dht.negentropy.reconciliation import MAX_DIFFERENCES, Reconciliation, answer
from dht.network import Network
from dht.overlay.contact_book import MAX_CONTACTS
from dht.overlay.kademlia import Kademlia
from dht.ports import RunBlocking
from dht.records.record_store import HeldStore
from dht.repair.transfers import Transfers

RANGES = "record.ranges"

log = logging.getLogger(f"roseforest.{__name__}")


@dataclass(frozen=True, slots=True)
class Difference:
    """What was found: items only we have, ids only the other has, and ranges that were not compared."""

    have: list[Item]
    need: list[Item]
    unknown: list[tuple[Bound, Bound]]


class Comparisons:
    """Answers `record.ranges`, and asks by it."""

    def __init__(
        self,
        network: Network,
        kademlia: Kademlia,
        transfers: Transfers,
        store: HeldStore,
        run_blocking: RunBlocking,
    ) -> None:
        self._kademlia = kademlia
        self._transfers = transfers
        self._store = store
        self._run_blocking = run_blocking
        self._without: set[AgentId] = set()
        self.exchanges = 0
        """Comparisons made so far."""
        self.bytes = 0
        """Bytes of all questions and answers of those."""
        network.register(RANGES, kademlia.members_only(self._serve, heavy=True))

    def knows(self, agent: AgentId) -> bool:
        """Whether a peer is not known to be of a release without the method."""
        return agent not in self._without

    async def compare(
        self,
        agent: AgentId,
        arcs: Sequence[tuple[Bound, Bound]],
        max_differences: int = MAX_DIFFERENCES,
    ) -> Difference | None:
        """Find out what differs in these ranges, ascending and apart, between our store and that of `agent`.

        Our store may change meanwhile: what changed may or may not be among the differences. None when the
        peer does not know how. Raises `ReconciliationError` for answers that are none, and what
        `Kademlia.request` raises.
        """
        asking = Reconciliation(arcs, max_differences=max_differences)
        self.exchanges += 1
        while True:
            began = trio.current_time()
            question = await self._run_blocking(self._question, asking)
            if question is None:
                break
            try:
                with self._transfers.asking(agent):
                    said = await self._kademlia.request(agent, RANGES, question)
            except RequestRefused as refusal:
                if refusal.code == RefusalCode.UNKNOWN_METHOD:
                    self._note_without(agent)
                    return None
                raise
            self.bytes += len(question) + len(said)
            if len(said) > MAX_MESSAGE:
                raise ReconciliationError(f"a reconciliation message has {len(said)} bytes")
            await self._run_blocking(self._receive, asking, said)
            await self._transfers.rest(began, len(question) + len(said))
        return Difference(asking.have, asking.need, asking.open_ranges)

    def _question(self, asking: Reconciliation) -> bytes | None:
        with self._store.ranges() as view:
            return asking.next_message(view)

    def _receive(self, asking: Reconciliation, said: bytes) -> None:
        with self._store.ranges() as view:
            asking.receive(view, said)

    def _note_without(self, agent: AgentId) -> None:
        if len(self._without) >= MAX_CONTACTS:
            self._without.clear()
        self._without.add(agent)
        log.info("%s runs a release that compares basis by basis", agent.hex()[:8])

    async def _serve(self, sender: AgentId, body: bytes) -> bytes:
        try:
            return await self._run_blocking(self._answer, body)
        except ReconciliationError as error:
            raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error

    def _answer(self, body: bytes) -> bytes:
        with self._store.ranges() as view:
            return answer(view, body)
