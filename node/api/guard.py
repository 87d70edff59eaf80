"""What stands before the application: it decides whether a request may enter at all.

In this order: the `Host` header must name this machine (a web page that rebinds its own name to 127.0.0.1
stops here), the bearer token must match (compared in constant time), not too many requests may be under
way, and the body must fit the limit and arrive in time. A body that says it is too long is refused unread;
one that does not say is read no further than the limit. Only then does the application see a request,
whole. A defect below ends as a logged 500, never as a dropped connection.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, TypeAlias

import trio

from node.api.problems import Problem

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 8 << 20
"""Bytes of a request's body."""
MAX_ACTIVE = 64
"""Requests under way at once; more are told to come back."""
BODY_SECONDS = 30.0
"""How long a body may take to arrive."""

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})
"""Paths that answer without a token; they tell nothing about this node but that it is up."""

log = logging.getLogger(f"roseforest.{__name__}")


class Guard:
    """ASGI middleware; `observe(method, route, status, seconds)` hears of every answered request."""

    def __init__(
        self,
        app: Application,
        token: str,
        hosts: Collection[str],
        observe: Callable[[str, str, int, float], None],
    ) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()
        self._hosts = LOOPBACK_NAMES | {host.lower() for host in hosts}
        self._observe = observe
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        began = trio.current_time()
        status = 0

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._enter(scope, receive, counted_send)
        except Exception:
            log.exception("request failed", extra={"method": scope["method"], "path": scope["path"]})
            if not status:
                await _refuse(counted_send, Problem(500, "unexpected", "an unexpected error; see the log"))
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._observe(scope["method"], route, status, trio.current_time() - began)

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(reversed(scope["headers"]))  # the first of each name counts
        problem = self._refusal(scope["path"], headers)
        if problem is not None:
            await _refuse(send, problem)
            return
        self._active += 1
        try:
            body = await _body(headers, receive)
            if isinstance(body, Problem):
                await _refuse(send, body)
            else:
                # Bodies are JSON whatever a client calls them: curl -d says it sends a form.
                scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"content-type"]
                scope["headers"].append((b"content-type", b"application/json"))
                await self._app(scope, _replay(body, receive), send)
        finally:
            self._active -= 1

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> Problem | None:
        host = _host_name(headers.get(b"host", b"").decode("latin-1"))
        if host not in self._hosts:
            return Problem(
                400, "bad_host", f"Host {host!r:.80} is not this node; add it to api_hosts if it should be"
            )
        if path in OPEN_PATHS:
            return None
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            return Problem(
                401, "unauthorized", "send the token of the home folder's api-token as Bearer token"
            )
        if self._active >= MAX_ACTIVE:
            return Problem(503, "busy", f"{MAX_ACTIVE} requests are under way; try again in a moment")
        return None


async def _body(headers: dict[bytes, bytes], receive: Receive) -> bytes | Problem:
    announced = headers.get(b"content-length", b"0")
    too_large = Problem(413, "too_large", f"the body is over {MAX_BODY} bytes; send smaller batches")
    if announced.isdigit() and int(announced) > MAX_BODY:
        return too_large
    body = bytearray()
    with trio.move_on_after(BODY_SECONDS):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return Problem(400, "bad_request", "the connection closed before the body ended")
            body += message.get("body", b"")
            if len(body) > MAX_BODY:
                return too_large
            if not message.get("more_body", False):
                return bytes(body)
    return Problem(408, "too_slow", f"the body did not arrive within {BODY_SECONDS:g} s")


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(send: Send, problem: Problem) -> None:
    data = json.dumps(problem.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    if problem.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if problem.status in (408, 413):
        headers.append((b"connection", b"close"))
    if problem.status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()
