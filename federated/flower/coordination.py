"""Running a task's ServerApp over its members: from the log as far as it goes, then live.

The app is asked what it wants, again and again. As long as there are calls on record its messages are held
against them, and the answers on record are what it gets; so a member that takes a run over comes to where the
one before it was, whatever the strategy keeps in memory. From there on its messages go to the members. What
it was not told before the run changed hands are at most the answers to one call, and those that are on record
are not asked for again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from federated.flower.app_runner import LOAD_S, AppRunner
from federated.flower.errors import AppFailed

WAIT_S = 20
"""How long one question for answers may wait at the node."""
STEP_S = 3_600.0
"""How long the ServerApp may take between two wants: for aggregation, and evaluation on its own data."""
TOLERANCE_KEY = "tolerance"
"""Where a task's config holds how far two runs of the app may differ, as text."""
TOLERANCE = 1e-4
"""Unless the task states another one."""
MAX_DIFFERENCES = 20


def tolerance_of(config: Mapping[str, Any]) -> float:
    """How far two runs of a task's app may differ, by the task's config. Raises `AppFailed`."""
    try:
        tolerance = float(config.get(TOLERANCE_KEY, TOLERANCE))
    except (TypeError, ValueError):
        tolerance = -1.0
    if not 0 <= tolerance <= 1:
        raise AppFailed(f"the task's {TOLERANCE_KEY} is no number from 0 to 1")
    return tolerance


class Superseded(Exception):
    """Another member coordinates the run now."""


class Conductor(Protocol):
    """The local daemon, as far as a coordinator needs it. Each call raises what the daemon's client raises.

    `call`, `collect`, `at_work` and `end` raise `Superseded`.
    """

    def log(self) -> dict[str, Any]:
        """All calls of the run, what the next one builds on, and who would get messages now."""
        ...

    def message(self, blob: str) -> bytes:
        """The content of a message or an answer, from here or from a member."""
        ...

    def kept(self, blob: str) -> bytes | None:
        """The same, or None when nobody has it any more."""
        ...

    def put(self, data: bytes) -> str:
        """Keep a blob; its CID."""
        ...

    def call(
        self,
        previous: str,
        nodes: list[str],
        answers: list[str],
        messages: list[dict[str, str]],
        wait: float | None,
    ) -> str:
        """Send messages, for whose answers the app waits so many seconds; the record of the call."""
        ...

    def collect(self, call: str, wait: int) -> dict[str, Any]:
        """The answers that are here, and whether more are waited for."""
        ...

    def end(self, previous: str, answers: list[str], result: str | None, failed: str | None) -> None:
        """End the run."""
        ...

    def at_work(self, previous: str) -> None:
        """The app is at work after this call."""
        ...

    def release(self) -> None:
        """This process does not coordinate any more."""
        ...


class Audience(Protocol):
    """Where the coordinator says what happens."""

    def resumed(self, calls: int) -> None:
        """The run was taken up after so many calls."""
        ...

    def called(self, number: int, messages: int) -> None:
        """Messages went out."""
        ...

    def collected(self, number: int, answers: int, of: int) -> None:
        """Answers are in."""
        ...

    def refused(self, agent: str, why: str) -> None:
        """An answer was not handed to the strategy."""
        ...


@dataclass(slots=True)
class Ran:
    """What came of it: calls in all, those taken from the log, how they differed from it, and the end."""

    calls: int = 0
    replayed: int = 0
    differences: list[str] = field(default_factory=list)
    result: bytes | None = None
    failed: str | None = None
    refused: list[tuple[str, str]] = field(default_factory=list)


def coordinate(
    node: Conductor, task: Mapping[str, Any], app: AppRunner, audience: Audience, *, live: bool = True
) -> Ran:
    """Run the app to its end, which is then on record; or, not `live`, only as far as the log goes.

    Raises `AppFailed` when the app asks others than the log says, `AppLost`, `Superseded`, and what the
    node's client raises. An app that fails ends the run, and says why.
    """
    log = node.log()
    run = _Run(node, task, app, audience, log["calls"], log["given"], live)
    try:
        return run.run()
    finally:
        if live:
            node.release()


