"""A task whose updates are summed under masks, as one node follows it: `Engagement` with another machine.

What differs is what the machine asks for: parts are appended and delivered to the roster, the own update
becomes a masked vector off the event loop, vectors are fetched and added up. An update never leaves the node:
what others get is the vector under its masks.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from chain.cid import Cid
from chain.identity import AgentId
from chain.kinds import PART
from chain.learning import Result
from chain.record import Record
from chain.secure_part import Part, part_body
from federated.actions import Action, LookVector, Mask, Offer, Sum, Tell
from federated.engagement import NO_ROOM_S, AnyRound, Engagement
from federated.faults import UNAVAILABLE
from federated.ports import NoRoom, TooLarge
from federated.privacy.group_sums import GroupSum, model_of_sums, vector_of
from federated.privacy.opened_sum import unmask
from federated.privacy.secure_messages import Phase
from federated.proposal import Verdict
from federated.secure_round import SecureRound
from federated.sum_chain import Closed
from federated.sum_evidence import WORD
from federated.update import Fault, Model
from validation.named import learning_of

if TYPE_CHECKING:
    from federated.privacy.keystream import Words

log = logging.getLogger(f"roseforest.{__name__}")


class SecureEngagement(Engagement):
    """This node and one task with secure sums."""

    def _new_round(self, now: float) -> SecureRound:
        tools = self._tools
        if self.ledger.tip is not None:
            self.ledger.book.trim(self.ledger.tip.round)
        return SecureRound(self.ledger, tools.identity, now, tools.random.random_bytes)

    def _costs(self, record: Record) -> str:
        said = learning_of(record)
        if not isinstance(said, Result):
            return ""
        book, refused = self.ledger.book, dict(said.outcome.refused)
        shown = [book.parts[cid] for cid in said.outcome.reveals if cid in book.parts]
        vectors = sum(part.phase == Phase.MASKED and agent not in refused for agent, part in shown)
        size = WORD * (1 + sum(array.count for array in self.ledger.terms.arrays))
        return f"; {vectors} masked vectors of {size} bytes{self._barred(said)}"

    async def _act(self, round_: AnyRound, action: Action) -> None:
        assert self._nursery is not None
        assert isinstance(round_, SecureRound)
        match action:
            case Tell(part=part):
                key = b"part" + bytes([part.phase]) + round_.tip.digest
                await self.append(PART, part_body(part), key, round_.group)
            case Mask(offer=offer):
                self._nursery.start_soon(self._mask, round_, offer)
            case LookVector():
                self._nursery.start_soon(self._look_vector, round_, action)
            case Sum():
                self._nursery.start_soon(self._sum, round_, action)
            case _:
                await super()._act(round_, action)

    async def _mask(self, round_: SecureRound, offer: Offer) -> None:
        """Show the own update under its masks."""
        tools, terms = self._tools, self.ledger.terms
        data = await tools.blobs.map(offer.blob)
        if data is None:
            log.error("the update that was handed in is not here any more")
            round_.unmasked()
            return

        def masked(update: Model) -> bytes | None:
            found = round_.mask(vector_of(terms, update, offer.examples))
            return None if found is None else found.tobytes()

        vector = await tools.run_blocking(masked, data)
        try:
            if vector is not None:
                cid = await tools.blobs.put(vector)
                round_.made.add(cid)
                if round_.over:  # and what it made has been released
                    await tools.blobs.release(cid)
        except NoRoom as error:
            log.error("the masked update cannot be kept, so this node is not in the round: %s", error)
            vector = None
        if vector is None:
            round_.unmasked()
        else:
            round_.masked()
        self.wake()

    async def _look_vector(self, round_: SecureRound, look: LookVector) -> None:
        verdict = await self.vector_verdict(look.blob, look.size, look.agents)
        round_.looked(look.part, verdict)
        self.wake()

    async def vector_verdict(self, blob: Cid, size: int, agents: Sequence[AgentId]) -> Verdict:
        """What is wrong with a masked vector, once it is here; `UNAVAILABLE` when it cannot be had."""
        data: Model | None = None
        try:
            with trio.move_on_after(self.ledger.terms.reveal_ms / 1_000):
                data = await self._tools.blobs.fetch_mapped(blob, size, agents)
        except TooLarge:
            return Fault.SIZE
        if data is None:
            return UNAVAILABLE
        return None if len(data) == size else Fault.SIZE

    async def _sum(self, round_: SecureRound, action: Sum) -> None:
        tools = self._tools
        while action.base not in self._here:  # it is being fetched
            if round_.over:
                return
            await self._changed.wait()
        began = tools.clock.monotonic()
        found = await self.model_of_groups(action.base, action.groups)
        if found is None:
            round_.failed(action.key)
            self.wake()
            return
        data, spoilt = found
        try:
            cid = action.base if data is None else await tools.blobs.put(data)
        except NoRoom as error:
            log.error("the round's model cannot be kept, next try in %.0f s: %s", NO_ROOM_S, error)
            await trio.sleep(NO_ROOM_S)
            round_.failed(action.key)
            self.wake()
            return
        self._here.add(cid)
        if data is not None:
            round_.made.add(cid)
        round_.averaged(action.key, cid, tools.clock.monotonic() - began, spoilt)
        self.wake()

    async def bring_back(self, previous: bytes) -> None:
        """Have the messages of the round that builds on `previous` in memory, those that were let go of."""
        if not self.ledger.book.is_whole(previous):
            kept = await self._tools.run_blocking(self._tools.post.kept, self.ledger.cid)
            said = [(record.cid, learning_of(record)) for record in kept if record.header.kind == PART]
            self.ledger.book.restore(
                (cid, part) for cid, part in said if isinstance(part, Part) and part.previous == previous
            )

    async def model_of_groups(
        self, base: Cid, groups: Sequence[Closed]
    ) -> tuple[bytes | None, frozenset[AgentId]] | None:
        """The model that the task's strategy makes of the groups' sums (None: no group is good), and the
        members of groups whose sum no updates have. None when a vector, or the base, is not here.
        """
        tools, terms = self._tools, self.ledger.terms
        start = await tools.blobs.map(base)
        if start is None:
            return None
        sums: list[GroupSum] = []
        for closed in groups:
            vectors = [await tools.blobs.map(one.blob) for one in closed.counted]
            here = [data for data in vectors if data is not None]
            size = WORD * closed.session.length
            if len(here) < len(vectors) or any(len(data) != size for data in here):
                return None
            total = await tools.run_blocking(_added, closed, here)
            sums.append(GroupSum(tuple(one.agent for one in closed.counted), total, closed.weight))
        data, refused = await tools.run_blocking(model_of_sums, terms, start, sums)
        return data, frozenset(agent for number in refused for agent in sums[number].members)


def _added(closed: Closed, vectors: Sequence[Model]) -> Words:
    """The sum of a group; blocking."""
    import numpy as np

    assert closed.opened is not None
    return unmask(closed.session, closed.opened, (np.frombuffer(data, "<u8") for data in vectors))
