"""Purging over real processes and sockets: the words are in nobody's files any more, also who was away."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from node.commands.exit_codes import ExitCode
from tests.node.real_daemons import Daemon, Daemons, eventually

pytestmark = pytest.mark.slow

PHRASE = "The badger's sett under the old oak has three doors."
TAG = "badger-sett-tag"
OTHER = "Foxes den in banks of sand."
QUESTION = "where do badgers live"


def words_in(home: Path) -> list[str]:
    """Files of a home folder, logs included, that hold the phrase or its tag."""
    files = [one for one in sorted(home.rglob("*")) if one.is_file()]
    return [one.name for one in files if any(word.encode() in one.read_bytes() for word in (PHRASE, TAG))]


def at_rest(*daemons: Daemon) -> bool:
    said = [daemon.get("/v1/status") for daemon in daemons]
    return all(one["pending"] == 0 and one["peers"] == len(daemons) - 1 for one in said)


def shows_only_the_other(daemon: Daemon) -> bool:
    return daemon.texts(QUESTION) == [OTHER]


def test_a_purge_reaches_the_files_of_all_and_of_a_holder_that_was_away(daemons: Daemons) -> None:
    homes = [daemons.home("ann")]
    nodes = [daemons.run(homes[0])]
    for name in ("bob", "cem"):
        homes.append(daemons.home(name, "--join", nodes[0].address))
        nodes.append(daemons.run(homes[-1]))
    ann, bob, cem = nodes
    id_ = ann.add(PHRASE, tags=[TAG])
    cem.add(OTHER)
    assert cem.ask("POST", f"/v1/entries/{id_}/tags", {"add": ["dug"]}).status == 200
    eventually(lambda: at_rest(*nodes) and all(len(one.texts(QUESTION)) == 2 for one in nodes), "both at all")
    assert all(words_in(home) for home in homes)
    assert bob.terminate() == 0

    assert daemons.command(homes[0], "purge", id_).code != 0, "without a yes nothing is erased"
    refused = daemons.command(homes[2], "purge", id_, "--yes")
    assert refused.code == 0, "cem takes back its own tag"
    assert PHRASE in cem.texts(QUESTION)
    done = daemons.command(homes[0], "purge", id_, "--yes", "--json")
    assert (done.code, len(done.value["records"])) == (0, 1)
    gone = daemons.command(homes[0], "get", id_)
    assert (gone.code, "erased by its author at 20" in gone.complaint) == (ExitCode.NOT_FOUND, True)
    eventually(lambda: not words_in(homes[0]) and not words_in(homes[2]), "the files of ann and cem")
    assert words_in(homes[1]), "bob has not heard of it"

    bob = daemons.run(homes[1], "--bootstrap", ann.address)
    eventually(lambda: not words_in(homes[1]), "the files of bob")
    for node in (ann, bob, cem):
        eventually(partial(shows_only_the_other, node), "no answer to show it")
        assert node.ask("GET", f"/v1/entries/{id_}").status == 410
        assert node.ask("POST", "/v1/chain/verify").value["ok"] is True
    said = ann.get(f"/v1/entries/{id_}?provenance=true")
    assert (said["text"], [one["record"] for one in said["erased"]]) == (None, [id_])
    for node, home in zip((ann, bob, cem), homes, strict=True):
        assert node.terminate() == 0
        assert not words_in(home)
