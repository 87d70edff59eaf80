"""What this node believes about shards, kept in one file: it is small, changes rarely, and is fetched again
where it is lost.

The file is the canonical array [proofs, finished]: the proofs in the order of their prefixes, and the former
shards at which nothing is left, each as [length, bits, generation, since]. It is replaced in one step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from chain import canonical
from chain.errors import ChainError
from node.durable_files import read_bounded, write_atomically
from node.errors import HomeError
from sharding.errors import TreeError
from sharding.growth import MAX_DECISIONS
from sharding.shard_statement import MAX_PROOF
from sharding.tree import Prefix

FILE = "shards"
"""Beside the chain."""
MAX_FILE = MAX_DECISIONS * (MAX_PROOF + 64)

log = logging.getLogger(f"roseforest.{__name__}")


class ShardFile:
    """A `dht.shards.decisions.Memory` in a file. Blocking."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> tuple[list[bytes], list[tuple[Prefix, int]]]:
        """What was kept; nothing where there is no file, or a damaged one."""
        if not self._path.exists():
            return [], []
        try:
            data = read_bounded(self._path, MAX_FILE, "delete it: the network has what it held")
            return _read(canonical.decode(data, MAX_FILE))
        except (HomeError, ChainError, TreeError) as error:
            log.warning("what was known about shards is asked for again: %s", error)
            return [], []

    def save(self, proofs: Sequence[bytes], finished: Sequence[tuple[Prefix, int]]) -> None:
        """Keep these; what cannot be written is said, and asked for again after the next start."""
        rows = [[one.length, one.bits, one.generation, since] for one, since in finished]
        try:
            write_atomically(self._path, canonical.encode([list(proofs), rows]))
        except (HomeError, OSError) as error:
            log.warning("what is known about shards is not kept: %s", error)


def _read(value: object) -> tuple[list[bytes], list[tuple[Prefix, int]]]:
    match value:
        case [list(proofs), list(rows)] if all(type(one) is bytes for one in proofs):
            finished: list[tuple[Prefix, int]] = []
            for row in rows:
                match row:
                    case [length, bits, generation, int(since)]:
                        finished.append((Prefix(bits, length, generation), since))
                    case _:
                        raise TreeError("a former shard is kept as [length, bits, generation, since]")
            return proofs, finished
    raise TreeError("shards are kept as [proofs, finished]")
