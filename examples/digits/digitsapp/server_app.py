"""Averages what the nodes trained; says with which parameters and which learning rate they begin."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from digitsapp import task

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    model = task.new_model(int(config["hidden"]), int(config["seed"]))
    FedAvg().start(
        grid,
        ArrayRecord({name: Array(array) for name, array in zip(task.NAMES, model, strict=True)}),
        num_rounds=int(config["num-server-rounds"]),
        train_config=ConfigRecord({"learning-rate": float(config["learning-rate"])}),
    )
