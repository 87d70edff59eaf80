"""A task whose updates are summed under masks, as one node follows it: `Engagement` with another machine.

What differs is what the machine asks for: parts are appended and delivered to the roster, the own update
becomes a masked vector off the event loop, vectors are fetched and added up. An update never leaves the node:
what others get is the vector under its masks.
"""

from __future__ import annotations

import logging

from chain.cid import Cid
from chain.kinds import PART
from chain.learning_outcome import Result
from chain.record import Record
from chain.secure_part import part_body
from federated.actions import Action, LookVector, Mask, Offer, Sum, Tell
from federated.engagement import AnyRound, Engagement
from federated.ports import NoRoom
from federated.privacy.group_sums import vector_of
from federated.privacy.secure_messages import Phase
from federated.secure_round import SecureRound
from federated.sum_evidence import WORD
from federated.update import Model
from federated.vectors import model_of_groups, vector_verdict
from validation.named import learning_of

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
        verdict = await vector_verdict(self.models, look.blob, look.size, look.agents)
        round_.looked(look.part, verdict)
        self.wake()

    async def _sum(self, round_: SecureRound, action: Sum) -> None:
        tools = self._tools
        while action.base not in self._here:  # it is being fetched
            if round_.over:
                return
            await self._changed.wait()
        began = tools.clock.monotonic()
        found = await model_of_groups(tools, self.ledger.terms, action.base, action.groups)
        cid: Cid | None = None
        if found is not None:
            cid = action.base if found[0] is None else await self.models.keep(found[0])
        if found is None or cid is None:
            round_.failed(action.key)
            self.wake()
            return
        data, spoilt = found
        self._here.add(cid)
        if data is not None:
            round_.made.add(cid)
        round_.averaged(action.key, cid, tools.clock.monotonic() - began, spoilt)
        self.wake()
