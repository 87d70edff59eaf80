"""What stands before the application: it decides whether a request may enter at all.

In this order: the entrance must let it in (of the node's own interface, `TokenEntrance`: the `Host` header
must name this machine, so that a web page that rebinds its own name to 127.0.0.1 stops here, and the bearer
token must match, compared in constant time), not too many requests may be under
way, and the body must fit the limit and arrive in time. A body that says it is too long is refused unread;
one that does not say is read no further than the limit. Only then does the application see a request,
whole. The routes that take large content are the exception: they read their body in portions, each of which
must arrive in time, and keep to a limit of their own. A defect below ends as a logged 500, never as a dropped
connection.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any, Protocol, TypeAlias

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
"""How long a body may take to arrive, or a portion of a streamed one."""
DRAIN_SECONDS = 1.0
"""How long after its answer the rest of a body that is not wanted is taken off the server's hands."""

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})
"""Paths that answer without a token; they tell nothing about this node but that it is up."""

log = logging.getLogger(f"roseforest.{__name__}")


class Entrance(Protocol):
    """Who may enter an interface, how much they may send, and how it says no."""

    @property
    def max_body(self) -> int:
        """Bytes of a request's body."""
        ...

    def refusal(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Problem | None:
        """Why a request may not enter; None when it may. Called once for each; `scope` may be added to."""
        ...

    def is_open(self, path: str) -> bool:
        """Whether this path answers even when too many requests are under way."""
        ...

    def body(self, problem: Problem) -> dict[str, Any]:
        """What a refused client is told."""
        ...


class TokenEntrance:
    """Requests to this machine by its names, with the owner's token; who sends a wrong one is told which file
    of the home folder it is in."""

    max_body = MAX_BODY

    def __init__(self, token: str, hosts: Collection[str], token_file: str = "api-token") -> None:
        self._token_file = token_file
        self._expected = f"Bearer {token}".encode()
        self._hosts = LOOPBACK_NAMES | {host.lower() for host in hosts}

    def refusal(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Problem | None:
        host = _host_name(headers.get(b"host", b"").decode("latin-1"))
        if host not in self._hosts:
            return Problem(
                400, "bad_host", f"Host {host!r:.80} is not this node; add it to api_hosts if it should be"
            )
        if self.is_open(scope["path"]):
            return None
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            return Problem(
                401,
                "unauthorized",
                f"send the token of the home folder's {self._token_file} as Bearer token",
            )
        return None

    def is_open(self, path: str) -> bool:
        return path in OPEN_PATHS

    def body(self, problem: Problem) -> dict[str, Any]:
        return problem.body()


class Guard:
    """ASGI middleware; `observe(method, route, status, seconds)` hears of every answered request.

    `streamed`: the (method, path) whose handlers read the body themselves.
    """

    def __init__(
        self,
        app: Application,
        entrance: Entrance,
        observe: Callable[[str, str, int, float], None],
        streamed: Collection[tuple[str, str]] = (),
    ) -> None:
        self._app = app
        self._entrance = entrance
        self._observe = observe
        self._streamed = frozenset(streamed)
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        began = trio.current_time()
        received = _Received(scope, receive)
        status = 0

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                nursery.start_soon(received.drain)
            if message["type"] == "http.response.body" and not (
                message.get("body") or message.get("more_body")
            ):
                # Hypercorn says first that the request is over, then closes; who streams stops at the first.
                with trio.move_on_after(DRAIN_SECONDS, shield=True):
                    await send(message)
            else:
                await send(message)

        async with trio.open_nursery() as nursery:
            try:
                await self._enter(scope, received, counted_send)
            except trio.BusyResourceError:
                # How Hypercorn says that the client hung up while it was being answered.
                log.debug("the client of %s %s is gone", scope["method"], scope["path"])
            except Exception:
                log.exception("request failed", extra={"method": scope["method"], "path": scope["path"]})
                if not status:
                    await self._refuse(
                        counted_send, Problem(500, "unexpected", "an unexpected error; see the log")
                    )
            finally:
                route = getattr(scope.get("route"), "path", "other")
                self._observe(scope["method"], route, status, trio.current_time() - began)
            nursery.cancel_scope.deadline = trio.current_time() + DRAIN_SECONDS

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(reversed(scope["headers"]))  # the first of each name counts
        problem = self._refusal(scope, headers)
        if problem is not None:
            await self._refuse(send, problem)
            return
        self._active += 1
        try:
            if (scope["method"], scope["path"]) in self._streamed:
                await self._app(scope, _in_time(receive), send)
                return
            body = await _body(headers, receive, self._entrance.max_body)
            if isinstance(body, Problem):
                await self._refuse(send, body)
            else:
                # Bodies are JSON whatever a client calls them: curl -d says it sends a form.
                scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"content-type"]
                scope["headers"].append((b"content-type", b"application/json"))
                await self._app(scope, _replay(body, receive), send)
        finally:
            self._active -= 1

    def _refusal(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Problem | None:
        problem = self._entrance.refusal(scope, headers)
        if problem is None and self._active >= MAX_ACTIVE and not self._entrance.is_open(scope["path"]):
            return Problem(503, "busy", f"{MAX_ACTIVE} requests are under way; try again in a moment")
        return problem

    async def _refuse(self, send: Send, problem: Problem) -> None:
        data = json.dumps(self._entrance.body(problem)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        if problem.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if problem.status in (408, 413):
            headers.append((b"connection", b"close"))
        if problem.retry_after_s is not None:
            headers.append((b"retry-after", str(problem.retry_after_s).encode()))
        await send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await send({"type": "http.response.body", "body": data})


class _Received:
    """`receive`, which remembers whether the body has ended, so that what nobody read can be thrown away.

    Otherwise the server would wait for ever to hand it on: its task that reads, and the one that answers.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._ended = not any(
            name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"]
        )

    async def __call__(self) -> Message:
        message = await self._receive()
        self._ended = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Take what is left of a body whose request is being answered."""
        while not self._ended:
            await self()


async def _body(headers: Mapping[bytes, bytes], receive: Receive, most: int) -> bytes | Problem:
    announced = headers.get(b"content-length", b"0")
    too_large = Problem(413, "too_large", f"the body is over {most} bytes; send less at a time")
    if announced.isdigit() and int(announced) > most:
        return too_large
    body = bytearray()
    with trio.move_on_after(BODY_SECONDS):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return Problem(400, "bad_request", "the connection closed before the body ended")
            body += message.get("body", b"")
            if len(body) > most:
                return too_large
            if not message.get("more_body", False):
                return bytes(body)
    return Problem(408, "too_slow", f"the body did not arrive within {BODY_SECONDS:g} s")


def _in_time(receive: Receive) -> Receive:
    """`receive`, but a client that falls silent counts as gone."""

    async def receive_in_time() -> Message:
        with trio.move_on_after(BODY_SECONDS):
            return await receive()
        return {"type": "http.disconnect"}

    return receive_in_time


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()
