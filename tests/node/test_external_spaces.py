"""Networks whose vectors come from an endpoint: founded, joined with it, and joined without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.commands.exit_codes import ExitCode
from tests.node.real_daemons import Daemon, Daemons, eventually
from tests.node.stub_endpoint import DIM, MODEL, Stub, embedding, status, stub_endpoint, vectors

pytestmark = pytest.mark.slow

SPACE = f"openai:{MODEL}"
BEES = "bees see ultraviolet light"
BREAD = "yeast makes dough rise"


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_endpoint() as server:
        yield server


def founded(daemons: Daemons, stub: Stub) -> Path:
    return daemons.home("first", "--embedder", SPACE, "--dims", str(DIM), "--embedder-url", stub.url)


def finds(daemon: Daemon, question: str) -> list[str]:
    reply = daemon.ask("POST", "/v1/query", {"text": question, "k": 1})
    return [hit["text"] for hit in reply.value["hits"]] if reply.status == 200 else []


def settled(daemon: Daemon, peers: int) -> bool:
    status = daemon.get("/v1/status")
    return bool(status["peers"] == peers and status["pending"] == 0)


def test_a_network_of_an_endpoints_space_and_a_member_without_it(daemons: Daemons, stub: Stub) -> None:
    home = founded(daemons, stub)
    assert f'[embedder]\nurl = "{stub.url}"' in (home / "config.toml").read_text()
    first = daemons.run(home)
    first.add(BEES)
    first.add(BREAD)
    assert finds(first, "what do bees see") == [BEES]
    assert first.get("/v1/status")["space"] == SPACE

    second = daemons.home("second", "--join", first.address, "--embedder-url", stub.url)
    lacking = daemons.folder / "third"
    done = daemons.command(lacking, "init", "--join", first.address, "--json")
    assert done.code == 0
    assert "[embedder] of config.toml" in done.value["lacking"]
    member, holder = daemons.run(second), daemons.run(lacking)
    eventually(lambda: finds(member, "light that bees see") == [BEES], "the member to find by text")
    eventually(lambda: holder.get("/v1/status")["held"] > 0, "the holder to hold")
    for path, body in (("/v1/entries", {"text": "no"}), ("/v1/query", {"text": "no"})):
        refusal = holder.ask("POST", path, body)
        assert (refusal.status, "no embedder" in refusal.message) == (422, True)
    eventually(lambda: settled(first, peers=2), "both to hold what the first added")
    assert first.terminate() == 0
    eventually(lambda: finds(member, "yeast dough") == [BREAD], "an answer that the others hold")


def test_an_endpoint_that_fails_is_one_line_and_nothing_is_added(daemons: Daemons, stub: Stub) -> None:
    home = founded(daemons, stub)
    config = home / "config.toml"
    config.write_text("query_check_texts = true\n" + config.read_text() + "retries = 0\n")
    daemon = daemons.run(home)
    stub.script.append(status(500, "out of memory"))
    done = daemons.command(home, "add", BEES)
    assert (done.code, "out of memory" in done.complaint) == (ExitCode.NO_DAEMON, True)
    stub.script.append(vectors(lambda texts: [embedding("a", 7)]))
    reply = daemon.ask("POST", "/v1/query", {"text": "bees"})
    assert (reply.status, reply.value["error"]["code"]) == (503, "embedder")
    assert daemon.get("/v1/status")["records"] == 3
    daemon.add(BEES)
    asked = len(stub.asked)
    cost = daemon.ask("POST", "/v1/query", {"text": "bees", "k": 1}).value["cost"]
    assert (cost["texts_checked"], cost["texts_unlike"]) == (1, 0)
    assert len(stub.asked) == asked + 2, "the question, and the one hit's text"
    assert finds(daemon, "bees") == [BEES]


def test_an_embedder_is_tried_before_anything_is_signed(daemons: Daemons, stub: Stub) -> None:
    home = daemons.folder / "wrong"
    founding = ("init", "--embedder", SPACE, "--join-bits", "2")
    done = daemons.command(home, *founding, "--dims", "7", "--embedder-url", stub.url)
    assert (done.code, f"{DIM} dimensions" in done.complaint) == (ExitCode.NETWORK, True)
    assert not (home / "chain.db").exists()
    assert not (home / "config.toml").exists()
    done = daemons.command(home, *founding, "--dims", str(DIM), "--embedder-url", stub.url)
    assert done.code == 0, "what went wrong before is put right"
    assert "no atlas" in done.err

    other = daemons.folder / "other"
    assert daemons.command(other, *founding).code == ExitCode.USAGE
    refused = daemons.command(other, "init", "--embedder", "word2vec", "--dims", "7")
    assert (refused.code, "openai:NAME" in refused.complaint) == (ExitCode.REFUSED, True)


def test_the_embedders_key_comes_from_the_environment_alone(daemons: Daemons, stub: Stub) -> None:
    home = founded(daemons, stub)
    with open(home / "config.toml", "a") as file:
        file.write('api_key = "secret"\n')
    done = daemons.command(home, "config", "show")
    assert (done.code, "ROSEFOREST_EMBEDDER_KEY" in done.complaint) == (ExitCode.DAMAGED, True)
    assert "secret" not in done.complaint
    keyed = daemons.command(
        daemons.folder / "keyed",
        *("init", "--embedder", SPACE, "--dims", str(DIM), "--embedder-url", stub.url),
        ROSEFOREST_EMBEDDER_KEY="secret",
    )
    assert keyed.code == 0
    assert stub.asked[-1][1] == "Bearer secret"
    assert "secret" not in (daemons.folder / "keyed" / "config.toml").read_text()
