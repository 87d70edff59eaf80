"""The route that shows how entries relate to one another: as JSON, the same for equal graphs, or as DOT."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import FastAPI, Path, Query
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel, Field

from chain.cid import to_text
from chain.identity import peer_id
from node.api.editing import entry_id
from node.api.service import NodeService
from node.api.trust import TrustOut, trust_out
from node.graph.dot import dot_of
from node.graph.exploration import BOTH, MAX_DEPTH, MAX_NODES, Graph, Node

DOT_TYPE = "text/vnd.graphviz; charset=utf-8"


class SourceOut(BaseModel):
    """Where an entry says that something stands."""

    source: str
    link: str | None


class NodeOut(BaseModel):
    """An entry of the graph."""

    id: str
    distance: int = Field(description="relations from the start, whichever way they point")
    state: Literal["known", "unknown", "unread"] = Field(
        description="unknown: nobody showed it, which is legal; unread: there was no time for it"
    )
    beyond: int = Field(description="relations that it states to entries outside this graph")
    author: str | None = None
    title: str | None = None
    excerpt: str | None = None
    flags: list[str] = Field(default=[], description="private, deleted, retracted, conflict")
    trust: TrustOut | None = None
    sources: list[SourceOut] = Field(default=[], description="the first 16 by name")
    sources_total: int = 0


class EdgeOut(BaseModel):
    """The subject says that it stands in this relation to the object."""

    subject: str
    predicate: str
    object: str


class GraphOut(BaseModel):
    """Entries by (distance, id), the relations among them, and what is missing."""

    start: str
    depth: int
    direction: Literal["out", "in", "both"]
    incoming: Literal["as held here", "not asked for"] = Field(
        description="relations to an entry stand at others; a node knows those that it holds or made"
    )
    truncated: list[str] = Field(
        description="limit: more entries; time: not all were read; incoming: more entries may relate to one; "
        "references: an entry has more than are shown"
    )
    nodes: list[NodeOut]
    edges: list[EdgeOut]


def add_graph_route(app: FastAPI, node: NodeService) -> None:
    """Mount the route."""

    @app.get(
        "/v1/entries/{id}/graph",
        response_model=GraphOut,
        responses={200: {"content": {"text/vnd.graphviz": {}}}},
        tags=["knowledge"],
        summary="The entries that an entry relates to and that relate to it, and so on",
    )
    async def graph(
        id: Annotated[str, Path(description="the CID of the entry's create record")],
        depth: Annotated[int, Query(ge=0, le=MAX_DEPTH, description="relations from the entry")] = 2,
        limit: Annotated[int, Query(ge=1, le=MAX_NODES, description="entries at most")] = 64,
        direction: Annotated[
            Literal["out", "in", "both"],
            Query(description="follow relations that entries state, those to them, or both"),
        ] = BOTH,
        format: Annotated[Literal["json", "dot"], Query(description="dot: for Graphviz")] = "json",
    ) -> GraphOut | Response:
        found = await node.graph(entry_id(id), depth, limit, direction)
        if format == "dot":
            return PlainTextResponse(dot_of(found), media_type=DOT_TYPE)
        return graph_out(found)


def graph_out(graph: Graph) -> GraphOut:
    """A graph as JSON."""
    return GraphOut.model_validate(
        {
            "start": to_text(graph.start),
            "depth": graph.depth,
            "direction": graph.direction,
            "incoming": "not asked for" if graph.direction == "out" else "as held here",
            "truncated": list(graph.truncated),
            "nodes": [_node_out(node) for node in graph.nodes],
            "edges": [
                EdgeOut(subject=to_text(one.subject), predicate=one.predicate, object=to_text(one.object))
                for one in graph.edges
            ],
        }
    )


def _node_out(node: Node) -> NodeOut:
    seen = node.seen
    if seen is None:
        state: Literal["unknown", "unread"] = "unknown" if node.read else "unread"
        return NodeOut(id=to_text(node.id), distance=node.distance, state=state, beyond=node.beyond)
    return NodeOut(
        id=to_text(node.id),
        distance=node.distance,
        state="known",
        beyond=node.beyond,
        author=peer_id(seen.author),
        title=seen.title,
        excerpt=seen.excerpt,
        flags=list(seen.flags),
        trust=trust_out(seen.trust),
        sources=[SourceOut(source=one.source, link=one.link) for one in seen.sources],
        sources_total=seen.sources_total,
    )
