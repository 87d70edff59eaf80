"""How the trust in an entry goes out as JSON (`crdt.trust`)."""

from __future__ import annotations

from pydantic import BaseModel, Field

from chain.vector import PPM
from crdt.trust import VOTE, Trust


class TrustOut(BaseModel):
    """What votes and assessments amount to for this node, whose trust root weighs them."""

    score: float = Field(description="0 to 1; 0.5 where nobody was heard")
    low: float = Field(description="the score's bounds, about 95 %")
    high: float
    rooted: int = Field(description="voices of agents that the trust root names")
    strangers: int = Field(description="all others, which together count one vote at most")
    up: float = Field(description="weighed votes for the entry")
    down: float = Field(description="weighed votes against it")


def trust_out(trust: Trust | None) -> TrustOut | None:
    """It as JSON; None for what nobody votes on."""
    if trust is None:
        return None
    return TrustOut(
        score=trust.score / PPM,
        low=trust.low / PPM,
        high=trust.high / PPM,
        rooted=trust.rooted,
        strangers=trust.strangers,
        up=trust.up / VOTE,
        down=trust.down / VOTE,
    )
