"""Make the fixture of the upgrade test: a home folder as an earlier checkout of this project leaves it.

    python -m tests.node.make_old_home CHECKOUT FILE.tar.gz

runs that checkout's own command line with the interpreter at hand: a founder and a second node, entries with
tags through both, until each has the other's, then an orderly stop. What is kept is the founder's home
without its lock and without the atlas, which every release ships (`unpack_old_home` puts it back). Keys and
times are new in every run, so the bytes of the fixture are not to be compared, only used.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from chain.cid import blob_cid, to_text
from node.embedding.packaged import packaged_atlas

SECONDS = 60.0
LEFT_OUT = ("lock", "atlas")
FOUNDERS = (
    ("Honey bees dance to tell each other where flowers are.", "bees"),
    ("Yeast makes bread dough rise.", "bread"),
    ("The moon's gravity causes the ocean's tides.", "sea"),
)
JOINERS = (("Worker bees show one another the way to nectar by a dance.", "bees"),)


def unpack_old_home(fixture: Path, home: Path) -> None:
    """The home in `fixture`, as it was when its daemon had stopped."""
    with tarfile.open(fixture) as archive:
        archive.extractall(home, filter="data")
    atlas = packaged_atlas()
    (home / "atlas").mkdir()
    (home / "atlas" / to_text(blob_cid(atlas))).write_bytes(atlas)


def make(checkout: Path, fixture: Path) -> None:
    """Run `checkout` and keep what it leaves behind; raises AssertionError when it does not behave."""
    with tempfile.TemporaryDirectory() as folder:
        homes = [Path(folder, name) for name in ("founder", "joiner")]
        running: list[subprocess.Popen[bytes]] = []
        try:
            _command(checkout, homes[0], "init", "--name", "old forest", "--join-bits", "2")
            running.append(_daemon(checkout, homes[0]))
            _command(
                checkout, homes[1], "init", "--join", json.loads(_told(homes[0], running[0]))["addresses"][0]
            )
            running.append(_daemon(checkout, homes[1]))
            for home, process, entries in zip(homes, running, (FOUNDERS, JOINERS), strict=True):
                _told(home, process)
                for text, tag in entries:
                    _command(checkout, home, "add", text, "--tag", tag)
            _until(lambda: all(_settled(checkout, home) for home in homes))
            for home, process in zip(reversed(homes), reversed(running), strict=True):
                _command(checkout, home, "stop")
                assert process.wait(SECONDS) == 0
        finally:
            for process in running:
                if process.poll() is None:
                    process.kill()
        with tarfile.open(fixture, "w:gz") as archive:
            for path in sorted(homes[0].iterdir()):
                if path.name not in LEFT_OUT:
                    archive.add(path, path.name)


def _settled(checkout: Path, home: Path) -> bool:
    status = _command(checkout, home, "status")
    return status["peers"] == 1 and status["pending"] == 0


def _command(checkout: Path, home: Path, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "node", *arguments, "--json"],
        cwd=checkout,
        env=_environment(home),
        capture_output=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def _daemon(checkout: Path, home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "node", "run"], cwd=checkout, env=_environment(home))


def _told(home: Path, process: subprocess.Popen[bytes]) -> str:
    def ready() -> bool:
        assert process.poll() is None, "the daemon ended"
        return (home / "daemon.json").exists()

    _until(ready)
    return (home / "daemon.json").read_text()


def _until(condition: Any) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def _environment(home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ROSEFOREST_")}
    return {**kept, "ROSEFOREST_HOME": str(home)}


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve(strict=True), Path(sys.argv[2]).resolve())
