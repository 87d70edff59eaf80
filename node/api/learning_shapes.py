"""What the routes of learning tasks take and answer: the JSON of a task, its rounds, its log, its audit.

Shapes of the API on one side, the node's own nouns on the other (`Task`, `federated.views`), and what makes
one of the other. Ids are text, agents are peer ids, metrics are numbers here and integer ppm in records;
floats in a task's config become strings, because signed records hold no floats.
"""

from __future__ import annotations

from math import ceil
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from chain.cid import Cid, from_text, is_blob_cid, is_record_cid, to_text
from chain.errors import CidError
from chain.identity import AgentId, peer_id
from chain.learning import MAX_METRICS
from chain.learning_task import (
    ALL_TO_ALL,
    FEDAVG,
    FLOAT16,
    GOSSIP,
    GROUPS,
    INT8,
    MAX_ABS,
    MAX_ARRAYS,
    MAX_CONFIG,
    MAX_DEADLINE_MS,
    MAX_DIMS,
    MAX_EXAMPLES,
    MAX_FANOUT,
    MAX_FLOAT16,
    MAX_MEMBERS,
    MAX_MODEL_BYTES,
    MAX_NAME,
    MAX_NORM,
    MAX_ROUNDS,
    MAX_SEATS,
    MIN_DEADLINE_MS,
    MIN_SECURE,
    NO_COMPRESSION,
    SERVER_APP,
    Array,
    ConfigValue,
    Task,
)
from federated.gossip import fanout
from federated.learning import PPM
from federated.update import update_size
from federated.views import AuditView, Barred, Contributor, RoundView, TaskView
from node.api.problems import BadId
from node.api.shape import Shape


class ArrayIn(Shape):
    """One array of a model."""

    name: str
    dtype: Literal["<f4", "<f8", "<i8"]
    shape: Annotated[list[Annotated[int, Field(ge=1, le=MAX_MODEL_BYTES)]], Field(max_length=MAX_DIMS)]


class TaskIn(Shape):
    """The terms of a new task. `parameters`: the blob with the initial model, posted before."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    arrays: Annotated[list[ArrayIn], Field(max_length=MAX_ARRAYS)]
    parameters: str
    rounds: Annotated[int, Field(ge=1, le=MAX_ROUNDS)]
    min_members: Annotated[int, Field(ge=1, le=MAX_SEATS)] = 2
    max_members: Annotated[int, Field(ge=1, le=MAX_SEATS)] | None = None
    """As many as the topology allows, unless said otherwise."""
    deadline_ms: Annotated[int, Field(ge=MIN_DEADLINE_MS, le=MAX_DEADLINE_MS)] = 60_000
    lease_ms: Annotated[int, Field(ge=MIN_DEADLINE_MS, le=MAX_DEADLINE_MS)] | None = None
    max_examples: Annotated[int, Field(ge=1, le=MAX_EXAMPLES)] = MAX_EXAMPLES
    max_abs: Annotated[float, Field(gt=0, le=MAX_ABS)] = 1000.0
    max_norm: Annotated[int, Field(ge=1, le=MAX_NORM)] | None = None
    config: dict[str, str | bool | int | float] = Field(default={}, max_length=MAX_CONFIG)
    mode: Literal["peer-rounds", "server-app"] = "peer-rounds"
    strategy: Annotated[str, Field(min_length=1, max_length=MAX_NAME)] | None = None
    compression: Annotated[str, Field(min_length=1, max_length=MAX_NAME)] = "none"
    topology: Literal["all-to-all", "groups", "gossip"] | None = None
    """Groups by default where there may be more members than exchange all with all."""
    fanout: Annotated[int, Field(ge=1, le=MAX_FANOUT)] | None = None
    secure: Annotated[int, Field(ge=MIN_SECURE, le=MAX_MEMBERS)] | None = None
    """Updates are summed under masks in groups of at least so many."""

    def to_task(self, strategy: str, halves: bool) -> Task:
        """The node's noun; `strategy` unless they say one: `FEDAVG` where the network knows no other.

        `halves`: whether the network knows `FLOAT16`, which gossip has then, unless they say another form.
        """
        compression = self.compression
        max_members = self.max_members or (MAX_SEATS if self.topology == GOSSIP else MAX_MEMBERS)
        topology = self.topology or (GROUPS if max_members > MAX_MEMBERS else ALL_TO_ALL)
        if compression == "auto":
            plain = strategy == FEDAVG or self.mode == SERVER_APP or self.secure is not None
            compression = NO_COMPRESSION if plain or topology == GOSSIP else INT8
            if topology == GOSSIP and self.secure is None and halves and self.max_abs <= MAX_FLOAT16:
                compression = FLOAT16
        return Task(
            name=self.name,
            arrays=tuple(Array(one.name, one.dtype, tuple(one.shape)) for one in self.arrays),
            parameters=id_of(self.parameters, blob=True),
            rounds=self.rounds,
            min_members=self.min_members,
            max_members=max_members,
            commit_ms=self.deadline_ms,
            reveal_ms=self.deadline_ms,
            result_ms=self.lease_ms or self.deadline_ms,
            max_examples=self.max_examples,
            max_abs=ceil(self.max_abs),
            config={
                key: repr(value) if isinstance(value, float) else value for key, value in self.config.items()
            },
            mode=self.mode,
            strategy=self.strategy or (FEDAVG if self.mode == SERVER_APP else strategy),
            max_norm=self.max_norm,
            compression=compression,
            topology=topology,
            fanout=self.fanout,
            secure=self.secure,
        )


class UpdateIn(Shape):
    """What came of training: the update's blob, posted before, and how many examples it rests on."""

    blob: str
    examples: Annotated[int, Field(ge=1, le=MAX_EXAMPLES)]
    metrics: dict[str, float] = Field(default={}, max_length=MAX_METRICS)


