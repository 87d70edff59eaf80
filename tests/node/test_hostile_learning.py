"""A little of each campaign of `tests/fuzz_learning.py`: hostile input against everything that learns."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.federated import hostile_parts, hostile_shares, hostile_updates
from tests.node import hostile_deliveries, hostile_requests


async def test_hostile_requests_get_a_documented_status_and_leave_nothing(tmp_path: Path) -> None:
    assert await hostile_requests.campaign(tmp_path, 1, lambda number: number < 250) == 250


@pytest.mark.slow
def test_hostile_messages_on_the_wire_change_no_round(tmp_path: Path) -> None:
    answers = hostile_deliveries.campaign(tmp_path, 1, lambda number: number < 50)
    assert sum(answers.values()) == 50
    assert min(answers[name] for name in ("read", "BAD_REQUEST")) >= 5


def test_hostile_shares_change_nothing_of_the_others_and_end_no_step() -> None:
    assert hostile_shares.campaign(1, lambda number: number < 60) == 60


@pytest.mark.slow
def test_hostile_parts_cost_who_says_them_and_nobody_else() -> None:
    number, charged = hostile_parts.campaign(1, lambda number: number < 6)
    assert number == 6
    assert charged >= 3


def test_a_hostile_update_is_refused_or_means_what_the_task_allows() -> None:
    number, passed = hostile_updates.campaign(1, lambda number: number < 800)
    assert number == 800
    assert 100 <= passed <= 600
