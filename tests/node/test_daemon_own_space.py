"""A network in a space of its own: founded with a sample of it, joined, added to and asked by commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from node.commands.exit_codes import ExitCode
from tests.node.real_daemons import Daemons, eventually

DIM = 384
THEMES = 12


def cloud(count: int, seed: int) -> np.ndarray:
    """Vectors around a dozen themes, as those of any embedder lie."""
    themes = np.random.default_rng(0).normal(size=(THEMES, DIM))
    rng = np.random.default_rng(seed)
    return themes[np.arange(count) % THEMES] + 0.5 * rng.normal(size=(count, DIM))


@pytest.mark.slow
def test_a_network_is_founded_with_a_sample_and_asks_a_part_of_its_shards(daemons: Daemons) -> None:
    folder = daemons.folder
    np.save(folder / "sample.npy", cloud(1_100, 1).astype(np.float32))
    founding = ("network", "new", "my space", "--join-bits", "2", "--embedding", "e5-small", "--dims", "384")
    first = folder / "first"
    for arguments, code, said in (
        (("--sample", "none.npy"), ExitCode.REFUSED, "none.npy cannot be read"),
        (("--sample", str(folder / "sample.npy"), "--vectors", "3"), ExitCode.USAGE, "leave it out"),
    ):
        refused = daemons.command(first, *founding, *arguments)
        assert (refused.code, said in refused.err) == (code, True)
        assert not first.exists()
    new = daemons.command(first, *founding, "--sample", str(folder / "sample.npy"))
    assert new.code == 0, new
    assert ": 256 cells of 1100 vectors" in new.out
    founder = daemons.run(first)
    assert founder.get("/v1/status")["space"] == "caller-vectors:e5-small"
    member = daemons.run(daemons.home("second", "--join", founder.address))

    def saved(name: str, vector: np.ndarray) -> str:
        path: Path = folder / name
        path.write_text(json.dumps(vector.tolist()))
        return str(path)

    vectors = cloud(THEMES * 5, 2)
    for number, vector in enumerate(vectors[:-1]):
        founder.add(f"entry {number}", vector=vector.tolist())
    last = len(vectors) - 1
    added = daemons.command(first, "add", f"entry {last}", "--vector", saved("entry.json", vectors[last]))
    assert added.code == 0, added
    without = daemons.command(first, "add", "a text alone")
    assert (without.code, "caller's vectors" in without.complaint) == (ExitCode.REFUSED, True)

    question = saved("question.json", cloud(THEMES, 3)[last % THEMES])
    mine = {f"entry {number}" for number in range(len(vectors)) if number % THEMES == last % THEMES}

    def answer() -> dict[str, object] | None:
        asked = daemons.command(member.home, "query", "--vector", question, "-k", "5", "--json")
        assert asked.code == 0, asked
        found = {hit["text"] for hit in asked.value["hits"]}
        cost: dict[str, object] = asked.value["cost"]
        return cost if found == mine else None

    cost = eventually(answer, "the five entries of one theme")
    assert cost is not None
    assert 0 < int(str(cost["shards_contacted"])) < int(str(cost["shards_total"]))
