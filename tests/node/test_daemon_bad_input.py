"""What goes wrong around a real node, and the one line that says so: nothing is lost, nothing overwritten."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import socket
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from node.commands.exit_codes import ExitCode
from tests.node.real_daemons import Daemon, Daemons, Reply, eventually

pytestmark = pytest.mark.slow

NOWHERE = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWJoJq2tJtXwsd3EVP1TmHN7mnByREbXNnhYnDK6a5Pmnc"
BEES = "Honey bees dance to tell each other where flowers are."


def snapshot(home: Path) -> dict[str, bytes]:
    """The bytes of all files of a home, apart from those that say who runs and SQLite's empty companions."""
    passing = {"lock", "daemon.json"}
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in sorted(home.rglob("*"))
        if path.is_file() and path.name not in passing and not path.name.endswith("-shm")
        if not (path.name.endswith("-wal") and not path.stat().st_size)
    }


def healthy(daemon: Daemon) -> bool:
    """Whether a daemon is alive and still takes and finds entries."""
    assert daemon.process.poll() is None
    daemon.add("Still here.", key="00ff")
    return daemon.get("/healthz") == {"ok": True} and "Still here." in daemon.texts("Still here.")


def refused(reply: Reply, status: int, *words: str) -> None:
    """Check an error: its status, and that its line has the words that a user needs."""
    assert reply.status == status, reply
    for word in words:
        assert word in reply.message, reply


def test_what_the_api_refuses(daemons: Daemons) -> None:
    home = daemons.home("first")
    daemon = daemons.run(home)
    known = daemon.add(BEES)
    records = daemon.get("/v1/status")["records"]

    refused(daemon.ask("GET", "/v1/status", token="x" * 43), 401, "api-token")
    refused(daemon.ask("POST", "/v1/entries", {"text": "x"}, token=""), 401, "api-token")
    refused(daemon.ask("GET", f"/v1/entries/{daemon.get('/v1/status')['network']}"), 400, "not of an entry")
    other = daemon.get("/v1/chain/log")["records"][0]["id"]
    refused(daemon.ask("GET", f"/v1/entries/{other}"), 404, other)
    refused(daemon.ask("GET", "/v1/entries/nonsense"), 400, "nonsense", "not a CID", "add and query print it")
    refused(daemon.ask("GET", f"/v1/entries/{known[:-1]}"), 400, "CID")
    refused(daemon.ask("POST", "/v1/entries", b"{"), 400, "JSON")
    for entry, word in (
        ({"text": ""}, "text"),
        ({"text": "x" * 65_537}, "65536"),
        ({"text": "ä" * 40_000}, "65536"),
        ({"text": "half a pair: \ud800"}, "unicode"),
        ({"text": "x", "tags": ["\ud800"]}, "tag"),
        ({"text": "x", "confidence": 1.5}, "confidence"),
        ({"text": "x", "tags": ["t" * 10_000]}, "tag"),
        ({"text": "x", "vector": [1.0]}, "leave the vector out"),
        ({"text": "x", "colour": "red"}, "colour"),
        ({"text": 3}, "text"),
        ({}, "text"),
    ):
        refused(daemon.ask("POST", "/v1/entries", entry), 422, word)
    for query, word in (
        ({"text": "x", "k": 0}, "k"),
        ({"text": "x", "k": 101}, "k"),
        ({"text": "x", "k": -1}, "k"),
        ({"text": ""}, "text"),
        ({"text": "x" * 65_537}, "65536"),
        ({"text": "half a pair: \ud800"}, "unicode"),
        ({"text": "x", "tags": ["\ud800"]}, "tag"),
        ({"text": "x", "tags": ["t" * 10_000]}, "tag"),
        ({}, "text or vector"),
        ({"text": "x", "vector": [1.0]}, "text or vector"),
        ({"vector": [1.0]}, "text"),
        ({"text": "x", "deadline_ms": 0}, "deadline_ms"),
    ):
        refused(daemon.ask("POST", "/v1/query", query), 422, word)
    assert daemon.get("/v1/status")["records"] == records
    assert healthy(daemon)


