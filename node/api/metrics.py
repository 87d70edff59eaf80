"""`/metrics`: the node's counters and gauges in Prometheus' text format.

Gauges and the node's own counters are read from `Status` at the moment of a scrape, so nothing has to be
kept in step; only what the HTTP interface itself does is counted here. Labels come from fixed sets (route
templates, methods, statuses), never from what a caller sends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from node.models import Status

_NAME = re.compile(r"[^a-zA-Z0-9_]")
METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"})
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""Seconds."""


class Metrics:
    """One registry per application, so that several nodes can live in one process."""

    def __init__(self, status: Callable[[], Status], rss_bytes: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "roseforest_http_requests",
            "HTTP requests answered",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "roseforest_http_seconds",
            "Seconds to answer an HTTP request",
            ["route"],
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_NodeCollector(status, rss_bytes))

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(method if method in METHODS else "other", route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def exposition(self) -> bytes:
        """The text format, version 0.0.4."""
        return generate_latest(self._registry)


class _NodeCollector(Collector):
    def __init__(self, status: Callable[[], Status], rss_bytes: Callable[[], int]) -> None:
        self._status = status
        self._rss_bytes = rss_bytes

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        gauges = (
            ("peers", "Peers in the routing table", status.peers),
            ("records", "Records of the node's own chain", status.records),
            ("held_records", "Records held for the network", status.held),
            ("pending_records", "Own records without enough copies yet", status.pending),
            ("unconfirmed_records", "Own records short of receipts from holders", status.unconfirmed),
            ("shards_held", "Shards held", status.shards_held),
            ("under_replicated", "Bases held whose nearest nodes lack a copy", status.under_replicated),
            ("repairing", "Bases of which copies are being sent", status.repairing),
            ("store_bytes", "Bytes of disk that held records take up", status.store_bytes),
            ("full", "1 when the node has no room for more", int(status.full)),
            ("reachable", "1 when peers can reach this node", int(status.reachable)),
            ("read_only", "1 when the node takes no writes", int(status.read_only is not None)),
            ("uptime_seconds", "Seconds since the node started", status.uptime_s),
            ("rss_bytes", "Resident memory of the process", self._rss_bytes()),
        )
        for name, description, value in gauges:
            yield GaugeMetricFamily(f"roseforest_{name}", description, value=value)
        for name, value in sorted(status.health.items()):
            yield GaugeMetricFamily(f"roseforest_health_{name}", f"What peers are told: {name}", value=value)
        for name, count in sorted(status.counters.items()):
            clean = _NAME.sub("_", name)
            yield CounterMetricFamily(
                f"roseforest_{clean}", f"Events counted by the node: {name}", value=count
            )

    def describe(self) -> Iterator[Metric]:
        return iter(())
