"""A Flower project is read as Flower reads it, and what cannot be used is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from federated.flower.errors import ProjectError
from federated.flower.project import parse_pairs, read_project
from tests.federated import flower_projects


def test_components_and_the_flattened_config(tmp_path: Path) -> None:
    found = flower_projects.project(tmp_path)
    assert (found.name, found.clientapp, found.serverapp) == ("line", "line.client:app", "line.server:app")
    assert found.config == {"num-server-rounds": 4, "mood": "well", "fit.rate": 0.25}
    assert found.with_config({"fit.rate": 1.0}).config["fit.rate"] == 1.0
    with pytest.raises(ProjectError, match=r"has no 'rate'; its keys are: fit\.rate, mood"):
        found.with_config({"rate": 1})


def test_the_example_is_such_a_project() -> None:
    found = read_project(Path(__file__).parents[2] / "examples/digits")
    assert found.name == "digits"
    assert found.clientapp
    assert found.serverapp


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "cannot be read"),
        ("[tool", "is not TOML"),
        ("[project]\nname = 'x'", r"has no \[tool.flwr.app\]"),
        ("[tool.flwr.app.components]\nclientapp = 'a b:c'", "is not module:attribute"),
        ("[tool.flwr.app.components]\nclientapp = 'a'", "is not module:attribute"),
        ("[tool.flwr.app.components]\nclientapp = 3", "is not module:attribute"),
        ("[tool.flwr.app.config]\nx = [1]", "x is neither a number"),
        ("[tool.flwr.app.config]\nx = 2020-01-01", "x is neither a number"),
    ],
)
def test_what_is_no_project_is_one_clear_line(tmp_path: Path, text: str | None, reason: str) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ProjectError, match=reason) as caught:
        read_project(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    """An id that was given in the place of the folder, say."""
    with pytest.raises(ProjectError, match=r"there is no folder .*bagaqiera: give the folder of a Flower"):
        read_project(tmp_path / "bagaqiera")


def test_pairs_are_those_of_flowers_command_line(tmp_path: Path) -> None:
    given = ["partition-id=0 rate=0.5", "name='a b' on=true", 'other="x=y"']
    pairs = {"partition-id": 0, "rate": 0.5, "name": "a b", "on": True, "other": "x=y"}
    assert parse_pairs(given, "--node-config") == pairs
    for bad in ("x", "=1", "x=abc", "x=[1]", "x='", "x=1979-05-27", "x=1 y"):
        with pytest.raises(ProjectError, match="--node-config"):
            parse_pairs([bad], "--node-config")
    with pytest.raises(ProjectError) as caught:
        parse_pairs(["mode=fast"], "-c")
    shown = str(caught.value).rpartition(" as in ")[2].removeprefix("-c '").removesuffix("'")
    assert parse_pairs([shown.replace("key", "mode")], "-c") == {"mode": "text"}, "the line shows a right one"
    file = tmp_path / "other.toml"
    file.write_text("rate = 0.25\n[fit]\nrate = 1\n")
    assert parse_pairs(["rate=0.5", str(file)], "-c") == {"rate": 0.25, "fit.rate": 1}
    with pytest.raises(ProjectError, match=r"-c: none\.toml cannot be read"):
        parse_pairs([str(tmp_path / "none.toml")], "-c")
