"""Payload bodies of the learning records: what a task asks for and what its members say about it.

| kind | body |
|---|---|
| learning.task | the terms of `Task`: arrays, initial parameters, rounds, members, deadlines, bounds |
| learning.join, learning.leave | nothing |
| learning.start | `roster`: the first round's members, each with the join record by which it asked |
| learning.commit | `round`, `previous` (digest of what the round builds on), `hash` of the update to come |
| learning.reveal | the terms of `Reveal`: the commit kept, salt, blob, examples, metrics, commits seen |
| learning.result | `Outcome`: what was decided from which reveals, and the signatures of the members |

Starts and results are named by the digest of what they say, not by their CID: two members may publish the
same result, and every signature on it is a signature on that digest. Readers check shape and limits;
`validation` checks what is named, `federated` what follows from the records together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from typing import Any, Final, TypeAlias

from chain import canonical
from chain.aggregation_rule import AggregationRule, parse_rule
from chain.cid import DIGEST_SIZE, Cid, is_blob_cid, is_record_cid
from chain.errors import RecordError
from chain.identity import AGENT_ID_SIZE, SIGNATURE_SIZE, AgentId, Identity, verify
from chain.kinds import COMMIT, JOIN, LEAVE, RESULT, REVEAL, START
from chain.record import Record
from chain.source_chain import Draft
from chain.statement import domain_tag
from chain.text import check_text

PEER_ROUNDS: Final = "peer-rounds"
SERVER_APP: Final = "server-app"
"""A coordinator runs the task's ServerApp over the members (`chain.server_app`); `arrays` may be empty."""
MODES: Final = (PEER_ROUNDS, SERVER_APP)
FEDAVG: Final = "fedavg"
NO_COMPRESSION: Final = "none"
INT8: Final = "int8"
"""Updates are differences from the round's model in 8 bits an element (`federated.compression`)."""
COMPRESSIONS: Final = (NO_COMPRESSION, INT8)
DTYPES: Final = {"<f4": 4, "<f8": 8, "<i8": 8}
"""Element types of arrays and their sizes in bytes; all little-endian."""
MAX_ARRAYS: Final = 256
MAX_DIMS: Final = 8
MAX_MODEL_BYTES: Final = 256 << 20
"""Bytes of all arrays of a model together."""
MAX_MEMBERS: Final = 16
MAX_ROUNDS: Final = 10_000
MIN_DEADLINE_MS: Final = 1_000
MAX_DEADLINE_MS: Final = 86_400_000
MAX_EXAMPLES: Final = 1_000_000
MAX_ABS: Final = 1_000_000
MAX_NORM: Final = 1 << 53
"""Beyond any distance between two models within the other limits."""
MAX_NAME: Final = 100
"""Bytes of UTF-8 of the names of tasks, arrays, metrics and config keys."""
MAX_CONFIG: Final = 64
MAX_CONFIG_BYTES: Final = 16 * 1024
MAX_METRICS: Final = 32
MAX_METRIC: Final = (1 << 63) - 1
SALT_SIZE: Final = 32
MAX_REASON: Final = 32
MAX_REVEALS: Final = 2 * MAX_MEMBERS
"""Reveals that a result is decided from: two of one member prove that it said two things."""

RESULT_STATEMENT: Final = "learning-result"
_START_TAG: Final = domain_tag("learning-start")
_RESULT_TAG: Final = domain_tag(RESULT_STATEMENT)
_UPDATE_TAG: Final = domain_tag("learning-update")

ConfigValue: TypeAlias = str | int | bool | bytes
Seat: TypeAlias = tuple[AgentId, Cid]
"""A member of a roster and the join record by which it asked to be one."""


@dataclass(frozen=True, slots=True)
class Array:
    """One array of a model: its name, dtype (a key of `DTYPES`) and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of the elements."""
        return self.count * DTYPES[self.dtype]


