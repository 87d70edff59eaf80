"""Payload bodies of the records that a ServerApp's run is made of: what it asked whom, and what came back.

In the mode `SERVER_APP` one member, the coordinator, runs the task's ServerApp. Whatever the app sends and
gets is on record, so that the run can be computed again, and another member can take it over where it
stopped.

| kind | body |
|---|---|
| learning.call | `Call`: the messages that the app sent at once, and which answers it had been given before |
| learning.answer | `Answer`: a member's answer to one of them |
| learning.end | `End`: how the run ended |

Messages are blobs, opaque to the node: Flower's own encoding of a record dict, read by the users' processes.
Calls form a chain from the task on. Two calls may follow one call, where two members took the run over at
once; which one counts is for `federated.call_log` to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from chain.body_fields import check_integer, expect_fields
from chain.cid import Cid, is_blob_cid, is_record_cid
from chain.errors import RecordError
from chain.identity import AGENT_ID_SIZE, AgentId
from chain.kinds import ANSWER, CALL, END
from chain.learning_task import MAX_DEADLINE_MS
from chain.text import check_text

MAX_CALLS: Final = 100_000
MAX_SENT: Final = 64
"""Messages of one call."""
MAX_NODES: Final = 64
MAX_MESSAGE_BYTES: Final = 272 << 20
"""Bytes of one message: a model and room for what is said beside it."""
MAX_WHY: Final = 1000
"""Bytes of UTF-8."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One message: to whom, the blob with its content, and that blob's size in bytes."""

    agent: AgentId
    blob: Cid
    size: int


@dataclass(frozen=True, slots=True)
class Call:
    """What the app sent at once. `number` counts from 1, `previous` is the call before, or the task.

    `nodes` are the members that the app was told of last, ascending; `answers` those to the previous call
    that it was given, in that order. Answers are waited for `wait_ms`, where the app gave less time than the
    task; there is none before rule version `kinds.TOPOLOGIES_FROM`.
    """

    number: int
    previous: Cid
    nodes: tuple[AgentId, ...]
    answers: tuple[Cid, ...]
    sent: tuple[Sent, ...]
    wait_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to message `place` (from 0) of a call: a blob, and its size in bytes."""

    call: Cid
    place: int
    blob: Cid
    size: int


@dataclass(frozen=True, slots=True)
class End:
    """The run is over after the call `previous` (or the task, when there was none), with these answers.

    `result` is the blob of the arrays that the app's strategy returned, if it did; `failed` says why there is
    none.
    """

    previous: Cid
    answers: tuple[Cid, ...]
    result: Cid | None = None
    failed: str | None = None


ServerOperation: TypeAlias = Call | Answer | End


def read_server(kind: str, body: dict[str, Any]) -> ServerOperation:
    """Read the body of one of the three kinds; raises `RecordError` naming what is wrong with it."""
    if kind == CALL:
        return _read_call(body)
    if kind == ANSWER:
        expect_fields(body, "blob call place size")
        _record_cid("call", body["call"])
        check_integer("place", body["place"], 0, MAX_SENT - 1)
        return Answer(body["call"], body["place"], *_blob(body["blob"], body["size"]))
    if kind == END:
        expect_fields(body, "answers previous", ("failed", "result"))
        _record_cid("previous", body["previous"])
        if ("failed" in body) == ("result" in body):
            raise RecordError("a run ends with a result or with why there is none")
        if "failed" in body:
            check_text("failed", body["failed"], MAX_WHY)
        elif not is_blob_cid(body["result"]):
            raise RecordError("result is not a blob CID")
        return End(body["previous"], _answers(body), body.get("result"), body.get("failed"))
    raise RecordError(f"{kind!r:.80} is not of a ServerApp's run")


def call_body(call: Call) -> dict[str, Any]:
    """Body of learning.call; raises `RecordError` beyond the limits."""
    body = {
        "answers": list(call.answers),
        "nodes": list(call.nodes),
        "number": call.number,
        "previous": call.previous,
        "sent": [[one.agent, one.blob, one.size] for one in call.sent],
    } | ({} if call.wait_ms is None else {"wait_ms": call.wait_ms})
    _read_call(body)
    return body


def answer_body(answer: Answer) -> dict[str, Any]:
    """Body of learning.answer."""
    return {"blob": answer.blob, "call": answer.call, "place": answer.place, "size": answer.size}


def end_body(end: End) -> dict[str, Any]:
    """Body of learning.end."""
    optional = {"failed": end.failed, "result": end.result}
    body = {"answers": list(end.answers), "previous": end.previous}
    return body | {name: value for name, value in optional.items() if value is not None}


def _read_call(body: dict[str, Any]) -> Call:
    expect_fields(body, "answers nodes number previous sent", ("wait_ms",))
    if "wait_ms" in body:
        check_integer("wait_ms", body["wait_ms"], 0, MAX_DEADLINE_MS)
    check_integer("number", body["number"], 1, MAX_CALLS)
    _record_cid("previous", body["previous"])
    nodes, sent = body["nodes"], body["sent"]
    if type(nodes) is not list or len(nodes) > MAX_NODES:
        raise RecordError(f"nodes is malformed: expected at most {MAX_NODES} agents")
    for agent in nodes:
        _agent(agent)
    if any(a >= b for a, b in zip(nodes, nodes[1:], strict=False)):
        raise RecordError("nodes is not ascending and unique")
    if type(sent) is not list or not 0 < len(sent) <= MAX_SENT:
        raise RecordError(f"sent is malformed: expected 1 to {MAX_SENT} messages")
    messages: list[Sent] = []
    for one in sent:
        if type(one) is not list or len(one) != 3:
            raise RecordError("a message is [agent, blob, size]")
        _agent(one[0])
        messages.append(Sent(one[0], *_blob(one[1], one[2])))
    known = body["number"], body["previous"], tuple(nodes), _answers(body), tuple(messages)
    return Call(*known, body.get("wait_ms"))


def _answers(body: dict[str, Any]) -> tuple[Cid, ...]:
    value = body["answers"]
    if type(value) is not list or len(value) > MAX_SENT or not all(map(is_record_cid, value)):
        raise RecordError(f"answers is malformed: expected at most {MAX_SENT} record CIDs")
    if len(set(value)) < len(value):
        raise RecordError("answers are not unique")
    return tuple(value)


def _blob(cid: object, size: object) -> tuple[Cid, int]:
    if not is_blob_cid(cid):
        raise RecordError("a message's blob is not a blob CID")
    check_integer("size", size, 0, MAX_MESSAGE_BYTES)
    assert isinstance(cid, bytes)
    assert isinstance(size, int)
    return cid, size


def _agent(value: object) -> None:
    if type(value) is not bytes or len(value) != AGENT_ID_SIZE:
        raise RecordError(f"an agent is not {AGENT_ID_SIZE} bytes")


def _record_cid(name: str, value: object) -> None:
    if not is_record_cid(value):
        raise RecordError(f"{name} is not a record CID")
