"""A member with a privacy budget, as its user sees it: a real daemon, real `fl run` commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.commands.exit_codes import ExitCode
from tests.federated.flower_projects import project
from tests.node.real_daemons import Daemons


@pytest.mark.slow
def test_a_private_member_stops_at_its_limit_which_holds_until_its_user_raises_it(
    daemons: Daemons, tmp_path: Path
) -> None:
    pytest.importorskip("flwr")
    pytest.importorskip("dp_accounting")
    node = daemons.run(daemons.home("alone"))
    app = str(project(tmp_path / "app").root)
    terms = ("--rounds", "3", "--min-members", "1", "--max-members", "1", "--deadline", "60")
    task = daemons.command(node.home, "fl", "create", app, *terms, "--json").value["id"]
    member = ("fl", "run", app, task, "--partition-id", "0", "--num-partitions", "1", "--json")

    # Two rounds at a noise of 8 clips cost ε = 1.36 at δ = 1e-5, three 1.70.
    limited = ("--dp-clip", "0.5", "--dp-noise", "8", "--dp-epsilon", "1.5")
    done = daemons.command(node.home, *member, *limited)
    assert done.code == ExitCode.REFUSED, done
    assert "2 of 3 more rounds would bring this member to" in done.err
    assert "the limit of this member is 1.5" in done.err
    status = daemons.command(node.home, "fl", "status", task, "--json").value
    assert (status["joined"], status["round"]) == (False, 3), "in the third round"
    assert [one["metrics"] for entry in status["history"] for one in entry["contributors"]] == [{}, {}]

    again = daemons.command(node.home, *member)
    assert again.code == ExitCode.REFUSED, again
    (account,) = json.loads((node.home / "privacy.json").read_text())["tasks"].values()
    assert account["spent"] == [[8.0, 2]], "nothing more was spent"

    raised = daemons.command(node.home, *member, "--dp-epsilon", "2")
    assert raised.code == 0, raised
    found = raised.value["privacy"]
    assert (found["updates"], found["noise"], found["limit"]) == (3, 8.0, 2.0)
    assert 1.5 < found["epsilon"] < 2
    # Without noise the slope moves by .5 a round, to 2.5 on average.
    assert raised.value["evaluation"]["mean"] != pytest.approx(2.5, abs=0.01)
