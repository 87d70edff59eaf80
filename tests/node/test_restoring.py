"""A lost home comes back from its key and the network: with real daemons, and on hostile key backups."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from chain.identity import Identity
from node.commands.exit_codes import ExitCode
from node.daemon import init_home
from node.home import Home
from node.key_backup import KeyBackup, key_backup_text, parse_key_backup
from node.key_file import KeyFileError, PlainKey, plain_line
from node.restoring import export_key
from node.storage.inspection import CHAIN, HELD, records_of
from tests.node.real_daemons import Daemons, eventually

WAIT = "20"
KEPT = "The honey money lies under the seventh hive."
ALONE = "Nobody but me knows of the eighth hive."


def clear_in(folder: Path) -> list[Path]:
    """The files in which a private text can be read; what the daemons print counts, too."""
    files = [one for one in folder.rglob("*") if one.is_file()]
    words = (b"honey money", b"eighth hive")
    return [one for one in files if any(word in one.read_bytes() for word in words)]


def test_a_key_backup_is_read_as_it_was_written_and_nothing_else(tmp_path: Path) -> None:
    homes = [Home(tmp_path / name) for name in ("one", "two")]
    for home in homes:
        init_home(home, name="forest", join=None, join_bits=2, profile_name=None, vectors_dim=4)
    keys = [home.key_file(home.key) for home in homes]
    text = export_key(homes[0], keys[0])
    backup = parse_key_backup(text)
    assert backup.key == keys[0]
    assert [record.header.seq for record in backup.opening] == [0, 1]
    assert parse_key_backup(key_backup_text(backup)) == backup
    assert isinstance(keys[1], PlainKey)
    assert parse_key_backup(homes[1].key.read_text()) == KeyBackup(keys[1]), "a bare key file is one, too"
    assert isinstance(keys[0], PlainKey)
    genesis, membrane = next(line for line in text.splitlines() if line.startswith("opening")).split()[1:]
    for broken, words in (
        (text.replace(plain_line(keys[0].seed), plain_line(keys[1].seed)), "another agent's"),
        (text.replace(f"{genesis} {membrane}", f"{membrane} {genesis}"), "not the two records"),
        (text.replace(f" {membrane}", ""), "not the two records"),
        (text.replace(membrane, membrane[:-8]), "cannot be read"),
        (text.replace("network bafk", "network bafx"), "network id"),
        (text + "peer /ip4/127.0.0.1/tcp/1\n" * 17, "17 peers"),
        ("opening\n", "not the two records"),
        ("", "0 lines"),
    ):
        with pytest.raises(KeyFileError, match=words):
            parse_key_backup(broken)


@pytest.mark.slow
def test_a_lost_home_comes_back_and_goes_on_without_a_fork(daemons: Daemons, tmp_path: Path) -> None:
    first = daemons.run(daemons.home("first"))
    others = [daemons.run(daemons.home(name, "--join", first.address)) for name in ("second",)]
    lost = daemons.home("lost", "--join", first.address)
    daemon = daemons.run(lost)
    texts = [f"Bees of hive {number} like the flowers of hill {number}." for number in range(6)]
    ids = [daemon.add(text) for text in texts]
    assert daemon.ask("PATCH", f"/v1/entries/{ids[0]}", {"text": "Hive 0 has moved."}).status == 200
    sealed = daemons.command(lost, "add", "--private", "--backup", KEPT, "--json").value["id"]
    alone = daemons.command(lost, "add", "--private", ALONE, "--json").value["id"]
    eventually(lambda: daemon.get("/v1/status")["pending"] == 0, "all to be placed")
    assert KEPT in daemons.command(lost, "get", sealed).out
    assert {one["id"] for one in daemon.get("/v1/private")["entries"]} == {sealed, alone}
    for other in (first, *others):
        assert other.ask("GET", f"/v1/entries/{sealed}").status == 404
        assert daemons.command(other.home, "get", alone).code == ExitCode.NOT_FOUND
        assert KEPT not in other.texts(KEPT)
    assert not clear_in(daemons.folder), "no file of any home holds a word of it"
    key = tmp_path / "key-backup"
    exported = daemons.command(lost, "key", "export", str(key), "--unprotected", "--json")
    assert exported.value["protected"] is False

    # While the original runs, nothing that was restored writes.
    twin = daemons.folder / "twin"
    waits = daemons.command(twin, "restore", "--key", str(key), "--wait", "3", "--json")
    assert waits.code == ExitCode.READ_ONLY, waits
    assert "stop one of them" in waits.value["read_only"]
    assert daemon.get("/v1/status")["read_only"] is None, "and the original goes on"
    last = daemon.add("Written after the twin was made.")
    eventually(lambda: daemon.get("/v1/status")["pending"] == 0, "all to be placed")

    assert daemon.terminate() == 0
    bare = tmp_path / "bare-key"
    shutil.copy(lost / "key", bare)
    shutil.rmtree(lost)
    new = daemons.folder / "new"
    # In an open network a copy of the key file is enough, and the address of somebody.
    found = ("restore", "--key", str(bare), "--join", first.address, "--wait", WAIT, "--json")
    back = daemons.command(new, *found)
    assert back.code == ExitCode.PARTLY_DONE, back  # a private entry without a backup is gone
    assert (back.value["records"], len(back.value["missing"])) == (3 + 10, 1)
    assert back.value["read_only"] is None

    daemon = daemons.run(new)
    assert daemon.get("/v1/status")["read_only"] is None
    assert daemon.get(f"/v1/entries/{ids[0]}")["text"] == "Hive 0 has moved."
    assert daemon.texts("hive 3 and hill 3")[0] == texts[3]
    assert daemon.get(f"/v1/entries/{last}")["text"].startswith("Written after")
    assert daemon.get(f"/v1/entries/{sealed}")["text"] == KEPT
    assert [one["id"] for one in daemon.get("/v1/private")["entries"]] == [sealed], (
        "without a backup it is lost"
    )
    assert KEPT in daemon.texts(KEPT)
    assert not clear_in(daemons.folder)
    daemon.add("It goes on here.")
    eventually(lambda: daemon.get("/v1/status")["pending"] == 0, "all to be placed")
    verdict = daemon.ask("POST", "/v1/chain/verify").value
    assert (verdict["ok"], verdict["length"]) == (True, 14)
    agent = Identity.from_seed(Home(new).read_key()).agent
    assert daemon.terminate() == 0
    for other in (first, *others):
        assert other.terminate() == 0
        seqs = [
            one.header.seq
            for one in records_of(other.home / "held.db", HELD, "id")
            if one.header.author == agent
        ]
        assert len(seqs) == len(set(seqs)), "nobody holds two branches"
    assert [one.header.seq for one in records_of(new / "chain.db", CHAIN, "seq")] == list(range(14))
