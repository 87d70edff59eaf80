"""A member whose updates are noised before they leave: a wrapper around its node, for `take_part`.

The app trains as always; what it made goes from its process to the user's command and no further. There the
difference from the round's model is clipped and noised (`noise`), the cost is written down durably, and only
then does the update go to the node. An update that is handed in twice is the same bytes; one that is made
anew, after a crash or a refusal, is spent anew, because the first may have been seen. Metrics of the app
(losses, accuracies) are about the data as much as the update is, so they stay here. The number of examples
goes out: the network needs it as a weight, and the account does not cover it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from chain.learning_task import Array
from dht.ports import Random
from federated.flower.participation import LearningNode, Refused
from federated.privacy.accounting import Account
from federated.privacy.errors import PrivacyError
from federated.privacy.keystream import KEY_SIZE
from federated.privacy.noise import privatise


class Purse(Protocol):
    """The account of this member and task, on disk."""

    def account(self) -> Account:
        """As it stands."""
        ...

    def spend(self) -> Account:
        """Spend one update, durably on return. Raises `BudgetSpent`, and then nothing was spent."""
        ...


class PrivateMember:
    """`node`, with noise on what it is handed. Raises `PrivacyError` where the task takes no such updates."""

    def __init__(self, node: LearningNode, task: Mapping[str, Any], purse: Purse, random: Random) -> None:
        self._node = node
        self._purse = purse
        self._random = random
        self._arrays = [Array(one["name"], one["dtype"], tuple(one["shape"])) for one in task["arrays"]]
        self._max_abs = int(task["max_abs"])
        self._max_norm: int | None = task.get("max_norm")
        self._base: bytes | None = None
        terms = purse.account().terms
        far = terms.expected_norm(self._arrays)
        if self._max_norm is not None and far > self._max_norm:
            raise PrivacyError(
                f"with a clip of {terms.clip:g} and noise of {terms.noise:g} an update lies about {far:.3g} "
                f"from the round's model, and the task's max_norm is {self._max_norm}: clip to less"
            )

    def work(self, wait: int) -> dict[str, Any]:
        """What to do now. Raises `BudgetSpent` before anything is trained that could not be handed in."""
        work = self._node.work(wait)
        if work["state"] == "train":
            self._purse.account().spend()
        return work

    def blob(self, cid: str) -> bytes:
        """The content of a blob: the model that a round begins with, or the result."""
        self._base = self._node.blob(cid)
        return self._base

    def hand_in(self, number: int, blob: bytes, examples: int, metrics: Mapping[str, float]) -> None:
        """Noise the update, spend its cost, hand it in without metrics. Raises `Refused`, `BudgetSpent`."""
        assert self._base is not None, "an update follows the model that it was trained from"
        # Counted under the terms that it is noised by, whatever another command makes of them meanwhile.
        terms = self._purse.spend().terms
        key = self._random.random_bytes(KEY_SIZE)
        try:
            noised = privatise(self._arrays, self._base, blob, terms, key, self._max_abs, self._max_norm)
        except PrivacyError as error:
            raise Refused(str(error)) from error
        self._node.hand_in(number, noised, examples, {})
