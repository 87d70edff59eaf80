"""An embedder behind HTTP: any server that speaks OpenAI's embeddings interface (`POST BASE/embeddings`).

Texts go out in batches and come back as `{"data": [{"index", "embedding"}, …]}`. The server is not trusted
with our memory or our time: a reply is read up to what so many vectors can take, within one deadline for
each try, and every vector must have the space's dimension and be finite. Overload (429), errors of the
server (5xx) and of the line are tried again with growing pauses, or after the pause that it asks for, within
a bound; whatever else it refuses is said at once, in one line.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import ssl
from collections.abc import Callable, Sequence
from threading import Event, Timer
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit

from node.embedding.errors import (
    EmbedderFailed,
    EmbedderMissing,
    NotFinite,
    TextRefused,
)
from node.embedding.external import KEY_VARIABLE, EmbedderSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NUMBER_BYTES: Final = 32
"""Most bytes of JSON that one component takes."""
SLACK_BYTES: Final = 64 * 1024
"""For everything in a reply that is no vector."""
READ_BYTES: Final = 64 * 1024
MAX_ERROR_BYTES: Final = 4096
MAX_EXCERPT: Final = 200
"""Characters of a server's own words in our messages."""
FIRST_PAUSE_S: Final = 0.5
MOST_PAUSE_S: Final = 20.0
"""Between two tries, also when the server asks for more."""
AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
REFUSALS: Final = frozenset({400, 413, 422})
"""Statuses that are about the texts themselves."""


