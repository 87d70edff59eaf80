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


def test_what_was_exported_enters_a_fresh_home_and_another_network(daemons: Daemons, tmp_path: Path) -> None:
    home = daemons.home("ann")
    ann = daemons.run(home)
    bees = ann.add(BEES, tags=["bees"], domain="biology", title="Waggling")
    moon = ann.add(MOON, tags=["sky"])
    assert daemons.command(home, "edit", bees, "--type", "fact").code == 0
    assert daemons.command(home, "vote", bees, "up").code == 0
    assert daemons.command(home, "purge", moon, "--yes").code == 0
    files = {form: str(tmp_path / f"all.{form}") for form in ("car", "jsonl", "jsonld")}
    for form, file in files.items():
        assert daemons.command(home, "export", "--all", "--format", form, "-o", file).code == 0
    seen = ann.get(f"/v1/entries/{bees}")
    back = daemons.command(home, "import", files["car"], "--json")
    assert (back.code, back.value["added"], back.value["known"]) == (0, 0, 5)
    told = daemons.command(home, "import", files["jsonl"])
    assert told.code == ExitCode.PARTLY_DONE
    assert "line 1: this is an entry of the network that the node is in" in told.err

    # A node of the same network that has never met the author.
    bob_home = daemons.home("bob", "--join", ann.address)
    assert ann.terminate() == 0
    bob = daemons.run(bob_home)
    assert bob.ask("GET", f"/v1/entries/{bees}").status == 404
    took = daemons.command(bob_home, "import", files["car"], "--json")
    assert (took.code, took.value["added"], took.value["whole"]) == (0, 5, True), took
    again = daemons.command(bob_home, "import", files["car"])
    assert (again.code, again.out) == (0, "2 entries, 5 records: 0 added, 5 known before, 0 not taken\n")
    there = bob.get(f"/v1/entries/{bees}")
    for name in ("author", "text", "tags", "title", "type", "votes", "version_id"):
        assert there[name] == seen[name], name
    assert bob.texts("how do bees tell where flowers are", k=1) == [BEES]
    assert bob.ask("GET", f"/v1/entries/{moon}").status == 410

    broken = tmp_path / "broken.car"
    broken.write_bytes(Path(files["car"]).read_bytes() + bytes(16 << 20))  # answered before all of it is read
    told = daemons.command(bob_home, "import", str(broken))
    assert told.code == ExitCode.DAMAGED
    assert "a length of 0 bytes" in told.err
    assert "what came before it was taken" in told.err

    # A network of its own: its founder signs, and says where it has it from.
    eve_home = daemons.home("eve")
    eve = daemons.run(eve_home)
    refused = daemons.command(eve_home, "import", files["car"])
    assert refused.code == ExitCode.REFUSED
    assert "the archive is of the network" in refused.complaint
    first = daemons.command(eve_home, "import", files["jsonld"], "--json")
    assert (first.code, first.value["added"]) == (0, 1), first
    for form in ("jsonld", "jsonl"):
        again = daemons.command(eve_home, "import", files[form], "--json")
        assert (again.value["added"], again.value["known"]) == (0, 1)
    (hit,) = eve.ask("POST", "/v1/query", {"text": BEES, "k": 1}).value["hits"]
    entry = eve.get(f"/v1/entries/{hit['id']}")
    assert eve.address.endswith(entry["author"])
    assert (entry["title"], entry["type"], entry["domain"]) == ("Waggling", "fact", "biology")
    (source,) = entry["references"]
    assert source["link"] == f"urn:roseforest:entry:{bees}"
    assert seen["author"] in source["source"]
