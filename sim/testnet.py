"""A test network of real daemons on this machine: separate processes, real sockets, real disks.

Each node is what a user would run, `python -m node run` in a home folder of its own, on ports that the
system picks; the first founds the network, the others join through it, side by side. `open_test_network`
ends exactly the processes it started, whatever happens in its block, and removes the folder if it made it. A
node counts as started when it has said where it is (`daemon.json`) and its API answers that it is ready.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import trio

from node.api_client import SECONDS, ApiClient, ApiError
from node.errors import DaemonNotRunning, HomeDamaged, NodeError
from node.home import Home
from sim.errors import DaemonFailed, one_error

MAX_NODES = 64
"""Daemons of one test network; each takes about 150 MB of memory."""
READY_TIMEOUT_S = 180.0
"""From the start of a process to its being ready, on a busy machine too; a founder also searches a nonce."""
STOP_TIMEOUT_S = 10.0
"""From SIGTERM to the end of a process; then it is killed."""
POLL_S = 0.05
"""Between two looks at a process that is starting."""
STARTS_AT_ONCE = 4
"""Processes starting at the same time: importing is most of the work, and more than the cores do not help."""
LAST_LINE_BYTES = 4096
"""Bytes read from the end of a log to say why a process ended."""
LISTEN = "/ip4/127.0.0.1/tcp/0"
API = "127.0.0.1:0"


@dataclass(frozen=True, slots=True)
class NodeStarted:
    """A node is ready."""

    name: str
    agent: str
    api: str
    home: Path
    addresses: tuple[str, ...]
    pid: int


@dataclass(frozen=True, slots=True)
class NodeEnded:
    """A node's process ended, asked to or not; a negative code is the signal that ended it."""

    name: str
    code: int
    expected: bool


NetworkEvent = NodeStarted | NodeEnded


@dataclass(frozen=True, slots=True)
class CommandDone:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


class RunningNode:
    """One daemon process of a test network."""

    def __init__(self, name: str, home: Home, process: trio.Process, api: ApiClient, agent: str) -> None:
        daemon = api.daemon
        self.name = name
        self.home = home
        self.process = process
        self.started = NodeStarted(name, agent, daemon.api, home.root, daemon.addresses, process.pid)
        self.ending = False
        self._api = api

    async def get(self, path: str) -> Any:
        """What the node's API answers to GET `path`; raises what `ApiClient.get` does."""
        return await trio.to_thread.run_sync(self._api.get, path)

    async def post(self, path: str, body: Any, seconds: float = SECONDS) -> Any:
        """What the node's API answers to POST `path`; raises what `ApiClient.post` does."""
        return await trio.to_thread.run_sync(self._api.post, path, body, seconds)

    async def patch(self, path: str, body: Any) -> Any:
        """What the node's API answers to PATCH `path`; raises what `ApiClient.send` does."""
        return await trio.to_thread.run_sync(self._api.send, "PATCH", path, body)

    async def blob(self, cid: str) -> bytes:
        """A blob as the node's API gives it out; raises what `ApiClient.get_blob` does."""
        return await trio.to_thread.run_sync(self._api.get_blob, cid)

    async def command(self, *arguments: str, environment: Mapping[str, str] | None = None) -> CommandDone:
        """Run `roseforest ARGUMENTS` on the node's home to its end, as its user would."""
        done = await trio.run_process(
            _command([*arguments, "--home", str(self.home.root)]),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**_environment(), **(environment or {})},
        )
        return CommandDone(
            done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        )

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    async def kill(self) -> None:
        """End the process with SIGKILL, as if the machine had lost it, and wait until it is gone."""
        self.ending = True
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> None:
        """End the process with SIGTERM, or SIGKILL after `STOP_TIMEOUT_S`, and wait until it is gone."""
        self.ending = True
        await _end(self.process)


class TestNetwork:
    """The daemons of one test network; made by `open_test_network`."""

    __test__ = False  # the name is no invitation to pytest

    def __init__(
        self,
        folder: Path,
        on_event: Callable[[NetworkEvent], None],
        nursery: trio.Nursery,
        flags_of: Mapping[str, Sequence[str]],
    ) -> None:
        self.folder = folder
        self.flags_of = flags_of
        self.nodes: list[RunningNode] = []
        self._on_event = on_event
        self._nursery = nursery
        self._starts = trio.CapacityLimiter(STARTS_AT_ONCE)

    @property
    def bootstrap(self) -> str:
        """An address of the founding node."""
        return self.nodes[0].started.addresses[0]

    async def start(self, name: str, *, join: str | None = None, flags: Sequence[str] = ()) -> RunningNode:
        """Start one more node in the folder `name`, with more flags for `roseforest run`.

        A home that is there already is run as it is; else it is initialised, by joining through the address
        `join` or, without one, as the founder of a network. A node that ran in this network before takes
        its former place and addresses. Raises `DaemonFailed`.
        """
        former = next((number for number, node in enumerate(self.nodes) if node.name == name), None)
        listen, api = LISTEN, API
        if former is not None:
            before = self.nodes[former].started
            listen = before.addresses[0].rsplit("/p2p/", 1)[0]
            api = urlsplit(before.api).netloc
        async with self._starts:
            home = Home(self.folder / name)
            log = self.folder / f"{name}.log"
            if not home.is_initialised():
                origin = ["--name", "testnet"] if join is None else ["--join", join]
                await _run_to_end(name, ["init", "--home", str(home.root), *origin], log)
            # They are stopped together, so that there is nobody to hand over to.
            command = ["run", "--home", str(home.root), "--listen", listen, "--api", api]
            command += ["--leave-seconds", "0", *flags]
            if join is not None:
                command += ["--bootstrap", join]
            node = await _start_daemon(name, home, command, log)
        if former is None:
            self.nodes.append(node)
        else:
            self.nodes[former] = node
        self._on_event(node.started)
        self._nursery.start_soon(self._watch, node)
        return node

    async def stop(self) -> None:
        """Stop all nodes, side by side."""
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(node.stop)

    async def _watch(self, node: RunningNode) -> None:
        code = await node.process.wait()
        self._on_event(NodeEnded(node.name, code, node.ending))


