"""The routes of reputation: who stands badly with this node for what it sent, and a pardon."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel

from chain.errors import ChainError
from chain.identity import AgentId, agent_from_text, peer_id
from dht.overlay.reputation import Standing
from node.api.service import NodeService
from node.errors import InvalidInput, NotFound


class StandingOut(BaseModel):
    """How one peer stands: `slowed` or `banned`; `banned_s` seconds more, `bans` so many times lately."""

    agent_id: str
    standing: str
    banned_s: float
    bans: int


class StandingsOut(BaseModel):
    """Everybody who does not stand well, in the routing table or not."""

    standings: list[StandingOut]


class PardonedOut(BaseModel):
    """Who is pardoned."""

    agent_id: str


def add_standing_routes(app: FastAPI, node: NodeService) -> None:
    """Mount the routes over `node`."""

    @app.get("/v1/standings", response_model=StandingsOut, tags=["node"], summary="Peers slowed or banned")
    async def standings() -> StandingsOut:
        found = node.standings().items()
        return StandingsOut(standings=[standing_out(agent, standing) for agent, standing in found])

    @app.delete(
        "/v1/standings/{agent}", response_model=PardonedOut, tags=["node"], summary="End a ban, forget why"
    )
    async def pardon(agent: str) -> PardonedOut:
        try:
            found = agent_from_text(agent)
        except ChainError as error:
            raise InvalidInput(f"{agent[:80]!r} is no agent's id ({error})") from error
        if not node.pardon(found):
            raise NotFound(f"nothing is held against {peer_id(found)}")
        return PardonedOut(agent_id=peer_id(found))


def standing_out(agent: AgentId, standing: Standing) -> StandingOut:
    """A standing as JSON."""
    return StandingOut(
        agent_id=peer_id(agent),
        standing=standing.word,
        banned_s=round(standing.banned_s, 1),
        bans=standing.bans,
    )
