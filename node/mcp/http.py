"""The server over streamable HTTP, for agents that do not start it themselves.

One path, POST alone: each request is answered by itself as JSON, so nothing is kept of a client and no stream
stays open (a GET, which would ask for one, is 405, as the protocol allows). The API's guard stands before it
(`Host` of this machine, a bearer token of its own, bounded bodies and requests), and the SDK's check of
`Origin`, so a web page that rebinds its name to this machine gets nowhere even with the token.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import partial
from typing import Any

import trio
from mcp.server.lowlevel.server import Server
from mcp.server.transport_security import TransportSecuritySettings

from node.api.guard import LOOPBACK_NAMES, MAX_BODY, Application, Guard, Receive, Scope, Send, TokenEntrance
from node.api.server import serve_at

PATH = "/mcp"
WILDCARDS = frozenset({"", "0.0.0.0", "::"})


def create_mcp_app(server: Server[Any], token: str, hosts: Collection[str]) -> Guard:
    """The ASGI application; `hosts` are names besides the loopback ones that requests may be sent to."""
    names = sorted(LOOPBACK_NAMES | {host.lower() for host in hosts})
    shown = [f"[{name}]" if ":" in name else name for name in names]
    origins = [f"{scheme}://{name}" for scheme in ("http", "https") for name in shown]
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        json_response=True,
        stateless_http=True,
        max_request_body_size=MAX_BODY,
        transport_security=TransportSecuritySettings(
            allowed_hosts=[*shown, *(f"{name}:*" for name in shown)],
            allowed_origins=[*origins, *(f"{origin}:*" for origin in origins)],
        ),
    )
    return Guard(_posts_only(app), TokenEntrance(token, hosts, "mcp-token"), lambda *_: None)


async def serve_http(
    server: Server[Any],
    address: tuple[str, int],
    token: str,
    hosts: Collection[str],
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop`; reports the URL that agents are given. Raises `PortInUse` or `ConfigError`."""
    own = () if address[0] in WILDCARDS else (address[0],)
    app = create_mcp_app(server, token, (*hosts, *own))
    async with trio.open_nursery() as nursery:
        url = await nursery.start(partial(serve_at, address, app, stop, "MCP server", "--http"))
        task_status.started(f"{url}{PATH}")


def _posts_only(app: Application) -> Application:
    async def posts(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"] == "POST" and scope["path"] == PATH):
            await app(scope, receive, send)
            return
        status, code = (405, "method_not_allowed") if scope["path"] == PATH else (404, "not_found")
        body = json.dumps({"error": {"code": code, "message": f"POST to {PATH}"}}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status == 405:
            headers.append((b"allow", b"POST"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return posts
