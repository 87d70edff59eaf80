"""Epochs over real processes: a file goes from steward to network, and newcomers begin in the new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.commands.exit_codes import ExitCode
from tests.node.real_daemons import Daemons, eventually

pytestmark = pytest.mark.slow


def test_an_epoch_is_proposed_signed_published_and_joined(daemons: Daemons, tmp_path: Path) -> None:
    home = daemons.home("ann")
    ann = daemons.run(home)
    file = tmp_path / "next.json"
    command = daemons.command
    assert command(home, "warrants", "--json").value == {"warrants": []}
    unknown = command(home, "epoch", "propose", str(file), "--rules", "99")
    assert (unknown.code, "this release knows" in unknown.complaint) == (ExitCode.REFUSED, True)
    assert command(home, "epoch", "propose", str(file), "--rules", "4").code == 0
    early = command(home, "epoch", "publish", str(file))
    assert (early.code, "0 steward signatures" in early.complaint) == (ExitCode.REFUSED, True)
    assert "1 signature" in command(home, "epoch", "sign", str(file)).out
    published = command(home, "epoch", "publish", str(file), "--json").value
    again = command(home, "epoch", "publish", str(file))
    assert (again.code, "does not follow the newest epoch" in again.complaint) == (ExitCode.REFUSED, True)
    assert ann.get("/v1/epochs")["epochs"][-1] == published

    other = daemons.home("bob", "--join", ann.address)
    bob = daemons.run(other)
    eventually(lambda: bob.get("/v1/epochs")["epochs"][-1] == published, "the epoch at the newcomer")
    log = bob.get("/v1/chain/log")["records"]
    assert len(log) == 3
    id_ = bob.add("Wasps build paper nests.")
    eventually(lambda: ann.ask("GET", f"/v1/entries/{id_}").status == 200, "the newcomer's entry")
    assert ann.terminate() == 0
    ann = daemons.run(home, "--bootstrap", bob.address)
    assert ann.get("/v1/epochs")["epochs"][-1]["current"]

    # The founder, the only steward, puts the newcomer out, and lets it in again.
    out, back = tmp_path / "out.json", tmp_path / "back.json"
    agent = bob.get("/v1/status")["agent_id"]
    founder = ann.get("/v1/status")["agent_id"]
    never = command(home, "epoch", "propose", str(out), "--expel", founder)
    assert (never.code, "cannot be put out" in never.complaint) == (ExitCode.REFUSED, True)
    eventually(lambda: bob.get("/v1/status")["pending"] == 0, "all to be placed")
    assert (
        ", expels 1 agent, 0 signatures" in command(home, "epoch", "propose", str(out), "--expel", agent).out
    )
    for step in ("sign", "publish"):
        assert command(home, "epoch", step, str(out)).code == 0
    assert not ann.get("/v1/peers")["peers"]
    assert f"expels {agent} from seq 4 on" in command(home, "epoch", "list").out
    assert ann.get(f"/v1/entries/{id_}")["text"] == "Wasps build paper nests."
    assert command(home, "epoch", "propose", str(back), "--readmit", agent).code == 0
    for step in ("sign", "publish"):
        assert command(home, "epoch", step, str(back)).code == 0
    eventually(lambda: ann.get("/v1/peers")["peers"], "the newcomer to be back")
