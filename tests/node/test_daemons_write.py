"""Two people write in one text while apart, and meet: real processes, sockets and editors."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.node.real_daemons import Daemon, Daemons, eventually

pytestmark = pytest.mark.slow

OLD = "Honey bees dance to tell each other where flowers are."
HERE = "Honey bees waggle to tell each other where flowers are."
THERE = "Honey bees dance to tell each other where flowers are, and how far."
BOTH = "Honey bees waggle to tell each other where flowers are, and how far."
LAST = "> " + BOTH


def test_two_people_type_in_one_text_and_both_are_kept(daemons: Daemons, tmp_path: Path) -> None:
    home = daemons.home("ann")
    ann = daemons.run(home)
    other = daemons.home("bob", "--join", ann.address)
    bob = daemons.run(other)
    id_ = ann.add(OLD, tags=["bees"])
    eventually(lambda: bob.texts(OLD) == [OLD] and _at_rest(ann, bob), "the entry at both")

    assert bob.terminate() == 0
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i s/dance/waggle/ "$1"\n')
    editor.chmod(0o755)
    wrote = daemons.command(home, "write", id_, EDITOR=str(editor), VISUAL="")
    assert (wrote.code, wrote.out.startswith(f"{id_} is at version ")) == (0, True), wrote
    assert daemons.command(home, "write", id_, EDITOR="true", VISUAL="").err == "nothing to change\n"
    assert daemons.command(home, "text", id_).out == HERE + "\n"
    assert ann.texts(OLD) == [HERE]
    assert ann.terminate() == 0
    bob = daemons.run(other)
    new = tmp_path / "there.txt"
    new.write_text(THERE)
    assert daemons.command(other, "write", id_, "--file", str(new)).code == 0
    seen = bob.get(f"/v1/entries/{id_}/text")
    assert (seen["text"], seen["apart"]) == (THERE, [])

    ann = daemons.run(home, "--bootstrap", bob.address)
    eventually(lambda: _at_rest(ann, bob), "both to have met")
    views = [eventually(partial(_together, daemon, id_), "one text") for daemon in (ann, bob)]
    assert views[0] == views[1]
    assert (views[0]["text"], len(views[0]["version"]), len(views[0]["authors"])) == (BOTH, 2, 2)
    assert {value["text"] for value in ann.get(f"/v1/entries/{id_}")["values"]} == {HERE, THERE}

    # Who still writes on what bob had is woven in, and that is written down: everybody sees one text.
    late = bob.ask(
        "PATCH",
        f"/v1/entries/{id_}/text",
        {"version": seen["version"], "splices": [{"at": 0, "insert": "> "}]},
    )
    assert (late.status, len(late.value["records"])) == (200, 2)
    for daemon in (ann, bob):
        eventually(partial(_finds, daemon), "the text of both")
        entry = daemon.get(f"/v1/entries/{id_}")
        assert (entry["text"], entry["conflict"], entry["tags"]) == (LAST, False, ["bees"])
        assert daemon.get(f"/v1/entries/{id_}/text")["version"] == late.value["records"][1:]
    verified = daemons.command(other, "chain", "verify")
    assert verified.code == 0, verified


def _at_rest(*daemons: Daemon) -> bool:
    said = [daemon.get("/v1/status") for daemon in daemons]
    return all(one["pending"] == 0 and one["peers"] == len(daemons) - 1 for one in said)


def _together(daemon: Daemon, id_: str) -> Any:
    view = daemon.get(f"/v1/entries/{id_}/text")
    return view if len(view["version"]) == 2 else None


def _finds(daemon: Daemon) -> bool:
    return daemon.texts(OLD) == [LAST]
