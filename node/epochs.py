"""Epochs from this node's side: proposing, signing and publishing the next one, and working in the newest.

An epoch needs the signatures of a threshold of stewards. A proposal is a small value that goes from steward
to steward as a file; each signs the same bytes, whoever has enough publishes it as a record of the own chain.
A node signs its records in the newest epoch that it can judge by, and never goes back to an earlier one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from chain.cid import Cid, to_text
from chain.epoch import MAX_EXPELLED, MAX_LIFTED, Epoch, Expulsion, epoch_body, epoch_from_body
from chain.errors import ChainError
from chain.identity import AgentId, Identity, peer_id, verify
from chain.kinds import EPOCH, KINDS_BY_RULE_VERSION
from chain.manifest import Manifest
from chain.record import Record
from chain.source_chain import Draft
from node.errors import Forbidden, InvalidInput, NotFound
from node.storage.own_chain import OwnChain
from validation.ledger import Ledger
from validation.payload_rules import EXPELS_FROM, FIXED_ATLAS


@dataclass(frozen=True, slots=True)
class Proposal:
    """An epoch and the stewards' signatures gathered so far, ascending by steward."""

    epoch: Epoch
    signatures: tuple[tuple[AgentId, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class EpochView:
    """An epoch as it stands: its record (for epoch 0 the network's id), and whether this node works in it."""

    id: Cid
    number: int
    rules: int
    atlas: Cid | None
    lifted: tuple[Cid, ...]
    current: bool
    expelled: tuple[Expulsion, ...] = ()
    readmitted: tuple[AgentId, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """An epoch that brought another atlas: its number, the atlas, and its publisher's clock in µs."""

    number: int
    atlas: Cid | None
    published_us: int


class Epochs:
    """The epochs of one network. `write` appends a notice to the own chain and tells everybody."""

    def __init__(
        self,
        identity: Identity,
        manifest: Manifest,
        own: OwnChain,
        ledger: Ledger,
        write: Callable[[Draft], Awaitable[Record]],
        records_of: Callable[[Sequence[Cid]], list[Record | None]],
    ) -> None:
        self._identity = identity
        self._manifest = manifest
        self._network = manifest.network_id
        self._own = own
        self._ledger = ledger
        self._write = write
        self._records_of = records_of
        self.usable: Callable[[Cid | None], bool] = lambda atlas: atlas == manifest.atlas
        """Whether this node has an atlas that an epoch names."""

    @property
    def rules(self) -> int:
        """The rule version that what is written now is judged by."""
        epoch = self._ledger.epochs.get(self._own.epoch)
        return self._manifest.rules if epoch is None else epoch.rules

    def adopt(self) -> bool:
        """Go on in the newest epoch whose rules are known and whose atlas is here; whether that is new."""
        before = self._own.epoch
        number = self._number(before)
        newer = [
            (-epoch.number, cid)
            for cid, epoch in self._ledger.epochs.items()
            if epoch.rules in KINDS_BY_RULE_VERSION
            and (number is None or epoch.number > number)
            and self.usable(epoch.atlas)
        ]
        if newer and number is not None:
            self._own.epoch = min(newer)[1]
        return self._own.epoch != before

    def resume(self) -> None:
        """Go on where the own chain stopped, before newer epochs are known."""
        head = self._own.head()
        last = None if head is None else self._own.at(head.seq)
        if last is not None:
            self._own.epoch = last.header.epoch

    def known(self) -> list[EpochView]:
        """All epochs known here, by number."""
        manifest, current = self._manifest, self._own.epoch
        zero = EpochView(self._network, 0, manifest.rules, manifest.atlas, (), current == self._network)
        later = [view_of(cid, one, cid == current) for cid, one in self._ledger.epochs.items()]
        return [zero, *sorted(later, key=lambda one: (one.number, one.id))]

    def lineage(self) -> list[Cid]:
        """The records of the epochs from epoch 1 to the current one, in order."""
        found: list[Cid] = []
        at = self._own.epoch
        while (epoch := self._ledger.epochs.get(at)) is not None:
            found.append(at)
            at = epoch.previous
        return found[::-1]

    def steps(self) -> list[Step]:
        """The epochs up to the current one that brought another atlas, epoch 0 first."""
        found = [Step(0, self._manifest.atlas, self._manifest.founded)]
        line = self.lineage()
        for cid, record in zip(line, self._records_of(line), strict=True):
            epoch = self._ledger.epochs[cid]
            if epoch.atlas != found[-1].atlas:
                found.append(Step(epoch.number, epoch.atlas, 0 if record is None else record.header.hlc))
        return found

    def ahead(self) -> list[Step]:
        """The newer epochs whose rules this node knows, by number."""
        number = self._number(self._own.epoch) or 0
        known = (one for one in self._ledger.epochs.values() if one.rules in KINDS_BY_RULE_VERSION)
        ahead = [Step(one.number, one.atlas, 0) for one in known if one.number > number]
        return sorted(ahead, key=lambda step: step.number)

    def propose(
        self,
        lifted: Iterable[Cid],
        rules: int | None,
        expel: Iterable[tuple[AgentId, int]] = (),
        readmit: Iterable[AgentId] = (),
        guests: bool = False,
        atlas: Cid | None = None,
    ) -> Proposal:
        """The epoch after the current one, unsigned; raises `InvalidInput` or `NotFound`.

        `expel` are agents to be put out, each with the seq from which on nothing of it is to count, and with
        `guests` those whom they have let in or will; `readmit` may name such a guest, to keep it. Rules and
        atlas stay where they are None; the atlas has been looked at (`Atlases.require`).
        """
        number = self._number(self._own.epoch)
        if number is None:
            raise InvalidInput("this node does not know the epoch it works in yet: wait until it has peers")
        lift = tuple(sorted(set(lifted)))
        missing = [cid for cid in lift if not self._ledger.may_be_lifted(cid)]
        if missing:
            raise NotFound(
                f"no warrant {to_text(missing[0])} to be lifted is known here: see roseforest warrants"
            )
        if len(lift) > MAX_LIFTED:
            raise InvalidInput(f"an epoch lifts at most {MAX_LIFTED} warrants")
        expelled = {agent: Expulsion(agent, since, guests) for agent, since in expel}
        out = self._ledger.outsiders.expelled
        keeps = any(one.guests for one in (*out.values(), *expelled.values()))
        strangers = [agent for agent in readmit if agent not in out and not keeps]
        if strangers:
            raise NotFound(f"{peer_id(strangers[0])} is not out of this network")
        epoch = Epoch(
            self._network,
            self._own.epoch,
            number + 1,
            atlas or self._atlas,
            rules or self.rules,
            lift,
            tuple(expelled[agent] for agent in sorted(expelled)),
            tuple(sorted(set(readmit))),
        )
        self._check(epoch)
        return Proposal(epoch)

    def sign(self, proposal: Proposal) -> Proposal:
        """The proposal with this agent's signature; raises `Forbidden` or `InvalidInput`."""
        agent = self._identity.agent
        if agent not in self._manifest.stewards:
            raise Forbidden(f"{peer_id(agent)} is no steward of this network")
        self._check(proposal.epoch)
        others = [pair for pair in self._checked(proposal) if pair[0] != agent]
        mine = proposal.epoch.sign(self._identity)
        return replace(proposal, signatures=tuple(sorted([*others, mine])))

    async def publish(self, proposal: Proposal) -> EpochView:
        """Publish a proposal that enough stewards have signed, of whom this agent is one.

        Raises `Forbidden`, `InvalidInput` and `StorageError`.
        """
        if self._identity.agent not in self._manifest.stewards:
            raise Forbidden("only a steward publishes an epoch: what others publish counts nowhere")
        self._check(proposal.epoch)
        signatures = self._checked(proposal)
        body = epoch_body(proposal.epoch, signatures)
        try:
            epoch = epoch_from_body(body, self._manifest)
        except ChainError as error:
            raise InvalidInput(str(error)) from error
        record = await self._write(Draft(EPOCH, body))
        return view_of(record.cid, epoch, True)

    def _check(self, epoch: Epoch) -> None:
        """Raise `InvalidInput` unless this may be the next epoch."""
        if epoch.network != self._network:
            raise InvalidInput("the proposal is for another network")
        if epoch.previous != self._own.epoch:
            raise InvalidInput(
                "the proposal does not follow the newest epoch: propose it anew and have it signed again"
            )
        number = self._number(self._own.epoch)
        if number is not None and epoch.number != number + 1:
            raise InvalidInput(f"the proposal is epoch {epoch.number}, the next one is {number + 1}")
        if epoch.rules not in KINDS_BY_RULE_VERSION or epoch.rules < self.rules:
            newest = max(KINDS_BY_RULE_VERSION)
            raise InvalidInput(
                f"rule version {epoch.rules} is none to go to: this network is at {self.rules}, "
                f"and this release knows {newest} at most"
            )
        if (epoch.expelled or epoch.readmitted) and self.rules < EXPELS_FROM:
            raise InvalidInput(
                f"this network is at rule version {self.rules}, which puts nobody out: go to version "
                f"{EXPELS_FROM} by an epoch first (epoch propose --rules {EXPELS_FROM})"
            )
        rests_on = {self._manifest.founder, *self._manifest.stewards}
        for agent in (*(one.agent for one in epoch.expelled), *epoch.readmitted):
            if agent in rests_on:
                raise InvalidInput(f"{peer_id(agent)} is the founder or a steward, who cannot be put out")
        both = {one.agent for one in epoch.expelled} & set(epoch.readmitted)
        if both:
            raise InvalidInput(f"{peer_id(min(both))} cannot be put out and let in again at once")
        if max(len(epoch.expelled), len(epoch.readmitted)) > MAX_EXPELLED:
            raise InvalidInput(f"an epoch puts out, or lets in again, at most {MAX_EXPELLED} agents")
        if epoch.atlas != self._atlas and self.rules <= FIXED_ATLAS:
            raise InvalidInput(
                f"this network is at rule version {self.rules}, which keeps the atlas: publish an epoch with "
                f"--rules {FIXED_ATLAS + 1} first"
            )

    @property
    def _atlas(self) -> Cid | None:
        now = self._ledger.epochs.get(self._own.epoch)
        return self._manifest.atlas if now is None else now.atlas

    def _checked(self, proposal: Proposal) -> list[tuple[AgentId, bytes]]:
        message = proposal.epoch.message()
        for steward, signature in proposal.signatures:
            if steward not in self._manifest.stewards:
                raise InvalidInput(f"the proposal is signed by {peer_id(steward)}, who is no steward")
            if not verify(steward, message, signature):
                raise InvalidInput(
                    f"the signature of {peer_id(steward)} is over another proposal: the file was changed"
                )
        return sorted(dict(proposal.signatures).items())

    def _number(self, cid: Cid) -> int | None:
        if cid == self._network:
            return 0
        known = self._ledger.epochs.get(cid)
        return None if known is None else known.number


def view_of(cid: Cid, epoch: Epoch, current: bool) -> EpochView:
    """An epoch after epoch 0, as it was published by this record."""
    return EpochView(
        cid,
        epoch.number,
        epoch.rules,
        epoch.atlas,
        epoch.lifted,
        current,
        epoch.expelled,
        epoch.readmitted,
    )