def test_what_the_command_line_says_of_it(daemons: Daemons) -> None:
    home = daemons.home("first")
    daemon = daemons.run(home)
    unknown = daemon.get("/v1/chain/log")["records"][0]["id"]
    for arguments, data, code, word in (
        (("get", unknown), b"", ExitCode.NOT_FOUND, unknown),
        (("get", "nonsense"), b"", ExitCode.REFUSED, "nonsense"),
        (("add",), b"x" * 65_537, ExitCode.REFUSED, "65536"),
        (("add",), b"", ExitCode.REFUSED, "text"),
        (("add", "x", "--vector", str(home / "none")), b"", ExitCode.REFUSED, "none"),
        (("query", "x", "-k", "101"), b"", ExitCode.USAGE, "-k"),
        (("query", ""), b"", ExitCode.REFUSED, "text"),
        (("query", "x", "--author", "nobody"), b"", ExitCode.REFUSED, "nobody"),
        (("query", "x", "--since", "last tuesday"), b"", ExitCode.REFUSED, "last tuesday"),
        (("query", "x", "--recall", "1.1"), b"", ExitCode.USAGE, "--recall"),
        (("query", "x", "--effort", "low", "--recall", "0.5"), b"", ExitCode.USAGE, "--effort"),
        (("import", str(home / "none")), b"", ExitCode.REFUSED, "none"),
        (("run",), b"", ExitCode.IN_USE, str(daemon.process.pid)),
        (("init", "--name", "another"), b"", ExitCode.DAMAGED, "already belongs"),
    ):
        done = daemons.command(home, *arguments, data=data)
        assert (done.code, done.out) == (code, ""), done
        assert word in done.complaint
    token = home / "api-token"
    token.write_text("u" * 43 + "\n")
    wrong = daemons.command(home, "status")
    assert (wrong.code, "api-token" in wrong.complaint) == (ExitCode.DAMAGED, True)


def test_vectors_that_are_no_direction(daemons: Daemons, tmp_path: Path) -> None:
    home = daemons.home("first", "--vectors", "4")
    daemon = daemons.run(home)
    daemon.add("good", vector=[1, 2, 3, 4])
    huge = json.dumps({"text": "x", "vector": [1e308] * 4})
    for vector, words in (
        ("[1, 2, 3]", ("3", "4")),
        ("[1, 2, 3, 4, 5]", ("5", "4")),
        ("[]", ("4",)),
        ("[0, 0, 0, 0]", ("zero",)),
        ("[NaN, 1, 1, 1]", ("finite",)),
        ("[Infinity, 1, 1, 1]", ("finite",)),
        ('["1", 1, 1, 1]', ("number",)),
    ):
        for path, more in (("/v1/entries", '"text": "x", '), ("/v1/query", "")):
            reply = daemon.ask("POST", path, f'{{{more}"vector": {vector}}}'.encode())
            assert reply.status in (400, 422), (path, vector, reply)
            assert path == "/v1/query" or any(word in reply.message for word in words), reply
        file = tmp_path / "vector.json"
        file.write_text(vector)
        for arguments in (("add", "x", "--vector", str(file)), ("query", "--vector", str(file))):
            if vector in ("[0, 0, 0, 0]", "[1, 2, 3]", "[NaN, 1, 1, 1]"):
                done = daemons.command(home, *arguments)
                assert done.code == ExitCode.REFUSED, done
                assert done.complaint
    assert daemon.ask("POST", "/v1/entries", huge.encode()).status in (201, 422)
    refused(daemon.ask("POST", "/v1/entries", {"text": "no vector"}), 422, "vector")
    refused(daemon.ask("POST", "/v1/query", {"text": "no vector"}), 422, "vector")
    hits = daemon.ask("POST", "/v1/query", {"vector": [1, 2, 3, 4], "k": 1}).value["hits"]
    assert [hit["text"] for hit in hits] == ["good"]


