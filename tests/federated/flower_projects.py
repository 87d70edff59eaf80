"""Small Flower projects for tests: a line through points, in Flower's current and in its older interface.

The `mood` of the run config, or of a message, says what the ClientApp does on train: `well`, or one of the
ways to go wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from federated.flower.app_runner import AppRunner, AppSettings
from federated.flower.project import FlowerProject, read_project

PYPROJECT = """
[project]
name = "line"
version = "1.0.0"
[tool.flwr.app]
publisher = "tests"
[tool.flwr.app.components]
serverapp = "{package}.server:app"
clientapp = "{package}.client:app"
[tool.flwr.app.config]
num-server-rounds = 4
mood = "well"
fit.rate = 0.25
"""

CLIENT = """
import os, sys, time
import numpy as np
from flwr.app import ArrayRecord, Array, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    print("a line that must not disturb the command")
    mood = message.content["config"].get("mood", context.run_config["mood"])
    if mood == "raises":
        raise RuntimeError("no data today")
    if mood == "exits":
        sys.exit("enough")
    if mood == "dies":
        os._exit(3)
    if mood == "hangs":
        time.sleep(600)
    config = message.content["config"]
    times = context.state["seen"]["times"] + 1 if "seen" in context.state else 1
    context.state["seen"] = MetricRecord({"times": times})
    slope = message.content["arrays"]["slope"].numpy()
    offset = message.content["arrays"]["offset"].numpy()
    part = context.node_config["partition-id"]
    slope = slope + np.float32(config["step"] * (part + 1))
    arrays = {"offset": Array(offset.astype(np.float64)), "slope": Array(slope)}
    if mood == "shape":
        arrays["slope"] = Array(slope[:-1])
    if mood == "names":
        arrays["extra"] = Array(slope)
    if mood == "nan":
        arrays["slope"] = Array(slope * np.nan)
    metrics = {"num-examples": 10 * (part + 1), "loss": 1.5, "round": config["server-round"],
               "times": times, "list": [1, 2], "bad": float("nan")}
    if mood == "weightless":
        del metrics["num-examples"]
    if mood == "negative":
        metrics["num-examples"] = -1
    if mood == "no-message":
        return {"arrays": arrays}
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)})
    return Message(content, reply_to=message)

@app.evaluate()
def evaluate(message, context):
    slope = message.content["arrays"]["slope"].numpy()
    metrics = MetricRecord({"num-examples": 7, "mean": float(slope.mean())})
    return Message(RecordDict({"m": metrics}), reply_to=message)
"""

SERVER = """
import numpy as np
from flwr.app import ArrayRecord, Array, ConfigRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()

@app.main()
def main(grid, context):
    slope, offset = np.arange(3, dtype=np.float32), np.array(0.5, np.float32)
    arrays = ArrayRecord({"slope": Array(slope), "offset": Array(offset)})
    FedAvg(min_available_nodes=40, min_train_nodes=40).start(
        grid, arrays, num_rounds=context.run_config["num-server-rounds"],
        train_config=ConfigRecord({"step": 0.5, "blob": b"\\x00\\x01", "sizes": [1, 2]}),
        evaluate_config=ConfigRecord({"deep": True}),
    )
    raise SystemExit("the app was not stopped at its first messages")
"""

STATEFUL_CLIENT = """
import numpy as np
from flwr.app import ArrayRecord, Array, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    times = context.state["seen"]["times"] + 1 if "seen" in context.state else 1
    context.state["seen"] = MetricRecord({"times": times})
    print(f"times {times}")
    part = context.node_config["partition-id"]
    slope = message.content["arrays"]["slope"].numpy() + np.float64(0.5 * (part + 1))
    arrays = {"slope": Array(slope), "offset": message.content["arrays"]["offset"]}
    metrics = MetricRecord({"num-examples": 10 * (part + 1)})
    return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)
"""

STATEFUL_SERVER = """
import numpy as np
from flwr.app import ArrayRecord, Array
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

class Momentum(FedAvg):
    def __init__(self, **named):
        super().__init__(**named)
        self.model = self.momentum = None

    def configure_train(self, server_round, arrays, config, grid):
        self.model = arrays["slope"].numpy()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None:
            return arrays, metrics
        step = arrays["slope"].numpy() - self.model
        self.momentum = step if self.momentum is None else 0.5 * self.momentum + step
        return ArrayRecord({"slope": Array(self.model + self.momentum), "offset": arrays["offset"]}), metrics

app = ServerApp()

@app.main()
def main(grid, context):
    arrays = ArrayRecord({"slope": Array(np.arange(3.0)), "offset": Array(np.array(0.5))})
    strategy = Momentum(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
    strategy.start(grid, arrays, num_rounds=context.run_config["num-server-rounds"])
"""

LEGACY_CLIENT = """
import numpy as np
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp

class Line(NumPyClient):
    def __init__(self, part):
        self.part = part

    def get_parameters(self, config):
        return [np.arange(3, dtype=np.float32), np.array(0.5, np.float32)]

    def fit(self, parameters, config):
        step = config.get("step", 0.5)
        trained = [parameters[0] + np.float32(step), parameters[1]]
        return trained, 10 * (self.part + 1), {"loss": 1.5, "round": config.get("server_round", 0)}

    def evaluate(self, parameters, config):
        return 0.25, 7, {"mean": float(parameters[0].mean())}

app = ClientApp(client_fn=lambda context: Line(context.node_config["partition-id"]).to_client())
"""

LEGACY_SERVER = """
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg

def server_fn(context):
    strategy = FedAvg(min_fit_clients=2, min_available_clients=2,
                      on_fit_config_fn=lambda number: {"step": 0.5, "server_round": number})
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=5))

app = ServerApp(server_fn=server_fn)
"""

TASK: dict[str, Any] = {
    "arrays": [
        {"name": "slope", "dtype": "<f4", "shape": [3]},
        {"name": "offset", "dtype": "<f4", "shape": []},
    ],
    "max_abs": 1000,
}


def project(folder: Path, client: str = CLIENT, server: str = SERVER, package: str = "line") -> FlowerProject:
    """A project written into `folder`, read as a user's is."""
    source = folder / package
    source.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT.format(package=package))
    (source / "__init__.py").write_text("")
    (source / "client.py").write_text(client)
    (source / "server.py").write_text(server)
    return read_project(folder)


def stateful_project(folder: Path, rounds: int = 3) -> FlowerProject:
    """One with a strategy of its own that keeps a momentum, and clients that count in their state."""
    project(folder, STATEFUL_CLIENT, STATEFUL_SERVER)
    file = folder / "pyproject.toml"
    file.write_text(file.read_text().replace("num-server-rounds = 4", f"num-server-rounds = {rounds}"))
    return read_project(folder)


def runner(found: FlowerProject, part: int = 0, mood: str = "well") -> AppRunner:
    """The project's app in a process of its own."""
    settings = AppSettings(run_id=5, node_id=6, node_config={"partition-id": part, "num-partitions": 2})
    return AppRunner(found.with_config({"mood": mood}), settings)
