"""One member's daemon as the Flower bridge sees it: work, blobs and updates over the HTTP interface.

A daemon that is restarted meanwhile is found again: for `RETRY_S` every call that nobody answers is made
anew, with the address and token that the home folder then holds. All calls may be repeated: an update whose
taking was not heard of is refused the second time, which then means that it was taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from federated.flower.participation import Refused
from node.api_client import ApiClient, ApiError, path_segment
from node.errors import DaemonNotRunning, HomeDamaged
from node.home import Home

T = TypeVar("T")

RETRY_S = 60.0
"""How long a daemon may be away."""
RETRY_PAUSE_S = 0.5
BLOB_SECONDS = 600.0
WAIT_MARGIN_S = 30.0
"""Over the time that the daemon was asked to wait itself."""
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
