"""The routes of the exchange, and what it says when it refuses.

Handlers translate between JSON and the verbs of `node.exchange.exchange`. All that succeeds is status 200,
with `"status": "success"` where something was written; all that fails is `{"status": "error", "message",
"errors": [{"field", "message"}]}`, where a field is a place in the body (`metadata.tags.3`), a parameter of
the path or the query, or a header. Statuses are those of `node.api.problems`, but for a version that has
passed, which is 409 here, and what is deleted or retracted, which is 410.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator, Field
from starlette.exceptions import HTTPException

from chain.cid import Cid, to_text
from chain.content import MAX_TAGS
from chain.vector import PPM
from node.api.app import software_version
from node.api.guard import Guard
from node.api.problems import KNOWN, Problem, problem_of
from node.api.shape import Text
from node.errors import VersionConflict
from node.exchange.entrance import HEALTH_PATH, ExchangeEntrance, error_body, key_of
from node.exchange.errors import FieldForbidden, FieldRefused
from node.exchange.exchange import MAX_RESULTS, Exchange, Published, Wanted
from node.exchange.packages import (
    Domain,
    Evaluation,
    NodeId,
    Package,
    Ratio,
    Settlement,
    Type,
    read_id,
)
from node.exchange.showing import package_of
from node.models import EntryView

DEFAULT_LIMIT: Final = 20
Limit = Annotated[int, Field(ge=1, le=MAX_RESULTS)]
MAX_FIELDS: Final = 20
"""Fields that one refusal names."""
_REASONS = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}


def _absent(value: object) -> object:
    """`?domain=&type=` asks for no domain and no type in particular."""
    return None if value == "" else value


Absent = BeforeValidator(_absent)
KnowledgeId = Annotated[str, Path(description="an entry's knowledge_id", max_length=200)]


def create_exchange_app(
    exchange: Exchange, entrance: ExchangeEntrance, unready: Callable[[], str | None]
) -> Guard:
    """The ASGI application of the exchange; `unready` says why the node takes no requests, or None."""
    app = FastAPI(
        title="Rose Forest exchange",
        version=software_version(),
        description="Publish to and read from a network of knowledge through one of its nodes. Send an API "
        "key in `Authorization`, bare or as `Bearer`.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_problem_handlers(app)
    _add_routes(app, exchange)

    @app.get(HEALTH_PATH, tags=["health"], summary="Whether the node takes requests")
    async def health() -> JSONResponse:
        reason = unready()
        if reason is None:
            return JSONResponse({"status": "healthy", "version": app.version})
        return JSONResponse({"status": "unready", "version": app.version, "message": reason}, 503)

    return Guard(app, entrance, lambda method, route, status, seconds: None)


def _add_routes(app: FastAPI, exchange: Exchange) -> None:
    @app.post("/register", tags=["agents"], summary="Say which public key a system publishes under")
    async def register(
        request: Request,
        node_id: Annotated[NodeId, Query(description="how the system calls itself")],
        public_key: Annotated[str, Query(description="Ed25519, hexadecimal or base64", max_length=200)],
        signature: Annotated[
            str | None, Query(description="by the former key, when another takes its place", max_length=400)
        ] = None,
    ) -> dict[str, Any]:
        agent, new = await exchange.register(key_of(request.scope), node_id, public_key, signature)
        return {
            "status": "success",
            "message": f"{node_id} is registered" + ("" if new else " already"),
            "node_id": agent.node_id,
            "public_key": agent.public_key.hex(),
        }

    @app.post("/knowledge", tags=["knowledge"], summary="Publish a package, or put it in place of an entry")
    async def publish(request: Request, package: Package) -> dict[str, Any]:
        published = await exchange.publish(key_of(request.scope), package)
        message = "published" if published.created else "published before"
        return _published(published, message if package.knowledge_id is None else "updated")

    @app.get("/knowledge", tags=["knowledge"], summary="Entries that this node has, or with q finds")
    async def knowledge(
        domain: Annotated[Domain | None, Absent, Query()] = None,
        type: Annotated[Type | None, Absent, Query()] = None,
        tags: Annotated[str | None, Query(description="all of these, with commas", max_length=8_000)] = None,
        ai_node: Annotated[NodeId | None, Absent, Query(description="generated by it")] = None,
        min_confidence: Annotated[Ratio | None, Absent, Query()] = None,
        limit: Annotated[Limit | None, Absent, Query(description=f"{DEFAULT_LIMIT} unless given")] = None,
        q: Annotated[Text | None, Absent, Query(description="ask the network, nearest first")] = None,
    ) -> dict[str, Any]:
        listed = tuple(sorted({one.strip() for one in (tags or "").split(",") if one.strip()}))
        if len(listed) > MAX_TAGS:
            raise FieldRefused("tags", f"at most {MAX_TAGS} tags")
        confidence = None if min_confidence is None else round(min_confidence * PPM)
        wanted = Wanted(domain, type, listed, ai_node, confidence)
        most = DEFAULT_LIMIT if limit is None else limit
        if q is not None:
            found = await exchange.search(q, wanted, most)
            return {"count": len(found), "results": [_package(view) for view in found]}
        listing = await exchange.latest(wanted, most)
        answer = {"count": len(listing.entries), "results": [_package(view) for view in listing.entries]}
        return answer if listing.whole else {**answer, "more": True}

    @app.get("/knowledge/{id}", tags=["knowledge"], summary="An entry as the network knows it")
    async def get(id: KnowledgeId) -> dict[str, Any]:
        return _package(await exchange.get(entry_of(id)))

    @app.put("/knowledge/{id}", tags=["knowledge"], summary="Put a package in the place of an entry")
    async def put(request: Request, id: KnowledgeId, package: Package) -> dict[str, Any]:
        if package.knowledge_id not in (None, id):
            raise FieldRefused("knowledge_id", "it is not the one in the path")
        published = await exchange.replace(key_of(request.scope), entry_of(id), package)
        return _published(published, "updated")

    @app.post("/knowledge/{id}/evaluate", tags=["knowledge"], summary="Vote on an entry")
    async def evaluate(request: Request, id: KnowledgeId, evaluation: Evaluation) -> dict[str, Any]:
        view = await exchange.evaluate(key_of(request.scope), entry_of(id), evaluation)
        return {
            "status": "success",
            "message": f"the {evaluation.vote} of {evaluation.evaluating_node} is recorded"
            + ("" if evaluation.signature else "; it is not signed, so this node answers for it"),
            "knowledge_id": to_text(view.id),
            "new_score": score_of(view),
            "votes": {"upvotes": view.up, "downvotes": view.down},
        }

    @app.post("/conflict/{id}/resolve", tags=["knowledge"], summary="End a conflict of an entry")
    async def resolve(request: Request, id: KnowledgeId, settlement: Settlement) -> dict[str, Any]:
        settled = await exchange.resolve(key_of(request.scope), entry_of(id), settlement)
        return {
            "status": "success",
            "message": f"{settlement.resolution_type}: {settled.what}",
            "knowledge_id": to_text(settled.id),
            "version_id": settled.version,
        }


def entry_of(id: str) -> Cid:
    """The entry that a path names; raises `FieldRefused`."""
    try:
        return read_id(id)
    except ValueError as error:
        raise FieldRefused("id", str(error)) from error


def _published(published: Published, message: str) -> dict[str, Any]:
    if not published.looked:
        message += "; the network could not be asked for conflicts"
    elif published.conflicts:
        message += f"; in conflict with {len(published.conflicts)} of the domain"
    answer: dict[str, Any] = {
        "status": "success",
        "message": message,
        "knowledge_id": to_text(published.id),
        "version_id": published.version,
    }
    if published.conflicts:
        answer["conflicts"] = [to_text(cid) for cid in published.conflicts]
    return answer


def score_of(view: EntryView) -> float | None:
    """The trust in an entry, from 0 to 1, see `crdt.trust`."""
    return None if view.trust is None else view.trust.score / PPM


def _package(view: EntryView) -> dict[str, Any]:
    return package_of(view, score_of(view))


def _add_problem_handlers(app: FastAPI) -> None:
    async def known(_: Request, error: Exception) -> JSONResponse:
        problem = problem_of(error)
        field = None
        if isinstance(error, FieldRefused | FieldForbidden):
            field = error.field
        elif isinstance(error, VersionConflict):
            problem, field = Problem(409, problem.code, problem.message), "version_id"
        elif problem.code == "gone":
            problem, field = Problem(410, problem.code, problem.message), "id"
        elif problem.status in (404, 410):
            field = "id"
        elif problem.status == 422:
            field = "body"
        return _response(problem, field)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        errors = list(error.errors())
        if errors and errors[0].get("type") == "json_invalid":
            return _response(Problem(400, "bad_request", "the body is not JSON"), "body")
        fields = [{"field": _place(one["loc"]), "message": _reason(one)} for one in errors[:MAX_FIELDS]]
        message = f"{fields[0]['field']}: {fields[0]['message']}"
        return JSONResponse({"status": "error", "message": message, "errors": fields}, 422)

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = _REASONS.get(error.status_code, "bad_request" if error.status_code < 500 else "unexpected")
        # A body that is nested too deep, or no UTF-8, is the only bad request that is found out here.
        field = "body" if error.status_code == 400 else None
        return _response(Problem(error.status_code, code, str(error.detail)), field)

    for kind in KNOWN:
        app.add_exception_handler(kind, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    # Starlette answers with this and raises the error again; the guard writes it to the log.
    app.add_exception_handler(Exception, known)


def _response(problem: Problem, field: str | None) -> JSONResponse:
    headers = None if problem.retry_after_s is None else {"retry-after": str(problem.retry_after_s)}
    return JSONResponse(error_body(problem, field), status_code=problem.status, headers=headers)


def _place(loc: tuple[Any, ...]) -> str:
    """Where pydantic found it, as people write it; a key of a client's own map is cut."""
    parts = [str(part)[:80] for part in loc if part not in ("body", "query", "path", "[key]")]
    return ".".join(parts) or "body"


def _reason(error: Any) -> str:
    """Pydantic's line without the value, which may be large."""
    return str(error["msg"]).removeprefix("Value error, ")[:200]
