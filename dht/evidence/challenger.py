"""The challenger: asks holders at random times to prove what they signed for, or say they hold.

It drives `dht.evidence.challenges`. An author draws from the receipts for its own records; a holder from the
records at a random basis that it holds, and from what another holder of that basis says it does not lack,
because saying so costs nothing and a digest can be echoed. Who fails is reported, its receipts are void, and
the records are published anew, elsewhere once the holder is banned. The rate is bounded: one challenge in
`EVERY_S`, one in `SOON_S` while a holder is in doubt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import trio

from chain.cid import Cid
from chain.identity import AgentId
from chain.record import Record
from dht.errors import FrameError, NetworkError, RefusalCode, RequestRefused
from dht.evidence.challenges import AT_ONCE, Challenges, Outcome
from dht.overlay.kademlia import Kademlia
from dht.overlay.reputation import Misdeed
from dht.ports import Random, RunBlocking
from dht.records.methods import HAS, RecordService
from dht.records.placement import Role, bases_of, needs_payload
from dht.records.proofs import Proofs, answerable
from dht.records.receipts import SignedFor
from dht.records.record_store import HeldStore, OwnRecords

EVERY_S = 5.0
"""From one challenge to the next, on average."""
SOON_S = 1.0
"""The same while a holder is in doubt."""
WINDOW = 256
"""Receipts that a challenge is drawn from: those of some fifty records in a row, from a random one on."""

log = logging.getLogger(f"roseforest.{__name__}")


@dataclass(slots=True)
class ChallengeCounters:
    """What challenges have shown since the start."""

    kept: int = 0
    failed: int = 0
    unanswered: int = 0
    voided: int = 0
    """Own records of which a holder's receipt became void."""


