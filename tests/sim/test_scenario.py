"""Scenario files: what is wrong with one is said in a line that names file, key and value."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from sim.faults import SECOND_US, Down, Lossy, Narrow, Partition, Slow, Span
from sim.scenario import Ask, ScenarioError, load_scenario, parse_scenario, scaled, shipped, with_seed

SMALL = """
about = "Three nodes."
assert = ["pending == 0", "load.acknowledge_ms.p95 <= 50", "sync_lag.max < 10"]
[topology]
nodes = 12
[groups]
left = "1/2"
[[workload]]
do = "add"
name = "load"
entries = 10
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("nodes = 12", "nodes = 0"), "topology.nodes: 0: "),
        (("nodes = 12", "nodes = true"), "topology.nodes: true: "),
        (("nodes = 12", "nodes = 12\nloss = 1.5"), "topology.loss: 1.5: "),
        (("nodes = 12", "nodes = 12\nloss = nan"), "topology.loss: NaN: "),
        (
            ("nodes = 12", "nodes = 12\nlatency_ms = [40, 2]"),
            r"topology.latency_ms: \[40, 2\] has its",
        ),
        (("nodes = 12", "nodes = 12\nlatency_ms = [2]"), "topology.latency_ms"),
        (("nodes = 12", "node = 12"), "topology.nodes: this key is missing"),
        (("nodes = 12", "nodes = 12\nfoo = 1"), "topology.foo: no such key"),
        (('about = "Three nodes."', 'about = ""'), 'about: "": '),
        (('about = "Three nodes."', ""), "about: this key is missing"),
        (('do = "add"', 'do = "sing"'), r"workload\[0\]: input tag 'sing' found using 'do' does not match"),
        (("entries = 10", 'entries = "10"'), r'workload\[0\].entries: "10": '),
        (("entries = 10", ""), r"workload\[0\].entries: this key is missing"),
        (("entries = 10", "entries = 10\nat_s = -1"), r"workload\[0\].at_s: -1: "),
        (("entries = 10", "entries = 10\nat_s = 2026-01-01"), r'workload\[0\].at_s: "2026-01-01": '),
        (("entries = 10", 'entries = 10\nfrom = "nobody"'), r"workload\[0\].from: 'nobody' is no selector"),
        (
            ("entries = 10", 'entries = 10\nreaders = "observers"'),
            r"readers: 'observers' is nobody",
        ),
        (('name = "load"', 'name = "pending"'), r"workload\[0\].name: 'pending' is the name of a metric"),
        (('name = "load"', 'name = "Load"'), r'workload\[0\].name: "Load": '),
        (('left = "1/2"', 'all = "1/2"'), "groups: the name 'all' means something already"),
        (('left = "1/2"', 'left = "3/2"'), "groups.left: '3/2' is more than all"),
        (("pending == 0", "pending = 0"), r"assert\[0\]: 'pending = 0' is not of the form"),
        (("pending == 0", "pendin == 0"), r"assert\[0\]: 'pendin' is no metric of a run; there are"),
        (("pending == 0", "load.recall == 1"), r"'load.recall' is no metric of a step that does 'add'"),
        (("pending == 0", "pending.p95 == 0"), "'pending.p95' is one number"),
        (("sync_lag.max", "sync_lag"), r"assert\[2\]: 'sync_lag' needs one of count, mean, p50, p95, max"),
        (("[topology]", "[topology"), "x.toml is no TOML: "),
        (('about = "Three nodes."', 'about = "Three nodes."\nassert = []'), "x.toml is no TOML: "),
    ],
)
def test_an_error_names_the_file_the_key_and_the_value(change: tuple[str, str], said: str) -> None:
    assert change[0] in SMALL
    with pytest.raises(ScenarioError, match=said) as caught:
        parse_scenario(SMALL.replace(*change, 1), "x.toml")
    assert str(caught.value).startswith("x.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ('kind = "flood"\nat_s = 1', r"faults\[0\]: input tag 'flood'"),
        ('kind = "loss"\nat_s = 1\nnodes = "all"\nloss = 2', r"faults\[0\].loss: 2: "),
        ('kind = "leave"\nat_s = 1\nnodes = "all"\nreturn_after_s = 5', r"faults\[0\].return_after_s: 5: "),
        ('kind = "crash"\nnodes = "all"', r"faults\[0\].at_s: this key is missing"),
        ('kind = "crash"\nat_s = 1\nnodes = "node-13"', r"faults\[0\].nodes: 'node-13' is no selector"),
        ('kind = "partition"\nat_s = 1\nfor_s = 5\nsides = []', r"faults\[0\].sides"),
        ('kind = "partition"\nat_s = 1\nfor_s = 0\nsides = ["left"]', r"faults\[0\].for_s: 0: "),
        (
            'kind = "slow"\nat_s = 1\nnodes = "all"\nadd_ms = 5\nfor_s = 1e9',
            r"faults\[0\].for_s: 1000000000.0: ",
        ),
    ],
)
def test_an_error_in_a_fault_is_named_too(fault: str, said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        parse_scenario(f"{SMALL}\n[[faults]]\n{fault}\n", "x.toml")


def test_two_steps_cannot_share_a_name() -> None:
    step = SMALL[SMALL.index("[[workload]]") :]
    with pytest.raises(ScenarioError, match=r"workload\[1\].name: 'load' is taken"):
        parse_scenario(SMALL + step, "x.toml")


def test_the_plan_says_what_the_file_says() -> None:
    faults = """
[[faults]]
kind = "partition"
at_s = 2
for_s = 3.5
sides = ["left", "node-1"]
[[faults]]
kind = "crash"
at_s = 1
nodes = ["node-2", "node-3"]
[[faults]]
kind = "leave"
at_s = 1
nodes = "node-6"
return_after_s = 20
[[faults]]
kind = "slow"
at_s = 0
nodes = "node-4"
add_ms = 1.5
[[faults]]
kind = "bandwidth"
at_s = 4
for_s = 1
nodes = "node-4"
bytes_per_s = 2000
[[faults]]
kind = "loss"
at_s = 4
nodes = "node-5"
loss = 0.5
"""
    scenario = parse_scenario(SMALL + faults, "x.toml")
    left = frozenset(scenario.roster.select("left", ""))
    assert len(left) == 6
    assert scenario.plan().faults == (
        Partition(Span(2 * SECOND_US, 5_500_000), (left, frozenset({"node-1"}))),
        Down(Span(SECOND_US, inf), "node-2"),
        Down(Span(SECOND_US, inf), "node-3"),
        Down(Span(SECOND_US, 21 * SECOND_US), "node-6", in_order=True),
        Slow(Span(0, inf), frozenset({"node-4"}), 1_500),
        Narrow(Span(4 * SECOND_US, 5 * SECOND_US), frozenset({"node-4"}), 2_000),
        Lossy(Span(4 * SECOND_US, inf), frozenset({"node-5"}), 0.5),
    )
    assert scenario.plan() == scenario.plan()
    assert with_seed(scenario, 2).plan() != scenario.plan()


def test_every_shipped_scenario_is_valid_and_is_found_by_its_name() -> None:
    scenarios = shipped()
    assert set(scenarios) >= {
        "cold-start",
        "flash-crowd",
        "third-killed",
        "partition-healed",
        "slow-peers",
        "churn",
    }
    for name, scenario in scenarios.items():
        assert scenario.assertions, name
        assert load_scenario(name) == scenario
        scenario.plan()


def test_a_scaled_scenario_has_its_share_of_nodes_and_work_and_the_same_times() -> None:
    whole = load_scenario("cold-start", 9)
    small = scaled(whole, 0.1)
    assert (small.topology.nodes, small.seed) == (5, 9)
    sizes = [step.queries if isinstance(step, Ask) else step.entries for step in small.workload]
    assert sizes == [100, 10]
    assert [step.at_s for step in small.workload] == [step.at_s for step in whole.workload]


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="no such file, and no scenario of this name"):
        load_scenario("no-such-scenario")
    binary = tmp_path / "x.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match="cannot be read"):
        load_scenario(str(binary))
    binary.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ScenarioError, match="larger than"):
        load_scenario(str(binary))
    binary.write_text(SMALL)
    assert load_scenario(str(binary), 4).seed == 4
