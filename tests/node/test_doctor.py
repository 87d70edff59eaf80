"""The doctor finds every fault that is put into a home, one line each, and changes nothing."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from node.commands.exit_codes import ExitCode
from node.daemon import init_home
from node.doctor import Finding, Severity, examine
from node.home import Home
from tests.node.real_daemons import Daemons, eventually

OTHER_SEED = b"S" * 32


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("homes") / "original")
    init_home(home, name="forest", join=None, join_bits=2, profile_name=None, vectors_dim=4)
    return home


@pytest.fixture
def home(original: Home, tmp_path: Path) -> Home:
    shutil.copytree(original.root, tmp_path / "home")
    return Home(tmp_path / "home")


def bad(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity is not Severity.OK]


def readable_key(home: Home) -> None:
    home.key.chmod(0o644)


def damaged_key(home: Home) -> None:
    home.key.write_text("nonsense")


def another_key(home: Home) -> None:
    home.key.unlink()
    home.write_key(OTHER_SEED)


def damaged_manifest(home: Home) -> None:
    home.manifest.write_bytes(home.manifest.read_bytes()[:-1])


def edit_chain(sql: str) -> Callable[[Home], None]:
    def edit(home: Home) -> None:
        connection = sqlite3.connect(home.chain_db)
        connection.execute(sql)
        connection.commit()
        connection.close()

    return edit


def torn_page(home: Home) -> None:
    data = bytearray(home.chain_db.read_bytes())
    data[4096:8192] = bytes(4096)
    home.chain_db.write_bytes(data)


def not_a_database(home: Home) -> None:
    home.held_db.write_bytes(b"not a database" * 1000)


def unknown_setting(home: Home) -> None:
    home.config.write_text("colour = 'red'\n")


def silent_bootstrap(home: Home) -> None:
    peer = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
    home.config.write_text(f"bootstrap = ['/ip4/127.0.0.1/tcp/1/p2p/{peer}']\n")


def test_a_sound_home_has_no_finding(home: Home) -> None:
    assert bad(examine(home, deep=True)) == []


@pytest.mark.parametrize(
    ("break_it", "check", "text"),
    [
        (readable_key, "key", "read by others"),
        (damaged_key, "key", "damaged"),
        (another_key, "chain", "not this key's"),
        (damaged_manifest, "manifest", ""),
        (edit_chain("DELETE FROM records WHERE seq = 1"), "chain", "broken"),
        (edit_chain("UPDATE records SET signature = zeroblob(64) WHERE seq = 2"), "chain", "broken"),
        (edit_chain("PRAGMA user_version = 999"), "databases", "schema 999"),
        (torn_page, "databases", "chain.db"),
        (not_a_database, "databases", "held.db"),
        (unknown_setting, "settings", "colour"),
        (silent_bootstrap, "bootstrap", "does not answer"),
    ],
)
def test_each_fault_is_found_and_nothing_is_changed(
    home: Home, break_it: Callable[[Home], None], check: str, text: str
) -> None:
    break_it(home)
    before = {path: sha256(path.read_bytes()).digest() for path in home.root.rglob("*") if path.is_file()}
    found = [one for one in bad(examine(home, deep=False)) if one.check == check]
    assert found
    assert text in found[0].text
    assert all("\n" not in one.text for one in found)
    after = {path: sha256(path.read_bytes()).digest() for path in home.root.rglob("*") if path.is_file()}
    assert {p: d for p, d in after.items() if p.suffix not in (".db-shm", ".db-wal")} == before


@pytest.mark.slow
def test_beside_a_running_daemon(daemons: Daemons) -> None:
    first = daemons.run(daemons.home("first"))
    second = daemons.run(daemons.home("second", "--join", first.address))
    eventually(lambda: second.get("/v1/status")["reachable"], "the second to have a peer")
    answer = daemons.command(second.home, "doctor", "--deep", "--json")
    found = {finding["check"]: finding for finding in answer.value["findings"]}
    assert found["daemon"]["severity"] == "ok"
    assert found["peers"]["severity"] == "ok"
    assert "of 1 peers" in found["clock"]["text"]
    assert answer.code == ExitCode.OK
