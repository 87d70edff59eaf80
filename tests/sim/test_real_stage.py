"""A scenario on real daemons: played as far as processes can, with a daemon of one's own among them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from node.api_client import ApiClient, ApiError
from node.errors import DaemonNotRunning
from node.home import Home
from sim.faults import Down, Span
from sim.real_stage import check_playable, flags_of, left_out, playable
from sim.scenario import ScenarioError, load_scenario, parse_scenario, scaled

ROOT = Path(__file__).parents[2]
SCENARIO = """
about = "Three daemons, one of them killed and back."
assert = [
    "pending == 0", "retrieved == 1", "stale_count == 0", "load.entry_created_count == 12",
    "ask.unverified_hits == 0", "ask.recall >= 0.9", "replicas_equal == 1",
]
[topology]
nodes = 3
observers = 1
loss = 0.1
bytes_per_s = 1_000_000
[[workload]]
do = "add"
name = "load"
entries = 12
batch = 4
from = "storing"
readers = "observers"
[[workload]]
do = "edit"
name = "edit"
at_s = 2
entries = 2
from = "node-1"
[[faults]]
kind = "crash"
at_s = 4
nodes = "node-2"
return_after_s = 2
[[faults]]
kind = "partition"
at_s = 4
for_s = 2
sides = ["node-3"]
[[faults]]
kind = "leave"
at_s = 16
nodes = "node-3"
[[workload]]
do = "ask"
name = "ask"
at_s = 10
queries = 3
from = "observers"
"""


def start(*arguments: str, temporary: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "node", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def next_event(process: subprocess.Popen[str], kind: str) -> dict[str, Any]:
    """The next event of a kind on stdout; what comes before it is passed over."""
    assert process.stdout is not None
    for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == kind:
            return event
    raise AssertionError(process.communicate()[1])


def until_peers(home: Path, peers: int) -> ApiClient:
    """The API of a daemon of its own process, once it knows so many peers; there is no event to wait for."""
    patience = time.monotonic() + 60
    while True:
        try:
            api = ApiClient(Home(home))
            if api.get("/v1/status")["peers"] >= peers:
                return api
        except (DaemonNotRunning, ApiError):
            pass
        assert time.monotonic() < patience
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.long
def test_a_daemon_of_ones_own_joins_a_scenario_on_real_sockets(tmp_path: Path) -> None:
    file = tmp_path / "three.toml"
    file.write_text(SCENARIO)
    home = tmp_path / "mine"
    network = start("testnet", "up", "--scenario", str(file), "--json", temporary=tmp_path)
    mine = None
    try:
        ready = next_event(network, "ready")
        joined = start("init", "--home", str(home), "--join", ready["bootstrap"], temporary=tmp_path)
        assert joined.wait(60) == 0, joined.communicate()
        mine = start("run", "--home", str(home), "--api", "127.0.0.1:0", temporary=tmp_path)
        result = next_event(network, "result")
        figures, wanted = result["metrics"], {one["assert"]: one for one in result["assertions"]}
        assert [one for one in result["assertions"] if not one["ok"]] == [wanted["replicas_equal == 1"]]
        assert wanted["replicas_equal == 1"]["value"] is None  # nobody sees that from outside
        assert result["ok"]
        assert result["trace"] is None
        assert figures["checked_count"] == 12
        assert figures["steps"]["edit"]["edited_count"] == 2
        assert figures["steps"]["load"]["fetch_lag"]["count"] >= 1
        answer = until_peers(home, 2).post("/v1/query", {"text": "anything at all", "k": 5})
        assert len(answer["hits"]) == 5
        assert all(hit["verified"] for hit in answer["hits"])
        network.send_signal(signal.SIGINT)
        rest = network.communicate(timeout=60)[0]
    finally:
        for process in filter(None, [mine, network]):
            process.kill()
            process.communicate()
    assert json.loads(rest.splitlines()[-1]) == {"event": "stopped"}
    assert network.returncode == 0


@pytest.mark.slow
def test_a_scenario_that_fails_on_real_daemons_ends_with_code_13_and_says_what_was_left_out(
    tmp_path: Path,
) -> None:
    file = tmp_path / "hopeless.toml"
    file.write_text(
        """
about = "Two daemons and an assertion that cannot hold."
assert = ["load.entry_created_count == 5"]
[topology]
nodes = 2
[[faults]]
kind = "slow"
at_s = 0
for_s = 1
nodes = "node-2"
add_ms = 100
[[workload]]
do = "add"
name = "load"
entries = 4
"""
    )
    network = start("testnet", "up", "--scenario", str(file), temporary=tmp_path)
    try:
        assert network.stdout is not None
        lines = []
        for line in network.stdout:
            lines.append(line.rstrip())
            if line.startswith("the daemons go on"):
                break
        network.send_signal(signal.SIGINT)
        _, err = network.communicate(timeout=60)
    finally:
        network.kill()
        network.communicate()
    assert "FAILS  load.entry_created_count == 5  (4)" in lines
    assert "left out on real sockets: the latency of links, faults[0] (slow)" in err.splitlines()
    assert network.returncode == 13


def test_what_real_sockets_cannot_do_is_named_and_left_out() -> None:
    scenario = parse_scenario(SCENARIO, "x.toml")
    assert left_out(scenario) == [
        "the latency of links",
        "topology.loss 0.1",
        "topology.bytes_per_s 1,000,000",
        "faults[1] (partition)",
    ]
    assert playable(scenario.plan()).faults == (
        Down(Span(4_000_000, 6_000_000), "node-2"),
        Down(Span(16_000_000), "node-3", in_order=True),
    )
    assert flags_of(scenario.plan()) == {"node-3": ("--leave-seconds", "5")}


def test_more_daemons_than_a_test_network_has_are_refused_in_one_line() -> None:
    large = load_scenario("cold-start")
    check_playable(large, "cold-start")
    with pytest.raises(ScenarioError, match=r"x: topology.nodes: 100 daemons .* at most 64; use --scale"):
        check_playable(scaled(large, 2), "x")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scenario", "churn", "-n", "5"], "--nodes goes without --scenario"),
        (["--seed", "5"], "--seed and --scale go with --scenario"),
        (["--scenario", "no-such"], "no-such: no such file, and no scenario of this name"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from node.cli import run

    assert run(["testnet", "up", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"roseforest: {said}")
