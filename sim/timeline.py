"""Playing a scenario on a stage: the workload at its times, the faults at theirs, then rest, then the check.

Every step runs as a task of its own, so that queries meet the fault that happens meanwhile. All choices (who
authors, who asks, what) are drawn from streams of the seed by step, before the work is handed out, so that
what one step takes changes nothing in another. The promise of a run: whatever was acknowledged is looked for
at the end, on nodes that did not author it, and its proof is checked.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import trio

from chain.cid import Cid
from node.corpus import CorpusEntry
from node.embedding.embedder import Embedder
from sim.faults import SECOND_US, FaultPlan, Lying
from sim.measures import Oracle, StepMeasures, distribution
from sim.scenario import Add, Ask, Edit, Get, Scenario
from sim.stage import ActorDown, Rest, Stage
from sim.texts import Texts

POLL_S = 0.25
"""Between two looks at what is pending: the resolution of `sync_lag`, `fetch_lag` and `settle_s`."""
READ_WITHIN_S = 60.0
"""How long a reader asks for an entry that does not come."""
FIRST_EDIT = 1_000_000
"""Where the texts of edits begin among those of the seed: beyond all that a workload adds."""
CHECKS_AT_ONCE = 20
"""Entries fetched side by side when the run is checked."""


class View(Protocol):
    """Where a run shows how far it is."""

    def phase(self, title: str, total: int | None = None) -> None:
        """Something begins; `total` is how much there is to do."""
        ...

    def advance(self, by: int = 1) -> None:
        """So much more of it is done."""
        ...

    def note(self, text: str) -> None:
        """Something happened."""
        ...


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An entry that a node promised to keep."""

    id: Cid
    author: str
    entry: CorpusEntry
    at: float


@dataclass(slots=True)
class Measured:
    """What the timeline saw; all figures but those of the stage itself."""

    steps: dict[str, StepMeasures]
    run: StepMeasures = field(default_factory=StepMeasures)
    sync_lags: list[float] = field(default_factory=list)
    settle_s: float | None = None
    rest: Rest = field(default_factory=lambda: Rest(0, None))
    checked: int = 0
    retrieved: int = 0
    stale: int = 0
    copies_gone: int | None = None
    acknowledged: list[Acknowledged] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """The run's metrics by name; what was not measured is missing."""
        steps = {name: step.figures() for name, step in self.steps.items()}
        errors = sum(step.counts.get("retrieval_error_count", 0) for step in self.steps.values())
        failed = sum(step.counts.get("failed_count", 0) for step in self.steps.values())
        figures: dict[str, Any] = {
            "entry_created_count": len(self.acknowledged),
            "failed_count": failed,
            "pending": self.rest.pending,
            "checked_count": self.checked,
            "retrieved": self.retrieved / self.checked if self.checked else 1.0,
            "stale_count": self.stale,
            "retrieval_error_count": errors + self.checked - self.retrieved,
            "steps": steps,
        }
        if self.sync_lags:
            figures["sync_lag"] = distribution(self.sync_lags)
        if self.settle_s is not None:
            figures["settle_s"] = round(self.settle_s, 6)
        if self.rest.equal is not None:
            figures["replicas_equal"] = int(self.rest.equal)
        if self.copies_gone is not None:
            figures["copies_gone"] = self.copies_gone
        return figures


