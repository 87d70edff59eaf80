"""Epochs over real processes: a file goes from steward to network, and newcomers begin in the new one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from chain.kinds import RULE_VERSION
from node.commands.exit_codes import ExitCode
from tests.node.real_daemons import Daemon, Daemons, eventually

pytestmark = pytest.mark.slow


def finds(node: Daemon, wanted: set[str]) -> bool:
    hits = node.ask("POST", "/v1/query", {"text": "insects", "k": 10}).value["hits"]
    return {hit["id"] for hit in hits} == wanted


def test_an_epoch_is_proposed_signed_published_and_joined(daemons: Daemons, tmp_path: Path) -> None:
    home = daemons.home("ann")
    ann = daemons.run(home)
    file = tmp_path / "next.json"
    command = daemons.command
    assert command(home, "warrants", "--json").value == {"warrants": []}
    unknown = command(home, "epoch", "propose", str(file), "--rules", "99")
    assert (unknown.code, "this release knows" in unknown.complaint) == (ExitCode.REFUSED, True)
    assert command(home, "epoch", "propose", str(file), "--rules", str(RULE_VERSION)).code == 0
    early = command(home, "epoch", "publish", str(file))
    assert (early.code, "0 steward signatures" in early.complaint) == (ExitCode.REFUSED, True)
    assert "1 signature" in command(home, "epoch", "sign", str(file)).out
    published = command(home, "epoch", "publish", str(file), "--json").value
    again = command(home, "epoch", "publish", str(file))
    assert (again.code, "does not follow the newest epoch" in again.complaint) == (ExitCode.REFUSED, True)
    assert ann.get("/v1/epochs")["epochs"][-1] == published

    # Another atlas, of what the founder holds; who joins is given that one.
    texts = ("Bees dance.", "Ants follow trails.", "Moths seek light.", "Gnats swarm at dusk.")
    kept = [ann.add(text) for text in texts]
    atlas, second = tmp_path / "atlas.bin", tmp_path / "second.json"
    few = command(home, "epoch", "atlas", str(atlas))
    assert (few.code, "4 vectors are here, and 64 cells" in few.complaint) == (ExitCode.REFUSED, True)
    made = command(home, "epoch", "atlas", str(atlas), "--cells", "4", "--json").value
    assert (made["cells"], made["vectors"]) == (4, 4)
    sketched = command(
        home, "epoch", "atlas", str(tmp_path / "of-all.bin"), "--network", "--cells", "4", "--json"
    )
    assert {name: sketched.value[name] for name in ("cells", "vectors", "shards", "shards_total")} == {
        "cells": 4,
        "vectors": 4,
        "shards": 64,
        "shards_total": 64,
    }
    none = command(home, "epoch", "propose", str(second), "--atlas", str(file))
    assert (none.code, "this is no atlas" in none.complaint) == (ExitCode.REFUSED, True)
    assert command(home, "epoch", "propose", str(second), "--atlas", str(atlas)).code == 0
    assert command(home, "epoch", "sign", str(second)).code == 0
    published = command(home, "epoch", "publish", str(second), "--json").value
    assert published["atlas"] == made["cid"]
    assert f"atlas {made['cid']}" in command(home, "epoch", "list").out

    other = daemons.home("bob", "--join", ann.address)
    assert (other / "atlas" / made["cid"]).read_bytes() == atlas.read_bytes()
    bob = daemons.run(other)
    eventually(lambda: bob.get("/v1/epochs")["epochs"][-1] == published, "the epoch at the newcomer")
    log = bob.get("/v1/chain/log")["records"]
    assert len(log) == 3
    id_ = bob.add("Wasps build paper nests.")
    eventually(lambda: ann.ask("GET", f"/v1/entries/{id_}").status == 200, "the newcomer's entry")
    eventually(lambda: bob.get("/v1/status")["pending"] == 0, "all to be placed")
    assert ann.terminate() == 0
    ann = daemons.run(home, "--bootstrap", bob.address)
    assert ann.get("/v1/epochs")["epochs"][-1]["current"]
    for node in (ann, bob):
        eventually(partial(finds, node, {*kept, id_}), "all entries by both atlases")

    # The founder, the only steward, puts the newcomer out, and lets it in again.
    out, back = tmp_path / "out.json", tmp_path / "back.json"
    agent = bob.get("/v1/status")["agent_id"]
    founder = ann.get("/v1/status")["agent_id"]
    never = command(home, "epoch", "propose", str(out), "--expel", founder)
    assert (never.code, "cannot be put out" in never.complaint) == (ExitCode.REFUSED, True)
    assert (
        ", expels 1 agent, 0 signatures"
        in command(home, "epoch", "propose", str(out), "--expel", f"{agent}:4").out
    )
    for step in ("sign", "publish"):
        assert command(home, "epoch", step, str(out)).code == 0
    assert not ann.get("/v1/peers")["peers"]
    assert f"expels {agent} from seq 4 on" in command(home, "epoch", "list").out
    assert ann.get(f"/v1/entries/{id_}")["text"] == "Wasps build paper nests."
    assert command(home, "epoch", "propose", str(back), "--readmit", agent).code == 0
    for step in ("sign", "publish"):
        assert command(home, "epoch", step, str(back)).code == 0
    bob.kill()  # who was refused knocks again twice a minute; a start knocks at once
    daemons.run(other, "--bootstrap", ann.address)
    eventually(lambda: ann.get("/v1/peers")["peers"], "the newcomer to be back")
