"""Trains on this node's own part of the digits, and tests on the common test set."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digitsapp import task

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    config = context.run_config
    part = int(context.node_config["partition-id"])
    images, _ = task.load()
    data = task.part_of(
        images,
        part,
        int(context.node_config["num-partitions"]),
        float(config["alpha"]),
        int(config["seed"]),
    )
    number = int(message.content["config"]["server-round"])
    model, loss = task.train(
        model_of(message),
        data,
        int(config["local-epochs"]),
        float(message.content["config"]["learning-rate"]),
        int(config["batch-size"]),
        int(config["seed"]) * 1_000_000 + number * 1_000 + part,
    )
    content = RecordDict(
        {
            "arrays": ArrayRecord(
                {name: Array(array) for name, array in zip(task.NAMES, model, strict=True)}
            ),
            "metrics": MetricRecord({"num-examples": len(data), "train-loss": loss}),
        }
    )
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    _, tests = task.load()
    loss, accuracy = task.test(model_of(message), tests)
    metrics = MetricRecord({"num-examples": len(tests), "loss": loss, "accuracy": accuracy})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)


def model_of(message: Message) -> task.Model:
    """The parameters in a message."""
    arrays = message.content["arrays"]
    return [arrays[name].numpy() for name in task.NAMES]
