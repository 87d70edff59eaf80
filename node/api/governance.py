"""The routes of warrants and epochs: who was proven to do wrong, and what the stewards decide."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from chain.cid import Cid, from_text, to_text
from chain.epoch import MAX_EPOCH_NUMBER, MAX_EXPELLED, MAX_LIFTED, MAX_RULES, Epoch, Expulsion
from chain.identity import SIGNATURE_SIZE, AgentId, agent_from_text, peer_id
from chain.manifest import MAX_STEWARDS
from chain.record import MAX_INT
from node.api.shape import Shape
from node.epochs import EpochView, Proposal
from node.errors import InvalidInput
from node.governance import Governance, WarrantView
from sharding.atlas import MAX_ATLAS_BYTES

STREAMED = frozenset({("POST", "/v1/atlases")})
"""Routes that read their body themselves, see `node.api.guard`."""

Id = Annotated[str, Field(max_length=200)]


class WarrantOut(BaseModel):
    """A proven offence, or a revocation (rule "revoked", by the agent's own recovery key).

    `since`: from which seq on nothing of the agent counts now, null when all does.
    """

    offender: str
    rule: str
    seq: int
    records: list[str]
    warrants: list[str]
    accusers: list[str]
    lifted: bool
    since: int | None


class WarrantsOut(BaseModel):
    """All that is proven, by offender and seq."""

    warrants: list[WarrantOut]


class ExpulsionShape(Shape):
    """An agent that is put out: nothing counts that it wrote from seq `since` on; `guests`: nor are its."""

    agent: Id
    since: int = Field(ge=0, le=MAX_INT)
    guests: bool = False


class ExpelIn(Shape):
    """An agent to be put out; without `since` what its holders show now still counts."""

    agent: Id
    since: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None


class EpochOut(BaseModel):
    """An epoch; the id of epoch 0 is the network's. `current`: this node works in it."""

    id: str
    number: int
    rules: int
    atlas: str | None
    lifted: list[str]
    current: bool
    expelled: list[ExpulsionShape]
    readmitted: list[str]


class EpochsOut(BaseModel):
    """The epochs known here, by number."""

    epochs: list[EpochOut]


class ProposeIn(Shape):
    """What the next epoch is to change; the rest stays. The atlas has been sent to `/v1/atlases`."""

    lift: list[Id] = Field(default=[], max_length=MAX_LIFTED, description="ids of warrants")
    rules: Annotated[int, Field(ge=1, le=MAX_RULES)] | None = None
    expel: list[ExpelIn] = Field(default=[], max_length=MAX_EXPELLED, description="agents to be put out")
    readmit: list[Id] = Field(default=[], max_length=MAX_EXPELLED, description="agents to be let in again")
    guests: bool = Field(default=False, description="whoever the expelled have let in is out, too")
    atlas: Id | None = Field(default=None, description="CID of an atlas")


class AtlasOut(BaseModel):
    """An atlas that is here and fits this network."""

    cid: str
    cells: int
    size: int


class SignatureShape(Shape):
    """A steward's signature, in hexadecimal."""

    steward: Id
    signature: Annotated[str, Field(pattern=rf"^[0-9a-f]{{{2 * SIGNATURE_SIZE}}}$")]


class ProposalShape(Shape):
    """An epoch to be signed and published; goes from steward to steward as a file."""

    network: Id
    previous: Id
    number: int = Field(ge=1, le=MAX_EPOCH_NUMBER)
    atlas: Id | None
    rules: int = Field(ge=1, le=MAX_RULES)
    lifted: list[Id] = Field(max_length=MAX_LIFTED)
    expelled: list[ExpulsionShape] = Field(default=[], max_length=MAX_EXPELLED)
    readmitted: list[Id] = Field(default=[], max_length=MAX_EXPELLED)
    signatures: list[SignatureShape] = Field(max_length=MAX_STEWARDS)


class SampleOut(BaseModel):
    """`vectors` int8 codes, one after another in base64, of `shards` of all shards."""

    codes: str
    vectors: int
    shards: int
    shards_total: int


def add_governance_routes(
    app: FastAPI, governance: Governance, ends_at: Callable[[AgentId], Awaitable[int]]
) -> None:
    """Mount the routes. `ends_at` gives the seq after an agent's last record."""
    epochs = governance.epochs

    @app.get(
        "/v1/warrants", response_model=WarrantsOut, tags=["network"], summary="Who was proven to do wrong"
    )
    async def warrants() -> WarrantsOut:
        return WarrantsOut(warrants=[_warrant_out(one) for one in await governance.warrants()])

    @app.get("/v1/epochs", response_model=EpochsOut, tags=["network"], summary="The network's epochs")
    async def list_epochs() -> EpochsOut:
        return EpochsOut(epochs=[_epoch_out(one) for one in epochs.known()])

    @app.post(
        "/v1/epochs/propose", response_model=ProposalShape, tags=["network"], summary="Draft the next epoch"
    )
    async def propose(asked: ProposeIn) -> ProposalShape:
        atlas = None if asked.atlas is None else from_text(asked.atlas)
        await governance.atlases.require(atlas)
        expel: list[tuple[AgentId, int]] = []
        for one in asked.expel:
            agent = agent_from_text(one.agent)
            expel.append((agent, await ends_at(agent) if one.since is None else one.since))
        return _proposal_out(
            epochs.propose(
                [from_text(one) for one in asked.lift],
                asked.rules,
                expel,
                [agent_from_text(one) for one in asked.readmit],
                asked.guests,
                atlas,
            )
        )

    @app.post(
        "/v1/atlases",
        response_model=AtlasOut,
        status_code=201,
        tags=["network"],
        summary="Keep the atlas of the body, for an epoch to name",
        openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
    )
    async def keep_atlas(request: Request) -> AtlasOut:
        announced = request.headers.get("content-length", "0")
        data = bytearray()
        try:
            async for portion in request.stream():
                data += portion
                if max(len(data), int(announced) if announced.isdigit() else 0) > MAX_ATLAS_BYTES:
                    raise InvalidInput(f"an atlas has at most {MAX_ATLAS_BYTES} bytes")
        except ClientDisconnect as error:
            raise InvalidInput("the body did not end: its sender is gone, or was silent") from error
        atlas = await governance.atlases.keep(bytes(data))
        return AtlasOut(cid=to_text(atlas.cid), cells=atlas.cells, size=len(data))

    @app.get(
        "/v1/atlases/sample",
        response_model=SampleOut,
        tags=["network"],
        summary="Vectors of what everybody holds, as their sketches say, for making an atlas",
    )
    async def sample() -> SampleOut:
        found = await governance.atlases.sample()
        codes = b64encode(found.codes.tobytes()).decode()
        return SampleOut(codes=codes, vectors=len(found.codes), shards=found.shards, shards_total=found.of)

    @app.post(
        "/v1/epochs/sign", response_model=ProposalShape, tags=["network"], summary="Sign a proposed epoch"
    )
    async def sign(proposal: ProposalShape) -> ProposalShape:
        asked = _proposal_in(proposal)
        await governance.atlases.require(asked.epoch.atlas)
        return _proposal_out(epochs.sign(asked))

    @app.post(
        "/v1/epochs",
        response_model=EpochOut,
        status_code=201,
        tags=["network"],
        summary="Publish an epoch that enough stewards have signed",
    )
    async def publish(proposal: ProposalShape) -> EpochOut:
        asked = _proposal_in(proposal)
        await governance.atlases.require(asked.epoch.atlas)
        return _epoch_out(await epochs.publish(asked))


def _warrant_out(one: WarrantView) -> WarrantOut:
    return WarrantOut(
        offender=peer_id(one.offender),
        rule=one.rule,
        seq=one.seq,
        records=[to_text(cid) for cid in one.records],
        warrants=[to_text(cid) for cid, _ in one.warrants],
        accusers=[peer_id(agent) for _, agent in one.warrants],
        lifted=one.lifted,
        since=one.since,
    )


def _epoch_out(one: EpochView) -> EpochOut:
    return EpochOut(
        id=to_text(one.id),
        number=one.number,
        rules=one.rules,
        atlas=None if one.atlas is None else to_text(one.atlas),
        lifted=[to_text(cid) for cid in one.lifted],
        current=one.current,
        expelled=_expelled_out(one.expelled),
        readmitted=[peer_id(agent) for agent in one.readmitted],
    )


def _expelled_out(expelled: Sequence[Expulsion]) -> list[ExpulsionShape]:
    return [ExpulsionShape(agent=peer_id(one.agent), since=one.since, guests=one.guests) for one in expelled]


def _proposal_out(proposal: Proposal) -> ProposalShape:
    epoch = proposal.epoch
    return ProposalShape(
        network=to_text(epoch.network),
        previous=to_text(epoch.previous),
        number=epoch.number,
        atlas=None if epoch.atlas is None else to_text(epoch.atlas),
        rules=epoch.rules,
        lifted=[to_text(cid) for cid in epoch.lifted],
        expelled=_expelled_out(epoch.expelled),
        readmitted=[peer_id(agent) for agent in epoch.readmitted],
        signatures=[
            SignatureShape(steward=peer_id(steward), signature=signature.hex())
            for steward, signature in proposal.signatures
        ],
    )


def _proposal_in(shape: ProposalShape) -> Proposal:
    atlas: Cid | None = None if shape.atlas is None else from_text(shape.atlas)
    lifted = tuple(from_text(one) for one in shape.lifted)
    network, previous = from_text(shape.network), from_text(shape.previous)
    expelled = tuple(Expulsion(agent_from_text(one.agent), one.since, one.guests) for one in shape.expelled)
    readmitted = tuple(agent_from_text(one) for one in shape.readmitted)
    return Proposal(
        Epoch(network, previous, shape.number, atlas, shape.rules, lifted, expelled, readmitted),
        tuple((agent_from_text(one.steward), bytes.fromhex(one.signature)) for one in shape.signatures),
    )
