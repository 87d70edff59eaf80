"""The routes of a task's ServerApp: what its messages are, who answers, and who coordinates.

The app runs in a process of its user, which talks to its node through these: `duty` is a long poll that says
what is to be done, `calls` is the log from which a run is taken up, and messages are blobs that the node does
not look into.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import FastAPI, Query, Response
from pydantic import BaseModel, Field

from chain.cid import to_text
from chain.identity import AgentId, agent_from_text, peer_id
from chain.server_app import MAX_NODES, MAX_SENT, MAX_WHY
from federated.call_log import Answered
from federated.learning import Learning
from federated.server_run import ServerRun
from node.api.learning import MAX_WAIT_S, TaskId
from node.api.learning_shapes import id_of
from node.api.shape import Shape

MAX_CALLS = 200
"""Calls of one page of the log."""
Wait = Annotated[float, Query(ge=0, le=MAX_WAIT_S, allow_inf_nan=False)]


class MessageIn(Shape):
    """A message to a member: the blob with its content, posted before."""

    agent: str
    blob: str


class CallIn(Shape):
    """Messages that the app sends at once, on top of the call (or task) `previous`."""

    previous: str
    nodes: list[str] = Field(max_length=MAX_NODES)
    answers: list[str] = Field(max_length=MAX_SENT)
    messages: list[MessageIn] = Field(min_length=1, max_length=MAX_SENT)
    wait_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """How long the app waits for answers; null: as long as the task says."""


class AtWorkIn(Shape):
    """The app is at work after the call (or task) `previous`."""

    previous: str


class AnswerIn(Shape):
    """An answer to the message `place` of a call."""

    place: Annotated[int, Field(ge=0, lt=MAX_SENT)]
    blob: str


class EndIn(Shape):
    """How the run ended: with the blob of its result, or why there is none."""

    previous: str
    answers: list[str] = Field(max_length=MAX_SENT)
    result: str | None = None
    failed: Annotated[str, Field(min_length=1, max_length=MAX_WHY)] | None = None


class DutyOut(BaseModel):
    """What to do: answer the message `place` of `call`, whose content is `message`; coordinate; wait;
    stop."""

    state: Literal["answer", "coordinate", "wait", "finished"]
    number: int
    call: str | None = None
    place: int | None = None
    message: str | None = None
    result: str | None = None
    deadline_s: float | None = None


class MessageOut(BaseModel):
    """A message of a call and the blob with its content."""

    agent: str
    blob: str
    size: int


class AnswerOut(BaseModel):
    """An answer to a message: its record, by whom, and the blob with its content."""

    place: int
    record: str
    agent: str
    blob: str
    size: int


class CallOut(BaseModel):
    """One call of the run; `answers` are all that are known, `given` those that the app was given to the call
    before; they are waited for `wait_ms`, null: as long as the task says."""

    number: int
    call: str
    coordinator: str
    nodes: list[str]
    given: list[str]
    wait_ms: int | None
    messages: list[MessageOut]
    answers: list[AnswerOut]


class CallsOut(BaseModel):
    """A page of the log, with what the next call builds on, and who would get messages now.

    `given` are the answers to the last call that the app was given before it ended; null while it runs.
    """

    calls: list[CallOut]
    head: str
    nodes: list[str]
    finished: bool
    given: list[str] | None


class CalledOut(BaseModel):
    """The record of the call."""

    call: str


class CollectedOut(BaseModel):
    """The answers that are here; `done` when no more are waited for."""

    answers: list[AnswerOut]
    done: bool


class DoneOut(BaseModel):
    """It is durable on this node."""

    done: bool = True


def add_server_run_routes(app: FastAPI, learning: Learning) -> None:
    """Mount the routes over a node's learning service."""

    def run_of(id: str) -> ServerRun:
        return learning.server_run(id_of(id))

    @app.get(
        "/v1/learning/tasks/{id}/duty",
        response_model=DutyOut,
        response_model_exclude_none=True,
        tags=["learning"],
        summary="What to do in a ServerApp's run; waits up to `wait` seconds for something",
    )
    async def duty(id: TaskId, wait: Wait = 0.0, serve: bool = False) -> DutyOut:
        now = await run_of(id).work(wait, serve)
        blob = None if now.blob is None else to_text(now.blob)
        if now.state == "answer" and now.call is not None:
            return DutyOut(
                state="answer",
                number=now.number,
                call=to_text(now.call),
                place=now.place,
                message=blob,
                deadline_s=now.deadline_s,
            )
        return DutyOut(state=now.state, number=now.number, result=blob)  # type: ignore[arg-type]

    @app.get(
        "/v1/learning/tasks/{id}/calls",
        response_model=CallsOut,
        tags=["learning"],
        summary="What the ServerApp has sent and got so far",
    )
    async def calls(
        id: TaskId,
        after: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_CALLS)] = MAX_CALLS,
    ) -> CallsOut:
        await learning.observe(id_of(id))
        run = run_of(id)
        log = run.ledger
        return CallsOut(
            calls=[
                CallOut(
                    number=step.call.number,
                    call=to_text(step.record),
                    coordinator=peer_id(step.agent),
                    nodes=_agents(step.call.nodes),
                    given=[to_text(cid) for cid in step.call.answers],
                    wait_ms=step.call.wait_ms,
                    messages=[
                        MessageOut(agent=peer_id(one.agent), blob=to_text(one.blob), size=one.size)
                        for one in step.call.sent
                    ],
                    answers=[_answer(one) for _, one in sorted(log.answers(step.record).items())],
                )
                for step in log.steps[after : after + limit]
            ],
            head=to_text(log.head),
            nodes=_agents(run.nodes()),
            finished=log.finished,
            given=None if log.ended is None else [to_text(cid) for cid in log.ended.end.answers],
        )

    @app.post(
        "/v1/learning/tasks/{id}/calls",
        response_model=CalledOut,
        status_code=201,
        tags=["learning"],
        summary="Send messages of the ServerApp to members; on record when this answers",
    )
    async def call(id: TaskId, body: CallIn) -> CalledOut:
        cid = await run_of(id).call(
            id_of(body.previous),
            [agent_from_text(one) for one in body.nodes],
            [id_of(one) for one in body.answers],
            [(agent_from_text(one.agent), id_of(one.blob, blob=True)) for one in body.messages],
            body.wait_s,
        )
        return CalledOut(call=to_text(cid))

    @app.get(
        "/v1/learning/tasks/{id}/calls/{call}/answers",
        response_model=CollectedOut,
        tags=["learning"],
        summary="The answers to an own call; waits up to `wait` seconds for all of them",
    )
    async def collect(id: TaskId, call: str, wait: Wait = 0.0) -> CollectedOut:
        found = await run_of(id).collect(id_of(call), wait)
        return CollectedOut(answers=[_answer(one) for one in found.answers], done=found.done)

    @app.post(
        "/v1/learning/tasks/{id}/calls/{call}/answer",
        response_model=DoneOut,
        tags=["learning"],
        summary="Answer a message; on record when this answers",
    )
    async def answer(id: TaskId, call: str, body: AnswerIn) -> DoneOut:
        await run_of(id).answer(id_of(call), body.place, id_of(body.blob, blob=True))
        return DoneOut()

    @app.post(
        "/v1/learning/tasks/{id}/end",
        response_model=DoneOut,
        tags=["learning"],
        summary="End the run, with a result or with why there is none",
    )
    async def end(id: TaskId, body: EndIn) -> DoneOut:
        result = None if body.result is None else id_of(body.result, blob=True)
        await run_of(id).end(id_of(body.previous), [id_of(one) for one in body.answers], result, body.failed)
        return DoneOut()

    @app.post(
        "/v1/learning/tasks/{id}/at-work",
        response_model=DoneOut,
        tags=["learning"],
        summary="The user's process coordinates and its app is at work: the members are told, now and then",
    )
    async def at_work(id: TaskId, body: AtWorkIn) -> DoneOut:
        run_of(id).at_work(id_of(body.previous))
        return DoneOut()

    @app.post(
        "/v1/learning/tasks/{id}/release",
        response_model=DoneOut,
        tags=["learning"],
        summary="The user's process does not coordinate any more",
    )
    async def release(id: TaskId) -> DoneOut:
        run_of(id).released()
        return DoneOut()

    @app.get(
        "/v1/learning/tasks/{id}/messages/{blob}",
        response_class=Response,
        tags=["learning"],
        summary="The content of a message or answer, from here or from a member",
    )
    async def message(id: TaskId, blob: str) -> Response:
        data = await run_of(id).message(id_of(blob, blob=True))
        return Response(data, media_type="application/octet-stream")


def _answer(one: Answered) -> AnswerOut:
    return AnswerOut(
        place=one.answer.place,
        record=to_text(one.record),
        agent=peer_id(one.agent),
        blob=to_text(one.answer.blob),
        size=one.answer.size,
    )


def _agents(agents: tuple[AgentId, ...]) -> list[str]:
    return [peer_id(agent) for agent in agents]
