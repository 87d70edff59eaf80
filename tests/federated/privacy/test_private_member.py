"""A member's wrapper: nothing leaves that was not noised and counted first."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest

pytest.importorskip("dp_accounting")

from dht.ports import Random
from federated.admission import examine
from federated.flower.participation import Refused
from federated.privacy.accounting import Account
from federated.privacy.errors import BudgetSpent, PrivacyError
from federated.privacy.noise import Terms, privatise
from federated.privacy.private_member import PrivateMember
from federated.update import Fault
from tests.federated.models import ARRAYS, TASK, model, task_of

BASE, UPDATE = model(1), model(2)
DESCRIBED: dict[str, Any] = {
    "arrays": [{"name": a.name, "dtype": a.dtype, "shape": list(a.shape)} for a in ARRAYS],
    "max_abs": TASK.max_abs,
}


class Story:
    """Node and purse in one: what happened, in order."""

    def __init__(self, account: Account) -> None:
        self.told: list[Any] = []
        self._account = account

    def account(self) -> Account:
        return self._account

    def spend(self) -> Account:
        self._account = self._account.spend()
        self.told.append("spent")
        return self._account

    def work(self, wait: int) -> dict[str, Any]:
        return {"state": "train", "round": 1}

    def blob(self, cid: str) -> bytes:
        return BASE

    def hand_in(self, number: int, blob: bytes, examples: int, metrics: Mapping[str, float]) -> None:
        self.told.append((blob, examples, dict(metrics)))
        raise Refused("the daemon is gone")


def member(story: Story, **more: Any) -> PrivateMember:
    fixed = Random(random.Random(0), lambda size: bytes([len(story.told)]) * size)
    return PrivateMember(story, DESCRIBED | more, story, fixed)


def test_what_leaves_is_noised_spent_before_and_has_no_metrics() -> None:
    story = Story(Account(Terms(2.0, 8.0), 1e-5, 2.5))
    private = member(story)
    private.blob("base")
    for _ in range(2):
        assert private.work(0)["state"] == "train"
        with pytest.raises(Refused):
            private.hand_in(1, UPDATE, 7, {"loss": 0.5})
    assert story.told[0] == story.told[2] == "spent"
    sent = [
        privatise(ARRAYS, BASE, UPDATE, Terms(2.0, 8.0), bytes([count]) * 32, TASK.max_abs)
        for count in (1, 3)
    ]
    assert story.told[1] == (sent[0], 7, {})
    assert story.told[3] == (sent[1], 7, {}), "made anew: noised anew, and counted anew"
    assert story.account().spent == ((8.0, 2),)


def test_a_spent_budget_ends_the_work_before_the_training() -> None:
    story = Story(Account(Terms(2.0, 8.0), 1e-5, 1.2, ((8.0, 2),)))
    private = member(story)
    with pytest.raises(BudgetSpent):
        private.work(0)
    private.blob("base")
    with pytest.raises(BudgetSpent):
        private.hand_in(1, UPDATE, 7, {})
    assert story.told == []


def test_noise_that_the_tasks_norm_bound_could_not_take_is_said_at_once() -> None:
    with pytest.raises(PrivacyError, match="clip to less"):
        member(Story(Account(Terms(2.0, 8.0))), max_norm=20)
    member(Story(Account(Terms(0.2, 8.0))), max_norm=20)


def test_what_leaves_keeps_to_the_tasks_norm_bound_whatever_the_noise() -> None:
    task, story = task_of(max_norm=5), Story(Account(Terms(0.2, 8.0)))
    private = member(story, max_norm=5)
    private.blob("base")
    for _ in range(20):
        with pytest.raises(Refused):
            private.hand_in(1, UPDATE, 7, {})
    assert {examine(task, BASE, sent[0]) for sent in story.told[1::2]} == {None}
    noised = [
        privatise(ARRAYS, BASE, UPDATE, Terms(0.2, 8.0), bytes([count]) * 32, TASK.max_abs)
        for count in range(1, 40, 2)
    ]
    assert Fault.NORM in {examine(task, BASE, one) for one in noised}, "else the bound was never met"
