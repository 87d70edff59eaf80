"""One member's daemon as the Flower bridge sees it: work, blobs and updates over the HTTP interface.

A daemon that is restarted meanwhile is found again: for `RETRY_S` every call that nobody answers is made
anew, with the address and token that the home folder then holds. All calls may be repeated: an update whose
taking was not heard of is refused the second time, which then means that it was taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from chain.learning_task import FLOAT16, NO_COMPRESSION, top_k_of
from federated.flower.client_state import state_file
from federated.flower.compressing_member import SUFFIX, CompressingMember
from federated.flower.coordination import Superseded
from federated.flower.halving_member import HalvingMember
from federated.flower.participation import LearningNode, Refused
from node.api_client import LONG_SECONDS, ApiClient, ApiError, path_segment
from node.errors import DaemonNotRunning, HomeDamaged
from node.home import Home

T = TypeVar("T")

RETRY_S = 60.0
"""How long a daemon may be away."""
RETRY_PAUSE_S = 0.5
BLOB_SECONDS = 600.0
WAIT_MARGIN_S = 30.0
"""Over the time that the daemon was asked to wait itself."""
NOT_FOUND = 404
CONFLICT = 409
REFUSALS = (404, CONFLICT, 422)
"""Statuses that say that this update is not taken, while the task goes on."""


class SystemClock:
    """The clock of this machine."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Member:
    """This node in one task. Raises what `ApiClient` raises."""

    def __init__(self, home: Home, task: str, clock: SystemClock) -> None:
        self._home = home
        self._client = ApiClient(home)
        self._path = f"/v1/learning/tasks/{path_segment(task)}"
        self._clock = clock
        self._retries = 0

    def agent(self) -> str:
        """The node's id."""
        return str(self._client.get("/v1/status")["agent_id"])

    def terms(self) -> dict[str, Any]:
        """The task with its details."""
        terms: dict[str, Any] = self._again(lambda client: client.get(self._path))
        return terms

    def join(self) -> None:
        """Ask to take part."""
        self._again(lambda client: client.post(f"{self._path}/join"))

    def leave(self) -> None:
        """Take part no longer."""
        self._again(lambda client: client.post(f"{self._path}/leave"))

    def work(self, wait: int) -> dict[str, Any]:
        """What to do now; see `federated.flower.participation.LearningNode`."""
        path, seconds = f"{self._path}/work", wait + WAIT_MARGIN_S
        work: dict[str, Any] = self._again(lambda client: client.get(path, seconds, wait=wait))
        return work

    def blob(self, cid: str) -> bytes:
        """The content of a blob."""
        return self._again(lambda client: client.get_blob(cid, BLOB_SECONDS))

    def hand_in(self, number: int, blob: bytes, examples: int, metrics: Mapping[str, float]) -> None:
        """Hand in the update of a round. Raises `Refused`."""
        retries = self._retries
        try:
            cid = self._again(lambda client: client.post_blob(blob, BLOB_SECONDS, pin=False))["cid"]
            body = {"blob": cid, "examples": examples, "metrics": dict(metrics)}
            path = f"{self._path}/rounds/{number}/update"
            retries = self._retries
            self._again(lambda client: client.post(path, body))
        except ApiError as error:
            if error.status == CONFLICT and self._retries > retries:
                return  # the daemon had taken it, and its answer was lost
            if error.status in REFUSALS:
                raise Refused(str(error)) from error
            raise

    def duty(self, wait: int, serve: bool) -> dict[str, Any]:
        """What to do in a ServerApp's run; see `federated.flower.answering.RunNode`."""
        path, seconds = f"{self._path}/duty", wait + WAIT_MARGIN_S
        duty: dict[str, Any] = self._again(
            lambda client: client.get(path, seconds, wait=wait, serve=str(serve).lower())
        )
        return duty

    def message(self, blob: str) -> bytes:
        """The content of a message or an answer of the run."""
        return self._again(
            lambda client: client.get_bytes(f"{self._path}/messages/{path_segment(blob)}", BLOB_SECONDS)
        )

    def kept(self, blob: str) -> bytes | None:
        """The same, or None when none of the members has it any more."""
        try:
            return self.message(blob)
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def answer(self, call: str, place: int, data: bytes) -> bool:
        """Answer a message; False when it is waited for no more."""
        body = {"place": place, "blob": self.put(data)}
        try:
            self._again(lambda client: client.post(f"{self._path}/calls/{path_segment(call)}/answer", body))
        except ApiError as error:
            if error.status == CONFLICT:
                return False
            raise
        return True

    def put(self, data: bytes) -> str:
        """Keep a message; the CID of its blob."""
        return str(self._again(lambda client: client.post_blob(data, BLOB_SECONDS, pin=False))["cid"])

    def log(self) -> dict[str, Any]:
        """The whole log of the run; see `federated.flower.coordination.Conductor`."""
        calls: list[dict[str, Any]] = []
        while True:
            page = self._calls_after(len(calls))
            calls += page["calls"]
            if not page["calls"]:
                return {**page, "calls": calls}

    def _calls_after(self, after: int) -> dict[str, Any]:
        page: dict[str, Any] = self._again(lambda client: client.get(f"{self._path}/calls", after=after))
        return page

    def call(
        self,
        previous: str,
        nodes: list[str],
        answers: list[str],
        messages: list[dict[str, str]],
        wait: float | None,
    ) -> str:
        """Send messages of the ServerApp. Raises `Superseded`."""
        given = {"previous": previous, "nodes": nodes, "answers": answers}
        body = {**given, "messages": messages, "wait_s": wait}
        return str(
            self._leading(lambda client: client.post(f"{self._path}/calls", body, LONG_SECONDS))["call"]
        )

    def collect(self, call: str, wait: int) -> dict[str, Any]:
        """The answers to a call. Raises `Superseded`."""
        path, seconds = f"{self._path}/calls/{path_segment(call)}/answers", wait + WAIT_MARGIN_S
        found: dict[str, Any] = self._leading(lambda client: client.get(path, seconds, wait=wait))
        return found

    def end(self, previous: str, answers: list[str], result: str | None, failed: str | None) -> None:
        """End the run. Raises `Superseded`."""
        body = {"previous": previous, "answers": answers, "result": result, "failed": failed}
        self._leading(lambda client: client.post(f"{self._path}/end", body))

    def at_work(self, previous: str) -> None:
        """Say that the ServerApp is at work. Raises `Superseded`."""
        self._leading(lambda client: client.post(f"{self._path}/at-work", {"previous": previous}))

    def release(self) -> None:
        """This process does not coordinate any more."""
        self._again(lambda client: client.post(f"{self._path}/release"))

    def _leading(self, call: Callable[[ApiClient], T]) -> T:
        try:
            return self._again(call)
        except ApiError as error:
            if error.status == CONFLICT:
                raise Superseded(str(error)) from error
            raise

    def _again(self, call: Callable[[ApiClient], T]) -> T:
        end: float | None = None
        while True:
            try:
                return call(self._client)
            except (DaemonNotRunning, ApiError) as error:
                if isinstance(error, ApiError) and error.status not in (401, 503):
                    raise
                end = self._clock.now() + RETRY_S if end is None else end
                if self._clock.now() > end:
                    raise
            self._clock.sleep(RETRY_PAUSE_S)
            self._retries += 1
            self._find()

    def _find(self) -> None:
        try:
            self._client = ApiClient(self._home)
        except (DaemonNotRunning, HomeDamaged):
            # Not back yet, or it is writing its files: the next call fails and says so.
            return


def waiting_file(home: Home, terms: Mapping[str, Any]) -> Path | None:
    """Where a member keeps what it has not sent of a sparse task's updates; None for another task."""
    if top_k_of(terms.get("compression", NO_COMPRESSION)) is None:
        return None
    return state_file(home.app_states, terms["id"], SUFFIX)


def compressing(member: Member, terms: Mapping[str, Any], waiting: Path | None = None) -> LearningNode:
    """The member as a task's updates want it: one that compresses them, where they are compressed."""
    form = terms.get("compression", NO_COMPRESSION)
    if form == FLOAT16:
        return HalvingMember(member, terms)
    return member if form == NO_COMPRESSION else CompressingMember(member, terms, waiting)