class EndpointEmbedder:
    """Codes of an endpoint's model. Safe to share between threads; every call has its own connection."""

    exact = False

    def __init__(
        self,
        space: str,
        dim: int,
        name: str,
        settings: EmbedderSettings,
        *,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        """Check the settings; nothing is sent. Raises `EmbedderMissing` for an unusable address."""
        self.space = space
        self.dim = dim
        self._settings = settings
        self._model = settings.model or name
        self._where = checked_url(settings.url or "", settings.key is not None)
        self._pause = Event().wait if pause is None else pause

    def embed(self, texts: Sequence[str]) -> NDArray[np.int8]:
        """Codes of `texts`, shape (n, dim). Blocking: as long as the endpoint takes, within its bounds.

        Raises `TextRefused` for texts that the endpoint does not take, `ZeroVector` for one without a
        direction, and `EmbedderFailed` when the endpoint cannot be had or returns nonsense.
        """
        import numpy as np

        codes = np.empty((len(texts), self.dim), dtype=np.int8)
        for start in range(0, len(texts), self._settings.batch):
            part = list(texts[start : start + self._settings.batch])
            codes[start : start + len(part)] = self._batch(part)
        return codes

    def _batch(self, texts: list[str]) -> NDArray[np.int8]:
        from node.embedding.quantise import quantise_floats

        try:
            question = {"model": self._model, "input": texts, "encoding_format": "float"}
            body = json.dumps(question, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise TextRefused(f"a text is not valid Unicode text ({error})") from error
        pause = FIRST_PAUSE_S
        for left in range(self._settings.retries, -1, -1):
            try:
                return quantise_floats(self._vectors(self._ask(body, len(texts)), len(texts)), self.dim)
            except NotFinite as error:
                raise EmbedderFailed(f"{self._name} returns nonsense: {error}") from error
            except _Again as again:
                if not left:
                    raise EmbedderFailed(str(again)) from again
                self._pause(min(MOST_PAUSE_S, max(pause, again.after_s)))
                pause *= 2
        raise AssertionError("the last try returns or raises")

    def _ask(self, body: bytes, count: int) -> bytes:
        """One try: the reply's body; raises `_Again` where another may go better."""
        connection = self._connection()
        late = Event()
        # The socket's own timeout starts anew with every byte: a server that drips would never end.
        watch = Timer(self._settings.timeout_s, _cut, (connection, late))
        watch.daemon = True
        watch.start()
        try:
            connection.request("POST", self._where.path.rstrip("/") + "/embeddings", body, self._headers())
            reply = connection.getresponse()
            limit = count * self.dim * NUMBER_BYTES + SLACK_BYTES if reply.status == 200 else MAX_ERROR_BYTES
            data = _read(reply, limit)
        except TimeoutError as error:
            raise _Again(f"{self._name} does not answer within {self._settings.timeout_s:g} s") from error
        except ssl.SSLCertVerificationError as error:
            raise EmbedderFailed(
                f"{self._name} shows no valid certificate: {error.verify_message}"
            ) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            if late.is_set():
                raise _Again(f"{self._name} does not answer within {self._settings.timeout_s:g} s") from error
            reason = _words(str(error)) or type(error).__name__
            raise _Again(f"{self._name} cannot be reached: {reason}") from error
        finally:
            watch.cancel()
            connection.close()
        if late.is_set():
            raise _Again(f"{self._name} does not answer within {self._settings.timeout_s:g} s")
        if reply.status == 200:
            if len(data) > limit:
                raise EmbedderFailed(f"{self._name} sends more than {limit} bytes for {count} texts")
            return data
        said = f"{self._name} says {reply.status} {_said(data) or reply.reason}"
        if reply.status in AGAIN:
            raise _Again(said, _seconds(reply.getheader("retry-after")))
        if reply.status in REFUSALS:
            raise TextRefused(said)
        if reply.status in (401, 403):
            raise EmbedderFailed(f"{said}: put its key into {KEY_VARIABLE}")
        raise EmbedderFailed(f"{said}: check url and model in the section [embedder] of config.toml")

    def _vectors(self, data: bytes, count: int) -> list[Any]:
        """The vectors of a reply in the order of the texts; their numbers are not looked at yet."""
        try:
            items = json.loads(data)["data"]
            places = [item.get("index", place) for place, item in enumerate(items)]
            vectors = [item["embedding"] for item in items]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise EmbedderFailed(f"{self._name} answers with something that holds no embeddings") from error
        if any(type(place) is not int for place in places) or sorted(places) != list(range(count)):
            raise EmbedderFailed(f"{self._name} returns {len(vectors)} embeddings for {count} texts")
        for vector in vectors:
            if type(vector) is not list or not all(type(number) in (int, float) for number in vector):
                raise EmbedderFailed(f"{self._name} returns an embedding that is no list of numbers")
            if len(vector) != self.dim:
                raise EmbedderFailed(
                    f"{self._name} returns {len(vector)} dimensions, the network's space {self.space!r} has "
                    f"{self.dim}: set model in the section [embedder] of config.toml to the right one"
                )
        return [vector for _, vector in sorted(zip(places, vectors, strict=True), key=lambda pair: pair[0])]

    def _connection(self) -> http.client.HTTPConnection:
        host, port, timeout = self._where.hostname or "", self._where.port, self._settings.timeout_s
        if self._where.scheme == "https":
            return http.client.HTTPSConnection(
                host, port, timeout=timeout, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(host, port, timeout=timeout)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._settings.key is not None:
            headers["Authorization"] = f"Bearer {self._settings.key}"
        return headers

    @property
    def _name(self) -> str:
        return f"the embedder at {self._where.scheme}://{self._where.netloc}"


class _Again(Exception):
    """A try that failed, and may go better after `after_s` seconds or more."""

    def __init__(self, message: str, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.after_s = after_s


def _cut(connection: http.client.HTTPConnection, late: Event) -> None:
    late.set()
    if connection.sock is not None:
        with contextlib.suppress(OSError):
            connection.sock.shutdown(2)


def _read(reply: http.client.HTTPResponse, limit: int) -> bytes:
    """The body, or its first `limit` + 1 bytes."""
    data = bytearray()
    while len(data) <= limit and (part := reply.read1(min(READ_BYTES, limit + 1 - len(data)))):
        data += part
    return bytes(data)


def checked_url(url: str, with_key: bool) -> SplitResult:
    """The parts of an endpoint's base address; raises `EmbedderMissing`.

    With a key it must be https, or on this machine: else the key could be read on the way.
    """
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    if not named or parts.username is not None or parts.query or parts.fragment:
        raise EmbedderMissing(f"{url!r} is no base address of an embedder such as http://127.0.0.1:8080/v1")
    if with_key and parts.scheme == "http" and not _is_local(parts.hostname or ""):
        raise EmbedderMissing(f"{url} is not https: the key in {KEY_VARIABLE} could be read on the way there")
    return parts


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _said(data: bytes) -> str:
    """What an error's body says, in a few words."""
    try:
        error = json.loads(data)["error"]
        return _words(str(error["message"] if isinstance(error, dict) else error))
    except (ValueError, KeyError, TypeError, RecursionError):
        return _words(data.decode("utf-8", "replace"))


def _words(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_EXCERPT else f"{line[:MAX_EXCERPT]}…"


def _seconds(header: str | None) -> float:
    """A Retry-After in seconds; 0 for none, and for a date, which our own pauses stand in for."""
    return float(header) if header is not None and header.isascii() and header.isdigit() else 0.0
