"""The route of questions: what may be asked, as JSON, and what an answer says.

Ids are CIDs in base32 text, agents libp2p peer ids, scores, confidences and recalls numbers from 0 to 1,
times ISO 8601. What cannot be met of a question is said in `cost.shortfall`; a value that makes no sense is
refused before anybody is asked.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field, model_validator

from chain.cid import to_text
from chain.content import MAX_DOMAIN, MAX_TAGS
from chain.identity import agent_from_text, peer_id
from chain.vector import MAX_DIM, PPM
from node.api.service import NodeService
from node.api.shape import Shape, Tag, Text, at_most
from node.api.shapes import RecordOut, record_out
from node.errors import InvalidInput
from node.models import Answer, Cost, HolderAsked, QueryOptions, Route, RoutedShard
from node.query.effort import advice
from node.query.filters import MAX_AUTHORS, MAX_DOMAINS, MAX_US, Filters
from node.query.question import DEFAULT_MODE

MAX_K = 100
"""Hits that one query may ask for."""
MAX_DEADLINE_MS = 60_000
MAX_TIME = 40
"""Characters of a time."""
MAX_AGENT = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Share = Annotated[float, Field(ge=0, le=1)]
Domain = Annotated[str, Field(min_length=1), at_most(MAX_DOMAIN)]
Agent = Annotated[str, Field(min_length=1, max_length=MAX_AGENT)]
Time = Annotated[str, Field(min_length=1, max_length=MAX_TIME)]


class QueryIn(Shape):
    """A question: `text`, or `vector` in networks whose space takes the caller's vectors.

    Both together with the mode hybrid or lexical: the vector then stands for what the text means.
    """

    text: Text | None = None
    vector: Annotated[list[float], Field(min_length=1, max_length=MAX_DIM)] | None = None
    k: int = Field(default=10, ge=1, le=MAX_K)
    tags: list[Tag] = Field(
        default=[], max_length=MAX_TAGS, description="only entries that bear all of these"
    )
    authors: list[Agent] = Field(
        default=[], max_length=MAX_AUTHORS, description="only what one of these agents wrote"
    )
    domains: list[Domain] = Field(
        default=[], max_length=MAX_DOMAINS, description="only what is of one of these fields of knowledge"
    )
    min_confidence: Share | None = Field(
        default=None, description="only what its author is as sure of, or surer"
    )
    since: Time | None = Field(
        default=None, description="only what was written then or later; ISO 8601, UTC where no zone is named"
    )
    until: Time | None = Field(default=None, description="only what was written before")
    effort: Literal["low", "medium", "high"] | None = Field(
        default=None,
        description="how much of the true best is wanted: .8, .95 (if not given) or .99 of it",
    )
    recall: Share | None = Field(default=None, description="the same as a number, instead of `effort`")
    deadline_ms: Annotated[int, Field(ge=1, le=MAX_DEADLINE_MS)] | None = None
    fresh: bool = Field(
        default=False,
        description="ask the entries' own holders whether the hits still stand, and give no kept answer",
    )
    mode: Literal["hybrid", "vector", "lexical"] | None = Field(
        default=None,
        description="order by vector and words together, by the vector's cosine, or by the words; "
        f"{DEFAULT_MODE} for a text if not given, vector for a vector",
    )
    cache: bool = Field(default=True, description="whether an answer kept from a moment ago will do")
    trace: bool = Field(default=False, description="show what each step of the query took")
    explain: bool = Field(default=False, description="show the route: shards, holders, and why")

    @model_validator(mode="after")
    def _one_of_both(self) -> QueryIn:
        both = self.text is not None and self.vector is not None and self.mode in ("hybrid", "lexical")
        if (self.text is None) == (self.vector is None) and not both:
            raise ValueError("give either text or vector, or both with the mode hybrid or lexical")
        if self.text is None and self.mode in ("hybrid", "lexical"):
            raise ValueError(f"the mode {self.mode} asks by words: give a text")
        if self.effort is not None and self.recall is not None:
            raise ValueError("give either effort or recall")
        return self

    def options(self) -> QueryOptions:
        """The node's noun; raises `InvalidInput` or `IdentityError` for what cannot be read."""
        since, until = (
            None if said is None else time_us(said, name)
            for said, name in ((self.since, "since"), (self.until, "until"))
        )
        if since is not None and until is not None and since >= until:
            raise InvalidInput(f"since {self.since} is not before until {self.until}")
        return QueryOptions(
            filters=Filters(
                authors=tuple(sorted({agent_from_text(one) for one in self.authors})),
                domains=tuple(sorted(set(self.domains))),
                confidence=None if self.min_confidence is None else round(self.min_confidence * PPM),
                since=since,
                until=until,
            ),
            effort=self.effort,
            recall_ppm=None if self.recall is None else round(self.recall * PPM),
            explain=self.explain,
            cache=self.cache,
            mode=self.mode,
        )


