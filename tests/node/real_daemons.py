"""Real daemons for tests: processes of the command line on loopback, with homes in a temporary folder.

Waiting is for events (the file that says a daemon is ready, an answer of the API) with a deadline, so a test
is as fast as the machine. Only processes started here are ever signalled. Most are forks of a server that has
imported everything (`forked_command`); `cold` ones are processes of `python -m node`.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tests.node.forked_command import Forked

T = TypeVar("T")

SECONDS = 30.0
"""How long anything may take before a test fails: far more than needed, since machines may be busy."""
PAUSE = 0.02
LOG_TAIL = 3_000
JOIN_BITS = "2"


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """The one line of JSON on stdout."""
        (line,) = self.out.splitlines()
        return json.loads(line)

    @property
    def complaint(self) -> str:
        """The only line on stderr, as every failure must leave it."""
        (line,) = self.err.splitlines()
        assert line.startswith("roseforest: "), line
        assert "unexpected" not in line, line
        return line


@dataclass(frozen=True, slots=True)
class Reply:
    """A response of the HTTP interface."""

    status: int
    value: Any

    @property
    def message(self) -> str:
        """The line of an error."""
        text: str = self.value["error"]["message"]
        assert "\n" not in text
        return text


@dataclass(slots=True)
class Daemon:
    """A started daemon; `log` is its stderr."""

    home: Path
    process: subprocess.Popen[bytes] | Forked
    log: Path
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """A multiaddr to join through."""
        address: str = self.info["addresses"][0]
        return address

    @property
    def token(self) -> str:
        return (self.home / "api-token").read_text().strip()

    def ask(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> Reply:
        """One request to the API; `body` is sent as it is when it is bytes, else as JSON."""
        where = urlsplit(self.info["api"])
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=SECONDS)
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        try:
            connection.request(
                method, path, data, {"authorization": f"Bearer {self.token if token is None else token}"}
            )
            response = connection.getresponse()
            return Reply(response.status, json.loads(response.read()))
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """The JSON of a GET that succeeds."""
        reply = self.ask("GET", path)
        assert reply.status == 200, reply
        return reply.value

    def add(self, text: str, **more: Any) -> str:
        """Add an entry; returns its id."""
        reply = self.ask("POST", "/v1/entries", {"text": text, **more})
        assert reply.status in (200, 201), reply
        identifier: str = reply.value["id"]
        return identifier

    def texts(self, question: str, k: int = 5) -> list[str]:
        """The texts that a query finds."""
        reply = self.ask("POST", "/v1/query", {"text": question, "k": k})
        assert reply.status == 200, reply
        return [hit["text"] for hit in reply.value["hits"]]

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        self.process.kill()
        self.process.wait(SECONDS)

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)


class Daemons:
    """Makes homes, runs commands and daemons, and ends all daemons that it started."""

    def __init__(self, folder: Path, *, cold: bool = False) -> None:
        self.folder = folder
        self.cold = cold
        self._started: list[Daemon] = []

    def home(self, name: str, *arguments: str) -> Path:
        """A home made by `init`: a founder's, unless `--join` is given."""
        home = self.folder / name
        cheap = () if "--join" in arguments else ("--join-bits", JOIN_BITS)
        done = self.command(home, "init", *cheap, *arguments, "--json")
        assert done.code == 0, done
        return home

    def command(self, home: Path, *arguments: str, data: bytes = b"", **variables: str) -> Done:
        """Run `roseforest ARGUMENTS` on a home and wait for its end."""
        environment = _environment(home, variables)
        if self.cold:
            done = subprocess.run(
                [sys.executable, "-m", "node", *arguments],
                input=data,
                capture_output=True,
                timeout=2 * SECONDS,
                check=False,
                env=environment,
            )
            return Done(done.returncode, done.stdout.decode(), done.stderr.decode())
        with tempfile.TemporaryDirectory() as folder:
            source, out, err = (Path(folder, name) for name in ("in", "out", "err"))
            source.write_bytes(data)
            process = Forked(arguments, environment, out=out, err=err, data=source)
            try:
                code = process.wait(2 * SECONDS)
            finally:
                process.kill()
            return Done(code, out.read_text(), err.read_text())

    def begin(self, home: Path, *arguments: str, command: str = "run") -> Daemon:
        """Start a command that stays, and do not wait for anything."""
        log = self.folder / f"{home.name}-{len(self._started)}.log"
        environment = _environment(home, {})
        process: subprocess.Popen[bytes] | Forked
        if self.cold:
            with open(log, "wb") as file:
                process = subprocess.Popen(
                    [sys.executable, "-m", "node", command, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env=environment,
                )
        else:
            log.touch()
            process = Forked((command, *arguments), environment, out=log, err=log)
        daemon = Daemon(home, process, log)
        self._started.append(daemon)
        return daemon

    def run(self, home: Path, *arguments: str) -> Daemon:
        """Start a daemon and wait until its API answers."""
        daemon = self.begin(home, *arguments)
        path = home / "daemon.json"

        def ready() -> bool:
            assert daemon.process.poll() is None, daemon.log.read_text()
            if not path.exists():
                return False
            info = json.loads(path.read_bytes())
            daemon.info = info
            return bool(info["pid"] == daemon.process.pid)

        eventually(ready, f"{home.name} to be ready")
        return daemon

    def close(self) -> None:
        """Kill what still runs, and print the ends of all logs: pytest shows them when a test failed."""
        for daemon in self._started:
            if daemon.process.poll() is None:
                daemon.kill()
            print(f"--- {daemon.log.name}\n{daemon.log.read_text(errors='replace')[-LOG_TAIL:]}")


QUICK = {"ROSEFOREST_LEAVE_SECONDS": "0"}
"""Most tests stop their daemons for other reasons than to see them hand over."""


def eventually(probe: Callable[[], T], what: str) -> T:
    """The first true value of `probe`; fails the test when there is none in time."""
    end = time.monotonic() + SECONDS
    while not (value := probe()):
        assert time.monotonic() < end, f"waited {SECONDS:g} s for {what}"
        time.sleep(PAUSE)
    return value


def _environment(home: Path, variables: dict[str, str]) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ROSEFOREST_")}
    return {**kept, "ROSEFOREST_HOME": str(home), "OMP_NUM_THREADS": "1", **QUICK, **variables}
