"""A protected home from `init` to `run`: at a terminal, from a file, from the environment, or not at all."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

import pytest

from node.commands.exit_codes import ExitCode
from tests.node.real_daemons import SECONDS, Daemons, Done, eventually

pytestmark = pytest.mark.slow

WORDS = "correct horse battery"
OTHER = "staple, correct horse"


@pytest.fixture
def words(tmp_path: Path) -> str:
    return secret(tmp_path / "words", WORDS)


def secret(path: Path, text: str) -> str:
    path.write_text(f"{text}\nsecond line\n")
    path.chmod(0o600)
    return str(path)


def at_terminal(home: Path, arguments: Sequence[str], answers: Sequence[str]) -> Done:
    """Run a command whose standard input is a terminal, and type `answers` as it asks."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "ROSEFOREST_HOME": str(home), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "node", *arguments],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    shown = b""
    left = list(answers)
    while True:
        try:
            data = os.read(ours, 4096)
        except OSError:  # Linux says so that nobody has the terminal open any more
            break
        if not data:
            break
        shown += data
        if left and shown.endswith(b": "):
            os.write(ours, left.pop(0).encode() + b"\n")
            shown += b"\n"
    os.close(ours)
    out, _ = process.communicate(timeout=SECONDS)
    assert not left, shown
    return Done(process.returncode, out.decode(), shown.decode())


def test_a_home_is_protected_and_its_passphrase_changed_at_a_terminal(daemons: Daemons) -> None:
    home = daemons.folder / "first"
    made = at_terminal(home, ["init", "--join-bits", "2", "--passphrase"], [WORDS, WORDS])
    assert made.code == 0, made
    assert WORDS not in made.err + made.out
    assert "sealed by your passphrase" in made.err
    wrong = at_terminal(home, ["run"], ["not these words"])
    assert wrong.code == ExitCode.LOCKED
    assert wrong.err.strip().splitlines()[-1].startswith("roseforest: this is not the passphrase of ")
    changed = at_terminal(home, ["key", "passphrase"], [WORDS, OTHER, OTHER])
    assert changed.code == 0, changed
    assert at_terminal(home, ["index", "rebuild"], [OTHER]).code == 0


def test_a_daemon_opens_its_key_with_a_file_or_a_variable_or_says_what_it_lacks(
    daemons: Daemons, words: str, tmp_path: Path
) -> None:
    home = daemons.home("first", "--passphrase-file", words)
    locked = daemons.command(home, "run")
    assert (locked.code, "--passphrase-file" in locked.complaint) == (ExitCode.LOCKED, True)
    wrong = daemons.command(home, "run", ROSEFOREST_PASSPHRASE="something else")
    assert (wrong.code, "not the passphrase" in wrong.complaint) == (ExitCode.LOCKED, True)
    empty = daemons.command(home, "run", "--passphrase-file", secret(tmp_path / "empty", ""))
    assert (empty.code, "empty" in empty.complaint) == (ExitCode.REFUSED, True)
    Path(words).chmod(0o644)
    assert "chmod 600" in daemons.command(home, "run", "--passphrase-file", words).complaint
    Path(words).chmod(0o600)

    daemon = daemons.run(home, "--passphrase-file", words)
    daemon.add("Opened.")
    busy = daemons.command(home, "key", "passphrase", "--remove", "--passphrase-file", words)
    assert busy.code == ExitCode.IN_USE
    shown = daemons.command(home, "key", "show", "--json").value
    status = daemon.get("/v1/status")
    assert (shown["agent_id"], shown["protected"]) == (status["agent_id"], True)
    assert shown["recovery"]["protected"] is True
    assert shown["did"].startswith("did:key:z6Mk")
    assert daemon.terminate() == 0

    removed = daemons.command(home, "key", "passphrase", "--remove", "--json", ROSEFOREST_PASSPHRASE=WORDS)
    assert (removed.code, removed.value["protected"]) == (0, False)
    sealed = daemons.command(home, "key", "passphrase", "--json", ROSEFOREST_NEW_PASSPHRASE=OTHER)
    assert (sealed.code, sealed.value["protected"]) == (0, True)
    assert daemons.command(home, "index", "rebuild", ROSEFOREST_PASSPHRASE=OTHER).code == 0


def test_a_daemon_does_not_hand_its_passphrase_on(daemons: Daemons, words: str) -> None:
    """The variable is taken out of the process's own environment; no child of it could inherit it."""
    program = (
        "import os, node.commands.passphrase as p; from node.home import open_home\n"
        "assert p.passphrase_of(open_home(None), None) == os.environ.get('EXPECTED')\n"
        "assert 'ROSEFOREST_PASSPHRASE' not in os.environ\n"
    )
    home = daemons.home("first", "--passphrase-file", words)
    environment = {
        **os.environ,
        "ROSEFOREST_HOME": str(home),
        "ROSEFOREST_PASSPHRASE": WORDS,
        "EXPECTED": WORDS,
    }
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=SECONDS)


def test_without_a_passphrase_init_says_that_the_key_is_not_encrypted(daemons: Daemons) -> None:
    home = daemons.folder / "plain"
    done = daemons.command(home, "init", "--join-bits", "2")
    assert "stands unencrypted" in done.err
    assert (home / "key").stat().st_mode & 0o777 == 0o600
    assert "NOT encrypted" in daemons.command(home, "key", "show").out
    refused = daemons.command(daemons.folder / "other", "init", "--passphrase")
    assert (refused.code, "no terminal" in refused.complaint) == (ExitCode.REFUSED, True)
    short = daemons.command(daemons.folder / "other", "init", ROSEFOREST_PASSPHRASE="short")
    assert short.code == ExitCode.REFUSED
    assert not (daemons.folder / "other").exists()
    lost = daemons.command(home, "key", "passphrase", ROSEFOREST_NEW_PASSPHRASE=WORDS)
    assert lost.code == 0
    (home / "recovery-key").unlink()
    shown = daemons.command(home, "key", "show")
    assert "not here, as it should be" in shown.out


def test_an_interrupted_init_of_a_protected_home_goes_on_with_its_passphrase(
    daemons: Daemons, words: str
) -> None:
    home = daemons.home("first", "--passphrase-file", words)
    (home / "manifest").rename(home / "manifest.founding")
    locked = daemons.command(home, "init")
    assert locked.code == ExitCode.LOCKED
    done = daemons.command(home, "init", "--passphrase-file", words, "--json")
    assert (done.code, done.value["created"], done.value["protected"]) == (0, True, True)
    eventually(lambda: (home / "manifest").exists(), "the manifest")
