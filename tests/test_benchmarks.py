"""What is measured one by one keeps together: results of benchmarks in parts."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.federated import PARTS, kept
from benchmarks.report import Target


def test_a_part_that_is_measured_again_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    targets = [Target(f"{part}: a figure", "≥ 1", 2.0, True) for part in PARTS]
    before = {
        "figures": {**{part: {"commit": part} for part in PARTS}, "elsewhere": {}},
        "targets": [target._asdict() for target in targets],
    }
    result = tmp_path / "federated.json"
    result.write_text(json.dumps(before), encoding="utf-8")

    figures, left = kept(result, ["overhead"])

    assert figures == {part: {"commit": part} for part in PARTS if part != "overhead"}
    assert left == [target for target in targets if not target.figure.startswith("overhead")]
    assert kept(result, list(PARTS)) == ({}, [])
    assert kept(tmp_path / "none.json", []) == ({}, [])
