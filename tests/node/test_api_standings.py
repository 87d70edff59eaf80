"""Who stands badly can be seen and pardoned over HTTP."""

from __future__ import annotations

from chain.identity import peer_id
from dht.overlay.reputation import BANNED_FROM, SLOWED_FROM
from tests.node.test_api import serving

BANNED, SLOWED = bytes([1]) * 32, bytes([2]) * 32


async def test_standings_are_listed_and_pardoned_once() -> None:
    async with serving() as served:
        served.node.reputation.blame(BANNED, BANNED_FROM, 0.0)
        served.node.reputation.blame(SLOWED, SLOWED_FROM, 0.0)
        listed = (await served.get("/v1/standings")).value["standings"]
        assert [(one["agent_id"], one["standing"], one["bans"]) for one in listed] == [
            (peer_id(BANNED), "banned", 1),
            (peer_id(SLOWED), "slowed", 0),
        ]
        path = f"/v1/standings/{peer_id(BANNED)}"
        assert (await served.call("DELETE", path, None)).value == {"agent_id": peer_id(BANNED)}
        assert (await served.call("DELETE", path, None)).status == 404
        assert (await served.call("DELETE", "/v1/standings/nobody", None)).status == 422
        assert (await served.get("/v1/peers")).value["peers"][0]["standing"] == "good"
