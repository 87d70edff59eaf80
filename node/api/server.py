"""Serving the HTTP interface on Hypercorn's trio worker, as one task of the daemon's nursery.

The socket is bound here, so that a port in use is one clear error before anything else starts, and so that
port 0 can be told apart from the port it became. On a stop, or when the nursery around it is cancelled, no
new connection is taken and requests under way get `GRACE_SECONDS` to finish; that is why the answer to
`POST /v1/stop` still arrives.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from federated.learning import Learning
from node.agent_life import AgentLife
from node.api.app import create_app
from node.api.guard import Application
from node.api.node_shapes import SettingOut
from node.api.service import NodeService
from node.config import Settings, with_origins
from node.errors import ConfigError, PortInUse
from node.governance import Governance
from node.inviting import Inviting

GRACE_SECONDS = 3.0
KEEP_ALIVE_SECONDS = 30.0
IDLE_READ_SECONDS = 60
BACKLOG = 128
MAX_HEADER_BYTES = 16 * 1024


async def serve_api(
    node: NodeService,
    settings: Settings,
    token: str,
    stop: trio.Event,
    *,
    unready: Callable[[], str | None] = lambda: None,
    learning: Learning | None = None,
    life: AgentLife | None = None,
    inviting: Inviting | None = None,
    governance: Governance | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `node` until `stop` is set or the task is cancelled; both end it in order.

    Reports the URL (`http://host:port`) when connections are accepted. `POST /v1/stop` sets `stop`. `unready`
    says why the node is not part of its network yet, for `/readyz`. `learning` and `inviting` bring
    their routes. Raises `PortInUse` or `ConfigError` when it cannot listen at `settings.api`.
    """
    app = create_app(
        node,
        token,
        stop=stop.set,
        unready=lambda: "the node is stopping" if stop.is_set() else unready(),
        settings={key: SettingOut(**item) for key, item in with_origins(settings).items()},
        hosts=settings.api_hosts,
        max_blob=settings.blob_max_mb << 20,
        learning=learning,
        life=life,
        inviting=inviting,
        governance=governance,
    )
    await serve_at(settings.api_bind, app, stop, "API", "--api", task_status=task_status)


async def serve_at(
    address: tuple[str, int],
    app: Application,
    stop: trio.Event,
    name: str,
    option: str,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application at a host and port as `serve_api` does, and report its URL.

    `name` and `option` are for errors: what cannot listen, and how it is told another address.
    """
    listener = _listen(*address, name, option)
    host, actual = listener.getsockname()[:2]
    url = f"http://[{host}]:{actual}" if ":" in host else f"http://{host}:{actual}"
    ending = trio.Event()

    async def wait_for_the_end() -> None:
        try:
            await stop.wait()
        finally:
            ending.set()

    async def answer(*, task_status: trio.TaskStatus[list[str]]) -> None:
        with trio.CancelScope(shield=True):
            await serve(
                app,  # type: ignore[arg-type]  # Hypercorn types ASGI scopes as its own TypedDicts
                _hypercorn_config(listener),
                shutdown_trigger=ending.wait,
                task_status=task_status,
                mode="asgi",
            )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_the_end)
        await nursery.start(answer)
        task_status.started(url)


def _listen(host: str, port: int, name: str, option: str) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(f"{option}: the host {host!r} is unknown here ({error.strerror})") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"the {name} cannot listen on {host}:{port}: the port is in use; "
                f"choose another with {option} HOST:PORT (port 0 picks a free one)"
            ) from error
        raise ConfigError(f"the {name} cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def _hypercorn_config(listener: socket.socket) -> Config:
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.backlog = BACKLOG
    config.graceful_timeout = GRACE_SECONDS
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.read_timeout = IDLE_READ_SECONDS
    config.h11_max_incomplete_size = MAX_HEADER_BYTES
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.loglevel = "WARNING"
    return config
