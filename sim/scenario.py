"""Scenarios: a network, what is done with it, what goes wrong, and what must hold, as a TOML file.

Everything is validated before anything runs, so that an error is one line that names the file, the key and
the value. Times are seconds from the moment when all nodes have joined. What a scenario says is data; the
same file is played in virtual time by `sim.simulated_stage` and on real daemons by `sim.real_stage`.
`docs/simulator.md` describes the format.
"""

from __future__ import annotations

import json
import random
import re
import tomllib
from importlib import resources
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sim.assertions import RUN_METRICS, Assertion, AssertionTextError, parse_assertion
from sim.errors import SimError
from sim.faults import (
    SECOND_US,
    Down,
    Fault,
    FaultPlan,
    Lie,
    Lossy,
    Lying,
    Narrow,
    Partition,
    Skewed,
    Slow,
    Span,
    churn,
)
from sim.selection import Roster, SelectionError, Selector, check_groups

MAX_FILE = 1 << 20
MAX_NODES = 1_000
MAX_ENTRIES = 100_000
MAX_SECONDS = 7 * 24 * 3600
MAX_STEPS = 100
MAX_PER_HOUR = 3600
MIN_LEAVE_S = 15
"""A node that leaves in order may need so long, and can only return once it has gone."""
MAX_SKEW_S = 7 * 24 * 3600
SMALLEST = {"nodes": 4, "entries": 8, "queries": 4}
"""What `scaled` goes no lower than, unless the scenario itself has less."""

Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS)]
Span_s = Annotated[float, Field(gt=0, le=MAX_SECONDS)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
Milliseconds = Annotated[float, Field(ge=0, le=60_000)]


class ScenarioError(SimError):
    """A scenario file that cannot be used; the message names file, key and value."""

    exit_code = 2


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Topology(_Table):
    """The nodes and what lies between them."""

    nodes: int = Field(ge=1, le=MAX_NODES)
    """Nodes that store; the first one founds the network."""
    observers: int = Field(default=0, ge=0, le=MAX_NODES)
    """Nodes with capacity 0: they author and ask, and hold nothing for others."""
    latency_ms: tuple[Milliseconds, Milliseconds] = (2, 40)
    """Bounds of the one-way delay; each pair of nodes has its own."""
    jitter_ms: Milliseconds = 2
    loss: float = Field(default=0.0, ge=0, le=1)
    bytes_per_s: int | None = Field(default=None, ge=1_000)
    """Of each link in each direction; no limit by default."""
    start_over_s: Seconds = 0
    """The nodes start evenly over so many seconds; by default all at once, after the founder."""
    ready_within_s: Span_s = 120


class _Step(_Table):
    name: Name
    at_s: Seconds = 0
    over_s: Seconds = 0
    """The step's work is spread evenly over so many seconds; by default it comes all at once."""
    by: Selector = Field(default="all", alias="from")


class Add(_Step):
    """Author entries."""

    do: Literal["add"]
    entries: int = Field(ge=1, le=MAX_ENTRIES)
    batch: int = Field(default=10, ge=1, le=500)
    readers: Selector | None = None
    """Who asks for the last entry of every batch until it arrives: the metric `fetch_lag`."""


class Ask(_Step):
    """Query by meaning."""

    do: Literal["ask"]
    queries: int = Field(ge=1, le=MAX_ENTRIES)
    k: int = Field(default=10, ge=1, le=100)


class Edit(_Step):
    """Give acknowledged entries another text."""

    do: Literal["edit"]
    entries: int = Field(ge=1, le=MAX_ENTRIES)


class Get(_Step):
    """Fetch acknowledged entries by id."""

    do: Literal["get"]
    entries: int = Field(ge=1, le=MAX_ENTRIES)


Step = Annotated[Add | Ask | Edit | Get, Field(discriminator="do")]


class _Fault(_Table):
    at_s: Seconds


class PartitionFault(_Fault):
    """No message passes between sides; whoever is on none of them is on one more."""

    kind: Literal["partition"]
    for_s: Span_s
    sides: tuple[Selector, ...] = Field(min_length=1, max_length=16)


class CrashFault(_Fault):
    """Nodes are killed, and return with their disks unless they do not."""

    kind: Literal["crash"]
    nodes: Selector
    return_after_s: Span_s | None = None


class LeaveFault(_Fault):
    """Nodes stop in order: they hand over first."""

    kind: Literal["leave"]
    nodes: Selector
    return_after_s: Annotated[float, Field(ge=MIN_LEAVE_S, le=MAX_SECONDS)] | None = None


class ChurnFault(_Fault):
    """Nodes come and go: exponential times up and down of these averages; all are up in the end.

    How often: either after `up_s` seconds on average, or such a share of the nodes in an hour.
    """

    kind: Literal["churn"]
    for_s: Span_s
    nodes: Selector
    up_s: Span_s | None = None
    per_hour: float | None = Field(default=None, gt=0, le=MAX_PER_HOUR)
    down_s: Span_s

    @property
    def mean_up_s(self) -> float:
        """Seconds that a node is up on average."""
        if self.up_s is not None:
            return self.up_s
        assert self.per_hour is not None
        return 3600 / self.per_hour


class SlowFault(_Fault):
    """Messages to or from nodes take longer."""

    kind: Literal["slow"]
    for_s: Span_s | None = None
    nodes: Selector
    add_ms: Milliseconds


class BandwidthFault(_Fault):
    """The links of nodes carry less."""

    kind: Literal["bandwidth"]
    for_s: Span_s | None = None
    nodes: Selector
    bytes_per_s: int = Field(ge=1_000)


class LossFault(_Fault):
    """More messages to or from nodes are lost."""

    kind: Literal["loss"]
    for_s: Span_s | None = None
    nodes: Selector
    loss: float = Field(gt=0, le=1)


class SkewFault(_Fault):
    """The wall clocks of nodes are wrong: so many seconds ahead, or behind where it is negative."""

    kind: Literal["skew"]
    for_s: Span_s | None = None
    nodes: Selector
    ahead_s: float = Field(ge=-MAX_SKEW_S, le=MAX_SKEW_S)


class LiarFault(_Fault):
    """Nodes begin to lie and go on to the end; the kinds are dealt to them in turn."""

    kind: Literal["liar"]
    nodes: Selector
    lies: tuple[Lie, ...] = Field(min_length=1, max_length=64)


FaultTable = Annotated[
    PartitionFault
    | CrashFault
    | LeaveFault
    | ChurnFault
    | SlowFault
    | BandwidthFault
    | LossFault
    | SkewFault
    | LiarFault,
    Field(discriminator="kind"),
]


class Finish(_Table):
    """How a run ends: it comes to rest, then entries are fetched and their proof is checked."""

    settle_within_s: Span_s = 120
    check: int | Literal["all"] = "all"
    """How many acknowledged entries are fetched, each by a node that did not author it."""


class Scenario(_Table):
    """A validated scenario."""

    about: str = Field(min_length=1, max_length=200)
    seed: int = Field(default=1, ge=0, le=1 << 32)
    corpus: Literal["generated", "stdlib"] = "generated"
    topology: Topology
    groups: dict[Name, Selector] = {}
    workload: tuple[Step, ...] = Field(default=(), max_length=MAX_STEPS)
    faults: tuple[FaultTable, ...] = Field(default=(), max_length=MAX_STEPS)
    finish: Finish = Finish()
    must: tuple[str, ...] = Field(default=(), alias="assert", max_length=MAX_STEPS)

    @property
    def roster(self) -> Roster:
        """The nodes by name."""
        return Roster(self.topology.nodes, self.topology.observers, self.seed, self.groups)

    @property
    def assertions(self) -> tuple[Assertion, ...]:
        """What must hold, parsed."""
        return tuple(map(parse_assertion, self.must))

    def plan(self) -> FaultPlan:
        """The faults as spans of time, all shares and chances drawn. O(faults · nodes)."""
        roster = self.roster
        faults: list[Fault] = []
        for number, fault in enumerate(self.faults):
            place, start = f"faults[{number}]", round(fault.at_s * SECOND_US)
            lasting = getattr(fault, "for_s", None)
            span = Span(start, inf if lasting is None else start + round(lasting * SECOND_US))
            match fault:
                case PartitionFault(sides=sides):
                    picked = [frozenset(roster.select(side, f"{place}/{n}")) for n, side in enumerate(sides)]
                    faults.append(Partition(span, tuple(picked)))
                case (
                    CrashFault(nodes=nodes, return_after_s=after)
                    | LeaveFault(nodes=nodes, return_after_s=after)
                ):
                    end = inf if after is None else start + round(after * SECOND_US)
                    leaves = isinstance(fault, LeaveFault)
                    faults += [Down(Span(start, end), name, leaves) for name in roster.select(nodes, place)]
                case ChurnFault(nodes=nodes, down_s=down_s):
                    rng = random.Random(f"{self.seed}/{place}/churn")
                    faults += churn(roster.select(nodes, place), span, fault.mean_up_s, down_s, rng)
                case SlowFault(nodes=nodes, add_ms=add_ms):
                    faults.append(Slow(span, frozenset(roster.select(nodes, place)), round(add_ms * 1_000)))
                case BandwidthFault(nodes=nodes, bytes_per_s=rate):
                    faults.append(Narrow(span, frozenset(roster.select(nodes, place)), rate))
                case LossFault(nodes=nodes, loss=loss):
                    faults.append(Lossy(span, frozenset(roster.select(nodes, place)), loss))
                case SkewFault(nodes=nodes, ahead_s=ahead_s):
                    skewed = frozenset(roster.select(nodes, place))
                    faults.append(Skewed(span, skewed, round(ahead_s * SECOND_US)))
                case LiarFault(nodes=nodes, lies=lies):
                    liars = roster.select(nodes, place)
                    faults += [Lying(span, name, lies[turn % len(lies)]) for turn, name in enumerate(liars)]
        return FaultPlan(tuple(faults))


def shipped() -> dict[str, Scenario]:
    """The scenarios that come with the package, by name."""
    folder = resources.files("sim").joinpath("scenarios")
    files = sorted(item.name for item in folder.iterdir() if item.name.endswith(".toml"))
    return {
        name.removesuffix(".toml"): parse_scenario(folder.joinpath(name).read_text("utf-8"), name)
        for name in files
    }


def load_scenario(name: str, seed: int | None = None) -> Scenario:
    """The shipped scenario of this name, or that of a file; `seed` replaces its own. `ScenarioError`."""
    path = Path(name)
    packaged = resources.files("sim").joinpath("scenarios", f"{name}.toml")
    if re.fullmatch(r"[a-z0-9-]+", name) and packaged.is_file():
        scenario = parse_scenario(packaged.read_text("utf-8"), f"{name}.toml")
    else:
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_FILE + 1)
            text = data.decode("utf-8")
        except FileNotFoundError:
            raise ScenarioError(
                f"{name}: no such file, and no scenario of this name; see roseforest sim list"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ScenarioError(f"{name} cannot be read: {error}") from error
        if len(data) > MAX_FILE:
            raise ScenarioError(f"{name} is larger than {MAX_FILE:,} bytes")
        scenario = parse_scenario(text, name)
    return scenario if seed is None else with_seed(scenario, seed)


def parse_scenario(text: str, file: str) -> Scenario:
    """A scenario from TOML; raises `ScenarioError` naming `file`, the key and the value."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{file} is no TOML: {error}") from error
    try:
        # as JSON, since TOML's arrays are tuples to us; what JSON has no form for is refused as a string
        scenario = Scenario.model_validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        raise ScenarioError(f"{file}: {_first_line(error)}") from error
    _check(scenario, file)
    return scenario


def with_seed(scenario: Scenario, seed: int) -> Scenario:
    """The same scenario with another seed."""
    return scenario.model_copy(update={"seed": seed})


def scaled(scenario: Scenario, factor: float) -> Scenario:
    """The scenario with so many times the nodes, entries and queries; times and shares stay as they are."""

    def times(count: int, smallest: int) -> int:
        return max(min(count, smallest), round(count * factor))

    topology = scenario.topology.model_copy(
        update={
            "nodes": times(scenario.topology.nodes, SMALLEST["nodes"]),
            "observers": times(scenario.topology.observers, 1),
        }
    )
    steps: list[Add | Ask | Edit | Get] = []
    for step in scenario.workload:
        if isinstance(step, Ask):
            steps.append(step.model_copy(update={"queries": times(step.queries, SMALLEST["queries"])}))
        else:
            steps.append(step.model_copy(update={"entries": times(step.entries, SMALLEST["entries"])}))
    smaller = scenario.model_copy(update={"topology": topology, "workload": tuple(steps)})
    _check(smaller, f"scaled by {factor:g}")
    return smaller


def _check(scenario: Scenario, file: str) -> None:
    """What depends on more than one key."""

    def refuse(key: str, why: object) -> ScenarioError:
        return ScenarioError(f"{file}: {key}: {why}")

    low, high = scenario.topology.latency_ms
    if low > high:
        raise refuse("topology.latency_ms", f"[{low:g}, {high:g}] has its bounds the wrong way round")
    try:
        check_groups(scenario.groups)
    except SelectionError as error:
        raise refuse("groups", error) from error
    roster = scenario.roster
    for name, selector in scenario.groups.items():
        _check_selector(roster, selector, f"groups.{name}", file)
    seen: set[str] = set()
    for number, step in enumerate(scenario.workload):
        key = f"workload[{number}]"
        if step.name in RUN_METRICS:
            raise refuse(f"{key}.name", f"{step.name!r} is the name of a metric")
        if step.name in seen:
            raise refuse(f"{key}.name", f"{step.name!r} is taken by an earlier step")
        seen.add(step.name)
        _check_selector(roster, step.by, f"{key}.from", file)
        if isinstance(step, Add) and step.readers is not None:
            _check_selector(roster, step.readers, f"{key}.readers", file)
    for number, fault in enumerate(scenario.faults):
        if isinstance(fault, ChurnFault) and (fault.up_s is None) == (fault.per_hour is None):
            raise refuse(f"faults[{number}]", "churn takes either up_s or per_hour")
        for field in ("nodes", "sides"):
            selectors = getattr(fault, field, None)
            if selectors is not None:
                for one in selectors if field == "sides" else (selectors,):
                    _check_selector(roster, one, f"faults[{number}].{field}", file)
    liars = scenario.plan().liars()
    if liars.keys() >= set(roster.everybody):
        raise refuse("faults", "every node is a liar; somebody has to be lied to")
    kinds = {step.name: step.do for step in scenario.workload}
    for number, text in enumerate(scenario.must):
        try:
            parse_assertion(text).check_names(kinds)
        except AssertionTextError as error:
            raise refuse(f"assert[{number}]", error) from error


def _check_selector(roster: Roster, selector: Selector, key: str, file: str) -> None:
    try:
        roster.select(selector, key)
    except SelectionError as error:
        raise ScenarioError(f"{file}: {key}: {error}") from error


def _first_line(error: ValidationError) -> str:
    """The first problem that pydantic found, as KEY: VALUE: what is wrong."""
    first = error.errors(include_url=False)[0]
    key = ""
    previous: int | str = ""
    for part in first["loc"]:
        if isinstance(part, int):
            key += f"[{part}]"
        elif isinstance(previous, int) and part in TAGS:
            pass  # which kind of table it is, not a key
        elif part not in INNER:
            key += f".{part}" if key else part
        previous = part
    if first["type"] == "missing":
        return f"{key}: this key is missing"
    if first["type"] == "extra_forbidden":
        return f"{key}: no such key"
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"].startswith("union_tag"):
        return f"{key}: {message[0].lower()}{message[1:]}"
    return f"{key}: {_short(first['input'])}: {message[0].lower()}{message[1:]}"


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


TAGS = {"add", "ask", "edit", "get", "partition", "crash", "leave", "churn", "slow", "bandwidth", "loss"}
TAGS |= {"skew", "liar"}
INNER = {"str", "int", "tuple[str, ...]", "literal['all']", "constrained-str", "function-after[]"}
"""What pydantic adds to a place to say which alternative of a type it tried."""
