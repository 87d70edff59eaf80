"""What the parts reach without each other: `python -m digitsapp.alone --parts 4 --epochs 50`.

Prints one JSON object: the accuracy on the common test set of a model trained on all images at once, and of
one trained on each part alone, each for so many epochs and with the settings of pyproject.toml.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path

from digitsapp import task


def main() -> None:
    settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    config = settings["tool"]["flwr"]["app"]["config"]
    parser = argparse.ArgumentParser(prog="python -m digitsapp.alone")
    parser.add_argument("--parts", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--alpha", type=float, default=config["alpha"])
    parser.add_argument("--seed", type=int, default=config["seed"])
    options = parser.parse_args()

    images, tests = task.load()
    parts = [
        task.part_of(images, part, options.parts, options.alpha, options.seed)
        for part in range(options.parts)
    ]

    def accuracy(data: task.Data) -> float:
        model = task.new_model(config["hidden"], options.seed)
        rate, batch = config["learning-rate"], config["batch-size"]
        model, _ = task.train(model, data, options.epochs, rate, batch, options.seed)
        return task.test(model, tests)[1]

    shown = {
        "central": accuracy(images),
        "alone": [accuracy(part) for part in parts],
        "examples": [len(part) for part in parts],
        "test_examples": len(tests),
    }
    print(json.dumps(shown))


if __name__ == "__main__":
    main()
