"""What members of a round sign together: the outcome of a group, and the result of the round.

Outcomes are named by the digest of what they say, not by a record: two members may publish the same one, and
every signature on it is a signature on that digest. Readers check shape and limits; who may sign is for
`validation` and `federated.ledger`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar, Final, TypeAlias

from chain import canonical
from chain.body_fields import check_agents, check_bytes, check_integer, expect_fields, read_record_cids
from chain.cid import DIGEST_SIZE, Cid, is_blob_cid, is_record_cid, record_cid
from chain.errors import RecordError
from chain.identity import SIGNATURE_SIZE, AgentId, Identity, verify
from chain.learning_task import MAX_EXAMPLES, MAX_MEMBERS, MAX_ROUNDS, MAX_SEATS
from chain.statement import domain_tag
from chain.text import check_text

MAX_REASON: Final = 32
MAX_REVEALS: Final = 2 * MAX_MEMBERS
"""Reveals that a result is decided from: two of one member prove that it said two things."""

RESULT_STATEMENT: Final = "learning-result"
_RESULT_TAG: Final = domain_tag(RESULT_STATEMENT)
GROUP_STATEMENT: Final = "learning-group"
_GROUP_TAG: Final = domain_tag(GROUP_STATEMENT)

Seat: TypeAlias = tuple[AgentId, Cid]
"""A member of a roster and the join record by which it asked to be one."""


class Signable(ABC):
    """What several members sign alike; `_tag` keeps signatures on one thing from counting for another."""

    __slots__ = ()
    _tag: ClassVar[bytes]

    @abstractmethod
    def _value(self) -> list[Any]: ...

    def digest(self, task: Cid) -> bytes:
        """The 32 bytes that are signed, and by which others refer to it."""
        return signed_digest(self._tag, [task, *self._value()])

    def sign(self, task: Cid, identity: Identity) -> bytes:
        """A member's signature."""
        return identity.sign(self._tag + self.digest(task))

    def signed_by(self, task: Cid, agent: AgentId, signature: bytes) -> bool:
        """Whether this is the agent's signature on this outcome."""
        return verify(agent, self._tag + self.digest(task), signature)


@dataclass(frozen=True, slots=True)
class Outcome(Signable):
    """What the members of a round sign: from these reveals follow this model and this next roster.

    `members` are those who may sign: the round's roster, or what was left of it after failed attempts.
    `reveals` are all reveals that were looked at, also those of the refused, or where the roster was drawn
    into groups the names of their outcomes; ascending, like all lists.
    """

    _tag = _RESULT_TAG

    round: int
    previous: bytes
    members: tuple[AgentId, ...]
    reveals: tuple[Cid, ...]
    refused: tuple[tuple[AgentId, str], ...]
    parameters: Cid
    roster: tuple[Seat, ...]

    def _value(self) -> list[Any]:
        return _outcome_value(self)


@dataclass(frozen=True, slots=True)
class GroupOutcome(Signable):
    """What a group of a round's roster signs: from these reveals follows this model of its own.

    `contributors` are those whose updates are in it, with `examples` together; none: it is the model that the
    round began with. `previous` is what the round builds on; which group it is follows from `members`.
    """

    _tag = _GROUP_TAG

    round: int
    previous: bytes
    members: tuple[AgentId, ...]
    reveals: tuple[Cid, ...]
    refused: tuple[tuple[AgentId, str], ...]
    parameters: Cid
    contributors: tuple[AgentId, ...]
    examples: int

    def name(self, task: Cid) -> Cid:
        """What results call it by: of the form of a record's CID, over the bytes that are signed. Not the CID
        of a record that carries it: anybody of the group may publish any number of those.
        """
        return record_cid(self._tag + self.digest(task))

    def _value(self) -> list[Any]:
        return [
            self.round,
            self.previous,
            list(self.members),
            list(self.reveals),
            [list(pair) for pair in self.refused],
            self.parameters,
            list(self.contributors),
            self.examples,
        ]


@dataclass(frozen=True, slots=True)
class Result:
    """An outcome and who signed it, ascending by agent."""

    outcome: Outcome
    signatures: tuple[tuple[AgentId, bytes], ...]


@dataclass(frozen=True, slots=True)
class GroupResult:
    """A group's outcome and who signed it, ascending by agent."""

    outcome: GroupOutcome
    signatures: tuple[tuple[AgentId, bytes], ...]


def quorum(members: int) -> int:
    """How many signatures are more than two thirds of so many members."""
    return members * 2 // 3 + 1


def result_body(result: Result) -> dict[str, Any]:
    """Body of learning.result."""
    round_, previous, members, reveals, refused, parameters, roster = _outcome_value(result.outcome)
    return {
        "members": members,
        "parameters": parameters,
        "previous": previous,
        "refused": refused,
        "reveals": reveals,
        "roster": roster,
        "round": round_,
        "signatures": [list(pair) for pair in result.signatures],
    }