class TaskMadeOut(BaseModel):
    """The task's id: the CID of its record."""

    id: str


class ArrayOut(BaseModel):
    """One array of a model."""

    name: str
    dtype: str
    shape: list[int]


class ContributorOut(BaseModel):
    """A member whose update counted."""

    agent: str
    examples: int
    metrics: dict[str, float]
    bytes: int


class RefusedOut(BaseModel):
    """A member whose update was refused, and the code of the reason."""

    agent: str
    reason: str


class BarredOut(BaseModel):
    """Who has no seat, why, and the last round that it sits out; none: for good (excluded: until lifted)."""

    agent: str
    reason: str
    until: int | None


class RoundOut(BaseModel):
    """A finished round; `bytes` of the updates that counted, in all."""

    round: int
    result: str
    parameters: str
    bytes: int
    contributors: list[ContributorOut]
    refused: list[RefusedOut]
    absent: list[str]
    signers: list[str]
    roster: list[str]


class TaskOut(BaseModel):
    """A task at a glance; `parameters` is the newest model."""

    id: str
    name: str
    author: str
    mode: str
    strategy: str
    topology: str
    secure: int | None = None
    """The least members of a group in which updates are summed under masks, if they are."""
    state: Literal["open", "running", "finished", "unread"]
    """`unread`: in a list, a task of which no more than its terms could be had in time."""
    round: int
    rounds: int
    min_members: int
    max_members: int
    parameters: str
    joined: bool
    own: bool
    members: list[str]
    roster: list[str]
    coordinator: str | None = None
    failed: str | None = None


class TaskDetailOut(TaskOut):
    """A task with its terms and its rounds."""

    arrays: list[ArrayOut]
    config: dict[str, Any]
    deadline_ms: int
    max_examples: int
    max_abs: int
    max_norm: int | None
    compression: str
    plain_bytes: int
    """Bytes of an update that is not compressed."""
    fanout: int | None
    """Models of others that a member combines in a round, in the topology gossip."""
    rules: int | None
    """The rule version by which its rounds are computed, where the terms say one."""
    phase: Literal["commit", "reveal", "group", "result", "train", "combine"] | None
    deadline_s: float | None
    barred: list[BarredOut]
    history: list[RoundOut]


class TasksOut(BaseModel):
    """The tasks that this node follows, and those that the network lists."""

    tasks: list[TaskOut]


class JoinedOut(BaseModel):
    """Whether this node wants to take part now."""

    joined: bool


class WorkOut(BaseModel):
    """What to do: train from `parameters`, wait and ask again, or stop. `barred`: why there is no seat."""

    state: Literal["train", "wait", "finished"]
    round: int
    parameters: str | None = None
    config: dict[str, Any] | None = None
    deadline_s: float | None = None
    barred: BarredOut | None = None


class AcceptedOut(BaseModel):
    """The update is promised to the other members."""

    accepted: bool = True


class LineOut(BaseModel):
    """A record of the task as it became known here; `at_us` is its author's clock."""

    n: int
    at_us: int
    event: str
    agent: str
    round: int | None
    record: str
    text: str


