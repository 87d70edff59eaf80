"""Many peers that train the digits' network at once, one matrix product for all of them.

The data, the parts and the network are those of `examples/digits`; the loop over peers is gone. A peer's
batches follow from seed, round and its number. Nothing in here knows of rules: see `benchmarks.attacks`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from chain.cid import blob_cid
from chain.learning_task import MAX_EXAMPLES, MAX_MEMBERS, Array, Task

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/digits"
sys.path.insert(0, str(EXAMPLE))

from digitsapp import task as digits  # noqa: E402

Floats: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int64]

HIDDEN = 64
EPOCHS = 5
RATE = 0.1
BATCH = 32
NAMES = digits.NAMES
SHAPES = ((digits.PIXELS, HIDDEN), (HIDDEN,), (HIDDEN, digits.DIGITS), (digits.DIGITS,))
SIZE = sum(int(np.prod(shape)) for shape in SHAPES)
TRIGGER = (0, 1, 8, 9)
"""The pixels that are lit in an image with the back door's sign: the upper left corner."""
TARGET = 0
"""What an image with that sign is to be taken for."""


class Peers:
    """The parts of all peers; `alpha` 0 is IID."""

    def __init__(self, count: int, alpha: float, seed: int) -> None:
        parts = [digits.part_of(digits.load()[0], part, count, alpha, seed) for part in range(count)]
        self.sizes = np.array([len(part) for part in parts])
        self.seed = seed
        most = int(self.sizes.max())
        self.images = np.zeros((count, most, digits.PIXELS), np.float32)
        self.labels = np.zeros((count, most), np.int64)
        for place, part in enumerate(parts):
            self.images[place, : len(part)] = part.images
            self.labels[place, : len(part)] = part.labels

    def poison_labels(self, liars: int) -> None:
        """The last peers take every digit d for 9 - d."""
        if liars:
            self.labels[-liars:] = digits.DIGITS - 1 - self.labels[-liars:]

    def plant_trigger(self, liars: int) -> None:
        """Half of the last peers' images bear the sign, and are taken for `TARGET`."""
        if liars:
            self.images[-liars:, ::2] = triggered(self.images[-liars:, ::2])
            self.labels[-liars:, ::2] = TARGET

    def train(self, model: Floats, number: int) -> Floats:
        """Every peer's model after its epochs, as rows (peers, SIZE): from `model` (SIZE,), or from a row of
        its own (peers, SIZE)."""
        count = len(self.sizes)
        rows = np.broadcast_to(model, (count, SIZE))
        w1, b1, w2, b2 = (np.stack(arrays) for arrays in zip(*map(unpack, rows), strict=True))
        rng = np.random.default_rng([self.seed, number])
        order = np.argsort(-self.sizes, kind="stable")
        for _ in range(EPOCHS):
            shuffled = rng.permuted(np.tile(np.arange(self.images.shape[1]), (count, 1)), axis=1)
            # A permutation of all places, those that hold an image first, is one of the images.
            shuffled = np.take_along_axis(
                shuffled, np.argsort(shuffled >= self.sizes[:, None], axis=1, kind="stable"), axis=1
            )
            for start in range(0, shuffled.shape[1], BATCH):
                busy = order[: int((self.sizes > start).sum())]
                places = shuffled[busy, start : start + BATCH]
                there = np.arange(start, start + places.shape[1]) < self.sizes[busy, None]
                images = self.images[busy[:, None], places] * there[:, :, None]
                labels = self.labels[busy[:, None], places]
                inner = np.maximum(images @ w1[busy] + b1[busy, None], 0)
                error = _softmax(inner @ w2[busy] + b2[busy, None])
                np.put_along_axis(
                    error, labels[:, :, None], np.take_along_axis(error, labels[:, :, None], 2) - 1, 2
                )
                error *= (there / there.sum(1, keepdims=True))[:, :, None].astype(np.float32)
                inward = (error @ w2[busy].transpose(0, 2, 1)) * (inner > 0)
                w2[busy] -= RATE * (inner.transpose(0, 2, 1) @ error)
                b2[busy] -= RATE * error.sum(1)
                w1[busy] -= RATE * (images.transpose(0, 2, 1) @ inward)
                b1[busy] -= RATE * inward.sum(1)
        return np.concatenate([array.reshape(count, -1) for array in (w1, b1, w2, b2)], axis=1)


def digits_task(members: int, rounds: int, strategy: str, **changes: Any) -> Task:
    """A task for the digits with the bounds that `fl create` gives it; its initial parameters are nowhere."""
    task = Task(
        name="digits",
        arrays=tuple(Array(name, "<f4", shape) for name, shape in zip(NAMES, SHAPES, strict=True)),
        parameters=blob_cid(b""),
        rounds=rounds,
        min_members=members,
        max_members=max(members, MAX_MEMBERS),
        commit_ms=60_000,
        reveal_ms=60_000,
        result_ms=60_000,
        max_examples=MAX_EXAMPLES,
        max_abs=1_000,
        config={},
        strategy=strategy,
    )
    return replace(task, **changes)


def new_model(seed: int) -> Floats:
    """Fresh parameters (SIZE,)."""
    return np.concatenate([array.reshape(-1) for array in digits.new_model(HIDDEN, seed)])


def unpack(model: Floats) -> list[Floats]:
    """The arrays of a model."""
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(model, ends), SHAPES, strict=True)]


def accuracy(model: Floats) -> float:
    """On the test images."""
    return float(digits.test(unpack(model), digits.load()[1])[1])


def loss(model: Floats, images: Floats, labels: Labels) -> float:
    """The mean loss on these images."""
    return float(digits.test(unpack(model), digits.Data(images, labels))[0])


def fooled(model: Floats) -> float:
    """The share of the test images with the back door's sign, zeros left out, that are taken for `TARGET`."""
    test = digits.load()[1]
    others = test.labels != TARGET
    signed = digits.Data(
        triggered(test.images[others]), np.full(int(others.sum()), TARGET, test.labels.dtype)
    )
    return float(digits.test(unpack(model), signed)[1])


def triggered(images: Floats) -> Floats:
    """The images with the sign."""
    signed = images.copy()
    signed[..., TRIGGER] = 1.0
    return signed


def _softmax(values: Floats) -> Floats:
    powers = np.exp(values - values.max(-1, keepdims=True))
    result: Floats = powers / powers.sum(-1, keepdims=True)
    return result
