"""The routes about the agent as a whole: close its chain, rotate its key, publish a revocation."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from fastapi import FastAPI, Path
from pydantic import BaseModel, Field

from chain.cid import to_text
from chain.errors import IdentityError
from chain.identity import AgentId, agent_from_text, peer_id
from chain.record import MAX_INT
from node.agent_life import AgentLife
from node.api.problems import BadId
from node.api.shape import Shape
from node.api.shapes import RecordOut, record_out
from node.errors import InvalidInput

MAX_TEXT = 1024


class CloseIn(Shape):
    """The agent whose chain is closed: this node's own, said to be sure."""

    agent: Annotated[str, Field(max_length=MAX_TEXT)]


class RotateIn(Shape):
    """The new key, and its consent in base64."""

    successor: Annotated[str, Field(max_length=MAX_TEXT)]
    consent: Annotated[str, Field(max_length=MAX_TEXT)]


class RevokeIn(Shape):
    """A statement of the recovery key in base64."""

    statement: Annotated[str, Field(max_length=MAX_TEXT)]


class PlaceOut(BaseModel):
    """The record at one place of an agent's chain."""

    id: str


class WhoseOut(BaseModel):
    """The keys of one agent, and whether it is heard."""

    agent_id: str
    successors: list[str]
    same: list[str]
    excluded_from: int | None
    revoked: bool


def add_agent_routes(app: FastAPI, life: AgentLife) -> None:
    """Mount the routes."""

    @app.post(
        "/v1/chain/close", response_model=RecordOut, tags=["chain"], summary="Close the own chain for ever"
    )
    async def close(said: CloseIn) -> RecordOut:
        return record_out(await life.close(_agent(said.agent)), False)

    @app.post(
        "/v1/chain/rotate",
        response_model=RecordOut,
        tags=["chain"],
        summary="End the own chain in favour of a new key",
    )
    async def rotate(said: RotateIn) -> RecordOut:
        return record_out(await life.rotate(_agent(said.successor), _bytes(said.consent)), True)

    @app.post(
        "/v1/revocations",
        response_model=RecordOut,
        status_code=201,
        tags=["chain"],
        summary="Publish that a recovery key revokes its agent's signing key",
    )
    async def revoke(said: RevokeIn) -> RecordOut:
        return record_out(await life.revoke(_bytes(said.statement)), False)

    @app.get(
        "/v1/agents/{agent}",
        response_model=WhoseOut,
        tags=["chain"],
        summary="Under which other keys an agent goes on, and whether it is heard",
    )
    async def whose(agent: Annotated[str, Path(max_length=MAX_TEXT)]) -> WhoseOut:
        found = life.whose(_agent(agent))
        return WhoseOut(
            agent_id=peer_id(found.agent),
            successors=[peer_id(one) for one in found.successors],
            same=[peer_id(one) for one in found.same],
            excluded_from=found.since,
            revoked=found.revoked,
        )

    @app.get(
        "/v1/agents/{agent}/records/{seq}",
        response_model=PlaceOut,
        tags=["chain"],
        summary="Which record stands at a place of an agent's chain",
    )
    async def place(
        agent: Annotated[str, Path(max_length=MAX_TEXT)], seq: Annotated[int, Path(ge=0, le=MAX_INT)]
    ) -> PlaceOut:
        return PlaceOut(id=to_text(await life.record_at(_agent(agent), seq)))


def _agent(text: str) -> AgentId:
    try:
        return agent_from_text(text)
    except IdentityError as error:
        raise BadId(str(error)) from error


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise InvalidInput("a statement is sent in base64") from error
