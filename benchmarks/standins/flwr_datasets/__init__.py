"""Stands in for the package `flwr_datasets`: a dataset of `datasets` in parts, as the projects ask for it."""

from __future__ import annotations

from collections.abc import Mapping

from datasets import SEED, Dataset, load_dataset
from flwr_datasets.partitioner import Partitioner


class FederatedDataset:
    """The dataset of a name on the hub; a split is shuffled, and divided by the partitioner of its name."""

    def __init__(self, *, dataset: str, partitioners: Mapping[str, Partitioner]) -> None:
        self._name = dataset
        self._partitioners = partitioners
        self._parts: dict[str, list[list[int]]] = {}
        self._splits: dict[str, Dataset] = {}

    def load_partition(self, partition_id: int, split: str | None = None) -> Dataset:
        """One part of a split; of the only one that has a partitioner if none is named."""
        if split is None:
            (split,) = self._partitioners
        if split not in self._parts:
            self._splits[split] = load_dataset(self._name)[split].shuffle(SEED)
            self._parts[split] = self._partitioners[split].parts(self._splits[split])
        return self._splits[split].select(self._parts[split][partition_id])
