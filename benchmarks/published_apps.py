"""The parts of `benchmarks.published` that import a project: plain Flower's run of it, what a model is worth.

    python -m benchmarks.published_apps simulate PROJECT NODES [K=V …]
    python -m benchmarks.published_apps judge NAME FILE

Each in a process of its own, in whose working folder the project writes its files, with the stand-ins and the
project on `PYTHONPATH`. `simulate` runs both apps of the project in Flower's own simulation (Ray), as
`flwr run` does by default. `judge` prints one number as JSON: the figure of the project of that name
(`MEASURES`) for the model that its ServerApp has written to FILE.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from federated.flower.project import parse_pairs, read_project

PARTS = 4
CPUS_A_CLIENT = 1


def simulate(root: str, nodes: int, overrides: Sequence[str]) -> None:
    """Run the project in Flower's simulation; its ServerApp writes the model to the working folder.

    `flwr run` does this in a process that it starts; here it is the same function of flwr, without a
    SuperLink that outlives the run.
    """
    from flwr.app import Context, RecordDict
    from flwr.simulation.run_simulation import _run_simulation
    from flwr.supercore.constant import NOOP_FEDERATION_ID
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.supercore.telemetry import EventType

    changed = parse_pairs(overrides, "K=V")
    project = read_project(root).with_config(changed)
    run = Run.create_empty(run_id=1)
    run.primary_task_id = TaskIdentity.task_id = 1
    run.federation_id = NOOP_FEDERATION_ID
    run.override_config = changed
    TaskIdentity.run_id, TaskIdentity.node_id = run.run_id, 1
    _run_simulation(
        num_supernodes=nodes,
        exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
        client_app_attr=project.clientapp,
        server_app_attr=project.serverapp,
        server_app_context=Context(
            run_id=run.run_id, node_id=1, node_config={}, state=RecordDict(), run_config=dict(project.config)
        ),
        app_dir=str(project.root),
        run=run,
        is_app=True,
        backend_config={"client_resources": {"num_cpus": CPUS_A_CLIENT, "num_gpus": 0}, "init_args": {}},
    )


def value_of_numpy(file: Path) -> float:
    """The only number of the model of quickstart-numpy: it begins at 1 and gets a mean of draws a round."""
    with np.load(file) as arrays:
        return float(arrays["arr_0"].item())


def loss_of_sklearn(file: Path) -> float:
    """The log loss of quickstart-sklearn's model on the rows that each part keeps for tests, all together."""
    import joblib
    from sklearn.metrics import log_loss

    task: Any = importlib.import_module("sklearnexample.task")
    tests = [task.load_data(part, PARTS)[2:] for part in range(PARTS)]
    rows, labels = (np.concatenate(columns) for columns in zip(*tests, strict=True))
    return float(log_loss(labels, joblib.load(file).predict_proba(rows), labels=task.UNIQUE_LABELS))


def accuracy_of_pytorch(file: Path) -> float:
    """The accuracy of advanced-pytorch's model on the test split, which no node trains on."""
    import torch
    from torch.utils.data import DataLoader

    task: Any = importlib.import_module("pytorch_example.task")
    data = importlib.import_module("datasets").load_dataset("zalando-datasets/fashion_mnist")["test"]
    net = task.Net()
    net.load_state_dict(torch.load(file))
    loader = DataLoader(data.with_transform(task.apply_eval_transforms), batch_size=32)
    return float(task.test(net, loader, torch.device("cpu"))[1])


MEASURES: Mapping[str, Callable[[Path], float]] = {
    "quickstart-numpy": value_of_numpy,
    "quickstart-sklearn": loss_of_sklearn,
    "advanced-pytorch": accuracy_of_pytorch,
}


def main(arguments: Sequence[str]) -> None:
    match arguments:
        case ["simulate", root, nodes, *overrides]:
            simulate(root, int(nodes), overrides)
        case ["judge", name, file]:
            print(json.dumps(MEASURES[name](Path(file))))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
