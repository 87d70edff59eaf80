"""Payload bodies of what the members of a learning task say about it; its terms are in `chain.learning_task`.

| kind | body |
|---|---|
| learning.join, learning.leave | nothing |
| learning.start | `roster`: the first round's members, each with the join record by which it asked |
| learning.commit | `round`, `previous` (digest of what the round builds on), `hash` of the update to come |
| learning.reveal | the terms of `Reveal`: the commit kept, salt, blob, examples, metrics, commits seen |
| learning.group | `GroupOutcome`: the same of a group of the roster, before the whole roster's result |
| learning.result | `Outcome`: what was decided from which reveals, and the signatures of the members |

Starts and results are named by the digest of what they say, not by their CID: two members may publish the
same result, and every signature on it is a signature on that digest. Readers check shape and limits;
`validation` checks what is named, `federated` what follows from the records together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar, Final, TypeAlias

from chain import canonical
from chain.body_fields import check_bytes, check_integer, expect_fields
from chain.cid import DIGEST_SIZE, Cid, is_blob_cid, is_record_cid, record_cid
from chain.errors import RecordError
from chain.identity import AGENT_ID_SIZE, SIGNATURE_SIZE, AgentId, Identity, verify
from chain.kinds import COMMIT, GROUP, JOIN, LEAVE, RESULT, REVEAL, START
from chain.learning_task import MAX_EXAMPLES, MAX_MEMBERS, MAX_NAME, MAX_ROUNDS, MAX_SEATS
from chain.record import Record
from chain.source_chain import Draft
from chain.statement import domain_tag
from chain.text import check_text

MAX_METRICS: Final = 32
MAX_METRIC: Final = (1 << 63) - 1
SALT_SIZE: Final = 32
MAX_REASON: Final = 32
MAX_REVEALS: Final = 2 * MAX_MEMBERS
"""Reveals that a result is decided from: two of one member prove that it said two things."""

RESULT_STATEMENT: Final = "learning-result"
_START_TAG: Final = domain_tag("learning-start")
_RESULT_TAG: Final = domain_tag(RESULT_STATEMENT)
GROUP_STATEMENT: Final = "learning-group"
_GROUP_TAG: Final = domain_tag(GROUP_STATEMENT)
_UPDATE_TAG: Final = domain_tag("learning-update")

Seat: TypeAlias = tuple[AgentId, Cid]
"""A member of a roster and the join record by which it asked to be one."""


@dataclass(frozen=True, slots=True)
class Start:
    """The first roster, seats ascending by agent."""

    roster: tuple[Seat, ...]

    def digest(self, task: Cid) -> bytes:
        """The 32 bytes that round 1 builds on."""
        return _digest(_START_TAG, [task, _seats_value(self.roster)])


@dataclass(frozen=True, slots=True)
class Commit:
    """A member's promise: `hash` is `update_hash` of what it will reveal."""

    round: int
    previous: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class Reveal:
    """A member's update. `size` is the blob's in bytes, `metrics` are in ppm of their unit.

    `commits` are the commits of this round (of any members, ascending) that the author had seen when it
    stopped waiting for more: what most members saw before they showed anything cannot have been copied.
    """

    round: int
    previous: bytes
    commit: Cid
    salt: bytes
    blob: Cid
    size: int
    examples: int
    metrics: Mapping[str, int]
    commits: tuple[Cid, ...]

    def hash(self) -> bytes:
        """What the commit must have promised."""
        return update_hash(self.salt, self.blob, self.size, self.examples)


class Signable:
    """What several members sign alike; `_tag` keeps signatures on one thing from counting for another."""

    __slots__ = ()
    _tag: ClassVar[bytes]

    def _value(self) -> list[Any]:
        raise NotImplementedError

    def digest(self, task: Cid) -> bytes:
        """The 32 bytes that are signed, and by which others refer to it."""
        return _digest(self._tag, [task, *self._value()])

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