def group_body(result: GroupResult) -> dict[str, Any]:
    """Body of learning.group."""
    outcome = result.outcome
    return {
        "contributors": list(outcome.contributors),
        "examples": outcome.examples,
        "members": list(outcome.members),
        "parameters": outcome.parameters,
        "previous": outcome.previous,
        "refused": [list(pair) for pair in outcome.refused],
        "reveals": list(outcome.reveals),
        "round": outcome.round,
        "signatures": [list(pair) for pair in result.signatures],
    }


def _outcome_value(outcome: Outcome) -> list[Any]:
    return [
        outcome.round,
        outcome.previous,
        list(outcome.members),
        list(outcome.reveals),
        [list(pair) for pair in outcome.refused],
        outcome.parameters,
        seats_value(outcome.roster),
    ]


def read_result(body: dict[str, Any]) -> Result:
    """Read the body of learning.result; raises `RecordError`."""
    expect_fields(body, "members parameters previous refused reveals roster round signatures")
    members, refused, signatures = _read_signed(body, MAX_SEATS)
    reveals = read_record_cids("reveals", body["reveals"], 1, MAX_REVEALS)
    roster = read_seats(body["roster"], 0)
    return Result(
        Outcome(body["round"], body["previous"], members, reveals, refused, body["parameters"], roster),
        signatures,
    )


def read_group(body: dict[str, Any]) -> GroupResult:
    """Read the body of learning.group; raises `RecordError`."""
    expect_fields(body, "contributors examples members parameters previous refused reveals round signatures")
    members, refused, signatures = _read_signed(body, MAX_MEMBERS)
    contributors = body["contributors"]
    if type(contributors) is not list or len(contributors) > MAX_MEMBERS:
        raise RecordError(f"contributors is malformed: expected at most {MAX_MEMBERS} agents")
    check_agents("contributors", contributors)
    if not {agent for agent, _ in refused}.isdisjoint(contributors):
        raise RecordError("an agent is a contributor and refused")
    least = len(contributors)  # everybody has one example at least
    check_integer("examples", body["examples"], least, MAX_MEMBERS * MAX_EXAMPLES if least else 0)
    outcome = GroupOutcome(
        body["round"],
        body["previous"],
        members,
        read_record_cids("reveals", body["reveals"], 1, MAX_REVEALS),
        refused,
        body["parameters"],
        tuple(contributors),
        body["examples"],
    )
    return GroupResult(outcome, signatures)


def _read_signed(
    body: dict[str, Any], most: int
) -> tuple[tuple[AgentId, ...], tuple[tuple[AgentId, str], ...], tuple[tuple[AgentId, bytes], ...]]:
    """What both kinds of outcomes have: who may sign, who is refused, who signed."""
    check_round(body)
    members = body["members"]
    if type(members) is not list or not 0 < len(members) <= most:
        raise RecordError(f"members is malformed: expected 1 to {most} agents")
    check_agents("members", members)
    refused, signatures = body["refused"], body["signatures"]
    for name, pairs in (("refused", refused), ("signatures", signatures)):
        if type(pairs) is not list or len(pairs) > most:
            raise RecordError(f"{name} is malformed: expected at most {most} pairs")
        if not all(type(pair) is list and len(pair) == 2 for pair in pairs):
            raise RecordError(f"{name} is malformed: expected pairs")
        check_agents(name, [pair[0] for pair in pairs])
    for _, reason in refused:
        check_text("a reason", reason, MAX_REASON)
    for _, signature in signatures:
        check_bytes("a signature", signature, SIGNATURE_SIZE)
    if not is_blob_cid(body["parameters"]):
        raise RecordError("parameters is not a blob CID")
    return (
        tuple(members),
        tuple((agent, reason) for agent, reason in refused),
        tuple((agent, signature) for agent, signature in signatures),
    )


def read_seats(value: object, least: int) -> tuple[Seat, ...]:
    """Check and read a roster of `least` to `MAX_SEATS` seats; raises `RecordError`."""
    if type(value) is not list or not least <= len(value) <= MAX_SEATS:
        raise RecordError(f"roster is malformed: expected {least} to {MAX_SEATS} seats")
    for seat in value:
        if type(seat) is not list or len(seat) != 2 or not is_record_cid(seat[1]):
            raise RecordError("a seat of a roster is [agent, join record]")
    check_agents("roster", [seat[0] for seat in value])
    return tuple((agent, join) for agent, join in value)


def seats_value(roster: tuple[Seat, ...]) -> list[list[bytes]]:
    """A roster as bodies have it."""
    return [[agent, join] for agent, join in roster]


def signed_digest(tag: bytes, value: list[Any]) -> bytes:
    """The 32 bytes that stand for a value under a name."""
    return sha256(tag + sha256(canonical.encode(value)).digest()).digest()


def check_round(body: dict[str, Any]) -> None:
    """Raise `RecordError` unless a body says for which round it is, and what that builds on."""
    check_integer("round", body["round"], 1, MAX_ROUNDS)
    check_bytes("previous", body["previous"], DIGEST_SIZE)