@dataclass(frozen=True, slots=True)
class Task:
    """The terms of a learning task.

    `commit_ms`, `reveal_ms` and `result_ms` are how long a round waits at most for commits, for reveals with
    their blobs, and for one proposer. `max_examples` bounds the weight of an update, `max_abs` its values.
    `max_norm`, where there is one, bounds how far an update may lie from what its round began with (Euclidean
    norm over all floating arrays). `strategy` says how updates become a model: `fedavg`, or the text of an
    aggregation rule; `compression` is the form of updates.
    Where a ServerApp runs, `commit_ms` is how long it waits for answers, `result_ms` how long members wait
    for a coordinator, and `parameters` the blob that lists the app's files.
    """

    name: str
    arrays: tuple[Array, ...]
    parameters: Cid
    rounds: int
    min_members: int
    max_members: int
    commit_ms: int
    reveal_ms: int
    result_ms: int
    max_examples: int
    max_abs: int
    config: Mapping[str, ConfigValue]
    mode: str = PEER_ROUNDS
    strategy: str = FEDAVG
    max_norm: int | None = None
    compression: str = NO_COMPRESSION

    @property
    def newer(self) -> str | None:
        """A term that rule versions before `kinds.FIELDS_FROM` do not know, if there is one."""
        if self.mode != PEER_ROUNDS:
            return f"mode {self.mode!r}"
        if self.max_norm is not None:
            return "max_norm"
        if self.compression != NO_COMPRESSION:
            return f"compression {self.compression!r}"
        return None if self.strategy == FEDAVG else f"strategy {self.strategy!r}"

    @property
    def rule(self) -> AggregationRule | None:
        """How updates are combined; None for the mean weighted by examples."""
        named = self.mode == SERVER_APP or self.strategy == FEDAVG
        return None if named else parse_rule(self.strategy)

    def to_body(self) -> dict[str, Any]:
        """The payload body; raises `RecordError` when a term is out of range."""
        body = {
            "arrays": [[a.name, a.dtype, list(a.shape)] for a in self.arrays],
            "commit_ms": self.commit_ms,
            "config": dict(self.config),
            "max_abs": self.max_abs,
            "max_examples": self.max_examples,
            "max_members": self.max_members,
            "min_members": self.min_members,
            "mode": self.mode,
            "name": self.name,
            "parameters": self.parameters,
            "result_ms": self.result_ms,
            "reveal_ms": self.reveal_ms,
            "rounds": self.rounds,
            "strategy": self.strategy,
        } | ({} if self.max_norm is None else {"max_norm": self.max_norm})
        if self.compression != NO_COMPRESSION:
            body["compression"] = self.compression
        task_from_body(body)
        return body


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the members of a round sign: from these reveals follow this model and this next roster.

    `members` are those who may sign: the round's roster, or what was left of it after failed attempts.
    `reveals` are all reveals that were looked at, also those of the refused; ascending, like all lists.
    """

    round: int
    previous: bytes
    members: tuple[AgentId, ...]
    reveals: tuple[Cid, ...]
    refused: tuple[tuple[AgentId, str], ...]
    parameters: Cid
    roster: tuple[Seat, ...]

    def digest(self, task: Cid) -> bytes:
        """The 32 bytes that are signed, and that the next round builds on."""
        return _digest(_RESULT_TAG, [task, *_outcome_value(self)])

    def sign(self, task: Cid, identity: Identity) -> bytes:
        """A member's signature."""
        return identity.sign(_RESULT_TAG + self.digest(task))

    def signed_by(self, task: Cid, agent: AgentId, signature: bytes) -> bool:
        """Whether this is the agent's signature on this outcome."""
        return verify(agent, _RESULT_TAG + self.digest(task), signature)


@dataclass(frozen=True, slots=True)
class Result:
    """An outcome and who signed it, ascending by agent."""

    outcome: Outcome
    signatures: tuple[tuple[AgentId, bytes], ...]


@dataclass(frozen=True, slots=True)
class Join:
    """The author wants to be a member from the next roster on."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The author wants to be a member no more."""


LearningOperation: TypeAlias = Join | Leave | Start | Commit | Reveal | Result


def update_hash(salt: bytes, blob: Cid, size: int, examples: int) -> bytes:
    """The hash that commits to an update without showing it; the salt is secret until the reveal."""
    return _digest(_UPDATE_TAG, [salt, blob, size, examples])


def quorum(members: int) -> int:
    """How many signatures are more than two thirds of so many members."""
    return members * 2 // 3 + 1


