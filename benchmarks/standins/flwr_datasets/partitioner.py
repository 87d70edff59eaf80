"""How a dataset is divided: equally, or by label in proportions from a Dirichlet distribution."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from datasets import Dataset

LEAST = 10
"""Rows that each part has at least, as with flwr_datasets' partitioner."""


class Partitioner(Protocol):
    """Divides a dataset."""

    def parts(self, dataset: Dataset) -> list[list[int]]:
        """The numbers of the rows of each part."""
        ...


class IidPartitioner:
    """Parts of nearly equal size, in the order of the rows."""

    def __init__(self, num_partitions: int) -> None:
        self._count = num_partitions

    def parts(self, dataset: Dataset) -> list[list[int]]:
        return [part.tolist() for part in np.array_split(np.arange(len(dataset)), self._count)]


class DirichletPartitioner:
    """For each label proportions over the parts are drawn from a symmetric Dirichlet distribution
    (Hsu, Qi, Brown 2019); a part that has its share of all rows gets no more; drawn again until each
    part has `LEAST` rows.
    """

    def __init__(self, num_partitions: int, partition_by: str, alpha: float, seed: int) -> None:
        self._count = num_partitions
        self._by = partition_by
        self._alpha = alpha
        self._seed = seed

    def parts(self, dataset: Dataset) -> list[list[int]]:
        labels = np.asarray(dataset[self._by])
        random = np.random.default_rng(self._seed)
        while True:
            parts: list[list[int]] = [[] for _ in range(self._count)]
            for label in np.unique(labels):
                rows = random.permutation(np.flatnonzero(labels == label))
                shares = random.dirichlet(np.full(self._count, self._alpha))
                shares *= [len(part) < len(labels) / self._count for part in parts]
                ends = np.round(np.cumsum(shares / shares.sum()) * len(rows)).astype(int)
                for part, more in zip(parts, np.split(rows, ends[:-1]), strict=True):
                    part += more.tolist()
            if min(len(part) for part in parts) >= LEAST:
                return parts
