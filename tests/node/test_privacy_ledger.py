"""privacy.json: a member's limit holds across restarts, crashes and commands that run at the same time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("dp_accounting")

from federated.privacy.errors import BudgetSpent, PrivacyError
from node.errors import HomeDamaged
from node.privacy_ledger import PrivacyLedger


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


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 2, "tasks": {}}', '{"format": 1, "tasks": {"task": {"clip": 1}}}']
)
def test_a_damaged_file_stops_the_command_and_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "privacy.json"
    path.write_text(text)
    with pytest.raises(HomeDamaged, match=r"privacy\.json"):
        PrivacyLedger(path, "task").spend()
    assert path.read_text() == text
