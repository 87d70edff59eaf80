"""Warrants: proof that an agent broke the rules, which everybody can check without believing the accuser.

A warrant is a record in the accuser's chain (an idea of Holochain's). `warrant.fork` holds two headers that
the offender signed for one place of its chain; `warrant.invalid` a record that the offender signed, the rule
that it breaks, and the records that it names, as far as the rule looks at them. Both bring the offender's
first two records, so that only who paid to join the network can be accused, and accusations are no cheaper to
multiply than members. Sizes, counts and nesting (a warrant about a false warrant about …) are bounded.
Whether a proof is one is judged by `validation.warrant_rules`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from chain.cid import Cid
from chain.errors import ChainError, RecordError
from chain.identity import AgentId
from chain.kinds import FORK_WARRANT, INVALID_WARRANT, WARRANTS
from chain.record import MAX_KIND, Record, decode_payload, decode_record

MAX_WARRANT = 64 * 1024
"""Bytes of a warrant's payload; what takes more to prove is refused by holders, but earns no warrant."""
MAX_NAMED = 96
"""Records that the offending record names: prev, subject, its line, deps and some targets."""
FORK = "fork"
"""The rule of an offence that a `warrant.fork` proves."""
MAX_NESTING = 3
"""Warrants about false warrants within one another."""

_FORK_FIELDS = ["first", "opening", "second"]
_INVALID_FIELDS = ["named", "opening", "record", "rule"]


@dataclass(frozen=True, slots=True)
class ForkProof:
    """Two headers for one place of a chain, `first` the one of the smaller CID; the author's opening."""

    opening: tuple[Record, Record]
    first: Record
    second: Record


@dataclass(frozen=True, slots=True)
class InvalidProof:
    """A signed record that breaks `rule`, and what it names, ascending by CID; the author's opening."""

    opening: tuple[Record, Record]
    record: Record
    rule: str
    named: tuple[Record, ...]


Proof: TypeAlias = ForkProof | InvalidProof


@dataclass(frozen=True, slots=True)
class Offence:
    """What a warrant proves: `offender` did wrong at `seq` of its chain.

    `rule` is `FORK` or the rule that was broken; `records` are the offending records, ascending, and `epochs`
    the epochs that they name.
    """

    offender: AgentId
    seq: int
    rule: str
    records: tuple[Cid, ...]
    epochs: tuple[Cid, ...]
    pardonable: bool = True
    """Whether an epoch can lift it like any offence: a revocation is the agent's own word, and none. Its
    `records` are the genesis that names the recovery key.
    """


def fork_body(opening: tuple[Record, Record], one: Record, other: Record) -> dict[str, Any]:
    """The payload body of a `warrant.fork`."""
    first, second = sorted((one, other), key=lambda record: record.cid)
    return {
        "first": first.without_payload().encode(),
        "opening": [record.encode() for record in opening],
        "second": second.without_payload().encode(),
    }


def invalid_body(
    opening: tuple[Record, Record], record: Record, rule: str, named: Iterable[Record]
) -> dict[str, Any]:
    """The payload body of a `warrant.invalid`."""
    return {
        "named": [one.encode() for one in sorted(named, key=lambda one: one.cid)],
        "opening": [one.encode() for one in opening],
        "record": record.encode(),
        "rule": rule,
    }


def proof_from_body(kind: str, body: dict[str, Any], nesting: int = 0) -> Proof:
    """Read a warrant's body; raises `ChainError`. What it says is not judged here."""
    if kind == FORK_WARRANT:
        _fields(kind, body, _FORK_FIELDS)
        first, second = _record(body["first"]), _record(body["second"])
        if first.payload is not None or second.payload is not None:
            raise RecordError("a fork is proven by two headers, without payloads")
        return ForkProof(_opening(body["opening"]), first, second)
    if kind != INVALID_WARRANT:
        raise RecordError(f"kind {kind!r:.80} is no warrant")
    _fields(kind, body, _INVALID_FIELDS)
    rule, raw = body["rule"], body["named"]
    if type(rule) is not str or not 0 < len(rule) <= MAX_KIND or not rule.isascii():
        raise RecordError("a warrant names the broken rule")
    if type(raw) is not list or len(raw) > MAX_NAMED:
        raise RecordError(f"a warrant brings a list of at most {MAX_NAMED} named records")
    named = tuple(map(_record, raw))
    if any(a.cid >= b.cid for a, b in zip(named, named[1:], strict=False)):
        raise RecordError("the records in a warrant are not ascending")
    record = _record(body["record"])
    _check_nesting(record, nesting)
    return InvalidProof(_opening(body["opening"]), record, rule, named)


def proof_of(warrant: Record) -> Proof:
    """What a warrant holds as proof; raises `ChainError`, also without its payload."""
    if warrant.payload is None:
        raise RecordError("a warrant without its payload proves nothing")
    return proof_from_body(warrant.header.kind, decode_payload(warrant.payload))


def offence_of(proof: Proof) -> Offence:
    """The offence that a proof is about, if it is one."""
    match proof:
        case ForkProof(first=first, second=second):
            return fork_offence(first, second)
        case InvalidProof(record=record, rule=rule):
            header = record.header
            return Offence(header.author, header.seq, rule, (record.cid,), (header.epoch,))


def fork_offence(one: Record, other: Record) -> Offence:
    """The offence of having signed both of these for one place."""
    pair = sorted((one, other), key=lambda record: record.cid)
    cids, epochs = tuple(each.cid for each in pair), tuple(each.header.epoch for each in pair)
    return Offence(one.header.author, one.header.seq, FORK, cids, epochs)


def _check_nesting(record: Record, nesting: int) -> None:
    if record.header.kind not in WARRANTS:
        return
    if nesting == MAX_NESTING:
        raise RecordError(f"more than {MAX_NESTING} warrants about warrants lie in one another")
    if record.header.kind == FORK_WARRANT or record.payload is None:
        return
    try:
        body = decode_payload(record.payload)
        inner = _record(body.get("record"))
    except ChainError:
        return  # no warrant at all, so nothing lies in it
    _check_nesting(inner, nesting + 1)


def _fields(kind: str, body: dict[str, Any], expected: list[str]) -> None:
    if sorted(body) != expected:
        raise RecordError(f"{kind} has exactly the fields {', '.join(expected)}")


def _opening(raw: object) -> tuple[Record, Record]:
    if type(raw) is not list or len(raw) != 2:
        raise RecordError("a warrant brings the offender's first two records")
    return _record(raw[0]), _record(raw[1])


def _record(raw: object) -> Record:
    if type(raw) is not bytes:
        raise RecordError("a record in a warrant is a byte string")
    return decode_record(raw)
