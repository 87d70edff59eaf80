"""The command line as a user meets it: processes against a served node, exit codes, one-line errors."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import trio

from chain.cid import to_text
from node.api.server import serve_api
from node.cli import cli
from node.commands.exit_codes import EXIT_CODES, ExitCode, exit_code_of
from node.commands.output import in_line, printable
from node.config import Settings, write_initial_config
from node.home import DaemonInfo, Home
from tests.node.memory_node import MemoryNode

TOKEN = "t" * 43


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The only line on stderr."""
        (line,) = self.err.splitlines()
        assert line.startswith("roseforest: ")
        return line


async def command(*arguments: str, home: Path, data: bytes = b"", **variables: str) -> Done:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ROSEFOREST_")}
    environment |= {"ROSEFOREST_HOME": str(home), **variables}
    with trio.fail_after(30):
        done = await trio.run_process(
            [sys.executable, "-m", "node", *arguments],
            stdin=data,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment,
        )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@dataclass(frozen=True, slots=True)
class Running:
    """A served node with its home folder."""

    home: Home
    node: MemoryNode
    stop: trio.Event

    async def __call__(self, *arguments: str, data: bytes = b"", **variables: str) -> Done:
        return await command(*arguments, home=self.home.root, data=data, **variables)


def make_home(root: Path) -> Home:
    home = Home(root)
    home.create_folders()
    home.write_key(bytes(range(32)))
    home.write_manifest(b"constitution")
    home.ensure_token(TOKEN)
    return home


@asynccontextmanager
async def served(tmp_path: Path) -> AsyncIterator[Running]:
    home, node, stop = make_home(tmp_path / "home"), MemoryNode(), trio.Event()
    with home.locked():
        async with trio.open_nursery() as nursery:
            url = await nursery.start(serve_api, node, Settings(), TOKEN, stop)
            home.write_daemon(DaemonInfo(os.getpid(), url, ()))
            yield Running(home, node, stop)
            nursery.cancel_scope.cancel()


@pytest.fixture
async def rose(tmp_path: Path) -> AsyncIterator[Running]:
    async with served(tmp_path) as running:
        yield running


async def test_add_query_and_get(rose: Running) -> None:
    added = await rose("add", "Bees dance.", "--tag", "bees", "--confidence", "0.5", "--json")
    assert added.code == 0
    assert added.value["created"] is True
    piped = await rose("add", data="Käfer krabbeln.\n".encode())
    assert piped.code == 0
    found = await rose("query", "Käfer krabbeln.", "-k", "1", "--json")
    assert [hit["text"] for hit in found.value["hits"]] == ["Käfer krabbeln."]
    assert found.value["hits"][0]["id"] == piped.out.strip()
    tagged = await rose("query", "anything", "--tag", "bees", "--json")
    assert [hit["id"] for hit in tagged.value["hits"]] == [added.value["id"]]
    human = await rose("query", "Bees dance.")
    assert "Bees dance." in human.out
    assert "of 1 shards" in human.err
    shown = await rose("get", piped.out.strip(), "--provenance", "--json")
    assert len(shown.value["records"]) == 1


async def test_what_a_stranger_wrote_cannot_drive_the_terminal(rose: Running) -> None:
    await rose("add", data=b"\x1b]0;owned\x07 red \xc2\x9b31m \xe2\x80\xae drow")
    for arguments in (("query", "x"), ("query", "x", "--json")):
        shown = (await rose(*arguments)).out
        assert not set(shown) & {"\x1b", "\x07", "\x9b", "\u202e"}


@pytest.mark.parametrize(
    "text", ["plain", "tab\tand\nline", "\x1b[0m", "\x7f", "\u202e", "\U000e0001", "\ud800"]
)
def test_printable_keeps_text_and_shows_the_rest(text: str) -> None:
    shown = printable(text)
    assert all(char.isprintable() or char in "\n\t" for char in shown)
    assert (shown == text) == all(char.isprintable() or char in "\n\t" for char in text)
    assert in_line(text).isprintable()


async def test_vectors_come_from_a_file_and_bad_ones_are_refused(rose: Running, tmp_path: Path) -> None:
    file = tmp_path / "vector.json"
    for content, code in (
        ("[1, 2, 3, 4, 5, 6, 7, 8.5]", ExitCode.OK),
        ("[0, 0, 0, 0, 0, 0, 0, 0]", ExitCode.REFUSED),
        ("[NaN, 1, 1, 1, 1, 1, 1, 1]", ExitCode.REFUSED),
        ("[1, 2]", ExitCode.REFUSED),
        ('{"x": 1}', ExitCode.REFUSED),
        ("[", ExitCode.REFUSED),
    ):
        file.write_text(content)
        done = await rose("add", "with a vector", "--vector", str(file))
        assert done.code == code, content
        if code:
            assert done.complaint
    assert (await rose("query", "--vector", str(tmp_path / "none"))).code == ExitCode.REFUSED


