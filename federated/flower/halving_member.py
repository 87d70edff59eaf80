"""A member whose models are sent in half the bytes (`federated.half`): a wrapper, for `take_part`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chain.learning_task import Array
from federated.flower.participation import LearningNode, Refused
from federated.half import halved
from federated.update import UpdateError


class HalvingMember:
    """`node`, which is handed models in 16 bits an element."""

    def __init__(self, node: LearningNode, task: Mapping[str, Any]) -> None:
        self._node = node
        self._arrays = [Array(one["name"], one["dtype"], tuple(one["shape"])) for one in task["arrays"]]
        self._max_abs = int(task["max_abs"])

    def work(self, wait: int) -> dict[str, Any]:
        """What to do now."""
        return self._node.work(wait)

    def blob(self, cid: str) -> bytes:
        """The content of a blob: the model that a round begins with, or the result."""
        return self._node.blob(cid)

    def hand_in(self, number: int, blob: bytes, examples: int, metrics: Mapping[str, float]) -> None:
        """Halve the model and hand it in. Raises `Refused`."""
        try:
            data = halved(self._arrays, blob, self._max_abs)
        except UpdateError as error:
            raise Refused(f"the update does not match the task ({error.fault}): {error}") from error
        self._node.hand_in(number, data, examples, metrics)
