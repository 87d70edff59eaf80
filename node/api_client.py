"""The commands' way to the daemon: its HTTP interface, over the standard library's client.

The home folder says where the daemon listens and holds the token. Both are read only while somebody holds
the folder's lock, so the token never goes to a stranger that took over the port of a daemon that was killed.
Imports stay light: this is part of every command's start.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from node.errors import DaemonNotRunning, NodeError
from node.home import DaemonInfo, Home, default_root

SECONDS = 30.0
"""How long a request may take; a query has its own, shorter deadline."""
LONG_SECONDS = 600.0
"""For whole-chain and whole-index work."""
MAX_RESPONSE = 260 << 20
PORTION = 64 * 1024
"""Bytes that are read at a time of a body that goes to a file."""


class ApiError(NodeError):
    """The daemon refused a request; `status` and `code` are the response's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ApiClient:
    """The running daemon of one home folder."""

    def __init__(self, home: Home) -> None:
        """Find the daemon; raises `DaemonNotRunning`, `HomeMissing` or `HomeDamaged`."""
        home.require_initialised()
        self.home = home
        self.daemon = _find(home)
        self._token = home.read_token()

    def get(self, path: str, seconds: float = SECONDS, **parameters: str | int) -> Any:
        """GET `path`; returns the JSON. Raises `ApiError` or `DaemonNotRunning`."""
        return self._request("GET", f"{path}?{urlencode(parameters)}" if parameters else path, None, seconds)

    def post(self, path: str, body: Any = None, seconds: float = SECONDS) -> Any:
        """POST `body` as JSON; returns the JSON. Raises `ApiError` or `DaemonNotRunning`."""
        return self._request("POST", path, b"" if body is None else json.dumps(body).encode(), seconds)

    def send(self, method: str, path: str, body: Any = None, if_version: str | None = None) -> Any:
        """Send a change, on condition that the entry is at `if_version` if given; returns the JSON.

        Raises `ApiError` or `DaemonNotRunning`.
        """
        match = {} if if_version is None else {"if-match": f'"{if_version}"'}
        data = b"" if body is None else json.dumps(body).encode()
        return self._request(method, path, data, SECONDS, match)

    def post_blob(self, data: bytes, seconds: float = SECONDS, pin: bool = True) -> Any:
        """Store a blob; returns its `cid` and `size`. Raises `ApiError` or `DaemonNotRunning`.

        Without `pin` the node may delete it when it needs the space.
        """
        path = f"/v1/blobs?{urlencode({'pin': str(pin).lower()})}"
        kind = {"content-type": "application/octet-stream"}
        return _unpack(*self._exchange("POST", path, data, seconds, kind))

    def post_atlas(self, data: bytes, seconds: float = SECONDS) -> Any:
        """Have the daemon keep an atlas for an epoch to name; returns its `cid`. As `post_blob`."""
        kind = {"content-type": "application/octet-stream"}
        return _unpack(*self._exchange("POST", "/v1/atlases", data, seconds, kind))

    def get_blob(self, cid: str, seconds: float = SECONDS) -> bytes:
        """A blob's content, checked by the daemon, which fetches it if need be.

        Raises `ApiError` or `DaemonNotRunning`.
        """
        return self.get_bytes(f"/v1/blobs/{path_segment(cid)}?fetch=true", seconds)

    def get_bytes(self, path: str, seconds: float = SECONDS) -> bytes:
        """GET `path`; returns the bytes of the body. Raises `ApiError` or `DaemonNotRunning`."""
        status, data = self._exchange("GET", path, None, seconds)
        if status >= 400:
            _unpack(status, data)
        return data

    def get_text(self, path: str, seconds: float = SECONDS, **parameters: str | int) -> str:
        """GET `path`; returns the answer as the text that it is. Raises `ApiError` or `DaemonNotRunning`."""
        status, data = self._exchange("GET", f"{path}?{urlencode(parameters)}", None, seconds)
        return data.decode("utf-8", "replace") if status < 400 else str(_unpack(status, data))

    def download(
        self, path: str, take: Callable[[bytes], object], parameters: Sequence[tuple[str, str]]
    ) -> int:
        """GET `path` and hand its bytes to `take`, portion by portion; returns how many there were.

        Raises `ApiError` or `DaemonNotRunning`, the latter also when the body breaks off.
        """
        size = 0
        with self._opened("GET", f"{path}?{urlencode(parameters)}", None, LONG_SECONDS, {}) as response:
            if response.status >= 400:
                _unpack(response.status, response.read(MAX_RESPONSE))
            try:
                while portion := response.read(PORTION):
                    size += len(portion)
                    take(portion)
            except http.client.IncompleteRead as error:
                raise DaemonNotRunning(
                    f"the daemon's answer broke off after {size} bytes: see its log, and try again"
                ) from error
            return size

    def upload(self, path: str, portions: Iterable[bytes], kind: str) -> Any:
        """POST a body of this content type, portion by portion; returns the JSON of the answer.

        Raises `ApiError` or `DaemonNotRunning`.
        """
        headers = {"content-type": kind, "transfer-encoding": "chunked"}
        with self._opened("POST", path, portions, LONG_SECONDS, headers) as response:
            return _unpack(response.status, response.read(MAX_RESPONSE))

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None,
        seconds: float,
        more: dict[str, str] | None = None,
    ) -> Any:
        return _unpack(*self._exchange(method, path, body, seconds, more))

    def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        seconds: float,
        more: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        kind = {"content-type": "application/json"} if body else {}
        with self._opened(method, path, body, seconds, kind | (more or {})) as response:
            data = response.read(MAX_RESPONSE)
            if response.length:
                raise http.client.IncompleteRead(data, response.length)
            return response.status, data

    @contextmanager
    def _opened(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None,
        seconds: float,
        more: dict[str, str],
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request; what fails before the block ends raises `DaemonNotRunning`."""
        where = urlsplit(self.daemon.api)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=seconds)
        headers = {"authorization": f"Bearer {self._token}", "host": "localhost", "connection": "close"}
        try:
            chunked = "transfer-encoding" in more
            refused: OSError | None = None
            try:
                connection.request(method, path, body, headers | more, encode_chunked=chunked)
            except (BrokenPipeError, ConnectionResetError) as error:
                refused = error  # a daemon that refuses a long body answers before it has read all of it
            try:
                response = connection.getresponse()
            except (OSError, http.client.HTTPException):
                if refused is not None:
                    raise refused from None
                raise
            yield response
        except TimeoutError as error:
            raise DaemonNotRunning(
                f"the daemon (process {self.daemon.pid}) did not answer within {seconds:g} s: "
                "look at its log, or stop and start it"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise DaemonNotRunning(
                f"the daemon at {self.daemon.api} does not answer ({error or type(error).__name__}): "
                f"start it with roseforest run{_flag(self.home)}"
            ) from error
        finally:
            connection.close()


def path_segment(text: str) -> str:
    """`text` as one segment of a path."""
    return quote(text, safe="")


def _find(home: Home) -> DaemonInfo:
    daemon = home.read_daemon()
    if daemon is not None:
        return daemon
    pid = home.locked_by()
    if pid is not None:
        raise DaemonNotRunning(
            f"the daemon of {home.root} (process {pid}) is not ready yet: try again in a moment"
        )
    raise DaemonNotRunning(f"no daemon runs on {home.root}: start one with roseforest run{_flag(home)}")


def _flag(home: Home) -> str:
    return "" if home.root == default_root() else f" --home {home.root}"


def _unpack(status: int, data: bytes) -> Any:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ApiError(status, "unexpected", f"the daemon's answer (status {status}) is not JSON") from error
    if status < 400:
        return value
    detail = value.get("error") if isinstance(value, dict) else None
    if not isinstance(detail, dict):
        raise ApiError(status, "unexpected", f"the daemon answered with status {status}")
    return _raise(status, str(detail.get("code")), str(detail.get("message")))


def _raise(status: int, code: str, message: str) -> Any:
    if status == 401:
        message = "the daemon does not take this home folder's api-token: restart the daemon"
    raise ApiError(status, code, message)