def test_ports_in_use(daemons: Daemons) -> None:
    home = daemons.home("first")
    before = snapshot(home)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments in (
            ("--api", f"127.0.0.1:{port}"),
            ("--listen", f"/ip4/127.0.0.1/tcp/{port}"),
        ):
            done = daemons.command(home, "run", *arguments)
            assert done.code == ExitCode.IN_USE, done
            assert str(port) in done.complaint
            assert "choose another" in done.complaint
            assert not (home / "daemon.json").exists()
    for arguments in (
        ("--api", "nowhere"),
        ("--api", "127.0.0.1:99999"),
        ("--listen", "127.0.0.1:1"),
        ("--bootstrap", "/ip4/127.0.0.1/tcp/1"),
        ("--capacity", "-1"),
        ("--log-level", "loud"),
    ):
        done = daemons.command(home, "run", *arguments)
        assert done.code == ExitCode.DAMAGED, done
        assert arguments[0] in done.complaint
    after = snapshot(home)
    assert {name: after[name] for name in ("key", "manifest", "config.toml")} == {
        name: before[name] for name in ("key", "manifest", "config.toml")
    }
    assert daemons.run(home).ask("POST", "/v1/chain/verify").value["ok"] is True


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(5_000))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def scribble(path: Path) -> None:
    """Overwrite the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : 2 * len(data) // 3] = b"\x5a" * (2 * len(data) // 3 - len(data) // 3)
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


def readable_by_others(path: Path) -> None:
    path.chmod(0o644)


def text(value: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(value)

    write.__name__ = value
    return write


DAMAGE = [
    ("key", garbage, "restore it from a backup"),
    ("key", truncate, "restore it from a backup"),
    ("key", empty, "restore it from a backup"),
    ("key", remove, "restore it from a backup"),
    ("key", readable_by_others, "chmod 600"),
    ("config.toml", garbage, "correct it or move it away"),
    ("config.toml", text("api = 3\n"), "api"),
    ("config.toml", text('api = "x"\n'), "HOST:PORT"),
    ("config.toml", text("capacitty = 3\n"), "capacitty is not a setting"),
    ("config.toml", text("[[["), "correct it or move it away"),
    ("api-token", garbage, "delete it"),
    ("api-token", empty, "delete it"),
    ("api-token", readable_by_others, "chmod 600"),
    ("manifest", garbage, "copy it from another node"),
    ("manifest", truncate, "copy it from another node"),
    ("manifest", empty, "restore it from a backup"),
    ("manifest", scribble, "restore it from a backup"),
    ("manifest", remove, "restore it from a backup"),
    ("chain.db", garbage, "restore it from a backup"),
    ("chain.db", truncate, "restore it from a backup"),
    ("chain.db", empty, "restore it from a backup"),
    ("chain.db", scribble, "restore it from a backup"),
    ("chain.db", remove, "restore it from a backup"),
    ("held.db", garbage, "move it away"),
    ("held.db", truncate, "move it away"),
    ("held.db", scribble, "move it away"),
    ("derived.db", garbage, "roseforest index rebuild"),
    ("derived.db", empty, "roseforest index rebuild"),
]


@pytest.fixture(scope="module")
def used_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a node that was used and stopped; copied by the tests that damage it."""
    daemons = Daemons(tmp_path_factory.mktemp("used"))
    try:
        home = daemons.home("home")
        daemon = daemons.run(home)
        for number in range(30):
            daemon.add(f"fact {number}: the number {number} is followed by {number + 1}")
        eventually(lambda: daemon.get("/v1/status")["held"] >= 33, "the node to hold its own records")
        assert daemon.terminate() == 0
        return home
    finally:
        daemons.close()


@pytest.mark.parametrize(
    ("name", "damage", "advice"), DAMAGE, ids=[f"{name} {how.__name__}" for name, how, _ in DAMAGE]
)
def test_a_damaged_file_is_named_and_left_as_it_is(
    used_home: Path,
    daemons: Daemons,
    name: str,
    damage: Callable[[Path], None],
    advice: str,
) -> None:
    home = daemons.folder / "home"
    copy_home(used_home, home)
    damage(home / name)
    before = snapshot(home)
    mode = stat.S_IMODE((home / name).stat().st_mode) if (home / name).exists() else None
    done = daemons.command(home, "run")
    assert (done.code, done.out) == (ExitCode.DAMAGED, ""), done
    assert str(home / name) in done.complaint
    assert advice in done.complaint
    assert snapshot(home) == before
    assert mode is None or stat.S_IMODE((home / name).stat().st_mode) == mode
    if damage is remove:
        again = daemons.command(home, "init")
        assert again.code in (0, ExitCode.DAMAGED), again
        assert snapshot(home) == before, "init makes no new key and no new chain beside an old one"


def copy_home(source: Path, target: Path) -> None:
    """A copy with the same modes and no lock."""
    target.mkdir(mode=0o700)
    for path in sorted(source.rglob("*")):
        to = target / path.relative_to(source)
        if path.is_dir():
            to.mkdir(exist_ok=True)
        elif path.name != "lock":
            to.write_bytes(path.read_bytes())
            to.chmod(stat.S_IMODE(path.stat().st_mode))


