"""The terms of a learning task: the payload body of the kind `learning.task`.

Arrays, initial parameters, rounds, members, deadlines and bounds, all within limits that every member can
meet; how members exchange their updates, how updates become a model. What members say about a task is in
`chain.learning`. Terms never change: another term is another task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Final, TypeAlias

from chain import canonical
from chain.aggregation_rule import COORDINATE_WISE, NNM, AggregationRule, parse_rule
from chain.body_fields import check_integer, expect_fields
from chain.cid import Cid, is_blob_cid
from chain.errors import RecordError
from chain.identity import AgentId
from chain.kinds import FIELDS_FROM, FLOAT16_FROM, ROUNDS_FROM, RULE_VERSION, TOPOLOGIES_FROM
from chain.text import check_text

PEER_ROUNDS: Final = "peer-rounds"
SERVER_APP: Final = "server-app"
"""A coordinator runs the task's ServerApp over the members (`chain.server_app`); `arrays` may be empty."""
MODES: Final = (PEER_ROUNDS, SERVER_APP)
ALL_TO_ALL: Final = "all-to-all"
GROUPS: Final = "groups"
"""The roster is drawn into groups of at most `MAX_MEMBERS`, anew in each round."""
GOSSIP: Final = "gossip"
"""Each member pulls the models of a few others; there is no roster and no common model."""
TOPOLOGIES: Final = (ALL_TO_ALL, GROUPS, GOSSIP)
FEDAVG: Final = "fedavg"
NO_COMPRESSION: Final = "none"
INT8: Final = "int8"
"""Updates are differences from the round's model in 8 bits an element (`federated.compression`)."""
TOP_K: Final = "topk"
"""`topk:5` is such a difference for the 5 % of the elements that differ most (`federated.sparse`)."""
MAX_TOP_K: Final = 49
"""Per cent; half of the elements with their places take what all take in 8 bits."""
FLOAT16: Final = "float16"
"""Models travel whole, their floating elements in IEEE 754's binary16 (`federated.half`)."""
MAX_FLOAT16: Final = 65_504
"""The largest finite number of binary16."""
DTYPES: Final = {"<f4": 4, "<f8": 8, "<i8": 8}
"""Element types of arrays and their sizes in bytes; all little-endian."""
HALF: Final = "<f2"
"""The element type in which `FLOAT16` sends floating arrays; no array of a task has it."""
MAX_ARRAYS: Final = 256
MAX_DIMS: Final = 8
MAX_MODEL_BYTES: Final = 256 << 20
"""Bytes of all arrays of a model together."""
MAX_MEMBERS: Final = 16
"""Members who all fetch each other's updates."""
MAX_SEATS: Final = 256
"""Members of a task of another topology than `ALL_TO_ALL`."""
MAX_FANOUT: Final = MAX_MEMBERS - 1
"""Shares of others that a member of a task of the topology `GOSSIP` combines at most."""
MIN_SECURE: Final = 3
"""Members of a sum under masks, at least: of two, each knows the other's part."""
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

_OPTIONAL: Final = frozenset({"compression", "fanout", "max_norm", "rules", "secure", "topology"})
ConfigValue: TypeAlias = str | int | bool | bytes


@dataclass(frozen=True, slots=True)
class Array:
    """One array of a model: its name, dtype (a key of `DTYPES`; on its way perhaps `HALF`) and shape."""

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
        return self.count * (2 if self.dtype == HALF else DTYPES[self.dtype])


