"""A member whose updates are compressed before its node gets them: a wrapper around it, for `take_part`.

It keeps what its last update did not say, for the next one (`federated.compression`): of a sparse form, where
much waits to be sent, also on disk, so that a command that is started again goes on with it; of int8, at most
half a step, as long as the command runs. An update that the node did not take leaves what was kept as it was.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chain.learning_task import Array, top_k_of
from federated.compression import quantise
from federated.flower.client_state import write_whole
from federated.flower.participation import LearningNode, Refused
from federated.quanta import is_whole
from federated.update import UpdateError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIX = ".waiting"
"""Of the file with what waits to be sent, beside the app's state."""


class CompressingMember:
    """`node`, which is handed compressed updates."""

    def __init__(self, node: LearningNode, task: Mapping[str, Any], file: Path | None = None) -> None:
        """`file`: where a sparse form's error is kept. One of another length is said, and not used."""
        self._node = node
        self._arrays = [Array(one["name"], one["dtype"], tuple(one["shape"])) for one in task["arrays"]]
        self._max_abs = int(task["max_abs"])
        self._max_norm: int | None = task.get("max_norm")
        self._top_k = top_k_of(task["compression"])
        self._base: bytes | None = None
        self._file = None if self._top_k is None else file
        self._kept = self._found()

    def work(self, wait: int) -> dict[str, Any]:
        """What to do now."""
        return self._node.work(wait)

    def blob(self, cid: str) -> bytes:
        """The content of a blob: the model that a round begins with, or the result."""
        self._base = self._node.blob(cid)
        return self._base

    def hand_in(self, number: int, blob: bytes, examples: int, metrics: Mapping[str, float]) -> None:
        """Compress the update and hand it in. Raises `Refused`."""
        assert self._base is not None, "an update follows the model that it was trained from"
        try:
            data, kept = quantise(
                self._arrays, self._base, blob, self._kept, self._max_abs, self._max_norm, self._top_k
            )
        except UpdateError as error:
            raise Refused(f"the update does not match the task ({error.fault}): {error}") from error
        self._node.hand_in(number, data, examples, metrics)
        self._kept = kept
        if self._file is not None:
            write_whole(self._file, b"".join(one.astype("<f4").tobytes() for one in kept))

    def _found(self) -> list[NDArray[np.float64]] | None:
        if self._file is None or not self._file.exists():
            return None
        import numpy as np

        counts = [0 if is_whole(array) else array.count for array in self._arrays]
        data = self._file.read_bytes()
        values = np.frombuffer(data[: len(data) // 4 * 4], "<f4").astype(np.float64)
        if len(data) != 4 * sum(counts) or not np.isfinite(values).all():
            print(f"{self._file} is damaged, what had been waiting to be sent is lost", file=sys.stderr)
            return None
        return np.split(values, np.cumsum(counts)[:-1])