class HitOut(BaseModel):
    """One answer, verified by this node.

    `score` orders the hits: the cosine where only the vector counts, the score by words where only they do,
    and the middle of the two in hybrid mode. The score by words is 0 or more and may exceed 1.
    """

    id: str
    score: float
    vector_score: float = Field(description="cosine of the question's and the hit's vectors")
    lexical_score: float | None = Field(description="score by words; null where they were not asked for")
    author: str
    text: str
    tags: list[str]
    record: RecordOut
    holder: str
    verified: bool
    private: bool = False


class ShortfallOut(BaseModel):
    """What an answer lacks to the recall wanted, and the best offer; `advice` says it in one line."""

    wanted: float
    reached: float
    shards_missed: int
    deadline_ms: int | None = Field(description="the deadline that would have done; null: it was not that")
    effort: str | None = Field(description="the greatest effort that was met")
    advice: str


class CostOut(BaseModel):
    """What the answer cost, and how complete it is.

    `expected_recall` is the part of the true best that it should hold; null when no shard was asked.
    """

    shards_contacted: int
    shards_total: int
    nodes_contacted: int
    ms: float
    shards_missed: int
    deadline_hit: bool
    hits_refused: int
    hits_outdated: int
    heads_checked: int
    heads_changed: int
    suspects_asked: int = Field(
        default=0, description="requests to holders of whom an answer was lost, as nobody else was left"
    )
    expected_recall: float | None
    shortfall: ShortfallOut | None = None
    texts_checked: int = Field(default=0, description="hits whose text was embedded again, to compare")
    texts_unlike: int = Field(default=0, description="hits left out because their vector is not their text's")
    cached_s: float | None = Field(
        default=None,
        description="kept from so many seconds ago: but for `ms`, all figures are from then",
    )
    steps_ms: dict[str, float] | None = Field(
        default=None, description="milliseconds by step, when `trace` was asked for"
    )


class RoutedShardOut(BaseModel):
    """One shard: its prefix in bits, the part of the hits expected there, and what became of it."""

    shard: str
    generation: int
    expected: float
    asked: bool
    why: str
    answered_by: str | None


class HolderAskedOut(BaseModel):
    """One request; `ms` null: no answer came while it was waited for."""

    node: str
    shards: int
    complete: int
    hits: int
    at_ms: float
    ms: float | None
    again: bool
    here: bool
    slow: bool
    outcome: str
    problem: str | None


class RouteOut(BaseModel):
    """How the answer came to be: shards, the most expected first, and requests in the order they went out."""

    wanted: float
    shards: list[RoutedShardOut]
    asked: list[HolderAskedOut]


class AnswerOut(BaseModel):
    """Hits in order of falling score."""

    hits: list[HitOut]
    cost: CostOut
    route: RouteOut | None = Field(default=None, description="when `explain` was asked for")


