"""Nodes of one network find each other by multicast on the loopback interface; those of another do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.node.real_daemons import Daemons, eventually

pytestmark = pytest.mark.slow


def told(home: Path, *lines: str) -> Path:
    with open(home / "config.toml", "a") as file:
        file.write("".join(f"{line}\n" for line in lines))
    return home


def test_a_node_whose_bootstrap_peer_is_gone_finds_its_network_by_multicast(daemons: Daemons) -> None:
    """The first comes back on another port and remembers nobody; a third belongs elsewhere."""
    first = told(daemons.home("first"), "mdns = true")
    daemon = daemons.run(first)
    second = daemons.home("second", "--join", daemon.address)
    assert daemon.terminate() == 0
    for home in (first, second):
        (home / "peers").unlink(missing_ok=True)
    third = told(daemons.home("third", "--name", "elsewhere"), "mdns = true", 'log_level = "debug"')
    foreign = daemons.run(third)
    daemon = daemons.run(first)
    joiner = daemons.run(told(second, "mdns = true"))

    def peers(of: object) -> list[str]:
        return [peer["agent_id"] for peer in of.get("/v1/peers")["peers"]]  # type: ignore[attr-defined]

    mine = {home: one.get("/v1/status")["agent_id"] for home, one in ((first, daemon), (second, joiner))}
    eventually(lambda: peers(joiner) == [mine[first]], "the joiner to know the first")
    eventually(lambda: peers(daemon) == [mine[second]], "the first to know the joiner")
    eventually(
        lambda: foreign.log.read_text().count("passed over on the local network") == 2,
        "the third to have asked both",
    )
    assert peers(foreign) == []
    assert peers(daemon) == [mine[second]]
    for one in (joiner, daemon, foreign):
        assert one.terminate() == 0


def test_by_itself_a_node_on_loopback_shouts_nothing(daemons: Daemons) -> None:
    daemon = daemons.run(told(daemons.home("first"), 'log_level = "debug"'))
    assert daemon.get("/v1/config")["mdns"] == {"value": None, "origin": "default"}
    assert daemon.terminate() == 0
    assert "local network" not in daemon.log.read_text()
