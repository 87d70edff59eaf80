"""A test network: daemons that a stranger can join, and nothing left behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from node.api_client import ApiClient, ApiError
from node.errors import DaemonNotRunning
from node.home import Home
from sim.errors import DaemonFailed, PromiseBroken, SimError, one_error
from sim.testnet import NetworkEvent, NodeEnded, NodeStarted, open_test_network

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def alive(pid: int) -> bool:
    """Whether a process of this id runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@contextmanager
def roseforest(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "node", *arguments],
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(*arguments: str) -> Any:
    """What a command answers in JSON."""
    command = [sys.executable, "-P", "-m", "node", *arguments, "--json"]
    return json.loads(subprocess.check_output(command, env=ENVIRONMENT, timeout=60))


@pytest.mark.slow
def test_a_daemon_started_by_hand_joins_and_its_entry_is_found_by_another_node(tmp_path: Path) -> None:
    with roseforest("testnet", "up", "-n", "3", "--json", TMPDIR=str(tmp_path)) as network:
        assert network.stdout is not None
        started = [json.loads(network.stdout.readline()) for _ in range(3)]
        ready = json.loads(network.stdout.readline())
        assert [event["event"] for event in started] == ["node_started"] * 3
        assert ready["event"] == "ready"
        assert ready["bootstrap"] in started[0]["addresses"]
        home = str(tmp_path / "mine")
        run("init", "--home", home, "--join", ready["bootstrap"])
        with roseforest("run", "--home", home) as mine:
            _status_until(home, lambda status: status["peers"] == 3)
            text = "the lighthouse keeper counts seventeen grey seals every winter morning"
            added = run("add", text, "--home", home)
            _status_until(home, lambda status: status["pending"] == 0)
            for event in started:
                answer = run("query", "who counts the seals", "-k", "1", "--home", event["home"])
                (hit,) = answer["hits"]
                assert (hit["id"], hit["text"], hit["verified"]) == (added["id"], text, True)
            mine.send_signal(signal.SIGTERM)
            assert mine.wait(15) == 0
        network.send_signal(signal.SIGINT)
        rest = network.communicate(timeout=30)[0]
    assert json.loads(rest.splitlines()[-1]) == {"event": "stopped"}
    assert network.returncode == 0
    assert not any(alive(event["pid"]) for event in started)
    assert not Path(ready["folder"]).exists()


@pytest.mark.slow
async def test_a_kept_folder_is_the_same_network_again(tmp_path: Path) -> None:
    agents = []
    for _ in range(2):
        events: list[NetworkEvent] = []
        async with open_test_network(2, tmp_path, events.append) as network:
            assert [node.name for node in network.nodes] == ["node-1", "node-2"]
            agents.append([node.started.agent for node in network.nodes])
            await network.nodes[1].kill()
            assert not network.nodes[1].alive
        assert [type(event) for event in events] == [NodeStarted, NodeStarted, NodeEnded, NodeEnded]
        assert events[2] == NodeEnded("node-2", -signal.SIGKILL, True)
        assert events[3] == NodeEnded("node-1", 0, True)
    assert agents[0] == agents[1]


@pytest.mark.slow
async def test_a_daemon_that_cannot_start_is_named_with_its_reason_and_the_others_end(tmp_path: Path) -> None:
    (tmp_path / "node-2").write_text("a file where the home should be")
    events: list[NetworkEvent] = []
    with pytest.raises(DaemonFailed, match="node-2: init failed"):
        async with open_test_network(2, tmp_path, events.append):
            raise AssertionError
    started = [event for event in events if isinstance(event, NodeStarted)]
    assert [event.name for event in started] == ["node-1"]
    assert not alive(started[0].pid)


@pytest.mark.parametrize("nodes", [0, -1, 65])
async def test_absurd_sizes_are_refused(nodes: int) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        async with open_test_network(nodes):
            raise AssertionError


def test_one_error_finds_the_error_that_matters() -> None:
    with pytest.raises(KeyError, match="alone"), one_error():
        raise ExceptionGroup("", [ExceptionGroup("", [KeyError("alone")])])
    with pytest.raises(DaemonFailed, match="ours"), one_error():
        raise ExceptionGroup(
            "", [KeyError("other"), ExceptionGroup("", [DaemonFailed("ours"), PromiseBroken()])]
        )
    with pytest.raises(ExceptionGroup), one_error():
        raise ExceptionGroup("", [KeyError("one"), KeyError("two")])
    with pytest.raises(SimError, match="bare"), one_error():
        raise PromiseBroken("bare")


def _status_until(home: str, condition: Callable[[dict[str, Any]], bool]) -> None:
    """Poll a daemon of its own process until its status is as wanted; there is no event to wait for."""
    patience = time.monotonic() + 60
    while True:
        try:
            if condition(ApiClient(Home(Path(home))).get("/v1/status")):
                return
        except (DaemonNotRunning, ApiError):
            pass
        assert time.monotonic() < patience
        time.sleep(0.1)
