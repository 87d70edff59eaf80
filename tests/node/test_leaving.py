"""Stopping a daemon in order: what only enough nodes held together, the others have before it is gone."""

from __future__ import annotations

import pytest

from tests.node.real_daemons import Daemons, eventually

pytestmark = pytest.mark.slow

ENTRIES = 30


def test_after_a_stop_every_copy_is_made_up_for_so_that_two_more_may_die(daemons: Daemons) -> None:
    """Four nodes, R = 3: without a hand-over the last one would lack what it was never a holder of."""
    founder = daemons.run(daemons.home("node-1", "--name", "leaving"))
    address = founder.address
    others = []
    for number in range(2, 5):
        home = daemons.home(f"node-{number}", "--join", address)
        others.append(daemons.run(home, "--bootstrap", address, "--leave-seconds", "20"))
    everyone = [founder, *others]
    eventually(lambda: all(d.get("/v1/status")["peers"] == 3 for d in everyone), "four nodes to meet")
    ids = [others[0].add(f"entry {number}") for number in range(ENTRIES)]
    eventually(lambda: all(d.get("/v1/status")["pending"] == 0 for d in everyone), "all to be placed")

    leaver = others[1].get("/v1/status")["agent_id"]
    stopped = daemons.command(others[1].home, "stop")
    assert stopped.code == 0, stopped
    assert "0 bases short of a copy" in others[1].log.read_text()
    assert leaver not in [peer["agent_id"] for peer in founder.get("/v1/peers")["peers"]]
    others[0].kill()
    others[2].kill()
    for number, id_ in enumerate(ids):
        assert founder.get(f"/v1/entries/{id_}")["text"] == f"entry {number}"
    # The two that died are noticed a moment later; then there is nobody left to lack anything.
    eventually(
        lambda: founder.get("/v1/status")["under_replicated"] == 0, "the founder to see that it is alone"
    )
