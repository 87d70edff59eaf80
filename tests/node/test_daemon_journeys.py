"""What a user does with a node, from the first command to the last, over real processes and sockets."""

from __future__ import annotations

import base64
import http.client
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import click
import pytest
import trio

from chain.cid import from_text as cid_from_text
from chain.cid import to_text
from chain.identity import Identity, peer_id
from chain.record import check_payload, decode_record, verify_signature
from dht.ports import ThreadedBlocking
from node.cli import PROGRAM, cli, run
from node.commands.exit_codes import ExitCode
from node.storage.derived_state import DerivedState
from tests.node.real_daemons import Daemon, Daemons, eventually

pytestmark = pytest.mark.slow

BEES = "Honey bees dance to tell each other where flowers are."
DANCE = "Worker bees show one another the way to nectar by a dance."
TIDES = "The moon's gravity causes the ocean's tides."
BREAD = "Yeast makes bread dough rise."
QUESTION = "how do bees tell where to find nectar"

HIT_KEYS = {"id", "score", "author", "text", "tags", "record", "verified"}
COST_KEYS = {
    "shards_contacted",
    "shards_total",
    "nodes_contacted",
    "ms",
    "shards_missed",
    "deadline_hit",
    "expected_recall",
}
STATUS_KEYS = {
    "agent_id",
    "network",
    "peers",
    "records",
    "pending",
    "shards_held",
    "reachable",
    "rss_mb",
    "uptime_s",
}


def lines(count: int, start: int = 0) -> str:
    """JSON-lines of entries that differ."""
    return "".join(
        json.dumps({"text": f"fact {n}: the number {n} is followed by {n + 1}"}) + "\n"
        for n in range(start, start + count)
    )


def own_texts(daemon: Daemon) -> list[str]:
    """The texts of all entries that a daemon authored, by its own chain."""
    records = daemon.get("/v1/chain/log?limit=1000&data=true")["records"]
    found = []
    for shown in records:
        if shown["kind"] == "entry.create":
            record = decode_record(base64.b64decode(shown["data"]))
            found.append(daemon.get(f"/v1/entries/{to_text(record.cid)}")["text"])
    return found


def test_a_question_is_narrowed_weighed_and_explained_on_the_command_line(daemons: Daemons) -> None:
    home = daemons.home("first")
    daemon = daemons.run(home)
    other = peer_id(Identity.from_seed(bytes(32)).agent)

    def found(*options: str) -> list[str]:
        done = daemons.command(home, "query", QUESTION, "--json", *options)
        assert (done.code, done.err) == (0, ""), done
        return [hit["text"] for hit in done.value["hits"]]

    daemon.add(BEES, domain="biology", confidence=0.75)
    daemon.add(DANCE, domain="dance", confidence=0.25)
    me = daemon.get("/v1/status")["agent_id"]
    assert set(found("--author", me, "--since", "1h")) == {BEES, DANCE}
    assert found("--domain", "biology", "--domain", "physics") == [BEES]
    assert found("--min-confidence", "0.5") == [BEES]
    assert found("--until", "2020-01-01T12:00+01:00") == found("--author", other) == []
    shown = daemons.command(home, "query", QUESTION, "--effort", "high", "--deadline-ms", "9000", "--explain")
    assert shown.code == 0
    assert shown.out.index(BEES) < shown.out.index("route: 0.99 of the best wanted, 64 shards asked")
    assert "1.00 of the best expected" in shown.err
    cut = daemons.command(home, "query", QUESTION, "--recall", "1", "--deadline-ms", "1", "-k", "1")
    assert cut.code == 0
    if "cut off by the deadline" in cut.err:
        assert "would do" in cut.err.splitlines()[-1]
    for cached in (False, True):
        cost = daemon.ask("POST", "/v1/query", {"text": QUESTION, "k": 2}).value["cost"]
        assert (cost["cached_s"] is not None) == cached


