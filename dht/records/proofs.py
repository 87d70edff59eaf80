"""Proofs of possession: a holder shows that it has the bytes, without sending them.

Who asks names records and draws a nonce; the holder answers each with a hash over its own key, the nonce and
the bytes it holds. Nobody can compute it without the bytes, an answer of another holder is of no use, and the
asker compares it with its own. It is asked in two cases. Before a copy is *dropped*, those who are to keep
the others prove theirs, and as a hash proves that a record can be had, not that it is served, a few of the
named records are fetched as well; who has proven a record to somebody who may drop his keeps it for
`VOUCHED_S`, so that two that ask each other do not both drop theirs. And at random times a holder is
*challenged* (`dht.evidence.challenges`) on what it has signed for or says it holds; that promises nothing.

A member can have records kept a while beyond their time by asking for proofs of them; but of every
`CYCLE_S` a record can be pinned for `PINNABLE_S` and `VOUCHED_S` at most, however many ask.

What this does not prove: a holder may fetch the bytes from another one while it answers, may serve the asker
and nobody else, and may delete what it has proven a minute later; then the next challenge finds it out.
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
from dht.errors import FrameError, RefusalCode, RequestRefused
from dht.network import Network
from dht.overlay.kademlia import Kademlia
from dht.ports import Random, RunBlocking
from dht.records.bundle import Item
from dht.records.methods import RecordService
from dht.records.record_store import HeldStore

PROOF_TAG = b"roseforest/proof/2\0"
OLD_PROOF_TAG = b"roseforest/proof/1\0"
"""For askers of an older release, whose question has two parts; that proof names no holder."""
NONCE_SIZE = 16
MAX_PROOFS = 256
"""Records proven in one answer: some 2 MB are read and hashed for it at most."""
MAX_PROOF_BYTES = 2 * 1024 * 1024
"""Records of one answer beyond so many bytes are left unproven: ask for them again."""
SPOT_CHECKS = 4
"""Of the records proven in one answer so many are fetched too."""
VOUCHED_S = 60.0
"""A record that was proven to somebody is not dropped for so long: longer than a look takes to act on it."""
PINNABLE_S = 180.0
"""For so long after it would have gone it may be vouched for again; then not before `CYCLE_S` have passed."""
CYCLE_S = 600.0
MAX_VOUCHED = 200_000
"""Records vouched for at a time; beyond it nothing more is proven, and so nothing dropped elsewhere."""
MAX_PROOF_QUESTION = 16 * 1024

PROVE_TIMEOUT_S = 10.0
"""At most so long an answer is waited for: a busy holder reads from its disk, and is no liar."""

UNPROVEN = bytes(DIGEST_SIZE)


def proof_of(nonce: bytes, record: Record, whole: bool, holder: AgentId | None) -> bytes:
    """The hash by which `holder` proves a record, with its payload if `whole`; zeros when that is absent.

    None: as an older release asks for it.
    """
    payload = record.payload if whole else b""
    if payload is None:
        return UNPROVEN
    tag = OLD_PROOF_TAG if holder is None else PROOF_TAG + holder
    return sha256(tag + nonce + record.header_bytes + payload).digest()


def answerable(records: Sequence[tuple[Record, bool]]) -> list[tuple[Record, bool]]:
    """Those of the records that one answer has room to prove, ascending: as the holder counts them."""
    chosen: list[tuple[Record, bool]] = []
    budget = MAX_PROOF_BYTES
    for record, whole in sorted(records, key=lambda pair: pair[0].cid)[:MAX_PROOFS]:
        if budget <= 0:
            break
        budget -= len(record.header_bytes) + len(record.payload or b"")
        chosen.append((record, whole))
    return chosen


class Vouchers:
    """What this node has proven lately, and what it is about to drop; never the same record. O(1) each.

    Who keeps a record anyway vouches for it as often as it is asked; how long it can be pinned counts from
    the time when this node would have let it go (`promised`).
    """

    def __init__(self) -> None:
        self._until: OrderedDict[Cid, float] = OrderedDict()
        """Until when each record is vouched for, what ends first first."""
        self._wanted: OrderedDict[Cid, float] = OrderedDict()
        """Since when each record would have gone but for a promise, oldest first."""
        self._going: set[Cid] = set()

    def vouch(self, cid: Cid, now: float) -> bool:
        """Promise to keep a record; False when it is going, too much was promised, or this one too long."""
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
        while self._wanted and next(iter(self._wanted.values())) + CYCLE_S <= now:
            self._wanted.popitem(last=False)
        if cid in self._going or now >= self._wanted.get(cid, now) + PINNABLE_S:
            return False
        if len(self._until) >= MAX_VOUCHED and cid not in self._until:
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
        """Whether one of these, which could go, was proven to somebody a moment ago."""
        kept = [cid for cid in cids if self._until.get(cid, now) > now]
        for cid in kept:
            self._wanted.setdefault(cid, now)
        while len(self._wanted) > MAX_VOUCHED:
            self._wanted.popitem(last=False)
        return bool(kept)

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
        known = {record.cid: record for record in mine if record is not None}
        proven = await self._asked(agent, {cid: wanted[cid] for cid in cids}, known, keep=True)
        checked = self._random.choice.sample(proven, min(SPOT_CHECKS, len(proven)))
        if not await self._serves(agent, {cid: wanted[cid] for cid in checked}):
            self._kademlia.report(agent)
            return frozenset()
        return frozenset(proven)

    async def challenge(self, agent: AgentId, records: Sequence[tuple[Record, bool]]) -> frozenset[Cid]:
        """Those of at most `MAX_PROOFS` records that `agent` proves to have; True where with payload.

        Raises `NetworkError`.
        """
        known = {record.cid: record for record, _ in records[:MAX_PROOFS]}
        wanted = {record.cid: whole for record, whole in records[:MAX_PROOFS]}
        return frozenset(await self._asked(agent, wanted, known, keep=False))

    async def _asked(
        self, agent: AgentId, wanted: Mapping[Cid, bool], known: Mapping[Cid, Record], keep: bool
    ) -> list[Cid]:
        """The records that `agent` proves, ascending; `keep`: it is to keep them for a while, too."""
        cids = sorted(wanted)
        nonce = self._random.random_bytes(NONCE_SIZE)
        question = canonical.encode([nonce, [[digest(cid), wanted[cid]] for cid in cids], keep])
        reply = await self._kademlia.request(agent, "record.prove", question, most=PROVE_TIMEOUT_S)
        if len(reply) != DIGEST_SIZE * len(cids):
            raise FrameError(f"record.prove reply has {len(reply)} bytes, not {DIGEST_SIZE} for each record")
        proven: list[Cid] = []
        for place, cid in enumerate(cids):
            record = known.get(cid)
            answer = reply[place * DIGEST_SIZE : (place + 1) * DIGEST_SIZE]
            expected = UNPROVEN if record is None else proof_of(nonce, record, wanted[cid], agent)
            if answer == expected != UNPROVEN:
                proven.append(cid)
        return proven

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
        nonce, wanted, keep = _question(body)
        cids = [record_cid_of_digest(one) for one, _ in wanted]
        whole = [one for _, one in wanted]
        holder = None if keep is None else self._kademlia.agent
        if keep is False:
            answers, _ = await self._run_blocking(self._proofs, nonce, cids, whole, set(cids), holder)
            return b"".join(answers)
        if not self._keeps():
            return UNPROVEN * len(wanted)
        now = trio.current_time()
        vouched = {cid for cid in cids if self.vouchers.vouch(cid, now)}
        answers, absent = await self._run_blocking(self._proofs, nonce, cids, whole, vouched, holder)
        self.vouchers.forget(absent)
        return b"".join(answers)

    def _proofs(
        self,
        nonce: bytes,
        cids: Sequence[Cid],
        whole: Sequence[bool],
        vouched: set[Cid],
        holder: AgentId | None,
    ) -> tuple[list[bytes], list[Cid]]:
        """The answers, and which of the records are not here: of others a promise may stand."""
        answers: list[bytes] = []
        absent: list[Cid] = []
        budget = MAX_PROOF_BYTES
        for cid, with_payload in zip(cids, whole, strict=True):
            if cid not in vouched or budget <= 0:
                answers.append(UNPROVEN)
                continue
            record = self._store.get_many([cid])[0]
            if record is None:
                answers.append(UNPROVEN)
                absent.append(cid)
                continue
            budget -= len(record.header_bytes) + len(record.payload or b"")
            answers.append(proof_of(nonce, record, with_payload, holder))
        return answers, absent


def _question(body: bytes) -> tuple[bytes, list[tuple[bytes, bool]], bool | None]:
    """The nonce, what is to be proven, and whether it is to be kept; None for an older asker: it is."""
    try:
        value = canonical.decode(body, MAX_PROOF_QUESTION)
    except ChainError as error:
        raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
    if (
        type(value) is not list
        or len(value) not in (2, 3)
        or not all(type(keep) is bool for keep in value[2:])
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
            f"record.prove takes a nonce, up to {MAX_PROOFS} pairs [digest, whole], and whether to keep them",
        )
    return value[0], [(one[0], one[1]) for one in value[1]], value[2] if len(value) == 3 else None
