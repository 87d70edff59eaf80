"""The command's side of the app's process: start it, ask it with a time limit, end it.

The user's code may raise, hang or take the interpreter down; none of that reaches the command, let alone the
daemon. A request that is not answered in time ends the process (SIGKILL: nothing else is sure to), and the
next one starts a new process, with the `Context.state` that is on disk. Waiting is done on a thread that only
reads, so the limit holds whatever the process does.
"""

from __future__ import annotations

import importlib.util
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federated.flower.errors import AppFailed, AppLost, FlowerMissing
from federated.flower.pipes import PipeBroken, receive, send
from federated.flower.project import ConfigValue, FlowerProject

LOAD_S = 300.0
"""For importing flwr and the app; some apps read their data while they are imported."""
CAPTURE_S = 900.0
"""For a ServerApp to come to its first train message."""
LOOK_S = 5.0
"""So often it is looked whether a ServerApp that has not answered is at work."""
END_S = 5.0
"""From closing the pipes to SIGKILL."""
MODULE = "federated.flower.app_process"


@dataclass(frozen=True, slots=True)
class AppSettings:
    """What the app's context holds: whom it runs for and what its owner configured.

    `state_file` is where a ClientApp's state outlives its process.
    """

    run_id: int
    node_id: int
    node_config: Mapping[str, ConfigValue]
    verbose: bool = False
    state_file: Path | None = None


