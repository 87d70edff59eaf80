"""The ledger: warrants and epochs that this node knows, and what follows from them.

It is told of notices that were judged valid, in any order, and says which of them are worth keeping. Of each
offender the earliest few unforgiven offences are kept, and every warrant that an epoch lifts; what is dropped
was not the earliest, so nobody can hide an offence by proving later ones, and all nodes that have heard the
same keep the same. Number and size of what is kept are bounded. No input or output, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from chain.agent_life import Rotation, revocation_in, rotation_of
from chain.cid import Cid
from chain.epoch import Epoch, epoch_from_body
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import EPOCH, REVOKE, ROTATE, WARRANTS
from chain.manifest import Manifest
from chain.record import Record, decode_payload
from chain.warrant import Offence, offence_of, proof_of
from crdt.standing import (
    CLEAR,
    NOBODY,
    Outsiders,
    Standing,
    has_two_geneses,
    is_forgiven,
    lifted_of,
    newest_of,
    outsiders_of,
    successors_of,
)

MAX_PER_OFFENDER = 4
"""Unforgiven warrants, and rotations, kept of one agent, the earliest: one would do, more spare fetching."""
MAX_SPARE = 8 * 1024
"""Bytes of a warrant that is kept beside an earlier one of the same offender: it spares fetching, no more."""
MAX_OFFENDERS = 20_000
"""Offenders of whom every node keeps warrants: some 60 MB, if nobody makes them long on purpose."""
MAX_BYTES = 256 << 20
"""Bytes of warrants and revocations above which no more offenders are kept. Beyond, only the holders of their
keys know of them.
"""
MAX_EPOCHS = 1024
MAX_ROTATIONS = 20_000
"""Agents of which it is kept that they go on under a new key: some 20 MB. Of each its first few rotations:
an honest one signs one, and who signs more has forked.
"""
REVOKED = "revoked"
"""The rule of the offence as which a revocation counts."""


@dataclass(frozen=True, slots=True)
class Told:
    """What one more notice changed: whether it is to be kept, and what need not be kept any more.

    `moved` are the agents whose records do not count from another place on than before, each with the first
    seq of those about which that makes a difference.
    """

    kept: bool
    dropped: tuple[Cid, ...] = ()
    moved: Mapping[AgentId, int] = field(default_factory=dict)


class Ledger:
    """Warrants and epochs of one network."""

    def __init__(self, manifest: Manifest, most_bytes: int = MAX_BYTES) -> None:
        self._most_bytes = most_bytes
        self._sizes: dict[Cid, int] = {}
        """Of the payloads of what is proven."""
        self._bytes = 0
        self._manifest = manifest
        self._network = manifest.network_id
        self._offences: dict[AgentId, dict[Cid, Offence]] = {}
        self._offender: dict[Cid, AgentId] = {}
        self._named: dict[Cid, None] = {}
        self._rotations: dict[AgentId, dict[Cid, Rotation]] = {}
        self._rotated: dict[Cid, AgentId] = {}
        self.epochs: dict[Cid, Epoch] = {}
        """The epochs after epoch 0, by the CID of the record that published them."""
        self.standing: Standing = CLEAR
        """From where on whose records do not count; a new object when that changes."""
        self.outsiders: Outsiders = NOBODY
        """Who is out of the network by its epochs; a new object with every epoch."""
        self._first: dict[AgentId, int] = {}

    def __contains__(self, cid: object) -> bool:
        return cid in self._offender or cid in self.epochs or cid in self._rotated

    def __len__(self) -> int:
        return len(self._offender)

    @property
    def newest(self) -> tuple[Cid, Epoch | None]:
        """The newest epoch: the highest number, of several the smallest CID; epoch 0 has no `Epoch`."""
        cid = newest_of(self.epochs, self._network)
        return cid, self.epochs.get(cid)

    @property
    def offences(self) -> Mapping[Cid, Offence]:
        """What is proven, by the CID of the warrant."""
        return {cid: one for of in self._offences.values() for cid, one in of.items()}

    def revoked(self, agent: AgentId) -> bool:
        """Whether the recovery key of `agent` has revoked its signing key."""
        known = self._offences.get(agent, {})
        lifted = lifted_of(known, self.epochs, self._network)
        return any(not one.pardonable and cid not in lifted for cid, one in known.items())

    def may_be_lifted(self, cid: Cid) -> bool:
        """Whether an epoch that names this notice would forgive anything."""
        known = self._offences.get(self._offender.get(cid, b""), {})
        found = known.get(cid)
        return found is not None and (found.pardonable or has_two_geneses(found.offender, known.values()))

    @property
    def lifted(self) -> frozenset[Cid]:
        """The warrants here whose offences are forgiven."""
        return lifted_of(self.offences, self.epochs, self._network)

    def earliest(self, agent: AgentId) -> int | None:
        """From which seq on nothing of `agent` counts: its earliest unforgiven offence, or an expulsion."""
        return self.standing.since(agent)

    def proven_from(self, agent: AgentId) -> int | None:
        """The seq of the earliest unforgiven offence of `agent`."""
        return self._first.get(agent)

    def decides(self, offence: Offence) -> bool:
        """Whether proving this would change from where on its offender's records count."""
        known = self._offences.get(offence.offender, {})
        first = self.proven_from(offence.offender)
        earlier = first is None or offence.seq < first
        return earlier and not is_forgiven(offence, known, self.epochs, self._network)

    def tell(self, notice: Record) -> Told:
        """Take a notice that was judged valid; one that is known changes nothing."""
        if notice.cid in self:
            return Told(kept=True)
        if notice.header.kind == EPOCH:
            return self._tell_epoch(notice)
        if notice.header.kind == ROTATE:
            return self._tell_rotation(notice)
        if notice.header.kind not in (*WARRANTS, REVOKE) or notice.payload is None:
            return Told(kept=False)
        offence = _offence_in(notice)
        full = len(self._offences) >= MAX_OFFENDERS or self._bytes >= self._most_bytes
        if full and offence.offender not in self._offences:
            return Told(kept=False)
        self._sizes[notice.cid] = len(notice.payload)
        self._bytes += len(notice.payload)
        self._offences.setdefault(offence.offender, {})[notice.cid] = offence
        self._offender[notice.cid] = offence.offender
        dropped, moved = self._settle(offence.offender)
        return Told(notice.cid in self, tuple(cid for cid in dropped if cid != notice.cid), moved)

    def _tell_rotation(self, notice: Record) -> Told:
        agent = notice.header.author
        if notice.payload is None or (agent not in self._rotations and len(self._rotations) >= MAX_ROTATIONS):
            return Told(kept=False)
        known = self._rotations.setdefault(agent, {})
        known[notice.cid] = rotation_of(notice)
        self._rotated[notice.cid] = agent
        gone = sorted(known, key=lambda cid: (known[cid].seq, cid))[MAX_PER_OFFENDER:]
        for cid in gone:
            del known[cid], self._rotated[cid]
        self._stand(self.standing.first, agent)
        return Told(notice.cid in self, tuple(cid for cid in gone if cid != notice.cid))

    def _stand(self, first: Mapping[AgentId, int], agent: AgentId) -> None:
        """The standing by `first`, in which nothing but what concerns `agent` is new."""
        successors = self.standing.successors
        found = successors_of(self._rotations.get(agent, {}).values(), first)
        if found.get(agent) != successors.get(agent):
            successors = {one: key for one, key in successors.items() if one != agent} | found
        self.standing = Standing(first, successors)

    def _tell_epoch(self, notice: Record) -> Told:
        if notice.payload is None or len(self.epochs) >= MAX_EPOCHS:
            return Told(kept=False)
        if notice.header.author not in self._manifest.stewards:
            # Anybody can publish a signed epoch once more, and each copy is one of another name: of a smaller
            # CID, which is the newer one, or a thousand of them, so that none has room after it.
            return Told(kept=False)
        try:
            epoch = epoch_from_body(decode_payload(notice.payload), self._manifest)
        except ChainError:
            return Told(kept=False)
        self.epochs[notice.cid] = epoch
        self._named.update(dict.fromkeys(epoch.lifted))
        before, self.outsiders = self.outsiders, outsiders_of(self.epochs, self._network)
        dropped: list[Cid] = []
        moved: dict[AgentId, int] = {}
        # An epoch may say that a lifting one comes before or after another that a warrant names: settle all.
        for agent in list(self._offences):
            gone, changed = self._settle(agent)
            dropped += gone
            moved |= changed
        for agent in sorted(before.expelled.keys() | self.outsiders.expelled.keys()):
            moved |= self._move(agent)
        return Told(True, tuple(dropped), moved)

    def _settle(self, agent: AgentId) -> tuple[list[Cid], dict[AgentId, int]]:
        """Keep of one offender what is to be kept; what went, and the agent if its standing changed."""
        known = self._offences[agent]
        lifted = lifted_of(known, self.epochs, self._network)
        open_ = sorted((one.seq, cid) for cid, one in known.items() if cid not in lifted)
        spare = [cid for _, cid in open_[1:] if self._sizes[cid] <= MAX_SPARE][: MAX_PER_OFFENDER - 1]
        keep = {cid for _, cid in open_[:1]} | set(spare) | (known.keys() & self._named.keys())
        # What can be lifted must not push out what cannot.
        keep |= {cid for _, cid in [pair for pair in open_ if not known[pair[1]].pardonable][:1]}
        # What may lift a revocation is kept, however it stands itself.
        keep |= set(sorted(cid for cid, one in known.items() if has_two_geneses(agent, [one]))[:1])
        gone = sorted(known.keys() - keep)
        for cid in gone:
            del known[cid], self._offender[cid]
            self._bytes -= self._sizes.pop(cid)
        if not known:
            del self._offences[agent]
        self._first.pop(agent, None)
        if open_:
            self._first[agent] = open_[0][0]
        return gone, self._move(agent)

    def _move(self, agent: AgentId) -> dict[AgentId, int]:
        """Take what is known of one agent into the standing; the agent, if that has changed it."""
        out = self.outsiders.expelled.get(agent)
        places = [
            seq for seq in (self._first.get(agent), None if out is None else out.since) if seq is not None
        ]
        first, before = min(places, default=None), self.standing.since(agent)
        if first == before:
            return {}
        others = dict(self.standing.first)
        others.pop(agent, None)
        self._stand(others if first is None else others | {agent: first}, agent)
        return {agent: min(seq for seq in (first, before) if seq is not None)}


def _offence_in(notice: Record) -> Offence:
    """What a warrant proves, or from where on a revocation says that nothing counts."""
    if notice.header.kind == REVOKE:
        said, (genesis, _) = revocation_in(REVOKE, decode_payload(notice.payload or b""))
        return Offence(said.agent, said.seq + 1, REVOKED, (genesis.cid,), (), pardonable=False)
    return offence_of(proof_of(notice))
