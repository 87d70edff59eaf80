"""Proofs of possession: before a copy is dropped, those who are to keep the others show that they have them.

Who asks names records and draws a nonce; the holder answers each with a hash over the nonce and the bytes it
holds, which nobody can compute without the bytes, and which the asker compares with its own. A hash proves
that the record can be had, not that it is served, so a few of the named records are fetched as well. A node
that has proven a record keeps it for `VOUCHED_S`, so that two that ask each other do not both drop theirs.

What this does not prove: a holder may ask another one for the bytes while it answers, may serve the asker and
nobody else, and may delete what it has proven a minute later. Signed receipts, which can be held against
it, come with a later release.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256

import trio

from chain import canonical
from chain.cid import DIGEST_SIZE, Cid, digest, record_cid_of_digest
from chain.errors import ChainError
from chain.identity import AgentId
from chain.record import Record, verify_signature
from dht.bundle import Item
from dht.errors import FrameError, RefusalCode, RequestRefused
from dht.kademlia import Kademlia
from dht.network import Network
from dht.ports import Random, RunBlocking
from dht.record_store import HeldStore
from dht.records import RecordService

PROOF_TAG = b"roseforest/proof/1\0"
NONCE_SIZE = 16
MAX_PROOFS = 256
"""Records proven in one answer: some 2 MB are read and hashed for it at most."""
MAX_PROOF_BYTES = 2 * 1024 * 1024
"""Records of one answer beyond so many bytes are left unproven: ask for them again."""
SPOT_CHECKS = 4
"""Of the records proven in one answer so many are fetched too."""
VOUCHED_S = 60.0
"""A record that was proven to somebody is not dropped for so long: longer than a look takes to act on it."""
MAX_VOUCHED = 200_000
"""Records vouched for at a time; beyond it nothing more is proven, and so nothing dropped elsewhere."""
MAX_PROOF_QUESTION = 16 * 1024

UNPROVEN = bytes(DIGEST_SIZE)


def proof_of(nonce: bytes, record: Record, whole: bool) -> bytes:
    """The hash that proves a record, with its payload if `whole`; 32 zero bytes when that is absent."""
    payload = record.payload if whole else b""
    if payload is None:
        return UNPROVEN
    return sha256(PROOF_TAG + nonce + record.header_bytes + payload).digest()


class Vouchers:
    """What this node has proven lately, and what it is about to drop; never the same record. O(1) each."""

    def __init__(self) -> None:
        self._until: OrderedDict[Cid, float] = OrderedDict()
        self._going: set[Cid] = set()

    def vouch(self, cid: Cid, now: float) -> bool:
        """Promise to keep a record; False when it is going, or too much was promised."""
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
        if cid in self._going or (len(self._until) >= MAX_VOUCHED and cid not in self._until):
            return False
        self._until[cid] = now + VOUCHED_S
        self._until.move_to_end(cid)
        return True

    def let_go(self, cids: Sequence[Cid], now: float) -> bool:
        """Begin to drop these, vouching for none of them until `gone`; False when one is promised."""
        if self.promised(cids, now):
            return False
        self._going.update(cids)
        return True

    def promised(self, cids: Sequence[Cid], now: float) -> bool:
        """Whether one of these was proven to somebody a moment ago."""
        return any(self._until.get(cid, now) > now for cid in cids)

    def gone(self, cids: Sequence[Cid]) -> None:
        """They were dropped, or not after all."""
        self._going.difference_update(cids)

    def forget(self, cids: Iterable[Cid]) -> None:
        """These are not here, so nothing was promised."""
        for cid in cids:
            self._until.pop(cid, None)


class Proofs:
    """Serves `record.prove`, and has others prove what they hold."""

    def __init__(
        self,
        network: Network,
        kademlia: Kademlia,
        records: RecordService,
        store: HeldStore,
        random: Random,
        run_blocking: RunBlocking,
        keeps: Callable[[], bool],
    ) -> None:
        """`keeps`: whether this node goes on holding things; one that is leaving vouches for nothing."""
        self.vouchers = Vouchers()
        self._kademlia = kademlia
        self._records = records
        self._store = store
        self._random = random
        self._run_blocking = run_blocking
        self._keeps = keeps
        network.register("record.prove", kademlia.members_only(self._serve, heavy=True))

    async def prove(self, agent: AgentId, wanted: Mapping[Cid, bool]) -> frozenset[Cid]:
        """Those of at most `MAX_PROOFS` records that `agent` proves; True where with payload.

        Empty when it does not serve what it has proven, which is held against it. Raises `NetworkError`.
        """
        cids = sorted(wanted)[:MAX_PROOFS]
        mine = await self._run_blocking(self._store.get_many, cids)
        nonce = self._random.random_bytes(NONCE_SIZE)
        question = canonical.encode([nonce, [[digest(cid), wanted[cid]] for cid in cids]])
        reply = await self._kademlia.request(agent, "record.prove", question)
        if len(reply) != DIGEST_SIZE * len(cids):
            raise FrameError(f"record.prove reply has {len(reply)} bytes, not {DIGEST_SIZE} for each record")
        proven: list[Cid] = []
        for place, (cid, record) in enumerate(zip(cids, mine, strict=True)):
            answer = reply[place * DIGEST_SIZE : (place + 1) * DIGEST_SIZE]
            expected = UNPROVEN if record is None else proof_of(nonce, record, wanted[cid])
            if answer == expected != UNPROVEN:
                proven.append(cid)
        checked = self._random.choice.sample(proven, min(SPOT_CHECKS, len(proven)))
        if not await self._serves(agent, {cid: wanted[cid] for cid in checked}):
            self._kademlia.report(agent)
            return frozenset()
        return frozenset(proven)

    async def _serves(self, agent: AgentId, wanted: Mapping[Cid, bool]) -> bool:
        left = sorted(wanted)
        while left:
            bundle = await self._records.fetch(agent, left)
            served = {
                item.record.cid
                for item in bundle.items
                if isinstance(item, Item)
                and (item.record.payload is not None or not wanted.get(item.record.cid, True))
                and verify_signature(item.record)
            }
            rest = [cid for cid in left if cid not in served]
            if len(rest) == len(left):
                return False
            left = rest
        return True

    async def _serve(self, _sender: AgentId, body: bytes) -> bytes:
        nonce, wanted = _question(body)
        if not self._keeps():
            return UNPROVEN * len(wanted)
        now = trio.current_time()
        cids = [record_cid_of_digest(one) for one, _ in wanted]
        vouched = {cid for cid in cids if self.vouchers.vouch(cid, now)}
        whole = [one for _, one in wanted]
        answers = await self._run_blocking(self._proofs, nonce, cids, whole, vouched)
        self.vouchers.forget(c for c, answer in zip(cids, answers, strict=True) if answer == UNPROVEN)
        return b"".join(answers)

    def _proofs(
        self, nonce: bytes, cids: Sequence[Cid], whole: Sequence[bool], vouched: set[Cid]
    ) -> list[bytes]:
        answers: list[bytes] = []
        budget = MAX_PROOF_BYTES
        for cid, with_payload in zip(cids, whole, strict=True):
            record = self._store.get_many([cid])[0] if cid in vouched and budget > 0 else None
            if record is None:
                answers.append(UNPROVEN)
                continue
            budget -= len(record.header_bytes) + len(record.payload or b"")
            answers.append(proof_of(nonce, record, with_payload))
        return answers


def _question(body: bytes) -> tuple[bytes, list[tuple[bytes, bool]]]:
    try:
        value = canonical.decode(body, MAX_PROOF_QUESTION)
    except ChainError as error:
        raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
    if (
        type(value) is not list
        or len(value) != 2
        or type(value[0]) is not bytes
        or len(value[0]) != NONCE_SIZE
        or type(value[1]) is not list
        or len(value[1]) > MAX_PROOFS
        or not all(
            type(one) is list
            and len(one) == 2
            and type(one[0]) is bytes
            and len(one[0]) == DIGEST_SIZE
            and type(one[1]) is bool
            for one in value[1]
        )
    ):
        raise RequestRefused(
            RefusalCode.BAD_REQUEST,
            f"record.prove takes a nonce and up to {MAX_PROOFS} pairs [digest, whole]",
        )
    return value[0], [(one[0], one[1]) for one in value[1]]
