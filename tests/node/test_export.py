"""What is known leaves a daemon as files, which others judge without it, and enters another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.commands.exit_codes import ExitCode
from tests.node.real_daemons import Daemons

pytestmark = pytest.mark.slow

BEES = "Honey bees dance to tell each other where flowers are."
MOON = "The moon turns once while it goes around the earth."


def test_an_archive_leaves_one_daemon_and_is_judged_without_any(daemons: Daemons, tmp_path: Path) -> None:
    home = daemons.home("ann")
    ann = daemons.run(home)
    bees = ann.add(BEES, tags=["bees"], domain="biology", title="Waggling")
    moon = ann.add(MOON, tags=["sky"])
    for arguments in (("tag", bees, "dance"), ("vote", bees, "up"), ("purge", moon, "--yes")):
        assert daemons.command(home, *arguments).code == 0, arguments

    every, one = str(tmp_path / "all.car"), str(tmp_path / "bees.car")
    assert daemons.command(home, "export", "--all", "-o", every).code == 0
    assert daemons.command(home, "export", bees, "-o", one).code == 0
    assert ann.terminate() == 0

    nowhere = tmp_path / "nowhere"
    told = daemons.command(nowhere, "verify", every, "--json")
    assert told.code == 0, told
    assert told.value["whole"]
    assert told.value["vectors_held_to_texts"]
    counts = {name: told.value[name] for name in ("entries", "records", "erased", "invalid", "undecided")}
    assert counts == {"entries": 2, "records": 5, "erased": 1, "invalid": 0, "undecided": 0}
    assert daemons.command(nowhere, "verify", one, "--json").value["entries"] == 1

    bent = bytearray(Path(every).read_bytes())
    bent[bent.index(BEES.encode())] ^= 1
    Path(every).write_bytes(bent)
    told = daemons.command(nowhere, "verify", every)
    assert told.code == ExitCode.DAMAGED
    assert "other bytes than its CID says" in told.err
    assert not nowhere.exists()
