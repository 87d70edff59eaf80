"""The card of a model: what is counted from a task's history, and a stranger's text that stays text."""

from __future__ import annotations

from typing import Any

import numpy as np

from node.commands.model_card import card_of, markdown

TERMS: dict[str, Any] = {
    "id": "task",
    "name": "a | b\n# not a heading `x`",
    "author": "ann",
    "mode": "peer-rounds",
    "strategy": "fedavg",
    "topology": "all-to-all",
    "secure": None,
    "compression": "topk:5",
    "rounds": 2,
    "max_examples": 100,
    "max_abs": 10,
    "history": [
        {
            "round": number,
            "result": f"result-{number}",
            "parameters": f"model-{number}",
            "bytes": 2000,
            "contributors": [
                {"agent": "ann", "examples": 10, "metrics": {"loss": 1.0, "only-here": 3.0}, "bytes": 900},
                {
                    "agent": "bob",
                    "examples": 30,
                    "metrics": {"loss": 2.0, "gate-refused": number - 1.0},
                    "bytes": 1100,
                },
            ],
            "refused": [{"agent": "eve", "reason": "shape"}] if number == 1 else [],
        }
        for number in (1, 2)
    ],
}
RESULT = {"round": 2, "parameters": "model-2", "record": "result-2"}
ARRAYS = {"w": np.zeros((2, 3), "<f4"), "b": np.zeros((), "<f8")}


def test_a_card_counts_who_gave_what_and_was_refused() -> None:
    card = card_of(TERMS, RESULT, [], ARRAYS, {"model.npz": b"bytes"})
    counted = ("agent", "contributions", "examples", "bytes", "gate_refused")
    assert [tuple(one[name] for name in counted) for one in card["contributors"]] == [
        ("ann", 2, 20, 1800, []),
        ("bob", 2, 60, 2200, [2]),
        ("eve", 0, 0, 0, []),
    ]
    assert (card["bytes"], [one["bytes"] for one in card["chain"]]) == (4000, [2000, 2000])
    assert card["contributors"][2]["refused"] == ["round 1: shape"]
    assert card["metrics"] == [{"round": number, "mean": {"loss": 1.75}} for number in (1, 2)]
    assert card["parameters"]["count"] == 7
    assert [one["parameters"] for one in card["chain"]] == ["model-1", "model-2"]


def test_a_strangers_name_is_no_markup_of_the_card() -> None:
    text = markdown(card_of(TERMS, RESULT, [], ARRAYS, {}))
    assert text.startswith("# a \\| b \\# not a heading \\`x\\`\n")
    assert "\n# not" not in text
    assert "| compression | topk:5, 4,000 bytes of updates in all |" in text
    assert "Did not adopt the model that a round began with: `bob` (round 2)." in text