def add_query_route(app: FastAPI, node: NodeService) -> None:
    """Mount the route over `node`."""

    @app.post("/v1/query", response_model=AnswerOut, tags=["knowledge"], summary="Ask the network by meaning")
    async def query(question: QueryIn) -> AnswerOut:
        answer = await node.query(
            question.text,
            question.vector,
            question.k,
            tuple(question.tags),
            question.deadline_ms,
            question.fresh,
            question.options(),
        )
        return answer_out(answer, question.trace)


def time_us(said: str, name: str) -> int:
    """A time in ISO 8601 as µs since 1970, UTC where it names no zone; raises `InvalidInput`."""
    try:
        when = datetime.fromisoformat(said)
        when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        us = (when - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            f"{name} {said!r} is not a time such as 2026-11-27 or 2026-11-27T08:30:00Z"
        ) from error
    if not 0 <= us <= MAX_US:
        raise InvalidInput(f"{name} {said!r} is before 1970")
    return us


def answer_out(answer: Answer, trace: bool = False) -> AnswerOut:
    """An answer as JSON; `trace`: with what its steps took."""
    return AnswerOut(
        hits=[
            HitOut(
                id=to_text(hit.id),
                score=hit.score / PPM,
                vector_score=hit.cosine / PPM,
                lexical_score=None if hit.lexical is None else hit.lexical / PPM,
                author=peer_id(hit.author),
                text=hit.text,
                tags=list(hit.tags),
                record=record_out(hit.record, data=True),
                holder=peer_id(hit.holder),
                verified=hit.verified,
                private=hit.private,
            )
            for hit in answer.hits
        ],
        cost=_cost_out(answer.cost, trace),
        route=None if answer.route is None else _route_out(answer.route),
    )


def _cost_out(cost: Cost, trace: bool) -> CostOut:
    short = cost.shortfall
    return CostOut(
        shards_contacted=cost.shards_contacted,
        shards_total=cost.shards_total,
        nodes_contacted=cost.nodes_contacted,
        ms=round(cost.ms, 2),
        shards_missed=cost.shards_missed,
        deadline_hit=cost.deadline_hit,
        hits_refused=cost.hits_refused,
        hits_outdated=cost.hits_outdated,
        heads_checked=cost.heads_checked,
        heads_changed=cost.heads_changed,
        suspects_asked=cost.suspects_asked,
        expected_recall=cost.expected_recall,
        shortfall=None
        if short is None
        else ShortfallOut(
            wanted=short.wanted_ppm / PPM,
            reached=short.reached_ppm / PPM,
            shards_missed=short.shards_missed,
            deadline_ms=short.deadline_ms,
            effort=short.effort,
            advice=advice(short),
        ),
        texts_checked=cost.texts_checked,
        texts_unlike=cost.texts_unlike,
        cached_s=None if cost.cached_s is None else round(cost.cached_s, 3),
        steps_ms=dict(cost.steps) if trace else None,
    )


def _route_out(route: Route) -> RouteOut:
    return RouteOut(
        wanted=route.wanted_ppm / PPM,
        shards=[_shard_out(one) for one in route.shards],
        asked=[_asked_out(one) for one in route.asked],
    )


def _shard_out(one: RoutedShard) -> RoutedShardOut:
    return RoutedShardOut(
        shard=one.shard.text(),
        generation=one.shard.generation,
        expected=one.expected_ppm / PPM,
        asked=one.asked,
        why=one.why,
        answered_by=None if one.answered_by is None else peer_id(one.answered_by),
    )


def _asked_out(one: HolderAsked) -> HolderAskedOut:
    return HolderAskedOut(
        node=peer_id(one.node),
        shards=one.shards,
        complete=one.complete,
        hits=one.hits,
        at_ms=one.at_ms,
        ms=one.ms,
        again=one.again,
        here=one.here,
        slow=one.slow,
        outcome=one.outcome,
        problem=one.problem,
    )
