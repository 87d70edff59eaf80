"""The data, the model and its training; nothing in here knows of Flower.

The data are scikit-learn's 1,797 images of 8 × 8 pixels. A fifth of them is the common test set, the rest is
divided among the parts. The model is a network with one hidden layer, trained by plain mini-batch descent.
Everything is drawn from seeds, so a run can be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Model = list[Floats]
"""Weights and biases of the hidden layer, then of the output layer."""

PIXELS = 64
DIGITS = 10
BRIGHTEST = 16.0
TEST_SHARE = 5
"""One image in so many is a test image."""
LEAST = 10
"""Images that every part has at least."""
NAMES = ("hidden.weight", "hidden.bias", "output.weight", "output.bias")


@dataclass(frozen=True, slots=True)
class Data:
    """Images as rows of pixels between 0 and 1, and the digit that each shows."""

    images: Floats
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


@cache
def load() -> tuple[Data, Data]:
    """All training images and the test images, in an order that is always the same."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    images = (bunch.data[order] / BRIGHTEST).astype(np.float32)
    labels = bunch.target[order].astype(np.int64)
    tested = np.arange(len(labels)) % TEST_SHARE == 0
    return Data(images[~tested], labels[~tested]), Data(images[tested], labels[tested])


def part_of(data: Data, part: int, parts: int, alpha: float, seed: int) -> Data:
    """Part `part` of `parts`; disjoint, and together everything. See `alpha` in pyproject.toml."""
    if not 0 <= part < parts:
        raise ValueError(f"there is no part {part} of {parts}")
    if alpha <= 0:
        return Data(data.images[part::parts], data.labels[part::parts])
    chosen = _unequal(data.labels, parts, alpha, seed)[part]
    return Data(data.images[chosen], data.labels[chosen])


def new_model(hidden: int, seed: int) -> Model:
    """Fresh parameters, drawn after Glorot and Bengio (2010)."""
    rng = np.random.default_rng(seed)
    first = rng.uniform(-1, 1, (PIXELS, hidden)) * np.sqrt(6 / (PIXELS + hidden))
    second = rng.uniform(-1, 1, (hidden, DIGITS)) * np.sqrt(6 / (hidden + DIGITS))
    zeros = [np.zeros(hidden, np.float32), np.zeros(DIGITS, np.float32)]
    return [first.astype(np.float32), zeros[0], second.astype(np.float32), zeros[1]]


def train(model: Model, data: Data, epochs: int, rate: float, batch: int, seed: int) -> tuple[Model, float]:
    """The model after `epochs` passes over the data in batches, and the mean loss of the last pass."""
    rng = np.random.default_rng(seed)
    w1, b1, w2, b2 = (array.copy() for array in model)
    losses: list[float] = []
    for _ in range(epochs):
        losses = []
        order = rng.permutation(len(data))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            images, labels = data.images[rows], data.labels[rows]
            inner = np.maximum(images @ w1 + b1, 0)
            shares = _softmax(inner @ w2 + b2)
            picked = np.arange(len(rows)), labels
            losses.append(float(-np.log(shares[picked] + 1e-9).mean()))
            shares[picked] -= 1
            error = shares / len(rows)
            inward = (error @ w2.T) * (inner > 0)
            w2 -= rate * inner.T @ error
            b2 -= rate * error.sum(0)
            w1 -= rate * images.T @ inward
            b1 -= rate * inward.sum(0)
    return [w1, b1, w2, b2], float(np.mean(losses)) if losses else 0.0


def test(model: Model, data: Data) -> tuple[float, float]:
    """Loss and accuracy on `data`."""
    w1, b1, w2, b2 = model
    shares = _softmax(np.maximum(data.images @ w1 + b1, 0) @ w2 + b2)
    loss = -np.log(shares[np.arange(len(data)), data.labels] + 1e-9).mean()
    return float(loss), float((shares.argmax(1) == data.labels).mean())


def _softmax(values: Floats) -> Floats:
    powers = np.exp(values - values.max(1, keepdims=True))
    result: Floats = powers / powers.sum(1, keepdims=True)
    return result


def _unequal(labels: Labels, parts: int, alpha: float, seed: int) -> list[NDArray[np.intp]]:
    """For each part its images: each digit is shared out in proportions of their own.

    Drawn again until every part has `LEAST` images.
    """
    rng = np.random.default_rng([seed, parts])
    while True:
        shares: list[list[NDArray[np.intp]]] = [[] for _ in range(parts)]
        for digit in range(DIGITS):
            places = rng.permutation(np.flatnonzero(labels == digit))
            ends = (np.cumsum(rng.dirichlet([alpha] * parts))[:-1] * len(places)).astype(int)
            for share, piece in zip(shares, np.split(places, ends), strict=True):
                share.append(piece)
        whole = [np.sort(np.concatenate(share)) for share in shares]
        if min(len(part) for part in whole) >= LEAST:
            return whole
