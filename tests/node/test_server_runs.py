"""A project's own ServerApp over real daemons: any strategy, and a run that outlives who coordinates it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.commands.exit_codes import ExitCode
from tests.federated.flower_projects import stateful_project
from tests.node.real_daemons import Daemon, Daemons, eventually

pytestmark = pytest.mark.slow

ROUNDS = 3
MEMBERS = 4
TERMS = ("--mode", "server-app", "--min-members", str(MEMBERS), "--deadline", "8", "--lease", "1")


def expected(rounds: int) -> np.ndarray[Any, Any]:
    """What the project's strategy comes to: a weighted mean of steps, with momentum."""
    weights = np.array([10.0 * (part + 1) for part in range(MEMBERS)])
    steps = np.array([0.5 * (part + 1) for part in range(MEMBERS)])
    model, momentum = 0.0, 0.0
    for _ in range(rounds):
        momentum = 0.5 * momentum + float(weights @ steps / weights.sum())
        model += momentum
    return np.arange(3) + model


def test_a_strategy_of_its_own_runs_over_four_nodes_though_its_coordinator_is_killed(
    daemons: Daemons, tmp_path: Path
) -> None:
    pytest.importorskip("flwr")
    app = str(stateful_project(tmp_path / "app").root)
    founder = daemons.run(daemons.home("n0"))
    nodes = [founder]
    nodes += [daemons.run(daemons.home(f"n{n}", "--join", founder.address)) for n in range(1, MEMBERS)]
    eventually(partial(acquainted, nodes), "all to know each other")
    task = daemons.command(nodes[0].home, "fl", "create", app, *TERMS, "--json").value["id"]
    eventually(partial(heard_of, nodes, task), "the task to be heard of")

    def begin(number: int) -> Daemon:
        part = ("--partition-id", str(number), "--num-partitions", str(MEMBERS))
        return daemons.begin(nodes[number].home, "run", app, task, *part, "--json", command="fl")

    members = [begin(number) for number in range(MEMBERS)]
    eventually(lambda: len(calls_of(nodes[1], task)) >= 2, "the second round to have begun")
    assert calls_of(nodes[1], task)[0]["coordinator"] == nodes[0].get("/v1/status")["agent_id"]
    members[0].kill()  # the command that runs the ServerApp, and the first node's ClientApp with it
    nodes[0].kill()

    ends = [finished(member) for member in members[1:]]
    assert len({end["result"] for end in ends}) == 1
    assert [end["failed"] for end in ends] == [None] * (MEMBERS - 1)
    (led,) = [end for end in ends if end["coordinated"]]
    assert led["replayed"] >= 2
    assert led["differences"] == []
    log = calls_of(nodes[2], task)
    assert len({one["coordinator"] for one in log}) == 2
    # In the round that was cut off, and before it, the first node's answers count as far as they had come.
    whole = sum(len(one["answers"]) == MEMBERS for one in log)
    assert whole >= 1
    target = tmp_path / "result.npz"
    assert daemons.command(nodes[3].home, "fl", "result", task, "-o", str(target)).code == 0
    assert np.isfinite(np.load(target)["slope"]).all()
    assert set(np.load(target)) == {"slope", "offset"}


def test_the_run_comes_to_what_the_strategy_says_and_bad_answers_do_not_reach_it(
    daemons: Daemons, tmp_path: Path
) -> None:
    pytest.importorskip("flwr")
    app = str(stateful_project(tmp_path / "app").root)
    founder = daemons.run(daemons.home("n0"))
    nodes = [founder]
    nodes += [daemons.run(daemons.home(f"n{n}", "--join", founder.address)) for n in range(1, MEMBERS)]
    eventually(partial(acquainted, nodes), "all to know each other")
    terms = (*TERMS[:2], "--min-members", "4", "--deadline", "30")
    task = daemons.command(nodes[0].home, "fl", "create", app, *terms, "--json").value["id"]
    eventually(partial(heard_of, nodes, task), "the task to be heard of")
    members = []
    for number, node in enumerate(nodes):
        part = ("--partition-id", str(number), "--num-partitions", str(MEMBERS))
        members.append(daemons.begin(node.home, "run", app, task, *part, "--json", command="fl"))
    ends = [finished(member) for member in members]
    assert [end["coordinated"] for end in ends] == [True, False, False, False]
    assert ends[0]["calls"] == ROUNDS
    target = tmp_path / "result.npz"
    assert daemons.command(nodes[3].home, "fl", "result", task, "-o", str(target)).code == 0
    np.testing.assert_allclose(np.load(target)["slope"], expected(ROUNDS), atol=1e-5)
    audit = daemons.command(nodes[2].home, "fl", "audit", task, "--app", app, "--json")
    assert audit.code == 0, audit
    assert (audit.value["differences"], audit.value["same_result"]) == ([], True)
    assert [len(one["answered"]) for one in audit.value["calls"]] == [MEMBERS] * ROUNDS
    # A coordinator that runs another app than the one it shows, seen from who audits: the first lie is named.
    shown_app = stateful_project(tmp_path / "shown").root
    for file in shown_app.rglob("*.py"):
        file.write_text(file.read_text().replace("0.5 * self.momentum", "0.9 * self.momentum"))
    audit = daemons.command(nodes[2].home, "fl", "audit", task, "--app", str(shown_app), "--json")
    assert audit.code == ExitCode.DAMAGED
    assert audit.value["same_result"] is False
    lies = {one.split(" to ")[0].split(": ")[0] for one in audit.value["differences"]}
    assert lies == {f"call {ROUNDS}", "the result"}
    shown = daemons.command(nodes[2].home, "fl", "status", task).out
    assert f"call {ROUNDS}: {MEMBERS} messages of " in shown
    assert f"{MEMBERS} answers of " in shown
    card = daemons.command(nodes[1].home, "fl", "export", task, "-o", str(tmp_path / "out"), "--json").value
    assert card["files"] == ["card.json", "card.md", "model.npz"]
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "model.npz")["slope"], np.load(target)["slope"])
    contributors = card["card"]["contributors"]
    assert [one["contributions"] for one in contributors] == [ROUNDS] * MEMBERS
    # The clients count their rounds in their context's state, which lasts from message to message.
    assert "times 3" in members[1].log.read_text()


def acquainted(nodes: list[Daemon]) -> bool:
    return all(node.get("/v1/status")["peers"] == len(nodes) - 1 for node in nodes)


def heard_of(nodes: list[Daemon], task: str) -> bool:
    return all(node.ask("GET", f"/v1/learning/tasks/{task}").status == 200 for node in nodes)


def calls_of(node: Daemon, task: str) -> list[dict[str, Any]]:
    """The calls that a node knows; none before it follows the task."""
    reply = node.ask("GET", f"/v1/learning/tasks/{task}/calls")
    found: list[dict[str, Any]] = reply.value["calls"] if reply.status == 200 else []
    return found


def finished(member: Daemon) -> dict[str, Any]:
    """What a member's `fl run` printed at its end."""
    assert member.process.wait(120) == 0, member.log.read_text()
    value: dict[str, Any] = json.loads(member.log.read_text().splitlines()[-1])
    return value
