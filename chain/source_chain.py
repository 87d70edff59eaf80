"""The source chain: appending the next record, and verifying a whole chain.

Both are pure. `next_record` turns a draft into a signed record after a given head; the caller supplies the
clock value and the salt, and owns making it durable before anyone sees it. `verify_chain` walks an agent's
records from seq 0 and names the first position that does not hold; it needs headers only, so a chain with
erased payloads still verifies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from chain.cid import Cid, raw_cid
from chain.errors import ChainBrokenError, ChainForkedError, RecordError
from chain.identity import AgentId, Identity
from chain.kinds import ENDS, OPENING
from chain.record import VERSION, Header, Record, encode_payload, sign_record, verify_signature

MAX_LEAP = 1_000_000
"""How far a lamport may be ahead of the clock, in µs, when a record is signed: it moves the clock along."""
MAX_FORWARD = 120_000_000
"""How far what a record builds on may be ahead of its author's clock, in µs. Others acknowledge a record when
its time has come, and a chain's clock never goes back: one from the far future would silence it till then.
"""


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain: what the next record builds on."""

    seq: int
    cid: Cid
    lamport: int
    hlc: int


@dataclass(frozen=True, slots=True)
class Draft:
    """What an author wants to say, before it has a place in the chain.

    For an operation on an entry, `subject`, `subject_seq`, `subject_prev`, `deps` (ascending), `deps_lamport`
    and `deps_hlc` (the greatest lamport and hlc among deps) say what the author had seen of it.
    """

    kind: str
    body: dict[str, Any]
    subject: Cid | None = None
    subject_seq: int = 0
    subject_prev: Cid | None = None
    deps: tuple[Cid, ...] = ()
    deps_lamport: int = 0
    deps_hlc: int = 0


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What a verified chain amounts to."""

    author: AgentId | None
    length: int
    head: Cid | None
    closed: bool = False
    kinds: dict[str, int] = field(default_factory=dict)


def head_of(record: Record) -> Head:
    """The head that a chain has after `record`."""
    header = record.header
    return Head(header.seq, record.cid, header.lamport, header.hlc)


def next_record(
    identity: Identity, network: Cid, epoch: Cid, head: Head | None, draft: Draft, now_us: int, salt: bytes
) -> Record:
    """Sign `draft` as the record after `head` (None: the first).

    `now_us` is the wall clock in microseconds; the record's hlc never falls below the head's or the deps',
    as a hybrid logical clock's must not, nor below its lamport: nobody writes a record a microsecond. `salt`
    is 16 fresh random bytes. Raises `ChainError` when the draft exceeds a limit, or builds on what counts so
    many records before it that this chain would have no room left to go on.
    """
    lamport = 1 + max(-1 if head is None else head.lamport, draft.deps_lamport if draft.deps else -1)
    clock = max(now_us, 0 if head is None else head.hlc, draft.deps_hlc)
    if draft.deps_hlc > max(now_us, 0 if head is None else head.hlc) + MAX_FORWARD:
        ahead = (draft.deps_hlc - now_us) // 1_000_000
        raise RecordError(f"what this builds on is {ahead} s ahead of this clock: set the clock, or wait")
    if lamport > clock + MAX_LEAP:
        raise RecordError(f"what this builds on counts {lamport} records before it: more than can exist")
    payload = encode_payload(salt, draft.body)
    header = Header(
        version=VERSION,
        network=network,
        epoch=epoch,
        author=identity.agent,
        seq=0 if head is None else head.seq + 1,
        prev=None if head is None else head.cid,
        subject=draft.subject,
        subject_seq=draft.subject_seq,
        subject_prev=draft.subject_prev,
        deps=draft.deps,
        lamport=lamport,
        hlc=max(clock, lamport),
        kind=draft.kind,
        payload=raw_cid(payload),
        payload_size=len(payload),
    )
    return sign_record(identity, header, payload)


def verify_chain(records: Iterable[Record], network: Cid) -> ChainReport:
    """Verify an agent's chain from seq 0, in order; O(n), one signature check a record.

    Raises `ChainBrokenError` naming the first seq whose link, signature, network, clock or place is wrong.
    An empty chain verifies with length 0.
    """
    previous: Record | None = None
    kinds: dict[str, int] = {}
    for record in records:
        check_link(previous, record, network)
        kinds[record.header.kind] = kinds.get(record.header.kind, 0) + 1
        previous = record
    if previous is None:
        return ChainReport(None, 0, None)
    last = previous.header
    return ChainReport(last.author, last.seq + 1, previous.cid, last.kind in ENDS, kinds)


def check_link(previous: Record | None, record: Record, network: Cid) -> None:
    """Verify that `record` is signed and follows `previous` (None: is the first), by their headers alone.

    Raises `ChainBrokenError`, naming the place in the chain at which something is wrong.
    """
    header = record.header
    place = 0 if previous is None else previous.header.seq + 1
    _expect(header.seq == place, place, f"found seq {header.seq}")
    _expect(
        previous is None or previous.header.kind not in ENDS,
        place,
        f"a record follows {'' if previous is None else previous.header.kind}",
    )
    _expect(header.network == network, place, "record belongs to another network")
    if place < len(OPENING):
        _expect(header.kind == OPENING[place], place, f"kind is {header.kind!r}, expected {OPENING[place]!r}")
    else:
        _expect(header.kind not in OPENING, place, f"kind {header.kind!r} belongs to the chain's opening")
    if previous is None:
        _expect(header.prev is None, place, "the first record names a predecessor")
    else:
        _expect(header.prev == previous.cid, place, "prev is not the record before it")
        _expect(header.author == previous.header.author, place, "the author changes")
        _expect(header.hlc >= previous.header.hlc, place, "its clock runs backwards")
        _expect(header.lamport > previous.header.lamport, place, "its lamport does not grow")
    _expect(verify_signature(record), place, "the signature does not verify")


def continuation(
    previous: Record | None, headers: Iterable[Record], author: AgentId, network: Cid
) -> list[Record]:
    """The records among `headers` that follow `previous` in the chain of `author`, in order; O(headers).

    `headers` may come in any order, with what lies before, after gaps and by others: what does not follow is
    left out. Raises `ChainBrokenError` for a record that names its predecessor and cannot follow it, and
    `ChainForkedError` when two records follow one, or the next place is taken by one that follows another
    record than `previous`. All must be signed: who is not their author could else make a fork of them.
    """
    after: dict[Cid | None, dict[Cid, Record]] = {}
    for record in headers:
        if record.header.author != author:
            continue
        after.setdefault(record.header.prev, {})[record.cid] = record
        if previous is None or record.header.seq != previous.header.seq + 1:
            continue
        if record.header.prev != previous.cid:
            raise ChainForkedError(previous.header.seq)
    found: list[Record] = []
    while following := after.get(None if previous is None else previous.cid):
        for record in following.values():
            check_link(previous, record, network)
        if len(following) > 1:
            raise ChainForkedError(0 if previous is None else previous.header.seq + 1)
        (previous,) = following.values()
        found.append(previous)
    return found


def _expect(condition: bool, seq: int, reason: str) -> None:
    if not condition:
        raise ChainBrokenError(seq, reason)
