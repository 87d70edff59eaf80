"""The routes of the HTTP interface over a `NodeService`.

`create_app` returns an ASGI application with its guard around it. Handlers translate: JSON to the node's
nouns, one call, nouns to JSON; they decide nothing. Errors become statuses by the table in `problems`,
whoever raised them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from typing import Annotated, Any

import psutil
from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from chain.blob import MAX_BLOB
from chain.cid import to_text
from chain.errors import ChainBrokenError
from federated.learning import Learning
from node.agent_life import AgentLife
from node.api.agent_life import add_agent_routes
from node.api.archive_import import STREAMED as ARCHIVES_STREAMED
from node.api.archive_import import add_import_route
from node.api.asking import add_query_route
from node.api.blobs import STREAMED, add_blob_routes
from node.api.conflicts import add_conflict_routes
from node.api.deltas import add_delta_routes
from node.api.docs_page import docs_page
from node.api.editing import add_editing_routes, entry_id
from node.api.exports import add_export_route
from node.api.governance import STREAMED as ATLAS_STREAMED
from node.api.governance import add_governance_routes
from node.api.graph import add_graph_route
from node.api.guard import Guard, TokenEntrance
from node.api.inviting import add_inviting_routes
from node.api.learning import add_learning_routes
from node.api.metrics import Metrics
from node.api.moderation import add_moderation_routes
from node.api.node_shapes import (
    ClockOut,
    PeersOut,
    RebuiltOut,
    SettingOut,
    StatusOut,
    StoppingOut,
    VerifyOut,
    peer_out,
    status_out,
)
from node.api.problems import KNOWN, Problem, problem_of
from node.api.receipts import add_receipt_routes, with_receipts
from node.api.server_run import add_server_run_routes
from node.api.service import NodeService
from node.api.shapes import (
    MAX_LOG,
    AddedOut,
    BatchIn,
    BatchItemOut,
    BatchOut,
    EntryIn,
    EntryOut,
    ErrorOut,
    LogOut,
    PrivateOut,
    entry_out,
    instant,
    record_out,
)
from node.api.standings import add_standing_routes
from node.api.writing import add_writing_routes
from node.errors import Erased, InvalidInput, NotFound
from node.governance import Governance
from node.inviting import Inviting
from node.models import NewEntry, Rejected

DISTRIBUTION = "roseforest"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REASONS = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}


def create_app(
    node: NodeService,
    token: str,
    *,
    stop: Callable[[], None],
    unready: Callable[[], str | None] = lambda: None,
    settings: Mapping[str, SettingOut] | None = None,
    hosts: Collection[str] = (),
    max_blob: int = MAX_BLOB,
    learning: Learning | None = None,
    life: AgentLife | None = None,
    inviting: Inviting | None = None,
    governance: Governance | None = None,
) -> Guard:
    """The ASGI application for `node`.

    `stop` is called when a stop is asked for and must return at once. `unready` says why `/readyz` has to
    answer no, or None. `settings`
    is what `/v1/config` shows. `hosts` are names besides the loopback ones that requests may be sent to.
    `max_blob`: bytes of the largest blob that is taken or fetched. `learning`, `inviting` and `governance`
    bring their routes.
    """
    app = FastAPI(
        title="Rose Forest node",
        version=software_version(),
        description="One node of a peer-to-peer network of knowledge. Send the token of the home folder's "
        "`api-token` as `Authorization: Bearer TOKEN`.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={"4XX": {"model": ErrorOut}, "5XX": {"model": ErrorOut}},
    )
    process = psutil.Process()

    def rss_bytes() -> int:
        return int(process.memory_info().rss)

    metrics = Metrics(node.status, rss_bytes)
    _add_problem_handlers(app)
    _add_knowledge_routes(app, node)
    add_query_route(app, node)
    add_editing_routes(app, node)
    add_graph_route(app, node)
    add_writing_routes(app, node)
    add_receipt_routes(app, node)
    _add_chain_routes(app, node)
    _add_health_routes(app, node, unready)
    add_blob_routes(app, node, max_blob)
    add_moderation_routes(app, node)
    add_export_route(app, node)
    add_import_route(app, node)
    add_conflict_routes(app, node.conflicts)
    add_delta_routes(app, node)
    if life is not None:
        add_agent_routes(app, life)
    add_standing_routes(app, node)
    if learning is not None:
        add_learning_routes(app, learning)
        add_server_run_routes(app, learning)
    if inviting is not None:
        add_inviting_routes(app, inviting)
    if governance is not None and life is not None:
        add_governance_routes(app, governance, life.ends_at)

    @app.get("/v1/status", response_model=StatusOut, tags=["node"], summary="The node at a glance")
    async def status() -> StatusOut:
        return status_out(node.status(), rss_bytes(), app.version)

    @app.get("/v1/peers", response_model=PeersOut, tags=["node"], summary="The peers of the routing table")
    async def peers() -> PeersOut:
        return PeersOut(peers=[peer_out(peer) for peer in node.peers()])

    @app.get(
        "/v1/clock", response_model=ClockOut, tags=["node"], summary="The clock beside the peers' clocks"
    )
    async def clock() -> ClockOut:
        skew = await node.clock_skew()
        ahead_s = None if skew is None else round(skew.ahead_us / 1e6, 6)
        return ClockOut(ahead_s=ahead_s, peers=0 if skew is None else skew.peers)

    @app.get("/v1/config", tags=["node"], summary="Every setting in force and who set it")
    async def config() -> dict[str, SettingOut]:
        return dict(settings or {})

    @app.post(
        "/v1/stop", response_model=StoppingOut, status_code=202, tags=["node"], summary="Stop the daemon"
    )
    async def stop_daemon() -> StoppingOut:
        stop()
        return StoppingOut()

    @app.get("/metrics", tags=["node"], summary="Counters and gauges for Prometheus")
    async def expose_metrics() -> Response:
        return Response(metrics.exposition(), media_type=METRICS_TYPE)

    return Guard(
        app, TokenEntrance(token, hosts), metrics.observe, (*STREAMED, *ATLAS_STREAMED, *ARCHIVES_STREAMED)
    )


def software_version() -> str:
    """The installed distribution's version; "unknown" in a checkout that is not installed."""
    try:
        return distribution_version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"


