"""What an owner does with an agent as a whole: close its chain, hand over to a new key, revoke a stolen one.

Each is one record of the own chain. Nothing is signed here but that record: the successor's consent and the
recovery key's word come from the command that has these keys, so a daemon never sees them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from chain.agent_life import (
    check_consent,
    check_recovery,
    open_revocation,
    revocation_body,
    rotation_body,
)
from chain.cid import Cid
from chain.errors import ChainError
from chain.identity import AgentId, peer_id
from chain.kinds import CLOSE, KINDS_BY_RULE_VERSION, REVOKE, ROTATE
from chain.manifest import Manifest
from chain.record import Record
from chain.source_chain import Draft
from dht.errors import NetworkError
from dht.evidence.claims import SESSION_SIZE
from dht.evidence.heads import Asks, Heads
from dht.overlay.kademlia import Kademlia
from dht.records.basis import author_basis
from node.errors import InvalidInput, NotFound
from node.storage.own_chain import OwnChain
from validation.ledger import Ledger

HOLDERS: Final = 5
"""Holders of an agent's activity asked for one of its records."""

Write = Callable[[Draft], Awaitable[Record]]
"""Appends a draft, durably, and shows it to the network."""


@dataclass(frozen=True, slots=True)
class Whose:
    """An agent's keys: those it went on under, in order, and all others of it; from which seq on it is not
    heard, if so, and whether that is because its key is revoked.
    """

    agent: AgentId
    successors: tuple[AgentId, ...]
    same: tuple[AgentId, ...]
    since: int | None
    revoked: bool


class AgentLife:
    """The verbs; `write` appends to the own chain."""

    def __init__(
        self,
        own: OwnChain,
        manifest: Manifest,
        kademlia: Kademlia,
        heads: Heads,
        ledger: Ledger,
        write: Write,
        rules: Callable[[], int],
    ) -> None:
        """`rules`: the rule version that own records are judged by now."""
        self._own = own
        self._manifest = manifest
        self._kademlia = kademlia
        self._heads = heads
        self._ledger = ledger
        self._write = write
        self._rules = rules

    async def close(self, agent: AgentId) -> Record:
        """Close the own chain for ever. `agent` has to be this one: said so that nobody closes another."""
        self._require_self(agent)
        return await self._write(Draft(CLOSE, {}))

    async def rotate(self, successor: AgentId, consent: bytes) -> Record:
        """End the own chain in favour of `successor`; what was written already is returned again."""
        self._require_rules(ROTATE)
        newest = self._own.newest()
        if newest is not None and newest.header.kind == ROTATE:
            return newest
        try:
            check_consent(consent, successor, self._manifest.network_id, self._kademlia.agent)
        except ChainError as error:
            raise InvalidInput(str(error)) from error
        return await self._write(Draft(ROTATE, rotation_body(successor, consent)))

    async def revoke(self, statement: bytes) -> Record:
        """Publish a revocation.

        Raises `InvalidInput` for what is none, or is signed by another key than the agent's recovery key, and
        `NotFound` when nobody shows the agent's opening.
        """
        self._require_rules(REVOKE)
        try:
            said = open_revocation(statement)
        except ChainError as error:
            raise InvalidInput(f"this is no revocation: {error}") from error
        if said.network != self._manifest.network_id:
            raise InvalidInput("the revocation is for another network")
        if said.agent == self._kademlia.agent:
            raise InvalidInput("a revoked key cannot publish its own revocation: use another home")
        genesis, membrane = await self._records(said.agent, 0, 2)
        try:
            check_recovery(said, genesis)
        except ChainError as error:
            raise InvalidInput(str(error)) from error
        return await self._write(Draft(REVOKE, revocation_body(statement, (genesis, membrane))))

    def whose(self, agent: AgentId) -> Whose:
        """What is known here of the keys of an agent."""
        ledger = self._ledger
        return Whose(
            agent,
            ledger.standing.line_of(agent)[1:],
            tuple(one for one in ledger.standing.same_as(agent) if one != agent),
            ledger.earliest(agent),
            ledger.revoked(agent),
        )

    async def record_at(self, agent: AgentId, seq: int) -> Cid:
        """The CID of an agent's record at a place of its chain; `NotFound`, also when it forked there."""
        if agent == self._kademlia.agent:
            own = self._own.at(seq)
            if own is not None:
                return own.cid
            raise NotFound(f"this chain has no record at seq {seq}")
        (record,) = await self._records(agent, seq, 1)
        return record.cid

    async def ends_at(self, agent: AgentId) -> int:
        """The seq after the last record of an agent that the holders of its activity show; `NotFound`."""
        seqs: list[int] = []
        for contact in await self._kademlia.holders(author_basis(agent), HOLDERS):
            if contact.agent == self._kademlia.agent:
                seqs += [record.header.seq for record in self._heads.last_here(agent)]
                continue
            try:
                answer = await self._heads.head(contact.agent, agent, Asks.LOOK, bytes(SESSION_SIZE))
            except NetworkError:
                continue
            seqs += [seq for seq, _ in answer.heads]
        if not seqs:
            raise NotFound(f"nobody shows the chain of {peer_id(agent)}: say since which seq nothing counts")
        return max(seqs) + 1

    async def _records(self, agent: AgentId, seq: int, count: int) -> list[Record]:
        """Records of an agent from a place on, from those who hold its activity."""
        wanted = range(seq, seq + count)
        for contact in await self._kademlia.holders(author_basis(agent), HOLDERS):
            try:
                found = (
                    self._heads.here(agent, seq)
                    if contact.agent == self._kademlia.agent
                    else await self._heads.headers(contact.agent, agent, seq)
                )
            except NetworkError:
                continue
            records = [record for record in found if record.header.seq in wanted]
            if [record.header.seq for record in records] == list(wanted):
                return records
        raise NotFound(
            f"nobody who holds the activity of {peer_id(agent)} shows one record at each seq from {seq} to "
            f"{seq + count - 1}"
        )

    def _require_self(self, agent: AgentId) -> None:
        if agent != self._kademlia.agent:
            raise InvalidInput(f"this node is {peer_id(self._kademlia.agent)}, not {peer_id(agent)}")

    def _require_rules(self, kind: str) -> None:
        rules = self._rules()
        if kind not in KINDS_BY_RULE_VERSION[rules]:
            raise InvalidInput(f"this network's rules (version {rules}) do not know {kind}")
