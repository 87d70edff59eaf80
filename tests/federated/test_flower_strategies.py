"""Flower's strategies come to the same over the logged grid as over a plain one; so does a replay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp import strategy as flower
from flwr.supercore.run import Run

from federated.flower.envelope import pack_reply, unpack_request
from federated.flower.grid import Served, seed
from federated.flower.messages import identify, new_context, run_message

RUN = 5
NODES = list(range(100, 108))
ROUNDS = 3
MAX_EXAMPLES = 1_000

Made = Callable[[], Any]


def named(kind: str, **settings: Any) -> Made:
    return lambda: getattr(flower, kind)(min_available_nodes=len(NODES), **settings)


def private(kind: str, **settings: Any) -> Made:
    def made() -> Any:
        inner = flower.FedAvg(min_available_nodes=len(NODES))
        return getattr(flower, kind)(inner, noise_multiplier=0.1, num_sampled_clients=len(NODES), **settings)

    return made


STRATEGIES: dict[str, tuple[Made, list[Any]]] = {
    "half of the nodes, drawn": (named("FedAvg", fraction_train=0.5, fraction_evaluate=0.3), []),
    **{
        kind: (named(kind), [])
        for kind in ("FedAdagrad", "FedAdam", "FedAvgM", "FedMedian", "FedTrimmedAvg", "FedYogi")
    },
    "QFedAvg": (named("QFedAvg", client_learning_rate=0.1), []),
    "FedProx": (named("FedProx", proximal_mu=0.1), []),
    "Krum": (named("Krum", num_malicious_nodes=2), []),
    "MultiKrum": (named("MultiKrum", num_malicious_nodes=2, num_nodes_to_select=4), []),
    "Bulyan": (named("Bulyan", num_malicious_nodes=1), []),
    "server-side clipping": (
        private("DifferentialPrivacyServerSideFixedClipping", clipping_norm=1.0),
        [],
    ),
    "client-side clipping": (
        private("DifferentialPrivacyClientSideFixedClipping", clipping_norm=1.0),
        [fixedclipping_mod],
    ),
    "server-side adaptive": (private("DifferentialPrivacyServerSideAdaptiveClipping"), []),
    "client-side adaptive": (
        private("DifferentialPrivacyClientSideAdaptiveClipping"),
        [adaptiveclipping_mod],
    ),
}


def client(mods: list[Any]) -> ClientApp:
    app = ClientApp()

    @app.train(mods=mods)
    def train(message: Message, context: Context) -> Message:
        part = context.node_id % 10
        model = {name: one.numpy() for name, one in message.content["arrays"].items()}
        moved = {name: Array(values + np.float32(0.25 * (part + 1))) for name, values in model.items()}
        metrics = MetricRecord({"num-examples": 5 + part, "train_loss": 1.0 / (part + 1), "loss": 0.5})
        return Message(RecordDict({"arrays": ArrayRecord(moved), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        loss = float(message.content["arrays"]["w"].numpy().sum())
        metrics = MetricRecord({"num-examples": 5, "eval_loss": loss, "loss": loss})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def server(made: Made) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        arrays = {
            "w": Array(np.arange(6, dtype=np.float32).reshape(2, 3)),
            "b": Array(np.zeros(1, np.float32)),
        }
        made().start(grid, ArrayRecord(arrays), num_rounds=ROUNDS)

    return app


class Members:
    """The nodes' ClientApps, each with its context."""

    def __init__(self, mods: list[Any]) -> None:
        self._app = client(mods)
        self._contexts = {node: new_context(RUN, node, {}, {}) for node in NODES}

    def reply(self, kind: str, group: str, content: RecordDict, node: int) -> RecordDict:
        context = self._contexts[node]
        answer = self._app(run_message(kind, group, content, context, 1e9, 60.0), context)
        assert answer.has_content()
        return answer.content


class Plain(Grid):  # type: ignore[misc]
    """What Flower's own would do, in this process."""

    def __init__(self, members: Members) -> None:
        self._members = members

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        return Run.create_empty(RUN)

    def create_message(self, *args: Any, **named: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return NODES

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        replies = []
        for number, one in enumerate(messages):
            one.metadata.__dict__["_message_id"] = f"m{number}"
            meta = one.metadata
            content = self._members.reply(meta.message_type, meta.group_id, one.content, meta.dst_node_id)
            replies.append(Message(content, reply_to=one))
        return replies


def logged(made: Made, answer: Callable[[int, list[tuple[int, bytes]]], dict[int, bytes]]) -> Any:
    """Run the app over the logged grid; its calls and what it came to."""
    served = Served(server(made), new_context(RUN, 1, {}, {}), MAX_EXAMPLES, 1e6)
    calls: list[list[tuple[int, bytes]]] = []
    while True:
        ask = served.next()
        if ask.want == "end":
            assert ask.failed is None, ask.failed
            assert ask.refused == []
            return calls, ask.result
        assert ask.refused == []
        if ask.want == "nodes":
            served.give(NODES)
            continue
        calls.append(ask.messages)
        served.give(answer(len(calls) - 1, ask.messages))


@pytest.mark.parametrize(
    "name",
    # Flower's Bulyan takes seconds for fourteen numbers.
    [pytest.param(name, marks=pytest.mark.slow) if name == "Bulyan" else name for name in STRATEGIES],
)
def test_a_strategy_comes_to_the_same_over_any_grid(name: str) -> None:
    made, mods = STRATEGIES[name]
    identify(RUN, 1)
    plain: list[Any] = []

    def watching() -> Any:
        strategy = made()
        start = strategy.start
        strategy.start = lambda *args, **settings: plain.append(start(*args, **settings))
        return strategy

    seed(RUN)
    server(watching)(Plain(Members(mods)), new_context(RUN, 1, {}, {}))
    (expected,) = plain

    members = Members(mods)
    log: list[dict[int, bytes]] = []

    def live(number: int, messages: list[tuple[int, bytes]]) -> dict[int, bytes]:
        asked = [(node, unpack_request(data)) for node, data in messages]
        log.append(
            {
                place: pack_reply(members.reply(one.type, one.group, one.content, node))
                for place, (node, one) in enumerate(asked)
            }
        )
        return dict(log[-1])  # the grid lets go of what it has handed on

    calls, result = logged(made, live)
    assert len(calls) >= ROUNDS
    assert set(result) == {"w", "b"}
    for key, values in result.items():
        np.testing.assert_array_equal(values, expected.arrays[key].numpy())
    again, same = logged(made, lambda number, _: dict(log[number]))
    assert again == calls, "the app asks the same of the same nodes when it is run again on the log"
    for key, values in same.items():
        np.testing.assert_array_equal(values, result[key])