@pytest.mark.parametrize(
    ("column", "says"), [("signature", "5"), ("payload", "chain.db"), ("header", "chain.db")]
)
def test_a_chain_that_was_altered_does_not_verify(
    used_home: Path, daemons: Daemons, column: str, says: str
) -> None:
    """Below SQLite's own checks: one bit of an old record, which the start does not look at."""
    home = daemons.folder / "home"
    copy_home(used_home, home)
    with contextlib.closing(sqlite3.connect(home / "chain.db", isolation_level=None)) as database:
        (value,) = database.execute(f"SELECT {column} FROM records WHERE seq = 5").fetchone()
        altered = bytes([*value[:20], value[20] ^ 1, *value[21:]])
        database.execute(f"UPDATE records SET {column} = ? WHERE seq = 5", (altered,))
    daemon = daemons.run(home)
    done = daemons.command(home, "chain", "verify")
    assert done.code == ExitCode.DAMAGED, done
    (line,) = done.err.splitlines()
    assert says in line
    assert "backup" in line
    assert daemon.get("/healthz") == {"ok": True}


def test_held_records_that_were_moved_away_come_again(used_home: Path, daemons: Daemons) -> None:
    """The advice about a damaged held.db works as it stands."""
    home = daemons.folder / "home"
    copy_home(used_home, home)
    (home / "held.db").rename(home / "held.db.damaged")
    daemon = daemons.run(home)
    assert daemon.ask("POST", "/v1/chain/verify").value["ok"] is True
    question = "fact 7: the number 7 is followed by 8"
    assert daemon.texts(question)[0] == question


def test_joining_through_nobody(daemons: Daemons) -> None:
    for address in (NOWHERE, "/ip4/127.0.0.1/tcp/1", "garbage", "/dns4/nowhere.invalid/tcp/1"):
        home = daemons.folder / f"home{len(address)}"
        done = daemons.command(home, "init", "--join", address)
        assert (done.code, done.out) == (ExitCode.NETWORK, ""), done
        assert address in done.complaint
        assert daemons.command(home, "run").code == ExitCode.DAMAGED, "no home was made"


def test_joining_through_something_that_is_no_node(daemons: Daemons) -> None:
    home = daemons.folder / "home"

    def talk(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=talk, args=(server,))
        thread.start()
        address = f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}"
        done = daemons.command(home, "init", "--join", address)
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    assert done.code == ExitCode.NETWORK, done
    assert address in done.complaint


def test_a_dead_bootstrap_leaves_the_node_up_and_not_ready(daemons: Daemons) -> None:
    founder_home = daemons.home("founder")
    founder = daemons.run(founder_home)
    port = int(founder.address.split("/")[4])
    home = daemons.home("second", "--join", founder.address)
    founder.kill()
    daemon = daemons.run(home)
    refused(daemon.ask("GET", "/readyz"), 503, "join")
    assert daemon.get("/healthz") == {"ok": True}
    daemon.add(BEES)
    assert daemon.texts(BEES) == [BEES], "what is here is found without the network"
    assert daemon.get("/v1/status")["reachable"] is False
    eventually(lambda: "not joined yet" in daemon.log.read_text(), "the log to say so")
    assert daemon.ask("GET", "/readyz").status == 503
    daemons.run(founder_home, "--listen", f"/ip4/127.0.0.1/tcp/{port}")
    eventually(lambda: daemon.ask("GET", "/readyz").status == 200, "the node to join by itself")
    assert daemon.get("/v1/status")["peers"] == 1


def test_a_bootstrap_of_another_network_does_not_let_us_in(daemons: Daemons) -> None:
    stranger = daemons.run(daemons.home("stranger", "--name", "elsewhere"))
    home = daemons.home("first")
    daemon = daemons.run(home, "--bootstrap", stranger.address)
    eventually(lambda: "not joined yet" in daemon.log.read_text(), "the log to say so")
    refused(daemon.ask("GET", "/readyz"), 503, "join")
    assert "another network" in daemon.log.read_text()
    assert "Traceback" not in daemon.log.read_text()
    daemon.add(BEES)
    for node in (daemon, stranger):
        assert node.get("/v1/status")["peers"] == 0
        assert healthy(node)
    for running in (True, False):
        assert running or daemon.terminate() == 0
        done = daemons.command(home, "init", "--join", stranger.address)
        assert (done.code, "already belongs" in done.complaint) == (ExitCode.DAMAGED, True)


