"""Learning as a user does it: real daemons, real `fl` commands, an app in its own process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.cli import run
from node.commands.exit_codes import ExitCode
from tests.federated.flower_projects import project
from tests.node.real_daemons import Daemon, Daemons, eventually

ROUNDS = 3
DEADLINE_S = "10"
"""Far more than a round takes; what a member that is gone costs the others."""
PRINTED = "a line that must not disturb the command"
"""What the app prints whenever it trains."""


@pytest.mark.parametrize(
    "arguments",
    [
        ["fl", "create"],
        ["fl", "create", "x", "--min-members", "3", "--max-members", "2"],
        ["fl", "create", "x", "--rounds", "0"],
        ["fl", "create", "x", "--deadline", "0.5"],
        ["fl", "create", "x", "--secure", "4"],
        ["fl", "create", "x", "--secure", "4", "--min-members", "4", "--compression", "int8"],
        ["fl", "create", "x", "--secure", "4", "--min-members", "4", "--topology", "gossip"],
        ["fl", "create", "x", "--secure", "4", "--mode", "server-app"],
        ["fl", "run", "x", "task", "--min-members", "3"],
        ["fl", "result"],
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_done(arguments: list[str]) -> None:
    assert run(arguments) == ExitCode.USAGE


@pytest.mark.slow
def test_three_nodes_train_together_though_one_members_process_is_killed_in_a_round(
    daemons: Daemons, tmp_path: Path
) -> None:
    pytest.importorskip("flwr")
    app = str(project(tmp_path / "app").root)
    nodes = network(daemons, 3)
    homes = [node.home for node in nodes]

    made = daemons.command(homes[0], "fl", "create", app, *TERMS, "--strategy", "fedavg", "--json").value
    assert (made["rounds"], made["parameters"], made["strategy"]) == (ROUNDS, 4, "FedAvg")
    assert made["rule"] == "fedavg"
    task = made["id"]
    eventually(lambda: known(daemons, homes[2], task), "the task to be heard of")
    assert daemons.command(homes[2], "fl", "join", task, "--json").value == {"id": task, "joined": True}

    def begin(number: int, mood: str) -> Daemon:
        part = ("--partition-id", str(number), "--num-partitions", "3")
        arguments = ("run", app, task, *part, "--run-config", f"mood='{mood}'", "--json")
        return daemons.begin(homes[number], *arguments, command="fl")

    lost = begin(2, "hangs")
    kept = [begin(0, "well"), begin(1, "well")]
    eventually(lambda: PRINTED in lost.log.read_text(), "the third member to train")
    lost.kill()

    parts = [finished(member) for member in kept]
    assert [part["round"] for part in parts] == [ROUNDS, ROUNDS]
    assert [[entry["round"] for entry in part["rounds"]] for part in parts] == [[1, 2, 3]] * 2
    assert parts[0]["parameters"] == parts[1]["parameters"]
    # Both of the two that are left moved by .5 · (part + 1), with the weights 10 and 20, in each round.
    step = (10 * 0.5 + 20 * 1.0) / 30
    assert parts[0]["evaluation"]["mean"] == pytest.approx(1.0 + ROUNDS * step, abs=1e-5)

    files = []
    for home in homes:
        target = tmp_path / f"{home.name}.npz"
        done = daemons.command(home, "fl", "result", task, "-o", str(target), "--json")
        assert done.value["parameters"] == parts[0]["parameters"]
        files.append(dict(np.load(target)))
    for arrays in files:
        assert list(arrays) == ["slope", "offset"]
        assert [value.tobytes() for value in arrays.values()] == [v.tobytes() for v in files[0].values()]
    np.testing.assert_allclose(files[0]["slope"], np.arange(3) + ROUNDS * step, atol=1e-5)

    for home in homes[:2]:
        audit = daemons.command(home, "fl", "audit", task, "--json")
        assert audit.code == 0, audit
        assert [entry["ok"] for entry in audit.value["rounds"]] == [True] * ROUNDS
    status = daemons.command(homes[1], "fl", "status", task, "--json").value
    assert status["state"] == "finished"
    first = status["history"][0]
    assert [item["agent"] for item in first["contributors"]] == sorted(
        agent(daemons, home) for home in homes[:2]
    )
    assert first["absent"] == [agent(daemons, homes[2])]
    assert status["compression"] == "int8"
    assert {item["bytes"] for one in status["history"] for item in one["contributors"]} == {14}
    assert "2 members contributed" in (shown := daemons.command(homes[1], "fl", "status", task).out)
    assert "14 bytes an update (5% of a plain one), 28 in all" in shown
    log = daemons.command(homes[0], "fl", "log", task, "--json", "--follow")
    events = [json.loads(line)["event"] for line in log.out.splitlines()]
    assert events[0] == "task"
    assert events.count("result") >= ROUNDS
    assert log.out.count("; updates of 28 bytes") + log.out.count("; updates of at least ") >= ROUNDS
    for node in nodes:
        assert node.get("/v1/status")["agent_id"], "every daemon goes on"


@pytest.mark.slow
def test_three_nodes_sum_their_updates_under_masks_and_the_model_is_the_plain_mean(
    daemons: Daemons, tmp_path: Path
) -> None:
    pytest.importorskip("flwr")
    app = str(project(tmp_path / "app").root)
    homes = [node.home for node in network(daemons, 3)]
    secure = ("--secure", "3", "--min-members", "3", "--strategy", "fedavg")
    limits = ("--rounds", "2", "--deadline", DEADLINE_S)
    task = daemons.command(homes[0], "fl", "create", app, *limits, *secure, "--json").value["id"]
    eventually(lambda: all(known(daemons, home, task) for home in homes), "the task to be heard of")
    members = [
        daemons.begin(
            homes[number],
            *("run", app, task, "--partition-id", str(number), "--num-partitions", "3", "--json"),
            command="fl",
        )
        for number in range(3)
    ]
    parts = [finished(member) for member in members]
    assert len({part["parameters"] for part in parts}) == 1
    # Each moved by .5 · (part + 1) in each round, with the weights 10, 20 and 30.
    step = (10 * 0.5 + 20 * 1.0 + 30 * 1.5) / 60
    target = tmp_path / "model.npz"
    assert daemons.command(homes[2], "fl", "result", task, "-o", str(target)).code == 0
    np.testing.assert_allclose(np.load(target)["slope"], np.arange(3) + 2 * step, atol=1e-5)
    audit = daemons.command(homes[1], "fl", "audit", task, "--json")
    assert [entry["ok"] for entry in audit.value["rounds"]] == [True, True]
    shown = daemons.command(homes[1], "fl", "status", task).out
    assert "summed under masks, in groups of 3 or more" in shown
    assert "3 members contributed, 40 bytes an update" in shown, "4 values and the weight, 8 bytes each"
    assert "opens its shares of the masks" in daemons.command(homes[0], "fl", "log", task).out


@pytest.mark.slow
def test_an_app_that_cannot_be_used_is_one_line_and_joins_nothing(daemons: Daemons, tmp_path: Path) -> None:
    pytest.importorskip("flwr")
    (node,) = network(daemons, 1)
    good = str(project(tmp_path / "good").root)
    broken = str(project(tmp_path / "broken", client="app = 1").root)
    serverless = str(project(tmp_path / "serverless", server="app = 1").root)
    task = daemons.command(node.home, "fl", "create", good, *TERMS, "--json").value["id"]

    for code, words, arguments in (
        (ExitCode.REFUSED, "is no Flower project", ("fl", "create", str(tmp_path))),
        (ExitCode.REFUSED, "has no 'nonsense'", ("fl", "create", good, "--run-config", "nonsense=1")),
        (ExitCode.REFUSED, "is a int, not a ClientApp", ("fl", "run", broken, task)),
        (ExitCode.REFUSED, "is a int, not a ServerApp", ("fl", "run", serverless)),
        (
            ExitCode.NOT_FOUND,
            "",
            ("fl", "run", good, "bagaqieraaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ),
        (ExitCode.REFUSED, "is no .npz file", ("fl", "create", "--initial", f"{good}/pyproject.toml")),
    ):
        done = daemons.command(node.home, *arguments)
        assert done.code == code, done
        assert words in done.complaint
    assert not daemons.command(node.home, "fl", "status", task, "--json").value["joined"]
    known = json.loads(daemons.command(node.home, "fl", "list", "--json").out)["tasks"]
    assert [one["id"] for one in known] == [task], "an app that does not load makes no task"
    node.terminate()
    assert daemons.command(node.home, "fl", "list").code == ExitCode.NO_DAEMON


@pytest.mark.slow
def test_a_file_of_parameters_makes_a_task_and_a_failing_member_leaves_it(
    daemons: Daemons, tmp_path: Path
) -> None:
    pytest.importorskip("flwr")
    (node,) = network(daemons, 1)
    app = str(project(tmp_path / "app").root)
    initial = tmp_path / "initial.npz"
    np.savez(initial, slope=np.arange(3, dtype=np.float32), offset=np.array(0.5, np.float32))
    terms = ("--rounds", "5", "--min-members", "1", "--deadline", "1", "--name", "from a file")
    made = daemons.command(node.home, "fl", "create", "--initial", str(initial), *terms, "--json").value
    assert (made["name"], made["parameters"]) == ("from a file", 4)
    # The file brings no config, so the app misses its `step` in every round.
    failing = ("fl", "run", app, made["id"], "--partition-id", "0")
    done = daemons.command(node.home, *failing)
    assert done.code == ExitCode.REFUSED, done
    assert "3 rounds in a row were lost" in done.err
    assert not daemons.command(node.home, "fl", "status", made["id"], "--json").value["joined"]


@pytest.mark.slow
def test_gossip_trains_the_same_app_and_each_node_has_a_model_of_its_own(
    daemons: Daemons, tmp_path: Path
) -> None:
    pytest.importorskip("flwr")
    app = str(project(tmp_path / "app").root)
    homes = [node.home for node in network(daemons, 2)]
    gossip = ("--topology", "gossip", "--strategy", "fedavg", "--fanout", "2", "--rounds", str(ROUNDS))
    refused = daemons.command(homes[0], "fl", "create", app, "--compression", "float16")
    assert (refused.code, "goes with --topology gossip" in refused.err) == (ExitCode.USAGE, True)
    refused = daemons.command(homes[0], "fl", "create", app, *gossip, "--compression", "int8")
    assert (refused.code, "gossip has none" in refused.err) == (ExitCode.USAGE, True)
    made = daemons.command(homes[0], "fl", "create", app, *gossip, "--json").value
    assert (made["topology"], made["max_members"]) == ("gossip", 256)
    task = made["id"]
    terms = daemons.command(homes[0], "fl", "status", task, "--json").value
    assert terms["compression"] == "float16", "what gossip has unless another form is asked for"
    eventually(lambda: known(daemons, homes[1], task), "the task to be heard of")
    members = []
    for number, home in enumerate(homes):
        data = ("--partition-id", str(number), "--num-partitions", "2", "--json")
        members.append(daemons.begin(home, "run", app, task, *data, command="fl"))
    parts = [finished(member) for member in members]
    assert [part["round"] for part in parts] == [ROUNDS, ROUNDS]
    for home, part in zip(homes, parts, strict=True):
        result = daemons.command(home, "fl", "result", task, "--json").value
        assert (result["round"], result["parameters"]) == (ROUNDS, part["parameters"])
        status = daemons.command(home, "fl", "status", task)
        assert "gossip, each combines its model with those of 2 others" in status.out
        assert f"round {ROUNDS}: 2 members contributed" in status.out
        audit = daemons.command(home, "fl", "audit", task, "--json")
        assert audit.code == 0, audit
        assert {entry["member"] for entry in audit.value["rounds"]} == {agent(daemons, h) for h in homes}
        exported = daemons.command(
            home, "fl", "export", task, "-o", str(tmp_path / home.name), "--json"
        ).value
        assert exported["card"]["task"]["topology"] == "gossip"
        assert len(exported["card"]["contributors"]) == 2
    log = daemons.command(homes[0], "fl", "log", task)
    assert log.out.count("shows its result, made of 2 shares") == 2


@pytest.mark.slow
def test_a_gate_keeps_the_last_model_that_did_not_hurt(daemons: Daemons, tmp_path: Path) -> None:
    """The app's mean grows with every round, and the gate takes a growing mean for harm."""
    pytest.importorskip("flwr")
    (node,) = network(daemons, 1)
    app = str(project(tmp_path / "app").root)
    terms = ("--rounds", "2", "--min-members", "1", "--compression", "topk:20")
    task = daemons.command(node.home, "fl", "create", app, *terms, "--json").value["id"]
    gate = ("--gate", "0.1", "--gate-metric", "mean:min")
    assert daemons.command(node.home, "fl", "run", app, task, *gate, "--no-evaluate").code == ExitCode.USAGE
    assert daemons.command(node.home, "fl", "result", task, "--mine").code == ExitCode.NOT_FOUND

    done = daemons.command(node.home, "fl", "run", app, task, "--partition-id", "0", *gate, "--json")
    assert done.code == ExitCode.PARTLY_DONE, done
    found = done.value["gate"]
    assert (found["round"], found["best"], found["refused"]) == (0, 1.0, [1, 2])
    assert "round 1's model is not adopted: it has mean 1.16667, round 0's had 1" in done.err
    status = daemons.command(node.home, "fl", "status", task, "--json").value
    assert [one["contributors"][0]["metrics"].get("gate-refused") for one in status["history"]] == [None, 1.0]

    mine, theirs = tmp_path / "mine.npz", tmp_path / "theirs.npz"
    kept = daemons.command(node.home, "fl", "result", task, "--mine", "-o", str(mine), "--json").value
    daemons.command(node.home, "fl", "result", task, "-o", str(theirs))
    assert (kept["round"], kept["record"]) == (0, task)
    assert np.load(mine)["slope"].tolist() == [0, 1, 2]
    assert np.load(theirs)["slope"].mean() > 1.1
    out = str(tmp_path / "out")
    card = daemons.command(node.home, "fl", "export", task, "--mine", "-o", out, "--json").value["card"]
    assert (card["rounds"], card["gate"]["round"], card["parameters"]["cid"]) == (0, 0, kept["parameters"])


TERMS = ("--rounds", str(ROUNDS), "--min-members", "3", "--max-members", "3", "--deadline", DEADLINE_S)


def network(daemons: Daemons, size: int) -> list[Daemon]:
    nodes = [daemons.run(daemons.home("node-0"))]
    address = nodes[0].info["addresses"][0]
    homes = [daemons.home(f"node-{number}", "--join", address) for number in range(1, size)]
    return nodes + [daemons.run(home, "--bootstrap", address) for home in homes]


def known(daemons: Daemons, home: Path, task: str) -> bool:
    return daemons.command(home, "fl", "status", task).code == 0


def agent(daemons: Daemons, home: Path) -> str:
    return str(daemons.command(home, "status", "--json").value["agent_id"])


def finished(member: Daemon) -> dict[str, Any]:
    """What a member's `fl run` printed at its end."""
    assert member.process.wait(120) == 0, member.log.read_text()
    value: dict[str, Any] = json.loads(member.log.read_text().splitlines()[-1])
    return value
