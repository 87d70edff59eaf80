"""Sums up and trains on this node's own part of the tumours, and tests on the common test set."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from logregapp import task

app = ClientApp()


@app.query("sums")
def sums(message: Message, context: Context) -> Message:
    """How many tumours there are, the sums of their measures and of the squares of these."""
    measures = part_of(context).measures
    arrays = {"sum": Array(measures.sum(0)), "squares": Array((measures**2).sum(0))}
    metrics = MetricRecord({"num-examples": len(measures)})
    return Message(RecordDict({"sums": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    config = context.run_config
    data = part_of(context).scaled(*scale_of(message))
    model = task.train(model_of(message), data, int(config["steps"]), float(config["regularisation"]))
    # The state is this node's alone, and lasts from round to round.
    rounds = int(context.state["rounds"]["count"]) + 1 if "rounds" in context.state else 1
    context.state["rounds"] = MetricRecord({"count": rounds})
    print(f"trained for the {rounds}. time")
    arrays = ArrayRecord({"weights": Array(model.weights), "bias": Array(model.bias)})
    metrics = MetricRecord({"num-examples": len(data), "rounds": rounds})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    _, tests = task.load()
    loss, accuracy = task.test(model_of(message), tests.scaled(*scale_of(message)))
    metrics = MetricRecord({"num-examples": len(tests), "loss": loss, "accuracy": accuracy})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)


def part_of(context: Context) -> task.Data:
    """This node's part of the data."""
    node = context.node_config
    return task.part_of(task.load()[0], int(node["partition-id"]), int(node["num-partitions"]))


def model_of(message: Message) -> task.Model:
    """The parameters in a message."""
    arrays = message.content["arrays"]
    return task.Model(arrays["weights"].numpy(), arrays["bias"].numpy())


def scale_of(message: Message) -> tuple[task.Floats, task.Floats]:
    """Means and scales of the measures, over all nodes."""
    config = message.content["config"]
    return np.array(config["mean"]), np.array(config["scale"])
