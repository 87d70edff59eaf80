"""The scikit-learn example as a user runs it: a member that is killed goes on where it was."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.node.real_daemons import Daemon, Daemons, eventually
from tests.node.test_server_runs import acquainted, calls_of, finished, heard_of

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "logreg"
ROUNDS = 6
CALLS = 1 + 2 * ROUNDS
"""One for sums, and one to train and one to evaluate in each round."""


def test_the_example_comes_to_what_all_the_data_would_though_a_member_is_killed(
    daemons: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("flwr")
    pytest.importorskip("sklearn")
    founder = daemons.run(daemons.home("n0"))
    nodes = [founder, daemons.run(daemons.home("n1", "--join", founder.address))]
    eventually(partial(acquainted, nodes), "both to know each other")

    def begin(number: int, *more: str) -> Daemon:
        part = ("--partition-id", str(number), "--num-partitions", "2")
        return daemons.begin(nodes[number].home, "run", str(EXAMPLE), *more, *part, "--json", command="fl")

    new = ("--min-members", "2", "--deadline", "40", "--lease", "20", "--stream")
    config = ("--run-config", f"num-server-rounds={ROUNDS} regularisation=0.5")
    first = begin(0, *new, *config)
    named = re.compile(r"task (\S+): others")
    found = eventually(lambda: named.search(first.log.read_text()), "the task's id")
    assert found is not None
    task = found.group(1)
    eventually(partial(heard_of, nodes, task), "the task to be heard of")
    second = begin(1, task)
    eventually(lambda: "for the 2. time" in second.log.read_text(), "the second member to train twice")
    second.kill()
    again = begin(1, task)

    ends = [finished(first), finished(again)]
    assert [end["failed"] for end in ends] == [None, None]
    assert ends[0]["result"] == ends[1]["result"]
    log = calls_of(nodes[1], task)
    assert len(log) == CALLS
    assert [len(call["answers"]) for call in log] == [2] * CALLS, "nothing was lost"
    # Its state outlived the process: it goes on counting, and no message counts twice.
    counted = [int(number) for number in re.findall(r"for the (\d+)\. time", again.log.read_text())]
    assert counted[0] in (2, 3)
    assert counted == list(range(counted[0], ROUNDS + 1))
    assert not list((nodes[1].home / "app-states").iterdir()), "when all is over nothing is kept"

    streamed = first.log.read_text()
    assert "Fraction: train" in streamed, "Flower's own log of its strategy"
    said = re.search(rf"accuracy (\S+) after round {ROUNDS}\n", streamed)
    assert said is not None
    target = tmp_path / "result.npz"
    assert daemons.command(nodes[1].home, "fl", "result", task, "-o", str(target)).code == 0
    monkeypatch.syspath_prepend(str(EXAMPLE))
    try:
        from logregapp import task as app

        train, tests = app.load()
        mean, scale = train.measures.mean(0), train.measures.std(0)
        arrays = np.load(target)
        together = app.Model(arrays["weights"], arrays["bias"])
        _, accuracy = app.test(together, tests.scaled(mean, scale))
        _, central = app.test(
            app.train(app.new_model(), train.scaled(mean, scale), 100, 0.5), tests.scaled(mean, scale)
        )
    finally:
        for name in [name for name in sys.modules if name.startswith("logregapp")]:
            del sys.modules[name]
    assert float(said.group(1)) == pytest.approx(accuracy, abs=1e-4)
    assert accuracy >= central - 0.03
    assert accuracy >= 0.94