@dataclass(frozen=True, slots=True)
class Join:
    """The author wants to be a member from the next roster on."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The author wants to be a member no more."""


LearningOperation: TypeAlias = Join | Leave | Start | Commit | Reveal | Result | GroupResult


def most_agents(said: object) -> int:
    """The most agents that one list of an operation names; more than `MAX_MEMBERS` are known from
    `kinds.TOPOLOGIES_FROM` on.
    """
    if isinstance(said, Start):
        return len(said.roster)
    if not isinstance(said, Result):
        return 0
    one = said.outcome
    return max(map(len, (one.members, one.refused, one.roster, said.signatures)))


def update_hash(salt: bytes, blob: Cid, size: int, examples: int) -> bytes:
    """The hash that commits to an update without showing it; the salt is secret until the reveal."""
    return _digest(_UPDATE_TAG, [salt, blob, size, examples])


def quorum(members: int) -> int:
    """How many signatures are more than two thirds of so many members."""
    return members * 2 // 3 + 1


def read_learning(kind: str, body: dict[str, Any]) -> LearningOperation:
    """Read the body of an operation on a task; raises `RecordError` naming what is wrong with it."""
    if kind in (JOIN, LEAVE):
        expect_fields(body, "")
        return Join() if kind == JOIN else Leave()
    if kind == START:
        expect_fields(body, "roster")
        return Start(_seats(body["roster"], 1))
    if kind == COMMIT:
        expect_fields(body, "hash previous round")
        _round(body)
        check_bytes("hash", body["hash"], DIGEST_SIZE)
        return Commit(body["round"], body["previous"], body["hash"])
    if kind == REVEAL:
        return _read_reveal(body)
    if kind == RESULT:
        return _read_result(body)
    if kind == GROUP:
        return _read_group(body)
    raise RecordError(f"{kind!r:.80} is not an operation on a learning task")


def draft_on_task(task: Record, last: Record | None, kind: str, body: dict[str, Any]) -> Draft:
    """An operation on `task` by an author whose last one on it is `last` (the task itself for its author)."""
    return Draft(
        kind,
        body,
        subject=task.cid,
        subject_seq=0 if last is None else last.header.subject_seq + 1,
        subject_prev=None if last is None else last.cid,
        deps=(task.cid,),
        deps_lamport=task.header.lamport,
        deps_hlc=task.header.hlc,
    )


def start_body(start: Start) -> dict[str, Any]:
    """Body of learning.start."""
    return {"roster": _seats_value(start.roster)}


def commit_body(commit: Commit) -> dict[str, Any]:
    """Body of learning.commit."""
    return {"hash": commit.hash, "previous": commit.previous, "round": commit.round}


def reveal_body(reveal: Reveal) -> dict[str, Any]:
    """Body of learning.reveal; raises `RecordError` beyond the limits."""
    body = {
        "blob": reveal.blob,
        "commit": reveal.commit,
        "commits": list(reveal.commits),
        "examples": reveal.examples,
        "metrics": dict(reveal.metrics),
        "previous": reveal.previous,
        "round": reveal.round,
        "salt": reveal.salt,
        "size": reveal.size,
    }
    _read_reveal(body)
    return body


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
        _seats_value(outcome.roster),
    ]


def read_metrics(value: object) -> Mapping[str, int]:
    """Check and read a map of metrics in ppm; raises `RecordError`."""
    if type(value) is not dict or len(value) > MAX_METRICS:
        raise RecordError(f"metrics is malformed: expected a map of at most {MAX_METRICS}")
    for name, one in value.items():
        check_text("metric name", name, MAX_NAME)
        check_integer(f"metric {name!r}", one, -MAX_METRIC, MAX_METRIC)
    return value


