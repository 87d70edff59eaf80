"""The routes of learning tasks: publish, join, train from what `work` names, hand in, see what came out.

The training is done by the user's own process, which talks to its node through these; `work` is a long poll.
What goes in and comes out is in `learning_shapes`.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Path, Query

from chain.cid import to_text
from chain.identity import peer_id
from chain.learning_task import (
    MAX_ROUNDS,
)
from federated.learning import Learning
from node.api.learning_shapes import (
    AcceptedOut,
    AuditOut,
    JoinedOut,
    LineOut,
    LinesOut,
    ResultOut,
    TaskDetailOut,
    TaskIn,
    TaskMadeOut,
    TaskOut,
    TasksOut,
    UpdateIn,
    WorkOut,
    audited_of,
    barred_of,
    config_shown,
    detail_of,
    id_of,
    task_shown,
)

MAX_WAIT_S = 60
"""Longest wait of one `work`."""
MAX_LINES = 1000
"""Lines of a task's log in one answer."""


TaskId = Annotated[str, Path(description="the CID of the task's record")]
RoundQuery = Annotated[int | None, Query(ge=1, le=MAX_ROUNDS)]


def add_learning_routes(app: FastAPI, learning: Learning) -> None:
    """Mount the routes over a node's learning service."""

    @app.post(
        "/v1/learning/tasks",
        response_model=TaskMadeOut,
        status_code=201,
        tags=["learning"],
        summary="Publish a task; durable when this answers",
    )
    async def create(task: TaskIn) -> TaskMadeOut:
        terms = task.to_task(learning.strategy, learning.halves)
        return TaskMadeOut(id=to_text(await learning.create(terms)))

    @app.get("/v1/learning/tasks", response_model=TasksOut, tags=["learning"], summary="The network's tasks")
    async def tasks() -> TasksOut:
        return TasksOut(tasks=[TaskOut(**task_shown(view)) for view in await learning.tasks()])

    @app.get(
        "/v1/learning/tasks/{id}", response_model=TaskDetailOut, tags=["learning"], summary="A task as it is"
    )
    async def task(id: TaskId) -> TaskDetailOut:
        return detail_of(await learning.task(id_of(id)))

    @app.post(
        "/v1/learning/tasks/{id}/join", response_model=JoinedOut, tags=["learning"], summary="Take part"
    )
    async def join(id: TaskId) -> JoinedOut:
        await learning.join(id_of(id))
        return JoinedOut(joined=True)

    @app.post(
        "/v1/learning/tasks/{id}/leave",
        response_model=JoinedOut,
        tags=["learning"],
        summary="Take part no more, from the next roster on",
    )
    async def leave(id: TaskId) -> JoinedOut:
        await learning.leave(id_of(id))
        return JoinedOut(joined=False)

    @app.get(
        "/v1/learning/tasks/{id}/work",
        response_model=WorkOut,
        response_model_exclude_none=True,
        tags=["learning"],
        summary="What to train now; waits up to `wait` seconds for something to do",
    )
    async def work(
        id: TaskId, wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S, allow_inf_nan=False)] = 0.0
    ) -> WorkOut:
        state, number, parameters, deadline_s, terms = await learning.work(id_of(id), wait)
        if state == "train":
            shown = config_shown(terms.config)
            return WorkOut(
                state="train",
                round=number,
                parameters=to_text(parameters),
                config=shown,
                deadline_s=deadline_s,
            )
        if state == "finished":
            return WorkOut(state="finished", round=number, parameters=to_text(parameters))
        out = learning.sits_out(id_of(id))
        return WorkOut(state="wait", round=number, barred=None if out is None else barred_of(out))

    @app.post(
        "/v1/learning/tasks/{id}/rounds/{number}/update",
        response_model=AcceptedOut,
        tags=["learning"],
        summary="Hand in this node's update for a round; promised to the others when this answers",
    )
    async def update(
        id: TaskId, number: Annotated[int, Path(ge=1, le=MAX_ROUNDS)], update: UpdateIn
    ) -> AcceptedOut:
        blob = id_of(update.blob, blob=True)
        await learning.hand_in(id_of(id), number, blob, update.examples, update.metrics)
        return AcceptedOut()

    @app.get(
        "/v1/learning/tasks/{id}/log",
        response_model=LinesOut,
        tags=["learning"],
        summary="What happened in a task that this node follows, in the order in which it heard of it",
    )
    async def log(
        id: TaskId,
        after: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_LINES)] = 100,
    ) -> LinesOut:
        found = learning.lines(id_of(id), after, limit)
        events = [
            LineOut(
                n=one.number,
                at_us=one.hlc,
                event=one.event,
                agent=peer_id(one.agent),
                round=one.round,
                record=to_text(one.record),
                text=one.text,
            )
            for one in found
        ]
        return LinesOut(events=events, next=found[-1].number if found else after)

    @app.get(
        "/v1/learning/tasks/{id}/result",
        response_model=ResultOut,
        tags=["learning"],
        summary="The model of a round, or the newest",
    )
    async def result(id: TaskId, round: RoundQuery = None) -> ResultOut:
        number, parameters, record = await learning.result(id_of(id), round)
        return ResultOut(round=number, parameters=to_text(parameters), record=to_text(record))

    @app.post(
        "/v1/learning/tasks/{id}/audit",
        response_model=AuditOut,
        tags=["learning"],
        summary="Compute finished rounds again from their records and updates",
    )
    async def audit(id: TaskId, round: RoundQuery = None) -> AuditOut:
        return AuditOut(rounds=[audited_of(view) for view in await learning.audit(id_of(id), round)])
