"""Frontiers: how far two holders have an author's chain, told in one line instead of found by ranges.

A chain's headers come one after the other, and each names the one before. So a holder that has all of them up
to some seq says that seq; and when its header at the seq where the other's ends is the same, all before it
are. What one of them lacks is then the end of the chain, whatever its length, while ranges would look for it
among ids in no order. It is worth asking for long chains only. A chain with a gap or a fork in it has no
frontier here: it is compared by ranges.

`record.frontiers` asks about up to `MAX_FRONTIERS` pairs [author, seq], seq being where the asker's chain
ends, and is answered by [seq, digest] or nil for each: where the holder's chain ends, and the digest of its
header at the lower of the two. Nobody is believed for long: every sweep compares these chains by ranges, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chain import canonical
from chain.cid import DIGEST_SIZE, Cid, digest, record_cid_of_digest
from chain.errors import ChainError
from chain.identity import AGENT_ID_SIZE, AgentId
from chain.record import MAX_INT
from dht.errors import FrameError, RefusalCode, RequestRefused
from dht.network import Network
from dht.overlay.kademlia import Kademlia
from dht.ports import RunBlocking
from dht.records.record_store import Chain, HeldStore
from dht.repair.transfers import Transfers

FRONTIERS: Final = "record.frontiers"
MAX_FRONTIERS: Final = 256
MAX_QUESTION: Final = 16 * 1024
MAX_REPLY: Final = MAX_FRONTIERS * 64
MAX_LACKING: Final = 50_000
"""Headers of one chain that are found lacking at a time; the rest when those have been sent."""


@dataclass(frozen=True, slots=True)
class Frontier:
    """Where a holder's chain ends, and its record there or, if ours ends before it, where ours does."""

    seq: int
    cid: Cid


class Frontiers:
    """Answers `record.frontiers`, and asks by it."""

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
        network.register(FRONTIERS, kademlia.members_only(self._serve, heavy=True))

    async def lacking(self, agent: AgentId, chains: Sequence[Chain]) -> list[frozenset[Cid] | None]:
        """What `agent` lacks of each of these chains of ours; None where frontiers do not tell.

        Only of the first `MAX_FRONTIERS`. Raises `FrameError` for an answer that is none, and what
        `Kademlia.request` raises.
        """
        asked = chains[:MAX_FRONTIERS]
        body = canonical.encode([[chain.author, chain.seq] for chain in asked])
        try:
            with self._transfers.asking(agent):
                reply = await self._kademlia.request(agent, FRONTIERS, body)
        except RequestRefused as refusal:
            if refusal.code == RefusalCode.UNKNOWN_METHOD:
                return [None] * len(chains)
            raise
        said = _frontiers(reply, len(asked))
        found = await self._run_blocking(self._compare, asked, said)
        return found + [None] * (len(chains) - len(asked))

    def _compare(
        self, chains: Sequence[Chain], said: Sequence[Frontier | None]
    ) -> list[frozenset[Cid] | None]:
        found: list[frozenset[Cid] | None] = []
        for chain, theirs in zip(chains, said, strict=True):
            if theirs is None:
                found.append(None)
            elif theirs.seq >= chain.seq:
                found.append(frozenset() if theirs.cid == chain.head else None)
            elif self._store.cid_of_seq(chain.author, theirs.seq) == theirs.cid:
                found.append(frozenset(self._store.chain_cids(chain.author, theirs.seq, MAX_LACKING)))
            else:
                found.append(None)
        return found

    async def _serve(self, _sender: AgentId, body: bytes) -> bytes:
        return await self._run_blocking(self._answer, _question(body))

    def _answer(self, asked: Sequence[tuple[AgentId, int]]) -> bytes:
        answers: list[list[object] | None] = []
        for author, seq in asked:
            chain = self._store.chain(author)
            cid = None
            if chain is not None:
                cid = chain.head if seq >= chain.seq else self._store.cid_of_seq(author, seq)
            answers.append(None if chain is None or cid is None else [chain.seq, digest(cid)])
        return canonical.encode(answers)


def _question(body: bytes) -> list[tuple[AgentId, int]]:
    try:
        value = canonical.decode(body, MAX_QUESTION)
    except ChainError as error:
        raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
    if type(value) is not list or len(value) > MAX_FRONTIERS or not all(map(_is_question, value)):
        raise RequestRefused(
            RefusalCode.BAD_REQUEST, f"{FRONTIERS} takes up to {MAX_FRONTIERS} pairs [author, seq]"
        )
    return [(author, seq) for author, seq in value]


def _is_question(pair: object) -> bool:
    return (
        type(pair) is list
        and len(pair) == 2
        and type(pair[0]) is bytes
        and len(pair[0]) == AGENT_ID_SIZE
        and type(pair[1]) is int
        and 0 <= pair[1] <= MAX_INT
    )


def _frontiers(reply: bytes, count: int) -> list[Frontier | None]:
    try:
        value = canonical.decode(reply, MAX_REPLY)
    except ChainError as error:
        raise FrameError(f"{FRONTIERS} reply is malformed: {error}") from error
    if type(value) is not list or len(value) != count:
        raise FrameError(f"{FRONTIERS} reply does not hold {count} frontiers")
    found: list[Frontier | None] = []
    for one in value:
        if one is None:
            found.append(None)
            continue
        if (
            type(one) is not list
            or len(one) != 2
            or type(one[0]) is not int
            or not 0 <= one[0] <= MAX_INT
            or type(one[1]) is not bytes
            or len(one[1]) != DIGEST_SIZE
        ):
            raise FrameError("a frontier is the array [seq, digest]")
        found.append(Frontier(one[0], record_cid_of_digest(one[1])))
    return found