class _Run:
    def __init__(
        self,
        node: Conductor,
        task: Mapping[str, Any],
        app: AppRunner,
        audience: Audience,
        calls: list[dict[str, Any]],
        given: list[str] | None,
        live: bool,
    ) -> None:
        self._node = node
        self._task = task
        self._app = app
        self._audience = audience
        self._calls = calls
        self._given_at_end = given
        self._live = live
        self._ran = Ran()
        self._head = str(task["id"])
        self._given: list[str] = []
        self._nodes: list[str] = []
        self._tolerance = tolerance_of(task["config"])

    def run(self) -> Ran:
        if self._calls and self._live:
            self._audience.resumed(len(self._calls))
        limits = int(self._task["max_examples"]), float(self._task["max_abs"])
        wanted = self._app.serve(*limits, LOAD_S, self._at_work)
        while True:
            for agent, why in wanted["refused"]:
                self._ran.refused.append((agent, why))
                self._audience.refused(agent, why)
            if wanted["want"] == "end":
                return self._end(wanted)
            if wanted["want"] == "nodes":
                self._nodes = self._nodes_now()
                wanted = self._app.go_on(STEP_S, self._at_work, nodes=self._nodes)
                continue
            answers = self._call(wanted["messages"], wanted["contents"], wanted["wait"])
            if answers is None:
                return self._ran
            wanted = self._app.go_on(STEP_S, self._at_work, answers=answers)

    def _nodes_now(self) -> list[str]:
        at = self._ran.calls
        if at < len(self._calls):
            return list(self._calls[at]["nodes"])
        return list(self._node.log()["nodes"])

    def _at_work(self) -> None:
        if self._live and self._ran.calls >= len(self._calls):
            self._node.at_work(self._head)

    def _call(
        self, messages: list[list[Any]], contents: list[bytes], wait: float | None
    ) -> Iterator[tuple[int, bytes]] | None:
        """Send, or find on record; the answers by place, fetched as they are asked for; None where the log
        ends and we are not live."""
        at = self._ran.calls
        self._ran.calls += 1
        if at < len(self._calls):
            self._compare(self._calls[at], messages, contents)
            self._ran.replayed += 1
            self._head = str(self._calls[at]["call"])
            following = self._calls[at + 1]["given"] if at + 1 < len(self._calls) else self._given_at_end
            if following is not None:
                known = {one["record"]: one for one in self._calls[at]["answers"]}
                self._given = list(following)
                return self._recorded([known.get(record) for record in self._given], at + 1)
            if not self._live:
                return None
        elif not self._live:
            return None
        else:
            blobs = [self._node.put(content) for content in contents]
            sent = [{"agent": agent, "blob": blobs[place]} for agent, place in messages]
            short = None if wait is None or 1_000 * wait >= int(self._task["deadline_ms"]) else wait
            self._head = self._node.call(self._head, self._nodes, self._given, sent, short)
            self._audience.called(at + 1, len(sent))
        found: dict[str, Any] = {"answers": [], "done": False}
        while not found["done"]:
            found = self._node.collect(self._head, WAIT_S)
        self._audience.collected(at + 1, len(found["answers"]), len(messages))
        self._given = [one["record"] for one in found["answers"]]
        return self._contents(found["answers"])

    def _recorded(self, answers: list[dict[str, Any] | None], number: int) -> Iterator[tuple[int, bytes]]:
        """The answers that the app was given; what nobody has any more is left out, and said."""
        for one in answers:
            data = None if one is None else self._node.kept(one["blob"])
            if one is None or data is None:
                who = "a member" if one is None else one["agent"]
                self._ran.differences.append(f"call {number}: the answer of {who} is nowhere to be had")
            else:
                yield one["place"], data

    def _contents(self, answers: list[dict[str, Any]]) -> Iterator[tuple[int, bytes]]:
        for one in answers:
            yield one["place"], self._node.message(one["blob"])

    def _compare(self, logged: Mapping[str, Any], messages: list[list[Any]], contents: list[bytes]) -> None:
        number = logged["number"]
        there = logged["messages"]
        if [one["agent"] for one in there] != [agent for agent, _ in messages]:
            raise AppFailed(f"in call {number} the app sends to others than on record")
        last = self._live and number == len(self._calls)
        # The one before us may be gone with a message that not everybody had fetched: it can be had here.
        put = [self._node.put(content) if last else None for content in contents]
        found: dict[tuple[int, str], str | None] = {}
        for one, (agent, place) in zip(there, messages, strict=True):
            pair = (place, str(one["blob"]))
            if pair not in found:
                found[pair] = (
                    None if put[place] == one["blob"] else self._difference(contents[place], pair[1])
                )
            difference = found[pair]
            if difference is not None and len(self._ran.differences) < MAX_DIFFERENCES:
                self._ran.differences.append(f"call {number} to {agent}: {difference}")

    def _difference(self, ours: bytes, blob: str) -> str | None:
        theirs = self._node.kept(blob)
        if theirs is None:
            return "it is nowhere to be had"
        return None if ours == theirs else self._app.differences(ours, theirs, self._tolerance)

    def _end(self, wanted: Mapping[str, Any]) -> Ran:
        self._ran.result, self._ran.failed = wanted["result"], wanted["failed"]
        if self._ran.calls < len(self._calls):
            raise AppFailed(f"the app ended after {self._ran.calls} calls, {len(self._calls)} are on record")
        if self._live:
            result = None if self._ran.result is None else self._node.put(self._ran.result)
            self._node.end(self._head, self._given, result, self._ran.failed)
        return self._ran