@asynccontextmanager
async def open_test_network(
    nodes: int,
    folder: Path | None = None,
    on_event: Callable[[NetworkEvent], None] = lambda event: None,
    flags_of: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> AsyncIterator[TestNetwork]:
    """A network of `nodes` daemons, all ready; they end with the block.

    Homes and logs lie in `folder`, made if need be and kept, or in a temporary one, removed at the end. What
    happens in between is told to `on_event`; `flags_of` gives nodes more flags by name. Raises `DaemonFailed`
    when a node does not start, `ValueError` for a number of nodes outside 1..`MAX_NODES`.
    """
    if not 1 <= nodes <= MAX_NODES:
        raise ValueError(f"a test network has 1 to {MAX_NODES} nodes, not {nodes}")
    with _folder(folder) as place, one_error():
        async with trio.open_nursery() as nursery:
            network = TestNetwork(place, on_event, nursery, flags_of)
            try:
                await network.start("node-1", flags=flags_of.get("node-1", ()))
                async with trio.open_nursery() as starting:
                    for number in range(2, nodes + 1):
                        starting.start_soon(_start_joining, network, f"node-{number}")
                network.nodes.sort(key=lambda node: int(node.name.removeprefix("node-")))
                yield network
            finally:
                with trio.CancelScope(shield=True):
                    await network.stop()
                nursery.cancel_scope.cancel()


@contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    """The folder for homes and logs: the given one, or a temporary one that is removed at the end."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.absolute()
        return
    temporary = Path(tempfile.mkdtemp(prefix="roseforest-testnet-"))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


async def _start_joining(network: TestNetwork, name: str) -> None:
    await network.start(name, join=network.bootstrap, flags=network.flags_of.get(name, ()))


async def _start_daemon(name: str, home: Home, command: Sequence[str], log: Path) -> RunningNode:
    """Start the process and wait until it is ready; whatever goes wrong, it does not outlive this call."""
    with _appending(log) as output:
        process = await trio.lowlevel.open_process(
            _command(command), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=_environment()
        )
    try:
        with trio.fail_after(READY_TIMEOUT_S):
            api = await _ready(name, home, process, log)
            status = await trio.to_thread.run_sync(api.get, "/v1/status")
        return RunningNode(name, home, process, api, str(status["agent_id"]))
    except BaseException as error:
        with trio.CancelScope(shield=True):
            await _end(process)
        said = f"its log ends with: {_last_line(log)}"
        if isinstance(error, trio.TooSlowError):
            raise DaemonFailed(f"{name} was not ready after {READY_TIMEOUT_S:g} s; {said}") from error
        if isinstance(error, NodeError):
            raise DaemonFailed(f"{name} started but does not work: {error}; {said}") from error
        raise


async def _ready(name: str, home: Home, process: trio.Process, log: Path) -> ApiClient:
    """The daemon's API, once the daemon has said where it is and the API says that the node is ready."""
    while True:
        _check_running(name, process, log)
        try:
            api = ApiClient(home)
            await trio.to_thread.run_sync(api.get, "/readyz")
        except (DaemonNotRunning, ApiError, HomeDamaged):
            await trio.sleep(POLL_S)
        else:
            return api


def _check_running(name: str, process: trio.Process, log: Path) -> None:
    code = process.poll()
    if code is not None:
        raise DaemonFailed(f"{name} ended with code {code} before it was ready: {_last_line(log)}")


async def _run_to_end(name: str, command: Sequence[str], log: Path) -> None:
    with _appending(log) as output, trio.move_on_after(READY_TIMEOUT_S) as scope:
        done = await trio.run_process(
            _command(command), stdout=output, stderr=output, check=False, env=_environment()
        )
    if scope.cancelled_caught:
        raise DaemonFailed(f"{name}: {command[0]} took longer than {READY_TIMEOUT_S:g} s: {_last_line(log)}")
    if done.returncode:
        raise DaemonFailed(f"{name}: {command[0]} failed with code {done.returncode}: {_last_line(log)}")


async def _end(process: trio.Process) -> None:
    """Terminate the process, kill it when it takes too long, and reap it."""
    if process.poll() is None:
        process.terminate()
        with trio.move_on_after(STOP_TIMEOUT_S):
            await process.wait()
    if process.poll() is None:
        process.kill()
    await process.wait()


def _command(arguments: Sequence[str]) -> list[str]:
    # -P: a folder named `node` in the working directory must not be taken for ours.
    return [sys.executable, "-P", "-m", "node", *arguments]


def _environment() -> dict[str, str]:
    """This process's environment without its settings for a node, and with our packages in reach."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROSEFOREST_")}
    paths = [str(Path(__file__).parents[1]), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


def _appending(log: Path) -> BinaryIO:
    return open(log, "ab")


def _last_line(log: Path) -> str:
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_LINE_BYTES))
        lines = file.read().decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