def test_from_init_to_stop_everything_speaks_json(daemons: Daemons) -> None:
    daemons.cold = True
    home = daemons.folder / "first"

    def rose(*arguments: str) -> Any:
        done = daemons.command(home, *arguments, "--json")
        assert (done.code, done.err) == (0, ""), done
        return done.value

    founded = rose("init", "--name", "garden", "--join-bits", "2", "--agent-name", "ann")
    assert {"home", "agent_id", "network", "created", "protected", "lacking", "may_invite"} < set(founded)
    assert (founded["network_name"], founded["created"]) == ("garden", True)
    assert rose("init", "--name", "garden")["created"] is False
    daemon = daemons.run(home)
    added = rose("add", BEES, "--tag", "bees", "--domain", "biology", "--confidence", "0.75")
    assert set(added) == {"id", "created"}
    rose("add", DANCE)

    shown = rose("get", added["id"], "--provenance")
    assert (shown["text"], shown["tags"], shown["domain"], shown["confidence"]) == (
        BEES,
        ["bees"],
        "biology",
        0.75,
    )
    (proof,) = shown["records"]
    record = decode_record(base64.b64decode(proof["data"]))
    assert to_text(record.cid) == added["id"]
    assert verify_signature(record)
    assert record.payload is not None
    check_payload(record.header, record.payload)
    assert rose("get", added["id"])["records"] is None

    answer = rose("query", QUESTION, "-k", "2")
    assert set(answer) == {"hits", "cost", "route"}
    assert {hit["text"] for hit in answer["hits"]} == {BEES, DANCE}
    assert answer["hits"][0]["score"] > answer["hits"][1]["score"]
    for hit in answer["hits"]:
        assert hit.keys() >= HIT_KEYS
        assert hit["verified"] is True
        assert hit["author"] == founded["agent_id"]
    assert answer["cost"].keys() >= COST_KEYS
    assert answer["cost"]["shards_total"] == 64
    assert (answer["cost"]["shards_missed"], answer["cost"]["expected_recall"]) == (0, 1.0)
    assert [hit["id"] for hit in rose("query", QUESTION, "--tag", "bees")["hits"]] == [added["id"]]
    assert rose("query", QUESTION, "--tag", "none")["hits"] == []

    log = rose("chain", "log")
    assert [r["kind"] for r in log["records"]] == [
        "chain.genesis",
        "chain.membrane",
        "chain.profile",
        "entry.create",
        "entry.create",
    ]
    assert log["records"][3]["id"] == added["id"]
    verdict = rose("chain", "verify")
    assert verdict.keys() >= {"ok", "length", "head"}
    assert (verdict["ok"], verdict["length"], verdict["head"]) == (True, 5, log["records"][-1]["id"])
    status = rose("status")
    assert status.keys() >= STATUS_KEYS
    assert (status["agent_id"], status["network"]) == (founded["agent_id"], founded["network"])
    assert (status["records"], status["peers"], status["pending"]) == (5, 0, 0)
    assert rose("peers") == {"peers": [], "standings": []}
    assert rose("config", "show")["capacity"] == 100
    assert rose("stop") == {"stopped": True, "pid": daemon.process.pid}
    assert daemon.process.wait(5) == 0
    assert not (home / "daemon.json").exists()


def test_run_says_once_in_json_where_it_answers(daemons: Daemons) -> None:
    """With the log in a file, what a script reads from `run --json` is that one line."""
    home = daemons.home("first")
    daemon = daemons.run(home, "--json", "--log-file", "log/node.log")
    eventually(lambda: daemon.log.read_text().endswith("\n"), "the line")
    status = daemon.get("/v1/status")
    assert daemon.terminate() == 0
    (line,) = daemon.log.read_text().splitlines()
    assert json.loads(line) == {
        "home": str(home),
        "agent_id": status["agent_id"],
        "network": status["network"],
        "network_name": status["network_name"],
        "pid": daemon.process.pid,
        "api": daemon.info["api"],
        "addresses": daemon.info["addresses"],
    }
    assert "event=ready" in (home / "log" / "node.log").read_text()


def test_two_nodes_find_what_the_other_knows(daemons: Daemons) -> None:
    first = daemons.run(daemons.home("first"))
    bees = first.add(BEES)
    second = daemons.run(daemons.home("second", "--join", first.address))
    tides = second.add(TIDES)

    def found(daemon: Daemon, question: str, text: str) -> bool:
        return text in daemon.texts(question)

    eventually(lambda: found(second, QUESTION, BEES), "the second to find the first's entry")
    eventually(lambda: found(first, "why does the sea rise and fall", TIDES), "the same the other way")
    (hit,) = (
        hit
        for hit in second.ask("POST", "/v1/query", {"text": QUESTION}).value["hits"]
        if hit["text"] == BEES
    )
    assert (hit["verified"], hit["author"]) == (True, first.get("/v1/status")["agent_id"])
    eventually(lambda: second.ask("GET", f"/v1/entries/{bees}").status == 200, "the entry by its id")
    eventually(lambda: first.ask("GET", f"/v1/entries/{tides}").status == 200, "the entry by its id")
    assert second.get("/v1/status")["reachable"] is True
    assert [peer["agent_id"] for peer in second.get("/v1/peers")["peers"]] == [
        first.get("/v1/status")["agent_id"]
    ]


