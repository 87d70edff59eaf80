"""Receipts: a holder's signed word on records that it was given, one signature for all records of a store.

What a holder found about a record (its CID, the epoch by whose rules it was judged, the bases under which it
is held, whether with its payload, and the verdict) is a *finding*. The holder signs one statement `receipt`
over the root of a Merkle tree whose leaves are the findings of a batch, and never sends the tree: who stored
the records knows what the leaves must be. Any single finding is presented with that statement and its path
(Merkle, "A certified digital signature", 1989): 600 bytes or so, which anybody can check alone. Network and
time are signed too: a receipt is worth nothing elsewhere, and one of before its holder was caught shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from chain import canonical
from chain.cid import Cid, is_raw_cid, is_record_cid
from chain.errors import ChainError, RecordError, SignatureError
from chain.identity import AgentId, Identity
from chain.merkle import HASH_SIZE, leaf_hash, path_of, root_along, root_of
from chain.statement import MAX_STATEMENT, open_statement, sign_statement

RECEIPT = "receipt"
MAX_FINDINGS = 512
"""Findings under one signature."""
MAX_BASES = 16
"""Bases that one finding names; a record held under more names the first ones."""
BASIS_SIZE = 32
MAX_RECEIPT = 4096
"""Bytes of a receipt that stands alone: statement, finding and path."""
MAX_TIME_US = 1 << 62


class Finding(IntEnum):
    """A holder's verdict on a record."""

    VALID = 0
    """Passed every rule, and is held."""
    INVALID = 1
    """Broke a rule; not held."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a holder found about one record. `bases` ascending; none for what is not held."""

    cid: Cid
    epoch: Cid
    bases: tuple[bytes, ...]
    whole: bool
    """Held with its payload: a full receipt; else only its header was judged and is held."""
    finding: Finding = Finding.VALID

    def leaf(self) -> bytes:
        """The hash of this finding in the tree; raises `RecordError` for one that no receipt may hold."""
        return leaf_hash(canonical.encode(found_value(self)))


@dataclass(frozen=True, slots=True)
class Batch:
    """A verified statement over the findings of one store: who signed when, and what it commits to."""

    holder: AgentId
    network: Cid
    issued_us: int
    count: int
    root: bytes
    data: bytes
    """The signed statement."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """One finding with its proof; made by `open_receipt` or `receipt_from`, so the signature holds."""

    holder: AgentId
    network: Cid
    issued_us: int
    found: Found
    data: bytes
    """The receipt as it is handed on."""


def sign_batch(identity: Identity, network: Cid, found: Sequence[Found], now_us: int) -> bytes:
    """Sign what was found about up to `MAX_FINDINGS` records. One signature and 2n hashes.

    Raises `RecordError` for no or too many findings, or one that is none.
    """
    if not 0 < len(found) <= MAX_FINDINGS:
        raise RecordError(f"a receipt is signed for 1 to {MAX_FINDINGS} records, not {len(found)}")
    root = root_of([one.leaf() for one in found])
    return sign_statement(identity, RECEIPT, [network, now_us, len(found), root]).data


def open_batch(data: bytes) -> Batch:
    """Verify a statement over findings. Raises `EncodingError`, `RecordError` or `SignatureError`."""
    statement = open_statement(RECEIPT, data)
    fields = statement.fields
    if (
        len(fields) != 4
        or not is_raw_cid(fields[0])
        or type(fields[1]) is not int
        or not 0 <= fields[1] < MAX_TIME_US
        or type(fields[2]) is not int
        or not 0 < fields[2] <= MAX_FINDINGS
        or type(fields[3]) is not bytes
        or len(fields[3]) != HASH_SIZE
    ):
        raise RecordError("a receipt's statement is [network, time, count, root]")
    return Batch(statement.author, fields[0], fields[1], fields[2], fields[3], data)


def covers(batch: Batch, leaves: Sequence[bytes]) -> bool:
    """Whether a batch was signed over exactly these leaves, in this order. O(n)."""
    return len(leaves) == batch.count and root_of(leaves) == batch.root


def write_receipt(batch: bytes, leaves: Sequence[bytes], place: int, found: Found) -> bytes:
    """One finding of a batch as a receipt that stands alone; `leaves` are the batch's. O(n)."""
    data = canonical.encode([batch, place, found_value(found), path_of(leaves, place)])
    if len(data) > MAX_RECEIPT:
        raise RecordError(f"a receipt has {len(data)} bytes, the limit is {MAX_RECEIPT}")
    return data


def open_receipt(data: bytes) -> Receipt:
    """Verify a receipt that stands alone; one signature and a few hashes.

    Raises `EncodingError`, `RecordError` or `SignatureError`.
    """
    value = canonical.decode(data, MAX_RECEIPT)
    if (
        type(value) is not list
        or len(value) != 4
        or type(value[0]) is not bytes
        or len(value[0]) > MAX_STATEMENT
        or type(value[1]) is not int
        or type(value[3]) is not list
        or len(value[3]) > MAX_FINDINGS.bit_length()
        or not all(type(one) is bytes and len(one) == HASH_SIZE for one in value[3])
    ):
        raise RecordError("a receipt is the array [statement, place, finding, path]")
    found = read_found(value[2])
    batch = open_batch(value[0])
    if root_along(found.leaf(), value[1], batch.count, value[3]) != batch.root:
        raise SignatureError("a receipt's finding is not among those that its holder signed")
    return Receipt(batch.holder, batch.network, batch.issued_us, found, data)


def verified_receipt(data: bytes) -> Receipt | None:
    """`open_receipt`, or None for what is none."""
    try:
        return open_receipt(data)
    except ChainError:
        return None


def found_value(found: Found) -> list[Any]:
    """A finding as the array that is encoded."""
    return [found.cid, found.epoch, list(found.bases), found.whole, int(found.finding)]


def read_found(value: object) -> Found:
    """A finding from a decoded array; raises `RecordError`."""
    if (
        type(value) is not list
        or len(value) != 5
        or not is_record_cid(value[0])
        or not (is_raw_cid(value[1]) or is_record_cid(value[1]))
        or type(value[2]) is not list
        or len(value[2]) > MAX_BASES
        or not all(type(basis) is bytes and len(basis) == BASIS_SIZE for basis in value[2])
        or any(a >= b for a, b in zip(value[2], value[2][1:], strict=False))
        or type(value[3]) is not bool
        or type(value[4]) is not int
        or value[4] not in (Finding.VALID, Finding.INVALID)
    ):
        raise RecordError("a finding is the array [record, epoch, bases, whole, verdict]")
    return Found(value[0], value[1], tuple(value[2]), value[3], Finding(value[4]))
