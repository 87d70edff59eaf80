"""The internals of flwr that the bridge relies on are as it expects; its ServerApps are stopped and read.

Fails when a version of flwr in the pinned range does this another way.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from federated.flower import messages
from federated.flower.capture import FIRST_NODES, MAX_NODES, Captured, CapturingGrid, capture
from federated.flower.errors import AppFailed
from federated.flower.template import Template
from tests.federated import flower_projects


def load(folder: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    import importlib

    monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module(module).app


def test_a_message_is_made_from_metadata_and_answered() -> None:
    from flwr.app import Context, Message, Metadata, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    assert {"run_id", "message_id", "src_node_id", "dst_node_id", "reply_to_message_id"} < set(
        inspect.signature(Metadata).parameters
    )
    app = ClientApp()
    seen: list[Message] = []

    @app.train()
    def train(message: Message, context: Context) -> Message:
        seen.append(message)
        return Message(RecordDict({"m": MetricRecord({"num-examples": 3})}), reply_to=message)

    assert not messages.is_legacy(app)
    assert not messages.evaluates(app)
    context = messages.new_context(5, 6, {"partition-id": 1}, {"lr": 0.5})
    arrays = {"w": np.arange(6, dtype="<f4").reshape(2, 3), "b": np.array(2.0)}
    template = Template(train_records={"config": {"server-round": 1, "lr": 0.5}})
    message = messages.train_message(app, template, arrays, 9, context, now=1e9, ttl=60.0)
    reply = app(message, context)
    (got,) = seen
    assert got.metadata.message_type == "train"
    assert got.metadata.run_id == 5
    assert dict(got.content["config"]) == {"server-round": 9, "lr": 0.5}
    sent = {name: array.numpy() for name, array in got.content["arrays"].items()}
    assert list(sent) == ["w", "b"]
    assert sent["b"].shape == ()
    np.testing.assert_array_equal(sent["w"], arrays["w"])
    assert reply.metadata.reply_to_message_id == message.metadata.message_id
    with pytest.raises(AppFailed, match="0 ArrayRecords"):
        messages.trained(reply, template, [])


def test_a_serverapp_is_stopped_at_its_first_train_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for forty nodes and asks for as many; its config comes with every type that it has."""
    flower_projects.project(tmp_path, package="line_new")
    app = load(tmp_path, "line_new.server", monkeypatch)
    captured = capture(app, context({"num-server-rounds": 4}), lambda message, own: message)
    assert (captured.rounds, captured.strategy, captured.averages) == (4, "FedAvg", True)
    assert captured.template == Template(
        train_records={"config": {"step": 0.5, "blob": b"\x00\x01", "sizes": [1, 2], "server-round": 1}},
        evaluate_records={"config": {"deep": True, "server-round": 1}},
    )
    np.testing.assert_array_equal(captured.arrays["slope"], np.arange(3, dtype=np.float32))
    assert captured.arrays["offset"].shape == ()


def test_as_many_nodes_are_offered_as_an_app_waits_for() -> None:
    grid = CapturingGrid(5, lambda message: message)
    offered = [len(list(grid.get_node_ids())) for _ in range(12)]
    assert offered[0] == FIRST_NODES
    assert offered == sorted(offered)
    assert offered[-1] == MAX_NODES


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("pass", "ended without a train message"),
        ("raise RuntimeError('no model')", "failed: RuntimeError: no model"),
        ("raise SystemExit('out')", "failed: SystemExit: out"),
    ],
)
def test_a_serverapp_that_sends_nothing_is_said_so(body: str, reason: str) -> None:
    from flwr.serverapp import ServerApp

    app = ServerApp()

    @app.main()
    def main(grid: Any, context: Any) -> None:
        exec(body)

    with pytest.raises(AppFailed, match=reason):
        capture(app, context({}), lambda message, own: message)


def test_a_strategy_that_does_not_average_is_noticed() -> None:
    from flwr.app import ArrayRecord
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg, FedMedian, FedProx

    class Own(FedAvg):  # type: ignore[misc]
        pass

    for made, averages in ((FedMedian(), False), (Own(), False), (FedProx(proximal_mu=0.1), True)):
        captured = run_strategy(ServerApp(), made, ArrayRecord([np.zeros(2)]))
        assert (captured.strategy, captured.averages) == (type(made).__name__, averages)
    assert captured.template.train_records["config"]["proximal-mu"] == 0.1


def run_strategy(app: Any, strategy: Any, arrays: Any) -> Captured:
    @app.main()
    def main(grid: Any, context: Any) -> None:
        strategy.start(grid, arrays, num_rounds=2)

    return capture(app, context({}), lambda message, own: message)


def context(run_config: dict[str, Any]) -> Any:
    return messages.new_context(5, messages.SERVER_ID, {}, run_config)
