"""Averages what the nodes trained, with momentum, and tests each model that comes of it."""

from __future__ import annotations

from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvgM

from torchdigits import task

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    network = task.new_network(int(config["seed"]))
    _, tests = task.load()

    def tested(number: int, arrays: ArrayRecord) -> MetricRecord:
        network.load_state_dict(arrays.to_torch_state_dict())
        loss, accuracy = task.test(network, tests)
        print(f"round {number}: accuracy {accuracy:.4f}")
        return MetricRecord({"loss": loss, "accuracy": accuracy})

    FedAvgM(fraction_evaluate=0.0, server_learning_rate=1.0, server_momentum=0.5).start(
        grid,
        ArrayRecord(network.state_dict()),
        num_rounds=int(config["num-server-rounds"]),
        train_config=ConfigRecord({"learning-rate": float(config["learning-rate"])}),
        evaluate_fn=tested,
    )