def test_without_a_daemon(daemons: Daemons) -> None:
    home = daemons.home("first")
    killed = daemons.run(home)
    killed.kill()
    for arguments in (
        ("status",),
        ("add", "x"),
        ("query", "x"),
        ("stop",),
        ("peers",),
        ("chain", "verify"),
        ("import", "-"),
    ):
        done = daemons.command(home, *arguments)
        assert (done.code, done.out) == (ExitCode.NO_DAEMON, ""), done
        assert "roseforest run" in done.complaint
    nowhere = daemons.command(daemons.folder / "none", "run")
    assert (nowhere.code, "roseforest init" in nowhere.complaint) == (ExitCode.DAMAGED, True)
    file = daemons.folder / "file"
    file.write_text("I am a file")
    wrong = daemons.command(file, "init")
    assert (wrong.code, str(file) in wrong.complaint) == (ExitCode.DAMAGED, True)
    assert file.read_text() == "I am a file"


def test_garbage_on_the_libp2p_port_changes_nothing(daemons: Daemons) -> None:
    first = daemons.run(daemons.home("first"))
    port = int(first.address.split("/")[4])
    draw = random.Random(7)
    hello = b"\x13/multistream/1.0.0\n"
    open_ones = []
    for data in (
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        draw.randbytes(100_000),
        b"\xff" * 70_000,  # a length that never ends
        b"\xff\xff\xff\xff\x0f" + b"a" * 1000,
        hello,
        hello + b"\x07/noise\n" + b"\xff\xff" + draw.randbytes(65_535),
        hello + b"\x07/noise\n" + b"\x00\x00" * 100,
        hello + hello * 100,
        b"\x00" * 1000,
    ):
        raw = socket.create_connection(("127.0.0.1", port), timeout=10)
        with contextlib.suppress(OSError):  # to hang up while we talk is its right
            raw.sendall(data)
        open_ones.append(raw)
    for raw in open_ones[::2]:
        raw.close()
    assert healthy(first)
    first.add(BEES)
    second = daemons.run(daemons.home("second", "--join", first.address))
    eventually(lambda: BEES in second.texts(BEES), "a real peer to be served beside the garbage")
    for raw in open_ones[1::2]:
        raw.close()
    assert healthy(first)
    assert "Traceback" not in first.log.read_text()


def test_a_disk_that_is_full_loses_nothing_acknowledged(daemons: Daemons) -> None:
    """The limit of a file's size stands in for the disk: growing any file beyond it fails."""
    home = daemons.home("first")
    daemon = daemons.run(home)
    kept = [daemon.add(BEES)]
    limit = 600_000 + max(path.stat().st_size for path in home.glob("*.db*"))
    psutil.Process(daemon.process.pid).rlimit(resource.RLIMIT_FSIZE, (limit, limit))
    reply = None
    for number in range(500):
        reply = daemon.ask("POST", "/v1/entries", {"text": f"fact {number} " + "and so on " * 300})
        if reply.status != 201:
            break
        kept.append(reply.value["id"])
    assert reply is not None
    refused(reply, 507, "chain.db", "free some space")
    assert len(kept) > 10
    refused(daemon.ask("POST", "/v1/entries", {"text": "more"}), 507, "chain.db")
    status = daemon.get("/v1/status")
    assert "chain.db" in status["read_only"]
    done = daemons.command(home, "add", "more")
    assert (done.code, "chain.db" in done.complaint) == (ExitCode.READ_ONLY, True)
    assert "READ-ONLY" in daemons.command(home, "status").out
    assert BEES in daemon.texts(BEES)
    assert daemon.get(f"/v1/entries/{kept[-1]}")["id"] == kept[-1]
    verdict = daemon.ask("POST", "/v1/chain/verify").value
    assert (verdict["ok"], verdict["length"]) == (True, 3 + len(kept)), "and nothing else was kept"
    assert "Traceback" not in daemon.log.read_text()
    assert daemon.terminate() == 0

    again = daemons.run(home)
    assert again.get("/v1/status")["read_only"] is None
    for identifier in kept:
        assert again.get(f"/v1/entries/{identifier}")["id"] == identifier
    assert again.ask("POST", "/v1/chain/verify").value["length"] == 3 + len(kept)
    again.add("there is room again")
