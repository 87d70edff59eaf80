"""Fixtures that several of the node's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.real_daemons import Daemons


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    """Real daemons on loopback, ended with the test."""
    started = Daemons(tmp_path)
    try:
        yield started
    finally:
        started.close()
