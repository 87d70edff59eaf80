"""A home folder that the previous release wrote is opened, read and written by this one.

The fixture is a founder's home of commit a6dd7d6 (`make_old_home.py` makes it again): three entries of its
own with tags, one held for another author, and a network of rule version 1.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from node.commands.exit_codes import ExitCode
from node.daemon import load_founding
from node.home import open_home
from node.storage import derived_state, held_records, own_chain
from tests.node.make_old_home import FOUNDERS, JOINERS, unpack_old_home
from tests.node.real_daemons import Daemons

pytestmark = pytest.mark.slow

FIXTURE = Path(__file__).with_name("data") / "home-a6dd7d6.tar.gz"
LAYOUTS = {
    "chain.db": own_chain.LAYOUT,
    "held.db": held_records.LAYOUT,
    "derived.db": derived_state.LAYOUT,
}


@pytest.fixture
def old_home(tmp_path: Path) -> Path:
    home = tmp_path / "old"
    unpack_old_home(FIXTURE, home)
    return home


def schema(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def test_an_old_home_is_read_and_written_by_this_release(daemons: Daemons, old_home: Path) -> None:
    daemon = daemons.run(old_home)
    status = daemon.get("/v1/status")
    assert (status["network_name"], status["records"], status["read_only"]) == ("old forest", 6, None)
    assert daemon.ask("POST", "/v1/chain/verify").value["ok"] is True

    for text, tag in FOUNDERS + JOINERS:
        hits = daemon.ask("POST", "/v1/query", {"text": text, "k": 5, "tags": [tag]}).value["hits"]
        assert hits[0]["text"] == text, "also what it holds for the other author"
        assert hits[0]["tags"] == [tag]
    tagged = daemon.ask("POST", "/v1/query", {"text": "bees", "tags": ["bees"]}).value["hits"]
    assert {hit["text"] for hit in tagged} == {FOUNDERS[0][0], JOINERS[0][0]}

    new = daemon.add("Wasps chew wood to paper.", tags=["wasps"])
    assert daemon.get(f"/v1/entries/{new}")["text"] == "Wasps chew wood to paper."
    verdict = daemon.ask("POST", "/v1/chain/verify").value
    assert (verdict["ok"], verdict["length"]) == (True, 7)
    assert daemon.terminate() == 0
    for name, layout in LAYOUTS.items():
        assert schema(old_home / name) == layout.version

    again = daemons.run(old_home)
    assert again.texts("insects that make paper out of wood")[0] == "Wasps chew wood to paper."


def test_the_index_of_an_old_home_is_rebuilt_from_its_records(daemons: Daemons, old_home: Path) -> None:
    done = daemons.command(old_home, "index", "rebuild", "--json")
    assert (done.code, done.value["vectors"]) == (0, len(FOUNDERS + JOINERS))


def test_an_old_network_keeps_its_rules_and_says_what_they_do_not_know(
    daemons: Daemons, old_home: Path
) -> None:
    """Edits and tags are of rule version 1; votes and learning came with version 2."""
    assert load_founding(open_home(old_home)).manifest.rules == 1
    daemon = daemons.run(old_home)
    entry = daemon.ask("POST", "/v1/query", {"text": FOUNDERS[0][0]}).value["hits"][0]["id"]
    for change in (("edit", entry, "Honey bees dance."), ("tag", entry, "dance")):
        done = daemons.command(old_home, *change)
        assert done.code == 0, done
    assert daemon.get(f"/v1/entries/{entry}")["tags"] == ["bees", "dance"]
    done = daemons.command(old_home, "vote", entry, "up")
    assert done.code == ExitCode.REFUSED
    assert "rules (version 1) do not know entry.vote" in done.complaint
    model = BytesIO()
    np.save(model, np.zeros(3, np.float32))
    blob = daemon.ask("POST", "/v1/blobs", model.getvalue()).value["cid"]
    arrays = [{"name": "w", "dtype": "<f4", "shape": [3]}]
    task = {"name": "a line", "arrays": arrays, "parameters": blob, "rounds": 1}
    refused = daemon.ask("POST", "/v1/learning/tasks", task)
    assert refused.status in (409, 422)
    assert "rules (version 1) know no learning tasks" in refused.message
    assert daemon.ask("POST", "/v1/chain/verify").value["length"] == 8


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_database_of_a_release_after_this_one_is_refused_in_one_line(
    daemons: Daemons, old_home: Path, name: str
) -> None:
    newer = LAYOUTS[name].version + 1
    with closing(sqlite3.connect(old_home / name)) as connection:
        connection.execute(f"PRAGMA user_version = {newer}")
    before = (old_home / name).read_bytes()
    done = daemons.command(old_home, "run")
    assert done.code == ExitCode.DAMAGED
    line = done.err.splitlines()[-1]
    assert f"{name} has schema version {newer}" in line
    assert "install a newer roseforest" in line
    assert (old_home / name).read_bytes() == before
