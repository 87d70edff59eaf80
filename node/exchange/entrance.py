"""Who may enter the exchange: who has a key, everybody to read where that is public, and nobody too often.

A request counts against its key, or without a good one against its address (of IPv6 the first 64 bits, which
is what one customer is given), before anything else is decided: who guesses keys is slowed like everybody.
The `Host` header may be anything, because a web page that rebinds its name has no key to send and reads what
is public anyway. The key that was found is left in the request's scope.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, ip_address
from math import ceil
from typing import Any, Final

from node.api.guard import Scope
from node.api.problems import Problem
from node.exchange.keys import ApiKey, KeyRing, presented_in
from node.exchange.rate_limit import LIMIT, RateLimit

MAX_BODY: Final = 1 << 20
"""Bytes of a request: what the payload of a record may have."""
HEALTH_PATH: Final = "/health"
"""Answers without a key, and tells nothing but that the node is up."""
API_KEY: Final = "roseforest.api_key"
"""Where the scope has the key of a request, or None."""
READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class ExchangeEntrance:
    """Lets requests into the exchange; `monotonic` gives the time for the rate limit, in seconds."""

    max_body = MAX_BODY

    def __init__(
        self, keys: KeyRing, public_read: bool, monotonic: Callable[[], float], limit: RateLimit | None = None
    ) -> None:
        self._keys = keys
        self._public_read = public_read
        self._monotonic = monotonic
        self._limit = RateLimit() if limit is None else limit

    def refusal(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Problem | None:
        presented = presented_in(headers)
        key = None if presented is None else self._keys.find(presented)
        client = ("key", key.id) if key is not None else ("address", _address_of(scope))
        wait = self._limit.enter(client, self._monotonic())
        if wait:
            seconds = max(1, ceil(wait))
            return Problem(
                429, "too_many", f"over {LIMIT} requests in a minute: ask again in {seconds} s", seconds
            )
        scope[API_KEY] = key
        if key is not None or self.is_open(scope["path"]):
            return None
        if self._public_read and scope["method"] in READS:
            return None if b"authorization" not in headers else _unauthorized("this API key is not valid")
        return _unauthorized(
            "send a valid API key in Authorization, bare or as Bearer: the node's owner makes one with "
            "roseforest exchange key add"
        )

    def is_open(self, path: str) -> bool:
        return path == HEALTH_PATH

    def body(self, problem: Problem) -> dict[str, Any]:
        field = {401: "Authorization", 408: "body", 413: "body"}.get(problem.status)
        return error_body(problem, field)


def key_of(scope: Mapping[str, Any]) -> ApiKey:
    """The key of a request that has been let in to write."""
    key = scope[API_KEY]
    assert isinstance(key, ApiKey)
    return key


def error_body(problem: Problem, field: str | None = None) -> dict[str, Any]:
    """What every refusal of the exchange looks like: a line, and which field it is about, if any."""
    message = problem.body()["error"]["message"]
    fields = [] if field is None else [{"field": field, "message": message}]
    return {"status": "error", "message": message, "errors": fields}


def _unauthorized(message: str) -> Problem:
    return Problem(401, "unauthorized", message)


def _address_of(scope: Mapping[str, Any]) -> str:
    """The client's address as far as it tells one customer from another."""
    host = (scope.get("client") or ("", 0))[0]
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return str(host)[:64]
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(IPv6Address(int(address) >> 64 << 64))
    return str(address)