def task_from_body(body: dict[str, Any]) -> Task:
    """Check and read a task; raises `RecordError` naming the term."""
    _fields(
        {key: value for key, value in body.items() if key not in ("compression", "max_norm")},
        "arrays commit_ms config max_abs max_examples max_members min_members mode name parameters result_ms "
        "reveal_ms rounds strategy",
    )
    check_text("name", body["name"], MAX_NAME)
    if body["mode"] not in MODES:
        raise RecordError(f"mode {body['mode']!r:.40} is none of {', '.join(MODES)}")
    if body["mode"] == SERVER_APP or type(body["strategy"]) is not str:
        check_text("strategy", body["strategy"], MAX_NAME)
    elif body["strategy"] != FEDAVG:
        parse_rule(body["strategy"])
    if not is_blob_cid(body["parameters"]):
        raise RecordError("parameters is not a blob CID")
    _integer("rounds", body["rounds"], 1, MAX_ROUNDS)
    _integer("max_members", body["max_members"], 1, MAX_MEMBERS)
    _integer("min_members", body["min_members"], 1, body["max_members"])
    for name in ("commit_ms", "reveal_ms", "result_ms"):
        _integer(name, body[name], MIN_DEADLINE_MS, MAX_DEADLINE_MS)
    _integer("max_examples", body["max_examples"], 1, MAX_EXAMPLES)
    _integer("max_abs", body["max_abs"], 1, MAX_ABS)
    if "max_norm" in body:
        _integer("max_norm", body["max_norm"], 1, MAX_NORM)
    if "compression" in body and body["compression"] not in COMPRESSIONS[1:]:
        raise RecordError(f"compression {body['compression']!r:.40} is none of {', '.join(COMPRESSIONS[1:])}")
    if "compression" in body and body["mode"] != PEER_ROUNDS:
        raise RecordError(f"compression is for the mode {PEER_ROUNDS}")
    return Task(
        name=body["name"],
        arrays=()
        if body["mode"] == SERVER_APP and body["arrays"] == []
        else arrays_from_value(body["arrays"]),
        parameters=body["parameters"],
        rounds=body["rounds"],
        min_members=body["min_members"],
        max_members=body["max_members"],
        commit_ms=body["commit_ms"],
        reveal_ms=body["reveal_ms"],
        result_ms=body["result_ms"],
        max_examples=body["max_examples"],
        max_abs=body["max_abs"],
        config=_config(body["config"]),
        mode=body["mode"],
        strategy=body["strategy"],
        max_norm=body.get("max_norm"),
        compression=body.get("compression", NO_COMPRESSION),
    )


def arrays_from_value(value: object) -> tuple[Array, ...]:
    """Check and read a list of [name, dtype, shape]; raises `RecordError` naming what is wrong."""
    if type(value) is not list or not 0 < len(value) <= MAX_ARRAYS:
        raise RecordError(f"arrays is malformed: expected 1 to {MAX_ARRAYS} arrays")
    arrays: list[Array] = []
    total = 0
    for item in value:
        if type(item) is not list or len(item) != 3:
            raise RecordError("an array is [name, dtype, shape]")
        name, dtype, shape = item
        check_text("array name", name, MAX_NAME)
        if type(dtype) is not str or dtype not in DTYPES:
            raise RecordError(f"dtype {dtype!r:.40} of array {name!r} is none of {', '.join(DTYPES)}")
        if type(shape) is not list or len(shape) > MAX_DIMS:
            raise RecordError(f"array {name!r} has more than {MAX_DIMS} dimensions")
        for length in shape:
            _integer(f"a dimension of array {name!r}", length, 1, MAX_MODEL_BYTES)
        arrays.append(Array(name, dtype, tuple(shape)))
        total += arrays[-1].size
        if total > MAX_MODEL_BYTES:
            raise RecordError(f"the arrays have over {MAX_MODEL_BYTES} bytes together")
    if len({array.name for array in arrays}) < len(arrays):
        raise RecordError("two arrays have one name")
    return tuple(arrays)


def read_learning(kind: str, body: dict[str, Any]) -> LearningOperation:
    """Read the body of an operation on a task; raises `RecordError` naming what is wrong with it."""
    if kind in (JOIN, LEAVE):
        _fields(body, "")
        return Join() if kind == JOIN else Leave()
    if kind == START:
        _fields(body, "roster")
        return Start(_seats(body["roster"], 1))
    if kind == COMMIT:
        _fields(body, "hash previous round")
        _round(body)
        _bytes("hash", body["hash"], DIGEST_SIZE)
        return Commit(body["round"], body["previous"], body["hash"])
    if kind == REVEAL:
        return _read_reveal(body)
    if kind == RESULT:
        return _read_result(body)
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


def _read_reveal(body: dict[str, Any]) -> Reveal:
    _fields(body, "blob commit commits examples metrics previous round salt size")
    _round(body)
    if not is_record_cid(body["commit"]):
        raise RecordError("commit is not a record CID")
    commits = _record_cids("commits", body["commits"], 0, 2 * MAX_MEMBERS)
    _bytes("salt", body["salt"], SALT_SIZE)
    if not is_blob_cid(body["blob"]):
        raise RecordError("blob is not a blob CID")
    _integer("size", body["size"], 0, (1 << 63) - 1)
    _integer("examples", body["examples"], 0, (1 << 63) - 1)
    metrics = body["metrics"]
    if type(metrics) is not dict or len(metrics) > MAX_METRICS:
        raise RecordError(f"metrics is malformed: expected a map of at most {MAX_METRICS}")
    for name, value in metrics.items():
        check_text("metric name", name, MAX_NAME)
        _integer(f"metric {name!r}", value, -MAX_METRIC, MAX_METRIC)
    return Reveal(
        body["round"],
        body["previous"],
        body["commit"],
        body["salt"],
        body["blob"],
        body["size"],
        body["examples"],
        metrics,
        commits,
    )