def _read_reveal(body: dict[str, Any]) -> Reveal:
    expect_fields(body, "blob commit commits examples metrics previous round salt size")
    _round(body)
    if not is_record_cid(body["commit"]):
        raise RecordError("commit is not a record CID")
    commits = read_record_cids("commits", body["commits"], 0, 2 * MAX_MEMBERS)
    check_bytes("salt", body["salt"], SALT_SIZE)
    if not is_blob_cid(body["blob"]):
        raise RecordError("blob is not a blob CID")
    check_integer("size", body["size"], 0, (1 << 63) - 1)
    check_integer("examples", body["examples"], 0, (1 << 63) - 1)
    return Reveal(
        body["round"],
        body["previous"],
        body["commit"],
        body["salt"],
        body["blob"],
        body["size"],
        body["examples"],
        read_metrics(body["metrics"]),
        commits,
    )


def _read_result(body: dict[str, Any]) -> Result:
    expect_fields(body, "members parameters previous refused reveals roster round signatures")
    members, refused, signatures = _read_signed(body, MAX_SEATS)
    reveals = read_record_cids("reveals", body["reveals"], 1, MAX_REVEALS)
    roster = _seats(body["roster"], 0)
    return Result(
        Outcome(body["round"], body["previous"], members, reveals, refused, body["parameters"], roster),
        signatures,
    )


def _read_group(body: dict[str, Any]) -> GroupResult:
    expect_fields(body, "contributors examples members parameters previous refused reveals round signatures")
    members, refused, signatures = _read_signed(body, MAX_MEMBERS)
    contributors = body["contributors"]
    if type(contributors) is not list or len(contributors) > MAX_MEMBERS:
        raise RecordError(f"contributors is malformed: expected at most {MAX_MEMBERS} agents")
    _agents("contributors", contributors)
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
    _round(body)
    members = body["members"]
    if type(members) is not list or not 0 < len(members) <= most:
        raise RecordError(f"members is malformed: expected 1 to {most} agents")
    _agents("members", members)
    refused, signatures = body["refused"], body["signatures"]
    for name, pairs in (("refused", refused), ("signatures", signatures)):
        if type(pairs) is not list or len(pairs) > most:
            raise RecordError(f"{name} is malformed: expected at most {most} pairs")
        if not all(type(pair) is list and len(pair) == 2 for pair in pairs):
            raise RecordError(f"{name} is malformed: expected pairs")
        _agents(name, [pair[0] for pair in pairs])
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


def _digest(tag: bytes, value: list[Any]) -> bytes:
    return sha256(tag + sha256(canonical.encode(value)).digest()).digest()


def _round(body: dict[str, Any]) -> None:
    check_integer("round", body["round"], 1, MAX_ROUNDS)
    check_bytes("previous", body["previous"], DIGEST_SIZE)


def _agents(name: str, agents: list[Any]) -> None:
    for agent in agents:
        check_bytes(f"an agent of {name}", agent, AGENT_ID_SIZE)
    if any(a >= b for a, b in zip(agents, agents[1:], strict=False)):
        raise RecordError(f"{name} is not ascending and unique")


def read_record_cids(name: str, value: object, least: int, most: int) -> tuple[Cid, ...]:
    """Check and read a list of so many record CIDs, ascending; raises `RecordError`."""
    if type(value) is not list or not least <= len(value) <= most or not all(map(is_record_cid, value)):
        raise RecordError(f"{name} is malformed: expected {least} to {most} record CIDs")
    if any(a >= b for a, b in zip(value, value[1:], strict=False)):
        raise RecordError(f"{name} is not ascending and unique")
    return tuple(value)


def _seats(value: object, least: int) -> tuple[Seat, ...]:
    if type(value) is not list or not least <= len(value) <= MAX_SEATS:
        raise RecordError(f"roster is malformed: expected {least} to {MAX_SEATS} seats")
    for seat in value:
        if type(seat) is not list or len(seat) != 2 or not is_record_cid(seat[1]):
            raise RecordError("a seat of a roster is [agent, join record]")
    _agents("roster", [seat[0] for seat in value])
    return tuple((agent, join) for agent, join in value)


def _seats_value(roster: tuple[Seat, ...]) -> list[list[bytes]]:
    return [[agent, join] for agent, join in roster]
