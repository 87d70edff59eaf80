"""What a ServerApp would send first, from the app itself: run it against a grid that stops it there.

A ServerApp decides in code what the initial parameters are and which config goes with a train message, so the
only faithful way to learn them is to let it run. `CapturingGrid` offers as many nodes as the app waits for,
answers what comes before the first train messages with the project's own ClientApp (the older interface asks
a client for initial parameters), keeps the first train message, and then lets the app go no further. How many
rounds the app meant and by which strategy is taken from the call that starts the strategy.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from flwr.app import Context, Error, Message
from flwr.server import strategy as legacy_strategies
from flwr.serverapp import ServerApp
from flwr.serverapp import strategy as strategies

from federated.flower.errors import AppFailed
from federated.flower.messages import Arrays, array_of, identify
from federated.flower.running_grid import RunningGrid
from federated.flower.template import Template, Value

FIRST_NODES = 128
MAX_NODES = 1 << 16
"""Nodes offered: twice as many at each look, since an app may wait until there are enough."""
MAX_REPLIES = 1_000
"""Messages answered before the first train message; then the app is taken to loop."""
END_S = 5.0
"""For an app that was stopped to clean up after itself."""
AVERAGING = ("FedAvg", "FedProx")
"""Strategies of Flower's own that aggregate by the weighted mean, which is what the network does."""


@dataclass(slots=True)
class Captured:
    """What was seen. `strategy` is the class's name; `averages` whether the network does the same."""

    template: Template = field(default_factory=Template)
    arrays: Arrays = field(default_factory=dict)
    rounds: int | None = None
    strategy: str | None = None
    averages: bool = False


class _Enough(BaseException):
    """Ends the ServerApp; no `except Exception` in it stops that."""


class CapturingGrid(RunningGrid):
    """Keeps the first train message; `answer` replies to what comes before it."""

    def __init__(self, run_id: int, answer: Callable[[Message], Message]) -> None:
        self.first: Message | None = None
        self.seen = threading.Event()
        self.ends_itself = False
        super().__init__(run_id)
        self._answer = answer
        self._offered = FIRST_NODES // 2
        self._replies: dict[str, Message] = {}
        self._numbered = 0
        self._lock = threading.Lock()

    def get_node_ids(self) -> Iterable[int]:
        self._offered = min(2 * self._offered, MAX_NODES)
        return list(range(1, self._offered + 1))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._take(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def _take(self, message: Message) -> str:
        with self._lock:
            if message.metadata.message_type.partition(".")[0] == "train" or self._numbered >= MAX_REPLIES:
                if self.first is None and self._numbered < MAX_REPLIES:
                    self.first = message
                self.ends_itself = self.on_app_thread()
                self.seen.set()
            else:
                self._numbered += 1
                name = f"message-{self._numbered}"
                message.metadata.__dict__["_message_id"] = name
                self._replies[name] = self._answer(message)
                return name
        return self._end()

    def _end(self) -> NoReturn:
        if self.on_app_thread():
            raise _Enough
        # A worker thread of the older server counts what it raises as a client's failure and goes on.
        while True:
            threading.Event().wait()


def capture(app: ServerApp, context: Context, answer: Callable[[Message, Context], Message]) -> Captured:
    """Run `app` until it sends its first train messages; what it sent, and what it meant to do.

    `answer` is the ClientApp. Takes as long as the app needs to get there. Raises `AppFailed`. Leaves a
    thread of the app behind that ends with the process.
    """
    identify(context.run_id, context.node_id)
    captured = Captured()
    failures: list[BaseException] = []
    evaluate_records: dict[str, dict[str, Value]] = {}

    def reply(message: Message) -> Message:
        try:
            return answer(message, context)
        except Exception as error:  # the user's code may raise anything; its ServerApp is to see a failure
            return Message(Error(code=0, reason=f"{type(error).__name__}: {error}"), reply_to=message)

    grid = CapturingGrid(context.run_id, reply)

    def run() -> None:
        grid.own_thread()
        try:
            with _observed(captured, evaluate_records):
                app(grid, context)
        except _Enough:
            pass
        except BaseException as error:  # the user's code may raise anything, also SystemExit
            failures.append(error)
        finally:
            grid.seen.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    grid.seen.wait()
    if grid.ends_itself:
        thread.join(END_S)
    if grid.first is None:
        if failures:
            raise AppFailed(f"the ServerApp failed: {type(failures[0]).__name__}: {failures[0]}")
        raise AppFailed("the ServerApp ended without a train message: there is nothing to train")
    _observe_legacy(app, captured, evaluate_records)
    _fill(captured, grid.first, evaluate_records)
    return captured


def _fill(captured: Captured, message: Message, evaluate_records: dict[str, dict[str, Value]]) -> None:
    content = message.content
    if len(content.array_records) != 1:
        raise AppFailed(
            f"the ServerApp's train message holds {len(content.array_records)} ArrayRecords; a task has one"
        )
    ((key, record),) = content.array_records.items()
    captured.arrays = array_of(record)
    weight = captured.template.weight
    train_records: dict[str, dict[str, Value]] = {
        _plain(name): dict(values) for name, values in content.config_records.items()
    }
    for name, metrics in content.metric_records.items():
        train_records.setdefault(_plain(name), {}).update(metrics)
    captured.template = Template(
        train=message.metadata.message_type,
        arrays=Template().arrays if key == "fitins.parameters" else key,
        weight=weight,
        train_records=train_records,
        evaluate_records=evaluate_records or {name: {"server-round": 1} for name in train_records},
    )


def _plain(name: str) -> str:
    return "config" if name == "fitins.config" else name


class _observed:
    """While it is entered, `Strategy.start` of Flower's current interface says what it was called with."""

    def __init__(self, captured: Captured, evaluate_records: dict[str, dict[str, Value]]) -> None:
        self._captured = captured
        self._evaluate = evaluate_records
        self._original = strategies.Strategy.start

    def __enter__(self) -> None:
        captured, evaluate, original = self._captured, self._evaluate, self._original

        def start(strategy: Any, *args: Any, **named: Any) -> Any:
            call = inspect.signature(original).bind(strategy, *args, **named)
            call.apply_defaults()
            captured.rounds = call.arguments["num_rounds"]
            _name_strategy(captured, strategy, strategies)
            captured.template = Template(weight=getattr(strategy, "weighted_by_key", Template().weight))
            key = getattr(strategy, "configrecord_key", "config")
            evaluate[key] = {**(call.arguments["evaluate_config"] or {}), "server-round": 1}
            return original(strategy, *args, **named)

        strategies.Strategy.start = start

    def __exit__(self, *raised: object) -> None:
        strategies.Strategy.start = self._original


def _observe_legacy(
    app: ServerApp, captured: Captured, evaluate_records: dict[str, dict[str, Value]]
) -> None:
    """The same from a ServerApp made of a `server_fn`, whose parts stay with the app."""
    if app._config is not None:
        captured.rounds = app._config.num_rounds
    strategy = app._strategy or getattr(app._server, "strategy", None)
    if strategy is None:
        return
    _name_strategy(captured, strategy, legacy_strategies)
    config = getattr(strategy, "on_evaluate_config_fn", None)
    evaluate_records["config"] = dict(config(1)) if config is not None else {}


def _name_strategy(captured: Captured, strategy: Any, module: Any) -> None:
    captured.strategy = type(strategy).__name__
    # A subclass may aggregate in another way; only Flower's own classes are known.
    captured.averages = any(type(strategy) is getattr(module, name, None) for name in AVERAGING)
