"""privacy.json: a member's limit holds across restarts, crashes and commands that run at the same time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click import UsageError

pytest.importorskip("dp_accounting")

from federated.privacy.errors import BudgetSpent, PrivacyError
from node.backup import make_backup, restore_backup
from node.commands.privacy_options import Wish, private
from node.daemon import init_home
from node.errors import HomeDamaged
from node.home import Home
from node.learning_member import Member
from node.privacy_ledger import PrivacyLedger, ledger_of


def test_a_limit_and_what_was_spent_outlive_the_command(tmp_path: Path) -> None:
    path = tmp_path / "privacy.json"
    with pytest.raises(PrivacyError, match="both --dp-clip and --dp-noise"):
        PrivacyLedger(path, "task").agree(1.0, None, None, 3.0)
    assert PrivacyLedger(path, "task").agree(1.0, 8.0, None, 2.0).spent == ()
    spent = 0
    while True:
        try:
            PrivacyLedger(path, "task").spend()  # a new command every time
        except BudgetSpent:
            break
        spent += 1
    before = path.read_bytes()
    assert PrivacyLedger(path, "task").account().spent == ((8.0, spent),)
    assert (spent, path.stat().st_mode & 0o777) == (4, 0o600)
    # The options left out: the limit still holds. Said anew: what was spent stays spent.
    assert PrivacyLedger(path, "task").agree(None, None, None, None).epsilon == 2.0
    assert path.read_bytes() == before
    assert PrivacyLedger(path, "task").agree(1.0, 4.0, None, 9.0).spent == ((8.0, spent),)
    assert PrivacyLedger(path, "task").spend().spent == ((4.0, 1), (8.0, spent))
    assert PrivacyLedger(path, "other").find() is None, "each task has an account of its own"


def test_an_update_is_on_disk_before_it_is_counted_as_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "privacy.json"
    ledger = PrivacyLedger(path, "task")
    ledger.agree(1.0, 8.0, None, None)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Exception, match="No space left"):
            ledger.spend()
    assert path.read_bytes() == before
    assert ledger.spend().spent == ((8.0, 1),)


def test_commands_at_the_same_time_do_not_lose_each_others_updates(tmp_path: Path) -> None:
    path = tmp_path / "privacy.json"
    for task in ("one", "two"):
        PrivacyLedger(path, task).agree(1.0, 8.0, None, None)
    with ThreadPoolExecutor(4) as threads:
        for task in ("one", "two") * 10:
            threads.submit(PrivacyLedger(path, task).spend)
    assert [PrivacyLedger(path, task).account().spent for task in ("one", "two")] == [((8.0, 10),)] * 2


def test_a_backup_remembers_what_was_spent(tmp_path: Path) -> None:
    home = Home(tmp_path / "old")
    init_home(home, name="forest", join=None, join_bits=2, profile_name=None, vectors_dim=4)
    ledger_of(home, "task").agree(1.0, 8.0, None, 2.0)
    spent = ledger_of(home, "task").spend()
    make_backup(home, tmp_path / "backup.tar", "2026-11-27T12:00:00+00:00", blobs=False)
    new = Home(tmp_path / "new")
    restore_backup(tmp_path / "backup.tar", new)
    assert ledger_of(new, "task").account() == spent


def test_noise_is_refused_where_a_server_app_decides_what_leaves_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path)
    node = Member.__new__(Member)  # never asked
    terms = {"mode": "server-app", "rounds": 3, "round": 0}
    with pytest.raises(UsageError, match="peer rounds"):
        private(home, "task", terms, node, Wish(1.0, 8.0, None, None))
    assert private(home, "task", terms, node, Wish(None, None, None, None)) == (node, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 2, "tasks": {}}', '{"format": 1, "tasks": {"task": {"clip": 1}}}']
)
def test_a_damaged_file_stops_the_command_and_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "privacy.json"
    path.write_text(text)
    with pytest.raises(HomeDamaged, match=r"privacy\.json"):
        PrivacyLedger(path, "task").spend()
    assert path.read_text() == text
