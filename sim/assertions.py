"""What a scenario asserts: `METRIC OP NUMBER`, with the metrics that a run has.

Where Holochain's Wind Tunnel has a metric of the same meaning, ours has its name, so that results of both can
be laid side by side: `sync_lag`, `fetch_lag`, `entry_created_count`, `recv_count`, `retrieval_error_count`,
`open_connections`. A metric of one step of the workload is written `STEP.METRIC`; of a metric that is a
distribution one names `count`, `mean`, `p50`, `p95` or `max`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

STATISTICS = ("count", "mean", "p50", "p95", "max")
"""What is kept of a distribution."""

RUN_METRICS: Mapping[str, str] = {
    "ready_s": "seconds from the first start until all nodes have joined",
    "settle_s": "seconds from the last step or fault until nothing is pending and replicas are equal",
    "entry_created_count": "entries acknowledged, hence on their author's disk",
    "failed_count": "entries that were not acknowledged, and queries and fetches of nodes that died",
    "pending": "records that lack holders at the end, and nodes that have not found the network",
    "replicas_equal": "1 when the honest holders of every basis hold the same at the end, else 0",
    "checked_count": "acknowledged entries fetched at the end",
    "retrieved": "share of those that came with valid proof",
    "stale_count": "those that came with another text than the last acknowledged one",
    "retrieval_error_count": "those that did not come, and fetches that failed before",
    "copies_gone": "acknowledged entries of which no live node has a copy",
    "forgeries_held": "records on honest nodes' disks that are not as their author signed them",
    "liars_idle": "liars that found no occasion to lie",
    "honest_accused": "honest agents that some honest node holds a warrant against",
    "offenders_at_large": "liars who signed their lie, against whom some honest node holds no warrant",
    "bases_differing": "places at which honest holders differ in a byte at the end",
    "open_connections": "connections at the end, all nodes together, both ends counted",
    "messages": "messages that arrived",
    "message_bytes": "bytes of their bodies",
    "messages_lost": "messages that were lost",
    "virtual_s": "seconds of virtual time in all",
    "sync_lag": "distribution: seconds from an entry's acknowledgement until R holders have it",
}
STEP_METRICS: Mapping[str, Mapping[str, str]] = {
    "add": {
        "entry_created_count": "entries acknowledged",
        "failed_count": "entries that were not",
        "acknowledge_ms": "distribution: milliseconds until a batch is acknowledged",
        "fetch_lag": "distribution: seconds from an acknowledgement until a reader has the entry",
    },
    "ask": {
        "query_count": "queries answered",
        "failed_count": "queries whose asker died",
        "recv_count": "hits received",
        "recall": "share of the k best acknowledged entries that were found",
        "unverified_hits": "hits without a valid proof",
        "shards_missed": "shards that nobody answered for",
        "deadlines_hit": "queries that ran into their deadline",
        "hits_refused": "hits that the asker dropped",
        "query_ms": "distribution: milliseconds of a query",
    },
    "edit": {
        "edited_count": "edits acknowledged",
        "failed_count": "edits that were not",
        "edit_ms": "distribution: milliseconds until an edit is acknowledged",
    },
    "get": {
        "recv_count": "entries received with valid proof",
        "retrieval_error_count": "entries that were not",
        "fetch_ms": "distribution: milliseconds of a fetch",
    },
}
DISTRIBUTIONS = frozenset({"sync_lag", "fetch_lag", "acknowledge_ms", "query_ms", "fetch_ms", "edit_ms"})

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(r"\s*([a-z0-9_.-]+)\s*(==|>=|<=|>|<)\s*(-?[0-9]+(?:\.[0-9]+)?)\s*")


class AssertionTextError(ValueError):
    """An assertion that cannot be read, or names a metric that there is not."""


@dataclass(frozen=True, slots=True)
class Assertion:
    """`metric` is one of the run, `STEP.METRIC`, or either with a statistic behind it."""

    metric: str
    relation: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric} {self.relation} {self.bound:g}"

    def holds(self, value: float) -> bool:
        """Whether the metric's value fulfils it."""
        return _OPERATORS[self.relation](value, self.bound)

    def check_names(self, kinds: Mapping[str, str]) -> None:
        """Raise `AssertionTextError` unless there is such a metric; `kinds` gives what each step does."""
        head, _, rest = self.metric.partition(".")
        metrics: Mapping[str, str] = RUN_METRICS
        name, statistic = head, rest
        if head in kinds:
            metrics = STEP_METRICS[kinds[head]]
            name, _, statistic = rest.partition(".")
        if name not in metrics:
            where = f"a step that does {kinds[head]!r}" if head in kinds else "a run"
            raise AssertionTextError(
                f"{self.metric!r} is no metric of {where}; there are {', '.join(sorted(metrics))}"
            )
        if name in DISTRIBUTIONS and statistic not in STATISTICS:
            raise AssertionTextError(f"{self.metric!r} needs one of {', '.join(STATISTICS)} behind it")
        if name not in DISTRIBUTIONS and statistic:
            raise AssertionTextError(f"{self.metric!r} is one number and has no {statistic!r}")

    def value_in(self, metrics: Mapping[str, Any]) -> float | None:
        """The metric's value in a run's result; None when it was not measured."""
        value: Any = metrics
        head, _, rest = self.metric.partition(".")
        path = ["steps", head, *rest.split(".")] if head in metrics["steps"] else self.metric.split(".")
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        return None if value is None else float(value)


def parse_assertion(text: str) -> Assertion:
    """Read `METRIC OP NUMBER`; raises `AssertionTextError`."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise AssertionTextError(f"{text!r} is not of the form METRIC ==|>=|<=|>|< NUMBER")
    return Assertion(match[1], match[2], float(match[3]))