def test_what_was_acknowledged_before_sigkill_is_there_afterwards(daemons: Daemons) -> None:
    home = daemons.home("first")
    daemon = daemons.run(home)
    acknowledged: dict[str, tuple[str, str]] = {}
    enough = threading.Event()

    def write(writer: int) -> None:
        number = 0
        while True:
            text, key = f"writer {writer} wrote fact {number}", f"{writer:02x}{number:08x}"
            try:
                identifier = daemon.add(text, key=key)
            except (OSError, http.client.HTTPException, ValueError):
                return
            acknowledged[identifier] = (text, key)
            number += 1
            if len(acknowledged) >= 60:
                enough.set()

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for writer in writers:
        writer.start()
    try:
        assert enough.wait(30)
    finally:
        daemon.kill()
        for writer in writers:
            writer.join(30)
    assert not any(writer.is_alive() for writer in writers)

    again = daemons.run(home)
    for identifier, (text, _) in acknowledged.items():
        assert again.get(f"/v1/entries/{identifier}")["text"] == text
    verdict = again.ask("POST", "/v1/chain/verify").value
    assert verdict["ok"] is True
    length = verdict["length"]
    assert length >= 3 + len(acknowledged)
    repeated = [
        again.ask("POST", "/v1/entries", {"text": text, "key": key}) for text, key in acknowledged.values()
    ]
    assert [reply.value["id"] for reply in repeated] == list(acknowledged)
    assert {(reply.status, reply.value["created"]) for reply in repeated} == {(200, False)}
    assert again.ask("POST", "/v1/chain/verify").value["length"] == length
    text = next(iter(acknowledged.values()))[0]
    assert text in again.texts(text)


def test_an_import_reports_bad_lines_and_adds_nothing_twice(daemons: Daemons, tmp_path: Path) -> None:
    home = daemons.home("first")
    daemon = daemons.run(home)
    file = tmp_path / "corpus.jsonl"
    file.write_text(
        json.dumps({"text": BEES, "tags": ["bees"], "domain": "biology", "confidence": 0.5})
        + '\n{"text": \n'
        + json.dumps({"text": ""})
        + "\n"
        + json.dumps({"text": TIDES, "citations": ["doi:10.1/x"]})
        + "\n[1]\n"
        + json.dumps({"text": "x", "confidence": 2})
        + "\n"
        + json.dumps({"text": "x" * 70_000})
        + "\n"
        + json.dumps({"text": BREAD})
        + "\n"
    )
    done = daemons.command(home, "import", str(file), "--json")
    assert done.code == ExitCode.PARTLY_DONE
    assert (done.value["read"], done.value["added"], done.value["known"], done.value["bad"]) == (8, 3, 0, 5)
    assert sorted(bad["line"] for bad in done.value["bad_lines"]) == [2, 3, 5, 6, 7]
    people = daemons.command(home, "import", str(file))
    assert people.code == ExitCode.PARTLY_DONE
    assert [line.split(":")[0] for line in people.err.splitlines()] == [
        f"line {number}" for number in (2, 3, 5, 6, 7)
    ]
    assert "0 added, 3 known before, 5 bad" in people.out
    assert own_texts(daemon) == [BEES, TIDES, BREAD]
    assert daemon.texts(QUESTION)[0] == BEES


