"""Trains on this node's own part of the digits, and tests on all test images."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from torchdigits import task

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    config = context.run_config
    part = int(context.node_config["partition-id"])
    images, _ = task.load()
    data = task.part_of(images, part, int(context.node_config["num-partitions"]))
    network = network_of(message)
    number = int(message.content["config"]["server-round"])
    loss = task.train(
        network,
        data,
        int(config["local-epochs"]),
        float(message.content["config"]["learning-rate"]),
        int(config["batch-size"]),
        int(config["seed"]) * 1_000_000 + number * 1_000 + part,
    )
    metrics = MetricRecord({"num-examples": len(data), "train-loss": loss})
    content = RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    _, tests = task.load()
    loss, accuracy = task.test(network_of(message), tests)
    metrics = MetricRecord({"num-examples": len(tests), "loss": loss, "accuracy": accuracy})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)


def network_of(message: Message) -> task.Network:
    """The network with the parameters of a message."""
    network = task.Network()
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return network