def _add_knowledge_routes(app: FastAPI, node: NodeService) -> None:
    @app.post(
        "/v1/entries",
        response_model=AddedOut,
        status_code=201,
        responses={200: {"model": AddedOut, "description": "the key was known; nothing was added"}},
        tags=["knowledge"],
        summary="Add an entry; durable when this answers",
    )
    async def add_entry(entry: EntryIn, response: Response) -> AddedOut:
        if entry.backup and not entry.private:
            raise InvalidInput("only a private entry is backed up: others hold a public one anyway")
        if entry.private:
            if entry.key is not None:
                raise InvalidInput("a private entry takes no key")
            return AddedOut(id=to_text(await node.private.add(entry.to_entry())), created=True)
        (outcome,) = await node.add([entry.to_entry()])
        if isinstance(outcome, Rejected):
            raise InvalidInput(outcome.reason)
        if not outcome.created:
            response.status_code = 200
        return AddedOut(id=to_text(outcome.id), created=outcome.created)

    @app.post(
        "/v1/entries/batch",
        response_model=BatchOut,
        response_model_exclude_none=True,
        tags=["knowledge"],
        summary="Add up to 500 entries; bad ones are reported and do not stop the others",
    )
    async def add_batch(batch: BatchIn) -> BatchOut:
        entries: list[NewEntry] = []
        places: list[int] = []
        results: dict[int, BatchItemOut] = {}
        for index, raw in enumerate(batch.entries):
            try:
                one = EntryIn.model_validate(raw)
                if one.private:
                    results[index] = BatchItemOut(index=index, error="private entries are added one by one")
                    continue
                entries.append(one.to_entry())
                places.append(index)
            except ValidationError as error:
                results[index] = BatchItemOut(index=index, error=_first_error(list(error.errors())))
            except InvalidInput as error:
                results[index] = BatchItemOut(index=index, error=str(error))
        outcomes = await node.add(entries) if entries else []
        for index, outcome in zip(places, outcomes, strict=True):
            if isinstance(outcome, Rejected):
                results[index] = BatchItemOut(index=index, error=outcome.reason)
            else:
                results[index] = BatchItemOut(index=index, id=to_text(outcome.id), created=outcome.created)
        ordered = [results[index] for index in range(len(batch.entries))]
        added = sum(item.created is True for item in ordered)
        known = sum(item.created is False for item in ordered)
        return BatchOut(results=ordered, added=added, known=known, rejected=len(ordered) - added - known)

    @app.get(
        "/v1/entries/{id}",
        response_model=EntryOut,
        tags=["knowledge"],
        summary="An entry as the network knows it",
    )
    async def get_entry(
        id: Annotated[str, Path(description="the CID of the entry's create record")],
        response: Response,
        provenance: Annotated[bool, Query(description="with the signed records it is made of")] = False,
    ) -> EntryOut:
        view = await node.get(entry_id(id))
        if view is None:
            raise NotFound(f"no entry {id} is known here or to its holders")
        if view.is_erased and not provenance:
            raise Erased(f"erased by its author at {instant(view.erased[0].at_us)}")
        response.headers["etag"] = f'"{view.fingerprint}"'
        shown = entry_out(view, provenance)
        if shown.records is not None:
            shown.records = await with_receipts(node, view, shown.records)
        return shown

    @app.get(
        "/v1/private",
        response_model=PrivateOut,
        tags=["knowledge"],
        summary="The owner's private entries, by id",
    )
    async def private(
        after: Annotated[str | None, Query(description="an id: those above it")] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LOG)] = 100,
    ) -> PrivateOut:
        found = await node.private.page(None if after is None else entry_id(after), limit)
        return PrivateOut(entries=[entry_out(view, False) for view in found])