def _read_result(body: dict[str, Any]) -> Result:
    _fields(body, "members parameters previous refused reveals roster round signatures")
    _round(body)
    members = body["members"]
    if type(members) is not list or not 0 < len(members) <= MAX_MEMBERS:
        raise RecordError(f"members is malformed: expected 1 to {MAX_MEMBERS} agents")
    _agents("members", members)
    refused, signatures = body["refused"], body["signatures"]
    for name, pairs in (("refused", refused), ("signatures", signatures)):
        if type(pairs) is not list or len(pairs) > MAX_MEMBERS:
            raise RecordError(f"{name} is malformed: expected at most {MAX_MEMBERS} pairs")
        if not all(type(pair) is list and len(pair) == 2 for pair in pairs):
            raise RecordError(f"{name} is malformed: expected pairs")
        _agents(name, [pair[0] for pair in pairs])
    for _, reason in refused:
        check_text("a reason", reason, MAX_REASON)
    for _, signature in signatures:
        _bytes("a signature", signature, SIGNATURE_SIZE)
    if not is_blob_cid(body["parameters"]):
        raise RecordError("parameters is not a blob CID")
    outcome = Outcome(
        body["round"],
        body["previous"],
        tuple(members),
        _record_cids("reveals", body["reveals"], 1, MAX_REVEALS),
        tuple((agent, reason) for agent, reason in refused),
        body["parameters"],
        _seats(body["roster"], 0),
    )
    return Result(outcome, tuple((agent, signature) for agent, signature in signatures))


def _digest(tag: bytes, value: list[Any]) -> bytes:
    return sha256(tag + sha256(canonical.encode(value)).digest()).digest()


def _fields(body: dict[str, Any], names: str) -> None:
    if sorted(body) != names.split():
        raise RecordError(f"expected exactly the fields [{names}], found {sorted(body)!r:.160}")


def _integer(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise RecordError(f"{name} {value!r:.40} is outside {low} … {high}")


def _bytes(name: str, value: object, size: int) -> None:
    if type(value) is not bytes or len(value) != size:
        raise RecordError(f"{name} is not {size} bytes")


def _round(body: dict[str, Any]) -> None:
    _integer("round", body["round"], 1, MAX_ROUNDS)
    _bytes("previous", body["previous"], DIGEST_SIZE)


def _agents(name: str, agents: list[Any]) -> None:
    for agent in agents:
        _bytes(f"an agent of {name}", agent, AGENT_ID_SIZE)
    if any(a >= b for a, b in zip(agents, agents[1:], strict=False)):
        raise RecordError(f"{name} is not ascending and unique")


def _record_cids(name: str, value: object, least: int, most: int) -> tuple[Cid, ...]:
    if type(value) is not list or not least <= len(value) <= most or not all(map(is_record_cid, value)):
        raise RecordError(f"{name} is malformed: expected {least} to {most} record CIDs")
    if any(a >= b for a, b in zip(value, value[1:], strict=False)):
        raise RecordError(f"{name} is not ascending and unique")
    return tuple(value)


def _seats(value: object, least: int) -> tuple[Seat, ...]:
    if type(value) is not list or not least <= len(value) <= MAX_MEMBERS:
        raise RecordError(f"roster is malformed: expected {least} to {MAX_MEMBERS} seats")
    for seat in value:
        if type(seat) is not list or len(seat) != 2 or not is_record_cid(seat[1]):
            raise RecordError("a seat of a roster is [agent, join record]")
    _agents("roster", [seat[0] for seat in value])
    return tuple((agent, join) for agent, join in value)


def _seats_value(roster: tuple[Seat, ...]) -> list[list[bytes]]:
    return [[agent, join] for agent, join in roster]


def _config(value: object) -> dict[str, ConfigValue]:
    if type(value) is not dict or len(value) > MAX_CONFIG:
        raise RecordError(f"config is malformed: expected a map of at most {MAX_CONFIG}")
    for key, item in value.items():
        check_text("config key", key, MAX_NAME)
        if type(item) not in (str, int, bool, bytes):
            raise RecordError(
                f"config {key!r} is a {type(item).__name__}: strings, integers, booleans, bytes"
            )
    if len(canonical.encode(value)) > MAX_CONFIG_BYTES:
        raise RecordError(f"config has over {MAX_CONFIG_BYTES} bytes")
    return value
