"""A `Grid` over the members of a task: the ServerApp runs as it is, and what it sends and gets is on record.

The app runs on a thread of its own; each time it needs something of the world it hands over an `Ask` and
waits for what comes back, so the command that drives it decides whether that comes from the members or from
the log of an earlier run. All that can differ between two runs of one app is drawn from the task's id: the
seeds of Python's and NumPy's (and torch's) generators, and the order of answers, which is that of the
messages.

Apps of Flower's older interface send each member's message from a worker thread; such messages are gathered
for a moment and sent in the order of the nodes.
"""

from __future__ import annotations

import math
import queue
import random
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.serverapp import ServerApp

from federated.flower.admission import admit, array_of, odd_ones
from federated.flower.envelope import ERROR_CODE, Request, pack_request, unpack_reply, unpack_request
from federated.flower.errors import AppFailed
from federated.flower.outcome import Watched
from federated.flower.raised import told
from federated.flower.running_grid import RunningGrid

GATHER_S = 0.1
"""Messages of worker threads that come this soon after each other go out together."""
UNAVAILABLE = 4
"""Flower's code for a reply that will not come any more."""


@dataclass(slots=True)
class Ask:
    """What the app wants: "nodes", "call" with `messages` as (node id, bytes), or "end".

    `wait` is for how many seconds answers are of use to it. `result` are the arrays that the strategy
    returned; `failed` says why there are none.
    """

    want: str
    messages: list[tuple[int, bytes]] = field(default_factory=list)
    result: dict[str, Any] | None = None
    failed: str | None = None
    refused: list[tuple[int, str]] = field(default_factory=list)
    wait: float | None = None


@dataclass(slots=True)
class _Pending:
    message: Message
    request: Request
    node: int
    id: str
    wait: float
    reply: Message | None = None
    done: threading.Event = field(default_factory=threading.Event)


