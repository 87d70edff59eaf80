"""Backups: whole or not at all, restored only into a new folder, and nothing hostile comes out of one."""

from __future__ import annotations

import io
import json
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.backup import BackupError, make_backup, restore_backup
from node.commands.exit_codes import ExitCode, exit_code_of
from node.daemon import init_home
from node.errors import HomeError
from node.home import Home
from node.instance import why_frozen
from tests.node.real_daemons import Daemons, eventually

MADE = "2026-11-26T12:00:00+00:00"
BEES = "Honey bees dance to tell each other where flowers are."


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("homes") / "original")
    init_home(home, name="forest", join=None, join_bits=2, profile_name=None, vectors_dim=4)
    (home.blobs / "ab").mkdir(parents=True)
    (home.blobs / "ab" / "blob").write_bytes(b"parameters")
    for name in (".draft", "fetching.part", "writing.tmp"):
        (home.blobs / name).write_bytes(b"half")
    return home


@pytest.fixture(scope="module")
def archive(home: Home) -> bytes:
    target = home.root.parent / "backup.tar"
    make_backup(home, target, MADE, blobs=True)
    return target.read_bytes()


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def packed(files: dict[str, bytes], *, sealed: bool = True) -> bytes:
    """A backup of these files, with hashes that fit."""
    listed = {name: [len(data), sha256(data).hexdigest()] for name, data in files.items()}
    with_hashes = {**files, "hashes.json": json.dumps(listed).encode()} if sealed else files
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in with_hashes.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def restored(tmp_path: Path, data: bytes) -> Home:
    source = tmp_path / "hostile.tar"
    source.write_bytes(data)
    home = Home(tmp_path / "new")
    restore_backup(source, home)
    return home


def refused(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(HomeError) as caught:
        restored(tmp_path, data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile.tar"], "nothing is left behind"
    assert "\n" not in str(caught.value)
    assert exit_code_of(caught.value) is ExitCode.DAMAGED
    return str(caught.value)


def test_a_backup_holds_what_cannot_be_made_again_and_nothing_that_can(home: Home, archive: bytes) -> None:
    files = members(archive)
    assert set(files) == {
        "backup.json",
        "instance",
        "key",
        "recovery-key",
        "manifest",
        "config.toml",
        "chain.db",
        "blobs/ab/blob",
        "hashes.json",
    }
    assert files["key"] == home.key.read_bytes()
    assert json.loads(files["instance"])["restored"] == MADE
    target = home.root.parent / "backup.tar"
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in target.parent.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(HomeError, match="not overwritten"):
        make_backup(home, target, MADE, blobs=True)
    assert target.read_bytes() == archive
    owned = ("blocked.json", "peers", "grant", "privacy.json")
    for name in owned:
        (home.root / name).write_bytes(name.encode())
    without = home.root.parent / "without.tar"
    make_backup(home, without, MADE, blobs=False)
    found = members(without.read_bytes())
    assert "blobs/ab/blob" not in found
    assert [found[name].decode() for name in owned] == list(owned)


def test_a_restored_home_is_complete_and_marked(home: Home, archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    new = restored(tmp_path, archive)
    assert new.is_initialised()
    new.require_chain()
    assert new.read_key() == home.read_key()
    assert (new.blobs / "ab" / "blob").read_bytes() == b"parameters"
    assert MADE in str(why_frozen(new, 3))
    assert new.root.stat().st_mode & 0o777 == 0o700
    for path in new.root.rglob("*"):
        assert path.is_dir() or path.stat().st_mode & 0o777 == 0o600, path
    with pytest.raises(HomeError, match="not overwritten"):
        restored(tmp_path, archive)


@given(place=st.integers(0, 1 << 20), flip=st.integers(1, 255))
def test_no_flipped_byte_changes_what_is_restored(
    tmp_path_factory: pytest.TempPathFactory, archive: bytes, place: int, flip: int
) -> None:
    """A flip may strike padding or a field of tar that is not looked at; then every file is the same."""
    tmp_path = tmp_path_factory.mktemp("flip")
    data = bytearray(archive)
    data[place % len(data)] ^= flip
    try:
        new = restored(tmp_path, bytes(data))
    except BackupError:
        assert not (tmp_path / "new").exists()
        return
    files = members(archive)
    for name in files.keys() - {"backup.json", "hashes.json"}:
        assert (new.root / name).read_bytes() == files[name]


@pytest.mark.parametrize("part", [0, 1, 511, 512, 700, 0.3, 0.7, 0.97])
def test_a_backup_that_ends_early_is_refused(tmp_path: Path, archive: bytes, part: float) -> None:
    last = archive.index(b"hashes.json")
    cut = int(part * last) if isinstance(part, float) else part
    assert "hostile.tar" in refused(tmp_path, archive[:cut])


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/etc/outside",
        "atlas/../../outside",
        "atlas/..",
        "blobs/.",
        "blobs/a/b/c/d",
        "api-token",
        "lock",
        "index/0.faiss",
        "atlas/" + "x" * 90,
        "key/key",
        "KEY",
        "chain.db-wal",
    ],
)
def test_a_backup_with_any_other_name_in_it_is_refused(tmp_path: Path, archive: bytes, name: str) -> None:
    files = members(archive)
    del files["hashes.json"]
    refused(tmp_path, packed({**files, name: b"x"}))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_only_plain_files_come_out_of_a_backup(tmp_path: Path, archive: bytes, kind: bytes) -> None:
    link = tarfile.TarInfo("peers")
    link.type, link.linkname = kind, "/etc/passwd"
    first = 512 + 512  # backup.json and its padding
    data = archive[:first] + link.tobuf(tarfile.GNU_FORMAT) + archive[first:]
    assert "no plain file" in refused(tmp_path, data)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE])