class Timeline:
    """One run of a scenario on a stage whose nodes have all joined."""

    def __init__(
        self,
        scenario: Scenario,
        stage: Stage,
        embedder: Embedder,
        view: View,
        plan: FaultPlan,
    ) -> None:
        self._scenario = scenario
        self._stage = stage
        self._view = view
        self._plan = plan
        self._liars = plan.liars()
        self._texts = Texts(scenario.seed, scenario.corpus)
        self._oracle = Oracle(embedder)
        self._edited: dict[Cid, str] = {}
        self._outstanding: dict[str, dict[Cid, float]] = {}
        self.measured = Measured({step.name: StepMeasures() for step in scenario.workload})

    async def play(self) -> Measured:
        """Steps and faults, then rest, then the check."""
        began = trio.current_time()
        sizes = [step.queries if isinstance(step, Ask) else step.entries for step in self._scenario.workload]
        self._view.phase("workload and faults", sum(sizes))
        async with trio.open_nursery() as watching:
            watching.start_soon(self._watch_sync)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._meet_fate, began, nursery)
                for name, lie in self._liars.items():
                    nursery.start_soon(self._turn, name, lie, began)
                first = 0
                for step in self._scenario.workload:
                    match step:
                        case Add():
                            nursery.start_soon(self._add, step, began + step.at_s, first)
                            first += step.entries
                        case Ask():
                            nursery.start_soon(self._ask, step, began + step.at_s)
                        case Edit():
                            nursery.start_soon(self._edit, step, began + step.at_s)
                        case Get():
                            nursery.start_soon(self._get, step, began + step.at_s)
            await self._settle()
            watching.cancel_scope.cancel()
        await self._check()
        return self.measured

    # What fate does.

    async def _meet_fate(self, began: float, leaving: trio.Nursery) -> None:
        for event in self._plan.host_events():
            await trio.sleep_until(began + event.at_us / SECOND_US)
            if event.up:
                await self._stage.start(event.node)
                self._view.note(f"{event.node} is back")
            elif event.in_order:
                leaving.start_soon(self._leave, event.node)
            else:
                await self._stage.kill(event.node)
                self._view.note(f"{event.node} is killed")
        await trio.sleep_until(began + self._plan.ends_us() / SECOND_US)

    async def _turn(self, name: str, lie: Lying, began: float) -> None:
        await trio.sleep_until(began + lie.span.start_us / SECOND_US)
        await self._stage.lie(name, lie.kind)
        self._view.note(f"{name} begins to lie: {lie.kind}")

    async def _leave(self, name: str) -> None:
        await self._stage.leave(name)
        self._view.note(f"{name} has left")

    # What users do.

    async def _add(self, step: Add, start: float, first: int) -> None:
        measures, rng = self.measured.steps[step.name], self._rng(step.name)
        authors = self._scenario.roster.select(step.by, f"workload/{step.name}")
        readers = [] if step.readers is None else self._scenario.roster.select(step.readers, step.name)
        batches = [
            [self._texts.entry(number) for number in range(low, min(low + step.batch, first + step.entries))]
            for low in range(first, first + step.entries, step.batch)
        ]
        measures.count("entry_created_count", 0)
        measures.count("failed_count", 0)

        async def author(number: int, batch: list[CorpusEntry], reader_draw: float) -> None:
            await trio.sleep_until(start + step.over_s * number / len(batches))
            name = self._live(authors, number, liars=True)
            kept = [] if name is None else await self._author(name, batch, measures)
            measures.count("entry_created_count", len(kept))
            if name not in self._liars:
                measures.count("failed_count", len(batch) - len(kept))
            self._view.advance(len(batch))
            others = [reader for reader in readers if reader != name]
            if kept and others:
                await self._follow(others[int(reader_draw * len(others))], kept[-1], measures)

        async with trio.open_nursery() as nursery:
            for number, batch in enumerate(batches):
                nursery.start_soon(author, number, batch, rng.random())

    async def _author(
        self, name: str, batch: list[CorpusEntry], measures: StepMeasures
    ) -> list[Acknowledged]:
        began = trio.current_time()
        try:
            ids = await self._stage.add(name, batch)
        except ActorDown:
            return []
        now = trio.current_time()
        measures.sample("acknowledge_ms", (now - began) * 1_000)
        if name in self._liars:
            return []  # what a liar acknowledges to itself is no promise to anybody
        kept = [
            Acknowledged(id_, name, entry, now)
            for id_, entry in zip(ids, batch, strict=True)
            if id_ is not None
        ]
        self._oracle.learn([one.id for one in kept], [one.entry.text for one in kept])
        self.measured.acknowledged += kept
        self._outstanding.setdefault(name, {}).update((one.id, now) for one in kept)
        return kept

    async def _follow(self, reader: str, wanted: Acknowledged, measures: StepMeasures) -> None:
        with trio.move_on_after(READ_WITHIN_S):
            while True:
                try:
                    if await self._stage.get(reader, wanted.id) is not None:
                        measures.sample("fetch_lag", trio.current_time() - wanted.at)
                        return
                except ActorDown:
                    pass  # it asks on when it is back
                await trio.sleep(POLL_S)

    async def _ask(self, step: Ask, start: float) -> None:
        measures, rng = self.measured.steps[step.name], self._rng(step.name)
        askers = self._scenario.roster.select(step.by, f"workload/{step.name}")
        for name in ("query_count", "failed_count", "recv_count", "unverified_hits", "shards_missed"):
            measures.count(name, 0)
        for name in ("deadlines_hit", "hits_refused"):
            measures.count(name, 0)

        async def ask(number: int, chosen: int, about: float, words: random.Random) -> None:
            await trio.sleep_until(start + step.over_s * number / step.queries)
            name, known = self._live(askers, chosen), self.measured.acknowledged
            self._view.advance()
            if name is None:
                measures.count("failed_count")
                return
            # before anything is acknowledged there is nothing to find, and still something to ask
            topic = known[int(about * len(known))].entry if known else self._texts.entry(number)
            text = self._texts.question(topic, words)
            best = self._oracle.scores(text)
            try:
                reply = await self._stage.ask(name, text, step.k)
            except ActorDown:
                measures.count("failed_count")
                return
            measures.count("query_count")
            measures.count("recv_count", len(reply.ids))
            measures.count("unverified_hits", reply.unverified)
            measures.count("shards_missed", reply.shards_missed)
            measures.count("deadlines_hit", int(reply.deadline_hit))
            measures.count("hits_refused", reply.hits_refused)
            measures.sample("query_ms", reply.ms)
            measures.recalls.append(self._oracle.recall(best, reply.ids, step.k))

        async with trio.open_nursery() as nursery:
            for number in range(step.queries):
                words = random.Random(rng.randbytes(16))
                nursery.start_soon(ask, number, rng.randrange(len(askers)), rng.random(), words)

    async def _edit(self, step: Edit, start: float) -> None:
        measures, rng = self.measured.steps[step.name], self._rng(step.name)
        editors = self._scenario.roster.select(step.by, f"workload/{step.name}")
        measures.count("edited_count", 0)
        measures.count("failed_count", 0)
        await trio.sleep_until(start)
        known = list(self.measured.acknowledged)
        wanted = rng.sample(known, min(step.entries, len(known)))
        measures.count("failed_count", step.entries - len(wanted))
        self._view.advance(step.entries - len(wanted))

        async def edit(number: int, entry: Cid, chosen: int) -> None:
            await trio.sleep_until(start + step.over_s * number / step.entries)
            name, text = self._live(editors, chosen), self._texts.entry(FIRST_EDIT + number).text
            self._view.advance()
            began, done = trio.current_time(), False
            if name is not None:
                try:
                    done = await self._stage.edit(name, entry, text)
                except ActorDown:
                    done = False
            measures.count("edited_count" if done else "failed_count")
            if done:
                measures.sample("edit_ms", (trio.current_time() - began) * 1_000)
                self._edited[entry] = text
                self._oracle.replace(entry, text)

        async with trio.open_nursery() as nursery:
            for number, one in enumerate(wanted):
                nursery.start_soon(edit, number, one.id, rng.randrange(len(editors)))

    async def _get(self, step: Get, start: float) -> None:
        measures, rng = self.measured.steps[step.name], self._rng(step.name)
        readers = self._scenario.roster.select(step.by, f"workload/{step.name}")
        measures.count("recv_count", 0)
        measures.count("retrieval_error_count", 0)

        async def get(number: int, chosen: int, which: float) -> None:
            await trio.sleep_until(start + step.over_s * number / step.entries)
            name, known = self._live(readers, chosen), self.measured.acknowledged
            self._view.advance()
            began, came = trio.current_time(), False
            if name is not None and known:
                try:
                    came = await self._stage.get(name, known[int(which * len(known))].id) is not None
                except ActorDown:
                    came = False
            measures.count("recv_count" if came else "retrieval_error_count")
            if came:
                measures.sample("fetch_ms", (trio.current_time() - began) * 1_000)

        async with trio.open_nursery() as nursery:
            for number in range(step.entries):
                nursery.start_soon(get, number, rng.randrange(len(readers)), rng.random())

    # What comes of it.

    async def _watch_sync(self) -> None:
        while True:
            await trio.sleep(POLL_S)
            for name in sorted(self._outstanding):
                waiting = self._outstanding[name]
                if not waiting or not self._stage.up(name):
                    continue
                try:
                    unplaced = await self._stage.unplaced(name)
                except ActorDown:
                    continue  # it was killed since it was found to be up
                if unplaced is None:
                    return
                now = trio.current_time()
                for id_ in [id_ for id_ in waiting if id_ not in unplaced]:
                    self.measured.sync_lags.append(now - waiting.pop(id_))

    async def _settle(self) -> None:
        self._view.phase("coming to rest")
        began = trio.current_time()
        with trio.move_on_after(self._scenario.finish.settle_within_s):
            while True:
                rest = await self._stage.rest()
                if rest.reached:
                    self.measured.settle_s = trio.current_time() - began
                    break
                # all nodes are looked into: the longer it takes, the less it matters when exactly it ends
                await trio.sleep(max(POLL_S, (trio.current_time() - began) / 20))
        self.measured.rest = await self._stage.rest()

    async def _check(self) -> None:
        known, rng = self.measured.acknowledged, self._rng("check")
        limit = self._scenario.finish.check
        chosen = known if limit == "all" or limit >= len(known) else rng.sample(known, limit)
        honest = [name for name in self._scenario.roster.everybody if name not in self._liars]
        live = [name for name in honest if self._stage.up(name)]
        self._view.phase("fetching what was acknowledged", len(chosen))
        slots = trio.CapacityLimiter(CHECKS_AT_ONCE)
        missing: list[Acknowledged] = []

        async def check(wanted: Acknowledged, reader: str) -> None:
            async with slots:
                try:
                    text = await self._stage.get(reader, wanted.id)
                except ActorDown:
                    text = None
            self.measured.checked += 1
            if text is None:
                missing.append(wanted)
            else:
                self.measured.retrieved += 1
                self.measured.stale += text != self._edited.get(wanted.id, wanted.entry.text)
            self._view.advance()

        async with trio.open_nursery() as nursery:
            for wanted in chosen:
                others = [name for name in live if name != wanted.author] or live
                if others:
                    nursery.start_soon(check, wanted, rng.choice(others))
        copies = [await self._stage.has_copy(wanted.id) for wanted in missing]
        if None not in copies:
            self.measured.copies_gone = copies.count(False)

    def _rng(self, name: str) -> random.Random:
        return random.Random(f"{self._scenario.seed}/workload/{name}")

    def _live(self, names: Sequence[str], number: int, *, liars: bool = False) -> str | None:
        """The `number`-th of these nodes, or the next one that runs; unless `liars`, an honest one."""
        for turn in range(len(names)):
            name = names[(number + turn) % len(names)]
            if self._stage.up(name) and (liars or name not in self._liars):
                return name
        return None
