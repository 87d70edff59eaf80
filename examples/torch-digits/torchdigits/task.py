"""The data, the network and its training; nothing in here knows of Flower.

The data are scikit-learn's 1,797 images of 8 × 8 pixels. A fifth of them is the test set, the rest is
divided evenly among the parts. Everything is drawn from seeds, so a run can be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

SIDE = 8
BRIGHTEST = 16.0
TEST_SHARE = 5
"""One image in so many is a test image."""


class Network(nn.Module):
    """Two convolutions and a layer that tells ten digits apart; 6,090 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.last = nn.Linear(32 * (SIDE // 4) ** 2, 10)

    def forward(self, images: Tensor) -> Tensor:
        inner = torch.max_pool2d(torch.relu(self.first(images)), 2)
        inner = torch.max_pool2d(torch.relu(self.second(inner)), 2)
        scores: Tensor = self.last(inner.flatten(1))
        return scores


@dataclass(frozen=True, slots=True)
class Data:
    """Images of shape (n, 1, 8, 8) with values between 0 and 1, and the digit that each shows."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def load() -> tuple[Data, Data]:
    """All training images and the test images, in an order that is always the same."""
    bunch: Any = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(bunch.data / BRIGHTEST, dtype=torch.float32).reshape(-1, 1, SIDE, SIDE)[order]
    labels = torch.tensor(bunch.target)[order]
    tested = torch.arange(len(labels)) % TEST_SHARE == 0
    return Data(images[~tested], labels[~tested]), Data(images[tested], labels[tested])


def part_of(data: Data, part: int, parts: int) -> Data:
    """Part `part` of `parts`; disjoint, and together everything."""
    if not 0 <= part < parts:
        raise ValueError(f"there is no part {part} of {parts}")
    return Data(data.images[part::parts], data.labels[part::parts])


def new_network(seed: int) -> Network:
    """A network with fresh parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network()


def train(network: Network, data: Data, epochs: int, rate: float, batch: int, seed: int) -> float:
    """Train in place; the mean loss of the last pass."""
    chance = torch.Generator().manual_seed(seed)
    descent = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9)
    losses: list[float] = []
    for _ in range(epochs):
        losses = []
        for rows in torch.randperm(len(data), generator=chance).split(batch):
            descent.zero_grad()
            loss = nn.functional.cross_entropy(network(data.images[rows]), data.labels[rows])
            loss.backward()
            descent.step()
            losses.append(float(loss.detach()))
    return sum(losses) / len(losses) if losses else 0.0


def test(network: Network, data: Data) -> tuple[float, float]:
    """Loss and accuracy on `data`."""
    with torch.inference_mode():
        scores = network(data.images)
        loss = nn.functional.cross_entropy(scores, data.labels)
        right = (scores.argmax(1) == data.labels).float().mean()
    return float(loss), float(right)
