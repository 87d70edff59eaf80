"""Receipts on the way: what a holder signs for a store request, and how who sent it checks that.

Both sides work out the same findings from the same items: the bases that follow from a record and its roles,
and whether it came with its payload. So a reply of `record.store` carries one signed statement and no tree.
A holder signs for what it holds and for what it found invalid; what is pending or parked it has not judged,
and of what was spoilt on its way there is nothing to be said.
A receipt that was signed over anything else than what was sent is none, and counts against its signer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chain.cid import Cid
from chain.errors import ChainError
from chain.identity import AgentId
from chain.receipt import MAX_BASES, Finding, Found, covers, open_batch
from chain.record import Record
from dht.errors import FrameError
from dht.records.bundle import Bundle, Item
from dht.records.placement import bases_of, roles_kept
from dht.records.replies import StoreStatus

MALFORMED = "malformed"
"""The rule named for an item that is no record."""
PAYLOAD_MISSING, NO_SUCH_SHARD = "payload-missing", "no-such-shard"
"""Rules named for an item that came without what its roles take, or for places that are none."""
UNSIGNED = frozenset({MALFORMED, PAYLOAD_MISSING, NO_SUCH_SHARD, "signature"})
"""Rules about how a record was brought, which its author has no part in: nothing is signed about it, or who
spoils a good record on its way would have honest holders sign that it is invalid.
"""

SignFound = Callable[[Sequence[Found]], bytes]
"""Signs findings with this node's key, see `chain.receipt.sign_batch`."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A record in a batch of receipts: its place among the leaves, and what its holder keeps of it."""

    cid: Cid
    place: int
    roles: int
    whole: bool


@dataclass(frozen=True, slots=True)
class KeptBatch:
    """Receipts as an author keeps them: the holder's statement, all leaf hashes, and the records held.

    Without a statement it is this node's own holding, which proves nothing to others.
    """

    holder: AgentId
    statement: bytes
    leaves: bytes
    rows: tuple[Kept, ...]


@dataclass(frozen=True, slots=True)
class SignedFor:
    """That a holder has signed for an own record, in short."""

    cid: Cid
    holder: AgentId
    roles: int
    whole: bool


def finding(record: Record, bases: Sequence[tuple[int, bytes]], valid: bool) -> Found:
    """What is signed about one record that came like this; `bases` as in `dht.records.placement.bases_of`."""
    named = tuple(sorted({basis for _, basis in bases})[:MAX_BASES]) if valid else ()
    header = record.header
    verdict = Finding.VALID if valid else Finding.INVALID
    return Found(record.cid, header.epoch, named, record.payload is not None, verdict)


def findings_of(
    bundle: Bundle, outcomes: Sequence[tuple[StoreStatus, str, Sequence[tuple[int, bytes]]]]
) -> list[Found]:
    """What a holder signs for a bundle; an outcome is status, rule, and the bases held under."""
    return [
        finding(item.record, bases, status is StoreStatus.HELD)
        for item, (status, rule, bases) in zip(bundle.items, outcomes, strict=True)
        if isinstance(item, Item) and _is_signed_for(status, rule)
    ]


def check_receipts(
    statement: bytes,
    holder: AgentId,
    network: Cid,
    sent: Sequence[tuple[Record, int, bytes | None]],
    statuses: Sequence[tuple[StoreStatus, str]],
) -> KeptBatch:
    """Verify what a holder signed for records sent with these roles (and shard basis), one status each.

    Raises `FrameError` for a statement that is not this holder's, of this network, over these findings.
    One signature and O(n) hashes: call it off the event loop.
    """
    leaves: list[bytes] = []
    rows: list[Kept] = []
    for (record, roles, shard), (status, rule) in zip(sent, statuses, strict=True):
        if not _is_signed_for(status, rule):
            continue
        kept = roles_kept(record.header.kind, roles)
        held = status is StoreStatus.HELD
        if held:
            rows.append(Kept(record.cid, len(leaves), int(kept), record.payload is not None))
        leaves.append(finding(record, bases_of(record, kept, shard), held).leaf())
    try:
        batch = open_batch(statement)
    except ChainError as error:
        raise FrameError(f"a receipt does not verify: {error}") from error
    if batch.holder != holder or batch.network != network or not covers(batch, leaves):
        raise FrameError("a receipt is another's, or signed over something else than what was stored")
    return KeptBatch(holder, statement, b"".join(leaves), tuple(rows))


def _is_signed_for(status: StoreStatus, rule: str) -> bool:
    return status is StoreStatus.HELD or (status is StoreStatus.INVALID and rule not in UNSIGNED)