class LinesOut(BaseModel):
    """Lines of the log; ask again after `next`."""

    events: list[LineOut]
    next: int


class ResultOut(BaseModel):
    """A round's model and the record of its result."""

    round: int
    parameters: str
    record: str


class AuditedOut(BaseModel):
    """A round computed again."""

    round: int
    ok: bool
    result: str
    contributors: list[ContributorOut]
    refused: list[RefusedOut]
    problem: str | None
    member: str | None = None
    """Whose step it is, in the topology gossip."""


class AuditOut(BaseModel):
    """The rounds asked for."""

    rounds: list[AuditedOut]


def task_shown(view: TaskView) -> dict[str, Any]:
    terms = view.terms
    return {
        "id": to_text(view.id),
        "name": terms.name,
        "author": peer_id(view.author),
        "mode": terms.mode,
        "strategy": terms.strategy,
        "topology": terms.topology,
        "secure": terms.secure,
        "state": view.state,
        "round": view.round,
        "rounds": terms.rounds,
        "min_members": terms.min_members,
        "max_members": terms.max_members,
        "parameters": to_text(view.parameters),
        "joined": view.joined,
        "own": view.own,
        "members": [peer_id(agent) for agent in view.members],
        "roster": [peer_id(agent) for agent in view.roster],
        "coordinator": None if view.coordinator is None else peer_id(view.coordinator),
        "failed": view.failed,
    }


def detail_of(view: TaskView) -> TaskDetailOut:
    terms = view.terms
    return TaskDetailOut(
        **task_shown(view),
        arrays=[ArrayOut(name=a.name, dtype=a.dtype, shape=list(a.shape)) for a in terms.arrays],
        config=config_shown(terms.config),
        deadline_ms=terms.commit_ms,
        max_examples=terms.max_examples,
        max_abs=terms.max_abs,
        max_norm=terms.max_norm,
        compression=terms.compression,
        fanout=fanout(terms) if terms.topology == GOSSIP else None,
        rules=terms.rules,
        plain_bytes=update_size(terms.arrays),
        phase=view.phase,  # type: ignore[arg-type]
        deadline_s=view.deadline_s,
        barred=[barred_of(one) for one in view.barred],
        history=[_round(one) for one in view.history],
    )


def _round(view: RoundView) -> RoundOut:
    return RoundOut(
        round=view.round,
        result=to_text(view.record),
        parameters=to_text(view.parameters),
        bytes=sum(one.size for one in view.contributors),
        contributors=[_contributor(one) for one in view.contributors],
        refused=[_refused(*pair) for pair in view.refused],
        absent=[peer_id(agent) for agent in view.absent],
        signers=[peer_id(agent) for agent in view.signers],
        roster=[peer_id(agent) for agent in view.roster],
    )


def audited_of(view: AuditView) -> AuditedOut:
    return AuditedOut(
        round=view.round,
        ok=view.problem is None,
        result=to_text(view.result),
        contributors=[_contributor(one) for one in view.contributors],
        refused=[_refused(*pair) for pair in view.refused],
        problem=view.problem,
        member=None if view.agent is None else peer_id(view.agent),
    )


def _contributor(one: Contributor) -> ContributorOut:
    metrics = {name: value / PPM for name, value in one.metrics.items()}
    return ContributorOut(agent=peer_id(one.agent), examples=one.examples, metrics=metrics, bytes=one.size)


def barred_of(one: Barred) -> BarredOut:
    return BarredOut(agent=peer_id(one.agent), reason=one.reason, until=one.until)


def _refused(agent: AgentId, reason: str) -> RefusedOut:
    return RefusedOut(agent=peer_id(agent), reason=reason)


def config_shown(config: Any) -> dict[str, Any]:
    """A task's config as JSON; bytes, which only programs write, as hexadecimal digits."""
    shown: dict[str, ConfigValue] = dict(config)
    return {key: value.hex() if isinstance(value, bytes) else value for key, value in shown.items()}


def id_of(text: str, *, blob: bool = False) -> Cid:
    """The CID of a record or of a blob; raises `BadId`."""
    try:
        cid = from_text(text)
    except CidError as error:
        raise BadId(str(error)) from error
    if not (is_blob_cid(cid) if blob else is_record_cid(cid)):
        raise BadId(f"{text} is not the id of a {'blob' if blob else 'task'}")
    return cid