class LoggedGrid(RunningGrid):
    """Hands over what the app sends. `ask` gives the world's answer and may block."""

    def __init__(
        self,
        run_id: int,
        ask: Callable[[Ask], Any],
        watched: Watched,
        max_examples: int,
        max_abs: float,
    ) -> None:
        super().__init__(run_id)
        self._ask = ask
        self._watched = watched
        self._limits = (max_examples, max_abs)
        self._lock = threading.Lock()
        self._gathered: list[_Pending] = []
        self._flushing = threading.Lock()
        self._numbered = 0
        self._known: dict[str, _Pending] = {}
        self._refused: list[tuple[int, str]] = []
        self.last_arrays: ArrayRecord | None = None
        """Of the last message that had any: what the app thinks of as its model."""

    def get_node_ids(self) -> Iterable[int]:
        found: list[int] = self._ask(Ask("nodes"))
        return found

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._push(messages, math.inf)

    def _push(self, messages: Iterable[Message], timeout: float) -> list[str]:
        pending = [self._pending(message, timeout) for message in messages]
        self._send(pending)
        return [one.id for one in pending]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to messages that were pushed. What did not come in the task's time is an error, as
        with Flower when a message has expired: who polls until all are there comes to an end."""
        return [one.reply or _expired(one.message) for one in self._take(message_ids)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """The answers in the order of the messages; those that did not come in time are left out.

        Time is over after `timeout`, after the longest `ttl` of the messages, and when the task says.
        """
        taken = self._take(self._push(messages, math.inf if timeout is None else max(0.0, timeout)))
        return [one.reply for one in taken if one.reply is not None]

    def _take(self, message_ids: Iterable[str]) -> list[_Pending]:
        return [self._known.pop(one) for one in message_ids if one in self._known]

    def _pending(self, message: Message, timeout: float) -> _Pending:
        with self._lock:
            self._numbered += 1
            name = f"message-{self._numbered}"
        meta = message.metadata
        meta.__dict__["_message_id"] = name
        request = Request(meta.message_type, meta.group_id, message.content)
        one = self._known[name] = _Pending(
            message, request, meta.dst_node_id, name, min(timeout, max(0.0, meta.ttl))
        )
        return one

    def _send(self, pending: list[_Pending]) -> None:
        if not pending:
            return
        if self.on_app_thread():
            self._exchange(pending)
            return
        with self._lock:
            self._gathered += pending
        while not all(one.done.is_set() for one in pending):
            with self._flushing:
                if all(one.done.is_set() for one in pending):
                    return
                count = -1
                while count != len(self._gathered):
                    count = len(self._gathered)
                    threading.Event().wait(GATHER_S)
                with self._lock:
                    batch, self._gathered = self._gathered, []
                self._exchange(sorted(batch, key=lambda one: one.node))

    def _exchange(self, pending: list[_Pending]) -> None:
        for one in pending:
            for record in one.request.content.array_records.values():
                self.last_arrays = record
        refused, self._refused = self._refused, []
        # Strategies send one content to all nodes: it is packed once, and is the same object in all messages.
        packed: dict[tuple[str, str, int], bytes] = {}
        messages: list[tuple[int, bytes]] = []
        for one in pending:
            key = (one.request.type, one.request.group, id(one.request.content))
            if key not in packed:
                packed[key] = pack_request(one.request)
            messages.append((one.node, packed[key]))
        wait = max(one.wait for one in pending)
        answers: dict[int, bytes] = self._ask(Ask("call", messages, refused=refused, wait=wait))
        contents = {place: self._content(pending[place], answers.pop(place)) for place in sorted(answers)}
        if self._watched.one_form:
            # Flower's strategies end the run over an answer of another form: one member could do that.
            good = {place: one for place, one in contents.items() if not isinstance(one, Error)}
            kinds = {place: pending[place].request.type for place in good}
            for place, fault in odd_ones(good, kinds, self._watched.weights):
                contents[place] = self._refuse(pending[place], fault)
        for place, one in enumerate(pending):
            if place in contents:
                one.reply = Message(contents[place], reply_to=one.message)
            one.done.set()

    def _content(self, one: _Pending, data: bytes) -> RecordDict | Error:
        content = unpack_reply(data)
        if isinstance(content, Error):
            return content
        fault = admit(one.request.content, content, self._watched.weights, *self._limits)
        return content if fault is None else self._refuse(one, fault)

    def _refuse(self, one: _Pending, fault: str) -> Error:
        self._refused.append((one.node, fault))
        return Error(code=ERROR_CODE, reason=f"refused: {fault}")


class Served:
    """A ServerApp that runs on a thread; `next` gives what it wants, `give` hands it the world's answer.

    `root` is the project's folder, for the place of what the app raises.
    """

    def __init__(
        self, app: ServerApp, context: Context, max_examples: int, max_abs: float, root: Path | None = None
    ) -> None:
        self._root = root
        self._asks: queue.SimpleQueue[Ask] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._talking = threading.Lock()
        self._watched = Watched()
        self._grid = LoggedGrid(context.run_id, self._ask, self._watched, max_examples, max_abs)
        seed(context.run_id)
        threading.Thread(target=self._run, args=(app, context), daemon=True).start()

    def next(self) -> Ask:
        """What the app wants next; "end" is the last."""
        return self._asks.get()

    def give(self, answer: Any) -> None:
        """The world's answer to the last `Ask`."""
        self._answers.put(answer)

    def _ask(self, ask: Ask) -> Any:
        with self._talking:
            self._asks.put(ask)
            return self._answers.get()

    def _run(self, app: ServerApp, context: Context) -> None:
        self._grid.own_thread()
        failed: str | None = None
        try:
            with self._watched:
                app(self._grid, context)
        except BaseException as error:  # the user's code may raise anything, also SystemExit
            failed = told(error, self._root)[:900]
        result: dict[str, Any] | None = None
        try:
            if failed is None:
                # An app that only asks, for statistics say, ends well without any arrays.
                arrays = self._watched.arrays or self._grid.last_arrays or {}
                result = {name: array_of(one) for name, one in arrays.items()}
        except AppFailed as error:
            failed = f"the result's arrays cannot be kept: {error}"
        self._asks.put(Ask("end", result=result, failed=failed))


def _expired(message: Message) -> Message:
    return Message(Error(code=UNAVAILABLE, reason="no answer came in time"), reply_to=message)


def differences(ours: bytes, theirs: bytes, tolerance: float) -> str | None:
    """How one message of a run differs from the one on record, or None.

    Arrays are compared element by element, |a - b| <= tolerance (1 + |b|); all else has to be equal.
    """
    if ours == theirs:
        return None
    one, other = unpack_request(ours), unpack_request(theirs)
    if (one.type, one.group, list(one.content)) != (other.type, other.group, list(other.content)):
        return f"a {one.type!r:.40} message of group {one.group!r:.40}, on record it is {other.type!r:.40}"
    for key, record in one.content.items():
        there = other.content[key]
        if not isinstance(record, ArrayRecord) or not isinstance(there, ArrayRecord):
            if record != there:
                return f"{key!r:.80} says something else"
            continue
        if list(record) != list(there):
            return f"{key!r:.80} has other arrays"
        for name in record:
            a, b = array_of(record[name]), array_of(there[name])
            if a.shape != b.shape or not np.allclose(a, b, rtol=tolerance, atol=tolerance):
                return f"array {name!r:.80} differs by more than {tolerance:g}"
    return None


def seed(run_id: int) -> None:
    """Seed the generators that apps draw from, so that a run can be computed again."""
    random.seed(run_id)
    np.random.seed(run_id % (1 << 32))  # noqa: NPY002 - the apps' generator, not ours
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(run_id)
