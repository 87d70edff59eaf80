"""The route that makes an invite, for the owner to pass on."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel, Field

from chain.identity import agent_from_text
from chain.invitation import MAX_UNTIL
from node.api.shape import Shape
from node.errors import InvalidInput
from node.inviting import DEFAULT_LINK_S, MAX_LINK_S, Inviting


class InviteIn(Shape):
    """Whom to invite: an agent, or nobody in particular for a link that the first guest uses up."""

    agent: Annotated[str, Field(max_length=100)] | None = Field(
        default=None, description="the guest's agent id, or its did:key"
    )
    inviter: bool = Field(default=False, description="the guest may invite others")
    until: Annotated[int, Field(ge=0, le=MAX_UNTIL)] | None = Field(
        default=None, description="last epoch in which the guest's own guests may begin"
    )
    lasts_s: Annotated[int, Field(ge=1, le=MAX_LINK_S)] | None = Field(
        default=None, description=f"seconds until a link lapses; {DEFAULT_LINK_S} unless given"
    )


class InviteOut(BaseModel):
    """The invite."""

    invite: str


def add_inviting_routes(app: FastAPI, inviting: Inviting) -> None:
    """Mount the route."""

    @app.post(
        "/v1/network/invites",
        response_model=InviteOut,
        status_code=201,
        tags=["network"],
        summary="One line that lets a guest join",
    )
    async def invite(asked: InviteIn) -> InviteOut:
        if asked.agent is None:
            if asked.inviter or asked.until is not None:
                raise InvalidInput("a link names nobody, so it makes nobody an inviter: give an agent")
            return InviteOut(invite=await inviting.link(asked.lasts_s or DEFAULT_LINK_S))
        if asked.lasts_s is not None:
            raise InvalidInput("an invite that names an agent does not lapse: leave the agent out for a link")
        guest = agent_from_text(asked.agent)
        return InviteOut(invite=await inviting.invite(guest, as_inviter=asked.inviter, until=asked.until))
