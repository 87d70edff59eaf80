"""Routing by sketches, put together: others' blocks, their spot checks, the calibration, and the choice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dht.overlay.kademlia import Kademlia
from dht.ports import Clock, Random, RunBlocking
from dht.records.intake import Intake
from dht.records.layouts import Layouts
from dht.records.methods import RecordService
from dht.summaries.puller import Puller
from dht.summaries.service import SummaryService
from node.query.calibration import Calibration
from node.query.choosing import ShardChoice
from node.query.sketched_sample import Sampling
from node.query.spot_checks import SpotChecks
from node.sketch_rows import sketch_kind, sketches_in
from node.storage.derived_state import DerivedState
from sharding.tree import Prefix


class SketchedRouting:
    """What a node needs to choose shards by sketches. `puller.run` and `spots.run` are to be driven."""

    def __init__(
        self,
        kademlia: Kademlia,
        service: SummaryService,
        records: RecordService,
        intake: Intake,
        layouts: Layouts,
        derived: DerivedState,
        is_complete: Callable[[Prefix], bool],
        dim: int,
        replication: int,
        calibration: Path,
        clock: Clock,
        random: Random,
        run_blocking: RunBlocking,
    ) -> None:
        """`calibration`: the file in which what was measured is kept."""
        kind = sketch_kind(dim)
        self.puller = Puller(
            kademlia,
            service,
            kind,
            is_complete,
            replication,
            clock,
            random,
            run_blocking,
            lambda block: sketches_in(block, dim),
        )
        self.calibration = Calibration(derived, dim, calibration)
        self.choice = ShardChoice(layouts, self.puller, self.calibration, dim, is_complete, run_blocking)
        self.sampling = Sampling(layouts, self.puller, dim, run_blocking)
        self.spots = SpotChecks(
            kademlia.agent,
            self.puller,
            records,
            intake,
            layouts,
            self.calibration,
            dim,
            random,
            run_blocking,
        )

    def counters(self) -> dict[str, int]:
        """For `status` and `/metrics`."""
        counts, shelf = self.puller.shelf.counts, self.puller.shelf
        return {
            "summaries_held": len(shelf),
            "summary_rows_held": shelf.rows,
            "summary_bytes_held": shelf.rows * shelf.kind.row,
            "summary_questions_total": counts.asked,
            "summaries_same_total": counts.same,
            "summary_deltas_total": counts.deltas,
            "summaries_fetched_total": counts.wholes,
            "summary_bytes_fetched_total": counts.bytes,
            "summaries_dropped_total": counts.dropped,
            "summary_hits_total": counts.hits,
            "summary_misses_total": counts.misses,
            "summary_rows_compared_total": self.spots.compared,
            "summary_lies_total": self.spots.lies,
            "sketch_calibrations_total": self.calibration.measurements,
        }