async def test_refusals_have_their_exit_codes_and_one_line(rose: Running) -> None:
    unknown = await rose("get", to_text(rose.node.records[0].cid))
    assert (unknown.code, "no entry" in unknown.complaint) == (ExitCode.NOT_FOUND, True)
    malformed = await rose("get", "nonsense")
    assert (malformed.code, "not a CID" in malformed.complaint) == (ExitCode.REFUSED, True)
    assert (await rose("get", "../status")).code == ExitCode.NOT_FOUND
    too_long = await rose("add", data=b"x" * 70_000)
    assert (too_long.code, "65536" in too_long.complaint) == (ExitCode.REFUSED, True)
    assert (await rose("add", data=b"x" * 200_000)).code == ExitCode.REFUSED
    assert (await rose("add", data=b"\xff")).code == ExitCode.REFUSED
    rose.node.full = True
    full = await rose("add", "x")
    assert (full.code, "disk" in full.complaint) == (ExitCode.READ_ONLY, True)
    for wrong in (("query",), ("query", "x", "-k", "0"), ("nothing",), ("add", "--nothing"), ("import",)):
        usage = await rose(*wrong)
        assert usage.code == ExitCode.USAGE, wrong
        assert "--help" in usage.complaint


async def test_a_wrong_token_is_refused_by_the_daemon(rose: Running) -> None:
    rose.home.token.write_text("u" * 43 + "\n")
    done = await rose("status")
    assert (done.code, "api-token" in done.complaint) == (ExitCode.DAMAGED, True)


async def test_chain_index_status_peers_and_config_speak_json(rose: Running) -> None:
    await rose("add", "x")
    assert (await rose("chain", "verify", "--json")).value["length"] == 4
    assert [
        record["seq"] for record in (await rose("chain", "log", "--from", "2", "--json")).value["records"]
    ] == [2, 3]
    assert (await rose("index", "rebuild", "--json")).value == {"vectors": 1}
    assert (await rose("status", "--json")).value["records"] == 4
    assert len((await rose("peers", "--json")).value["peers"]) == 1
    assert (await rose("config", "show", "--json")).value["capacity"] == 100
    del rose.node.records[1]
    broken = await rose("chain", "verify", "--json")
    assert (broken.code, broken.value["ok"]) == (ExitCode.DAMAGED, False)


async def test_people_get_lines(rose: Running) -> None:
    await rose("add", "x")
    for arguments, expected in (
        (("status",), "agent      12D3Koo"),
        (("peers",), "/ip4/127.0.0.1/tcp/1"),
        (("chain", "log"), "entry.create"),
        (("chain", "verify"), "ok: 4 records"),
        (("index", "rebuild"), "1 vectors"),
        (("config", "show", "--origin"), "# default"),
    ):
        done = await rose(*arguments)
        assert (done.code, expected in done.out) == (0, True), done


async def test_an_import_names_bad_lines_keeps_the_good_ones_and_can_be_run_again(
    rose: Running, tmp_path: Path
) -> None:
    lines = [
        '{"text": "one"}',
        "{",
        '{"text": "two", "tags": ["t"]}',
        '{"text": 3}',
        '{"text": "four", "vector": [1]}',
    ]
    file = tmp_path / "corpus.jsonl"
    file.write_text("\n".join(lines))
    done = await rose("import", str(file), "--json")
    assert done.code == ExitCode.PARTLY_DONE
    assert (done.value["read"], done.value["added"], done.value["bad"]) == (5, 2, 3)
    assert sorted(line["line"] for line in done.value["bad_lines"]) == [2, 4, 5]
    again = await rose("import", str(file))
    assert again.code == ExitCode.PARTLY_DONE
    assert "0 added, 2 known before" in again.out
    assert "line 2: " in again.err
    assert len(rose.node.records) == 5


@pytest.mark.slow
async def test_parts_of_an_import_make_the_whole(rose: Running, tmp_path: Path) -> None:
    data = "".join(f'{{"text": "entry {number}"}}\n' for number in range(1000)).encode()
    added = [
        (await rose("import", "-", "--part", f"{part}/3", "--json", data=data)).value["added"]
        for part in (1, 2, 3)
    ]
    assert sorted(added) == [333, 333, 334]
    assert (await rose("import", "-", "--json", data=data)).value["known"] == 1000
    for bad in ("0/3", "4/3", "1", "a/b"):
        assert (await rose("import", "-", "--part", bad)).code == ExitCode.USAGE
    assert (await rose("import", str(tmp_path / "none"))).code == ExitCode.REFUSED
    assert (await rose("import", str(tmp_path))).code == ExitCode.REFUSED


async def test_an_import_into_a_full_node_says_how_far_it_came(rose: Running) -> None:
    rose.node.full = True
    done = await rose("import", "-", data=b'{"text": "one"}\n')
    assert (done.code, "disk" in done.complaint) == (ExitCode.READ_ONLY, True)