def _add_chain_routes(app: FastAPI, node: NodeService) -> None:
    @app.get(
        "/v1/chain/log", response_model=LogOut, tags=["chain"], summary="The node's own records, in order"
    )
    async def chain_log(
        from_seq: Annotated[int, Query(ge=0, le=(1 << 63) - 1)] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_LOG)] = 100,
        data: Annotated[bool, Query(description="with each record's wire form in base64")] = False,
    ) -> LogOut:
        records = node.chain_log(from_seq, limit)
        following = records[-1].header.seq + 1 if len(records) == limit else None
        return LogOut(records=[record_out(record, data) for record in records], next=following)

    @app.post(
        "/v1/chain/verify", response_model=VerifyOut, tags=["chain"], summary="Verify the node's own chain"
    )
    async def verify_chain() -> VerifyOut:
        try:
            report = await node.verify_chain()
        except ChainBrokenError as error:
            return VerifyOut(ok=False, length=error.seq, head=None, reason=str(error))
        head = None if report.head is None else to_text(report.head)
        return VerifyOut(ok=True, length=report.length, head=head, kinds=dict(sorted(report.kinds.items())))

    @app.post(
        "/v1/index/rebuild",
        response_model=RebuiltOut,
        tags=["chain"],
        summary="Drop and rebuild everything derived from records",
    )
    async def rebuild_index() -> RebuiltOut:
        return RebuiltOut(vectors=await node.rebuild_index())


def _add_health_routes(app: FastAPI, node: NodeService, unready: Callable[[], str | None]) -> None:
    @app.get("/healthz", tags=["health"], summary="The process answers")
    async def healthz() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/readyz", tags=["health"], summary="The node takes requests; whether writes, too")
    async def readyz() -> JSONResponse:
        reason = unready()
        if reason is None:
            return JSONResponse({"ready": True, "read_only": node.status().read_only})
        return _response(Problem(503, "not_ready", reason))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        page, policy = docs_page(app.openapi())
        return HTMLResponse(page, headers={"content-security-policy": policy})


def _add_problem_handlers(app: FastAPI) -> None:
    async def known(_: Request, error: Exception) -> JSONResponse:
        return _response(problem_of(error))

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        errors = list(error.errors())
        if errors and errors[0].get("type") == "json_invalid":
            return _response(Problem(400, "bad_request", "the body is not JSON"))
        return _response(Problem(422, "refused", _first_error(errors)))

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = _REASONS.get(error.status_code, "bad_request" if error.status_code < 500 else "unexpected")
        return _response(Problem(error.status_code, code, str(error.detail)))

    for kind in KNOWN:
        app.add_exception_handler(kind, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    # Starlette answers with this and raises the error again; the guard writes it to the log.
    app.add_exception_handler(Exception, known)


def _response(problem: Problem) -> JSONResponse:
    # What is left of a body that is too large is not read.
    headers = {503: {"retry-after": "1"}, 413: {"connection": "close"}}.get(problem.status)
    return JSONResponse(problem.body(), status_code=problem.status, headers=headers)


def _first_error(errors: list[Any]) -> str:
    """The first of pydantic's errors as `field: reason`; never repeats the value, which may be large."""
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    reason = str(first["msg"]).removeprefix("Value error, ")
    return f"{place}: {reason}" if place else reason
