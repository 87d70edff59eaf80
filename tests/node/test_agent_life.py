"""An agent's chain ends for good, by a new key or by being closed, and a stolen key is revoked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chain.agent_life import rotation_body, rotation_in, sign_consent
from chain.identity import Identity, peer_id
from chain.kinds import CLOSE, CONTINUE, CREATE, ROTATE
from chain.record import decode_payload
from chain.source_chain import Draft, head_of, next_record
from node.commands.exit_codes import ExitCode
from node.daemon import init_home
from node.errors import HomeError, InvalidInput
from node.home import Home
from node.rotating import begin_successor, continue_chain
from node.storage.inspection import CHAIN, records_of
from tests.node.real_daemons import Daemons, eventually


def test_a_successor_is_of_the_same_network_another_key_and_named_once(tmp_path: Path) -> None:
    old, new = Home(tmp_path / "old"), Home(tmp_path / "new")
    for home in (old, new):
        init_home(home, name=home.root.name, join=None, join_bits=2, profile_name=None, vectors_dim=4)
    before = list(records_of(old.chain_db, CHAIN, "seq"))
    network, identity = before[0].header.network, Identity.from_seed(old.read_key())
    given = {"join": "", "name": None, "protection": None, "passphrase": None, "peers": ()}
    with pytest.raises(HomeError, match="another network"):
        begin_successor(new, network=network, agent=identity.agent, **given)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="is the home that is to be continued"):
        begin_successor(old, network=network, agent=identity.agent, **given)  # type: ignore[arg-type]
    successor = Identity.from_seed(bytes(range(32)))
    consent = sign_consent(successor, network, identity.agent)
    draft = Draft(ROTATE, rotation_body(successor.agent, consent))
    rotation = next_record(identity, network, network, head_of(before[-1]), draft, 0, bytes(16))
    with pytest.raises(InvalidInput, match="another successor"):
        continue_chain(new, rotation.encode(), None)
    with pytest.raises(InvalidInput, match="does not end with a rotation"):
        continue_chain(new, before[-1].encode(), None)


@pytest.mark.slow
def test_a_key_is_rotated_revoked_and_its_chain_closed(daemons: Daemons, tmp_path: Path) -> None:
    first_home = daemons.home("first")
    first = daemons.run(first_home)
    old_home = daemons.home("old", "--join", first.address, "--recovery-key", str(tmp_path / "old-recovery"))
    assert not Home(old_home).recovery_key.exists(), "init put it elsewhere"
    old = daemons.run(old_home)
    entry = old.add("Written by the old key.")
    agent = old.get("/v1/status")["agent_id"]

    new_home = daemons.folder / "new"
    rotate = ("key", "rotate", "--new-home", str(new_home), "--agent-name", "reborn", "--json")
    done = daemons.command(old_home, *rotate)
    assert done.code == 0, done
    assert daemons.command(old_home, *rotate).value == done.value, "repeated, it finishes what it began"
    successor = done.value["successor"]
    assert "goes on under the key" in old.get("/v1/status")["read_only"]
    late = old.ask("POST", "/v1/entries", {"text": "by the old key, too late"})
    assert (late.status, "has ended" in late.message) == (507, True)
    assert old.get(f"/v1/entries/{entry}")["text"] == "Written by the old key."
    eventually(lambda: old.get("/v1/status")["pending"] == 0, "the last record to be placed")
    assert old.terminate() == 0

    new = daemons.run(new_home)
    eventually(lambda: new.ask("GET", f"/v1/entries/{entry}").status == 200, "the old entries to be seen")
    known = eventually(lambda: first.get(f"/v1/agents/{agent}")["successors"], "everybody to hear")
    assert known == [successor]

    # The new key is stolen.
    mine = new.add("Still mine.")
    theirs = new.add("By the thief.")
    eventually(lambda: new.get("/v1/status")["pending"] == 0, "all to be placed")
    kept = tmp_path / "recovery"
    assert daemons.command(new_home, "key", "recovery", str(kept)).code == 0
    assert not Home(new_home).recovery_key.exists()
    revoke = ("key", "revoke", successor, "--after", "4", "--recovery-key")
    theft = daemons.command(first_home, *revoke, str(tmp_path / "old-recovery"))
    assert (theft.code, "recovery key" in theft.complaint) == (ExitCode.REFUSED, True)
    own = daemons.command(new_home, *revoke, str(kept))
    assert (own.code, "another home" in own.complaint) == (ExitCode.REFUSED, True)
    done = daemons.command(first_home, *revoke, str(kept), "--json")
    assert (done.code, done.value["kind"]) == (0, "agent.revoke")

    about = f"/v1/agents/{successor}"
    eventually(lambda: new.get(about)["excluded_from"] == 5, "the revoked node to hear of it")
    refused = new.ask("POST", "/v1/entries", {"text": "More."})
    assert (refused.status, "revoked by its recovery key" in refused.message) == (403, True)
    assert first.get(f"/v1/entries/{mine}")["text"] == "Still mine."
    assert "By the thief." not in first.texts("by the thief")
    shown = first.ask("GET", f"/v1/entries/{theirs}")
    assert shown.status == 404 or not shown.value["text"]
    assert first.get(f"/v1/agents/{successor}")["excluded_from"] == 5

    wrong = daemons.command(new_home, "chain", "close", "--confirm", agent)
    assert (wrong.code, "not" in wrong.complaint) == (ExitCode.REFUSED, True)
    assert daemons.command(new_home, "chain", "close", "--confirm", successor).code == 0
    again = new.ask("POST", "/v1/chain/close", {"agent": successor})
    assert (again.status, "closed for ever" in again.message) == (507, True)
    assert "closed for ever" in new.get("/v1/status")["read_only"]
    new.kill()

    old_chain, new_chain = (list(records_of(one / "chain.db", CHAIN, "seq")) for one in (old_home, new_home))
    assert old_chain[-1].header.kind == ROTATE
    assert [record.header.kind for record in new_chain[3:]] == [CONTINUE, CREATE, CREATE, CLOSE]
    continued = rotation_in(CONTINUE, decode_payload(new_chain[3].payload or b""))
    assert (continued.cid, peer_id(continued.header.author)) == (old_chain[-1].cid, agent)
    assert json.loads(daemons.command(new_home, "key", "show", "--json").out)["recovery"] is None
