"""The page about knowledge: its examples are run as they stand, and the runner would notice a false one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.node.page_examples import Page, agrees, commands, matches
from tests.node.real_daemons import Daemons

PAGE = Path(__file__).parents[2] / "docs" / "knowledge.md"


@pytest.mark.slow
def test_every_example_of_the_page_is_true(
    daemons: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the files that the page makes belong
    page = Page(daemons, tmp_path, daemons.home("ann"))
    assert page.run(PAGE.read_text()) > 20


def test_a_false_example_would_be_noticed() -> None:
    assert matches("a … c\n…\nend", "a b c\none\ntwo\nend\n")
    assert matches("no output at all", "no output at all")
    for printed in ("a … c", "a b\n…", "end"):
        assert not matches(printed, "a b c\none\ntwo\nend\n"), printed
    assert agrees({"a": "…", "b": [{"c": 1}]}, {"a": [1, 2], "b": [{"c": 1, "d": 2}], "e": 3})
    for wanted in ({"a": 2}, {"b": "…"}, {"c": [1]}, {"c": [1, 2, 3]}, [1]):
        assert not agrees(wanted, {"a": 1, "c": [1, 2]}), wanted
    block = "$ roseforest add \\\n  x\n$ roseforest get y\nline\n\nmore\n"
    assert list(commands(block)) == [("roseforest add   x", ""), ("roseforest get y", "line\n\nmore")]
