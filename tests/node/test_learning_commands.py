"""`fl` commands: whom a task waits for, which one the beginning of an id means, what does not end them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chain.cid import record_cid, to_text
from federated.flower.project import files_of, read_project
from node.api_client import ApiError
from node.commands.learning_views import ID_LENGTH, _progress, task_id
from node.commands.server_runs import note_on_files
from node.errors import InvalidInput, NotFound

IDS = sorted(to_text(record_cid(bytes([number]))) for number in range(3))


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"state": "open", "members": []}, "begins with 2 members, none so far"),
        ({"state": "open", "members": ["one"]}, "begins with 2 members, 1 so far"),
        ({"state": "unread", "members": []}, "its holders did not answer in time (fl status asks again)"),
        ({"state": "running", "mode": "peer-rounds", "round": 1, "rounds": 3}, "round 1 of 3"),
        ({"state": "running", "mode": "server-app", "round": 4}, "call 4"),
    ],
)
def test_a_task_that_has_not_begun_says_whom_it_waits_for(task: dict[str, Any], said: str) -> None:
    assert _progress({"min_members": 2, **task}) == said


def known(*ids: str) -> Any:
    """A daemon that knows these tasks, and may be asked for nothing else."""

    def get(path: str) -> dict[str, Any]:
        assert path == "/v1/learning/tasks"
        return {"tasks": [{"id": one} for one in ids]}

    return SimpleNamespace(get=get)


def test_the_beginning_of_an_id_is_enough_where_one_task_has_it() -> None:
    assert {len(one) for one in IDS} == {ID_LENGTH}
    shared = next(n for n in range(ID_LENGTH) if len({one[: n + 1] for one in IDS}) > 1)
    for one in IDS:
        assert task_id(known(*IDS), one[:-1]) == one
    with pytest.raises(InvalidInput, match=f"3 tasks have ids that begin with '{IDS[0][:shared]}'"):
        task_id(known(*IDS), IDS[0][:shared])
    with pytest.raises(NotFound, match="begins with 'hello': see roseforest fl list"):
        task_id(known(*IDS), "hello")
    with pytest.raises(NotFound, match="roseforest fl list"):
        task_id(known(), IDS[0][:20])


def test_a_whole_id_is_not_looked_up() -> None:
    assert task_id(SimpleNamespace(), IDS[0]) == IDS[0]  # type: ignore[arg-type]


def test_a_list_of_files_that_nobody_has_keeps_no_member_away(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.flwr.app]\npublisher = 'tests'\n")
    found = read_project(tmp_path)
    listed = "".join(f"{digest}  {file}\n" for file, digest in files_of(found.root)).encode()

    def fails(status: int) -> bytes:
        raise ApiError(status, "code", "the blob is not to be had")

    assert note_on_files(found, lambda: listed) is None
    assert "are not those of the task's author" in (note_on_files(found, lambda: b"other") or "")
    assert "nobody has the list" in (note_on_files(found, lambda: fails(404)) or "")
    with pytest.raises(ApiError):
        note_on_files(found, lambda: fails(401))
