"""docs/security.md claims nothing without a test: those that it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", PAGE)))


@pytest.mark.parametrize("named", NAMED)
def test_a_test_that_the_page_names_exists(named: str) -> None:
    path, _, function = named.partition("::")
    source = (ROOT / path).read_text()
    assert not function or re.search(rf"^(async )?def {function}\(", source, re.MULTILINE)


def test_every_row_of_the_tables_of_attacks_names_a_test() -> None:
    assert len(NAMED) > 25
    for heading in ("## In one table", "## Denial of service"):
        section = PAGE.split(heading)[1].split("\n## ")[0]
        rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
        assert rows
        for row in rows:
            assert "`tests/" in row, row
