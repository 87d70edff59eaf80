"""Stands in for the package `datasets`, as far as the projects of `benchmarks.published` use it.

Nothing is downloaded: what a project asks for by its name on the hub is served from the data that
scikit-learn ships, iris for iris, the digits, drawn at 28×28 pixels, for Fashion-MNIST. What a program says
to a `Dataset` here it may say to the package's, too; the other way round that holds for these few methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

TEST_SHARE = 0.2
SEED = 42
SIDE = 28
"""Pixels of an image of Fashion-MNIST, a side."""

Columns = Mapping[str, Sequence[Any]]
Transform = Callable[[dict[str, list[Any]]], dict[str, Any]]


class Dataset:
    """Columns of equal length by name; which form a row comes in is part of it."""

    def __init__(self, columns: Columns, transform: Transform | None = None, form: str = "") -> None:
        self.columns = columns
        self._transform = transform
        self._form = form

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: Any) -> Any:
        """A column by its name; a row, or several, as the format or the transform has them."""
        if isinstance(key, str):
            return self.columns[key]
        if self._form == "pandas":
            from pandas import DataFrame

            return DataFrame({name: np.asarray(column)[key] for name, column in self.columns.items()})
        if isinstance(key, slice):
            return self._rows(range(len(self))[key])
        return {name: column[0] for name, column in self._rows([key]).items()}

    def _rows(self, numbers: Sequence[int]) -> dict[str, Any]:
        rows = {name: [column[number] for number in numbers] for name, column in self.columns.items()}
        return rows if self._transform is None else self._transform(rows)

    def select(self, numbers: Sequence[int]) -> Dataset:
        """The rows of these numbers."""
        chosen = {name: [column[number] for number in numbers] for name, column in self.columns.items()}
        return Dataset(chosen, self._transform, self._form)

    def shuffle(self, seed: int) -> Dataset:
        """All rows in an order that the seed gives."""
        return self.select([int(number) for number in np.random.default_rng(seed).permutation(len(self))])

    def with_format(self, form: str) -> Dataset:
        """The same rows, given out as a DataFrame where `form` is "pandas"."""
        return Dataset(self.columns, None, form)

    def with_transform(self, transform: Transform) -> Dataset:
        """The same rows, each through `transform` whenever it is read."""
        return Dataset(self.columns, transform)

    def train_test_split(self, test_size: float, seed: int) -> dict[str, Dataset]:
        """All rows in two sets, drawn by the seed; `test_size`: the share of "test"."""
        shuffled, held = self.shuffle(seed), round(test_size * len(self))
        return {
            "train": shuffled.select(range(held, len(self))),
            "test": shuffled.select(range(held)),
        }


def load_dataset(name: str) -> dict[str, Dataset]:
    """What stands for the dataset of this name on the hub, by its splits. Raises `ValueError`."""
    if name not in _LOADERS:
        raise ValueError(f"nothing here stands for {name}; there are {', '.join(_LOADERS)}")
    return _LOADERS[name]()


def _iris() -> dict[str, Dataset]:
    from sklearn.datasets import load_iris

    data = load_iris()
    names = ("sepal_length", "sepal_width", "petal_length", "petal_width")
    columns = {name: data.data[:, number].tolist() for number, name in enumerate(names)}
    return {"train": Dataset({**columns, "species": data.target.tolist()})}


def _digits() -> dict[str, Dataset]:
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.round(data.images * (255 / 16)).astype(np.uint8)
    images = [Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for image in pixels]
    return Dataset({"image": images, "label": data.target.tolist()}).train_test_split(TEST_SHARE, SEED)


_LOADERS = {"hitorilabs/iris": _iris, "zalando-datasets/fashion_mnist": _digits}
