"""The routes of moderation: what this node's owner does not want to see or hold."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel

from node.api.service import NodeService
from node.api.shape import Shape
from node.moderation import Block, target_of, target_text


class BlockIn(Shape):
    """An agent's id or an entry's, and why, for the owner to remember."""

    target: str
    reason: str = ""


class BlockOut(BaseModel):
    """One block; `since_us` in µs since 1970."""

    target: str
    since_us: int
    reason: str


class BlocksOut(BaseModel):
    """All blocks, oldest first."""

    blocks: list[BlockOut]


class BlockedOut(BaseModel):
    """What is blocked now; `created` is false when it was before."""

    target: str
    created: bool


class UnblockedOut(BaseModel):
    """What is blocked no more."""

    target: str


def add_moderation_routes(app: FastAPI, node: NodeService) -> None:
    """Mount the routes over `node`."""

    @app.get("/v1/blocks", response_model=BlocksOut, tags=["node"], summary="What is blocked on this node")
    async def blocks() -> BlocksOut:
        return BlocksOut(blocks=[_block_out(block) for block in node.blocked()])

    @app.post(
        "/v1/blocks",
        response_model=BlockedOut,
        tags=["node"],
        summary="Neither show nor hold anything of an agent, or an entry",
    )
    async def block(body: BlockIn) -> BlockedOut:
        target = target_of(body.target)
        return BlockedOut(target=target_text(target), created=await node.block(target, body.reason))

    @app.delete(
        "/v1/blocks/{target}", response_model=UnblockedOut, tags=["node"], summary="Take a block back"
    )
    async def unblock(target: str) -> UnblockedOut:
        found = target_of(target)
        await node.unblock(found)
        return UnblockedOut(target=target_text(found))


def _block_out(block: Block) -> BlockOut:
    return BlockOut(target=target_text(block.target), since_us=block.since_us, reason=block.reason)
