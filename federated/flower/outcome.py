"""What a ServerApp's strategy is and comes to, seen from outside while the app runs.

A ServerApp returns nothing: what its strategy made stays inside it. So the methods by which strategies are
started, Flower's own and those of the app's classes, are wrapped while the app runs; what they return is the
result. Apps of the older interface keep their parameters in a `Server`, which is noticed when it is made.
Everything is as it was when the app has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from flwr.app import Array, ArrayRecord
from flwr.server.server import Server
from flwr.serverapp.strategy import FedAvg, Strategy

WRAPPERS = 8
"""Strategies inside strategies that are looked into: differential privacy wraps another one."""
WEIGHTS = frozenset({"num-examples", "num_examples"})


class Watched:
    """Use it as a context around the app's run. One at a time in a process."""

    def __init__(self) -> None:
        self._strategy: Strategy | None = None
        self._result: Any = None
        self._server: Server | None = None
        self._depth = 0
        self._undo: list[tuple[type, str, Any]] = []

    @property
    def weights(self) -> frozenset[str]:
        """Names of metrics that say on how many examples an answer rests."""
        keys = (getattr(one, "weighted_by_key", None) for one in self._layers())
        return WEIGHTS | {key for key in keys if isinstance(key, str)}

    @property
    def one_form(self) -> bool:
        """Whether the strategy is one of those that raise unless all answers are alike in form."""
        return any(isinstance(one, FedAvg) for one in self._layers())

    @property
    def arrays(self) -> ArrayRecord | None:
        """What the strategy came to; None when it did not end, and for an app without one."""
        arrays = getattr(self._result, "arrays", None)
        if isinstance(arrays, ArrayRecord) and arrays:
            return arrays
        if self._server is not None and self._server.parameters.tensors:
            tensors = self._server.parameters.tensors
            return ArrayRecord(
                {
                    str(place): Array(dtype="", shape=(), stype="numpy.ndarray", data=tensor)
                    for place, tensor in enumerate(tensors)
                }
            )
        return None

    def __enter__(self) -> Watched:
        for kind in _kinds(Strategy):
            if "start" in kind.__dict__:
                self._wrap(kind, "start", self._started)
        self._wrap(Server, "__init__", self._served)
        return self

    def __exit__(self, *raised: object) -> None:
        while self._undo:
            kind, name, original = self._undo.pop()
            setattr(kind, name, original)

    def _layers(self) -> Iterator[Any]:
        layer: Any = self._strategy
        for _ in range(WRAPPERS):
            if layer is None:
                return
            yield layer
            layer = getattr(layer, "strategy", None)

    def _wrap(self, kind: type, name: str, by: Callable[..., Any]) -> None:
        original = kind.__dict__[name]

        @wraps(original)
        def wrapped(one: Any, *args: Any, **named: Any) -> Any:
            return by(original, one, *args, **named)

        self._undo.append((kind, name, original))
        setattr(kind, name, wrapped)

    def _started(self, original: Callable[..., Any], strategy: Strategy, *args: Any, **named: Any) -> Any:
        if self._depth == 0:  # else it is a part of the one that started it
            self._strategy, self._result = strategy, None
        self._depth += 1
        try:
            result = original(strategy, *args, **named)
        finally:
            self._depth -= 1
        if self._depth == 0:
            self._result = result
        return result

    def _served(self, original: Callable[..., Any], server: Server, *args: Any, **named: Any) -> None:
        self._server = server
        original(server, *args, **named)


def _kinds(kind: type) -> Iterator[type]:
    yield kind
    below: list[type] = kind.__subclasses__()
    for one in below:
        yield from _kinds(one)