@dataclass(frozen=True, slots=True)
class Task:
    """The terms of a learning task.

    `commit_ms`, `reveal_ms` and `result_ms` are how long a round waits at most for commits, for reveals with
    their blobs, and for one proposer. `max_examples` bounds the weight of an update, `max_abs` its values.
    `max_norm`, where there is one, bounds how far an update may lie from what its round began with (Euclidean
    norm over all floating arrays). `strategy` says how updates become a model: `fedavg`, or the text of an
    aggregation rule; `compression` is the form of updates. `topology` says who exchanges updates with whom,
    `fanout` (with `GOSSIP`) how many models of others a member combines.
    With `secure` they are summed under masks in groups of at least so many members: nobody sees one alone.
    `rules` is the rule version by which rounds are computed, where it is one from `kinds.ROUNDS_FROM` on: it
    stands in the terms, so whoever has them computes alike, whatever version the network goes on to.
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
    topology: str = ALL_TO_ALL
    secure: int | None = None
    fanout: int | None = None
    rules: int | None = None

    def newer(self, rules: int) -> tuple[str, int] | None:
        """A term that this rule version does not know, if there is one, and the first one that does."""
        since = (
            (FIELDS_FROM, self._since_5()),
            (TOPOLOGIES_FROM, self._since_6()),
            (FLOAT16_FROM, self._since_7()),
        )
        for version, term in since:
            if rules < version and term is not None:
                return term, version
        if self.rules is not None and rules < self.rules:
            return f"rounds of version {self.rules}", self.rules
        return None

    def _since_7(self) -> str | None:
        return f"compression {self.compression!r}" if self.compression == FLOAT16 else None

    def _since_6(self) -> str | None:
        if self.topology != ALL_TO_ALL:
            return f"topology {self.topology!r}"
        if self.top_k is not None:
            return f"compression {self.compression!r}"
        return None if self.secure is None else "secure sums"

    def _since_5(self) -> str | None:
        if self.mode != PEER_ROUNDS:
            return f"mode {self.mode!r}"
        if self.max_norm is not None:
            return "max_norm"
        if self.compression == INT8:
            return f"compression {self.compression!r}"
        return None if self.strategy == FEDAVG else f"strategy {self.strategy!r}"

    @property
    def top_k(self) -> int | None:
        """Per cent of the elements of which updates tell, where they do not tell of all."""
        return top_k_of(self.compression)

    @property
    def rule(self) -> AggregationRule | None:
        """How updates are combined; None for the mean weighted by examples."""
        if self.mode == SERVER_APP or self.strategy == FEDAVG:
            return None
        of_groups = self.topology == GROUPS or self.secure is not None
        return replace(parse_rule(self.strategy), bounds_two=of_groups and self.rules is not None)

    def promiser(self, agent: AgentId) -> AgentId | None:
        """Whom the hash of this agent's commits names: itself, or nobody where the terms name no `rules`."""
        return None if self.rules is None else agent

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
        if self.topology != ALL_TO_ALL:
            body["topology"] = self.topology
        if self.secure is not None:
            body["secure"] = self.secure
        if self.fanout is not None:
            body["fanout"] = self.fanout
        if self.rules is not None:
            body["rules"] = self.rules
        task_from_body(body)
        return body


def top_k_of(compression: str) -> int | None:
    """The share of a `topk` compression in per cent, None for another one; raises `RecordError`."""
    if compression in (NO_COMPRESSION, INT8, FLOAT16):
        return None
    name, _, share = compression.partition(":")
    if name != TOP_K or share not in map(str, range(1, MAX_TOP_K + 1)):
        raise RecordError(
            f"compression {compression!r:.40} is none of {INT8}, {TOP_K}:1 … {TOP_K}:{MAX_TOP_K} (per cent), "
            f"{FLOAT16}"
        )
    return int(share)


