"""Serving the exchange: its files in the home folder, its entrance and its routes, on its own listener."""

from __future__ import annotations

from collections.abc import Callable

import trio

from dht.ports import Clock, RunBlocking
from node.api.server import serve_at
from node.api.service import NodeService
from node.config import Settings, split_api
from node.exchange.agents import FILE as AGENTS
from node.exchange.agents import Agents
from node.exchange.app import create_exchange_app
from node.exchange.entrance import ExchangeEntrance
from node.exchange.exchange import Exchange, Lists
from node.exchange.keys import FILE as KEYS
from node.exchange.keys import KeyRing
from node.exchange.rate_limit import RateLimit
from node.home import Home


async def serve_exchange(
    node: NodeService,
    listing: Lists,
    home: Home,
    settings: Settings,
    clock: Clock,
    run_blocking: RunBlocking,
    stop: trio.Event,
    *,
    unready: Callable[[], str | None] = lambda: None,
    limit: RateLimit | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop` is set or the task is cancelled; reports the URL when connections are accepted.

    Raises `HomeDamaged` for files that are none of the exchange's, `PortInUse` or `ConfigError` when it
    cannot listen at `settings.exchange_listen`, which must be set.
    """
    assert settings.exchange_listen is not None
    keys = KeyRing(home.root / KEYS)
    agents = Agents(home.root / AGENTS)
    exchange = Exchange(node, listing, keys, agents, clock.wall_us, run_blocking)
    entrance = ExchangeEntrance(keys, settings.exchange_public_read, clock.monotonic, limit)
    app = create_exchange_app(exchange, entrance, unready)
    bind = split_api(settings.exchange_listen)
    await serve_at(bind, app, stop, "exchange", "--exchange-listen", task_status=task_status)