class Challenger:
    """One a node. `shards_of` gives the shard bases of content records; `voided` is told to publish."""

    def __init__(
        self,
        own: OwnRecords,
        held: HeldStore,
        kademlia: Kademlia,
        records: RecordService,
        proofs: Proofs,
        replication: int,
        shards_of: Callable[[Sequence[Record]], Mapping[Cid, bytes]],
        voided: Callable[[], None],
        run_blocking: RunBlocking,
        random: Random,
    ) -> None:
        self._own = own
        self._held = held
        self._kademlia = kademlia
        self._records = records
        self._proofs = proofs
        self._replication = replication
        self._shards_of = shards_of
        self._voided = voided
        self._run_blocking = run_blocking
        self._rng = random.choice
        self._challenges = Challenges()
        self.counters = ChallengeCounters()

    async def run(self) -> None:
        """Challenge for ever, own receipts and fellow holders in turn."""
        mine = True
        while True:
            pause = SOON_S if self._challenges.in_doubt else EVERY_S
            await trio.sleep(pause * self._rng.uniform(0.5, 1.5))
            mine = not mine
            try:
                await (self.challenge_receipt() if mine else self.challenge_fellow())
            except NetworkError as error:
                log.debug("a challenge ended early: %s", error)

    async def challenge_receipt(self) -> None:
        """Have a holder prove some of the own records that it signed for."""
        start = self._rng.randrange(max(1, self._own.count()))
        signed = await self._run_blocking(self._own.signed_from, start, WINDOW)
        self._rng.shuffle(signed)
        usable = {one.holder for one in signed if self._is_there(one.holder)}
        chosen = self._challenges.choose(((one.holder, one.cid) for one in signed), usable)
        if chosen is None:
            return
        signed = [one for one in signed if one.holder == chosen.holder]
        roles, in_full = _roles(signed), {one.cid for one in signed if one.whole}
        asked: list[tuple[Record, bool]] = []
        for record in await self._run_blocking(self._own.get_many, chosen.cids):
            whole = record is not None and record.cid in in_full
            if record is not None and (record.payload is not None or not whole):
                asked.append((record, whole))  # without the payload, it was erased here, so there as well
        await self._challenge(chosen.holder, asked, roles)

    async def challenge_fellow(self) -> None:
        """Have another holder of a basis held here prove records that it says it does not lack there."""
        point = self._rng.randbytes(32)
        bases = self._held.bases_after(point, 1) or self._held.bases_after(b"", 1)
        if not bases:
            return
        basis = bases[0].basis
        near = [one.agent for one in await self._kademlia.holders(basis, self._replication)]
        holder = self._challenges.least_asked([agent for agent in near if self._is_there(agent)])
        if holder is None or self._kademlia.agent not in near:
            return
        there = self._held.held_at(basis, None, WINDOW)
        rows = dict(self._rng.sample(there, min(AT_ONCE, len(there))))
        pairs = [(basis, cid) for cid in sorted(rows)]
        states = await self._records.states(holder, pairs)
        claimed = [cid for (_, cid), state in zip(pairs, states, strict=True) if state == HAS]
        asked = [
            (record, needs_payload(record.header.kind, Role(rows[record.cid])))
            for record in await self._run_blocking(self._held.get_many, claimed)
            if record is not None
        ]
        asked = [(record, whole) for record, whole in asked if record.payload is not None or not whole]
        await self._challenge(holder, asked, None)

    async def _challenge(
        self, holder: AgentId, asked: Sequence[tuple[Record, bool]], signed: Mapping[Cid, Role] | None
    ) -> None:
        """`signed`: the roles that it signed for, by own record; None: it only says that it holds them."""
        asked = answerable(asked)
        if not asked:
            return
        try:
            proven = await self._proofs.challenge(holder, asked)
        except FrameError:
            self._kademlia.report(holder)
            return
        except NetworkError as error:
            self.counters.unanswered += 1
            if signed is None and isinstance(error, RequestRefused) and error.code == RefusalCode.BAD_REQUEST:
                return  # of an older release: it signs nothing, and does not know this question
            if self._challenges.unanswered(holder, trio.current_time()):
                await self._fail(holder, [record.cid for record, _ in asked], signed, convicted=False)
            return
        missing = [record.cid for record, _ in asked if record.cid not in proven]
        due = {record.cid for record, _ in asked}
        if missing and signed is not None:
            due = await self._due(holder, asked, signed)
        outcome = self._challenges.answered(holder, due, missing, trio.current_time())
        if outcome is Outcome.KEPT:
            self.counters.kept += 1
        elif outcome is Outcome.LET_GO:
            await self._void(holder, missing)
        else:
            await self._fail(holder, missing, signed, convicted=outcome is Outcome.CONVICTED)

    async def _due(
        self, holder: AgentId, asked: Sequence[tuple[Record, bool]], signed: Mapping[Cid, Role]
    ) -> set[Cid]:
        """Those of the records that `holder` is among the nearest for now, in a role that it signed for."""
        shards = await self._run_blocking(self._shards_of, [record for record, _ in asked])
        due: set[Cid] = set()
        for record, whole in asked:
            for role, basis in bases_of(record, signed[record.cid], shards.get(record.cid)):
                if whole and not needs_payload(record.header.kind, Role(role)):
                    continue
                near = await self._kademlia.holders(basis, self._replication)
                if holder in [contact.agent for contact in near]:
                    due.add(record.cid)
                    break
        return due

    async def _fail(
        self, holder: AgentId, missing: Sequence[Cid], signed: Mapping[Cid, Role] | None, convicted: bool
    ) -> None:
        self.counters.failed += 1
        said = "said it holds" if signed is None else "signed for"
        log.warning("%s cannot show %d records that it %s", holder.hex()[:8], len(missing), said)
        self._kademlia.report(holder, Misdeed.FAILED_CHALLENGE)
        if signed is not None or convicted:
            await self._void(holder, None if convicted else missing)

    async def _void(self, holder: AgentId, cids: Sequence[Cid] | None) -> None:
        count = await self._own.void(holder, cids)
        if count:
            self.counters.voided += count
            log.warning("what %s signed for %d own records is void", holder.hex()[:8], count)
            self._voided()

    def _is_there(self, agent: AgentId) -> bool:
        return agent != self._kademlia.agent and not self._kademlia.is_suspect(agent)


def _roles(signed: Sequence[SignedFor]) -> dict[Cid, Role]:
    roles: dict[Cid, Role] = {}
    for one in signed:
        roles[one.cid] = roles.get(one.cid, Role(0)) | Role(one.roles)
    return roles