async def test_stop_waits_until_the_home_is_free(tmp_path: Path) -> None:
    home, node, stop = make_home(tmp_path / "home"), MemoryNode(), trio.Event()

    async def daemon(task_status: trio.TaskStatus[None]) -> None:
        with home.locked():
            async with trio.open_nursery() as nursery:
                url = await nursery.start(serve_api, node, Settings(), TOKEN, stop)
                home.write_daemon(DaemonInfo(os.getpid(), url, ()))
                task_status.started()

    async with trio.open_nursery() as nursery:
        await nursery.start(daemon)
        done = await command("stop", "--json", home=home.root)
    assert (done.code, done.value["stopped"]) == (0, True)
    assert home.locked_by() is None


async def test_without_a_daemon_the_line_says_how_to_start_one(tmp_path: Path) -> None:
    nowhere = await command("status", home=tmp_path / "nowhere")
    assert (nowhere.code, "roseforest init" in nowhere.complaint) == (ExitCode.DAMAGED, True)
    home = make_home(tmp_path / "home")
    for arguments in (("status",), ("query", "x"), ("add", "x"), ("stop",), ("get", "x"), ("peers",)):
        done = await command(*arguments, home=home.root)
        assert (done.code, "roseforest run" in done.complaint) == (ExitCode.NO_DAEMON, True), arguments
    with home.locked():
        starting = await command("status", home=home.root)
        assert (starting.code, "not ready yet" in starting.complaint) == (ExitCode.NO_DAEMON, True)
        home.write_daemon(DaemonInfo(1, "http://127.0.0.1:9", ()))
        silent = await command("status", home=home.root)
        assert (silent.code, "does not answer" in silent.complaint) == (ExitCode.NO_DAEMON, True)


async def test_config_show_without_a_daemon_shows_what_run_would_use(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    write_initial_config(home, ("/ip4/127.0.0.1/tcp/7",), "127.0.0.1:8", ())
    done = await command("config", "show", "--origin", "--json", home=home.root, ROSEFOREST_CAPACITY="0")
    assert done.value["capacity"] == {"value": 0, "origin": "environment ROSEFOREST_CAPACITY"}
    assert done.value["api"] == {"value": "127.0.0.1:8", "origin": f"file {home.config}"}
    home.config.write_text("capacitty = 1\n")
    for arguments in (("config", "show"), ("run",)):
        bad = await command(*arguments, home=home.root)
        assert (bad.code, "capacitty" in bad.complaint) == (ExitCode.DAMAGED, True)


async def test_every_command_has_help_and_json(tmp_path: Path) -> None:
    """A group has its commands' own."""
    context = click.Context(cli)
    pending = [(name, cli.get_command(context, name)) for name in cli.list_commands(context)]
    names = {name for name, _ in pending}
    assert names >= {
        *("init", "run", "stop", "status", "peers", "add", "import", "get", "query"),
        *("chain", "index", "config", "completion", "testnet", "demo"),
    }
    while pending:
        name, found = pending.pop()
        assert found is not None
        assert found.help, name
        if isinstance(found, click.Group):
            pending += [
                (f"{name} {sub}", found.get_command(context, sub)) for sub in found.list_commands(context)
            ]
        else:
            assert any("--json" in option.opts for option in found.params), name
    assert (await command("--version", home=tmp_path)).out.startswith("roseforest 0.1")
    assert (await command("completion", "bash", home=tmp_path)).out.count("_ROSEFOREST_COMPLETE") >= 1


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys; from node.cli import run; code = run(['--help']); "
        "heavy = {'trio', 'pydantic', 'fastapi', 'numpy', 'faiss', 'libp2p', 'rich', 'sqlite3', 'nacl'}; "
        "print('HEAVY', sorted(heavy & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_the_table_of_exit_codes_names_classes_that_exist() -> None:
    for name in EXIT_CODES:
        module, _, kind = name.rpartition(".")
        assert issubclass(getattr(importlib.import_module(module), kind), Exception), name


def test_the_most_specific_class_decides() -> None:
    from dht.errors import ListenError, PeerUnreachable

    assert exit_code_of(ListenError("taken")) is ExitCode.IN_USE
    assert exit_code_of(PeerUnreachable("silent")) is ExitCode.NETWORK
    assert exit_code_of(RuntimeError("defect")) is ExitCode.UNEXPECTED


async def test_an_unexpected_error_is_one_line_unless_asked_for_more(rose: Running) -> None:
    rose.node.records.append(None)  # type: ignore[arg-type]
    done = await rose("chain", "log")
    assert (done.code, "log" in done.complaint) == (ExitCode.UNEXPECTED, True)
    assert "Traceback" in (await rose("chain", "log", ROSEFOREST_DEBUG="1")).err