def task_from_body(body: dict[str, Any]) -> Task:
    """Check and read a task; raises `RecordError` naming the term."""
    expect_fields(
        body,
        "arrays commit_ms config max_abs max_examples max_members min_members mode name parameters result_ms "
        "reveal_ms rounds strategy",
        _OPTIONAL,
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
    check_integer("rounds", body["rounds"], 1, MAX_ROUNDS)
    seats = MAX_SEATS if body.get("topology", ALL_TO_ALL) in (GROUPS, GOSSIP) else MAX_MEMBERS
    check_integer("max_members", body["max_members"], 1, seats)
    check_integer("min_members", body["min_members"], 1, body["max_members"])
    for name in ("commit_ms", "reveal_ms", "result_ms"):
        check_integer(name, body[name], MIN_DEADLINE_MS, MAX_DEADLINE_MS)
    check_integer("max_examples", body["max_examples"], 1, MAX_EXAMPLES)
    check_integer("max_abs", body["max_abs"], 1, MAX_ABS)
    if "max_norm" in body:
        check_integer("max_norm", body["max_norm"], 1, MAX_NORM)
    if "topology" in body and body["topology"] not in TOPOLOGIES[1:]:  # the first goes without saying
        raise RecordError(f"topology {body['topology']!r:.40} is none of {', '.join(TOPOLOGIES[1:])}")
    compression = body.get("compression", NO_COMPRESSION)
    if "compression" in body and (type(compression) is not str or compression == NO_COMPRESSION):
        raise RecordError(f"compression {compression!r:.40} is malformed: it is said where there is one")
    top_k = top_k_of(compression)
    if "secure" in body:
        check_integer("secure", body["secure"], MIN_SECURE, MAX_MEMBERS)
        if body["min_members"] < body["secure"]:
            raise RecordError(f"min_members {body['min_members']} is below secure {body['secure']}")
        if "compression" in body:
            raise RecordError("secure sums have a form of their own, 8 bytes an element: no compression")
    if "rules" in body:
        check_integer("rules", body["rules"], ROUNDS_FROM, RULE_VERSION)
        if body.get("topology") == GOSSIP:
            raise RecordError(f"rules are about rounds, which the topology {GOSSIP} has not")
    for name in ("compression", "rules", "topology", "secure"):
        if name in body and body["mode"] != PEER_ROUNDS:
            raise RecordError(f"{name} is for the mode {PEER_ROUNDS}")
    if "secure" in body and "topology" in body:
        raise RecordError(f"secure sums are for the topology {ALL_TO_ALL}, not {body['topology']}")
    if compression == FLOAT16 and body.get("topology") != GOSSIP:
        raise RecordError(f"compression {FLOAT16} is of whole models, for the topology {GOSSIP}")
    if compression == FLOAT16 and body["max_abs"] > MAX_FLOAT16:
        raise RecordError(f"max_abs {body['max_abs']} is over {MAX_FLOAT16}, the most that {FLOAT16} can say")
    if compression not in (NO_COMPRESSION, FLOAT16) and body.get("topology") == GOSSIP:
        raise RecordError(
            f"compression {compression} needs a model that all begin with, which the topology "
            f"{GOSSIP} has not: {FLOAT16} does without"
        )
    if "fanout" in body:
        check_integer("fanout", body["fanout"], 1, MAX_FANOUT)
        if body.get("topology") != GOSSIP:
            raise RecordError(f"fanout is for the topology {GOSSIP}")
    task = Task(
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
        compression=compression,
        topology=body.get("topology", ALL_TO_ALL),
        secure=body.get("secure"),
        fanout=body.get("fanout"),
        rules=body.get("rules"),
    )
    if top_k is not None:
        _check_top_k(task)
    return task


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
            check_integer(f"a dimension of array {name!r}", length, 1, MAX_MODEL_BYTES)
        arrays.append(Array(name, dtype, tuple(shape)))
        total += arrays[-1].size
        if total > MAX_MODEL_BYTES:
            raise RecordError(f"the arrays have over {MAX_MODEL_BYTES} bytes together")
    if len({array.name for array in arrays}) < len(arrays):
        raise RecordError("two arrays have one name")
    return tuple(arrays)


def _check_top_k(task: Task) -> None:
    """Refuse what would be slow or for nothing: a median of values that are mostly absent is no value."""
    rule = task.rule
    if rule is not None and rule.finish in COORDINATE_WISE and NNM not in rule.transforms:
        raise RecordError(f"{task.compression} with {rule} learns nothing: put {NNM} before {rule.finish}")


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
