"""The home folder: whole files or none, secrets never replaced, damage that is named and left alone."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import HomeDamaged, HomeError, HomeInUse, HomeMissing
from node.home import DaemonInfo, Home, open_home

SEED = bytes(range(32))
TOKEN = "token-" + "x" * 40


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create_folders()
    return home


def test_keys_come_back_as_written_and_only_their_owner_can_read_them(home: Home) -> None:
    home.write_key(SEED)
    home.write_recovery_key(SEED[::-1])
    assert home.read_key() == SEED
    assert home.read_recovery_key() == SEED[::-1]
    for path in (home.key, home.recovery_key):
        assert path.stat().st_mode & 0o777 == 0o600
        assert "NOT encrypted" in path.read_text()
    assert home.root.stat().st_mode & 0o777 == 0o700


def test_a_key_is_never_overwritten(home: Home) -> None:
    home.write_key(SEED)
    before = home.key.read_bytes()
    with pytest.raises(HomeError, match="not overwritten"):
        home.write_key(bytes(32))
    assert home.key.read_bytes() == before
    assert sorted(path.name for path in home.root.iterdir()) == ["atlas", "key"]


@given(place=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_no_flipped_byte_of_a_key_file_makes_another_key(
    tmp_path_factory: pytest.TempPathFactory, place: int, flip: int
) -> None:
    """A comment may change; a seed that differs from the one written is never returned."""
    home = Home(tmp_path_factory.mktemp("home"))
    home.write_key(SEED)
    data = bytearray(home.key.read_bytes())
    data[place % len(data)] ^= flip
    home.key.write_bytes(data)
    with contextlib.suppress(HomeDamaged):
        assert home.read_key() == SEED
    assert home.key.read_bytes() == data


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\x00", b"x" * 100_000, SEED, SEED.hex().encode()])
def test_a_damaged_key_is_named_with_a_way_out_and_left_as_it_is(home: Home, content: bytes) -> None:
    home.key.write_bytes(content)
    home.key.chmod(0o600)
    with pytest.raises(HomeDamaged, match="backup") as caught:
        home.read_key()
    assert str(home.key) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert home.key.read_bytes() == content


def test_a_missing_key_says_so(home: Home) -> None:
    with pytest.raises(HomeMissing, match="backup"):
        home.read_key()


def test_a_key_that_others_can_read_is_refused_with_the_command_that_mends_it(home: Home) -> None:
    home.write_key(SEED)
    home.key.chmod(0o644)
    with pytest.raises(HomeDamaged, match=f"chmod 600 {home.key}"):
        home.read_key()


def test_the_first_token_stays(home: Home) -> None:
    assert home.ensure_token(TOKEN) == TOKEN
    assert home.ensure_token("other-" + "y" * 40) == TOKEN
    assert home.token.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"short", b"two words " * 8, b"\x00" * 43])
def test_a_damaged_token_is_named_and_not_replaced(home: Home, content: bytes) -> None:
    home.token.write_bytes(content)
    home.token.chmod(0o600)
    for attempt in (home.read_token, lambda: home.ensure_token(TOKEN)):
        with pytest.raises(HomeDamaged, match="delete it"):
            attempt()
    assert home.token.read_bytes() == content


def test_the_manifest_of_another_network_is_refused(home: Home) -> None:
    home.write_manifest(b"constitution")
    home.write_manifest(b"constitution")
    with pytest.raises(HomeError, match="another network"):
        home.write_manifest(b"revolution")
    assert home.read_manifest() == b"constitution"


def test_a_home_is_complete_with_key_and_manifest(home: Home, tmp_path: Path) -> None:
    with pytest.raises(HomeMissing, match="roseforest init"):
        Home(tmp_path / "nowhere").require_initialised()
    home.write_key(SEED)
    assert not home.is_initialised()
    with pytest.raises(HomeMissing, match="manifest"):
        home.require_initialised()
    home.write_manifest(b"constitution")
    assert home.is_initialised()
    home.require_initialised()


def test_atlases_are_kept_by_name(home: Home) -> None:
    assert home.read_atlas("bafy") is None
    home.write_atlas("bafy", b"cells")
    assert home.read_atlas("bafy") == b"cells"


def test_a_home_is_used_by_one_process_at_a_time(home: Home) -> None:
    with home.locked():
        assert home.locked_by() == str(os.getpid())
        with pytest.raises(HomeInUse, match=f"process {os.getpid()}"), home.locked():
            raise AssertionError("two holders")
    assert home.locked_by() is None
    with home.locked():
        pass


def test_the_lock_of_a_killed_process_is_free_and_its_daemon_file_does_not_count(home: Home) -> None:
    """Its port may belong to somebody else by now: the token must not go there."""
    program = (
        "import sys; from pathlib import Path; from node.home import *; h = Home(Path(sys.argv[1]))\n"
        "with h.locked():\n"
        "    h.write_daemon(DaemonInfo(1, 'http://127.0.0.1:1', ())); print(flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(home.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert home.locked_by() == str(child.pid)
        assert home.read_daemon() == DaemonInfo(1, "http://127.0.0.1:1", ())
        child.kill()
    assert home.daemon.exists()
    assert home.read_daemon() is None


def test_the_daemon_file_tells_where_the_daemon_is_while_it_runs(home: Home) -> None:
    info = DaemonInfo(os.getpid(), "http://127.0.0.1:4711", ("/ip4/127.0.0.1/tcp/1",))
    with home.locked():
        assert home.read_daemon() is None
        home.write_daemon(info)
        assert home.read_daemon() == info
        home.daemon.write_text("{")
        with pytest.raises(HomeDamaged, match=r"daemon\.json"):
            home.read_daemon()
        home.daemon.write_text(json.dumps({"pid": 1}))
        with pytest.raises(HomeDamaged, match=r"daemon\.json"):
            home.read_daemon()
        home.remove_daemon()
        home.remove_daemon()
        assert home.read_daemon() is None


def test_a_home_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(HomeError, match="cannot create"):
        Home(tmp_path / "file" / "home").create_folders()


def test_the_default_home_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROSEFOREST_HOME", str(tmp_path / "elsewhere"))
    assert open_home(None).root == tmp_path / "elsewhere"
    assert open_home(tmp_path / "named").root == tmp_path / "named"
    monkeypatch.delenv("ROSEFOREST_HOME")
    assert open_home(None).root == Path("~/.roseforest").expanduser()
