"""Payload bodies of what the members of a learning task say about it; its terms are in `chain.learning_task`.

| kind | body |
|---|---|
| learning.join, learning.leave | nothing |
| learning.start | `roster`: the first round's members, each with the join record by which it asked |
| learning.commit | `round`, `previous` (digest of what the round builds on), `hash` of the update to come |
| learning.reveal | the terms of `Reveal`: the commit kept, salt, blob, examples, metrics, commits seen |
| learning.group, learning.result | what several members signed: `chain.learning_outcome` |

A start, too, is named by the digest of what it says. Readers check shape and limits; `validation` checks what
is named, `federated` what follows from the records together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from chain.body_fields import check_bytes, check_integer, expect_fields, read_record_cids
from chain.cid import DIGEST_SIZE, Cid, is_blob_cid, is_record_cid
from chain.errors import RecordError
from chain.identity import AgentId
from chain.kinds import COMMIT, GROUP, JOIN, LEAVE, RESULT, REVEAL, START
from chain.learning_outcome import (
    GroupResult,
    Result,
    Seat,
    check_round,
    read_group,
    read_result,
    read_seats,
    seats_value,
    signed_digest,
)
from chain.learning_task import MAX_MEMBERS, MAX_NAME
from chain.record import Record
from chain.source_chain import Draft
from chain.statement import domain_tag
from chain.text import check_text

MAX_METRICS: Final = 32
MAX_METRIC: Final = (1 << 63) - 1
SALT_SIZE: Final = 32
_START_TAG: Final = domain_tag("learning-start")
_UPDATE_TAG: Final = domain_tag("learning-update")


@dataclass(frozen=True, slots=True)
class Start:
    """The first roster, seats ascending by agent."""

    roster: tuple[Seat, ...]

    def digest(self, task: Cid) -> bytes:
        """The 32 bytes that round 1 builds on."""
        return signed_digest(_START_TAG, [task, seats_value(self.roster)])


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

    def hash(self, author: AgentId | None) -> bytes:
        """What the commit must have promised (`Task.promiser` says whether it names its author)."""
        return update_hash(author, self.salt, self.blob, self.size, self.examples)


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


def update_hash(author: AgentId | None, salt: bytes, blob: Cid, size: int, examples: int) -> bytes:
    """The hash that commits to an update without showing it; the salt is secret until the reveal.

    Without the author in it whoever saw a commit could promise the same, and keep it once the other had.
    """
    named = [] if author is None else [author]
    return signed_digest(_UPDATE_TAG, [*named, salt, blob, size, examples])


def read_learning(kind: str, body: dict[str, Any]) -> LearningOperation:
    """Read the body of an operation on a task; raises `RecordError` naming what is wrong with it."""
    if kind in (JOIN, LEAVE):
        expect_fields(body, "")
        return Join() if kind == JOIN else Leave()
    if kind == START:
        expect_fields(body, "roster")
        return Start(read_seats(body["roster"], 1))
    if kind == COMMIT:
        expect_fields(body, "hash previous round")
        check_round(body)
        check_bytes("hash", body["hash"], DIGEST_SIZE)
        return Commit(body["round"], body["previous"], body["hash"])
    if kind == REVEAL:
        return _read_reveal(body)
    if kind == RESULT:
        return read_result(body)
    if kind == GROUP:
        return read_group(body)
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
    return {"roster": seats_value(start.roster)}


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
    check_round(body)
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
