"""What `fl status` says of a task's topology."""

from __future__ import annotations

import pytest

from node.commands.learning_views import _topology


@pytest.mark.parametrize(
    ("topology", "roster", "fanout", "said"),
    [
        ("all-to-all", 4, None, "all-to-all"),
        ("groups", 0, None, "groups, from 17 members on"),
        ("groups", 16, None, "groups, from 17 members on"),
        ("groups", 33, None, "groups, 3 in this round"),
        ("gossip", 40, 8, "gossip, each combines its model with those of 8 others"),
    ],
)
def test_status_says_into_how_many_groups_a_roster_is_drawn(
    topology: str, roster: int, fanout: int | None, said: str
) -> None:
    assert _topology({"topology": topology, "roster": ["agent"] * roster, "fanout": fanout}) == said
