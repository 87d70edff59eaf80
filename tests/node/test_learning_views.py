"""What `fl list`, `fl status` and `fl log` say of a task: its topology, and the words of strangers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click
import pytest
from click.testing import CliRunner

from node.commands import learning_views
from node.commands.learning_views import _outcome, _topology, list_tasks, log

FORGED = "plain\nbafyrei finished joined\r\x1b[2J\u2028"
TASK = {"id": "b1", "name": FORGED, "state": "open", "joined": False, "own": False, "author": "12D3"}
EVENT = {"at_us": 0, "event": "end", "round": None, "agent": "12D3", "text": f"ends the run: {FORGED}"}


@dataclass(frozen=True)
class Daemon:
    """Answers as a daemon would."""

    answers: Mapping[str, Any]

    def get(self, path: str, after: int = 0, **_query: object) -> Any:
        return {"events": [], "next": after} if after else self.answers[path]


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


@pytest.mark.parametrize(
    ("command", "arguments", "lines"), [(list_tasks, [], 2), (log, ["b1"], 2)], ids=["list", "log"]
)
def test_what_strangers_say_begins_no_line(
    monkeypatch: pytest.MonkeyPatch, command: click.Command, arguments: list[str], lines: int
) -> None:
    listed = {**TASK, "mode": "peer-rounds", "round": 0, "rounds": 1, "members": [], "min_members": 2}
    logged = {"events": [EVENT], "next": 1}
    daemon = Daemon({"/v1/learning/tasks": {"tasks": [listed]}, "/v1/learning/tasks/b1/log": logged})
    monkeypatch.setattr(learning_views, "_client", lambda _home: daemon)
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert len(result.output.splitlines()) == lines
    assert all(line.isprintable() for line in result.output.splitlines())


def test_a_reason_that_is_no_code_stays_in_its_line() -> None:
    entry = {"contributors": [], "refused": [{"agent": "12D3", "reason": FORGED}]}
    assert _outcome(entry).isprintable()
