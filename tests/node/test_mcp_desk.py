"""What an agent is offered, and how its calls are judged before the daemon is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.home import Home
from node.mcp.calls import Source
from node.mcp.desk import MAX_LINE, MAX_WRITES, WRITE_SECONDS, Desk, Refused, UnknownTool
from node.mcp.tools import TOOLS, StatusIn, Tool, input_schema

VOTE = {"id": "x", "value": "up"}


def desk(allow_writes: bool, root: Path = Path("nowhere")) -> Desk:
    return Desk(Source(Home(root)), allow_writes, bytes)


def test_tools_that_write_are_neither_listed_nor_taken_unless_they_are_allowed() -> None:
    reading, writing = desk(False), desk(True)
    assert [tool.name for tool in reading.tools] == ["search", "get", "provenance", "status"]
    assert [tool.name for tool in writing.tools if tool.writes] == ["add", "edit", "vote", "cite"]
    with pytest.raises(Refused, match="--allow-writes"):
        reading.admit("vote", VOTE, 0.0)
    assert writing.admit("vote", VOTE, 0.0)
    with pytest.raises(UnknownTool, match="there is no tool 'purge'"):
        writing.admit("purge", {"id": "x"}, 0.0)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("search", {"question": ""}, "question: "),
        ("search", {"question": "x", "k": 21}, "k: "),
        ("search", {"question": "x", "K": 1}, "K: "),
        ("search", {"question": "x" * 5_000}, "question: "),
        ("get", {"id": "x", "max_chars": 10**9}, "max_chars: "),
        ("get", None, "id: "),
        ("add", {"text": "ü" * 40_000}, "text: Value error, 80000 bytes"),
        ("edit", {"id": "x", "text": "new"}, "if_version: "),
        ("cite", {"id": "x"}, "at least one of sources and relations"),
        ("cite", {"id": "x", "sources": [{"source": "s"}] * 17}, "sources: "),
        ("vote", {"id": "x", "value": "up", "confidence": 2}, "confidence: "),
    ],
)
def test_wrong_arguments_are_named_in_one_bounded_line(name: str, arguments: object, said: str) -> None:
    with pytest.raises(Refused) as refused:
        desk(True).admit(name, arguments, 0.0)  # type: ignore[arg-type]
    line = str(refused.value)
    assert line.startswith(f"{name}: ")
    assert said in line
    assert line.isprintable()
    assert len(line) <= MAX_LINE


def test_writes_are_counted_and_their_pace_is_bounded() -> None:
    writing = desk(True)
    for number in range(MAX_WRITES):
        writing.admit("vote", VOTE, float(number))
    with pytest.raises(Refused, match="ask the user"):
        writing.admit("vote", VOTE, WRITE_SECONDS - 0.5)
    writing.admit("get", {"id": "x"}, WRITE_SECONDS - 0.5)
    writing.admit("vote", VOTE, WRITE_SECONDS)
    with pytest.raises(Refused):
        writing.admit("vote", VOTE, WRITE_SECONDS)


def test_without_a_home_a_call_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="roseforest init"):
        desk(False, tmp_path / "none").perform(StatusIn())


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_a_schema_is_closed_and_every_text_and_list_in_it_is_bounded(tool: Tool) -> None:
    schema = input_schema(tool.shape)
    assert schema["type"] == "object"

    def check(part: object, path: str) -> None:
        if isinstance(part, list):
            for item in part:
                check(item, path)
        if not isinstance(part, dict):
            return
        if part.get("type") == "object":
            assert part["additionalProperties"] is False, path
        if part.get("type") == "array":
            assert "maxItems" in part, path
        if part.get("type") == "string":
            assert "maxLength" in part or "enum" in part, path
        if part.get("type") in ("number", "integer"):
            assert "maximum" in part, path
        for name, inner in part.items():
            check(inner, f"{path}.{name}")

    check(schema, tool.name)
    assert len(json.dumps(schema)) < 6_000
