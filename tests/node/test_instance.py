"""A home that may not be the only one of its chain adds nothing to it, and says why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from node import instance
from node.errors import HomeDamaged
from node.home import Home
from node.instance import claim, machine, restored_mark, why_frozen
from tests.node.learners import Learner, join_all, learn, publish
from tests.node.simulated_nodes import Network, identity, simulate


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create_folders()
    home.chain_db.write_bytes(b"chain")
    return home


def test_the_home_that_wrote_last_goes_on_also_under_another_name(home: Home, tmp_path: Path) -> None:
    assert why_frozen(home, 5) is None, "an earlier release left no note"
    claim(home, 5)
    assert why_frozen(home, 5) is None
    assert why_frozen(home, 9) is None, "killed, it wrote more than it noted"
    home.root.rename(tmp_path / "moved")
    assert why_frozen(Home(tmp_path / "moved"), 5) is None


def test_a_copied_home_waits(home: Home, tmp_path: Path) -> None:
    claim(home, 5)
    shutil.copytree(home.root, tmp_path / "copy")
    copy = Home(tmp_path / "copy")
    assert "is a copy" in str(why_frozen(copy, 5))
    assert why_frozen(home, 5) is None
    claim(copy, 5)
    assert why_frozen(copy, 5) is None


def test_a_chain_that_was_put_back_waits(home: Home) -> None:
    claim(home, 5)
    assert "had 5 records here and now has 4" in str(why_frozen(home, 4))


def test_a_disk_in_another_machine_waits(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = tmp_path / "machine-id"
    monkeypatch.setattr(instance, "MACHINE_IDS", (tmp_path / "none", ids))
    assert machine() is None
    claim(home, 5)
    ids.write_text("0123456789abcdef0123456789abcdef\n")
    assert why_frozen(home, 5) is None, "nothing can be said without both ids"
    claim(home, 5)
    assert "0123456789abcdef" not in home.instance.read_text(), "the id itself is not given away"
    assert why_frozen(home, 5) is None
    ids.write_text("fedcba9876543210fedcba9876543210\n")
    assert "another machine" in str(why_frozen(home, 5))


def test_a_restored_home_waits(home: Home) -> None:
    home.instance.write_bytes(restored_mark("yesterday"))
    assert "backup of yesterday" in str(why_frozen(home, 5))


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        json.dumps({"format": 2}).encode(),
        json.dumps({"format": 1}).encode(),
        json.dumps({"format": 1, "restored": 7}).encode(),
        json.dumps({"format": 1, "inode": 1, "machine": None, "records": "5"}).encode(),
        json.dumps({"format": 1, "inode": True, "machine": None, "records": 5}).encode(),
    ],
)
def test_a_note_that_cannot_be_read_is_no_licence_to_write(home: Home, note: bytes) -> None:
    home.instance.write_bytes(note)
    with pytest.raises(HomeDamaged, match="--force"):
        why_frozen(home, 5)


@pytest.mark.slow
def test_a_node_that_may_be_a_copy_signs_no_result_of_a_round(tmp_path: Path) -> None:
    """Its original may have signed another one; the others are enough."""

    async def scenario(network: Network) -> None:
        task = await publish(network.nodes[0])
        await join_all(network, task, [0, 1, 2, 3])
        copy = network.nodes[1]
        copy.parts.own.frozen = "this home is a copy"
        length = copy.parts.own.count()
        await learn(network, [Learner(network, number, task) for number in (0, 2, 3)])
        view = await network.nodes[0].learning.task(task)
        assert view.state == "finished"
        for one in view.history:
            assert identity(1).agent not in one.signers
        assert copy.learning.signed == 0
        assert copy.parts.own.count() == length

    simulate(tmp_path, [100] * 4, scenario)