def test_headers_that_ask_for_memory_are_not_followed(tmp_path: Path, archive: bytes, kind: bytes) -> None:
    header = tarfile.TarInfo("huge")
    header.type, header.size = kind, 1 << 40
    assert "no plain file" in refused(tmp_path, archive[:1024] + header.tobuf(tarfile.GNU_FORMAT))


@pytest.mark.parametrize("name", ["peers", "hashes.json"])
def test_a_size_beyond_the_archive_is_refused(tmp_path: Path, archive: bytes, name: str) -> None:
    header = tarfile.TarInfo(name)
    header.size = 1 << 50
    assert "ends in the middle" in refused(tmp_path, archive[:1024] + header.tobuf(tarfile.GNU_FORMAT))


@pytest.mark.parametrize("missing", ["instance", "key", "manifest", "chain.db", "backup.json"])
def test_a_backup_without_what_a_home_needs_is_refused(tmp_path: Path, archive: bytes, missing: str) -> None:
    files = members(archive)
    del files["hashes.json"], files[missing]
    refused(tmp_path, packed(files))


def test_what_is_described_and_listed_has_to_be_what_is_there(tmp_path: Path, archive: bytes) -> None:
    files = members(archive)
    del files["hashes.json"]
    described = json.loads(files["backup.json"])
    for change, words in (
        ({"format": 2}, "newer one"),
        ({"agent": "12D3KooW"}, "another key or manifest"),
        ({"network": 7}, "makes no sense"),
    ):
        body = json.dumps({**described, **change}).encode()
        assert words in refused(tmp_path, packed({**files, "backup.json": body}))
    assert "makes no sense" in refused(tmp_path, packed({**files, "backup.json": b"[" * 4000}))
    assert "cannot be used" in refused(tmp_path, packed({**files, "key": b"no key"}))
    assert "not the ones" in refused(tmp_path, packed({**files, "hashes.json": b"{}"}, sealed=False))
    assert "no whole backup" in refused(tmp_path, packed(files, sealed=False))


@pytest.mark.slow
def test_a_backup_of_a_running_node_restores_to_one_that_waits_for_its_owners_word(
    daemons: Daemons, tmp_path: Path
) -> None:
    first = daemons.home("first")
    daemon = daemons.run(first)
    bees = daemon.add(BEES, tags=["bees"])
    file = tmp_path / "backup.tar"
    made = daemons.command(first, "backup", str(file), "--json")
    assert (made.code, made.value["protected"]) == (0, False)
    assert "unencrypted" in daemons.command(first, "backup", str(tmp_path / "again.tar")).err
    again = daemons.command(first, "backup", str(file))
    assert (again.code, "not overwritten" in again.complaint) == (ExitCode.DAMAGED, True)
    daemon.add("Written after the backup.")
    assert daemon.terminate() == 0

    second = daemons.folder / "second"
    assert daemons.command(second, "restore", str(file), "--json").code == 0
    frozen = daemons.run(second)
    assert frozen.texts("bees")[0] == BEES, "what is derived is made again"
    reason = frozen.get("/v1/status")["read_only"]
    assert "restored from a backup" in reason
    assert "--force" in reason
    reply = frozen.ask("POST", "/v1/entries", {"text": "not now"})
    assert (reply.status, "--force" in reply.message) == (507, True)
    refusal = daemons.command(second, "add", "not now")
    assert (refusal.code, "--force" in refusal.complaint) == (ExitCode.READ_ONLY, True)
    assert daemons.command(second, "chain", "verify").code == 0
    assert "READ-ONLY" in daemons.command(second, "status").out
    assert frozen.terminate() == 0
    assert daemons.run(second).get("/v1/status")["read_only"], "a restart alone is no word"

    third = daemons.folder / "third"
    assert daemons.command(third, "restore", str(file)).code == 0
    forced = daemons.run(third, "--force")
    assert forced.get("/v1/status")["read_only"] is None
    new = forced.add("It goes on here.")
    assert forced.get(f"/v1/entries/{new}")["text"] == "It goes on here."
    assert forced.get(f"/v1/entries/{bees}")["tags"] == ["bees"]
    assert forced.terminate() == 0
    assert daemons.run(third).get("/v1/status")["read_only"] is None, "said once, it is remembered"


@pytest.mark.slow
def test_a_backup_made_while_entries_come_in_holds_a_chain_that_verifies(
    daemons: Daemons, tmp_path: Path
) -> None:
    first = daemons.home("first")
    daemon = daemons.run(first)
    lines = "".join(json.dumps({"text": f"fact {n} about number {n}"}) + "\n" for n in range(2000))
    (tmp_path / "facts.jsonl").write_text(lines)
    importing = daemons.begin(first, str(tmp_path / "facts.jsonl"), command="import")
    eventually(lambda: daemon.get("/v1/status")["records"] > 10, "the import to begin")
    file = tmp_path / "backup.tar"
    assert daemons.command(first, "backup", str(file)).code == 0
    assert importing.process.wait(60) == 0
    second = daemons.folder / "second"
    assert daemons.command(second, "restore", str(file)).code == 0
    verdict = daemons.run(second).ask("POST", "/v1/chain/verify").value
    assert verdict["ok"] is True
    assert 3 < verdict["length"] <= 2003
