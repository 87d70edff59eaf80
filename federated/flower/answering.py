"""A member's part in a ServerApp's run: answer what is asked, and coordinate when it is this member's turn.

The loop asks the own node what to do. Answers are given by the ClientApp in its process; a message that it
fails on is answered with that, so that nobody waits. When the node says that this member is to coordinate,
the ServerApp runs on a second thread with a process of its own, while this one goes on answering.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgpack

from federated.flower.app_runner import AppRunner
from federated.flower.coordination import Ran, Superseded
from federated.flower.errors import AppFailed, AppLost
from federated.flower.participation import PAUSE_S, POLL_S, RESERVE_S, Clock

MAX_LOST = 3
"""So often the process of the ServerApp may be lost before this member coordinates no more."""


class RunNode(Protocol):
    """The local daemon, as far as a member needs it. Each call raises what the daemon's client raises."""

    def duty(self, wait: int, serve: bool) -> dict[str, Any]:
        """What to do now, or after at most `wait` seconds; `serve`: this process could coordinate."""
        ...

    def message(self, blob: str) -> bytes:
        """The content of a message."""
        ...

    def answer(self, call: str, place: int, data: bytes) -> bool:
        """Answer a message; False when it is waited for no more."""
        ...


class Listener(Protocol):
    """Where the loop says what happened."""

    def asked(self, number: int, seconds: float) -> None:
        """A message came; so long an answer is waited for."""
        ...

    def answered(self, number: int, seconds: float, problem: str | None) -> None:
        """It was answered, or its app failed for this reason."""
        ...

    def coordinates(self) -> None:
        """This member runs the ServerApp now."""
        ...

    def stopped(self, reason: str) -> None:
        """It does so no more, for this reason."""
        ...


@dataclass(slots=True)
class Attendance:
    """What a member did. `ran` is None for who never ran the ServerApp to its end."""

    answered: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    calls: int = 0
    result: str | None = None
    ran: Ran | None = None


def attend(
    node: RunNode,
    app: AppRunner,
    serve: Callable[[], Ran] | None,
    listener: Listener,
    clock: Clock,
    failures: tuple[type[Exception], ...] = (),
) -> Attendance:
    """Take part until the run is over. `serve` runs the ServerApp, None: this member does not coordinate.

    Raises what the node's client raises; of `serve` it raises nothing that is among `failures`: it is said,
    and tried again when it is this member's turn again, unless the app would fail again (`AppFailed`: it does
    not load, it asks for something else than is on record) or its process was lost `MAX_LOST` times.
    """
    done = Attendance()
    server: threading.Thread | None = None
    lost = 0

    def run(coordinated: Callable[[], Ran]) -> None:
        nonlocal serve, lost
        try:
            done.ran = coordinated()
        except Superseded:
            listener.stopped("another member coordinates now")
        except (AppFailed, AppLost) as error:
            lost += 1
            if isinstance(error, AppFailed) or lost == MAX_LOST:
                serve = None
            listener.stopped(f"{error}" + ("" if serve else "; it does not try again"))
        except failures as error:
            listener.stopped(str(error))

    while True:
        free = server is None or not server.is_alive()
        duty = node.duty(POLL_S, serve is not None and free)
        done.calls = int(duty["number"])
        if duty["state"] == "finished":
            done.result = duty.get("result")
            break
        if duty["state"] == "coordinate" and serve is not None:
            listener.coordinates()
            server = threading.Thread(target=run, args=(serve,), daemon=True)
            server.start()
            clock.sleep(PAUSE_S)
        elif duty["state"] == "answer":
            _answer(node, app, duty, done, listener, clock)
    if server is not None:
        server.join(POLL_S)
    return done


def _answer(
    node: RunNode,
    app: AppRunner,
    duty: Mapping[str, Any],
    done: Attendance,
    listener: Listener,
    clock: Clock,
) -> None:
    number, seconds, began = int(duty["number"]), float(duty["deadline_s"]), clock.now()
    listener.asked(number, seconds)
    limit = max(RESERVE_S, seconds - min(RESERVE_S, seconds / 10))
    problem: str | None
    try:
        name = f"{duty['call']}/{duty['place']}"
        reply = app.reply(name, node.message(str(duty["message"])), limit)
        data, problem = reply["message"], reply["problem"]
    except (AppFailed, AppLost) as error:
        problem = str(error)
        data = msgpack.packb({"error": problem}, use_bin_type=True)  # what `envelope.pack_reply` makes of it
    node.answer(str(duty["call"]), int(duty["place"]), data)
    if problem is None:
        done.answered += 1
    else:
        done.failed[number] = problem
    listener.answered(number, clock.now() - began, problem)