def test_an_import_that_was_killed_is_resumed_without_doubles(daemons: Daemons, tmp_path: Path) -> None:
    home = daemons.home("first")
    daemon = daemons.run(home)
    total = 600
    process = subprocess.Popen(
        [sys.executable, "-m", "node", "import", "-", "--home", str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    try:
        process.stdin.write(lines(450).encode())
        process.stdin.flush()  # the rest never comes, so the command stands in the middle of its work
        eventually(lambda: daemon.get("/v1/status")["records"] > 3, "the import to begin")
    finally:
        process.kill()
        process.wait(30)
        process.stdin.close()
    before = daemon.get("/v1/status")["records"] - 3
    assert 0 < before < total
    file = tmp_path / "corpus.jsonl"
    file.write_text(lines(total))
    resumed = daemons.command(home, "import", str(file), "--json")
    assert resumed.code == 0
    after = resumed.value
    assert (after["read"], after["added"] + after["known"], after["bad"]) == (total, total, 0)
    assert after["known"] >= before
    assert daemons.command(home, "import", str(file), "--json").value["added"] == 0
    verdict = daemon.ask("POST", "/v1/chain/verify").value
    assert (verdict["ok"], verdict["kinds"]["entry.create"]) == (True, total)


def test_callers_vectors_are_imported_and_asked_for(daemons: Daemons, tmp_path: Path) -> None:
    home = daemons.home("first", "--vectors", "3")
    daemon = daemons.run(home)
    file = tmp_path / "vectors.jsonl"
    entries: list[dict[str, Any]] = [
        {"text": "east", "vector": [1, 0, 0]},
        {"text": "north", "vector": [0, 1, 0.1]},
        {"text": "no vector"},
        {"text": "too short", "vector": [1, 0]},
        {"text": "nowhere", "vector": [0, 0, 0]},
    ]
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    done = daemons.command(home, "import", str(file), "--json")
    assert (done.code, done.value["added"]) == (ExitCode.PARTLY_DONE, 2)
    assert sorted(bad["line"] for bad in done.value["bad_lines"]) == [3, 4, 5]
    question = tmp_path / "question.json"
    question.write_text("[0.1, 1, 0]")
    hits = daemons.command(home, "query", "--vector", str(question), "--json").value["hits"]
    assert [hit["text"] for hit in hits] == ["north", "east"]
    assert daemon.ask("POST", "/v1/query", {"text": "north"}).status == 422


def answers(daemon: Daemon) -> list[Any]:
    """What three questions bring, with scores."""
    found = []
    for question in (QUESTION, "tides of the sea", "fact 17"):
        reply = daemon.ask("POST", "/v1/query", {"text": question, "k": 10})
        assert reply.status == 200
        found.append([(hit["id"], hit["score"], hit["text"]) for hit in reply.value["hits"]])
    return found


def test_derived_files_can_go_and_come_again(daemons: Daemons, tmp_path: Path) -> None:
    home = daemons.home("first")
    daemon = daemons.run(home)
    for text in (BEES, TIDES, BREAD):
        daemon.add(text)
    assert daemons.command(home, "import", "-", "--json", data=lines(40).encode()).code == 0
    before = answers(daemon)
    assert [hits[0][2] for hits in before[:2]] == [BEES, TIDES]
    assert len(before[2]) == 10
    assert daemons.command(home, "index", "rebuild", "--json").value == {"vectors": 43}
    assert answers(daemon) == before
    assert daemon.terminate() == 0

    for name in ("derived.db", "derived.db-wal", "derived.db-shm"):
        (home / name).unlink(missing_ok=True)
    (home / "index").mkdir()
    (home / "index" / "0.faiss").write_bytes(b"vectors that a release before kept here")
    daemon = daemons.run(home)
    assert daemons.command(home, "index", "rebuild", "--json").value == {"vectors": 43}
    assert answers(daemon) == before
    assert daemon.terminate() == 0
    assert not (home / "index").exists()
    daemon = daemons.run(home)
    assert answers(daemon) == before, "a start makes the same index"
    daemon.kill()

    # What the message about a damaged file says works as it stands.
    (home / "derived.db").write_bytes(b"not a database" * 1000)
    refused = daemons.command(home, "run")
    assert refused.code == ExitCode.DAMAGED
    assert "derived.db is damaged" in refused.complaint
    assert "roseforest index rebuild" in refused.complaint
    assert (home / "derived.db").read_bytes() == b"not a database" * 1000
    rebuilt = daemons.command(home, "index", "rebuild", "--json")
    assert (rebuilt.code, rebuilt.value) == (0, {"vectors": 43}), rebuilt
    assert answers(daemons.run(home)) == before


async def test_a_record_that_a_crash_left_without_its_posting_is_found_after_the_next_start(
    daemons: Daemons,
) -> None:
    home = daemons.home("first")
    daemon = daemons.run(home)
    for text in (BEES, TIDES, BREAD):
        daemon.add(text)
    record = cid_from_text(daemon.add(DANCE))
    eventually(lambda: daemon.get("/v1/status")["pending"] == 0, "all to be placed")
    daemon.kill()
    derived = DerivedState(home / "derived.db", ThreadedBlocking(1))
    async with trio.open_nursery() as nursery:
        await nursery.start(derived.run)
        assert len(await derived.remove([record])) == 1
        await derived.aclose()
    again = daemons.run(home)
    assert again.texts(DANCE)[0] == DANCE
    assert again.get("/v1/status")["counters"]["postings"] == 4


def test_a_founder_finds_its_peers_again_without_bootstrap(daemons: Daemons) -> None:
    first_home = daemons.home("first")
    first = daemons.run(first_home)
    second = daemons.run(daemons.home("second", "--join", first.address))
    entry = second.add(BEES)
    eventually(lambda: first.get("/v1/peers")["peers"], "the founder to know its peer")
    eventually(lambda: (first_home / "peers").exists(), "its address to be kept")
    first.kill()
    assert "bootstrap = []" in (first_home / "config.toml").read_text()
    again = daemons.run(first_home)
    eventually(
        lambda: any(peer["connected"] for peer in again.get("/v1/peers")["peers"]), "the peer to be found"
    )
    eventually(lambda: again.ask("GET", f"/v1/entries/{entry}").status == 200, "its entry")
    eventually(lambda: BEES in again.texts(QUESTION), "its entry by a query")


def test_a_member_comes_back_when_its_bootstrap_is_gone(daemons: Daemons) -> None:
    """The founder dies for good; the two others remember each other."""
    founder = daemons.run(daemons.home("founder"))
    second = daemons.run(daemons.home("second", "--join", founder.address))
    third_home = daemons.home("third", "--join", founder.address)
    third = daemons.run(third_home)
    entry = second.add(BEES)
    agent = second.get("/v1/status")["agent_id"]
    eventually(
        lambda: agent in [peer["agent_id"] for peer in third.get("/v1/peers")["peers"]],
        "the third to know the second",
    )
    assert third.terminate() == 0
    founder.kill()
    remembered = third_home / "peers"
    remembered.write_bytes(b"\xff no address\n/p2p/\n" + remembered.read_bytes())
    again = daemons.run(third_home)
    eventually(lambda: again.ask("GET", "/readyz").status == 200, "the third to be in again")
    eventually(lambda: again.ask("GET", f"/v1/entries/{entry}").status == 200, "the second's entry")


def commands_of(command: click.Command, name: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The names of a command and all below it."""
    found = [name]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for child in command.list_commands(context):
            below = command.get_command(context, child)
            assert below is not None
            found += commands_of(below, (*name, child))
    return found


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    names = commands_of(cli)
    assert len(names) > 18
    for name in names:
        for flag in ("--help", "-h"):
            assert run([*name, flag]) == 0, name
            shown = capsys.readouterr()
            assert shown.out.startswith(f"Usage: {' '.join((PROGRAM, *name))} "), name
            assert shown.err == ""
            assert "Not available" not in shown.out, name


def test_version_and_completion(daemons: Daemons) -> None:
    daemons.cold = True
    home = daemons.folder / "none"
    version = daemons.command(home, "--version")
    assert version.code == 0
    assert version.out.split()[0] == "roseforest"
    for shell in ("bash", "zsh", "fish"):
        done = daemons.command(home, "completion", shell)
        assert (done.code, "roseforest" in done.out, done.err) == (0, True, "")
        told = daemons.command(home, "completion", shell, "--json").value
        assert told == {"shell": shell, "script": done.out.rstrip("\n")} or told["script"] in done.out
    script = daemons.command(home, "completion", "bash").out
    checked = subprocess.run(["bash", "-n"], input=script.encode(), check=False)
    assert checked.returncode == 0
    # What the script asks for when a user presses the key.
    asked = daemons.command(
        home, COMP_WORDS="roseforest ch", COMP_CWORD="1", _ROSEFOREST_COMPLETE="bash_complete"
    )
    assert "plain,chain" in asked.out
    assert not home.exists()
