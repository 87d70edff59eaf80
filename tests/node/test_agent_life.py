"""An agent's chain ends for good, by being closed or by going on under a new key: on real daemons."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chain.agent_life import rotation_in
from chain.identity import peer_id
from chain.kinds import CLOSE, CONTINUE, ROTATE
from chain.record import decode_payload
from node.commands.exit_codes import ExitCode
from node.home import Home
from node.storage.inspection import CHAIN, records_of
from tests.node.real_daemons import Daemons, eventually

pytestmark = pytest.mark.slow


def test_a_key_is_rotated_and_the_new_chain_is_closed(daemons: Daemons, tmp_path: Path) -> None:
    first = daemons.run(daemons.home("first"))
    old_home = daemons.home("old", "--join", first.address)
    old = daemons.run(old_home)
    entry = old.add("Written by the old key.")
    elsewhere = daemons.home("elsewhere")
    refused = daemons.command(old_home, "key", "rotate", "--new-home", str(elsewhere))
    assert "another network" in refused.complaint
    assert old.get("/v1/status")["read_only"] is None, "nothing ended when a step before failed"

    new_home = daemons.folder / "new"
    rotate = ("key", "rotate", "--new-home", str(new_home), "--agent-name", "reborn", "--json")
    done = daemons.command(old_home, *rotate)
    assert done.code == 0, done
    again = daemons.command(old_home, *rotate)
    assert again.value == done.value, "the same command finishes what was interrupted"
    other = daemons.home("other", "--join", first.address)
    assert (
        "another successor" in daemons.command(old_home, "key", "rotate", "--new-home", str(other)).complaint
    )
    status = old.get("/v1/status")
    assert "goes on under the key" in status["read_only"]
    late = daemons.command(old_home, "add", "by the old key, too late")
    assert (late.code, "has ended" in late.complaint) == (ExitCode.READ_ONLY, True)
    assert old.get(f"/v1/entries/{entry}")["text"] == "Written by the old key."
    eventually(lambda: old.get("/v1/status")["pending"] == 0, "the last record to be placed")
    assert old.terminate() == 0
    assert "has ended" in str(daemons.run(old_home).get("/v1/status")["read_only"]), "also after a restart"

    new = daemons.run(new_home)
    eventually(lambda: new.ask("GET", f"/v1/entries/{entry}").status == 200, "the old entries to be seen")
    new.add("Written by the new key.")
    known = eventually(
        lambda: first.get(f"/v1/agents/{status['agent_id']}")["successors"], "everybody to hear"
    )
    assert known == [done.value["successor"]]
    closed = daemons.command(new_home, "chain", "close", "--confirm", status["agent_id"])
    assert (closed.code, "not" in closed.complaint) == (ExitCode.REFUSED, True)
    agent = new.get("/v1/status")["agent_id"]
    assert daemons.command(new_home, "chain", "close", "--confirm", agent).code == 0
    again = daemons.command(new_home, "chain", "close", "--confirm", agent)
    assert (again.code, "closed for ever" in again.complaint) == (ExitCode.READ_ONLY, True)
    reply = new.ask("POST", "/v1/entries", {"text": "too late"})
    assert (reply.status, "closed for ever" in reply.message) == (507, True)
    eventually(lambda: new.get("/v1/status")["pending"] == 0, "the close to be placed")
    assert new.terminate() == 0

    old_chain, new_chain = (
        list(records_of(home / "chain.db", CHAIN, "seq")) for home in (old_home, new_home)
    )
    assert old_chain[-1].header.kind == ROTATE
    assert [record.header.kind for record in new_chain[-3:]] == [CONTINUE, "entry.create", CLOSE]
    continued = rotation_in(CONTINUE, decode_payload(new_chain[-3].payload or b""))
    assert (continued.cid, peer_id(continued.header.author)) == (old_chain[-1].cid, status["agent_id"])


def test_the_recovery_key_leaves_the_home_and_revokes(daemons: Daemons, tmp_path: Path) -> None:
    first_home = daemons.home("first")
    first = daemons.run(first_home)
    kept = tmp_path / "recovery"
    victim_home = daemons.home("victim", "--join", first.address, "--recovery-key", str(kept))
    assert not Home(victim_home).recovery_key.exists(), "init put it elsewhere"
    second = daemons.command(daemons.folder / "second", "init", "--recovery-key", str(kept))
    assert "not overwritten" in second.complaint
    assert daemons.command(first_home, "key", "recovery", str(tmp_path / "other")).code == 0
    assert not Home(first_home).recovery_key.exists()
    victim = daemons.run(victim_home)
    mine = victim.add("Still mine.")
    theirs = victim.add("By the thief.")
    eventually(lambda: victim.get("/v1/status")["pending"] == 0, "all to be placed")
    agent = victim.get("/v1/status")["agent_id"]
    assert json.loads(daemons.command(victim_home, "key", "show", "--json").out)["recovery"] is None
    revoke = ("key", "revoke", agent, "--after", "3", "--recovery-key")
    theft = daemons.command(first_home, *revoke, str(victim_home / "key"))
    assert (theft.code, "recovery key" in theft.complaint) == (ExitCode.REFUSED, True)
    own = daemons.command(victim_home, *revoke, str(kept))
    assert (own.code, "another home" in own.complaint) == (ExitCode.REFUSED, True)
    done = daemons.command(first_home, *revoke, str(kept), "--json")
    assert (done.code, done.value["kind"]) == (0, "agent.revoke")

    # Everybody hears of it, the thief's node too, whose later records nobody shows.
    def refused() -> bool:
        reply = victim.ask("POST", "/v1/entries", {"text": "More."})
        return reply.status == 403 and "revoked by its recovery key" in reply.message

    eventually(refused, "the revoked node to hear of it")
    assert first.get(f"/v1/entries/{mine}")["text"] == "Still mine."
    assert "By the thief." not in first.texts("by the thief")
    shown = first.ask("GET", f"/v1/entries/{theirs}")
    assert shown.status == 404 or not shown.value["text"]
    assert daemons.command(first_home, *revoke, str(kept), "--json").code == 0, "saying it twice is nothing"
    assert first.get(f"/v1/entries/{mine}")["text"] == "Still mine."
