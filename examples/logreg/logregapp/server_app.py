"""Asks the nodes for sums, so that all scale their measures alike; then averages what they trained."""

from __future__ import annotations

import time

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from logregapp import task

app = ServerApp()
LEAST = 2
"""Nodes, so that nobody's sums are shown alone."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    mean, scale = scales(grid)
    model = task.new_model()
    config = {"mean": mean.tolist(), "scale": scale.tolist()}
    result = FedAvg(min_available_nodes=LEAST).start(
        grid,
        ArrayRecord({"weights": Array(model.weights), "bias": Array(model.bias)}),
        num_rounds=int(context.run_config["num-server-rounds"]),
        train_config=ConfigRecord(dict(config)),
        evaluate_config=ConfigRecord(dict(config)),
    )
    last = max(result.evaluate_metrics_clientapp, default=None)
    if last is not None:
        print(f"accuracy {result.evaluate_metrics_clientapp[last]['accuracy']:.4f} after round {last}")


def scales(grid: Grid) -> tuple[task.Floats, task.Floats]:
    """Mean and standard deviation of each measure over all nodes that answer."""
    nodes = list(grid.get_node_ids())
    while len(nodes) < LEAST:
        time.sleep(1)
        nodes = list(grid.get_node_ids())
    messages = [Message(RecordDict(), node, "query.sums") for node in nodes]
    answers = [one.content for one in grid.send_and_receive(messages) if one.has_content()]
    if not answers:
        raise RuntimeError("no node said its sums")
    count = sum(int(one["metrics"]["num-examples"]) for one in answers)
    mean = np.sum([one["sums"]["sum"].numpy() for one in answers], 0) / count
    squares = np.sum([one["sums"]["squares"].numpy() for one in answers], 0) / count
    return mean, np.sqrt(np.maximum(squares - mean**2, 1e-12))