class AppRunner:
    """Runs a project's app in a process of its own. Close it."""

    def __init__(self, project: FlowerProject, settings: AppSettings) -> None:
        """Nothing is started before the first request. Raises `FlowerMissing`."""
        if importlib.util.find_spec("flwr") is None:
            raise FlowerMissing("this needs Flower: install it with pip install 'roseforest[fl]'")
        self._project = project
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: Any = None
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.evaluates = False

    def open(self) -> None:
        """Start the process and load the ClientApp. Raises `AppFailed` or `AppLost`."""
        self._start()
        reply = self._ask({"do": "open", **self._about()}, LOAD_S)
        self.evaluates = reply["evaluates"]

    def train(
        self, task: Mapping[str, Any], template: str, blob: bytes, number: int, seconds: float
    ) -> dict[str, Any]:
        """One round: `blob`, `examples` and `metrics` of the update. Raises `AppFailed` or `AppLost`."""
        return self._ask_app("train", task, template, blob, number, seconds)

    def evaluate(
        self, task: Mapping[str, Any], template: str, blob: bytes, number: int, seconds: float
    ) -> dict[str, float]:
        """The metrics of parameters on the app's own data. Raises `AppFailed` or `AppLost`."""
        metrics: dict[str, float] = self._ask_app("evaluate", task, template, blob, number, seconds)[
            "metrics"
        ]
        return metrics

    def reply(self, name: str, message: bytes, seconds: float) -> dict[str, Any]:
        """The ClientApp's answer to a message: `message`, and `problem` where it failed. Raises `AppLost`.

        `name` is the message's own: the same one asked again changes the app's state once.
        """
        if self._process is None:
            self.open()
        return self._ask({"do": "reply", "name": name, "message": message, "seconds": seconds}, seconds)

    def serve(
        self, max_examples: int, max_abs: float, seconds: float, at_work: Callable[[], None]
    ) -> dict[str, Any]:
        """Start the ServerApp; what it wants first, see `app_process`. Raises `AppFailed` or `AppLost`.

        `at_work` is called now and then while the app has not answered and its process uses the processor.
        """
        self._start()
        request = {"do": "serve", "max_examples": max_examples, "max_abs": max_abs}
        about = {"serverapp": self._project.serverapp, **self._about()}
        return self._ask({**request, **about}, seconds, at_work)

    def go_on(
        self,
        seconds: float,
        at_work: Callable[[], None],
        *,
        nodes: list[str] | None = None,
        answers: Iterable[tuple[int, bytes]] = (),
    ) -> dict[str, Any]:
        """Give the ServerApp what it wanted; what it wants next. `at_work` as with `serve`.

        Answers are handed over one by one: a single one is in memory here. Raises `AppFailed` or `AppLost`.
        """
        for place, data in answers:
            self._ask({"do": "hand", "place": place, "data": data}, LOAD_S)
        return self._ask({"do": "go_on"} | ({} if nodes is None else {"nodes": nodes}), seconds, at_work)

    def differences(self, ours: bytes, theirs: bytes, tolerance: float) -> str | None:
        """How a message differs from one on record, or None."""
        request = {"do": "same", "ours": ours, "theirs": theirs, "tolerance": tolerance}
        found: str | None = self._ask(request, LOAD_S)["differences"]
        return found

    def check(self) -> None:
        """Whether both apps load. Raises `AppFailed` or `AppLost`."""
        self.open()
        self._ask({"do": "check", "serverapp": self._project.serverapp, **self._about()}, LOAD_S)

    def capture(self) -> dict[str, Any]:
        """What the ServerApp would send first; see `app_process`. Raises `AppFailed` or `AppLost`."""
        self._start()
        return self._ask({"do": "capture", "serverapp": self._project.serverapp, **self._about()}, CAPTURE_S)

    def close(self) -> None:
        """End the process: it ends itself when the pipe closes, or is killed after `END_S`."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError):
            self._requests.close()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> AppRunner:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()
        self.close()

    def _ask_app(
        self, deed: str, task: Mapping[str, Any], template: str, blob: bytes, number: int, seconds: float
    ) -> dict[str, Any]:
        if self._process is None:
            self.open()
        request = {
            "do": deed,
            "round": number,
            "arrays": task["arrays"],
            "max_abs": task["max_abs"],
            "template": template,
            "blob": blob,
            "seconds": seconds,
        }
        return self._ask(request, seconds)

    def _ask(
        self, request: dict[str, Any], seconds: float, at_work: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        try:
            send(self._requests, request)
            reply = self._answer(max(0.0, seconds), at_work)
        except queue.Empty:
            self.kill()
            raise AppLost(f"the app did not answer within {seconds:.0f} s and was ended") from None
        except PipeBroken:
            reply = None
        except BaseException:
            self.kill()
            raise
        if reply is None:
            raise AppLost(f"the app's process ended{self._reap()}")
        if not reply.get("ok"):
            raise AppFailed(f"the app failed: {reply.get('error')}")
        return reply

    def _answer(self, seconds: float, at_work: Callable[[], None] | None) -> dict[str, Any] | None:
        if at_work is None:
            return self._answers.get(timeout=seconds)
        while seconds > LOOK_S:
            used = self._used_s()
            try:
                return self._answers.get(timeout=LOOK_S)
            except queue.Empty:
                seconds -= LOOK_S
            if self._used_s() > used:
                at_work()
        return self._answers.get(timeout=seconds)

    def _used_s(self) -> float:
        """Seconds of the processor that the app's process and those it started have used."""
        import psutil

        assert self._process is not None
        try:
            app = psutil.Process(self._process.pid)
            used = [process.cpu_times() for process in (app, *app.children(recursive=True))]
        except psutil.Error:  # one has ended meanwhile
            return 0.0
        return float(sum(one.user + one.system for one in used))

    def _about(self) -> dict[str, Any]:
        project, settings = self._project, self._settings
        return {
            "root": str(project.root),
            "clientapp": project.clientapp,
            "run_config": dict(project.config),
            "node_config": dict(settings.node_config),
            "run_id": settings.run_id,
            "node_id": settings.node_id,
            "verbose": settings.verbose,
            "state": None if settings.state_file is None else str(settings.state_file.absolute()),
        }

    def _start(self) -> None:
        theirs, ours = os.pipe()
        back, answers = os.pipe()
        try:
            self._process = subprocess.Popen(
                # -P: a folder named `federated` in the working directory must not be taken for ours.
                [sys.executable, "-P", "-m", MODULE, str(theirs), str(answers)],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs, answers),
                env=_environment(),
            )
        except BaseException:
            os.close(ours)
            os.close(back)
            raise
        finally:
            os.close(theirs)
            os.close(answers)
        self._requests = open(ours, "wb")  # noqa: SIM115
        self._answers = queue.SimpleQueue()
        threading.Thread(target=_read, args=(back, self._answers), daemon=True).start()

    def _reap(self) -> str:
        process = self._process
        self.close()
        code = 0 if process is None else process.returncode
        return f" by signal {-code}" if code < 0 else f" with code {code}"


def _read(descriptor: int, answers: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """Hand on each answer, and None when the process has gone."""
    with open(descriptor, "rb") as pipe:
        try:
            while True:
                answers.put(receive(pipe))
        except PipeBroken:
            answers.put(None)


def _environment() -> dict[str, str]:
    """This process's environment with our packages in reach."""
    root = Path(__file__).parents[2]
    # Installed, we are in reach; in front of everything site-packages would shadow the standard library.
    ours = [] if root.name in ("site-packages", "dist-packages") else [str(root)]
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(ours + paths), "FLWR_TELEMETRY_ENABLED": "0"}
