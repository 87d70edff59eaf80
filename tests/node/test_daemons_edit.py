"""Two daemons edit one entry while the other is down, and meet again: over real processes and sockets."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from node.commands.exit_codes import ExitCode
from tests.node.real_daemons import Daemon, Daemons, eventually

pytestmark = pytest.mark.slow

BEES = "Honey bees dance to tell each other where flowers are."
HERE = "Honey bees waggle to tell each other where nectar is."
THERE = "Worker bees show the way to flowers by a figure of eight."
BOTH = "Worker bees show the way to nectar by a waggle dance."
QUESTION = "how do bees tell where flowers are"


def edit(daemon: Daemon, id_: str, text: str) -> None:
    reply = daemon.ask("PATCH", f"/v1/entries/{id_}", {"text": text})
    assert reply.status == 200, reply


def at_rest(*daemons: Daemon) -> bool:
    said = [daemon.get("/v1/status") for daemon in daemons]
    return all(one["pending"] == 0 and one["peers"] == len(daemons) - 1 for one in said)


def shown(daemon: Daemon, id_: str) -> Any:
    """The entry with its records; without who has validated them, which only their author knows."""
    answer = daemon.get(f"/v1/entries/{id_}?provenance=true")
    for record in answer["records"]:
        del record["validated_by"], record["headers_at"]
    return answer


def test_two_daemons_edit_while_apart_and_agree_after(daemons: Daemons, tmp_path: Path) -> None:
    home = daemons.home("ann")
    ann = daemons.run(home)
    other = daemons.home("bob", "--join", ann.address)
    bob = daemons.run(other)
    id_ = ann.add(BEES, tags=["bees"])
    eventually(lambda: bob.texts(QUESTION) == [BEES] and at_rest(ann, bob), "the entry at both")
    seen = shown(bob, id_)["version_id"]

    assert bob.terminate() == 0
    edit(ann, id_, HERE)
    titled = daemons.command(home, "edit", id_, "--title", "Waggling", "--type", "fact")
    assert titled.code == 0
    assert ann.texts(QUESTION) == [HERE]
    assert ann.terminate() == 0
    bob = daemons.run(other)
    edit(bob, id_, THERE)
    tagged = bob.ask("POST", f"/v1/entries/{id_}/tags", {"add": ["dance"]})
    assert tagged.status == 200
    source = {"source": "von Frisch, 1967", "link": "https://example.org/dance"}
    for path, body in (("", {"title": "Figures of eight"}), ("/references", {"add": [source]})):
        reply = bob.ask("PATCH" if not path else "POST", f"/v1/entries/{id_}{path}", body)
        assert reply.status == 200, reply
    assert bob.get("/v1/status")["pending"] > 0

    ann = daemons.run(home, "--bootstrap", bob.address)
    eventually(lambda: at_rest(ann, bob), "both to have met")
    views = [eventually(partial(_conflict, daemon, id_), "the conflict") for daemon in (ann, bob)]
    assert views[0] == views[1]
    assert {value["text"] for value in views[0]["values"]} == {HERE, THERE}
    assert views[0]["tags"] == ["bees", "dance"]
    assert views[0]["type"] == "fact"
    assert [one["source"] for one in views[0]["references"]] == ["von Frisch, 1967"]
    titles = views[0]["field_values"]["title"]
    assert {one["value"] for one in titles} == {"Waggling", "Figures of eight"}
    assert views[0]["title"] == titles[0]["value"]
    for daemon in (ann, bob):
        (text,) = eventually(partial(_without_old, daemon), "the old posting to be gone")
        assert text in (HERE, THERE)

    late = daemons.command(home, "edit", id_, BOTH, "--if-version", seen)
    assert late.code == ExitCode.CONFLICT
    assert f"changed since {seen}" in late.complaint
    now = views[0]["version_id"]
    told = [daemons.command(one, "conflicts", "--json").value for one in (home, other)]
    assert told[0] == told[1]
    (entry,) = told[0]["entries"]
    assert {one["about"] for one in entry["conflicts"]} == {"text", "title"}
    (texts,) = [one for one in entry["conflicts"] if one["about"] == "text"]
    assert {side["value"] for side in texts["sides"]} == {HERE, THERE}
    assert texts["common"] == [id_]
    merged = tmp_path / "both.txt"
    merged.write_text(BOTH)
    settle = ("resolve", id_, "--merge", str(merged), "--reason", "both saw it", "--if-version", now)
    assert daemons.command(home, *settle).code == 0
    assert daemons.command(home, "edit", id_, "--title", "Waggling").code == 0
    assert daemons.command(home, "vote", id_, "up", "--reason", "as seen in the garden").code == 0
    for daemon in (ann, bob):
        eventually(partial(_finds, daemon, [BOTH]), "the new text")
        said = eventually(partial(_settled, daemon, id_), "the end of the conflict")
        assert said["title"] == "Waggling"
        assert said["values"][0]["resolution"] == {
            "decision": "merge",
            "chosen": None,
            "reason": "both saw it",
            "on_behalf_of": None,
        }
    assert daemons.command(other, "conflicts").err == "no conflicts\n"
    fresh = daemons.command(other, "query", QUESTION, "--fresh", "--json").value
    assert [hit["text"] for hit in fresh["hits"]] == [BOTH]
    assert fresh["hits"][0]["tags"] == ["bees", "dance"]
    assert fresh["cost"]["heads_checked"] == 1
    eventually(lambda: shown(bob, id_)["votes"]["up"] == 1, "the vote")

    refused = daemons.command(other, "retract", id_)
    assert (refused.code, "only its creator" in refused.complaint) == (ExitCode.REFUSED, True)
    assert daemons.command(home, "retract", id_).code == 0
    for daemon in (ann, bob):
        eventually(partial(_finds, daemon, []), "nothing to be found")
        before = daemon.get("/v1/status")["counters"]["postings"]
        rebuilt = daemon.ask("POST", "/v1/index/rebuild")
        assert (rebuilt.status, rebuilt.value["vectors"]) == (200, before)
    eventually(lambda: at_rest(ann, bob), "nothing to be pending")


def _finds(daemon: Daemon, texts: list[str]) -> bool:
    return daemon.texts(QUESTION) == texts


def _conflict(daemon: Daemon, id_: str) -> Any:
    view = shown(daemon, id_)
    return view if view["conflict"] and len(view["records"]) == 7 else None


def _settled(daemon: Daemon, id_: str) -> Any:
    view = shown(daemon, id_)
    return None if view["conflict"] else view


def _without_old(daemon: Daemon) -> list[str]:
    found = daemon.texts(QUESTION)
    return [] if BEES in found else found
