"""A server on loopback that speaks OpenAI's embeddings interface, and misbehaves as it is told.

It is no mock of our code: bytes go over a socket. Its embedding is a bag of hashed words, so texts that share
words are near each other. What it does with a request is taken from a script, one step a request; when that
is over, it answers properly.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DIM = 32
MODEL = "bag-of-words"
PATH = "/v1/embeddings"

Step = Callable[["Handler", list[str]], None]


class Stub(ThreadingHTTPServer):
    """The server; `asked` has what every request brought: (path, authorisation, body)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: deque[Step] = deque()
        self.asked: list[tuple[str, str | None, Any]] = []
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, self.headers["authorization"], body))
        step = self.server.script.popleft() if self.server.script else answer
        step(self, body["input"])

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def embedding(text: str, dim: int = DIM) -> list[float]:
    vector = [0.0] * dim
    for word in text.lower().split():
        vector[int.from_bytes(sha256(word.encode()).digest()[:4], "big") % dim] += 1.0
    return vector


def body_of(vectors: list[Any]) -> dict[str, Any]:
    data = [{"object": "embedding", "index": place, "embedding": v} for place, v in enumerate(vectors)]
    return {"object": "list", "data": data, "model": MODEL, "usage": {"prompt_tokens": 1, "total_tokens": 1}}


def answer(handler: Handler, texts: list[str]) -> None:
    """As an honest server does, though not in order."""
    body = body_of([embedding(text) for text in texts])
    body["data"].reverse()
    handler.reply(200, json.dumps(body).encode())


def status(code: int, message: str = "no", **headers: str) -> Step:
    """An error in the interface's form."""
    body = json.dumps({"error": {"message": message, "type": "t", "code": None}}).encode()
    return lambda handler, texts: handler.reply(code, body, **headers)


def raw(data: bytes, code: int = 200) -> Step:
    return lambda handler, texts: handler.reply(code, data)


def vectors(make: Callable[[list[str]], list[Any]]) -> Step:
    return lambda handler, texts: handler.reply(200, json.dumps(body_of(make(texts))).encode())


def hang_up(handler: Handler, texts: list[str]) -> None:
    handler.close_connection = True
    handler.connection.close()


def silent(handler: Handler, texts: list[str]) -> None:
    """Say nothing until the test is over."""
    handler.server.ended.wait(60)


def drip(handler: Handler, texts: list[str]) -> None:
    """A byte now and then, for ever."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.server.ended.wait(0.02):
        try:
            handler.wfile.write(b"x")
            handler.wfile.flush()
        except OSError:
            return


@contextmanager
def stub_endpoint() -> Iterator[Stub]:
    """A running stub."""
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
