"""A member whose updates are compressed before its node gets them: a wrapper around it, for `take_part`.

It keeps what its last update did not say, for the next one (`federated.compression`), as long as the
command runs: a command that is started again begins without it, which costs int8 at most half a step once,
and a sparse form what had been waiting to be sent. An update that the node did not take leaves what was
kept as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chain.learning_task import Array, top_k_of
from federated.compression import quantise
from federated.flower.participation import LearningNode, Refused
from federated.update import UpdateError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class CompressingMember:
    """`node`, which is handed compressed updates."""

    def __init__(self, node: LearningNode, task: Mapping[str, Any]) -> None:
        self._node = node
        self._arrays = [Array(one["name"], one["dtype"], tuple(one["shape"])) for one in task["arrays"]]
        self._max_abs = int(task["max_abs"])
        self._max_norm: int | None = task.get("max_norm")
        self._top_k = top_k_of(task["compression"])
        self._base: bytes | None = None
        self._kept: list[NDArray[np.float64]] | None = None

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
